//! Subscribers that may see more than they were told: they are told the table again, when they have heard all else.
//!
//! Owns how far each of them is. Must never let one be told a table out of the order of its records.

use super::groups::{Again, Groups, Ready, Stand, SubIndex};
use crate::log::{FramesCursor, Reader};
use crate::rib::{Joined, UpdateGroup};
use crate::types::PeerId;

impl Groups {
    /// From now on a subscriber hears as this.
    pub(super) fn hear_as(&mut self, sub: SubIndex, reader: Reader) {
        self.subscriptions[sub].reader = reader;
    }

    /// A subscriber may see more than it was told, unless it hears as one already. What it is told from its join on is
    /// all that it may see.
    pub(super) fn look_again(&mut self, sub: SubIndex) {
        let subscription = &mut self.subscriptions[sub];
        if subscription.again != Again::No || subscription.reader.is_one() {
            return;
        }
        match subscription.stand {
            Stand::Waiting => subscription.reader = subscription.reader.become_one(),
            Stand::AtEnd | Stand::Reading(_) | Stand::Lagging(_) => {
                subscription.again = Again::Wanted;
                self.again.push((sub, subscription.epoch));
            }
        }
    }

    /// It has heard all that there is to hear: now it may ask for the table again, if it has to.
    pub(super) fn note_told(&mut self, sub: SubIndex) {
        let subscription = &self.subscriptions[sub];
        if subscription.again == Again::Wanted && matches!(subscription.stand, Stand::AtEnd) {
            self.again.push((sub, subscription.epoch));
        }
    }

    /// Whether a subscription has to ask for the table again.
    pub(super) fn has_again(&self) -> bool {
        !self.again.is_empty()
    }

    /// A subscription that has to ask for the table again, with its epoch.
    pub(super) fn take_again(&mut self) -> Option<(SubIndex, u64)> {
        self.again.pop()
    }

    /// The group and the peer of a subscription, if it is still that one and has to be told the table again.
    pub(super) fn who(&mut self, sub: SubIndex, epoch: u64) -> Option<(UpdateGroup, PeerId)> {
        let subscription = self.find(sub, epoch).filter(|it| it.again == Again::Wanted)?;
        let (group, peer) = (subscription.group, subscription.peer);
        Some((self.groups[group as usize].key, peer))
    }

    /// It has asked for that.
    pub(super) fn asked_again(&mut self, sub: SubIndex, epoch: u64) {
        self.subscriptions[sub].again = Again::Asked(epoch);
    }

    /// The table as it is now. If the subscriber has heard all up to now it reads that, and hears as one from then on;
    /// else it has to ask once more, when it has.
    pub(super) fn joined_again(&mut self, sub: SubIndex, joined: Joined) -> Option<Ready> {
        let subscription = &mut self.subscriptions[sub];
        if !matches!(subscription.stand, Stand::AtEnd) || subscription.block.is_some() {
            subscription.again = Again::Wanted;
            return None;
        }
        subscription.reader = subscription.reader.become_one();
        subscription.again = Again::Reading;
        subscription.blocks = joined.blocks;
        subscription.block =
            subscription.blocks.find(|block| !block.is_empty()).map(FramesCursor::new);
        subscription.block.as_ref()?;
        subscription.ready(sub, false)
    }
}
