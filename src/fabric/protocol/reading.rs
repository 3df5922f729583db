//! Reading: all that the engine has, and then what comes.
//!
//! Owns what records do. Must never let what one reflector says touch what another said.

use std::time::Duration;

use super::super::config::Rule;
use super::super::engine::{Effect, Record};
use super::super::lease::{Lease, LeaseState};
use super::super::others::{Absence, Janitor};
use super::super::own::{Key, Said};
use super::super::record::{Dropped, decode_announcers, record_hash};
use super::super::subject::Subject;
use super::{HomeCall, Phase, Protocol};

use crate::types::{Announcers, Remote, Time};

/// Digests in a row that differ until everything is read anew: for the first time; and from one time to the next at most.
const MISSES_MIN: u32 = 2;
const MISSES_MAX: u32 = 64;
/// How often we read everything because others doubt what the engine has of ours: anybody can say so.
const DOUBT_PAUSE: Duration = Duration::from_secs(90);

impl Protocol {
    /// Everything is to be read anew, from the first record.
    pub(super) fn open(&mut self, now: Time) {
        let reading = &mut self.reading;
        reading.number += 1;
        reading.opened_at = Some(now);
        reading.again_at = None;
        reading.pending = 0;
        if self.config.without != Some(Rule::ReadFromTheFirst) || !reading.has_read {
            reading.last_known = std::mem::take(&mut reading.sequence);
            self.own.begin_reading(reading.number);
            self.forget_leases();
            self.others.begin_reading();
        }
        self.lease.begin_reading();
        self.refusals.begin_reading();
        if !self.reading.has_read {
            if self.own_stale.is_taken {
                self.own_stale.former.push(self.own_stale.generation);
            }
            self.own_stale.is_taken = false;
            self.own_stale.generation = self.others.new_generation();
        }
        self.needs_settled = false;
        self.hold_until.get_or_insert(now.after(self.config.timers.hold));
        self.phase = Phase::Opening(now);
        self.effects.clear();
        self.effects.push_back(Effect::Open);
    }

    /// Who lives is found out anew. What is there of those whose end we know stays as long as it would have.
    fn forget_leases(&mut self) {
        for place in 0..self.others.len() {
            let has_missed = self.reading.has_missed;
            let reflector = self.others.at(place);
            reflector.stale_until = match reflector.stale_until {
                _ if !reflector.holds_any() => None,
                Some(until) if !has_missed => Some(until),
                _ if reflector.counts() => Some(Time::NEVER),
                _ => None,
            };
            reflector.lease = None;
        }
    }

    /// The feed is there.
    pub(super) fn begin_feed(&mut self, now: Time, pending: u64) {
        self.phase = Phase::Reading;
        self.reading.heard_at = now;
        self.reading.pending = pending;
        if !self.reading.has_read && now < self.restart_until && self.keeps(Rule::OwnStale) {
            let stale = self.config.timers.stale;
            let is_recent = self.lease.former_age.is_some_and(|age| age < stale);
            self.own_stale.is_taken = is_recent || !self.keeps(Rule::OwnStaleAge);
        }
        if !self.keeps(Rule::ReadBeforeWriting) {
            self.own.end_reading();
        }
        if pending == 0 {
            self.end_reading(now);
        }
    }

    pub(super) fn next_record(&mut self, now: Time, record: &Record<'_>) {
        let reading = &mut self.reading;
        let is_new = record.sequence > reading.sequence;
        reading.sequence = reading.sequence.max(record.sequence);
        reading.pending = record.pending;
        reading.taken += 1;
        reading.heard_at = now;
        if is_new {
            self.take(now, record, false);
        }
        let last_known = self.reading.last_known;
        let is_cut = !self.keeps(Rule::ReadToTheEnd) && (1..=record.sequence).contains(&last_known);
        if self.phase == Phase::Reading && (record.pending == 0 || is_cut) {
            self.end_reading(now);
        }
    }

    /// A record of the feed, or a lease that was found before it began.
    pub(super) fn take(&mut self, now: Time, record: &Record<'_>, leases_only: bool) {
        match self.subjects.parse(record.subject) {
            Err(reason) => self.drop_it(reason),
            Ok(Subject::Lease(name)) if name == self.config.name => self.own_lease(now, record),
            Ok(Subject::Lease(name)) => match self.others.place_of(name) {
                Some(place) => self.other_lease(now, place, record),
                None => self.drop_it(Dropped::Reflectors),
            },
            Ok(Subject::Route { .. }) if leases_only => self.drop_it(Dropped::Subject),
            Ok(Subject::Route { name, vni, route }) => {
                let taken = match name == self.config.name {
                    true => self.own_record((vni, route), record),
                    false => self.other_record(name, (vni, route), record),
                };
                if let Err(reason) = taken {
                    self.drop_it(reason);
                }
            }
        }
    }

