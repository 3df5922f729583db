//! This node as a client: what it wants and announces itself, and the servers that it dialled.
//!
//! Owns the way of the node's own subscriptions and announcements to every server, and what is held of
//! servers that are lost. Must never take an own announcement for a server's.
//!
//! The node's route client is a peer like any other, but without a socket: what it is to hear is a
//! stream of frames, in which an UNSUBSCRIBE says "forget this VNI".

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::Duration;

use super::Shard;
use super::dump::DUMP_TIME_MAX;
use super::mail::Request;
use super::peer::{Commands, Ending, Peer};
use super::uplink::Uplink;
use crate::rib::Group;
use crate::session::{Session, State};
use crate::types::{Action, GroupClass, PeerClass, PeerId, Route, ShardId, SourceId, Time, Vni};
use crate::wire::Update;

/// What this node wants and announces, when it is used as a library.
#[derive(Default)]
pub(super) struct Node {
    client: Option<PeerId>,
    /// Connections to servers that we dialled.
    uplinks: BTreeMap<PeerId, Uplink>,
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

/// A lost server whose routes stay for a while.
pub(super) struct HeldSource {
    pub lost_at: Time,
    /// Never, while the server is back and tells what it knows.
    pub until: Time,
    pub id: PeerId,
    pub homes: Vec<ShardId>,
    pub server: u64,
}

impl Node {
    /// Whether an UPDATE from this server is wanted: what it sends for a VNI that we have left, or never
    /// asked for, is not. Nor is our own announcement, which servers in the field dump to us, but do
    /// not withdraw from us (protocol section 6.3): it would stay for ever.
    pub fn wants_update(&self, id: PeerId, reassembles: bool, update: &Update) -> bool {
        let is_own = || {
            let announced = self.announced.get(&update.vni);
            announced.is_some_and(|routes| routes.contains(&update.route))
        };
        self.uplinks.get(&id).is_some_and(|uplink| uplink.is_subscribed(update.vni))
            && (reassembles || update.action == Action::Remove || !is_own())
    }

    /// Servers with which a session stands, or stood.
    fn established(&self) -> Vec<PeerId> {
        let uplinks = self.uplinks.iter().filter(|(_, uplink)| uplink.is_established);
        uplinks.map(|(&id, _)| id).collect()
    }
}

impl Shard {
    /// Makes this shard the one where the node's own route client and its servers live. The
    /// client's frames come with [`Shard::transmit`].
    pub fn attach_client(&mut self, now: Time) -> PeerId {
        assert!(self.node.client.is_none(), "a node has one route client");
        let id = self.peers.insert(Peer::local(now, PeerClass::Own));
        self.node.client = Some(id);
        id
    }

    /// A connection to a server was made. The caller dialled it, and knows it again as `server`.
    pub fn dialled(&mut self, now: Time, remote: SocketAddr, server: u64) -> PeerId {
        let held = self.held_sources.iter().filter(|held| held.server == server);
        let predecessors: Vec<PeerId> = held.map(|held| held.id).collect();
        let id = self.peers.insert(Peer::dialled(now, remote, &self.config));
        self.node.uplinks.insert(id, Uplink::new(server, predecessors));
        self.counters.connections += 1;
        self.tell_session(now, id, |session| session.connected(now));
        id
    }

    /// The state of a connection; None if it is over.
    pub fn session_state(&self, id: PeerId) -> Option<State> {
        self.peers.find(id)?.link.session().map(Session::state)
    }

