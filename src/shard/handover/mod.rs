//! Handing all peers, routes and subscriptions over to the shards of another process, which go on amid everything.
//!
//! Owns the order: freeze, work off what is under way between shards, tell everything, or thaw as if nothing had been. Must
//! never change what a peer that stays is told: until the successor has said that it has all, this process may go on.
//!
//! What goes over ([`Item`](crate::handover::Item)) is told by [`Shard::export`], piece by piece and phase by phase, since
//! the successor's tables have to be filled before any subscription is there: then nothing of it makes a record. Ids of
//! sources and speakers stay what they are (the successor gives out higher generations, and has the same seed), so what was
//! encoded for somebody is read by the same one there. [`Import`] turns items into [`Order`]s for the successor's shards,
//! of which there may be more or less.
//!
//! Subscriptions take what they share with them shared: a base that many read goes over once.

mod export;
mod groups;
mod import;
mod restore;

use super::peer::{Ending, Pause};
use super::{PeerId, Shard, ShardId, Time};
use crate::policy::Policy;
use std::collections::BTreeMap;
use std::sync::Arc;

pub use export::Export;
pub use import::{Import, Order};

/// Whether and since when a shard stands still.
#[derive(Default)]
pub(super) struct Handover {
    pub(super) is_frozen: bool,
    /// To other shards, and from them.
    pub(super) mails_sent: u64,
    pub(super) mails_taken: u64,
    /// A successor, which has not begun.
    is_restoring: bool,
    /// A policy that there is to be once it goes on.
    policy: Option<Option<Arc<Policy>>>,
    /// Where the export of this shard stands.
    exporting: Option<Box<export::Exporting>>,
    /// Peers by the ids that they had in the other process.
    peers: BTreeMap<PeerId, PeerId>,
}

/// How far a frozen shard is with what is under way.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Stillness {
    /// It has nothing to do, unless mail comes.
    pub is_still: bool,
    /// Mail that it has written to other shards, and taken from them, since its start: if all are still, and have taken all
    /// that was written, and that was so the last time, then all is done.
    pub mails_sent: u64,
    /// See `mails_sent`.
    pub mails_taken: u64,
}

impl Shard {
    /// From now on nobody is heard, nothing is sent, and no timer goes off, until [`Shard::thaw`]. What is under way between
    /// shards goes on with [`Shard::turn`].
    pub fn freeze(&mut self, now: Time) {
        self.handover.is_frozen = true;
        for id in self.peers.ids() {
            self.pause(now, id, Pause::Handover);
        }
    }

    /// All goes on where it stood still; in a successor, with what it was given.
    pub fn thaw(&mut self, now: Time) {
        let is_successor = std::mem::take(&mut self.handover.is_restoring);
        self.handover.is_frozen = false;
        self.handover.exporting = None;
        self.handover.peers.clear();
        self.rib.set_restoring(false);
        let policy = self.handover.policy.take();
        if let Some(policy) = policy {
            self.rib.set_policy(policy);
        } else if is_successor && (self.config.policy.is_some() || self.rib.withheld() > 0) {
            self.rib.set_policy(self.config.policy.clone());
        }
        for id in self.peers.ids() {
            let Some(peer) = self.peers.find_mut(id) else { continue };
            // One by one, or what all have said meanwhile would be dealt with in one turn.
            if peer.inbound.wait_instead(&Pause::Handover, Pause::Rate(now)) {
                self.rated.push(std::cmp::Reverse((now, id)));
            }
            let is_stale = peer.origin.is_stale();
            if peer.outbound.has_output() {
                self.peers.wake_writer(id);
            }
            if is_successor && is_stale {
                // Not before all homes know it.
                self.sweep_due(now, id);
            }
            self.note_deadline(id);
        }
    }

    /// Whether it stands still.
    pub fn is_frozen(&self) -> bool {
        self.handover.is_frozen
    }

    /// How far it is with what is under way.
    pub fn stillness(&self) -> Stillness {
        let is_still = self.handover.is_frozen
            && self.inbox.iter().flatten().all(|requests| requests.is_empty())
            && !self.rib.has_jobs()
            && self.outboxes.is_still()
            && self.leaving.is_empty()
            && self.received.is_empty()
            && self.departing.is_empty()
            && self.refused_routes.is_empty()
            && !self.groups.has_again()
            && self.peers.ids().iter().all(|id| !self.is_sending(*id));
        let Handover { mails_sent, mails_taken, .. } = self.handover;
        Stillness { is_still, mails_sent, mails_taken }
    }

    /// No id of a connection that it has given out has a generation as high as this.
    pub fn next_generation(&self) -> u64 {
        self.peers.next_generation()
    }

    /// It is about to be given what another process had, and stands still until then. Ids that it gives out itself have
    /// this generation at least.
    ///
    /// # Panics
    /// If it has had a peer already.
    pub fn begin_restoring(&mut self, now: Time, generation: u64) {
        self.peers.begin_at(generation);
        self.handover.is_restoring = true;
        self.rib.set_restoring(true);
        self.freeze(now);
    }

    /// A policy has to wait while what goes over is told, or comes: it would change tables behind what subscribers know.
    pub(super) fn defer_policy(&mut self, policy: Option<Arc<Policy>>) {
        self.handover.policy = Some(policy);
    }

    fn is_sending(&self, id: PeerId) -> bool {
        let peer = self.peers.find(id).filter(|peer| peer.ending != Ending::Closed);
        peer.is_some_and(|peer| peer.outbound.is_sending())
    }

    pub(super) fn is_of_another_shard(&self, from: ShardId) -> bool {
        from != self.config.id && from.index() < usize::from(self.config.shards)
    }
}
