//! One connection as its shard sees it, and the slots in which connections live.
//!
//! Owns what belongs to a single peer. Must never use an id again.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::ops::Range;
use std::rc::Rc;
use std::sync::Arc;

use smallvec::SmallVec;

use super::events::{Refusals, SessionEnd};
use super::groups::SubIndex;
use super::node::Uplink;
use super::pacing::{Pacer, TcpSample};
use super::window::Window;
use crate::log::{ChunkBytes, Frames};
use crate::session::Session;
use crate::types::{GroupClass, Pace, PeerClass, PeerId, ShardId, Time, Vni};
use crate::wire::{Deframer, Hello, Update};

/// Bytes to send. They stay where they are, unchanged, for as long as the piece lives.
#[derive(Clone, Debug)]
pub struct Piece {
    payload: Payload,
    range: Range<usize>,
    /// Whether it must be a segment of its own (`MSG_EOR`), and go out whole.
    pub end_of_record: bool,
}

#[derive(Clone, Debug)]
pub(super) enum Payload {
    Chunk(Rc<ChunkBytes>),
    Shared(Arc<Frames>),
    Gathered(Rc<Vec<u8>>),
}

impl Piece {
    pub(super) fn new(payload: Payload, range: Range<usize>, end_of_record: bool) -> Piece {
        Piece { payload, range, end_of_record }
    }

    /// The bytes. Moving the piece does not move them.
    pub fn as_slice(&self) -> &[u8] {
        match &self.payload {
            Payload::Chunk(chunk) => chunk.slice(self.range.clone()),
            Payload::Shared(frames) => &frames.bytes()[self.range.clone()],
            Payload::Gathered(bytes) => &bytes[self.range.clone()],
        }
    }

    /// What is left after the first `sent` bytes. If nothing is, and nobody else holds it, the buffer
    /// in which it was gathered.
    pub(super) fn rest(mut self, sent: usize) -> (Option<Piece>, Option<Rc<Vec<u8>>>) {
        assert!(sent <= self.range.len(), "no more is sent than was given");
        self.range.start += sent;
        if !self.range.is_empty() {
            return (Some(self), None);
        }
        match self.payload {
            Payload::Gathered(bytes) => (None, (Rc::strong_count(&bytes) == 1).then_some(bytes)),
            _ => (None, None),
        }
    }
}

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

/// How a connection came about.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Role {
    /// The peer dialled us.
    Accepted,
    /// We dialled it: a server.
    Dialled,
    /// There is none: this node's own route client.
    Own,
}

/// One connection.
pub(super) struct Peer {
    pub remote: SocketAddr,
    pub role: Role,
    pub session: Session,
    pub ending: Ending,

    pub deframer: Deframer,
    /// Input that waits while the reader is paused, and the change that it waits with.
    pub backlog: Vec<u8>,
    pub held: Option<Update>,
    pub paused: bool,
    /// The home that it waits for; None: for what became of its own changes.
    pub waits_for: Option<ShardId>,

    /// Its subscriptions, ascending by VNI.
    pub subscriptions: Vec<(Vni, SubIndex)>,
    /// Those with something to send, in the order of their turns; with their epochs, since one may
    /// have been removed meanwhile.
    pub pending: VecDeque<(SubIndex, u64)>,

    /// Home shards that know it as a source: a bit each.
    pub homes: SmallVec<[u64; 1]>,
    /// Routes that it announces, as far as their homes have said.
    pub routes: i64,
    /// ADDs, and changes of any kind, that homes have not dealt with yet.
    pub adds_under_way: i64,
    pub changes_under_way: i64,

    pub hello: Option<Hello>,
    pub keepalives_owed: u32,
    /// KEEPALIVEs that answer none, while we do not read what to answer.
    pub keepalives_unasked: u32,
    /// The SEND that the kernel works on, or what a short one left.
    pub in_flight: Option<Piece>,
    pub rest: Option<Piece>,
    pub in_flight_since: Time,
    /// Whether it is control frames.
    pub in_flight_is_control: bool,
    /// Whether its writer waits to be woken.
    pub writer_waits: bool,
    pub window: Window,
    pub pacer: Pacer,
    /// Until then window or pacer let nothing pass, and a timer is set.
    pub paced_until: Time,
    pub bytes_acked: u64,
    pub refusals: Refusals,
    pub established_at: Option<Time>,
    /// What the socket or the input says about the end, as long as there is none.
    pub detail: Option<String>,
    pub end: Option<SessionEnd>,
    /// Of those that are not accepted: what they are told besides UPDATEs.
    pub uplink: Option<Box<Uplink>>,
}

