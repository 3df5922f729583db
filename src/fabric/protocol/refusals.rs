//! Routes of others that there was no room for, at their homes or here: when all is read anew for them.
//!
//! Owns the pauses. Must never keep the routes, of which there may be any number: the engine has them.

use std::time::Duration;

use super::{Phase, Protocol};
use crate::types::Time;

/// How long after a refusal all is read anew: at first, and, where that brings refusals again and again, at most.
const PAUSE_MIN: Duration = Duration::from_secs(120);
const PAUSE_MAX: Duration = Duration::from_secs(3_600);

/// What there was no room for.
#[derive(Debug, Default)]
pub(super) struct Refusals {
    /// Since the start.
    count: u64,
    /// When all is to be read anew, if something was refused since the last reading began.
    at: Option<Time>,
    /// Readings in a row after which that was so.
    in_a_row: u32,
}

impl Refusals {
    /// All is about to be read.
    pub(super) fn begin_reading(&mut self) {
        self.in_a_row = match self.at.take() {
            Some(_) => self.in_a_row.saturating_add(1),
            None => 0,
        };
    }

    fn pause(&self) -> Duration {
        PAUSE_MIN.saturating_mul(1 << self.in_a_row.min(5)).min(PAUSE_MAX)
    }
}

impl Protocol {
    /// So many had no room since the start.
    pub(super) fn note_refusals(&mut self, now: Time, count: u64) {
        if count > self.refusals.count && self.refusals.at.is_none() {
            let pause = self.chance.about(self.refusals.pause());
            self.refusals.at = Some(now.after(pause));
        }
        self.refusals.count = count;
    }

    /// When all is to be read anew for them.
    pub(super) fn refusals_deadline(&self) -> Time {
        match self.phase {
            Phase::Live if self.reading.again_at.is_none() => {
                self.refusals.at.unwrap_or(Time::NEVER)
            }
            _ => Time::NEVER,
        }
    }

    /// There may be room by now.
    pub(super) fn read_refused_again(&mut self, now: Time) {
        if now >= self.refusals_deadline() {
            self.read_again(now);
        }
    }
}
