//! Publishing: what others have to be told, as it is when its turn comes.
//!
//! Owns what may be sent when, and how soon what failed is tried again.

use std::time::Duration;

use super::super::config::Rule;
use super::super::engine::{Effect, Publish, PublishError};
use super::super::own::Said;
use super::super::record::{encode_announcers, record_hash};
use super::{Phase, Protocol};
use crate::types::Time;

/// How soon what failed is tried again: at first, and at the latest.
const RETRY_MIN: Duration = Duration::from_millis(100);
const RETRY_MAX: Duration = Duration::from_secs(5);

/// Publications under way are never fewer, however slow the engine is.
const WINDOW_MIN: usize = 64;

/// What failed, when it is tried again, and how much is under way at a time.
#[derive(Debug)]
pub(super) struct Retries {
    in_a_row: u32,
    window: usize,
    pub at: Time,
    pub errors: u64,
    pub last_error: Option<String>,
}

impl Retries {
    pub(super) fn new(window: usize) -> Retries {
        Retries { in_a_row: 0, window, at: Time::NEVER, errors: 0, last_error: None }
    }

    pub(super) fn succeeded(&mut self, window_max: usize) {
        self.in_a_row = 0;
        self.window = (self.window + 1).min(window_max);
    }

    pub(super) fn failed(&mut self, error: &PublishError) {
        self.errors += 1;
        if matches!(error, PublishError::Other(_)) {
            // It may still be waiting there: more of it would only wait longer, and leases behind it.
            self.window = (self.window / 2).max(WINDOW_MIN.min(self.window));
        }
        self.last_error = Some(match error {
            PublishError::Full => "the engine has no room for another record".to_owned(),
            PublishError::WrongSequence => "somebody else has written this record".to_owned(),
            PublishError::Other(text) => text.clone(),
        });
    }
}

impl Protocol {
    /// Sends what may be sent.
    pub(super) fn write(&mut self, now: Time) {
        match self.phase {
            Phase::Clearing if !self.needs_settled => {
                if self.lease.has_rival() {
                    return;
                }
                self.retry(now);
                self.publish(true);
                if !self.own.has_tombstones() || !self.keeps(Rule::ReadBeforeWriting) {
                    self.write_lease(now);
                }
            }
            Phase::Live => {
                self.retry(now);
                if !self.write_lease(now) {
                    self.publish(false);
                    // All may be sent already.
                    self.write_lease(now);
                }
            }
            Phase::Reading if !self.keeps(Rule::ReadBeforeWriting) => {
                self.publish(false);
                self.write_lease(now);
            }
            _ => {}
        }
    }

    fn publish(&mut self, tombstones_only: bool) {
        while self.own.in_flight() < self.retries.window
            && let Some((key, by, is_bare)) = self.own.next(tombstones_only)
        {
            let subject = self.subjects.route(&self.config.name, key.0, &key.1);
            let value = encode_announcers(&by);
            let hash = record_hash(&subject, &value);
            let token = self.token();
            self.own.sent(token, key, Said { by, hash, is_bare });
            let is_tombstone = by.is_nobody() && !is_bare;
            self.effects.push_back(Effect::Publish(Publish {
                token,
                subject,
                value: value.to_vec(),
                lifetime: is_tombstone.then_some(self.config.timers.tombstone),
                is_tombstone,
                expect_last: None,
            }));
        }
    }

    /// What failed is tried again after a while.
    fn retry(&mut self, now: Time) {
        if !self.own.has_failed() && self.own.full() == 0 {
            self.retries.at = Time::NEVER;
        } else if self.retries.at == Time::NEVER {
            let wait = if self.own.has_failed() {
                let wait = RETRY_MIN * 2u32.pow(self.retries.in_a_row.min(6));
                self.retries.in_a_row += 1;
                wait.min(RETRY_MAX)
            } else {
                RETRY_MAX
            };
            self.retries.at = now.after(self.chance.about(wait));
        } else if now >= self.retries.at {
            self.retries.at = Time::NEVER;
            self.own.retry();
            self.own.probe();
        }
    }

    /// Whether all peers of the former life that came back in time are back.
    pub(super) fn is_restart_over(&self) -> bool {
        self.restart_passed && !self.needs_settled
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_slow_is_sent_less_at_a_time() {
        let mut retries = Retries::new(4_096);
        let late = PublishError::Other("no answer".to_owned());
        retries.failed(&PublishError::Full);
        retries.failed(&PublishError::WrongSequence);
        assert_eq!(retries.window, 4_096, "that was an answer");
        retries.failed(&late);
        assert_eq!(retries.window, 2_048);
        (0..100).for_each(|_| retries.failed(&late));
        assert_eq!(retries.window, WINDOW_MIN);
        (0..5_000).for_each(|_| retries.succeeded(4_096));
        assert_eq!(retries.window, 4_096);
        let mut small = Retries::new(3);
        small.failed(&late);
        assert_eq!(small.window, 3);
    }
}
