//! Whose turn it is among long jobs.
//!
//! Owns the order of jobs. Must never do a job itself, nor let one wait for the end of another, but for
//! bases: of those that are begun each takes memory.

use std::collections::VecDeque;

use super::UpdateGroup;
use crate::types::{SourceId, Vni};

/// A base of so many routes is built before those that take long: clients wait for the default route
/// that it holds.
const SMALL_ROUTES_MAX: usize = 64;
/// Large bases that are under construction at a time: for each, up to twice its table is held.
const LARGE_BASES_MAX: usize = 4;

/// Something that takes longer than a turn may.
#[derive(Clone, Copy, Debug)]
pub(super) enum Job {
    /// Build a base that is small, and answer who waits for it.
    BuildSmall(UpdateGroup),
    /// Build a base, and answer who waits for it.
    Build(UpdateGroup),
    /// Withdraw all that a lost source announced.
    Withdraw(SourceId),
    /// Withdraw what a source that is back has not announced again: the sweep of this number.
    Sweep(usize),
    /// Give back memory of a table that has become small.
    Compact(Vni),
    /// Go through all tables, since there is another policy.
    Judge,
    /// Tell other reflectors what a source announces in a VNI, for it speaks for somebody else.
    Publish(SourceId, Vni),
}

const SMALL_BUILDS: usize = 0;
const BUILDS: usize = 1;
const WITHDRAWALS: usize = 2;
const COMPACTIONS: usize = 3;

/// The jobs of each kind stand in a line; those at the front take turns, and so do the lines. Every other
/// turn is for small bases.
const TURNS: [usize; 6] =
    [SMALL_BUILDS, BUILDS, SMALL_BUILDS, WITHDRAWALS, SMALL_BUILDS, COMPACTIONS];

/// The jobs.
#[derive(Debug, Default)]
pub(super) struct Jobs {
    lines: [VecDeque<Job>; 4],
    turn: usize,
}

impl Job {
    /// A base of about `routes` routes.
    pub(super) fn build(group: UpdateGroup, routes: usize) -> Job {
        if routes <= SMALL_ROUTES_MAX { Job::BuildSmall(group) } else { Job::Build(group) }
    }

    /// Its line, and how many of that take turns.
    fn line(self) -> (usize, usize) {
        match self {
            // One after the other: each is done soon.
            Job::BuildSmall(_) => (SMALL_BUILDS, 1),
            Job::Build(_) => (BUILDS, LARGE_BASES_MAX),
            Job::Withdraw(_) | Job::Sweep(_) => (WITHDRAWALS, usize::MAX),
            Job::Compact(_) | Job::Judge | Job::Publish(..) => (COMPACTIONS, usize::MAX),
        }
    }
}

impl Jobs {
    /// A new job: behind the others of its kind.
    pub(super) fn add(&mut self, job: Job) {
        self.lines[job.line().0].push_back(job);
    }

    /// The line whose turn it is.
    pub(super) fn next_line(&mut self) -> usize {
        self.turn = (self.turn + 1) % TURNS.len();
        TURNS[self.turn]
    }

    /// Takes the next job of a line.
    pub(super) fn take(&mut self, line: usize) -> Option<Job> {
        self.lines[line].pop_front()
    }

    /// The job is not done: behind the others that take turns with it.
    pub(super) fn put_back(&mut self, job: Job) {
        let (line, at_a_time) = job.line();
        let line = &mut self.lines[line];
        line.insert(line.len().min(at_a_time - 1), job);
    }

    /// Whether there are none.
    pub(super) fn is_empty(&self) -> bool {
        self.lines.iter().all(VecDeque::is_empty)
    }

    /// Whether lost sources wait.
    pub(super) fn is_withdrawing(&self) -> bool {
        !self.lines[WITHDRAWALS].is_empty()
    }
}
