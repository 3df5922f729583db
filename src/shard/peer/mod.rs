//! One connection as its shard sees it, and the slots in which connections live.
//!
//! Owns what belongs to a single peer, in three parts that keep their fields to themselves: what comes
//! from it, what it is to be sent, and what connects it with us. Must never use an id again.

mod commands;
mod handed_over;
mod inbound;
mod link;
mod origin;
mod outbound;
mod path;

use std::collections::{BTreeMap, VecDeque};
use std::net::{IpAddr, SocketAddr};

use ahash::RandomState;
use smallvec::SmallVec;

use super::config::{Identity, ShardConfig};
use super::events::Record;
use super::groups::{Named, Ready, SubIndex};
use super::mail::Request;
use super::pacing::TcpSample;
use crate::log::Reader;
use crate::rib::Introduction;
use crate::session::{Direction, Session, SessionConfig};
use crate::types::{
    GroupClass, Pace, PeerClass, PeerId, SeededMap, ShardId, SourceId, Speaker, SpeakerId, Time,
    Vni,
};

pub(super) use inbound::{Admission, Heard, Inbound, Pause, Quota};
pub(super) use link::Link;
pub(super) use origin::Origin;
pub(super) use outbound::{Outbound, SAMPLE_INTERVAL};
pub(super) use path::{Due, Kind};

/// How a connection is to end.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Ending {
    /// Not at all, for now.
    No,
    /// When everything is sent (draining).
    Gracefully,
    /// It did: the driver closes it.
    Closed,
}

/// As whom a peer hears that speaks for a host.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Hearing {
    /// As all of the host.
    Host,
    /// As that and as itself: its address is becoming a shared one.
    Both,
    /// As itself: several hosts share its address.
    Itself,
}

/// One peer.
pub(super) struct Peer {
    pub link: Link,
    pub inbound: Inbound,
    pub outbound: Outbound,
    pub ending: Ending,
    pub record: Record,
    pub subscriptions: BTreeMap<Vni, SubIndex>,
    /// How many of those it may have.
    pub vnis_max: usize,
    pub origin: Origin,
    /// The host that it speaks for, if that is told apart from its connection.
    host: Option<IpAddr>,
    /// As whom it hears.
    reader: Reader,
}

impl Peer {
    /// A connection that was accepted.
    /// One that failed before is fed carefully.
    pub(super) fn accepted(
        now: Time,
        remote: SocketAddr,
        config: &ShardConfig,
        is_cautious: bool,
    ) -> Peer {
        let limits = &config.limits;
        let session = Session::new(&incoming(config), now);
        Peer {
            inbound: Inbound::new(
                now,
                i64::from(limits.routes_per_peer_max),
                config.budgets.changes_per_peer_max as i64,
                limits.updates_per_s_max,
            ),
            vnis_max: limits.vnis_per_peer_max as usize,
            record: Record::of_stranger(remote),
            host: host_at(remote, config),
            ..Peer::new(
                now,
                Link::Session(session),
                Outbound::new(now, config.pace, false, is_cautious),
                remote,
            )
        }
    }

    /// A connection to a server that we dialled.
    pub(super) fn dialled(now: Time, remote: SocketAddr, config: &ShardConfig) -> Peer {
        let session = Session::new(
            &SessionConfig {
                direction: Direction::Outgoing,
                keepalive_interval_s: config.keepalive_interval_s,
                is_server: false,
                reassembles: true,
                reflector: false,
            },
            now,
        );
        Peer::new(now, Link::Session(session), Outbound::new(now, Pace::Off, true, false), remote)
    }

    /// A peer that lives in this process.
    pub(super) fn local(now: Time, class: PeerClass) -> Peer {
        let remote = SocketAddr::from(([0; 16], 0));
        Peer::new(now, Link::Local(class), Outbound::new(now, Pace::Off, true, false), remote)
    }

    /// Without limits.
    fn new(now: Time, link: Link, outbound: Outbound, remote: SocketAddr) -> Peer {
        let nobody = PeerId::new(ShardId(0), 0, 0);
        Peer {
            link,
            inbound: Inbound::new(now, i64::MAX, i64::MAX, u32::MAX),
            outbound,
            ending: Ending::No,
            record: Record::of_our_own(remote),
            subscriptions: BTreeMap::new(),
            vnis_max: usize::MAX,
            // It gets its own ones with its id.
            origin: Origin::new(nobody),
            host: None,
            reader: Reader::new(SpeakerId::of_source(SourceId(nobody))),
        }
    }

