//! The route tables of the VNIs whose home is this shard, and the records that their changes make.
//!
//! Owns routes, their sources, bases and followers. Must never know a connection: sources are ids,
//! and what has to be told goes to a [`RecordSink`].

mod base;
mod table;
mod visibility;

use std::collections::VecDeque;
use std::sync::Arc;

use ahash::RandomState;
use smallvec::SmallVec;

use crate::log::{Frames, Scope};
use crate::types::{
    GroupClass, PeerClass, PeerId, ReflectOwn, Route, SeededMap, ShardId, SourceId, Time, Vni,
};
use crate::wire::encode_update;

use base::GroupHome;
pub use base::{BASE_KEPT, Join};
use table::VniTable;
pub use visibility::Visibility;

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
    pub blocks: SmallVec<[Arc<Frames>; 2]>,
}

/// Where records go: one queue for each shard, in order.
pub trait RecordSink {
    /// One frame for the subscribers of `group` at `shard` that `scope` includes.
    fn record(&mut self, shard: ShardId, group: Group, scope: Scope, frame: &[u8]);
    /// The answer to a join.
    fn joined(&mut self, shard: ShardId, joined: Joined);
}

type Visibilities = [Visibility; GroupClass::ALL.len()];

#[derive(Debug, Default)]
struct Home {
    table: VniTable,
    groups: [Option<Box<GroupHome>>; GroupClass::ALL.len()],
}

/// All route tables of one home shard.
pub struct Rib {
    hasher: RandomState,
    reflect: ReflectOwn,
    homes: SeededMap<Vni, Home>,
    /// The VNIs in which a source announces something.
    vnis_of: SeededMap<SourceId, Vec<Vni>>,
    losing: VecDeque<SourceId>,
    building: VecDeque<Group>,
    /// Groups that have a base to be forgotten in time.
    with_base: VecDeque<Group>,
    frame: Vec<u8>,
    routes: usize,
    tail_bytes_min: usize,
}

impl Rib {
    /// No routes. `hasher` is the seed of all its tables. Records since a base are kept as long as
    /// they are shorter than `tail_bytes_min` or half the base.
    pub fn new(hasher: RandomState, reflect: ReflectOwn, tail_bytes_min: usize) -> Rib {
        Rib {
            homes: SeededMap::with_hasher(hasher.clone()),
            vnis_of: SeededMap::with_hasher(hasher.clone()),
            hasher,
            reflect,
            losing: VecDeque::new(),
            building: VecDeque::new(),
            with_base: VecDeque::new(),
            frame: Vec::with_capacity(128),
            routes: 0,
            tail_bytes_min,
        }
    }

    /// Routes in all tables (each counted once, however many sources it has).
    pub fn routes(&self) -> usize {
        self.routes
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
        let home = self.homes.entry(vni).or_default();
        let is_first = !home.table.has_source(source, &self.hasher);
        let place = home.table.find_or_insert(route, &self.hasher);
        let before = visibilities(&home.table, place, self.reflect);
        if before == [Visibility::Nobody; GroupClass::ALL.len()]
            && home.table.entry(place).is_vacant()
        {
            self.routes += 1;
        }
        if !home.table.add_source(place, source, class, &self.hasher) {
            return false;
        }
        let after = visibilities(&home.table, place, self.reflect);
        if is_first {
            self.vnis_of.entry(source).or_default().push(vni);
        }
        self.tell(vni, place, route, before, after, sink);
        true
    }

    /// `source` withdraws a route. False if it does not announce it.
    pub fn remove(
        &mut self,
        source: SourceId,
        vni: Vni,
        route: &Route,
        sink: &mut impl RecordSink,
    ) -> bool {
        let place = self.homes.get(&vni).and_then(|home| home.table.find(route, &self.hasher));
        let Some(place) = place else { return false };
        if !self.remove_at(vni, place, source, sink) {
            return false;
        }
        if !self.homes.get(&vni).is_some_and(|home| home.table.has_source(source, &self.hasher)) {
            self.forget_vni_of(source, vni);
        }
        self.tidy(vni);
        true
    }

    /// `source` is gone: everything that it announced is to be withdrawn (by [`Rib::run_jobs`]).
    pub fn lose(&mut self, source: SourceId) {
        if self.vnis_of.contains_key(&source) {
            self.losing.push_back(source);
        }
    }

    /// The same for what `source` announced in one VNI, at once: it may announce there again
    /// right away.
    pub fn lose_in(&mut self, source: SourceId, vni: Vni, sink: &mut impl RecordSink) {
        let mut unlimited = usize::MAX;
        self.withdraw_in(source, vni, &mut unlimited, sink);
    }

    /// A subscriber wants the table of a group and all records from then on.
    pub fn join(&mut self, group: Group, join: Join, sink: &mut impl RecordSink, now: Time) {
        let home = self.homes.entry(group.vni).or_default();
        let tail_bytes_min = self.tail_bytes_min;
        let at = home.groups[group.class.index()]
            .get_or_insert_with(|| Box::new(GroupHome::new(tail_bytes_min)));
        if at.join(group, join, &mut home.table, sink, &self.hasher, now) {
            self.building.push_back(group);
        }
    }

    /// `shard` has no subscriber of `group` any more.
    pub fn leave(&mut self, group: Group, shard: ShardId) {
        if let Some(home) = self.homes.get_mut(&group.vni)
            && let Some(at) = &mut home.groups[group.class.index()]
        {
            at.leave(shard);
            self.tidy(group.vni);
        }
    }

