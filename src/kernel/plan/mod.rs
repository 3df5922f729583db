//! From desired routes to kernel operations: pure, without sockets or a clock.
//!
//! Owns who wants which route, what the kernel is believed to hold, what is under way, and when a
//! failed operation is tried again. Must never do input or output, and never plan an operation
//! that replaces or deletes a route of somebody else.

mod change;
mod counters;
mod entry;
#[cfg(test)]
mod model;
mod nexthops;
mod op;
mod ours;
mod outcome;
mod prefix;
mod reconcile;
#[cfg(test)]
mod tests;

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};

use smallvec::SmallVec;

use super::config::{HOPS_MAX, KernelConfig, NexthopObjects, TABLE_MAIN};
use crate::types::{Route, SeededMap, Time, Vni};
use entry::{Entry, Want};
use nexthops::NexthopTable;

pub(crate) use change::Change;
pub use counters::Counters;
pub(crate) use counters::Skip;
pub(crate) use entry::{Form, Hops};
pub(crate) use nexthops::NexthopId;
pub(crate) use op::{Op, Place};
pub(crate) use ours::{BLOCKS, Blocks, Ours};
pub(crate) use outcome::{Notice, Outcome, Report};
pub(crate) use prefix::{Family, Prefix};
pub(crate) use reconcile::{SeenNexthop, SeenNexthopKind, SeenRoute, Snapshot};

/// What is tried again later.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Retry {
    Route(Prefix),
    Nexthop(NexthopId),
}

/// Desired routes, and what is left to do until the kernel has them.
#[derive(Debug)]
pub(crate) struct Plan {
    config: KernelConfig,
    /// Ascending.
    mapped_tables: Vec<u32>,
    hasher: ahash::RandomState,
    entries: SeededMap<Prefix, Entry>,
    nexthops: NexthopTable,
    ours: Ours,
    dirty: VecDeque<Prefix>,
    /// Destinations whose nexthop object does not exist yet.
    waiting: Vec<Prefix>,
    retries: BinaryHeap<Reverse<(Time, Retry)>>,
    in_flight: usize,
    /// The kernel's content is not known: no operation before a [`Plan::reconcile`].
    unknown: bool,
    /// An operation failed as if somebody had changed what is ours: worth a look soon.
    suspect: bool,
    /// Whether routes can be made.
    is_usable: bool,
    /// Whether routes of a former run that nobody asked for are to go.
    swept: bool,
    /// The first dump has been taken: what it found is of a former run.
    found_former_run: bool,
    /// What an operator should hear of.
    notices: Vec<Notice>,
    /// Destinations that have too many hops, not told of yet.
    crowded: Vec<Prefix>,
    counters: Counters,
}

impl Plan {
    /// A plan that wants nothing and knows nothing: [`Plan::reconcile`] comes first.
    pub(crate) fn new(mut config: KernelConfig) -> Plan {
        for table in config.vni_table_map.values_mut().filter(|table| **table == 0) {
            *table = TABLE_MAIN;
        }
        let mut mapped_tables: Vec<u32> = config.vni_table_map.values().copied().collect();
        mapped_tables.sort_unstable();
        mapped_tables.dedup();
        config.hops_max = config.hops_max.clamp(1, HOPS_MAX);
        let hasher = ahash::RandomState::with_seeds(config.seed, 1, 2, 3);
        Plan {
            entries: SeededMap::with_hasher(hasher.clone()),
            nexthops: NexthopTable::new(hasher.clone(), config.seed),
            ours: Ours::default(),
            hasher,
            config,
            mapped_tables,
            dirty: VecDeque::new(),
            waiting: Vec::new(),
            retries: BinaryHeap::new(),
            in_flight: 0,
            unknown: true,
            suspect: false,
            is_usable: false,
            swept: false,
            found_former_run: false,
            notices: Vec::new(),
            crowded: Vec::new(),
            counters: Counters::default(),
        }
    }

    /// A route is wanted.
    ///
    /// # Errors
    /// Why it is not installed.
    pub(crate) fn add(&mut self, vni: Vni, route: Route) -> Result<(), Skip> {
        let prefix = self.installable(vni, &route).inspect_err(|skip| self.counters.skip(*skip))?;
        let users = &mut self.entries.entry(prefix).or_default().users;
        if !users.contains(&(vni, route)) {
            users.push((vni, route));
            self.mark(prefix);
        }
        Ok(())
    }

    /// A route is wanted no longer. Unknown ones are ignored.
    pub(crate) fn remove(&mut self, vni: Vni, route: Route) {
        let Ok(prefix) = self.installable(vni, &route) else { return };
        let Some(entry) = self.entries.get_mut(&prefix) else { return };
        entry.users.retain(|user| *user != (vni, route));
        self.mark(prefix);
    }

    /// From now on nothing is wanted: all routes of ours go, those of a former run too.
    pub(crate) fn clear(&mut self) {
        self.entries.values_mut().for_each(|entry| entry.users.clear());
        self.mark_all();
        self.sweep();
    }

