//! This node as a client: what it wants and announces itself, and the servers that it dialled.
//!
//! Owns the way of the node's own subscriptions and announcements to every server, and the care
//! that servers in the field need (protocol section 9). Must never send a server the same SUBSCRIBE
//! twice on one connection, unless a barrier lies between.
//!
//! The node's route client is a peer like any other, but without a socket: what it is to hear is a
//! stream of frames, in which an UNSUBSCRIBE says "forget this VNI".

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::SocketAddr;

use super::Shard;
use super::dump::{DUMP_TIME_MAX, DumpWatch};
use super::mail::Request;
use super::peer::{Ending, Peer, Role};
use crate::rib::Group;
use crate::session::{Direction, Session, SessionConfig, State, Verdict};
use crate::types::{Action, GroupClass, PeerClass, PeerId, Route, ShardId, SourceId, Time, Vni};
use crate::wire::{Hello, Message, Update};

/// What a server that does not reassemble is sent before it has to answer a KEEPALIVE, in bytes.
const GATE_BYTES: usize = 16 << 10;

/// What this node wants and announces, when it is used as a library.
#[derive(Default)]
pub(super) struct Node {
    client: Option<PeerId>,
    uplinks: BTreeSet<PeerId>,
    subscribed: BTreeSet<Vni>,
    /// What the node announces.
    announced: BTreeMap<Vni, BTreeSet<Route>>,
    former_run: FormerRun,
}

/// What a former run of the node has left with the route client.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum FormerRun {
    /// It stays until a server has told what it knows, but not beyond this time.
    Kept(Time),
    /// What nobody announced is to go.
    Over,
}

impl Default for FormerRun {
    fn default() -> FormerRun {
        FormerRun::Kept(Time::NEVER)
    }
}

/// What a dialled server, or the node's own route client, is to be told besides UPDATEs.
#[derive(Default)]
pub(super) struct Uplink {
    /// SUBSCRIBEs and the like, to be sent in order, before UPDATEs.
    pub commands: VecDeque<Message>,
    vnis: BTreeMap<Vni, UplinkVni>,
    keepalives_sent: u64,
    keepalives_heard: u64,
    /// UNSUBSCRIBEs that went out since the last KEEPALIVE.
    left: Vec<Vni>,
    /// Bytes sent since the gate was last open.
    gate_bytes: usize,
    /// The gate opens with this KEEPALIVE's answer.
    gate_answer: Option<u64>,
    dump: DumpWatch,
    /// The node's route client is to hear that what a former run has left may go, behind all that is
    /// pending for it.
    pub owes_sync: bool,
    /// Which server this is: the same whenever it is connected.
    pub server: u64,
    /// So many of its connections were lost, and are held, that this one takes the place of none of them
    /// before it has told all that it knows.
    pub is_provisional: bool,
    /// Earlier connections to the same server, whose routes are held: what it says now about one of
    /// them counts for them too.
    pub predecessors: Vec<PeerId>,
}

/// A lost server whose routes stay for a while.
pub(super) struct HeldSource {
    pub lost_at: Time,
    /// Never, while the server is back and tells what it knows.
    pub until: Time,
    pub id: PeerId,
    pub homes: Vec<ShardId>,
    pub server: u64,
}

/// Lost connections to one server whose routes are held at a time.
const HELD_PER_SERVER_MAX: usize = 4;

/// A VNI at a dialled server.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum UplinkVni {
    Subscribed,
    /// UNSUBSCRIBE was sent; what still comes is not for us, until the answer to the KEEPALIVE
    /// behind it.
    Leaving {
        answer: Option<u64>,
        again: bool,
    },
}

