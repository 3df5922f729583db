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

/// What failed, and when it is tried again.
#[derive(Debug)]
pub(super) struct Retries {
    in_a_row: u32,
    pub at: Time,
    pub errors: u64,
    pub last_error: Option<String>,
}

impl Default for Retries {
    fn default() -> Retries {
        Retries { in_a_row: 0, at: Time::NEVER, errors: 0, last_error: None }
    }
}

impl Retries {
    pub(super) fn succeeded(&mut self) {
        self.in_a_row = 0;
    }

    pub(super) fn failed(&mut self, error: &PublishError) {
        self.errors += 1;
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
        while self.own.in_flight() < self.config.in_flight_max
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