    /// The servers have told what they know: routes of a former run that nobody has asked for go,
    /// now and whenever they are found.
    pub(crate) fn sweep(&mut self) {
        self.swept = true;
        self.counters.stale = 0;
        let mut prefixes = Vec::new();
        for (prefix, entry) in &mut self.entries {
            if entry.stale.take().is_some() {
                prefixes.push(*prefix);
            }
        }
        prefixes.into_iter().for_each(|prefix| self.mark(prefix));
    }

    /// Something happened that the plan cannot tell the effect of: no operation before a
    /// [`Plan::reconcile`], and what that finds does not count as repaired.
    pub(crate) fn doubt(&mut self) {
        self.unknown = true;
    }

    /// Whether new routes can be made: the link is there, and up. If not, only what is not wanted
    /// and what leads elsewhere is taken out.
    pub(crate) fn set_usable(&mut self, is_usable: bool) {
        if std::mem::replace(&mut self.is_usable, is_usable) != is_usable {
            self.mark_all();
        }
    }

    /// Whether routes of a former run that nobody has asked for are to go.
    pub(crate) fn is_swept(&self) -> bool {
        self.swept
    }

    /// Puts up to `ops_max` operations into `ops`. All of them may be sent at once, in this order;
    /// each wants its [`Plan::finished`].
    pub(crate) fn next_batch(&mut self, ops: &mut Vec<Op>, ops_max: usize, now: Time) {
        if self.unknown {
            return;
        }
        self.take_due(now);
        self.wake_waiting();
        let before = ops.len();
        while ops.len() - before < ops_max
            && let Some(prefix) = self.dirty.pop_front()
        {
            self.plan_one(prefix, ops);
        }
        if self.dirty.is_empty() && self.in_flight == 0 && ops.len() == before {
            self.nexthops.plan_deletes(ops, ops_max);
        }
        self.in_flight += ops.len() - before;
    }

    /// Whether the kernel's content is unknown, so that a dump must come before anything else.
    pub(crate) fn must_verify(&self) -> bool {
        self.unknown
    }

    /// Whether something failed as if others had changed what is ours.
    pub(crate) fn is_suspect(&self) -> bool {
        self.suspect
    }

    /// Whether there is nothing to do now (something may be tried again later).
    pub(crate) fn is_idle(&self) -> bool {
        !self.unknown
            && self.dirty.is_empty()
            && self.in_flight == 0
            && !self.nexthops.has_garbage()
    }

    /// When [`Plan::next_batch`] has something to try again.
    pub(crate) fn retry_at(&self) -> Option<Time> {
        self.retries.peek().map(|Reverse((at, _))| *at)
    }

    /// The numbers as of now.
    pub(crate) fn counters(&self) -> Counters {
        Counters { nexthops: self.nexthops.len() as u64, ..self.counters }
    }

    /// What an operator should hear of, since the last call.
    pub(crate) fn take_notices(&mut self) -> Vec<Notice> {
        std::mem::take(&mut self.notices)
    }

    /// Whether some destination has got too many hops since [`Plan::take_crowded`].
    pub(crate) fn has_crowded(&self) -> bool {
        !self.crowded.is_empty()
    }

    /// Destinations that have got too many hops since the last call, with the number of hops that
    /// are installed and left out by now.
    pub(crate) fn take_crowded(&mut self) -> Vec<(Prefix, usize, usize)> {
        let mut crowded = std::mem::take(&mut self.crowded);
        crowded.sort_unstable();
        crowded.dedup();
        let left_out = |prefix: Prefix| {
            let (want, left_out) = self.entries.get(&prefix)?.want(prefix, &self.config);
            (left_out > 0).then_some((prefix, want.len(), left_out))
        };
        crowded.into_iter().filter_map(left_out).collect()
    }

    /// All tables that routes go into, ascending.
    pub(crate) fn mapped_tables(&self) -> &[u32] {
        &self.mapped_tables
    }

    /// Those, and all others with routes of ours that are known of.
    pub(crate) fn tables(&self) -> Vec<u32> {
        let mut tables = self.mapped_tables.clone();
        tables.extend(self.entries.keys().map(|prefix| prefix.table));
        tables.sort_unstable();
        tables.dedup();
        tables
    }

    /// Where nexthop objects are used: what was asked for, or [`NexthopObjects::Never`] once the
    /// kernel turned out to have none.
    pub(crate) fn nexthop_objects(&self) -> NexthopObjects {
        self.config.nexthop_objects
    }

    /// The kernel has no nexthop objects: routes carry their own encapsulation from now on.
    pub(crate) fn without_nexthop_objects(&mut self) {
        self.config.nexthop_objects = NexthopObjects::Never;
        self.mark_all();
    }

    fn is_mapped(&self, table: u32) -> bool {
        self.mapped_tables.binary_search(&table).is_ok()
    }