impl Shard {
    /// Makes this shard the one where the node's own route client and its servers live. The
    /// client's frames come with [`Shard::transmit`].
    pub fn attach_client(&mut self, now: Time) -> PeerId {
        assert!(self.node.client.is_none(), "a node has one route client");
        let config = SessionConfig {
            direction: Direction::Incoming,
            keepalive_interval_s: 0,
            is_server: true,
            reassembles: true,
            reflector: true,
        };
        let mut session = Session::new(&config, now);
        let hello = Hello { keepalive_interval_s: 1, is_server: false, reassembles: true };
        let _ = session.on_message(now, &Message::Hello(hello));
        let _ = session.on_message(now, &Message::Keepalive);
        let remote = SocketAddr::from(([0; 16], 0));
        let peer = Peer::new(remote, session, Role::Own, self.config.pace, now);
        let id = self.peers.insert(peer);
        self.node.client = Some(id);
        id
    }

    /// A connection to a server was made. The caller dialled it, and knows it again as `server`.
    pub fn dialled(&mut self, now: Time, remote: SocketAddr, server: u64) -> PeerId {
        let config = SessionConfig {
            direction: Direction::Outgoing,
            keepalive_interval_s: self.config.keepalive_interval_s,
            is_server: false,
            reassembles: true,
            reflector: false,
        };
        let session = Session::new(&config, now);
        let mut peer = Peer::new(remote, session, Role::Dialled, self.config.pace, now);
        if let Some(uplink) = &mut peer.uplink {
            let held = self.held_sources.iter().filter(|held| held.server == server);
            uplink.predecessors = held.map(|held| held.id).collect();
            uplink.is_provisional = uplink.predecessors.len() >= HELD_PER_SERVER_MAX;
            uplink.server = server;
        }
        let id = self.peers.insert(peer);
        self.counters.connections += 1;
        let verdict = self.peers.find_mut(id).map(|peer| peer.session.connected(now));
        self.obey(now, id, verdict.unwrap_or(Verdict::Ignore));
        self.note_deadline(id);
        id
    }

    /// The state of a connection; None if it is over.
    pub fn session_state(&self, id: PeerId) -> Option<State> {
        self.peers.find(id).map(|peer| peer.session.state())
    }

    /// The node wants the routes of a VNI.
    pub fn own_subscribe(&mut self, now: Time, vni: Vni) {
        let Some(client) = self.node.client else { return };
        if !self.node.subscribed.insert(vni) {
            return;
        }
        self.subscribe(now, client, vni);
        for id in self.node.uplinks.clone() {
            if let Some(uplink) = self.uplink(id) {
                uplink.subscribe(vni);
                uplink.dump.goes_on(now);
                self.wake_writer(id);
            }
        }
    }

    /// The node does not want the routes of a VNI any more.
    pub fn own_unsubscribe(&mut self, vni: Vni) {
        let Some(client) = self.node.client else { return };
        if !self.node.subscribed.remove(&vni) {
            return;
        }
        self.unsubscribe(client, vni);
        let home = ShardId::home_of(vni, self.config.shards);
        for held in &self.held_sources {
            self.outboxes.request(home, Request::LostIn(SourceId(held.id), vni));
        }
        if let Some(own) = self.uplink(client) {
            own.commands.push_back(Message::Unsubscribe(vni));
            self.wake_writer(client);
        }
        for id in self.node.uplinks.clone() {
            // Some servers in the field ignore UNSUBSCRIBE, and fail at the SUBSCRIBE after it; all
            // of them withdraw what we announce. They go on sending, and we keep what they send.
            let reassembles =
                self.peers.find(id).is_some_and(|peer| peer.session.peer_reassembles());
            if reassembles && let Some(uplink) = self.uplink(id) {
                uplink.unsubscribe(vni);
                self.wake_writer(id);
                self.outboxes.request(home, Request::LostIn(SourceId(id), vni));
            }
        }
    }

    /// The node announces or withdraws a route. The caller takes care of duplicates.
    pub fn own_change(&mut self, now: Time, action: Action, vni: Vni, route: Route) {
        let Some(client) = self.node.client else { return };
        let announced = self.node.announced.entry(vni).or_default();
        let is_first = announced.is_empty() && action == Action::Add;
        match action {
            Action::Add => announced.insert(route),
            Action::Remove => announced.remove(&route),
        };
        if announced.is_empty() {
            self.node.announced.remove(&vni);
        }
        if is_first {
            for id in self.node.uplinks.clone() {
                self.announce_to(now, id, vni);
            }
        }
        self.on_update(now, client, &Update { action, vni, route });
    }