    fn own_record(&mut self, key: Key, record: &Record<'_>) -> Result<(), Dropped> {
        let is_reading = self.phase == Phase::Reading;
        let repairs = !is_reading && self.keeps(Rule::Repair);
        let hash = record_hash(record.subject, record.value);
        let by = decode_announcers(record.value).inspect_err(|_| {
            // Somebody else wrote that: others must have ours.
            if repairs {
                let said = Said { by: Announcers::default(), hash, is_bare: false };
                self.own.read(key, record.sequence, said, true);
            }
        })?;
        if is_reading && self.own_stale.is_taken && !by.is_nobody() {
            let generation = self.own_stale.generation;
            let remote = Remote { reflector: Remote::OWN_STALE, generation };
            self.home_calls.push_back(HomeCall::Announce(remote, key.0, key.1, by));
        }
        let is_bare = record.value.is_empty() && record.ended.is_none();
        self.own.read(key, record.sequence, Said { by, hash, is_bare }, repairs);
        Ok(())
    }

    fn other_record(&mut self, name: &str, key: Key, record: &Record<'_>) -> Result<(), Dropped> {
        let reflector = self.others.place_of(name).ok_or(Dropped::Reflectors)?;
        let counts = self.others.at(reflector).counts() || !self.keeps(Rule::SkipTheDead);
        let by = decode_announcers(record.value)
            .inspect_err(|_| self.others.at(reflector).is_incomplete = true)?;
        if !counts {
            if by.is_nobody() {
                return Ok(());
            }
            self.others.at(reflector).has_skipped = true;
            return Err(Dropped::Dead);
        }
        if by.is_nobody() {
            self.others.release(reflector, &key);
        } else if !self.others.hold(reflector, &key, record_hash(record.subject, record.value)) {
            return Err(Dropped::Routes);
        }
        let remote = Remote { reflector, generation: self.others.at(reflector).generation };
        self.home_calls.push_back(HomeCall::Announce(remote, key.0, key.1, by));
        Ok(())
    }

    fn other_lease(&mut self, now: Time, place: u16, record: &Record<'_>) {
        let reflector = self.others.at(place);
        reflector.lease_sequence = reflector.lease_sequence.max(record.sequence);
        let is_missed = reflector.looked_for > 0;
        if record.value.is_empty() {
            reflector.looked_for = 0;
            return self.lease_ended(now, place, record.age);
        }
        match Lease::decode(record.value) {
            Err(reason) => self.drop_it(reason),
            Ok(Lease { state: LeaseState::Gone, .. }) => self.said_gone(place, record.sequence),
            // It was looked for, and its end is missing: the engine did not tell it, or nobody gave it one. (Not at once: the clocks
            // of the engine's servers may differ.)
            Ok(_) if is_missed && self.is_reading() && self.is_overdue(record.age) => {
                let lifetime = self.config.timers.lease_lifetime;
                self.lease_ended(now, place, record.age.saturating_sub(lifetime));
            }
            Ok(lease) => {
                if Lease::doubted(record.value) == Some(&self.config.name) {
                    self.heed_doubt(now);
                }
                self.lease_lives(now, place, lease);
            }
        }
    }

    /// Somebody asks us to see what the engine has of ours: what it has lost shows when we read it.
    fn heed_doubt(&mut self, now: Time) {
        let heeded_at = self.reading.heeded_at;
        let is_time = heeded_at.is_none_or(|at| now.since(at) >= DOUBT_PAUSE);
        if is_time && !self.is_reading() && self.keeps(Rule::Digest) {
            self.reading.heeded_at = Some(now);
            self.read_again(now);
        }
    }

    fn lease_lives(&mut self, now: Time, place: u16, lease: Lease) {
        let is_reading = self.is_reading();
        let overdue_at = self.overdue_at(now);
        let reflector = self.others.at(place);
        reflector.heard_at = now;
        let is_back = !reflector.counts() && reflector.has_skipped;
        reflector.lease = Some(lease);
        reflector.stale_until = None;
        reflector.gone_at = None;
        reflector.absence = Absence::Unknown;
        reflector.janitor = Janitor::Idle;
        if is_back {
            // What it has published before was passed over.
            self.read_again(now);
        }
        if !is_reading {
            if lease.state == LeaseState::Synced {
                self.clear_when_caught_up(place);
            }
            self.compare(now, place, &lease);
            self.note_deadline(Some(overdue_at));
        }
    }

    /// A reflector has published all. What it has not said again is gone, as soon as all has come that lies before this
    /// moment: of what it published before its lease, some may have been replaced by what is still to come.
    fn clear_when_caught_up(&mut self, place: u16) {
        let (taken, pending) = (self.reading.taken, self.reading.pending);
        let reflector = self.others.at(place);
        if taken >= *reflector.clears_at.get_or_insert(taken + pending) {
            reflector.clears_at = None;
            let lost = self.others.lose_former(place);
            self.lose(place, lost);
        }
    }