    /// Goes on with long work, for about `budget` routes. True if some is left.
    pub fn run_jobs(&mut self, mut budget: usize, sink: &mut impl RecordSink, now: Time) -> bool {
        while budget > 0 {
            if let Some(&source) = self.losing.front() {
                if self.withdraw(source, &mut budget, sink) {
                    self.losing.pop_front();
                }
            } else if let Some(group) = self.building.pop_front() {
                let done = self.build(group, &mut budget, sink, now);
                if done {
                    self.watch(group);
                } else {
                    self.building.push_front(group);
                }
            } else {
                return false;
            }
        }
        self.has_jobs()
    }

    /// Whether [`Rib::run_jobs`] has anything to do.
    pub fn has_jobs(&self) -> bool {
        !self.losing.is_empty() || !self.building.is_empty()
    }

    /// Forgets bases that nobody used lately. To be called every now and then.
    pub fn expire_bases(&mut self, now: Time) {
        for _ in 0..self.with_base.len() {
            let Some(group) = self.with_base.pop_front() else {
                break;
            };
            let home = self.homes.get_mut(&group.vni);
            let at = home.and_then(|home| home.groups[group.class.index()].as_mut());
            if let Some(at) = at {
                at.watched = !at.expire(now);
                if at.watched {
                    self.with_base.push_back(group);
                }
            }
            self.tidy(group.vni);
        }
    }

    /// Whether [`Rib::expire_bases`] has anything to look after.
    pub fn has_bases(&self) -> bool {
        !self.with_base.is_empty()
    }

    /// The most bases that any group has alive: the design allows 2.
    pub fn bases_alive_max(&self) -> usize {
        let groups = self.homes.values().flat_map(|home| home.groups.iter().flatten());
        groups.map(|at| at.bases_alive()).max().unwrap_or(0)
    }

    fn remove_at(
        &mut self,
        vni: Vni,
        place: u32,
        source: SourceId,
        sink: &mut impl RecordSink,
    ) -> bool {
        let Some(home) = self.homes.get_mut(&vni) else {
            return false;
        };
        let route = home.table.entry(place).route;
        let before = visibilities(&home.table, place, self.reflect);
        if !home.table.remove_source(place, source, &self.hasher) {
            return false;
        }
        if home.table.entry(place).is_vacant() {
            self.routes -= 1;
        }
        let after = visibilities(&home.table, place, self.reflect);
        self.tell(vni, place, &route, before, after, sink);
        true
    }

    fn tell(
        &mut self,
        vni: Vni,
        place: u32,
        route: &Route,
        before: Visibilities,
        after: Visibilities,
        sink: &mut impl RecordSink,
    ) {
        let Some(home) = self.homes.get_mut(&vni) else {
            return;
        };
        self.frame.clear();
        for class in GroupClass::ALL {
            let Some(at) = &mut home.groups[class.index()] else {
                continue;
            };
            if !at.is_listening() {
                continue;
            }
            let change = Visibility::change(before[class.index()], after[class.index()]);
            let Some((action, scope)) = change else {
                continue;
            };
            if self.frame.is_empty() {
                // One source came or went: what classes are told differs in scope only.
                encode_update(&mut self.frame, action, vni, route);
            }
            at.record(Group::new(vni, class), place, &self.frame, scope, sink, &self.hasher);
        }
    }

    /// True when nothing of the source is left.
    fn withdraw(
        &mut self,
        source: SourceId,
        budget: &mut usize,
        sink: &mut impl RecordSink,
    ) -> bool {
        while let Some(&vni) = self.vnis_of.get(&source).and_then(|vnis| vnis.last()) {
            if !self.withdraw_in(source, vni, budget, sink) {
                return false;
            }
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
        while let Some(place) =
            self.homes.get(&vni).and_then(|home| home.table.last_of(source, &self.hasher))
        {
            if *budget == 0 {
                return false;
            }
            *budget -= 1;
            let removed = self.remove_at(vni, place, source, sink);
            assert!(removed, "a listed route has the source");
        }
        self.forget_vni_of(source, vni);
        self.tidy(vni);
        true
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
        let Some(at) = &mut home.groups[group.class.index()] else {
            return true;
        };
        let done = at.run_build(group, &mut home.table, self.reflect, budget, sink, now);
        // A build of nothing costs something too.
        *budget = budget.saturating_sub(1);
        done
    }

    fn watch(&mut self, group: Group) {
        let home = self.homes.get_mut(&group.vni);
        if let Some(at) = home.and_then(|home| home.groups[group.class.index()].as_mut())
            && !at.watched
        {
            at.watched = true;
            self.with_base.push_back(group);
        }
    }

    fn forget_vni_of(&mut self, source: SourceId, vni: Vni) {
        if let Some(vnis) = self.vnis_of.get_mut(&source) {
            if let Some(at) = vnis.iter().rposition(|&listed| listed == vni) {
                vnis.swap_remove(at);
            }
            if vnis.is_empty() {
                self.vnis_of.remove(&source);
            }
        }
    }

    /// A VNI without routes, subscribers and bases leaves nothing behind.
    fn tidy(&mut self, vni: Vni) {
        let Some(home) = self.homes.get_mut(&vni) else {
            return;
        };
        for group in &mut home.groups {
            if group.as_ref().is_some_and(|at| at.is_idle()) {
                *group = None;
            }
        }
        home.table.shrink(&self.hasher);
        if home.table.is_empty() && home.groups.iter().all(Option::is_none) {
            self.homes.remove(&vni);
        }
    }
}

fn visibilities(table: &VniTable, place: u32, reflect: ReflectOwn) -> Visibilities {
    let entry = table.entry(place);
    let reflected = reflect.permits(entry.route.next_hop.kind);
    GroupClass::ALL.map(|class| Visibility::of(entry.sources(), class, reflected))
}

#[cfg(test)]
mod tests;
