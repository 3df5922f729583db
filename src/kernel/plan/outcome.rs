//! What became of an operation, and what follows from it.
//!
//! Owns the meaning of error numbers and the retry policy. Must never read a clock: the time is
//! handed in.

use std::cmp::Reverse;
use std::time::Duration;

use super::entry::InKernel;
use super::{Form, Op, Plan, Prefix, Retry};
use crate::types::Time;

/// The first retry of a route comes after this time, and each further one after twice as long.
const RETRY_FIRST: Duration = Duration::from_millis(100);
/// The longest time between two attempts.
const RETRY_MAX: Duration = Duration::from_secs(30);
/// Time between two attempts to make or delete a nexthop object.
const RETRY_NEXTHOP: Duration = Duration::from_secs(1);

/// The kernel's answer to an operation.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// It is done.
    Done,
    /// It was refused with this (positive) error number, and nothing changed.
    Failed(i32),
    /// The answer was lost: it may be done or not.
    Unknown,
}

/// What is worth telling an operator about an outcome.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Report {
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

impl Plan {
    /// Takes note of what became of an operation of [`Plan::next_batch`]. Results may come in any
    /// order.
    ///
    /// # Panics
    /// If no operation is under way.
    pub fn finished(&mut self, op: &Op, outcome: Outcome, now: Time) -> Report {
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
            Op::Add { prefix, .. } | Op::Replace { prefix, .. } | Op::Delete { prefix, .. } => {
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
        let form = entry.in_flight.take().expect("the entry has an operation under way");
        let was_conflict = entry.conflict;
        let report = match (op, outcome) {
            (_, Outcome::Done) => {
                self.settle(prefix, form.map_or(InKernel::Absent, InKernel::Ours));
                match op {
                    Op::Add { .. } => self.counters.added += 1,
                    Op::Replace { .. } => self.counters.replaced += 1,
                    _ => self.counters.deleted += 1,
                }
                self.mark(prefix); // what is wanted may have changed meanwhile
                return Report::Nothing;
            }
            (_, Outcome::Unknown) => Report::Lost,
            // Ours is gone: there is nothing left to replace or delete.
            (
                Op::Replace { .. } | Op::Delete { .. },
                Outcome::Failed(libc::ESRCH | libc::ENOENT),
            ) => {
                self.settle(prefix, InKernel::Absent);
                self.release_form(form);
                self.mark(prefix);
                return Report::Nothing;
            }
            (Op::Add { .. }, Outcome::Failed(libc::EEXIST)) => {
                self.counters.conflicts_total += 1;
                if was_conflict { Report::Nothing } else { Report::Conflict(prefix) }
            }
            (_, Outcome::Failed(errno)) => Report::Refused(errno),
        };
        // An object that is not there any more is refused as an invalid argument.
        self.suspect |= matches!(form, Some(Form::Object(_)))
            && matches!(outcome, Outcome::Failed(libc::EINVAL | libc::ENOENT | libc::EEXIST))
            && !matches!(op, Op::Add { .. } if outcome == Outcome::Failed(libc::EEXIST));
        self.release_form(form);
        let entry = self.entries.get_mut(&prefix).expect("still there");
        let is_conflict = matches!(report, Report::Conflict(_))
            || was_conflict && outcome == Outcome::Failed(libc::EEXIST);
        self.counters.conflicts += u64::from(is_conflict);
        self.counters.conflicts -= u64::from(was_conflict);
        entry.conflict = is_conflict;
        entry.failures = entry.failures.saturating_add(1);
        let wait = RETRY_FIRST.saturating_mul(1 << u32::from(entry.failures - 1).min(16));
        let retries_already = std::mem::replace(&mut entry.waits_for_retry, true);
        if !retries_already {
            self.retry(now.after(wait.min(RETRY_MAX)), Retry::Route(prefix));
        }
        self.mark(prefix); // if nobody wants it any more there is nothing to wait for
        report
    }

    /// The kernel is known to hold this for `prefix` now.
    pub(super) fn settle(&mut self, prefix: Prefix, now: InKernel) {
        let entry = self.entries.get_mut(&prefix).expect("the caller has an entry");
        self.counters.installed += u64::from(now != InKernel::Absent);
        self.counters.conflicts -= u64::from(entry.conflict);
        entry.conflict = false;
        entry.failures = 0;
        let before = std::mem::replace(&mut entry.kernel, now);
        self.counters.installed -= u64::from(before != InKernel::Absent);
        if let InKernel::Ours(form) = before {
            self.release_form(Some(form));
        }
    }

    fn release_form(&mut self, form: Option<Form>) {
        if let Some(Form::Object(id)) = form {
            self.nexthops.drop_ref(id);
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
