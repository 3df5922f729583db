//! What became of an operation, and what follows from it.
//!
//! Owns the meaning of error numbers and the retry policy. Must never read a clock: the time is
//! handed in.

use std::cmp::Reverse;
use std::time::Duration;

use super::entry::Others;
use super::{Form, Op, Place, Plan, Prefix, Retry};
use crate::types::Time;

/// The first retry of a route comes after this time, and each further one after twice as long.
const RETRY_FIRST: Duration = Duration::from_millis(100);
/// The longest time between two attempts.
const RETRY_MAX: Duration = Duration::from_secs(30);
/// Time between two attempts to make or delete a nexthop object.
const RETRY_NEXTHOP: Duration = Duration::from_secs(1);

/// The kernel's answer to an operation.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Outcome {
    /// It is done.
    Done,
    /// It was refused with this (positive) error number, and nothing changed.
    Failed(i32),
    /// The answer was lost: it may be done or not.
    Unknown,
}

/// What is worth telling an operator about an outcome.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Report {
    /// Nothing: it went well, or what was to be deleted is gone already.
    Nothing,
    /// A foreign route is in the way; it stays, and ours waits.
    Conflict(Prefix),
    /// The request was refused with this error number; it is tried again later.
    Refused(i32),
    /// The kernel has no nexthop objects; routes carry their own encapsulation from now on.
    NoNexthopObjects,
    /// The answer was lost; the kernel is dumped before anything else is done.
    Lost,
}

/// What is worth telling an operator, though no operation failed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Notice {
    /// Beside ours there is a foreign route of the same prefix.
    Shared {
        /// Where.
        prefix: Prefix,
        /// Whether ours is the first one, which the kernel uses.
        ours_counts: bool,
    },
}

impl Plan {
    /// Takes note of what became of an operation of [`Plan::next_batch`]. Results may come in any
    /// order.
    ///
    /// # Panics
    /// If no operation is under way.
    pub(crate) fn finished(&mut self, op: &Op, outcome: Outcome, now: Time) -> Report {
        self.in_flight = self.in_flight.checked_sub(1).expect("each operation ends once");
        self.count_failure(outcome);
        self.unknown |= outcome == Outcome::Unknown;
        match op {
            Op::AddHop { id, .. } | Op::AddGroup { id, .. } => match outcome {
                Outcome::Done => self.nexthops.added(*id),
                Outcome::Failed(libc::EEXIST) => self.nexthops.collided(*id),
                Outcome::Failed(libc::EOPNOTSUPP) => {
                    self.nexthops.collided(*id);
                    self.without_nexthop_objects();
                    return Report::NoNexthopObjects;
                }
                Outcome::Failed(_) => {
                    self.suspect = true; // a member of the group may be gone
                    self.nexthops.add_failed(*id);
                    self.retry(now.after(RETRY_NEXTHOP), Retry::Nexthop(*id));
                }
                Outcome::Unknown => {}
            },
            Op::DeleteNexthop { id } => match outcome {
                Outcome::Done | Outcome::Failed(libc::ENOENT) => self.nexthops.deleted(*id),
                Outcome::Failed(_) => {
                    self.nexthops.delete_failed(*id);
                    self.retry(now.after(RETRY_NEXTHOP), Retry::Nexthop(*id));
                }
                Outcome::Unknown => {}
            },
            Op::Add { prefix, .. } | Op::Delete { prefix, .. } => {
                return self.route_finished(op, *prefix, outcome, now);
            }
        }
        match outcome {
            Outcome::Done => Report::Nothing,
            // Both need nothing but another try, or none.
            Outcome::Failed(libc::EEXIST | libc::ENOENT) => Report::Nothing,
            Outcome::Failed(errno) => Report::Refused(errno),
            Outcome::Unknown => Report::Lost,
        }
    }