    /// A dialled server is established: subscriptions first, then announcements.
    pub(super) fn uplink_established(&mut self, now: Time, id: PeerId) {
        self.node.uplinks.insert(id);
        if self.node.former_run != FormerRun::Over {
            self.node.former_run = FormerRun::Kept(Time::NEVER);
        }
        let subscribed = self.node.subscribed.clone();
        let hold_time = self.config.hold_time;
        let server = self.uplink(id).map_or(0, |uplink| uplink.server);
        self.held_of(server).for_each(|held| held.until = Time::NEVER);
        let reassembles = self.peers.find(id).is_some_and(|peer| peer.session.peer_reassembles());
        if let Some(uplink) = self.uplink(id) {
            uplink.dump.begin(now, reassembles, hold_time);
        }
        if let Some(uplink) = self.uplink(id) {
            for vni in subscribed {
                uplink.subscribe(vni);
            }
        }
        let announced: Vec<Vni> = self.node.announced.keys().copied().collect();
        for vni in announced {
            self.announce_to(now, id, vni);
        }
    }

    /// The node wants no more of a server that it dialled: its routes go at once, hold time or not.
    pub fn hang_up(&mut self, now: Time, id: PeerId) {
        if let Some(peer) = self.peers.find_mut(id) {
            let verdict = peer.session.close();
            self.obey(now, id, verdict);
        }
    }

    /// A dialled server is lost. What it had not confirmed since it came back is held on.
    pub(super) fn uplink_lost(&mut self, now: Time, id: PeerId, server: u64) {
        if self.node.uplinks.remove(&id) {
            let hold_time = self.config.hold_time;
            for held in self.held_of(server) {
                // However often it comes and goes.
                let at_most = held.lost_at.after(hold_time).after(DUMP_TIME_MAX);
                held.until = held.until.min(now.after(hold_time)).min(at_most);
            }
            self.look_for_end_of_former_run();
        }
    }

    /// No server can be reached, or all are lost. The time that routes stay begins for what a former
    /// run has left.
    pub fn servers_away(&mut self, now: Time) {
        if self.node.former_run == FormerRun::Kept(Time::NEVER) {
            self.node.former_run = FormerRun::Kept(now.after(self.config.hold_time));
        }
    }

    /// The node wants no more of a server, connected or not: what is held of it goes.
    pub fn forget_server(&mut self, server: u64) {
        while let Some(at) = self.held_sources.iter().position(|held| held.server == server) {
            self.give_up(at);
        }
    }

    /// When the node's side has something to do.
    pub(super) fn node_deadline(&self) -> Time {
        let held = self.held_sources.iter().map(|held| held.until);
        let dumps = self.open_uplinks().map(|uplink| uplink.dump.next_deadline());
        let former_run = match self.node.former_run {
            FormerRun::Kept(until) => until,
            FormerRun::Over => Time::NEVER,
        };
        held.chain(dumps).min().unwrap_or(Time::NEVER).min(former_run)
    }

    /// Does what is due on the node's side.
    pub(super) fn on_node_timer(&mut self, now: Time) {
        if now < self.node_deadline() {
            return;
        }
        while let Some(at) = self.held_sources.iter().position(|held| held.until <= now) {
            self.give_up(at);
        }
        for id in self.node.uplinks.clone() {
            if let Some(uplink) = self.uplink(id)
                && uplink.dump.on_timer(now)
            {
                if uplink.commands.is_empty() {
                    uplink.commands.push_back(Message::Keepalive);
                    self.wake_writer(id);
                } else {
                    // It does not know yet what we want of it.
                    uplink.dump.goes_on(now);
                }
            }
            self.look_for_end_of_dump(now, id);
        }
        if matches!(self.node.former_run, FormerRun::Kept(until) if until <= now) {
            self.end_former_run();
        }
    }

