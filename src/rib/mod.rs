//! The route tables of the VNIs whose home is this shard, and the records that their changes make.
//!
//! Owns routes, their sources, bases and followers. Must never know a connection: sources are ids,
//! and what has to be told goes to a [`RecordSink`].

mod base;
mod home;
mod jobs;
mod table;
mod visibility;

use std::collections::VecDeque;

use ahash::RandomState;
use smallvec::SmallVec;

use crate::log::{Blocks, Scope};
use crate::types::{
    GroupClass, PeerClass, PeerId, ReflectOwn, Route, SeededMap, ShardId, SourceId, Time, Vni,
};

use base::GroupHome;
pub use base::{BASE_KEPT, Join};
use home::{Common, Home};
use jobs::{Job, Jobs};
use table::{RouteHash, VniTable};
pub use visibility::Visibility;

/// Bases that are looked at at a time for whether they may be forgotten.
const BASES_PER_TURN: usize = 1_024;
/// A turn's budget goes to the kinds of jobs in so many slices.
const SLICES_PER_TURN: usize = 16;

/// Changes that [`Rib::foresee`] looks at.
pub const FORESIGHT: usize = 16;
/// Smaller tables lie in the cache.
const FORESIGHT_ROUTES_MIN: usize = 1 << 14;

/// The subscribers of one VNI that belong to one class: they see the same, but for their own routes.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct Group {
    /// The VNI.
    pub vni: Vni,
    /// The class.
    pub class: GroupClass,
}

/// The answer to a join: the table as it was, and what changed until now.
#[derive(Clone, Debug)]
pub struct Joined {
    /// The group that was joined.
    pub group: Group,
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
        group: Group,
        scope: Scope,
        frame: &[u8],
        routes_now: usize,
    );
    /// The answer to a join.
    fn joined(&mut self, shard: ShardId, joined: Joined);
}

/// Where a source announces, or did: forgotten in bulk, since a search for one would cost its length.
#[derive(Debug, Default)]
struct VnisOf {
    listed: Vec<Vni>,
    /// How many times it left one of them, since they were last looked through.
    left: usize,
}

/// All route tables of one home shard.
pub struct Rib {
    common: Common,
    homes: SeededMap<Vni, Home>,
    /// The VNIs in which a source announces something.
    vnis_of: SeededMap<SourceId, VnisOf>,
    jobs: Jobs,
    /// Groups that have a base to be forgotten in time.
    with_base: VecDeque<Group>,
    tail_bytes_min: usize,
}

impl Rib {
    /// No routes. `hasher` is the seed of all its tables. Records since a base are kept as long as
    /// they are shorter than `tail_bytes_min` or half the base.
    pub fn new(hasher: RandomState, reflect: ReflectOwn, tail_bytes_min: usize) -> Rib {
        Rib {
            homes: SeededMap::with_hasher(hasher.clone()),
            vnis_of: SeededMap::with_hasher(hasher.clone()),
            common: Common::new(hasher, reflect),
            jobs: Jobs::default(),
            with_base: VecDeque::new(),
            tail_bytes_min,
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
        let hash = RouteHash::of(route, &self.common.hasher);
        let home = self.homes.entry(vni).or_insert_with(|| Home::new(vni));
        let routes = home.add(source, class, route, hash, &mut self.common, sink);
        if routes == Some(1) {
            self.vnis_of.entry(source).or_default().listed.push(vni);
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
        let hash = RouteHash::of(route, &self.common.hasher);
        let Some(home) = self.homes.get_mut(&vni) else { return false };
        let Some(place) = home.table.find(route, hash) else { return false };
        let Some(left) = home.remove(source, place, &mut self.common, sink) else { return false };
        if home.tidy(&self.common.hasher) {
            self.homes.remove(&vni);
        }
        if left == 0 {
            self.note_left(source);
        }
        true
    }

    /// Looks up what these routes are about to need, so that memory is waited for once and not once a
    /// route: in large tables a change costs little else.
    pub fn foresee<'a>(&self, routes: impl Iterator<Item = (Vni, &'a Route)>) {
        if self.common.routes < FORESIGHT_ROUTES_MIN {
            return;
        }
        let hasher = &self.common.hasher;
        let hashed = routes.take(FORESIGHT).filter_map(|(vni, route)| {
            Some((&self.homes.get(&vni)?.table, RouteHash::of(route, hasher)))
        });
        let hashed: SmallVec<[_; FORESIGHT]> = hashed.collect();
        VniTable::foresee(&hashed, hasher);
    }

    /// `source` is gone: everything that it announced is to be withdrawn (by [`Rib::run_jobs`]).
    pub fn lose(&mut self, source: SourceId) {
        if self.vnis_of.contains_key(&source) {
            self.jobs.add_withdrawal(source);
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
            self.note_left(source);
        }
        done
    }