    /// A reflector's lease is over, since so long.
    fn lease_ended(&mut self, now: Time, place: u16, age: Duration) {
        let is_reading = self.is_reading();
        let keeps_stale = self.keeps(Rule::Stale);
        let (stale, gone) = (self.config.timers.stale, self.config.timers.gone);
        let reflector = self.others.at(place);
        let had_lease = reflector.lease.take().is_some();
        // Our clock may have begun after it ended.
        reflector.gone_at = Some(now.after(gone.saturating_sub(age)));
        if is_reading {
            if !reflector.was_held {
                let left = stale.saturating_sub(age);
                reflector.stale_until = (!left.is_zero()).then(|| now.after(left));
            } else if had_lease {
                reflector.stale_until = Some(Time::NEVER);
            }
        } else if had_lease {
            reflector.stale_until = Some(if keeps_stale { now.after(stale) } else { now });
        }
        let until = reflector.stale_until;
        self.note_deadline(until);
    }

    /// Compares what a reflector says that it has published with what we have of it. While that differs, everything is
    /// read anew, ever less often; and when that has not helped, the reflector is asked to do the same.
    fn compare(&mut self, now: Time, place: u16, lease: &Lease) {
        // Where more is pending, some of what the lease counts may have been replaced before it came to us.
        let is_known = self.reading.pending > 0 || self.reading.again_at.is_some();
        let is_exact = !is_known && self.keeps(Rule::Digest);
        let reflector = self.others.at(place);
        let Some(theirs) = lease.contents.filter(|_| is_exact && !reflector.is_incomplete) else {
            return;
        };
        if theirs == reflector.contents() && !reflector.has_skipped {
            reflector.misses = 0;
            reflector.is_doubted = false;
            return;
        }
        reflector.misses = reflector.misses.saturating_add(1);
        let misses = reflector.misses;
        if misses < MISSES_MIN || !misses.is_power_of_two() && !misses.is_multiple_of(MISSES_MAX) {
            return;
        }
        if misses > MISSES_MIN {
            reflector.is_doubted = true;
            self.digest_alarms += 1;
        }
        self.read_again(now);
    }

    /// All was read.
    fn end_reading(&mut self, now: Time) {
        self.phase = Phase::Clearing;
        self.hold_until = None;
        self.reading.has_missed = false;
        self.lease.begin_clearing(now);
        let stale_at = match self.keeps(Rule::StaleAfterReading) {
            true => now.after(self.config.timers.stale),
            false => now,
        };
        let overdue_at = self.overdue_at(now);
        for place in 0..self.others.len() {
            let reflector = self.others.at(place);
            match (reflector.lease, reflector.stale_until) {
                (Some(lease), _) => {
                    reflector.heard_at = now;
                    self.note_deadline(Some(overdue_at));
                    let is_synced = lease.state == LeaseState::Synced;
                    if is_synced || !self.keeps(Rule::LoseWhenSynced) {
                        let lost = self.others.lose_former(place);
                        self.lose(place, lost);
                    }
                }
                (None, Some(Time::NEVER)) => {
                    reflector.stale_until = Some(stale_at);
                    self.note_deadline(Some(stale_at));
                }
                (None, Some(until)) => self.note_deadline(Some(until)),
                (None, None) => {
                    reflector.mark_lost();
                    let lost = self.others.lose_all(place);
                    self.lose(place, lost);
                    let reflector = self.others.at(place);
                    if reflector.left_nothing() && reflector.lease_sequence == 0 {
                        // The engine does not know it.
                        reflector.absence = Absence::Removed;
                    }
                    let gone_at = reflector.gone_at;
                    self.note_deadline(gone_at);
                }
            }
            self.plan_purge(now, place);
        }
        if !self.reading.has_read {
            self.reading.has_read = true;
            self.lose_own_stale(false);
        }
        self.own.doubt_below(self.lease.gone_sequence);
        self.needs_settled = true;
    }

    /// Whether what comes may be older than what we know.
    pub(super) fn is_reading(&self) -> bool {
        matches!(self.phase, Phase::Opening(_) | Phase::Reading)
    }

    /// Everything is to be read anew, soon.
    pub(super) fn read_again(&mut self, now: Time) {
        if self.reading.again_at.is_none() {
            self.reading.again_at = Some(self.open_at(now));
        }
    }

    /// The feed is gone, and with it what is in flight.
    pub(super) fn feed_lost(&mut self, now: Time, phase: Phase) {
        if self.phase == Phase::Fenced {
            return;
        }
        self.reading.has_missed = true;
        self.reading.again_at = None;
        self.phase = phase;
        self.needs_settled = false;
        self.effects.clear();
        self.own.pause();
        self.lease.forget();
        let hold = match self.keeps(Rule::Hold) {
            true => now.after(self.config.timers.hold),
            false => now,
        };
        // If it was over, and something came since, that has a time of its own.
        let is_over = self.hold_until == Some(Time::NEVER) && self.others.records() > 0;
        if is_over || self.hold_until.is_none() {
            self.hold_until = Some(hold);
        }
    }

    /// What stands for peers of the former life goes: what came from readings that were not finished, or all.
    pub(super) fn lose_own_stale(&mut self, all: bool) {
        let mut lost = std::mem::take(&mut self.own_stale.former);
        if all && std::mem::take(&mut self.own_stale.is_taken) {
            lost.push(self.own_stale.generation);
        }
        self.lose(Remote::OWN_STALE, lost);
    }
}
