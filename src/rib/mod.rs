//! The route tables of the VNIs whose home is this shard, and the records that their changes make.
//!
//! Owns routes, their sources, bases and followers. Must never know a connection: sources are ids,
//! and what has to be told goes to a [`RecordSink`].

mod build;
mod feed;
mod handed_over;
mod jobs;
mod judging;
mod ledger;
mod publishing;
mod sharing;
mod sources;
mod speakers;
mod sweeping;
mod table;
mod views;
mod visibility;
mod vni;
mod withheld;

use std::collections::VecDeque;

use smallvec::SmallVec;

use crate::log::{Blocks, Scope};
use crate::policy::Denial;
use crate::types::{
    Announcers, GroupClass, PeerClass, PeerId, Route, ShardId, SourceId, Speaker, SplitMap, Time,
    Vni,
};

use feed::Feed;
pub use feed::{BASE_KEPT, Join};
pub(crate) use handed_over::{AnnouncedPart, Announcements};
use jobs::{Job, Jobs};
pub use ledger::{Ledger, Pressure};
use table::{RouteHash, VniTable};
pub use views::{Audience, RoutesPiece, Sight, Sources, VniView, VnisPiece};

use judging::Judging;
pub use sources::Introduction;
use sources::{Source, SourceTable};
pub use speakers::Announcer;
use speakers::{Role, SpeakerRef, Speakers};
use sweeping::Sweeps;
use vni::{Common, VniRib};
pub use vni::{Refusal, Rules};
use withheld::WithheldRoute;

/// Bases that are looked at at a time for whether they may be forgotten.
const BASES_PER_TURN: usize = 1_024;
/// What a base costs beside its routes.
const BUILD_COST: usize = 4;
/// A turn's budget goes to the kinds of jobs in so many slices.
const SLICES_PER_TURN: usize = 16;

/// Changes that [`Rib::foresee`] looks at.
pub(crate) const FORESIGHT: usize = 16;
/// Smaller tables lie in the cache.
const FORESIGHT_ROUTES_MIN: usize = 1 << 14;

/// The subscribers of one VNI that belong to one class: they see the same, but for their own routes.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct UpdateGroup {
    /// The VNI.
    pub vni: Vni,
    /// The class.
    pub class: GroupClass,
}

/// The answer to a join: the table as it was, and what changed until now.
#[derive(Clone, Debug)]
pub struct Joined {
    /// The group that was joined.
    pub group: UpdateGroup,
    /// The subscriber.
    pub peer: PeerId,
    /// The subscription of that peer that asked.
    pub epoch: u64,
    /// To be read in this order, then the live records.
    pub blocks: Blocks,
}

/// Where records go: one queue for each shard, in order.
pub trait RecordSink {
    /// One frame for the subscribers of `group` at `shard` that `scope` includes. The VNI has
    /// `routes_now` routes.
    fn record(
        &mut self,
        shard: ShardId,
        group: UpdateGroup,
        scope: Scope,
        frame: &[u8],
        routes_now: usize,
    );
    /// Others announce the route at this node than before: these are all.
    fn publish(&mut self, vni: Vni, route: &Route, by: Announcers);
    /// The answer to a join.
    fn joined(&mut self, shard: ShardId, joined: Joined);
    /// What a source had not announced again was withdrawn, as its shard asked for: so many routes, some of
    /// which were withheld.
    fn swept(&mut self, shard: ShardId, source: SourceId, routes: u32, withheld: u32);
    /// Another policy withholds a route of a source, or (None) withholds one no longer.
    fn judged(
        &mut self,
        source: SourceId,
        of: Introduction,
        route: (Vni, &Route),
        denial: Option<Denial>,
    );
}

/// What a change of a source did.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Outcome {
    /// Routes that the source announces in this life more than before.
    pub stored: i32,
    /// Routes that it has announced in a former life only, more than before.
    pub stale: i32,
    /// How many of all these are withheld.
    pub withheld: i32,
    /// Why the route is not in its table, if it is refused.
    pub refusal: Option<Refusal>,
}