    fn installable(&self, vni: Vni, route: &Route) -> Result<Prefix, Skip> {
        let table = *self.config.vni_table_map.get(&vni).ok_or(Skip::NoTable)?;
        let destination = route.destination.masked().ok_or(Skip::PrefixLength)?;
        if self.config.ipv4_only && destination.prefix.is_ipv6() {
            return Err(Skip::Ipv6Destination);
        }
        match Skip::of_hop(route.next_hop.address) {
            Some(skip) => Err(skip),
            None => Ok(Prefix { table, destination }),
        }
    }

    fn mark(&mut self, prefix: Prefix) {
        if let Some(entry) = self.entries.get_mut(&prefix)
            && !std::mem::replace(&mut entry.dirty, true)
        {
            self.dirty.push_back(prefix);
        }
    }

    fn mark_all(&mut self) {
        let prefixes: Vec<Prefix> = self.entries.keys().copied().collect();
        prefixes.into_iter().for_each(|prefix| self.mark(prefix));
    }

    fn take_due(&mut self, now: Time) {
        while let Some(&Reverse((at, retry))) = self.retries.peek()
            && at <= now
        {
            self.retries.pop();
            match retry {
                Retry::Route(prefix) => {
                    if let Some(entry) = self.entries.get_mut(&prefix) {
                        entry.waits_for_retry = false;
                    }
                    self.mark(prefix);
                }
                Retry::Nexthop(id) => self.nexthops.retry(id),
            }
        }
    }

    fn wake_waiting(&mut self) {
        if self.nexthops.take_changed() {
            for prefix in std::mem::take(&mut self.waiting) {
                if let Some(entry) = self.entries.get_mut(&prefix) {
                    entry.waits_for_nexthop = false;
                }
                self.mark(prefix);
            }
        }
    }

    /// Plans what brings one destination closer to what is wanted: at most one route operation, or
    /// the nexthop objects that it needs first.
    fn plan_one(&mut self, prefix: Prefix, ops: &mut Vec<Op>) {
        let Some(entry) = self.entries.get_mut(&prefix) else { return };
        entry.dirty = false;
        if entry.in_flight {
            return; // its result marks it again
        }
        if entry.stale.is_some() && entry.users.is_empty() {
            return; // as it is, until the sweep
        }
        let (want, left_out) = entry.want(prefix, &self.config);
        let before = std::mem::replace(&mut entry.left_out, left_out);
        if before == 0 && left_out > 0 {
            self.crowded.push(prefix);
        }
        self.counters.hops_left_out = self.counters.hops_left_out + left_out as u64 - before as u64;
        let form = match want {
            Want::Nothing if entry.kernel.is_empty() => {
                self.counters.conflicts -= u64::from(std::mem::take(&mut entry.conflict));
                if entry.users.is_empty() {
                    self.entries.remove(&prefix);
                }
                return;
            }
            _ if entry.waits_for_retry => return,
            Want::Nothing => None,
            want if !self.is_usable => {
                let is_right = |form: &Form| match (&want, form) {
                    (Want::Object(key), Form::Object(id)) => self.nexthops.is(*id, key),
                    (Want::Inline(hops), Form::Inline(found)) => hops == found,
                    _ => false,
                };
                // What leads elsewhere goes; what leads out of the link stays until it can change.
                let is_elsewhere = |form: &Form| match form {
                    Form::Object(id) => self.nexthops.is_elsewhere(*id),
                    Form::Inline(_) => false,
                    Form::Other { link } => self.ours.link != Some(*link),
                };
                let right = entry.kernel.iter().find(|form| is_right(form)).cloned();
                match entry.first_to_delete(prefix, right.as_ref()) {
                    Some(form) if is_elsewhere(form) => {
                        let op = Op::Delete { prefix, form: form.clone() };
                        entry.in_flight = true;
                        ops.push(op);
                    }
                    _ => {}
                }
                return;
            }
            Want::Inline(hops) => Some(Form::Inline(hops)),
            Want::Object(key) => match self.nexthops.ensure(key, ops) {
                Some(id) => Some(Form::Object(id)),
                None => {
                    if !std::mem::replace(&mut entry.waits_for_nexthop, true) {
                        self.waiting.push(prefix);
                    }
                    return;
                }
            },
        };
        // The new one first, so that there is no gap; then what is not wanted, one by one.
        let op = match form {
            Some(form) if !entry.kernel.contains(&form) => {
                if let Form::Object(id) = form {
                    self.nexthops.hold(id);
                }
                Op::Add { prefix, place: entry.place_of(prefix, &form), form }
            }
            form => match entry.first_to_delete(prefix, form.as_ref()) {
                Some(form) => Op::Delete { prefix, form: form.clone() },
                None => return,
            },
        };
        entry.in_flight = true;
        ops.push(op);
    }
}

/// A short list that seldom holds more than one.
type Few<T> = SmallVec<[T; 1]>;
