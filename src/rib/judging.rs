//! Another policy: what it permits comes into the tables, then what it does not permit goes from them: a route that
//! one peer may announce instead of another is always there.
//!
//! Owns how far that is. Must never touch what was announced since: that is judged by the new policy already.

use std::sync::Arc;

use super::jobs::Job;
use super::sources::Source;
use super::speakers::Role;
use super::withheld::WithheldRoute;
use super::{Outcome, Pressure, RecordSink, Refusal, Rib};
use crate::policy::{Denial, Policy};
use crate::types::{Route, SourceId, Vni};

/// Going through what is withheld, then through the tables.
#[derive(Debug)]
pub(super) struct Judging {
    /// What is left of those that there were when it began.
    vnis: Vec<Vni>,
    sources: Vec<SourceId>,
    /// Whether some had no room, and whether it is the second time.
    lacked_room: bool,
    is_second: bool,
    /// The table that is frozen for now, from which place on to go on, and up to which one.
    table: Option<(Vni, u32, u32)>,
    /// Where to go on among what is withheld of the last source.
    at: u32,
}

impl Rib {
    /// From now on this policy judges what is announced; what was announced before it is to judge too (by
    /// [`Rib::run_jobs`]).
    pub fn set_policy(&mut self, policy: Option<Arc<Policy>>) {
        self.sources.set_policy(policy);
        let before = self.judging.take();
        if let Some((vni, ..)) = before.as_ref().and_then(|judging| judging.table) {
            self.thaw(vni);
        }
        let (vnis, sources) = (self.homes.keys().collect(), self.sources.ids());
        self.judging = Some(Box::new(Judging {
            vnis,
            sources,
            lacked_room: false,
            is_second: false,
            table: None,
            at: u32::MAX,
        }));
        if before.is_none() {
            self.jobs.add(Job::Judge);
        }
    }

    /// Withholds a route that policy does not permit: out of its table, should it be there.
    pub(super) fn withhold(
        &mut self,
        source: SourceId,
        withheld: WithheldRoute,
        denial: Denial,
        sink: &mut impl RecordSink,
    ) -> Outcome {
        let taken = self.take(source, withheld.vni, &withheld.route, sink);
        let mut outcome = Outcome { refusal: Some(Refusal::Policy(denial)), ..Outcome::default() };
        let hasher = &self.common.rules.hasher;
        let rules = &self.common.rules;
        // What nobody is told is the first that there is no room for.
        let is_full = rules.ledger.pressure() >= Pressure::Conflate
            || self.sources.withheld() as u64 >= rules.routes_max;
        if taken.is_none() && is_full && !self.sources.is_withheld(source, &withheld, hasher) {
            return outcome;
        }
        let before = self.sources.withhold(source, withheld, hasher);
        outcome.withheld = i32::from(before.is_none());
        match before.or(taken.map(Role::life)) {
            None => outcome.stored = 1,
            Some(announced) => outcome.again(announced == withheld.life),
        }
        outcome
    }

    /// True when nothing is left to do.
    pub(super) fn judge(&mut self, budget: &mut usize, sink: &mut impl RecordSink) -> bool {
        let Some(mut judging) = self.judging.take() else { return true };
        let mut is_done = self.judge_withheld(&mut judging, budget, sink)
            && self.judge_tables(&mut judging, budget, sink);
        if is_done && judging.lacked_room && !judging.is_second {
            // There may be room now.
            judging.sources = self.sources.ids();
            judging.is_second = true;
            is_done = self.judge_withheld(&mut judging, budget, sink);
        }
        if !is_done {
            self.judging = Some(judging);
        }
        is_done
    }

    fn judge_tables(
        &mut self,
        judging: &mut Judging,
        budget: &mut usize,
        sink: &mut impl RecordSink,
    ) -> bool {
        loop {
            let Some((vni, from, to)) = judging.table else {
                let Some(vni) = judging.vnis.pop() else { return true };
                judging.table = self.freeze(vni);
                continue;
            };
            let mut next = from;
            while next < to {
                if *budget == 0 {
                    judging.table = Some((vni, next, to));
                    return false;
                }
                self.judge_place(vni, next, budget, sink);
                next += 1;
            }
            judging.table = None;
            self.thaw(vni);
        }
    }