    /// The groups in which its subscriptions are.
    pub(super) fn group_class(&self) -> GroupClass {
        match self.link.class() {
            PeerClass::Server => GroupClass::Server,
            PeerClass::Client | PeerClass::Own => GroupClass::Client,
        }
    }

    /// Whom it speaks for.
    fn speaker(&self) -> Speaker {
        self.host.map_or(Speaker::Itself, Speaker::Host)
    }

    /// The host that it speaks for, if that is told apart from its connection.
    pub(super) fn host(&self) -> Option<IpAddr> {
        self.host
    }

    /// As whom it hears.
    pub(super) fn reader(&self) -> Reader {
        self.reader
    }

    /// Who it is, for a home that has not heard of it as a source: a change under way, too. None for one that has.
    #[inline]
    pub(super) fn introduce(&mut self, home: ShardId, shard: ShardId) -> Option<Request> {
        if !self.origin.note_home(home) {
            return None;
        }
        Some(self.introduce_again(shard))
    }

    /// The same, for one that may have.
    pub(super) fn introduce_again(&mut self, shard: ShardId) -> Request {
        self.inbound.asks();
        let is_stranger = self.link.session().is_some() && !self.link.is_dialled();
        let address = is_stranger.then(|| self.record.remote().ip());
        let (life, speaker) = (self.origin.life(), self.speaker());
        let introduction = Introduction { address, shard, life, speaker };
        Request::Introduce(self.origin.source(), introduction)
    }

    /// Nothing is heard until it is resumed. False if that is so already.
    /// What it waits with was read at `read_at`.
    pub(super) fn pause(&mut self, now: Time, read_at: Time, pause: Pause) -> bool {
        let is_new = self.inbound.pause(read_at, pause);
        if is_new {
            self.link.tell(|session| session.pause(now));
        }
        is_new
    }

    /// A KEEPALIVE is due. One that is not heard, since we do not read, gets ours unasked.
    pub(super) fn owe_keepalive(&mut self) {
        match self.inbound.is_paused() && !self.link.is_dialled() {
            true => self.outbound.owe_unasked_keepalive(),
            false => self.outbound.owe_keepalive(),
        }
    }

    /// Takes note of what the peer's TCP has acknowledged, if the sample tells.
    pub(super) fn note_acked(&mut self, now: Time, sample: &TcpSample) {
        if self.outbound.is_progress(sample) {
            self.link.tell(|session| session.send_progressed(now));
        }
    }

    /// The timer for what it does not take runs as long as something is under way or waits.
    pub(super) fn note_idle(&mut self) {
        if !self.outbound.has_output() {
            self.link.tell(Session::send_idle);
        }
    }

    /// The connection is over: nothing is heard or sent any more. Returns the subscriptions that it had.
    pub(super) fn end(&mut self) -> BTreeMap<Vni, SubIndex> {
        self.ending = Ending::Closed;
        self.inbound.end();
        self.outbound.end();
        std::mem::take(&mut self.subscriptions)
    }
}

/// What the session of a connection that is accepted is made from.
fn incoming(config: &ShardConfig) -> SessionConfig {
    SessionConfig {
        direction: Direction::Incoming,
        keepalive_interval_s: config.keepalive_interval_s,
        is_server: true,
        reassembles: true,
        reflector: true,
    }
}

/// The host that a peer speaks for: the one at its address, where that is how hosts are told apart. A link-local address
/// is another one's on another link.
fn host_at(remote: SocketAddr, config: &ShardConfig) -> Option<IpAddr> {
    let address = remote.ip().to_canonical();
    let is_of_a_link = matches!(address, IpAddr::V6(address) if address.is_unicast_link_local());
    (config.fabric == Some(Identity::Address) && !is_of_a_link).then_some(address)
}

struct Slot {
    generation: u64,
    peer: Option<Box<Peer>>,
}

/// The connections of a shard.
pub(super) struct Peers {
    shard: ShardId,
    /// Below this generation ids were given out by another process.
    first_generation: u64,
    slots: Vec<Slot>,
    free: Vec<u32>,
    count: usize,
    /// Those who are the source that a lost connection was.
    heirs: BTreeMap<SourceId, PeerId>,
    /// The connections of each host.
    of_host: SeededMap<SpeakerId, SmallVec<[PeerId; 1]>>,
    /// Those that have something to send and whose writers wait, in the order of their turns.
    writers: VecDeque<PeerId>,
}

