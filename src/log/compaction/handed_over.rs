//! A compaction and its laggards on their way to another process.
//!
//! Owns what of them is told, and how they come to be anew from that. Must never tell more of a laggard than of what it has
//! to be told: what it has heard the next process need not know.

use std::rc::Rc;

use ahash::RandomState;

use super::{Bits, Compaction, GoneTold, Laggard, LiveBytes, PAGE_BITS};
use crate::log::runs::Scope;

/// A route that changed: its number here, its key, and who sees it now.
pub(crate) struct ChangedRoute<'a> {
    /// It stays as long as some laggard has to be told of the route.
    pub number: u32,
    /// As UPDATEs have it.
    pub key: &'a [u8],
    /// None: nobody.
    pub seen_by: Option<Scope>,
}

impl Compaction {
    /// Of nothing yet, with nothing to be passed: for laggards of another process.
    pub(crate) fn restored(hasher: RandomState, live: LiveBytes) -> Compaction {
        let mut compaction = Compaction::empty(hasher, live);
        // All of them have still to be told of what is gone.
        compaction.passed = 1;
        compaction
    }

    /// The first route from this number on.
    pub(crate) fn changed_from(&self, number: u32) -> Option<ChangedRoute<'_>> {
        let numbers = number..u32::try_from(self.slots.len()).expect("a VNI has below 2^32 routes");
        let mut used = numbers.map(|number| (number, &self.slots[number as usize]));
        let (number, slot) = used.find(|(_, slot)| !slot.key.is_empty())?;
        Some(ChangedRoute { number, key: &slot.key, seen_by: slot.seen_by })
    }

    /// The first route from this number on of which a laggard has to be told.
    pub(crate) fn untold_from(&self, laggard: &Laggard, number: u32) -> Option<u32> {
        let mut from = number % PAGE_BITS;
        for page in number / PAGE_BITS..self.pages() {
            if !laggard.told.shares(page, &self.toggled)
                && let Some(bit) = self.toggled.first_difference(page, from, &laggard.told, None)
            {
                return Some(page * PAGE_BITS + bit);
            }
            from = 0;
        }
        None
    }

    /// A route that changed in another process, one of whose shards says who sees it; of the laggard for which it is
    /// restored that is true. Returns its number here.
    pub(crate) fn restore_route(&mut self, key: &[u8], seen_by: Option<Scope>) -> u32 {
        let slots = self.index.len();
        let at = self.find_or_insert(key);
        // What another shard of that process said of it did not name whoever was not at that shard.
        if self.index.len() > slots || matches!(seen_by, Some(Scope::AllBut(_))) {
            self.set_seen_by(at, seen_by);
            self.count();
        }
        at
    }

    /// Somebody who has still to be told of these routes, and of these it has passed over an odd number of frames.
    pub(crate) fn restore_laggard(
        &self,
        untold: impl Iterator<Item = u32>,
        passed_over: impl Iterator<Item = u32>,
    ) -> Laggard {
        let mut told = Bits::clone(&self.toggled);
        untold.for_each(|at| told.toggle(at));
        let mut over: Option<Box<Bits>> = None;
        for at in passed_over {
            over.get_or_insert_with(|| Box::new(told.another())).toggle(at);
        }
        let gone = GoneTold { told_at: 0, round_at: 0, page: 0 };
        Laggard { told: Rc::new(told), next: 0, gone, passed_over: over }
    }
}

impl Laggard {
    /// The same for all who have been told the same.
    pub(crate) fn told_id(&self) -> u64 {
        Rc::as_ptr(&self.told) as u64
    }

    /// Whether it has passed over frames of its base.
    pub(crate) fn has_passed_over(&self) -> bool {
        self.passed_over.is_some()
    }

    /// The first route from this number on of which it has passed over an odd number of frames.
    pub(crate) fn passed_over_from(&self, number: u32) -> Option<u32> {
        let passed_over = self.passed_over.as_ref()?;
        (number..passed_over.end()).find(|&at| passed_over.has(at))
    }
}
