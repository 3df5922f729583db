//! What a shard looks like, for whoever asks.
//!
//! Owns the pieces in which that is told: each is small, since updates wait meanwhile. Must never change anything.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use super::ends::EndsPiece;
use super::groups::{Groups, Stand, SubIndex};
use super::peer::Peer;
use super::{PaceCounters, Shard};
use crate::rib::{RoutesPiece, VnisPiece};
use crate::session::{Session, State};
use crate::types::{GroupClass, Pace, PeerClass, PeerId, SourceId, Time, Vni};

/// Peers, subscriptions or groups that one piece looks at.
const PER_PIECE: usize = 4_096;

/// A peer.
#[derive(Clone, Debug)]
pub struct PeerView {
    /// Its id: new with each connection.
    pub id: PeerId,
    /// What it is as a source of routes: perhaps what a lost connection was.
    pub source: SourceId,
    /// Its address; None if it lives in this process.
    pub remote: Option<SocketAddr>,
    /// What it is as a source of routes.
    pub class: PeerClass,
    /// How its session stands.
    pub state: State,
    /// Whether we connected to it.
    pub is_dialled: bool,
    /// Since when it is established.
    pub established_at: Option<Time>,
    /// The interval of KEEPALIVEs, in seconds; 0 if it lives in this process.
    pub keepalive_interval_s: u32,
    /// VNIs that it subscribes to, ascending.
    pub vnis: Vec<Vni>,
    /// Routes that it announces; how many of them policy withholds from the tables; and whether some may be those that
    /// it announced before it was lost, and not again.
    pub routes: u64,
    /// See `routes`.
    pub routes_withheld: u64,
    /// See `routes`.
    pub is_stale: bool,
    /// What was refused of what it said: how much of which kind ([`Counters::REFUSED`](super::Counters::REFUSED)).
    pub refused: Vec<(&'static str, u64)>,
    /// UPDATEs that it sent, those not counted that were refused or make no sense.
    pub updates_received: u64,
    /// UPDATEs that it was sent.
    pub updates_sent: u64,
    /// Bytes that it has still to be sent, as far as they lie in a log or a base; for VNIs in which it is slow, not.
    pub pending_bytes: u64,
    /// Bytes of its input that wait: partial frames, and what came while it was paused.
    pub input_bytes: usize,
    /// VNIs in which it is so far behind that it will be told the difference only.
    pub slow_vnis: usize,
    /// For how long it has been slow, in this or another way.
    pub slow_for: Option<Duration>,
    /// Whether it is not heard for now, since its changes are not dealt with yet.
    pub is_paused: bool,
    /// Whether it puts frames together that come in parts.
    pub reassembles: bool,
    /// How fast it is fed, if it does not; and what that took.
    pub pace: Pace,
    /// See `pace`.
    pub pacing: PaceCounters,
}

/// Some peers.
#[derive(Clone, Debug, Default)]
pub struct PeersPiece {
    /// The peers, by slot.
    pub peers: Vec<PeerView>,
    /// From where to go on; None at the end.
    pub next: Option<usize>,
}

/// Subscribers of one VNI at one shard.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SubscribersView {
    /// The VNI.
    pub vni: Vni,
    /// Which of them.
    pub class: GroupClass,
    /// How many there are.
    pub subscribers: usize,
    /// How many of those are so far behind that they will be told the difference only.
    pub slow: usize,
}

/// The subscribers of some VNIs.
#[derive(Clone, Debug, Default)]
pub struct SubscribersPiece {
    /// By group.
    pub groups: Vec<SubscribersView>,
    /// From where to go on; None at the end.
    pub next: Option<usize>,
}

impl Shard {
    /// Peers, from a slot on (0 is the first one). One that stays all the while one asks for one piece after the other
    /// is told once.
    pub fn peers_piece(&self, now: Time, from: usize) -> PeersPiece {
        let mut piece = PeersPiece::default();
        let mut looked_at = 0;
        for slot in from..self.peers.slots() {
            if looked_at >= PER_PIECE {
                piece.next = Some(slot);
                break;
            }
            looked_at += 1;
            if let Some((id, peer)) = self.peers.at(slot) {
                looked_at += peer.subscriptions.len();
                piece.peers.push(self.view(now, id, peer));
            }
        }
        piece
    }

    /// Sessions that ended here within the last hour, from behind an address on.
    pub fn ends_piece(&self, now: Time, behind: Option<IpAddr>) -> EndsPiece {
        self.ends.piece(now, behind)
    }

    /// The VNIs of which it is the home; see [`VnisPiece`].
    pub fn vnis_piece(&self, at: usize) -> VnisPiece {
        self.rib.vnis_piece(at)
    }

    /// Routes of a VNI of which it is the home; see [`RoutesPiece`].
    pub fn routes_piece(&self, vni: Vni, from: u32) -> RoutesPiece {
        self.rib.routes_piece(vni, from)
    }

    /// The subscribers that are peers of this shard, from a place on (0 is the first one).
    pub fn subscribers_piece(&self, from: usize) -> SubscribersPiece {
        self.groups.subscribers(from)
    }

    fn view(&self, now: Time, id: PeerId, peer: &Peer) -> PeerView {
        let session = peer.link.session();
        let (mut pending_bytes, mut slow_vnis) = (0, 0);
        for &sub in peer.subscriptions.values() {
            match self.groups.backlog(sub) {
                Some(bytes) => pending_bytes += bytes,
                None => slow_vnis += 1,
            }
        }
        PeerView {
            id,
            source: peer.origin.source(),
            remote: session.map(|_| peer.record.remote()),
            class: peer.link.class(),
            state: session.map_or(State::Established, Session::state),
            is_dialled: peer.link.is_dialled(),
            established_at: peer.record.established_at(),
            keepalive_interval_s: session.map_or(0, Session::keepalive_interval_s),
            vnis: peer.subscriptions.keys().copied().collect(),
            routes: peer.inbound.routes(),
            routes_withheld: peer.inbound.withheld(),
            is_stale: peer.origin.is_stale(),
            refused: peer.record.refused(),
            updates_received: peer.inbound.updates_received(),
            updates_sent: peer.outbound.updates_sent(),
            pending_bytes,
            input_bytes: peer.inbound.kept_bytes(),
            slow_vnis,
            slow_for: peer.record.slow_for(now),
            is_paused: peer.inbound.is_paused(),
            reassembles: peer.link.reassembles(),
            pace: self.config.pace,
            pacing: *peer.outbound.pace_counters(),
        }
    }
}

impl Groups {
    /// Bytes that lie before a subscriber in a base and its log; None if it lags.
    pub(super) fn backlog(&self, sub: SubIndex) -> Option<u64> {
        let subscription = &self.subscriptions[sub];
        let before = subscription.block_bytes_left() as u64;
        match &subscription.stand {
            Stand::Waiting | Stand::AtEnd => Some(before),
            Stand::Reading(cursor) => {
                let end = self.groups[subscription.group as usize].log.end();
                Some(before + end - cursor.position())
            }
            Stand::Lagging(_) => None,
        }
    }

    fn subscribers(&self, from: usize) -> SubscribersPiece {
        let capacity = self.groups.capacity();
        let to = from.saturating_add(PER_PIECE).min(capacity);
        let groups = (from..to).filter_map(|at| self.groups.get(at)).map(|group| SubscribersView {
            vni: group.key.vni,
            class: group.key.class,
            subscribers: group.members.iter().map(Vec::len).sum(),
            slow: group.lagging(),
        });
        SubscribersPiece { groups: groups.collect(), next: (to < capacity).then_some(to) }
    }
}
