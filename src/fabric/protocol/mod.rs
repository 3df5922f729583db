//! The protocol: when it reads, when it publishes, whose word counts.
//!
//! Owns the order of things. Must never wait for anybody: it is told what happened, and says what is to be done.

mod clock;
mod handed_over;
mod janitor;
mod lease;
mod reading;
mod refusals;
mod writing;

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use ahash::RandomState;

use super::config::{FabricConfig, Rule};
use super::engine::{Effect, PublishError, Record};
use super::others::Others;
use super::own::OwnRecords;
use super::record::Dropped;
use super::status::{Standing, State, Status};
use super::subject::Subjects;

use crate::types::{Announcers, Remote, Route, Time, Vni};
use clock::Chance;
use lease::OwnLease;
use refusals::Refusals;
use writing::Retries;

/// What homes are to be told.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum HomeCall {
    /// A reflector says who announces a route there.
    Announce(Remote, Vni, Route, Announcers),
    /// All that was read in this generation goes.
    Lose(Remote),
}

/// How homes are.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Homes {
    /// Some home has enough to do.
    pub is_full: bool,
    /// All that homes were told is done, and they have said what came of it.
    pub is_settled: bool,
    /// Routes of others that they have refused since the start.
    pub refused: u64,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Phase {
    /// The engine is out of reach.
    Unlinked,
    /// To be opened, then.
    Waiting(Time),
    /// The feed is being opened, since then.
    Opening(Time),
    /// What there is is read.
    Reading,
    /// All was read. What a former life left goes, then the lease comes: until then others do not count on us.
    Clearing,
    /// The lease is there.
    Live,
    /// A reflector with our name was started later.
    Fenced,
}

/// What is read, and how that goes.
#[derive(Debug)]
struct Reading {
    /// Counted from 1.
    number: u64,
    /// When the feed was opened last, and how often in a row that was soon after the time before.
    opened_at: Option<Time>,
    attempts: u32,
    /// Renewals of leases may have been missed since all was known.
    has_missed: bool,
    /// All was read once.
    has_read: bool,
    /// To be read anew, then.
    again_at: Option<Time>,
    /// The last record that came.
    sequence: u64,
    pending: u64,
    /// How many came since the start.
    taken: u64,
    /// When it was read anew last since somebody doubts what the engine has of ours.
    heeded_at: Option<Time>,
    /// What was known to be the last one when this reading began.
    last_known: u64,
    /// When a record came last, and when we last did not want any.
    heard_at: Time,
    paused_at: Time,
}

/// Records of our own former life.
#[derive(Debug, Default)]
struct OwnStale {
    /// They stand for peers that are not back yet.
    is_taken: bool,
    /// In this generation; and what was read in readings that were not finished.
    generation: u64,
    former: Vec<u64>,
}

#[derive(Debug)]
pub(super) struct Protocol {
    config: FabricConfig,
    pub(super) subjects: Subjects,
    phase: Phase,
    own: OwnRecords,
    others: Others,
    reading: Reading,
    lease: OwnLease,
    retries: Retries,
    refusals: Refusals,
    own_stale: OwnStale,
    /// Until when the former life's peers may come back.
    restart_until: Time,
    restart_passed: bool,
    /// Homes are to have done all before we go on, and we take nothing from the feed until then.
    needs_settled: bool,
    /// Until when remote routes stay without an engine.
    hold_until: Option<Time>,
    /// Since when our own lease does not stand, as far as that was looked at.
    unheard_since: Option<Time>,
    /// Not later than the next deadline of another reflector.
    next_of_others: Time,
    /// It ends, at that time at the latest.
    leaving_until: Option<Time>,
    has_left: bool,
    /// Over this link it is not permitted to remove what others left.
    may_not_purge: bool,
    next_token: u64,
    effects: VecDeque<Effect>,
    home_calls: VecDeque<HomeCall>,
    chance: Chance,
    dropped: BTreeMap<Dropped, u64>,
    digest_alarms: u64,
    twin: Option<u64>,
}

impl Protocol {
    pub(super) fn new(now: Time, config: FabricConfig) -> Protocol {
        let [a, b, c, d] = config.hash_seed;
        let hasher = RandomState::with_seeds(a, b, c, d);
        Protocol {
            subjects: Subjects::new(&config.fabric),
            phase: Phase::Unlinked,
            own: OwnRecords::new(hasher.clone()),
            others: Others::new(hasher, config.routes_max),
            reading: Reading {
                number: 0,
                opened_at: None,
                attempts: 0,
                has_missed: true,
                has_read: false,
                again_at: None,
                sequence: 0,
                pending: 0,
                taken: 0,
                heeded_at: None,
                last_known: 0,
                heard_at: now,
                paused_at: now,
            },
            lease: OwnLease::new(now),
            retries: Retries::new(config.in_flight_max),
            refusals: Refusals::default(),
            own_stale: OwnStale::default(),
            restart_until: now.after(config.timers.restart),
            restart_passed: false,
            needs_settled: false,
            hold_until: None,
            unheard_since: None,
            next_of_others: Time::NEVER,
            leaving_until: None,
            has_left: false,
            may_not_purge: false,
            next_token: 0,
            effects: VecDeque::new(),
            home_calls: VecDeque::new(),
            chance: Chance::new(a ^ config.incarnation),
            dropped: BTreeMap::new(),
            digest_alarms: 0,
            twin: None,
            config,
        }
    }

    pub(super) fn linked(&mut self, now: Time) {
        if self.phase == Phase::Unlinked {
            // That was another link.
            self.lease.error = None;
            self.may_not_purge = false;
            self.phase = Phase::Waiting(self.open_at(now));
        }
    }

