//! Our own lease: it says that we live, comes back to us as a canary, and keeps others of our name away.
//!
//! Owns when it is written, and on top of what. Must never be written while what others would count on is not there.

use std::time::Duration;

use super::super::config::Rule;
use super::super::engine::{Effect, Publish, PublishError, Record};
use super::super::lease::{Lease, LeaseState};
use super::{Phase, Protocol};
use crate::types::Time;

/// How long an end waits for its lease to be written.
const LEAVING_MAX: Duration = Duration::from_secs(2);

/// Our own lease.
#[derive(Debug)]
pub(super) struct OwnLease {
    /// The last record of its subject; 0: there is none.
    sequence: u64,
    /// The one that is on its way: its token, what it says, and on top of what.
    in_flight: Option<(u64, LeaseState, u64)>,
    /// When the next one is due.
    pub next_at: Time,
    /// It waits for a moment in which nothing is in flight.
    pub waits: bool,
    /// One was refused: none is written before that.
    refused_until: Time,
    /// Why the last one was refused, until one is in the stream.
    pub error: Option<PublishError>,
    /// Since when one was there, in this reading.
    pub live_since: Time,
    /// When one of ours came back last, since the feed was opened.
    pub seen_at: Option<Time>,
    /// When the engine showed last that it takes what we send.
    pub progress_at: Time,
    /// What it says since the last reading: that all is published.
    pub is_synced: bool,
    /// How long ago a former life ended, or wrote its lease.
    pub former_age: Option<Duration>,
    /// Somebody said that we are gone, here: what we had published before may be purged.
    pub gone_sequence: u64,
    /// A lease of a life that was started later than ours was read, here. If that lives, it writes another.
    rival: Option<(u64, u64)>,
    /// Since when nothing was heard of it.
    rival_since: Time,
}

impl OwnLease {
    pub(super) fn new(now: Time) -> OwnLease {
        OwnLease {
            sequence: 0,
            in_flight: None,
            next_at: now,
            waits: false,
            refused_until: now,
            error: None,
            live_since: now,
            seen_at: None,
            progress_at: now,
            is_synced: false,
            former_age: None,
            gone_sequence: 0,
            rival: None,
            rival_since: now,
        }
    }

    /// What the engine has is about to be read.
    pub(super) fn begin_reading(&mut self) {
        self.forget();
        self.sequence = 0;
        self.former_age = None;
        self.gone_sequence = 0;
        self.rival = None;
    }

    /// The feed is gone.
    pub(super) fn forget(&mut self) {
        self.in_flight = None;
        self.waits = false;
        self.seen_at = None;
        self.is_synced = false;
    }

    /// All was read.
    pub(super) fn begin_clearing(&mut self, now: Time) {
        self.next_at = now;
        self.progress_at = now;
        self.rival_since = now;
    }

    /// When the next one is to be written, as far as time says.
    pub(super) fn deadline(&self) -> Time {
        if self.in_flight.is_some() { Time::NEVER } else { self.next_at }
    }

    /// Whether it is to be seen first whether a process of our name lives.
    pub(super) fn has_rival(&self) -> bool {
        self.rival.is_some()
    }
}

impl Protocol {
    /// A record of our lease's subject.
    pub(super) fn own_lease(&mut self, now: Time, record: &Record<'_>) {
        let lease = &mut self.lease;
        lease.sequence = lease.sequence.max(record.sequence);
        if record.value.is_empty() {
            lease.rival = None;
            lease.former_age = Some(record.age);
            // It is over, though we live.
            lease.next_at = now;
            return;
        }
        let said = match Lease::decode(record.value) {
            Ok(said) => said,
            Err(reason) => return self.drop_it(reason),
        };
        if said.state == LeaseState::Gone {
            lease.former_age = None;
            lease.gone_sequence = record.sequence;
            if !self.is_reading() {
                self.read_again(now);
            }
        } else if said.incarnation == self.config.incarnation {
            lease.seen_at = Some(now);
            lease.progress_at = now;
        } else if said.incarnation < self.config.incarnation {
            lease.former_age = Some(record.age);
        } else if self.keeps(Rule::Fencing) {
            self.meet_rival(now, said.incarnation, record);
        }
    }

    /// A lease of our name, of a process that was started later.
    fn meet_rival(&mut self, now: Time, incarnation: u64, record: &Record<'_>) {
        let is_reading = self.is_reading();
        let sequence = record.sequence;
        let lease = &mut self.lease;
        let is_renewed = lease.rival.is_some_and(|rival| rival != (incarnation, sequence));
        if is_reading && !is_renewed {
            // It may be what a former life left, before the clock was put right.
            lease.rival = Some((incarnation, sequence));
            lease.former_age = Some(record.age);
            return;
        }
        self.twin = Some(incarnation);
        self.feed_lost(now, Phase::Fenced);
        self.effects.push_back(Effect::Leave);
    }