    fn look_for_end_of_dump(&mut self, now: Time, id: PeerId) {
        let Some(uplink) = self.uplink(id) else { return };
        if uplink.dump.completes(now, uplink.keepalives_heard) {
            let server = uplink.server;
            tracing::debug!(%id, "the server has told all it knows");
            self.forget_server(server);
            self.look_for_end_of_former_run();
        }
    }

    /// A server has told all it knows, and no other one is about to tell what this one does not know.
    fn look_for_end_of_former_run(&mut self) {
        let mut is_any = false;
        let has_told = |uplink: &Uplink| uplink.dump.is_complete();
        let have_all = self.open_uplinks().inspect(|_| is_any = true).all(has_told);
        if is_any && have_all {
            self.end_former_run();
        }
    }

    fn end_former_run(&mut self) {
        if std::mem::replace(&mut self.node.former_run, FormerRun::Over) == FormerRun::Over {
            return;
        }
        let Some(client) = self.node.client else { return };
        if let Some(own) = self.uplink(client) {
            own.owes_sync = true;
            self.wake_writer(client);
        }
    }

    /// Servers with which a session stands, and that are not being closed.
    fn open_uplinks(&self) -> impl Iterator<Item = &Uplink> {
        let peers = self.node.uplinks.iter().filter_map(|&id| self.peers.find(id));
        let open = peers.filter(|peer| peer.ending == Ending::No);
        open.filter_map(|peer| peer.uplink.as_deref())
    }

    fn held_of(&mut self, server: u64) -> impl Iterator<Item = &mut HeldSource> {
        self.held_sources.iter_mut().filter(move |held| held.server == server)
    }

    /// A dialled server said KEEPALIVE; `is_answer` unless it said so unasked.
    pub(super) fn uplink_heard_keepalive(&mut self, now: Time, id: PeerId, is_answer: bool) {
        // One that drains is heard as well: its gate has to open for what is still pending.
        if is_answer
            && let Some(peer) = self.peers.find_mut(id)
            && peer.session.state() == State::Established
            && let Some(uplink) = &mut peer.uplink
        {
            uplink.heard_keepalive();
            self.wake_writer(id);
            self.look_for_end_of_dump(now, id);
        }
    }

    /// A dialled server added a route.
    pub(super) fn uplink_told(&mut self, now: Time, id: PeerId) {
        if let Some(uplink) = self.uplink(id) {
            uplink.dump.goes_on(now);
        }
    }

    /// Whether an UPDATE from this peer is wanted: what a server sends for a VNI that we have left,
    /// or never asked for, is not. Nor is our own announcement, which servers in the field dump to
    /// us, but do not withdraw from us (protocol section 6.3): it would stay for ever.
    pub(super) fn wants_update(&self, peer: &Peer, update: &Update) -> bool {
        let (Role::Dialled, Some(uplink)) = (&peer.role, &peer.uplink) else { return true };
        let is_own = || {
            let announced = self.node.announced.get(&update.vni);
            announced.is_some_and(|routes| routes.contains(&update.route))
        };
        let reassembles = peer.session.peer_reassembles();
        uplink.vnis.get(&update.vni) == Some(&UplinkVni::Subscribed)
            && (reassembles || update.action == Action::Remove || !is_own())
    }

    /// Holds the routes of a lost server until its hold time is over.
    pub(super) fn hold(&mut self, held: HeldSource) {
        self.held_sources.push_back(held);
    }

    fn give_up(&mut self, at: usize) {
        let Some(held) = self.held_sources.remove(at) else { return };
        for home in held.homes {
            self.outboxes.request(home, Request::Lost(SourceId(held.id)));
        }
        for id in self.node.uplinks.clone() {
            if let Some(uplink) = self.uplink(id) {
                uplink.predecessors.retain(|&predecessor| predecessor != held.id);
            }
        }
    }

    /// What a server says about a route after it came back replaces what it said before it was lost.
    pub(super) fn supersede(&mut self, id: PeerId, home: ShardId, update: &Update) {
        let Some(uplink) = self.uplink(id) else { return };
        if uplink.is_provisional && update.action == Action::Add {
            return;
        }
        for predecessor in uplink.predecessors.clone() {
            let change = Request::Change {
                source: SourceId(predecessor),
                class: PeerClass::Server,
                action: Action::Remove,
                vni: update.vni,
                route: update.route,
            };
            self.outboxes.request(home, change);
        }
    }