impl Peer {
    /// A connection that begins.
    pub fn new(remote: SocketAddr, session: Session, role: Role, pace: Pace, now: Time) -> Peer {
        Peer {
            remote,
            role,
            session,
            ending: Ending::No,
            deframer: Deframer::new(),
            backlog: Vec::new(),
            held: None,
            paused: false,
            waits_for: None,
            subscriptions: Vec::new(),
            pending: VecDeque::new(),
            homes: SmallVec::new(),
            routes: 0,
            adds_under_way: 0,
            changes_under_way: 0,
            hello: None,
            keepalives_owed: 0,
            keepalives_unasked: 0,
            in_flight: None,
            rest: None,
            in_flight_since: now,
            in_flight_is_control: false,
            writer_waits: false,
            window: Window::default(),
            pacer: Pacer::new(if role == Role::Accepted { pace } else { Pace::Off }),
            paced_until: Time(0),
            bytes_acked: 0,
            refusals: Refusals::default(),
            established_at: None,
            detail: None,
            end: None,
            uplink: (role != Role::Accepted).then(Box::default),
        }
    }

    /// What it is as a source of routes.
    pub fn class(&self) -> PeerClass {
        match self.role {
            Role::Accepted => self.session.peer_class(),
            Role::Dialled => PeerClass::Server,
            Role::Own => PeerClass::Own,
        }
    }

    /// The index of its subscription of `vni`.
    pub fn subscription(&self, vni: Vni) -> Option<SubIndex> {
        let at = self.subscriptions.binary_search_by_key(&vni, |&(vni, _)| vni).ok()?;
        Some(self.subscriptions[at].1)
    }

    /// The groups in which its subscriptions are.
    pub fn group_class(&self) -> GroupClass {
        match self.class() {
            PeerClass::Server => GroupClass::Server,
            PeerClass::Client | PeerClass::Own => GroupClass::Client,
        }
    }

    /// Remembers that `home` knows the peer as a source.
    pub fn note_home(&mut self, home: ShardId) {
        let (word, bit) = (home.index() / 64, home.index() % 64);
        if self.homes.len() <= word {
            self.homes.resize(word + 1, 0);
        }
        self.homes[word] |= 1 << bit;
    }

    /// The homes that know the peer as a source.
    pub fn homes(&self) -> impl Iterator<Item = ShardId> + use<> {
        let homes = self.homes.clone();
        (0..homes.len() * 64)
            .filter(move |&at| homes[at / 64] & (1 << (at % 64)) != 0)
            .map(|at| ShardId(at as u16))
    }

    /// Takes note of what the peer's TCP has acknowledged, if the sample tells.
    pub fn note_acked(&mut self, now: Time, sample: &TcpSample) {
        if sample.snd_mss > 0 && sample.bytes_acked != self.bytes_acked {
            self.bytes_acked = sample.bytes_acked;
            self.session.send_progressed(now);
        }
    }

    /// Whether something is to be sent, now or when its turn comes.
    pub fn has_output(&self) -> bool {
        self.hello.is_some()
            || self.keepalives_owed > 0
            || self.keepalives_unasked > 0
            || self.in_flight.is_some()
            || self.rest.is_some()
            || !self.pending.is_empty()
            || self
                .uplink
                .as_ref()
                .is_some_and(|uplink| uplink.owes_sync || !uplink.commands.is_empty())
    }
}

#[derive(Default)]
struct Slot {
    generation: u64,
    peer: Option<Box<Peer>>,
}

/// The connections of a shard.
pub(super) struct Peers {
    shard: ShardId,
    slots: Vec<Slot>,
    free: Vec<u32>,
}

impl Peers {
    pub fn new(shard: ShardId) -> Peers {
        Peers { shard, slots: Vec::new(), free: Vec::new() }
    }

    /// Number of connections not released yet.
    pub fn len(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    pub fn insert(&mut self, peer: Peer) -> PeerId {
        let slot = self.free.pop().unwrap_or_else(|| {
            self.slots.push(Slot::default());
            u32::try_from(self.slots.len() - 1).expect("below PeerId::SLOTS")
        });
        let place = &mut self.slots[slot as usize];
        place.peer = Some(Box::new(peer));
        PeerId::new(self.shard, slot, place.generation)
    }

    pub fn remove(&mut self, id: PeerId) {
        if self.find(id).is_some() {
            let place = &mut self.slots[id.slot() as usize];
            place.peer = None;
            place.generation += 1;
            self.free.push(id.slot());
        }
    }

    /// The peer, unless it was released (or lives on another shard).
    pub fn find(&self, id: PeerId) -> Option<&Peer> {
        let place = self.slots.get(id.slot() as usize)?;
        let same = place.generation == id.generation() && id.shard() == self.shard;
        place.peer.as_deref().filter(|_| same)
    }

    pub fn find_mut(&mut self, id: PeerId) -> Option<&mut Peer> {
        let place = self.slots.get_mut(id.slot() as usize)?;
        let same = place.generation == id.generation() && id.shard() == self.shard;
        place.peer.as_deref_mut().filter(|_| same)
    }

    /// The ids of all connections.
    pub fn ids(&self) -> Vec<PeerId> {
        let used = self.slots.iter().enumerate().filter(|(_, slot)| slot.peer.is_some());
        used.map(|(at, slot)| PeerId::new(self.shard, at as u32, slot.generation)).collect()
    }
}