impl Peers {
    pub(super) fn new(shard: ShardId, hasher: RandomState) -> Peers {
        Peers {
            shard,
            first_generation: 0,
            slots: Vec::new(),
            free: Vec::new(),
            count: 0,
            heirs: BTreeMap::new(),
            of_host: SeededMap::with_hasher(hasher),
            writers: VecDeque::new(),
        }
    }

    /// Number of connections not released yet.
    pub(super) fn len(&self) -> usize {
        self.count
    }

    /// Places for connections, free ones included.
    pub(super) fn slots(&self) -> usize {
        self.slots.len()
    }

    /// The connection at a place, if there is one.
    pub(super) fn at(&self, slot: usize) -> Option<(PeerId, &Peer)> {
        let place = self.slots.get(slot)?;
        let number = u32::try_from(slot).expect("below PeerId::SLOTS");
        Some((PeerId::new(self.shard, number, place.generation), place.peer.as_deref()?))
    }

    pub(super) fn insert(&mut self, peer: Peer) -> PeerId {
        let slot = self.free.pop().unwrap_or_else(|| {
            self.slots.push(Slot { generation: self.first_generation, peer: None });
            u32::try_from(self.slots.len() - 1).expect("below PeerId::SLOTS")
        });
        self.count += 1;
        let place = &mut self.slots[slot as usize];
        let id = PeerId::new(self.shard, slot, place.generation);
        let speaker = match peer.host {
            Some(address) => SpeakerId::of_host(address, self.of_host.hasher()),
            None => SpeakerId::of_source(SourceId(id)),
        };
        if peer.host.is_some() {
            self.of_host.entry(speaker).or_default().push(id);
        }
        let reader = Reader::new(speaker);
        place.peer = Some(Box::new(Peer { origin: Origin::new(id), reader, ..peer }));
        id
    }

    /// Ids with a generation below this one were given out by another process.
    ///
    /// # Panics
    /// If an id was given out already.
    pub(super) fn begin_at(&mut self, generation: u64) {
        assert!(self.slots.is_empty(), "nobody is here yet");
        self.first_generation = generation;
    }

    /// No id has a generation as high as this.
    pub(super) fn next_generation(&self) -> u64 {
        let next = self.slots.iter().map(|slot| slot.generation + 1).max().unwrap_or(0);
        next.max(self.first_generation)
    }

    /// A peer that another process has served hears as this.
    pub(super) fn restore_reader(&mut self, id: PeerId, reader: Reader) {
        if let Some(peer) = self.find_mut(id) {
            peer.reader = reader;
        }
    }

    /// A peer takes over the source of a lost connection.
    pub(super) fn take_over(&mut self, id: PeerId, origin: Origin) {
        if let Some(peer) = self.find_mut(id) {
            let source = origin.source();
            peer.origin = origin;
            // It has not subscribed yet.
            if peer.host.is_none() {
                peer.reader = Reader::new(SpeakerId::of_source(source));
            }
            self.heirs.insert(source, id);
        }
    }

    /// What a peer subscribes to from now on it hears so, if it speaks for a host.
    pub(super) fn hear(&mut self, id: PeerId, hearing: Hearing) {
        let hasher = self.of_host.hasher().clone();
        if let Some(peer) = self.find_mut(id)
            && let Some(address) = peer.host
        {
            let host = Reader::new(SpeakerId::of_host(address, &hasher));
            let itself = SpeakerId::of_source(peer.origin.source());
            peer.reader = match hearing {
                Hearing::Host => host,
                Hearing::Both => host.becoming(itself),
                Hearing::Itself => Reader::new(itself),
            };
        }
    }

    /// A peer is no source any more.
    pub(super) fn give_up(&mut self, source: SourceId) {
        self.heirs.remove(&source);
    }

    /// The peer that is this source, if it is one of ours.
    pub(super) fn of_source(&self, source: SourceId) -> Option<(PeerId, &Peer)> {
        // An heir first: the connection that was the source before may not be released yet.
        if let Some(heir) = self.heirs.get(&source) {
            return Some((*heir, self.find(*heir)?));
        }
        let peer = self.find(source.0).filter(|peer| peer.origin.source() == source)?;
        Some((source.0, peer))
    }

    /// The peers that this speaker is, of ours.
    pub(super) fn of_speaker(&self, speaker: SpeakerId) -> SmallVec<[PeerId; 1]> {
        match speaker.source() {
            Some(source) => self.of_source(source).into_iter().map(|(id, _)| id).collect(),
            None => self.of_host.get(&speaker).cloned().unwrap_or_default(),
        }
    }

