//! What the protocol knows, on its way to another process of this reflector, and there.
//!
//! Owns what a successor has to know. Must never hand over what the engine tells anew: the successor reads all of it, and
//! until it has, what was read before stands as if the engine had been away for a moment.

use std::time::Duration;

use super::{Phase, Protocol};
use crate::handover::item::What;
use crate::handover::{self, HandoverError, Item};
use crate::types::Time;

impl Protocol {
    /// As it stands: this reflector first, then all others.
    pub(in super::super) fn told(&self, now: Time) -> Vec<Item> {
        let left_ms = |until: Time| until.since(now).as_millis() as u64;
        let stale = &self.own_stale;
        let fabric = handover::Fabric {
            incarnation: self.config.incarnation,
            generation: self.others.generation(),
            restart_left_ms: if self.restart_passed { 0 } else { left_ms(self.restart_until) },
            own_stale: stale
                .former
                .iter()
                .chain(stale.is_taken.then_some(&stale.generation))
                .copied()
                .collect(),
            hold_left_ms: self.hold_until.filter(|until| *until != Time::NEVER).map(left_ms),
        };
        let others = self.others.told().map(What::Reflector);
        [What::Fabric(fabric)].into_iter().chain(others).map(Item::from).collect()
    }

    /// This is how it stood in the process of which this one takes over all connections.
    ///
    /// # Errors
    /// If that makes no sense.
    ///
    /// # Panics
    /// If it was linked already.
    pub(in super::super) fn inherit(
        &mut self,
        now: Time,
        items: Vec<Item>,
    ) -> Result<(), HandoverError> {
        assert!(self.phase == Phase::Unlinked && self.reading.number == 0, "it has not begun");
        let mut whats = items.into_iter().filter_map(|item| item.what);
        let Some(What::Fabric(fabric)) = whats.next() else {
            return Err(HandoverError::Nonsense("a fabric comes before its reflectors"));
        };
        // Its clock may have been ahead of ours.
        self.config.incarnation = self.config.incarnation.max(fabric.incarnation.saturating_add(1));
        self.restart_until = now.after(Duration::from_millis(fabric.restart_left_ms));
        self.others.begin_behind(fabric.generation);
        self.own_stale.former = fabric.own_stale;
        if let Some(generation) = self.own_stale.former.pop() {
            self.own_stale.is_taken = true;
            self.own_stale.generation = generation;
        }
        for what in whats {
            match what {
                What::Reflector(reflector) => self.others.inherit(reflector)?,
                _ => return Err(HandoverError::Nonsense("a fabric has reflectors only")),
            }
        }
        let hold = fabric.hold_left_ms.map_or(self.config.timers.hold, Duration::from_millis);
        self.hold_until = Some(now.after(hold.min(self.config.timers.hold)));
        Ok(())
    }
}