    /// While it is gone through no route gets another place, and none gets one that was passed.
    fn freeze(&mut self, vni: Vni) -> Option<(Vni, u32, u32)> {
        let home = self.homes.find_mut(vni, &self.common.rules.hasher)?;
        home.is_judged = true;
        home.table.freeze();
        let places = u32::try_from(home.table.places()).expect("a VNI has below 2^32 routes");
        Some((vni, 0, places))
    }

    fn thaw(&mut self, vni: Vni) {
        let home = self.homes.find_mut(vni, &self.common.rules.hasher);
        let Some(home) = home else { unreachable!("it stays while it is gone through") };
        home.is_judged = false;
        home.table.thaw();
        self.tidy(vni);
    }

    fn judge_place(
        &mut self,
        vni: Vni,
        place: u32,
        budget: &mut usize,
        sink: &mut impl RecordSink,
    ) {
        let hasher = &self.common.rules.hasher;
        let Some(home) = self.homes.find(vni, hasher) else { return };
        let entry = home.table.entry(place);
        let (route, members) = (entry.route, entry.sources());
        let mut looked_at = 1;
        let mut denied: Vec<(SourceId, Denial)> = Vec::new();
        for (source, _) in members {
            looked_at += 1;
            let Some((of, judgement)) = self.sources.find_mut(source, hasher) else { continue };
            let judged = of.judge(judgement, vni, &route);
            denied.extend(judged.err().map(|denial| (source, denial)));
        }
        *budget = budget.saturating_sub(looked_at);
        // The last one first: that moves no other.
        for (source, denial) in denied.into_iter().rev() {
            self.withdraw_denied(source, vni, &route, denial, sink);
            *budget = budget.saturating_sub(1 + self.take_steps());
        }
    }

    fn withdraw_denied(
        &mut self,
        source: SourceId,
        vni: Vni,
        route: &Route,
        denial: Denial,
        sink: &mut impl RecordSink,
    ) {
        let Some(role) = self.take(source, vni, route, sink) else { return };
        let (class, life) = (role.class(), role.life());
        let hasher = &self.common.rules.hasher;
        self.sources.withhold(source, WithheldRoute { vni, route: *route, class, life }, hasher);
        let of = self.sources.find(source, hasher);
        if let Some(of) = of.and_then(Source::introduction) {
            sink.judged(source, of, (vni, route), Some(denial));
        }
    }

    fn judge_withheld(
        &mut self,
        judging: &mut Judging,
        budget: &mut usize,
        sink: &mut impl RecordSink,
    ) -> bool {
        let hasher = self.common.rules.hasher.clone();
        while let Some(&source) = judging.sources.last() {
            if *budget == 0 {
                return false;
            }
            *budget -= 1;
            let of = self.sources.find(source, &hasher);
            let Some(withheld) = of.and_then(Source::withheld).filter(|_| judging.at > 0) else {
                judging.sources.pop();
                judging.at = u32::MAX;
                continue;
            };
            // The last one first: another one that was passed may stand there then.
            judging.at = judging.at.min(withheld.len() as u32) - 1;
            let one = *withheld.at(judging.at as usize);
            judging.lacked_room |= !self.judge_one(source, one, judging.at as usize, sink);
            *budget = budget.saturating_sub(self.take_steps());
        }
        true
    }

    /// Judges one that is withheld. False if it is permitted, and there is no room for it.
    fn judge_one(
        &mut self,
        source: SourceId,
        one: WithheldRoute,
        place: usize,
        sink: &mut impl RecordSink,
    ) -> bool {
        let hasher = self.common.rules.hasher.clone();
        let WithheldRoute { vni, route, class, life } = one;
        let Some((of, judgement)) = self.sources.find_mut(source, &hasher) else { return true };
        let (introduction, speaker) = (of.introduction(), of.speaker());
        if of.judge(judgement, vni, &route).is_err() {
            return true;
        }
        self.sources.release_at(source, place, &hasher);
        if self.put(source, (class, life, speaker), vni, &route, sink).refusal.is_some() {
            // It waits for the next policy.
            self.sources.withhold(source, one, &hasher);
            return false;
        }
        self.note_for_sweeps(source, life, vni);
        if let Some(of) = introduction {
            sink.judged(source, of, (vni, &route), None);
        }
        true
    }
}
