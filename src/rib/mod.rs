//! The route tables of the VNIs whose home is this shard, and the records that their changes make.
//!
//! Owns routes, their sources, bases and followers. Must never know a connection: sources are ids,
//! and what has to be told goes to a [`RecordSink`].

mod build;
mod feed;
mod jobs;
mod ledger;
mod table;
mod views;
mod visibility;
mod vni;

use std::collections::VecDeque;

use smallvec::SmallVec;

use crate::log::{Blocks, Scope};
use crate::types::{GroupClass, PeerClass, PeerId, Route, ShardId, SourceId, SplitMap, Time, Vni};

use feed::Feed;
pub use feed::{BASE_KEPT, Join};
use jobs::{Job, Jobs};
pub use ledger::{Ledger, Pressure};
use table::{RouteHash, VniTable};
pub use views::{Audience, RoutesPiece, Sight, Sources, VniView, VnisPiece};

pub use vni::Rules;
use vni::{Common, VniRib};

/// Bases that are looked at at a time for whether they may be forgotten.
const BASES_PER_TURN: usize = 1_024;
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
    /// The answer to a join.
    fn joined(&mut self, shard: ShardId, joined: Joined);
}

/// All route tables of one home shard.
pub struct Rib {
    common: Common,
    homes: SplitMap<Vni, VniRib>,
    /// The VNIs in which a source announces something.
    vnis_of: SplitMap<SourceId, SplitMap<Vni, ()>>,
    jobs: Jobs,
    /// Groups that have a base to be forgotten in time.
    with_base: VecDeque<UpdateGroup>,
}

impl Rib {
    /// No routes.
    pub fn new(rules: Rules) -> Rib {
        Rib {
            homes: SplitMap::default(),
            vnis_of: SplitMap::default(),
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

    /// `source` announces a route. False if it did so already.
    pub fn add(
        &mut self,
        source: SourceId,
        class: PeerClass,
        vni: Vni,
        route: &Route,
        sink: &mut impl RecordSink,
    ) -> bool {
        let hasher = &self.common.rules.hasher;
        let hash = RouteHash::of(route, hasher);
        let home = self.homes.find_or(vni, hasher, || VniRib::new(vni));
        let routes = home.add(source, class, route, hash, &mut self.common, sink);
        if routes == Some(1) {
            let hasher = &self.common.rules.hasher;
            self.vnis_of.find_or(source, hasher, SplitMap::default).find_or(vni, hasher, || ());
        }
        routes.is_some()
    }

    /// `source` withdraws a route. False if it does not announce it.
    pub fn remove(
        &mut self,
        source: SourceId,
        vni: Vni,
        route: &Route,
        sink: &mut impl RecordSink,
    ) -> bool {
        let hasher = &self.common.rules.hasher;
        let hash = RouteHash::of(route, hasher);
        let Some(home) = self.homes.find_mut(vni, hasher) else { return false };
        let Some(place) = home.table.find(route, hash) else { return false };
        let Some(left) = home.remove(source, place, &mut self.common, sink) else {
            return false;
        };
        if home.table.is_sparse() || home.table.is_empty() {
            self.tidy(vni);
        }
        if left == 0 {
            self.note_left(source, vni);
        }
        true
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

    /// `source` is gone: everything that it announced is to be withdrawn (by [`Rib::run_jobs`]).
    pub fn lose(&mut self, source: SourceId) {
        if self.vnis_of.find(source, &self.common.rules.hasher).is_some() {
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
                    Job::Compact(vni) => self.compact(vni, &mut unused),
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
        while let Some(vni) = self.vnis_of.find(source, &hasher).and_then(SplitMap::any_key) {
            if *budget == 0 || !self.withdraw_in(source, vni, budget, sink) {
                return false;
            }
            self.note_left(source, vni);
            // The look-up costs something too.
            *budget = budget.saturating_sub(1);
        }
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
        *budget = budget.saturating_sub(1);
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
        let Some(vnis) = self.vnis_of.find_mut(source, hasher) else { return };
        vnis.remove(vni, hasher);
        if vnis.is_empty() {
            self.vnis_of.remove(source, hasher);
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
mod tests;