impl Outcome {
    /// A route was announced that was announced before, in this life or a former one.
    fn again(&mut self, in_this_life: bool) {
        if !in_this_life {
            self.stored += 1;
            self.stale -= 1;
        }
    }

    /// A route is announced no more, that was in this life or a former one.
    fn less(&mut self, in_this_life: bool) {
        match in_this_life {
            true => self.stored -= 1,
            false => self.stale -= 1,
        }
    }

    /// Whether anything is otherwise than before.
    pub fn is_change(&self) -> bool {
        self.stored != 0 || self.stale != 0 || self.withheld != 0
    }
}

/// All route tables of one home shard.
pub struct Rib {
    common: Common,
    homes: SplitMap<Vni, VniRib>,
    sources: SourceTable,
    sweeps: Sweeps,
    judging: Option<Box<Judging>>,
    jobs: Jobs,
    /// Groups that have a base to be forgotten in time.
    with_base: VecDeque<UpdateGroup>,
}

impl Rib {
    /// No routes.
    pub fn new(rules: Rules) -> Rib {
        Rib {
            homes: SplitMap::default(),
            sources: SourceTable::default(),
            sweeps: Sweeps::default(),
            judging: None,
            common: Common::new(rules),
            jobs: Jobs::default(),
            with_base: VecDeque::new(),
        }
    }

    /// Routes in all tables (each counted once, however many sources it has).
    pub fn routes(&self) -> usize {
        self.common.routes
    }

    /// VNIs that have a route, a subscriber or a base.
    pub fn vnis(&self) -> usize {
        self.homes.len()
    }

    /// `source` announces a route.
    pub fn add(
        &mut self,
        source: SourceId,
        class: PeerClass,
        vni: Vni,
        route: &Route,
        sink: &mut impl RecordSink,
    ) -> Outcome {
        if !self.sources.matter() {
            return self.put(source, (class, 0, Speaker::Itself), vni, route, sink);
        }
        let hasher = &self.common.rules.hasher;
        let (of, judgement) = self.sources.of_or_new(source, hasher);
        let (life, speaker) = (of.life(), of.speaker());
        if let Err(denial) = of.judge(judgement, vni, route) {
            let withheld = WithheldRoute { vni, route: *route, class, life };
            return self.withhold(source, withheld, denial, sink);
        }
        let released = self.sources.release(source, vni, route, hasher);
        let mut outcome = self.put(source, (class, life, speaker), vni, route, sink);
        if speaker != Speaker::Itself && self.sources.have_stale() {
            self.succeed(speaker, vni, route, sink);
        }
        if let Some(released) = released {
            if outcome.refusal.is_some() {
                // It waits for the next policy, as it did.
                self.sources.withhold(source, released, &self.common.rules.hasher);
            } else {
                outcome.less(released.life == life);
                outcome.withheld -= 1;
            }
        }
        outcome
    }

    /// `source` withdraws a route.
    pub fn remove(
        &mut self,
        source: SourceId,
        vni: Vni,
        route: &Route,
        sink: &mut impl RecordSink,
    ) -> Outcome {
        let mut outcome = Outcome::default();
        let hasher = &self.common.rules.hasher;
        let released = self.sources.release(source, vni, route, hasher);
        let life = self.life(source);
        if let Some(released) = released {
            outcome.less(released.life == life);
            outcome.withheld = -1;
        } else if let Some(announced) = self.take(source, vni, route, sink) {
            outcome.less(announced.life() == life);
        }
        outcome
    }

    /// Says whose word a source is from now on, and returns how many of its routes are withheld. One that is not
    /// introduced is judged by no policy, and has one life.
    pub fn introduce(&mut self, source: SourceId, introduction: Introduction) -> usize {
        self.sources.introduce(source, introduction, &self.common.rules.hasher)
    }

