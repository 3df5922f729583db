//! What others do to routes while we look.
//!
//! Owns what follows from it. Must never take an event for the whole truth: what counts is the next
//! dump, and that no operation can hit a foreign route.

use super::{Form, NexthopId, Plan, Prefix, SeenRoute};

/// What somebody else did to a route.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Change {
    /// Added before the others of the prefix.
    AddedFirst,
    /// Added behind the others.
    AddedLast,
    /// Put in the place of another.
    Replaced,
    /// Deleted.
    Removed,
}

impl Plan {
    /// Whether the plan wants to hear of a change at this prefix.
    pub(crate) fn matters(&self, prefix: &Prefix, is_of_our_protocol: bool) -> bool {
        is_of_our_protocol && self.is_mapped(prefix.table) || self.entries.contains_key(prefix)
    }

    /// Somebody else has changed a route. Returns whether the kernel should be dumped.
    pub(crate) fn changed_by_others(&mut self, seen: &SeenRoute, change: Change) -> bool {
        let is_ours = match &seen.form {
            Some(Form::Object(id)) => self.ours.covers(*id),
            Some(_) => self.ours.has_link(seen.link) && self.is_mapped(seen.prefix.table),
            None => false,
        };
        let Some(entry) = self.entries.get_mut(&seen.prefix) else {
            return is_ours && change != Change::Removed;
        };
        if is_ours {
            return change != Change::Removed || !entry.kernel.is_empty();
        }
        let mut others = entry.others;
        let is_installed = !entry.kernel.is_empty();
        match change {
            Change::Removed => {
                if entry.conflict {
                    entry.waits_for_retry = false; // ours may come in now
                    self.mark(seen.prefix);
                }
                others.are_any()
            }
            Change::Replaced => is_installed,
            Change::AddedFirst | Change::AddedLast => {
                if is_installed {
                    others.meet(change == Change::AddedFirst, seen.is_of_our_protocol);
                    self.set_others(seen.prefix, others);
                }
                false
            }
        }
    }

    /// Whether routes that name this object are ours.
    pub(crate) fn covers(&self, id: NexthopId) -> bool {
        self.ours.covers(id)
    }
}
