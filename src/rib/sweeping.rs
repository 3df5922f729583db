//! What a source has not announced again since it came back: withdrawn a piece at a time.
//!
//! Owns how far each sweep is. Must never take what the source has announced in a later life.

use std::collections::BTreeSet;

use slab::Slab;

use super::jobs::Job;
use super::table::is_up_to;
use super::{RecordSink, Rib};
use crate::types::{ShardId, SourceId, Vni};

/// All sweeps that are under way.
pub(super) type Sweeps = Slab<Sweep>;

/// One of them.
#[derive(Debug)]
pub(super) struct Sweep {
    source: SourceId,
    /// What was announced last in this life, or in one before, goes.
    life: u8,
    /// Who asked for it.
    shard: ShardId,
    /// The VNIs that are left; a new one has nothing old.
    vnis: Vec<Vni>,
    /// Those to which something came meanwhile that is old.
    again: BTreeSet<Vni>,
    /// Where to go on in the last of these, and among what is withheld.
    at: u32,
    withheld_at: u32,
    /// See [`VniTable::indexed`](super::table::VniTable::indexed).
    indexed: u32,
    routes: u32,
    withheld: u32,
}

impl Rib {
    /// What `source` announced last in this life, or in one before, is to be withdrawn (by [`Rib::run_jobs`]).
    /// `shard` is told when it is.
    pub fn begin_sweep(&mut self, source: SourceId, life: u8, shard: ShardId) {
        let of = self.sources.find(source, &self.common.rules.hasher);
        let vnis = of.map(|of| of.vnis.keys().collect()).unwrap_or_default();
        let (at, withheld_at) = (u32::MAX, u32::MAX);
        let sweep = Sweep {
            source,
            life,
            shard,
            vnis,
            again: BTreeSet::new(),
            at,
            withheld_at,
            indexed: 0,
            routes: 0,
            withheld: 0,
        };
        let number = self.sweeps.insert(sweep);
        self.jobs.add(Job::Sweep(number));
    }

    /// A route that was withheld is in its table now, announced in this life: a sweep may have passed there.
    pub(super) fn note_for_sweeps(&mut self, source: SourceId, life: u8, vni: Vni) {
        for (_, sweep) in &mut self.sweeps {
            if sweep.source == source && is_up_to(life, sweep.life) {
                sweep.again.insert(vni);
            }
        }
    }

    /// True when nothing is left to do.
    pub(super) fn sweep(
        &mut self,
        number: usize,
        budget: &mut usize,
        sink: &mut impl RecordSink,
    ) -> bool {
        let mut sweep = self.sweeps.remove(number);
        if !(self.sweep_tables(&mut sweep, budget, sink) && self.sweep_withheld(&mut sweep, budget))
        {
            let again = self.sweeps.insert(sweep);
            assert_eq!(again, number, "the place that was vacated last");
            return false;
        }
        let Sweep { source, shard, routes, withheld, .. } = sweep;
        sink.swept(shard, source, routes + withheld, withheld);
        true
    }

    fn sweep_tables(
        &mut self,
        sweep: &mut Sweep,
        budget: &mut usize,
        sink: &mut impl RecordSink,
    ) -> bool {
        let Sweep { source, life, .. } = *sweep;
        loop {
            if sweep.vnis.is_empty() {
                sweep.vnis.extend(std::mem::take(&mut sweep.again));
            }
            let Some(&vni) = sweep.vnis.last() else { return true };
            if *budget == 0 {
                return false;
            }
            let hasher = &self.common.rules.hasher;
            if let Some(home) = self.homes.find_mut(vni, hasher) {
                if home.table.indexed() != sweep.indexed {
                    (sweep.indexed, sweep.at) = (home.table.indexed(), u32::MAX);
                }
                let of = (source, life);
                sweep.routes += home.sweep(of, &mut sweep.at, budget, &mut self.common, sink);
                self.tidy(vni);
                if sweep.at > 0 {
                    // The budget is used up.
                    return false;
                }
                self.note_if_left(source, vni);
            }
            sweep.vnis.pop();
            sweep.at = u32::MAX;
            // The look-up costs something too.
            *budget = budget.saturating_sub(1);
        }
    }

    fn sweep_withheld(&mut self, sweep: &mut Sweep, budget: &mut usize) -> bool {
        let hasher = self.common.rules.hasher.clone();
        while sweep.withheld_at > 0 {
            let of = self.sources.find(sweep.source, &hasher);
            let Some(withheld) = of.and_then(|of| of.withheld()) else { break };
            if *budget == 0 {
                return false;
            }
            *budget -= 1;
            // As in the tables: the last one first, and another one may stand there then.
            sweep.withheld_at = sweep.withheld_at.min(withheld.len() as u32) - 1;
            if is_up_to(withheld.at(sweep.withheld_at as usize).life, sweep.life) {
                self.sources.release_at(sweep.source, sweep.withheld_at as usize, &hasher);
                sweep.withheld += 1;
            }
        }
        true
    }

    /// Whether a source announces something in a VNI may have changed.
    fn note_if_left(&mut self, source: SourceId, vni: Vni) {
        let hasher = &self.common.rules.hasher;
        let home = self.homes.find(vni, hasher);
        if home.is_none_or(|home| home.table.last_of(source, hasher).is_none()) {
            self.note_left(source, vni);
        }
    }
}