    /// Looks up what these routes are about to need, so that memory is waited for once and not once a
    /// route: in large tables a change costs little else.
    pub fn foresee<'a>(&self, routes: impl Iterator<Item = (Vni, &'a Route)>) {
        if self.common.routes < FORESIGHT_ROUTES_MIN {
            return;
        }
        let hasher = &self.common.rules.hasher;
        let hashed = routes.take(FORESIGHT).filter_map(|(vni, route)| {
            Some((&self.homes.find(vni, hasher)?.table, RouteHash::of(route, hasher)))
        });
        let hashed: SmallVec<[_; FORESIGHT]> = hashed.collect();
        VniTable::foresee(&hashed, hasher);
    }

    /// Sources that are known: connected ones, and lost ones whose routes stay for now.
    pub fn sources(&self) -> usize {
        self.sources.len()
    }

    /// Routes that policy withholds.
    pub fn withheld(&self) -> usize {
        self.sources.withheld()
    }

    /// `source` is gone: everything that it announced is to be withdrawn (by [`Rib::run_jobs`]).
    pub fn lose(&mut self, source: SourceId) {
        if self.sources.find(source, &self.common.rules.hasher).is_some() {
            self.jobs.add(Job::Withdraw(source));
        }
    }

    /// Withdraws what `source` announced in one VNI, as far as `budget` goes (reduced by what was
    /// used). False if some is left: to be called again before the source may announce there.
    pub fn lose_in(
        &mut self,
        source: SourceId,
        vni: Vni,
        budget: &mut usize,
        sink: &mut impl RecordSink,
    ) -> bool {
        let done = self.withdraw_in(source, vni, budget, sink);
        if done {
            self.note_left(source, vni);
        }
        done
    }

    /// What changes cost beyond themselves since this was asked, in steps: of a turn's budget they take
    /// as much as requests.
    pub fn take_steps(&mut self) -> usize {
        std::mem::take(&mut self.common.steps)
    }

    /// A subscriber wants the table of a group and all records from then on.
    pub fn join(&mut self, group: UpdateGroup, join: Join, sink: &mut impl RecordSink, now: Time) {
        let rules = &self.common.rules;
        let home = self.homes.find_or(group.vni, &rules.hasher, || VniRib::new(group.vni));
        let at = home.feeds.of_or_new(group.class);
        if at.join(group, join, &home.table, rules, sink, now) {
            self.jobs.add(Job::build(group, home.table.places()));
        }
    }

    /// `shard` has no subscriber of `group` any more.
    pub fn leave(&mut self, group: UpdateGroup, shard: ShardId) {
        if let Some((at, _)) = self.group(group) {
            at.leave(shard);
            self.tidy(group.vni);
        }
    }

    /// Goes on with long work, for about `budget` routes. True if some is left.
    pub fn run_jobs(&mut self, budget: usize, sink: &mut impl RecordSink, now: Time) -> bool {
        let slice = (budget / SLICES_PER_TURN).max(1);
        let mut left = budget;
        while left > 0 && self.has_jobs() {
            let line = self.jobs.next_line();
            let given = slice.min(left);
            let mut unused = given;
            while unused > 0
                && let Some(job) = self.jobs.take(line)
            {
                let done = match job {
                    Job::Withdraw(source) => self.withdraw(source, &mut unused, sink),
                    Job::BuildSmall(group) | Job::Build(group) => {
                        self.build(job, group, &mut unused, sink, now)
                    }
                    Job::Sweep(number) => self.sweep(number, &mut unused, sink),
                    Job::Compact(vni) => self.compact(vni, &mut unused),
                    Job::Judge => self.judge(&mut unused, sink),
                    Job::Publish(source, vni) => {
                        self.publish(source, vni, &mut unused, sink);
                        true
                    }
                };
                if !done {
                    self.jobs.put_back(job);
                }
            }
            left -= given - unused;
        }
        self.has_jobs()
    }

    /// Whether [`Rib::run_jobs`] has anything to do.
    pub fn has_jobs(&self) -> bool {
        !self.jobs.is_empty()
    }

    /// Whether routes of lost sources wait to be withdrawn.
    pub fn is_losing(&self) -> bool {
        self.jobs.is_withdrawing()
    }

    /// Forgets bases that nobody used lately. To be called every now and then.
    ///
    /// Looks at some of them only, in turn: false if others were not looked at.
    pub fn expire_bases(&mut self, now: Time) -> bool {
        let looked_at = self.with_base.len().min(BASES_PER_TURN);
        let all = looked_at == self.with_base.len();
        for _ in 0..looked_at {
            let Some(group) = self.with_base.pop_front() else { break };
            if let Some((at, _)) = self.group(group) {
                at.is_watched = !at.expire(now);
                if at.is_watched {
                    self.with_base.push_back(group);
                }
            }
            self.tidy(group.vni);
        }
        all
    }

    /// Whether [`Rib::expire_bases`] has anything to look after.
    pub fn has_bases(&self) -> bool {
        !self.with_base.is_empty()
    }

    /// The most bases that any group has alive: the design allows 2.
    pub fn bases_alive_max(&self) -> usize {
        let groups = self.homes.values().flat_map(|home| home.feeds.iter());
        groups.map(|at| at.bases_alive()).max().unwrap_or(0)
    }

    /// Bytes of bases and of the records behind them that somebody holds, on whichever shard.
    pub fn base_bytes(&self) -> usize {
        self.common.rules.shared.held()
    }

    /// Puts a route into its table, if it is not refused.
    fn put(
        &mut self,
        source: SourceId,
        (class, life, speaker): (PeerClass, u8, Speaker),
        vni: Vni,
        route: &Route,
        sink: &mut impl RecordSink,
    ) -> Outcome {
        let Rules { speakers, hasher, .. } = &mut self.common.rules;
        let hash = RouteHash::of(route, hasher);
        let home = self.homes.find_or(vni, hasher, || VniRib::new(vni));
        let mut outcome = Outcome::default();
        let role = Role::new(class, life, speakers.take(speaker, hasher));
        match home.add(source, role, (route, hash), &mut self.common, sink) {
            Ok(Ok(routes)) => {
                outcome.stored = 1;
                if routes == 1 {
                    let hasher = &self.common.rules.hasher;
                    let (of, _) = self.sources.of_or_new(source, hasher);
                    of.vnis.find_or(vni, hasher, || ());
                }
            }
            Ok(Err(announced)) => {
                outcome.again(announced.life() == life);
                self.give_back(announced.speaker());
            }
            Err(refusal) => {
                self.give_back(role.speaker());
                // It may have come to be for this alone.
                self.tidy(vni);
                outcome.refusal = Some(refusal);
            }
        }
        outcome
    }

    fn give_back(&mut self, speaker: SpeakerRef) {
        let Rules { speakers, hasher, .. } = &mut self.common.rules;
        speakers.give_back(speaker, hasher);
    }

    /// Takes a route out of its table, if the source announces it: as what it did.
    fn take(
        &mut self,
        source: SourceId,
        vni: Vni,
        route: &Route,
        sink: &mut impl RecordSink,
    ) -> Option<Role> {
        let hasher = &self.common.rules.hasher;
        let hash = RouteHash::of(route, hasher);
        let home = self.homes.find_mut(vni, hasher)?;
        let place = home.table.find(route, hash)?;
        let announced = home.table.entry(place).announced(source)?;
        let left = home.remove(source, place, &mut self.common, sink);
        if home.table.is_sparse() || home.table.is_empty() {
            self.tidy(vni);
        }
        if left == Some(0) {
            self.note_left(source, vni);
        }
        Some(announced)
    }

    /// The life in which a source is.
    fn life(&self, source: SourceId) -> u8 {
        match self.sources.matter() {
            true => self.sources.find(source, &self.common.rules.hasher).map_or(0, Source::life),
            false => 0,
        }
    }

    /// A group that somebody asked for, and its table.
    fn group(&mut self, group: UpdateGroup) -> Option<(&mut Feed, &mut VniTable)> {
        let home = self.homes.find_mut(group.vni, &self.common.rules.hasher)?;
        Some((home.feeds.of_mut(group.class)?, &mut home.table))
    }

    /// True when nothing of the source is left.
    fn withdraw(
        &mut self,
        source: SourceId,
        budget: &mut usize,
        sink: &mut impl RecordSink,
    ) -> bool {
        let hasher = self.common.rules.hasher.clone();
        while let Some(vni) = self.sources.find(source, &hasher).and_then(|of| of.vnis.any_key()) {
            if *budget == 0 || !self.withdraw_in(source, vni, budget, sink) {
                return false;
            }
            self.note_left(source, vni);
            // The look-up costs something too.
            *budget = budget.saturating_sub(1);
        }
        while let Some(withheld) = self.sources.find(source, &hasher).and_then(Source::withheld) {
            if *budget == 0 {
                return false;
            }
            *budget -= 1;
            self.sources.release_at(source, withheld.len() - 1, &hasher);
        }
        self.sources.remove(source, &hasher);
        true
    }

    /// True when nothing of the source is left in the VNI.
    fn withdraw_in(
        &mut self,
        source: SourceId,
        vni: Vni,
        budget: &mut usize,
        sink: &mut impl RecordSink,
    ) -> bool {
        let Some(home) = self.homes.find_mut(vni, &self.common.rules.hasher) else { return true };
        let done = home.withdraw(source, budget, &mut self.common, sink);
        self.tidy(vni);
        done
    }

    fn build(
        &mut self,
        job: Job,
        group: UpdateGroup,
        budget: &mut usize,
        sink: &mut impl RecordSink,
        now: Time,
    ) -> bool {
        let rules = &self.common.rules;
        let Some(home) = self.homes.find_mut(group.vni, &rules.hasher) else { return true };
        let Some(at) = home.feeds.of_mut(group.class) else { return true };
        let table = &mut home.table;
        if matches!(job, Job::BuildSmall(_)) && at.would_begin() {
            // It may have grown meanwhile.
            let again = Job::build(group, table.places());
            if matches!(again, Job::Build(_)) {
                self.jobs.add(again);
                return true;
            }
        }
        let done = at.go_on(group, table, rules, budget, sink, now);
        // A build of nothing costs something too.
        *budget = budget.saturating_sub(BUILD_COST);
        if done && !std::mem::replace(&mut at.is_watched, true) {
            self.with_base.push_back(group);
        }
        self.tidy(group.vni);
        done
    }

    fn compact(&mut self, vni: Vni, budget: &mut usize) -> bool {
        let rules = &self.common.rules;
        let Some(home) = self.homes.find_mut(vni, &rules.hasher) else { return true };
        let done = home.table.compact(budget, &rules.hasher);
        if done {
            home.is_compacting = false;
            self.tidy(vni);
        }
        done
    }

    fn note_left(&mut self, source: SourceId, vni: Vni) {
        let hasher = &self.common.rules.hasher;
        if let Some((of, _)) = self.sources.find_mut(source, hasher) {
            of.vnis.remove(vni, hasher);
            if of.is_nothing() {
                self.sources.remove(source, hasher);
            }
        }
    }

    /// A VNI without routes, subscribers and bases leaves nothing behind, and a large table that has
    /// become a small one gives memory back.
    fn tidy(&mut self, vni: Vni) {
        let hasher = &self.common.rules.hasher;
        let Some(home) = self.homes.find_mut(vni, hasher) else { return };
        if home.tidy() {
            self.homes.remove(vni, hasher);
        } else if home.table.is_sparse() && !std::mem::replace(&mut home.is_compacting, true) {
            self.jobs.add(Job::Compact(vni));
        }
    }
}

#[cfg(test)]
mod bounds_tests;
#[cfg(test)]
mod publishing_tests;
#[cfg(test)]
mod tests;