    /// A subscriber wants the table of a group and all records from then on.
    pub fn join(&mut self, group: Group, join: Join, sink: &mut impl RecordSink, now: Time) {
        let home = self.homes.entry(group.vni).or_insert_with(|| Home::new(group.vni));
        let tail_bytes_min = self.tail_bytes_min;
        let at = home.groups.of_or(group.class, || GroupHome::new(tail_bytes_min));
        if at.join(group, join, &mut home.table, sink, &self.common.hasher, now) {
            self.jobs.add_build(group, home.table.places());
        }
    }

    /// `shard` has no subscriber of `group` any more.
    pub fn leave(&mut self, group: Group, shard: ShardId) {
        if let Some(home) = self.homes.get_mut(&group.vni)
            && let Some(at) = home.groups.of_mut(group.class)
        {
            at.leave(shard);
            self.tidy(group.vni);
        }
    }

    /// Goes on with long work, for about `budget` routes. True if some is left.
    pub fn run_jobs(&mut self, budget: usize, sink: &mut impl RecordSink, now: Time) -> bool {
        let slice = (budget / SLICES_PER_TURN).max(1);
        let mut left = budget;
        while left > 0 && self.has_jobs() {
            let kind = self.jobs.next_kind();
            let given = slice.min(left);
            let mut unused = given;
            while unused > 0
                && let Some(job) = self.jobs.take(kind)
            {
                let done = match job {
                    Job::Withdraw(source) => self.withdraw(source, &mut unused, sink),
                    Job::Build(group) => self.build(group, &mut unused, sink, now),
                };
                if !done {
                    self.jobs.put_back(kind, job);
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
            let home = self.homes.get_mut(&group.vni);
            let at = home.and_then(|home| home.groups.of_mut(group.class));
            if let Some(at) = at {
                at.watched = !at.expire(now);
                if at.watched {
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
        let groups = self.homes.values().flat_map(|home| home.groups.iter());
        groups.map(|at| at.bases_alive()).max().unwrap_or(0)
    }

    /// True when nothing of the source is left.
    fn withdraw(
        &mut self,
        source: SourceId,
        budget: &mut usize,
        sink: &mut impl RecordSink,
    ) -> bool {
        while let Some(&vni) = self.vnis_of.get(&source).and_then(|vnis| vnis.listed.last()) {
            if *budget == 0 || !self.withdraw_in(source, vni, budget, sink) {
                return false;
            }
            if let Some(vnis) = self.vnis_of.get_mut(&source) {
                vnis.listed.pop();
            }
            // It may have left that VNI long ago: the look-up costs something too.
            *budget = budget.saturating_sub(1);
        }
        self.vnis_of.remove(&source);
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
        let Some(home) = self.homes.get_mut(&vni) else { return true };
        let done = home.withdraw(source, budget, &mut self.common, sink);
        self.tidy(vni);
        done
    }

    fn build(
        &mut self,
        group: Group,
        budget: &mut usize,
        sink: &mut impl RecordSink,
        now: Time,
    ) -> bool {
        let Some(home) = self.homes.get_mut(&group.vni) else {
            return true;
        };
        let Some(at) = home.groups.of_mut(group.class) else {
            return true;
        };
        let done = at.run_build(group, &mut home.table, self.common.reflect, budget, sink, now);
        // A build of nothing costs something too.
        *budget = budget.saturating_sub(1);
        if done {
            self.watch(group);
        }
        done
    }

    fn watch(&mut self, group: Group) {
        let home = self.homes.get_mut(&group.vni);
        if let Some(at) = home.and_then(|home| home.groups.of_mut(group.class))
            && !at.watched
        {
            at.watched = true;
            self.with_base.push_back(group);
        }
    }

    fn note_left(&mut self, source: SourceId) {
        let Some(vnis) = self.vnis_of.get_mut(&source) else { return };
        vnis.left += 1;
        if 2 * vnis.left <= vnis.listed.len() {
            return;
        }
        vnis.left = 0;
        vnis.listed.sort_unstable();
        vnis.listed.dedup();
        let (homes, hasher) = (&self.homes, &self.common.hasher);
        vnis.listed
            .retain(|vni| homes.get(vni).is_some_and(|h| h.table.has_source(source, hasher)));
        if vnis.listed.is_empty() {
            self.vnis_of.remove(&source);
        }
    }

    /// A VNI without routes, subscribers and bases leaves nothing behind.
    fn tidy(&mut self, vni: Vni) {
        let Some(home) = self.homes.get_mut(&vni) else {
            return;
        };
        if home.tidy(&self.common.hasher) {
            self.homes.remove(&vni);
        }
    }
}

#[cfg(test)]
mod tests;