    /// The subscriptions of a VNI that peers have which this speaker is.
    pub(super) fn named(&self, speaker: SpeakerId, vni: Vni) -> Named {
        let peers = self.of_speaker(speaker);
        let subscriptions = peers.iter().map(|&id| self.find(id)?.subscriptions.get(&vni).copied());
        subscriptions.flatten().collect()
    }

    pub(super) fn remove(&mut self, id: PeerId) {
        if let Some(peer) = self.find(id) {
            let source = peer.origin.source();
            if let Some(address) = peer.host {
                self.leave_host(id, address);
            }
            if self.heirs.get(&source) == Some(&id) {
                self.heirs.remove(&source);
            }
            let place = &mut self.slots[id.slot() as usize];
            place.peer = None;
            place.generation += 1;
            if place.generation < PeerId::GENERATIONS {
                self.free.push(id.slot());
            }
            self.count -= 1;
        }
    }

    fn leave_host(&mut self, id: PeerId, address: IpAddr) {
        let speaker = SpeakerId::of_host(address, self.of_host.hasher());
        if let Some(peers) = self.of_host.get_mut(&speaker) {
            peers.retain(|peer| *peer != id);
            if peers.is_empty() {
                self.of_host.remove(&speaker);
            }
        }
    }

    /// The peer, unless it was released (or lives on another shard).
    pub(super) fn find(&self, id: PeerId) -> Option<&Peer> {
        let place = self.slots.get(id.slot() as usize)?;
        let same = place.generation == id.generation() && id.shard() == self.shard;
        place.peer.as_deref().filter(|_| same)
    }

    pub(super) fn find_mut(&mut self, id: PeerId) -> Option<&mut Peer> {
        let place = self.slots.get_mut(id.slot() as usize)?;
        let same = place.generation == id.generation() && id.shard() == self.shard;
        place.peer.as_deref_mut().filter(|_| same)
    }

    /// A subscription has something to send, unless its peer has gone.
    pub(super) fn queue(&mut self, ready: Ready) {
        let Some(peer) = self.find_mut(ready.peer).filter(|it| it.ending != Ending::Closed) else {
            return;
        };
        peer.outbound.queue(ready.sub, ready.epoch, ready.is_urgent);
        self.wake_writer(ready.peer);
    }

    /// Lists the peer's writer, if it waits.
    pub(super) fn wake_writer(&mut self, id: PeerId) {
        if self.find_mut(id).is_some_and(|peer| peer.outbound.wake()) {
            self.writers.push_back(id);
        }
    }

    /// The next peer whose writer is to go on.
    pub(super) fn take_writer(&mut self) -> Option<PeerId> {
        while let Some(id) = self.writers.pop_front() {
            if self.find_mut(id).is_some_and(|peer| peer.outbound.unlist()) {
                return Some(id);
            }
        }
        None
    }

    /// Whether writers are left to go on.
    pub(super) fn has_writers(&self) -> bool {
        !self.writers.is_empty()
    }

    /// The ids of all connections.
    pub(super) fn ids(&self) -> Vec<PeerId> {
        let used = self.slots.iter().enumerate().filter(|(_, slot)| slot.peer.is_some());
        used.map(|(at, slot)| PeerId::new(self.shard, at as u32, slot.generation)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shard::{Limits, bounds_tests};
    use crate::wire::{Hello, Message};

    const NOW: Time = Time(1);

    fn payload_of_a_keepalive(mut peer: Peer, is_paused: bool) -> usize {
        peer.link.tell(|session| {
            let hello = Hello { keepalive_interval_s: 5, is_server: true, reassembles: true };
            let _ = session.connected(NOW);
            let _ = session.on_message(NOW, &Message::Hello(hello));
        });
        if is_paused {
            assert!(peer.pause(NOW, NOW, Pause::Changes));
        }
        peer.owe_keepalive();
        let (piece, _) = peer.outbound.before_updates(&peer.link, 100).expect("a KEEPALIVE");
        piece.as_slice().len() - 4
    }

    #[test]
    fn a_keepalive_that_answers_none_is_not_taken_for_an_answer() {
        let remote = ([127, 0, 0, 1], 1).into();
        let config = bounds_tests::shard(Limits::default()).config;
        for (is_paused, payload_bytes) in [(false, 0), (true, 2)] {
            let peer = Peer::accepted(NOW, remote, &config, false);
            assert_eq!(payload_of_a_keepalive(peer, is_paused), payload_bytes);
            // A server takes none for an answer.
            let peer = Peer::dialled(NOW, remote, &config);
            assert_eq!(payload_of_a_keepalive(peer, is_paused), 0);
        }
    }
}
