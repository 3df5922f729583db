//! Deadlines, and what is left to chance.
//!
//! Owns when something is due that nobody causes. Must never miss one that [`Protocol::next_wakeup`] names.

use std::time::Duration;

use super::super::config::Rule;
use super::super::others::{Absence, Reflector};
use super::{Phase, Protocol};
use crate::types::Time;

/// How long it takes at most until a feed is open.
const OPENING_MAX: Duration = Duration::from_secs(30);
/// Waits between two readings: at first, and at the latest.
const WAIT_MIN: Duration = Duration::from_secs(1);
const WAIT_MAX: Duration = Duration::from_secs(30);
/// Lifetimes of a lease of which nothing was heard, until it is looked for.
const OVERDUE: u32 = 3;
/// Times that doubles at most if it turns out to live.
const LOOKED_FOR_MAX: u32 = 5;
/// After so long a reading is the first one again.
const CALM: Duration = Duration::from_secs(60);

/// A sequence of numbers that differ from one reflector to the next: all would do the same at once otherwise.
#[derive(Debug)]
pub(super) struct Chance(u64);

impl Chance {
    pub(super) fn new(seed: u64) -> Chance {
        Chance(seed)
    }

    /// Half of it, all of it, or something between.
    pub(super) fn about(&mut self, wait: Duration) -> Duration {
        // SplitMix64.
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        let share = (mixed >> 40) as u32;
        wait / 2 + (wait / 2).mul_f64(f64::from(share) / f64::from(1 << 24))
    }
}

impl Protocol {
    /// When the feed may be opened: at once, but not too often.
    pub(super) fn open_at(&mut self, now: Time) -> Time {
        let reading = &mut self.reading;
        let Some(opened_at) = reading.opened_at else {
            return now;
        };
        if now.since(opened_at) >= CALM {
            reading.attempts = 0;
            return now;
        }
        let wait = WAIT_MIN * 2u32.pow(reading.attempts.min(5));
        reading.attempts += 1;
        now.after(self.chance.about(wait.min(WAIT_MAX)))
    }

    /// When [`Protocol::turn`] is to be called at the latest.
    pub(in super::super) fn next_wakeup(&self) -> Time {
        let of_phase = match self.phase {
            Phase::Fenced => return self.hold_until.unwrap_or(Time::NEVER),
            Phase::Unlinked => Time::NEVER,
            Phase::Waiting(at) => at,
            Phase::Opening(since) => since.after(OPENING_MAX),
            Phase::Reading => self.stall_deadline(),
            Phase::Clearing => {
                self.canary_deadline().min(self.rival_deadline()).min(self.writing_deadline())
            }
            Phase::Live => {
                let refusals = self.refusals_deadline();
                self.canary_deadline().min(self.writing_deadline()).min(refusals)
            }
        };
        let of_others = match self.phase {
            Phase::Clearing | Phase::Live => self.next_of_others,
            _ => Time::NEVER,
        };
        let again = self.reading.again_at.filter(|_| !self.is_reading()).unwrap_or(Time::NEVER);
        let hold = self.hold_until.unwrap_or(Time::NEVER);
        let leaving = self.leaving_until.filter(|_| !self.has_left).unwrap_or(Time::NEVER);
        let restart = if self.restart_passed { Time::NEVER } else { self.restart_until };
        of_phase.min(of_others).min(again).min(hold).min(leaving).min(restart)
    }

    /// When our lease or what failed is due.
    fn writing_deadline(&self) -> Time {
        if self.phase == Phase::Clearing {
            if self.needs_settled || self.lease.has_rival() {
                return Time::NEVER;
            }
            if self.own.has_tombstones() {
                return self.retries.at;
            }
        }
        let lease = match self.lease.waits {
            true => self.digest_deadline(),
            false => self.lease.deadline(),
        };
        lease.min(self.retries.at)
    }

    /// Does what time brings.
    pub(super) fn fire_timers(&mut self, now: Time) {
        if self.hold_until.is_some_and(|until| until <= now) {
            self.hold_until = Some(Time::NEVER);
            self.lose_held();
        }
        if self.restart_until <= now && !self.restart_passed {
            self.restart_passed = true;
            self.lose_own_stale(true);
            self.needs_settled |= matches!(self.phase, Phase::Clearing | Phase::Live);
        }
        if self.leaving_until.is_some_and(|until| until <= now) {
            self.has_left = true;
        }
        if matches!(self.phase, Phase::Clearing | Phase::Live) && self.next_of_others <= now {
            self.fire_others(now);
        }
        self.fire_feed(now);
    }

    /// The feed: is it to be opened, does it stall?
    fn fire_feed(&mut self, now: Time) {
        let stalls = match self.phase {
            Phase::Unlinked | Phase::Fenced => return,
            Phase::Waiting(_) => false,
            Phase::Opening(since) => now >= since.after(OPENING_MAX),
            Phase::Reading => now >= self.stall_deadline(),
            Phase::Clearing | Phase::Live => now >= self.canary_deadline(),
        };
        if stalls && self.is_reading() {
            self.feed_broken(now);
        }
        if let Phase::Waiting(at) = self.phase {
            if now >= at {
                self.open(now);
            }
            return;
        }
        if stalls {
            self.reading.has_missed = true;
            self.read_again(now);
        }
        if self.phase == Phase::Clearing {
            self.look_for_rival(now);
        }
        self.read_refused_again(now);
        if self.reading.again_at.is_some_and(|at| at <= now) && !self.is_reading() {
            self.open(now);
        }
    }