    fn route_finished(&mut self, op: &Op, prefix: Prefix, outcome: Outcome, now: Time) -> Report {
        let entry = self.entries.get_mut(&prefix).expect("an entry outlives its operation");
        assert!(std::mem::take(&mut entry.in_flight), "the entry has an operation under way");
        let was_installed = !entry.kernel.is_empty();
        match (op, outcome) {
            (Op::Add { form, place, .. }, Outcome::Done) => {
                let counter = match was_installed {
                    true => &mut self.counters.replaced,
                    false => &mut self.counters.added,
                };
                *counter += 1;
                let at = if *place == Place::First { 0 } else { entry.kernel.len() };
                entry.kernel.insert(at, form.clone());
                if *place == Place::Last && entry.others.behind {
                    let others = Others { before: true, behind: false, ..entry.others };
                    self.set_others(prefix, others);
                }
                self.succeeded(prefix, was_installed);
                return Report::Nothing;
            }
            // If it is gone already there is nothing left to delete.
            (
                Op::Delete { form, .. },
                Outcome::Done | Outcome::Failed(libc::ESRCH | libc::ENOENT),
            ) => {
                if let Some(at) = entry.kernel.iter().position(|one| one == form) {
                    entry.kernel.remove(at);
                    let is_last = entry.kernel.is_empty() && outcome == Outcome::Done;
                    self.counters.deleted += u64::from(is_last);
                }
                self.release_form(form);
                self.succeeded(prefix, was_installed);
                return Report::Nothing;
            }
            _ => {}
        }
        if let Op::Add { form, .. } = op {
            self.release_form(form);
        }
        let report = self.judge_failure(op, prefix, outcome);
        let entry = self.entries.get_mut(&prefix).expect("still there");
        entry.failures = entry.failures.saturating_add(1);
        let wait = RETRY_FIRST.saturating_mul(1 << u32::from(entry.failures - 1).min(16));
        let retries_already = std::mem::replace(&mut entry.waits_for_retry, true);
        if !retries_already {
            self.retry(now.after(wait.min(RETRY_MAX)), Retry::Route(prefix));
        }
        self.mark(prefix); // if nobody wants it any more there is nothing to wait for
        report
    }

    fn judge_failure(&mut self, op: &Op, prefix: Prefix, outcome: Outcome) -> Report {
        let entry = self.entries.get_mut(&prefix).expect("the caller has an entry");
        let is_conflict = outcome == Outcome::Failed(libc::EEXIST)
            && matches!(op, Op::Add { place: Place::Alone, .. });
        let was_conflict = std::mem::replace(&mut entry.conflict, is_conflict);
        self.counters.conflicts += u64::from(is_conflict);
        self.counters.conflicts -= u64::from(was_conflict);
        self.counters.conflicts_total += u64::from(is_conflict);
        match outcome {
            _ if is_conflict && was_conflict => Report::Nothing,
            _ if is_conflict => Report::Conflict(prefix),
            // Behind or before another, only the same route of ours is refused so.
            Outcome::Failed(libc::EEXIST) => {
                self.suspect = true;
                Report::Nothing
            }
            Outcome::Failed(errno) => {
                // An object that is not there any more is refused as an invalid argument.
                let names_object = matches!(op, Op::Add { form: Form::Object(_), .. });
                let is_suspect = names_object && matches!(errno, libc::EINVAL | libc::ENOENT);
                self.suspect |= is_suspect;
                match is_suspect && entry.failures == 0 {
                    true => Report::Nothing, // the verification that follows will tell
                    false => Report::Refused(errno),
                }
            }
            _ => Report::Lost,
        }
    }

    /// An operation went well, and `kernel` says so: what is wanted may have changed meanwhile.
    fn succeeded(&mut self, prefix: Prefix, was_installed: bool) {
        let entry = self.entries.get_mut(&prefix).expect("the caller has an entry");
        self.counters.conflicts -= u64::from(std::mem::take(&mut entry.conflict));
        entry.failures = 0;
        let is_installed = !entry.kernel.is_empty();
        self.counters.installed += u64::from(is_installed);
        self.counters.installed -= u64::from(was_installed);
        if !is_installed {
            self.set_others(prefix, Others::default());
        }
        self.mark(prefix);
    }

    fn release_form(&mut self, form: &Form) {
        if let Form::Object(id) = form {
            self.nexthops.drop_ref(*id);
        }
    }

    fn retry(&mut self, at: Time, what: Retry) {
        self.retries.push(Reverse((at, what)));
    }

    fn count_failure(&mut self, outcome: Outcome) {
        let counters = &mut self.counters;
        *match outcome {
            Outcome::Done | Outcome::Failed(libc::EEXIST | libc::ESRCH | libc::ENOENT) => return,
            Outcome::Unknown => &mut counters.failed_unknown,
            Outcome::Failed(libc::EPERM | libc::EACCES) => &mut counters.failed_denied,
            Outcome::Failed(libc::ENODEV | libc::ENETDOWN | libc::ENXIO) => {
                &mut counters.failed_link
            }
            Outcome::Failed(
                libc::ENOMEM | libc::ENOBUFS | libc::EAGAIN | libc::EBUSY | libc::EINTR,
            ) => &mut counters.failed_busy,
            Outcome::Failed(_) => &mut counters.failed_refused,
        } += 1;
    }
}