    /// If nothing is heard of another process with our name, not even its end, whether it lives is found out anew.
    pub(super) fn look_for_rival(&mut self, now: Time) {
        if now >= self.rival_deadline() {
            self.lease.rival_since = now;
            self.read_again(now);
        }
    }

    pub(super) fn rival_deadline(&self) -> Time {
        let timers = &self.config.timers;
        match self.lease.rival {
            Some(_) if self.reading.again_at.is_none() => {
                self.lease.rival_since.after(timers.lease_lifetime + timers.heartbeat)
            }
            _ => Time::NEVER,
        }
    }

    /// Writes a lease if one is due. True if nothing else may be sent before that: it is to tell the digest, for which
    /// all has to be acknowledged.
    pub(super) fn write_lease(&mut self, now: Time) -> bool {
        let is_quiet = self.own.in_flight() == 0;
        let is_all_sent = is_quiet && self.own.dirty() == 0 && self.is_restart_over();
        let state = match self.leaving_until {
            Some(_) => LeaseState::Leaving,
            None if self.lease.is_synced || is_all_sent => LeaseState::Synced,
            None => LeaseState::Syncing,
        };
        let is_news = state == LeaseState::Synced && !self.lease.is_synced;
        let is_due = now >= self.lease.next_at || is_news && now >= self.lease.refused_until;
        self.lease.waits = false;
        if self.lease.in_flight.is_some() || !is_due {
            return false;
        }
        if !is_quiet && state == LeaseState::Synced && now < self.digest_deadline() {
            self.lease.waits = true;
            return true;
        }
        let contents = is_quiet.then(|| self.own.contents());
        let lease = Lease { state, incarnation: self.config.incarnation, contents };
        let doubted = self.others.take_doubted();
        let token = self.token();
        let expected = self.lease.sequence;
        self.lease.in_flight = Some((token, state, expected));
        self.lease.next_at = now.after(self.config.timers.heartbeat);
        self.effects.push_back(Effect::Publish(Publish {
            token,
            subject: self.subjects.lease(&self.config.name),
            value: lease.encode(doubted.as_deref()),
            lifetime: Some(self.config.timers.lease_lifetime),
            is_tombstone: false,
            expect_last: self.keeps(Rule::Fencing).then_some(expected),
        }));
        false
    }

    /// Until when a lease that is due waits for a moment in which nothing is in flight.
    pub(super) fn digest_deadline(&self) -> Time {
        self.lease.next_at.after(self.config.timers.heartbeat / 8)
    }

    /// Why none is written at all: what a former life left has to be withdrawn first, and that is refused.
    pub(super) fn lease_is_kept_back(&self, now: Time) -> Option<PublishError> {
        let stands = now.since(self.lease.progress_at) >= self.config.timers.heartbeat;
        if self.phase != Phase::Clearing || !stands || !self.own.has_tombstones() {
            return None;
        }
        if self.own.has_stuck() {
            return Some(PublishError::Full);
        }
        self.retries.last_error.clone().map(PublishError::Other)
    }

    /// A publication is in the stream. False if it was no lease.
    pub(super) fn lease_acked(&mut self, now: Time, token: u64, sequence: u64) -> bool {
        let Some((_, state, _)) = self.lease.in_flight.take_if(|(ours, ..)| *ours == token) else {
            return false;
        };
        self.lease.sequence = self.lease.sequence.max(sequence);
        self.lease.progress_at = now;
        self.lease.error = None;
        self.lease.is_synced |= state == LeaseState::Synced;
        if self.phase == Phase::Clearing {
            self.phase = Phase::Live;
            self.lease.live_since = now;
            self.note_deadline(Some(now));
        }
        if state == LeaseState::Leaving {
            self.has_left = true;
        }
        true
    }

    /// A publication has failed. False if it was no lease.
    pub(super) fn lease_refused(&mut self, now: Time, token: u64, error: &PublishError) -> bool {
        let Some((_, _, expected)) = self.lease.in_flight.take_if(|(ours, ..)| *ours == token)
        else {
            return false;
        };
        let heartbeat = self.config.timers.heartbeat;
        self.lease.next_at = match error {
            // What is there came with the feed meanwhile, or will; else all is read anew.
            PublishError::WrongSequence if self.lease.sequence != expected => now,
            PublishError::WrongSequence => now.after(heartbeat),
            PublishError::Full | PublishError::Other(_) => now.after(heartbeat / 4),
        };
        self.lease.refused_until = self.lease.next_at;
        if *error != PublishError::WrongSequence {
            self.lease.error = Some(error.clone());
        }
        true
    }

    /// The process is about to end, and means to come back.
    pub(in super::super) fn leave(&mut self, now: Time) {
        if matches!(self.phase, Phase::Clearing | Phase::Live) {
            self.leaving_until = Some(now.after(LEAVING_MAX));
            self.lease.next_at = now;
        } else {
            self.has_left = true;
        }
    }
}