    fn announce_to(&mut self, now: Time, id: PeerId, vni: Vni) {
        let group = Group::new(vni, GroupClass::Uplink);
        self.subscribe_in(now, id, group);
    }

    fn uplink(&mut self, id: PeerId) -> Option<&mut Uplink> {
        let peer = self.peers.find_mut(id)?;
        let open = peer.ending == Ending::No && peer.session.state() == State::Established;
        peer.uplink.as_deref_mut().filter(|_| open)
    }
}

impl Uplink {
    /// Takes the next commands, as many as `bytes_max` allows.
    pub fn take_commands(&mut self, bytes_max: usize) -> Vec<u8> {
        let mut bytes = Vec::new();
        while let Some(command) = self.commands.front() {
            let before = bytes.len();
            command.encode(&mut bytes);
            if bytes.len() > bytes_max && before > 0 {
                bytes.truncate(before);
                break;
            }
            match *command {
                Message::Keepalive => self.sent_keepalives(1),
                Message::Unsubscribe(vni) => self.left.push(vni),
                _ => {}
            }
            self.commands.pop_front();
        }
        bytes
    }

    /// KEEPALIVEs went out.
    pub fn sent_keepalives(&mut self, count: u64) {
        self.keepalives_sent += count;
        self.dump.sent_keepalive(self.keepalives_sent);
        for vni in self.left.drain(..) {
            if let Some(UplinkVni::Leaving { answer, .. }) = self.vnis.get_mut(&vni) {
                *answer = Some(self.keepalives_sent);
            }
        }
    }

    /// Whether a server that does not reassemble has read enough to be sent more.
    pub fn is_gate_open(&self) -> bool {
        self.gate_answer.is_none()
    }

    /// Counts what such a server was sent. True if it has to answer a KEEPALIVE now: the gate
    /// closes until then.
    pub fn pass_gate(&mut self, bytes: usize) -> bool {
        self.gate_bytes += bytes;
        let closes = self.gate_bytes >= GATE_BYTES && self.gate_answer.is_none();
        if closes {
            // The KEEPALIVE that the caller is about to send has the next number.
            self.gate_answer = Some(self.keepalives_sent + 1);
            self.gate_bytes = 0;
        }
        closes
    }

    fn subscribe(&mut self, vni: Vni) {
        match self.vnis.get_mut(&vni) {
            Some(UplinkVni::Subscribed) => {}
            Some(UplinkVni::Leaving { again, .. }) => *again = true,
            None => {
                self.vnis.insert(vni, UplinkVni::Subscribed);
                self.commands.push_back(Message::Subscribe(vni));
            }
        }
    }

    fn unsubscribe(&mut self, vni: Vni) {
        match self.vnis.get_mut(&vni) {
            Some(at @ UplinkVni::Subscribed) => {
                *at = UplinkVni::Leaving { answer: None, again: false };
                self.commands.push_back(Message::Unsubscribe(vni));
                self.commands.push_back(Message::Keepalive);
            }
            Some(UplinkVni::Leaving { again, .. }) => *again = false,
            None => {}
        }
    }

    fn heard_keepalive(&mut self) {
        // What answers none of ours would open later gates and barriers too early.
        self.keepalives_heard = (self.keepalives_heard + 1).min(self.keepalives_sent);
        let heard = self.keepalives_heard;
        if self.gate_answer.is_some_and(|answer| answer <= heard) {
            self.gate_answer = None;
        }
        let commands = &mut self.commands;
        self.vnis.retain(|&vni, at| match *at {
            UplinkVni::Leaving { answer: Some(answer), again } if answer <= heard => {
                if again {
                    *at = UplinkVni::Subscribed;
                    commands.push_back(Message::Subscribe(vni));
                }
                again
            }
            _ => true,
        });
    }
}