    /// While reading, something has to come.
    fn stall_deadline(&self) -> Time {
        let reading = &self.reading;
        reading.heard_at.max(reading.paused_at).after(self.config.timers.heartbeat * 3)
    }

    /// When our own lease has to be back.
    fn canary_deadline(&self) -> Time {
        let is_known = self.reading.again_at.is_some() || self.lease.has_rival();
        if is_known || self.leaving_until.is_some() || !self.keeps(Rule::Canary) {
            return Time::NEVER;
        }
        let (reading, lease) = (&self.reading, &self.lease);
        let since = match self.phase {
            // Before the first one is sent, any answer will do.
            Phase::Clearing => lease.progress_at,
            _ => lease.seen_at.unwrap_or(lease.live_since),
        };
        let patience = self.config.timers.heartbeat * 3;
        let due_at = since.max(reading.paused_at).after(patience);
        match reading.pending {
            // All has come that was there a moment ago, and others' leases come every second.
            0 => due_at,
            // Ours is among what is still to come, as long as anything comes.
            _ => due_at.max(reading.heard_at.after(patience)),
        }
    }

    /// Something about another reflector is due at that time.
    pub(super) fn note_deadline(&mut self, at: Option<Time>) {
        self.next_of_others = self.next_of_others.min(at.unwrap_or(Time::NEVER));
    }

    /// When a lease that is heard now, and never again, is looked for. The engine tells its end, but that may be missed.
    pub(super) fn overdue_at(&self, now: Time) -> Time {
        now.after(self.lease_patience())
    }

    /// Whether a lease of this age should have been renewed, or its end told.
    pub(super) fn is_overdue(&self, age: Duration) -> bool {
        age >= self.lease_patience() && self.keeps(Rule::Overdue)
    }

    fn lease_patience(&self) -> Duration {
        self.config.timers.lease_lifetime * OVERDUE
    }

    /// Stale reflectors are lost, and what is left of those that never come back is purged.
    fn fire_others(&mut self, now: Time) {
        self.next_of_others = Time::NEVER;
        let is_heard = self.is_heard(now);
        for place in 0..self.others.len() {
            let reflector = self.others.at(place);
            let is_due = reflector.stale_until.is_some_and(|until| until <= now);
            if reflector.lease.is_none() && is_due && !is_heard {
                // It may be as well as we are.
                reflector.stale_until = Some(now.after(self.config.timers.lease_lifetime));
            } else if reflector.lease.is_none() && is_due {
                reflector.stale_until = None;
                reflector.mark_lost();
                let lost = self.others.lose_all(place);
                self.lose(place, lost);
                self.plan_purge(now, place);
            } else if reflector.left_nothing() && reflector.gone_at.is_some_and(|at| at <= now) {
                reflector.absence = Absence::Removed;
            }
            self.purge_if_due(now, place);
            self.look_if_overdue(now, place, is_heard);
            let is_live = self.phase == Phase::Live;
            let reflector = self.others.at(place);
            // Nothing is purged before our own lease is there; when it is, all of this is gone through.
            let purge_at = reflector.janitor.due_at().filter(|_| is_live);
            let gone_at = reflector.gone_at.filter(|_| reflector.left_nothing());
            let at = reflector.stale_until.into_iter().chain(purge_at).chain(gone_at).min();
            self.note_deadline(at);
        }
    }

    /// Reads everything anew, if neither a lease nor its end is heard.
    fn look_if_overdue(&mut self, now: Time, place: u16, is_heard: bool) {
        let patience = self.lease_patience();
        let looks = is_heard && self.keeps(Rule::Overdue);
        let reflector = self.others.at(place);
        if reflector.lease.is_none() {
            return;
        }
        // One that renews its lease more rarely than we do is not looked for each time.
        let overdue_at = |it: &Reflector| {
            it.heard_at.after(patience * 2u32.pow(it.looked_for.min(LOOKED_FOR_MAX)))
        };
        let is_overdue = overdue_at(reflector) <= now;
        if is_overdue {
            reflector.heard_at = now;
            reflector.looked_for += u32::from(looks);
        }
        let at = overdue_at(reflector);
        if is_overdue && looks {
            self.read_again(now);
        }
        self.note_deadline(Some(at));
    }

    /// Whether our own lease stands. If the engine takes none of ours, it may take none of others' either (its store may
    /// be full): so nobody is lost for that, as if it were out of reach, and for as long.
    fn is_heard(&mut self, now: Time) -> bool {
        let timers = &self.config.timers;
        if self.lease.seen_at.is_some_and(|at| at.after(timers.lease_lifetime) > now) {
            self.unheard_since = None;
            return true;
        }
        let since = *self.unheard_since.get_or_insert(now);
        !self.keeps(Rule::Hold) || since.after(timers.hold) <= now
    }

    /// The engine was away for too long: what came before is gone.
    fn lose_held(&mut self) {
        let is_reading = self.is_reading();
        for place in 0..self.others.len() {
            let lost = match is_reading {
                true => self.others.lose_former(place),
                false => self.others.lose_all(place),
            };
            self.lose(place, lost);
        }
    }
}
