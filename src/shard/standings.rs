//! How the peers of a shard stand in one VNI, for whoever asks.
//!
//! Owns the pieces in which that is told: each is small, since updates wait meanwhile. Must never change anything.

use std::net::SocketAddr;

use super::Shard;
use super::groups::{Groups, Stand, SubIndex};
use super::peer::Peer;
use crate::log::Reader;
use crate::session::{Session, State};
use crate::types::{GroupClass, PeerId, ReflectOwn, SourceId, Vni};

/// Peers that one piece looks at: for each the VNI is looked up.
const PER_PIECE: usize = 4_096;

/// How far a subscriber is with what there is to be told of a VNI.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Standing {
    /// Its subscription is not answered yet.
    Joining,
    /// It was sent everything.
    UpToDate,
    /// So many bytes have still to be sent to it.
    Behind(u64),
    /// It is so far behind that it will be told the difference only.
    Slow,
}

/// A peer, and how it stands in the VNI that was asked for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct StandingView {
    /// Its id.
    pub id: PeerId,
    /// What it is as a source of routes.
    pub source: SourceId,
    /// As whom it hears.
    pub reader: Reader,
    /// Its address; None if it lives in this process.
    pub remote: Option<SocketAddr>,
    /// How its session stands.
    pub state: State,
    /// Whether we connected to it.
    pub is_dialled: bool,
    /// How it stands in the VNI, among which subscribers; None if it does not subscribe.
    pub subscribed: Option<(GroupClass, Standing)>,
}

/// Some peers.
#[derive(Clone, Debug, Default)]
pub struct StandingsPiece {
    /// The peers, by slot.
    pub peers: Vec<StandingView>,
    /// From where to go on; None at the end.
    pub next: Option<usize>,
}

impl Shard {
    /// All peers of this shard, and how they stand in a VNI, from a slot on (0 is the first one). One that stays all
    /// the while one asks for one piece after the other is told once.
    pub fn standings_piece(&self, vni: Vni, from: usize) -> StandingsPiece {
        let slots = self.peers.slots();
        let to = from.saturating_add(PER_PIECE).min(slots);
        let peers = (from..to)
            .filter_map(|slot| self.peers.at(slot))
            .map(|(id, peer)| self.standing_of(id, peer, vni));
        StandingsPiece { peers: peers.collect(), next: (to < slots).then_some(to) }
    }

    /// Which of its own routes a peer gets back: what [`Audience::of`](super::Audience::of) has to know.
    pub fn reflect_own(&self) -> ReflectOwn {
        self.config.reflect_own
    }

    fn standing_of(&self, id: PeerId, peer: &Peer, vni: Vni) -> StandingView {
        let session = peer.link.session();
        StandingView {
            id,
            source: peer.origin.source(),
            reader: peer.reader(),
            remote: session.map(|_| peer.record.remote()),
            state: session.map_or(State::Established, Session::state),
            is_dialled: peer.link.is_dialled(),
            subscribed: peer.subscriptions.get(&vni).map(|sub| self.groups.standing(*sub)),
        }
    }
}

impl Groups {
    fn standing(&self, sub: SubIndex) -> (GroupClass, Standing) {
        let subscription = &self.subscriptions[sub];
        let standing = match (&subscription.stand, self.backlog(sub)) {
            (Stand::Waiting, _) => Standing::Joining,
            (_, None) => Standing::Slow,
            (_, Some(0)) => Standing::UpToDate,
            (_, Some(bytes)) => Standing::Behind(bytes),
        };
        (self.groups[subscription.group as usize].key.class, standing)
    }
}
