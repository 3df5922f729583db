//! Whose turn it is among long jobs: withdrawals of lost sources, and bases to be built.
//!
//! Owns the order of jobs. Must never do a job itself, nor let one wait for the end of another.

use std::collections::VecDeque;

use super::Group;
use crate::types::SourceId;

/// A base of so many routes is built in one go, before those that take long: clients wait for the
/// default route that it holds.
const SMALL_ROUTES_MAX: usize = 64;

/// Something that takes longer than a turn may.
#[derive(Clone, Copy, Debug)]
pub enum Job {
    /// Withdraw all that a lost source announced.
    Withdraw(SourceId),
    /// Build a base.
    Build(Group),
}

/// Jobs of one kind take turns; and so do the kinds, each with the same share.
#[derive(Debug, Default)]
pub struct Jobs {
    kinds: [VecDeque<Job>; 3],
    next: usize,
}

/// Positions in [`Jobs::kinds`].
#[derive(Clone, Copy, Debug)]
pub struct Kind(usize);

const SMALL_BUILDS: Kind = Kind(0);
const BUILDS: Kind = Kind(1);
const WITHDRAWALS: Kind = Kind(2);

impl Jobs {
    /// A lost source.
    pub fn add_withdrawal(&mut self, source: SourceId) {
        self.put_back(WITHDRAWALS, Job::Withdraw(source));
    }

    /// A base of about `routes` routes.
    pub fn add_build(&mut self, group: Group, routes: usize) {
        let kind = if routes <= SMALL_ROUTES_MAX { SMALL_BUILDS } else { BUILDS };
        self.put_back(kind, Job::Build(group));
    }

    /// The kind whose turn it is.
    pub fn next_kind(&mut self) -> Kind {
        self.next = (self.next + 1) % self.kinds.len();
        Kind(self.next)
    }

    /// Takes the next job of a kind.
    pub fn take(&mut self, kind: Kind) -> Option<Job> {
        self.kinds[kind.0].pop_front()
    }

    /// The job is not done: behind the others of its kind.
    pub fn put_back(&mut self, kind: Kind, job: Job) {
        self.kinds[kind.0].push_back(job);
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.kinds.iter().all(VecDeque::is_empty)
    }

    /// Whether lost sources wait.
    pub fn is_withdrawing(&self) -> bool {
        !self.kinds[WITHDRAWALS.0].is_empty()
    }
}