    /// The node wants the routes of a VNI.
    pub fn own_subscribe(&mut self, now: Time, vni: Vni) {
        let Some(client) = self.node.client else { return };
        if !self.node.subscribed.insert(vni) {
            return;
        }
        self.subscribe(now, client, vni);
        for id in self.node.established() {
            if let Some((uplink, commands)) = self.uplink(id) {
                uplink.subscribe(vni, commands);
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
        if let Some(commands) = self.open_peer(client).and_then(|peer| peer.outbound.commands()) {
            commands.unsubscribe(vni);
            self.wake_writer(client);
        }
        for id in self.node.established() {
            // Some servers in the field ignore UNSUBSCRIBE, and fail at the SUBSCRIBE after it; all
            // of them withdraw what we announce. They go on sending, and we keep what they send.
            let reassembles = self.peers.find(id).is_some_and(|peer| peer.link.reassembles());
            if reassembles && let Some((uplink, commands)) = self.uplink(id) {
                uplink.unsubscribe(vni, commands);
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
            for id in self.node.established() {
                self.announce_to(now, id, vni);
            }
        }
        self.on_update(now, client, &Update { action, vni, route });
    }

    /// A dialled server is established: subscriptions first, then announcements.
    pub(super) fn uplink_established(&mut self, now: Time, id: PeerId) {
        if self.node.former_run != FormerRun::Over {
            self.node.former_run = FormerRun::Kept(Time::NEVER);
        }
        let subscribed = self.node.subscribed.clone();
        let hold_time = self.config.hold_time;
        let reassembles = self.peers.find(id).is_some_and(|peer| peer.link.reassembles());
        let Some((uplink, commands)) = self.uplink(id) else { return };
        uplink.is_established = true;
        uplink.dump.begin(now, reassembles, hold_time);
        for vni in subscribed {
            uplink.subscribe(vni, commands);
        }
        let server = uplink.server;
        self.held_of(server).for_each(|held| held.until = Time::NEVER);
        let announced: Vec<Vni> = self.node.announced.keys().copied().collect();
        for vni in announced {
            self.announce_to(now, id, vni);
        }
    }

    /// The node wants no more of a server that it dialled: its routes go at once, hold time or not.
    pub fn hang_up(&mut self, now: Time, id: PeerId) {
        self.tell_session(now, id, Session::close);
    }

    /// The connection to a dialled server is over, `is_lost` unless we ended it. What it had not confirmed
    /// since it came back is held on. True if its own routes at these homes are held, too.
    pub(super) fn uplink_lost(
        &mut self,
        now: Time,
        id: PeerId,
        is_lost: bool,
        homes: &[ShardId],
    ) -> bool {
        let Some(uplink) = self.node.uplinks.remove(&id) else { return false };
        let (hold_time, server) = (self.config.hold_time, uplink.server);
        if uplink.is_established {
            for held in self.held_of(server) {
                // However often it comes and goes.
                let at_most = held.lost_at.after(hold_time).after(DUMP_TIME_MAX);
                held.until = held.until.min(now.after(hold_time)).min(at_most);
            }
            self.look_for_end_of_former_run();
        }
        let is_held = is_lost
            && !uplink.is_provisional
            && !self.draining
            && hold_time > Duration::ZERO
            && !homes.is_empty();
        if is_held {
            let (until, homes) = (now.after(hold_time), homes.to_vec());
            self.held_sources.push_back(HeldSource { lost_at: now, until, id, homes, server });
        }
        is_held
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
        for id in self.node.established() {
            if let Some((uplink, commands)) = self.uplink(id)
                && uplink.dump.is_quiet(now)
            {
                if commands.is_empty() {
                    uplink.dump.asks(commands.ask());
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
        let Some((uplink, commands)) = self.uplink(id) else { return };
        if uplink.dump.completes(now, commands.answered()) {
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
        if let Some(peer) = self.open_peer(client) {
            peer.outbound.owe_mark();
            self.wake_writer(client);
        }
    }

    /// Servers with which a session stands, and that are not being closed.
    fn open_uplinks(&self) -> impl Iterator<Item = &Uplink> {
        let is_open = |id| self.peers.find(id).is_some_and(|peer| peer.ending == Ending::No);
        let uplinks = self.node.uplinks.iter();
        uplinks
            .filter(move |&(&id, uplink)| uplink.is_established && is_open(id))
            .map(|(_, uplink)| uplink)
    }

    fn held_of(&mut self, server: u64) -> impl Iterator<Item = &mut HeldSource> {
        self.held_sources.iter_mut().filter(move |held| held.server == server)
    }

    /// A peer answered a KEEPALIVE, if it is a server that we dialled.
    pub(super) fn uplink_answered(&mut self, now: Time, id: PeerId) {
        // One that drains is heard as well: its gate has to open for what is still pending.
        let Some(uplink) = self.node.uplinks.get_mut(&id) else { return };
        if uplink.is_established
            && let Some(commands) = self.peers.find_mut(id).and_then(|it| it.outbound.commands())
        {
            commands.heard_keepalive();
            uplink.heard_answer(commands);
            self.wake_writer(id);
            self.look_for_end_of_dump(now, id);
        }
    }

    /// A dialled server told of a route. That replaces what it said of it before it was lost.
    pub(super) fn uplink_told(&mut self, now: Time, id: PeerId, home: ShardId, update: &Update) {
        let is_add = update.action == Action::Add;
        let Some((uplink, _)) = self.uplink(id) else { return };
        if is_add {
            uplink.dump.goes_on(now);
        }
        if uplink.is_provisional && is_add {
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

    fn give_up(&mut self, at: usize) {
        let Some(held) = self.held_sources.remove(at) else { return };
        for home in held.homes {
            self.outboxes.request(home, Request::Lost(SourceId(held.id)));
        }
        for uplink in self.node.uplinks.values_mut() {
            uplink.predecessors.retain(|&predecessor| predecessor != held.id);
        }
    }

    fn announce_to(&mut self, now: Time, id: PeerId, vni: Vni) {
        let group = Group::new(vni, GroupClass::Uplink);
        self.subscribe_in(now, id, group);
    }

    /// A server with which a session stands, and that is not being closed.
    fn uplink(&mut self, id: PeerId) -> Option<(&mut Uplink, &mut Commands)> {
        let peer = self.peers.find_mut(id)?;
        let is_open = peer.ending == Ending::No && peer.link.is_established();
        let commands = peer.outbound.commands().filter(|_| is_open)?;
        Some((self.node.uplinks.get_mut(&id)?, commands))
    }

    /// A peer that is not being closed.
    fn open_peer(&mut self, id: PeerId) -> Option<&mut Peer> {
        self.peers.find_mut(id).filter(|peer| peer.ending == Ending::No)
    }
}