    pub(super) fn unlinked(&mut self, now: Time) {
        self.feed_lost(now, Phase::Unlinked);
    }

    pub(super) fn feed_broken(&mut self, now: Time) {
        if self.phase != Phase::Unlinked {
            let at = self.open_at(now);
            self.feed_lost(now, Phase::Waiting(at));
        }
    }

    pub(super) fn found(&mut self, now: Time, record: &Record<'_>) {
        if matches!(self.phase, Phase::Opening(_)) {
            self.take(now, record, true);
        }
    }

    pub(super) fn opened(&mut self, now: Time, pending: u64) {
        if matches!(self.phase, Phase::Opening(_)) {
            self.begin_feed(now, pending);
        }
    }

    pub(super) fn record(&mut self, now: Time, record: &Record<'_>) {
        if matches!(self.phase, Phase::Reading | Phase::Clearing | Phase::Live) {
            self.next_record(now, record);
        }
    }

    pub(super) fn acked(&mut self, now: Time, token: u64, sequence: u64) {
        if self.own.acked(token, sequence) {
            self.retries.succeeded(self.config.in_flight_max);
            self.lease.progress_at = now;
        } else if !self.lease_acked(now, token, sequence) {
            self.claimed(token, sequence);
        }
    }

    pub(super) fn refused(&mut self, now: Time, token: u64, error: &PublishError) {
        let ways = (self.keeps(Rule::SendAgain), self.keeps(Rule::Bare));
        let is_known = self.own.refused(token, error, ways)
            || self.lease_refused(now, token, error)
            || self.not_claimed(now, token);
        if is_known {
            self.retries.failed(error);
        }
    }

    /// This is announced here, and others have to be told so.
    pub(super) fn published(&mut self, vni: Vni, route: &Route, by: Announcers) {
        self.own.want((vni, *route), by);
    }

    /// Does what is due.
    pub(super) fn turn(&mut self, now: Time, homes: Homes) {
        let dropped = self.dropped.get(&Dropped::Routes).copied().unwrap_or(0);
        self.note_refusals(now, homes.refused + dropped);
        if homes.is_full || self.needs_settled {
            self.reading.paused_at = now;
        }
        if homes.is_settled && self.home_calls.is_empty() && self.needs_settled {
            self.needs_settled = false;
            if self.phase == Phase::Clearing {
                self.own.end_reading();
            }
        }
        self.fire_timers(now);
        self.write(now);
    }

    pub(super) fn take_effect(&mut self) -> Option<Effect> {
        self.effects.pop_front()
    }

    pub(super) fn take_home_call(&mut self) -> Option<HomeCall> {
        self.home_calls.pop_front()
    }

    /// Whether homes are to have done all before we go on; until then no more of the feed is to come.
    pub(super) fn needs_settled(&self) -> bool {
        self.needs_settled
    }

    pub(super) fn has_left(&self) -> bool {
        self.has_left
    }

    pub(super) fn status(&self, now: Time) -> Status {
        let state = match self.phase {
            Phase::Fenced => State::Fenced,
            Phase::Unlinked => State::Unlinked,
            Phase::Waiting(_) | Phase::Opening(_) | Phase::Reading => State::Reading,
            Phase::Clearing | Phase::Live if self.leaving_until.is_some() => State::Leaving,
            Phase::Live if self.lease.is_synced => State::Synced,
            Phase::Clearing | Phase::Live => State::Syncing,
        };
        let mut reflectors = self.others.statuses(now);
        if matches!(self.phase, Phase::Unlinked | Phase::Fenced) {
            // What was heard last is what was.
            let is_past = |it: &Standing| matches!(it, Standing::Live(_) | Standing::Stale(_));
            for other in reflectors.iter_mut().filter(|it| is_past(&it.standing)) {
                other.standing = Standing::Unknown;
            }
        }
        Status {
            state,
            lag_records: self.reading.pending,
            canary_age: self.lease.seen_at.map(|at| now.since(at)),
            // While something comes it is no engine that is away.
            held_for: self.hold_until.filter(|_| self.phase != Phase::Reading).map(|until| {
                match until {
                    Time::NEVER => Duration::ZERO,
                    until => until.since(now),
                }
            }),
            own_records: self.own.wanted(),
            lease_error: self.lease.error.clone().or_else(|| self.lease_is_kept_back(now)),
            own_stale: self.own_stale.is_taken || !self.own_stale.former.is_empty(),
            dirty: self.own.dirty() as u64,
            in_flight: self.own.in_flight() as u64,
            full: self.own.full() as u64,
            reflectors,
            remote_records: self.others.records(),
            dropped: self.dropped.clone(),
            refused: 0,
            has_read: self.reading.has_read,
            readings: self.reading.number,
            publish_errors: self.retries.errors,
            last_error: self.retries.last_error.clone(),
            digest_alarms: self.digest_alarms,
            twin: self.twin,
        }
    }

    fn keeps(&self, rule: Rule) -> bool {
        self.config.without != Some(rule)
    }

    fn token(&mut self) -> u64 {
        self.next_token += 1;
        self.next_token
    }

    fn drop_it(&mut self, reason: Dropped) {
        *self.dropped.entry(reason).or_default() += 1;
    }

    /// These generations of another reflector are lost.
    fn lose(&mut self, reflector: u16, generations: Vec<u64>) {
        let remotes = generations.into_iter().map(|generation| Remote { reflector, generation });
        self.home_calls.extend(remotes.map(HomeCall::Lose));
    }
}
