//! When to connect again, and what to say meanwhile.
//!
//! Owns the pauses. Must never say the same thing again and again.

use std::collections::VecDeque;
use std::hash::{BuildHasher, RandomState};
use std::time::Duration;

use tracing::{debug, warn};

use super::fault::Fault;
use crate::types::Time;

/// Between two attempts: at first, and at most.
const PAUSE_MIN: Duration = Duration::from_secs(1);
const PAUSE_MAX: Duration = Duration::from_secs(30);

/// What is still wrong is said again after this time.
const REPEAT: Duration = Duration::from_secs(600);

/// Faults that may come in turn, each said once.
const FAULTS_MAX: usize = 8;

/// Attempts to connect. One at a time is under way.
#[derive(Debug)]
pub(super) struct Retry {
    /// When the next one may begin; never while one is under way.
    next_at: Time,
    /// How many failed since all was well.
    failures: u32,
    /// How many there were; begins anywhere, so that a fleet does not begin with the same server.
    attempts: usize,
    said: Said,
    random: RandomState,
}

/// What was said of late.
#[derive(Debug, Default)]
pub(super) struct Said(VecDeque<(Time, Fault)>);

impl Retry {
    /// The first one is due now.
    pub(super) fn new(now: Time) -> Retry {
        let random = RandomState::new();
        let attempts = random.hash_one(now.0) as usize >> 1;
        Retry { next_at: now, failures: 0, attempts, said: Said::default(), random }
    }

    /// When the next one is due.
    pub(super) fn next_at(&self) -> Time {
        self.next_at
    }

    /// Begins one if it is due.
    pub(super) fn begin(&mut self, now: Time) -> bool {
        let is_due = now >= self.next_at;
        if is_due {
            self.next_at = Time::NEVER;
            self.attempts = self.attempts.wrapping_add(1);
        }
        is_due
    }

    /// The number of the attempt under way; only that they follow each other counts.
    pub(super) fn attempts(&self) -> usize {
        self.attempts
    }

    /// The attempt under way has failed.
    pub(super) fn failed(&mut self, now: Time) {
        let pause = self.pause();
        self.failures = self.failures.saturating_add(1);
        self.next_at = now.after(pause);
    }

    /// The attempt under way has succeeded. That all is well is not said by that: see [`Retry::is_well`].
    pub(super) fn connected(&mut self) {
        self.next_at = Time::NEVER;
    }

    /// What was connected is lost.
    pub(super) fn lost(&mut self, now: Time) {
        self.failed(now);
    }

    /// There is a feed. What is not permitted is not permitted all the same.
    pub(super) fn is_well(&mut self) {
        self.failures = 0;
        self.said.0.retain(|(_, fault)| fault.reason() == "denied");
    }

    /// Twice as long each time; somewhere in its second half, so that a fleet does not come back at once.
    fn pause(&self) -> Duration {
        let pause = PAUSE_MIN.saturating_mul(1 << self.failures.min(5)).min(PAUSE_MAX);
        let part = self.random.hash_one(self.failures) % 1024;
        pause / 2 + pause / 2 * part as u32 / 1024
    }

    /// See [`Said::report`].
    pub(super) fn report(&mut self, now: Time, fault: &Fault) -> bool {
        self.said.report(now, fault)
    }
}

impl Said {
    /// Says what is wrong, unless that was said a while ago. Whether it was said.
    pub(super) fn report(&mut self, now: Time, fault: &Fault) -> bool {
        self.0.retain(|(at, _)| now.since(*at) < REPEAT);
        let is_known = self.0.iter().any(|(_, said)| said == fault);
        if is_known {
            debug!(reason = fault.reason(), "fabric: {fault}");
        } else {
            warn!(reason = fault.reason(), "fabric: {fault}");
            self.0.truncate(FAULTS_MAX - 1);
            self.0.push_front((now, fault.clone()));
        }
        !is_known
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_and_are_bounded() {
        let mut retry = Retry::new(Time::default());
        let mut now = Time::default();
        let mut pauses = Vec::new();
        for _ in 0..40 {
            assert!(retry.begin(now) && !retry.begin(now));
            retry.failed(now);
            pauses.push(retry.next_at().since(now));
            now = retry.next_at();
        }
        assert!(pauses[0] >= PAUSE_MIN / 2 && pauses[0] <= PAUSE_MIN);
        assert!(pauses.iter().all(|pause| *pause <= PAUSE_MAX));
        assert!(pauses[10..].iter().all(|pause| *pause >= PAUSE_MAX / 2));
        retry.is_well();
        retry.lost(now);
        assert!(retry.next_at().since(now) <= PAUSE_MIN);
    }

    #[test]
    fn what_is_wrong_is_said_once_until_it_is_another_thing() {
        let at = |s| Time::default().after(Duration::from_secs(s));
        let mut retry = Retry::new(at(0));
        assert!(retry.report(at(0), &Fault::NoJetStream));
        assert!(!retry.report(at(30), &Fault::NoJetStream));
        assert!(!retry.report(at(599), &Fault::NoJetStream));
        assert!(retry.report(at(600), &Fault::NoJetStream), "it is still so");
        assert!(!retry.report(at(700), &Fault::NoJetStream));
        assert!(retry.report(at(701), &Fault::Other("x".into())));
        retry.is_well();
        assert!(retry.report(at(702), &Fault::Other("x".into())), "it is so again");
    }
}
