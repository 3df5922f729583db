//! What reflectors leave that never come back (rule G1).
//!
//! Owns when it is purged, and by whom. Must never touch what is written after everybody was told.

use std::time::Duration;

use super::super::config::Rule;
use super::super::engine::{Effect, Publish};
use super::super::others::{Absence, Janitor};
use super::{Phase, Protocol};
use crate::types::Time;

/// Reflectors that find the same one gone do not all act at once.
const SPREAD: Duration = Duration::from_secs(60);

impl Janitor {
    /// When there is something to be done.
    pub(super) fn due_at(self) -> Option<Time> {
        match self {
            Janitor::At(at) => Some(at),
            _ => None,
        }
    }
}

impl Protocol {
    /// If a reflector has no lease any more, and left something, that is purged one day.
    pub(super) fn plan_purge(&mut self, now: Time, place: u16) {
        let timers = self.config.timers;
        let reflector = self.others.at(place);
        if reflector.counts() || !reflector.has_skipped || reflector.janitor != Janitor::Idle {
            return;
        }
        reflector.absence = Absence::Lost;
        // None: so long ago that nothing says when. If it is only about to come back, it has time to.
        let at = reflector.gone_at.unwrap_or_else(|| now.after(timers.stale));
        let at = at.max(now).after(self.chance.about(SPREAD));
        if self.keeps(Rule::Janitor) {
            self.others.at(place).janitor = Janitor::At(at);
            self.note_deadline(Some(at));
        }
    }

    /// Says that a reflector is gone, if it is time: it has to know before anything of it is taken away.
    pub(super) fn purge_if_due(&mut self, now: Time, place: u16) {
        let is_due = self.others.at(place).janitor.due_at().is_some_and(|at| at <= now);
        if !is_due || self.phase != Phase::Live {
            return;
        }
        let lifetime = self.config.timers.gone;
        if self.may_not_purge {
            self.others.at(place).janitor = Janitor::At(now.after(lifetime));
            return;
        }
        let token = self.token();
        let reflector = self.others.at(place);
        reflector.janitor = Janitor::Claiming(token);
        let (subject, last) = (self.subjects.lease(&reflector.name), reflector.lease_sequence);
        self.effects.push_back(Effect::Publish(Publish::gone(token, subject, last, lifetime)));
    }

    /// The engine does not permit that: not tried again before the next link.
    pub(in super::super) fn may_not_purge(&mut self) {
        self.may_not_purge = true;
    }

    /// Everybody has been told that a reflector is gone.
    pub(super) fn claimed(&mut self, token: u64, sequence: u64) {
        let Some(place) = self.cleared_by(token) else { return };
        let purge = self.token();
        let reflector = self.others.at(place);
        reflector.lease_sequence = reflector.lease_sequence.max(sequence);
        reflector.janitor = Janitor::Purging(purge);
        let filter = self.subjects.routes(&reflector.name);
        self.effects.push_back(Effect::Purge { token: purge, filter, below: sequence });
    }

    /// It came to nothing, or nobody knows: later again. False if that was nothing of the kind.
    pub(super) fn not_claimed(&mut self, now: Time, token: u64) -> bool {
        let Some(place) = self.cleared_by(token) else { return false };
        // Who may not purge does not say so all the time.
        let was_claimed = self.others.at(place).janitor == Janitor::Purging(token);
        let wait = if was_claimed { self.config.timers.gone } else { SPREAD };
        let at = now.after(wait + self.chance.about(SPREAD));
        let reflector = self.others.at(place);
        // The end of its lease, on top of which this was written, may itself be forgotten by now.
        reflector.lease_sequence = 0;
        reflector.janitor = Janitor::At(at);
        self.note_deadline(Some(at));
        true
    }

    /// What a reflector left is gone.
    pub(in super::super) fn purged(&mut self, token: u64) {
        if let Some(place) = self.cleared_by(token) {
            let reflector = self.others.at(place);
            reflector.janitor = Janitor::Idle;
            reflector.has_skipped = false;
        }
    }

    /// Somebody says that a reflector is gone.
    pub(super) fn said_gone(&mut self, place: u16, sequence: u64) {
        let reflector = self.others.at(place);
        reflector.lease = None;
        reflector.stale_until = None;
        reflector.gone_at = None;
        reflector.absence = Absence::Removed;
        let is_mine = matches!(reflector.janitor, Janitor::Claiming(_) | Janitor::Purging(_));
        if !is_mine && sequence == reflector.lease_sequence {
            // Who says so does the rest. If not, that is found at the next reading.
            reflector.janitor = Janitor::NotMe;
        }
        let lost = self.others.lose_all(place);
        self.lose(place, lost);
    }

    fn cleared_by(&mut self, token: u64) -> Option<u16> {
        let is_it =
            |janitor| janitor == Janitor::Claiming(token) || janitor == Janitor::Purging(token);
        (0..self.others.len()).find(|place| is_it(self.others.at(*place).janitor))
    }
}
