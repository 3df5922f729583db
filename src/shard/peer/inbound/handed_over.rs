//! The input of a peer on its way to another process.

use super::{Inbound, Pause};
use crate::handover;
use crate::types::Time;
use crate::wire::{Update, encode_update};

impl Inbound {
    /// Tells what was read and not processed, and what the peer announces.
    pub(crate) fn hand_over(&self, peer: &mut handover::Peer) {
        if let Some(Pause::Quota(Update { action, vni, route })) = self.pause {
            encode_update(&mut peer.input, action, vni, &route);
        }
        peer.input.extend_from_slice(self.deframer.buffered());
        peer.input.extend_from_slice(&self.backlog);
        peer.routes = self.quota.routes;
        peer.routes_stale = self.quota.stale;
        peer.routes_withheld = self.quota.withheld;
        peer.updates_received = self.updates_received;
    }

    /// What another process has told. Its rate is not known: it may send as if it had been quiet.
    pub(crate) fn restore(&mut self, now: Time, peer: &mut handover::Peer) {
        self.backlog = std::mem::take(&mut peer.input);
        self.read_at = now;
        self.quota.routes = peer.routes;
        self.quota.stale = peer.routes_stale;
        self.quota.withheld = peer.routes_withheld;
        self.updates_received = peer.updates_received;
    }
}
