//! How much memory the process uses, and how short it is.
//!
//! Owns the budget, the levels of pressure and the thread that looks. Must never free anything that is in use: it says
//! how short memory is, and others refuse what would need more.
//!
//! Two things are watched, and the worse one counts: what the process itself holds, against its budget; and what each
//! control group that it is in uses, against that group's limit, since the kernel counts its sockets and page tables,
//! too, before it kills.

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::Duration;

use tracing::{info, warn};

use super::cgroup::Cgroup;
use super::clock::Clock;
use super::error::ServeError;
use super::sys;
use crate::shard::{Ledger, Pressure};
use crate::types::Time;
use crate::vital;

/// Where each level begins, in percent of what there is.
const LEVELS: [(u64, Pressure); 4] = [
    (75, Pressure::Conflate),
    (85, Pressure::Routes),
    (90, Pressure::Joins),
    (95, Pressure::Connections),
];

/// A level ends so many percent below where it begins, or it would come and go with each buffer.
const BACK: u64 = 3;

/// The part of a limit that is the budget, in percent, unless somebody says otherwise.
const AUTO: u64 = 80;

/// Between two looks: far from the first level, nearer, and beyond it.
const PAUSES: [(u64, Duration); 3] = [
    (60, Duration::from_millis(10)),
    (40, Duration::from_millis(25)),
    (0, Duration::from_millis(100)),
];

/// The allocator is asked to give back what is free so often at most: its arenas are locked meanwhile.
const TRIM_INTERVAL: Duration = Duration::from_secs(5);

/// The memory that a node may use.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum MemoryMax {
    /// As much as it gets: nothing is watched.
    #[default]
    Unlimited,
    /// 80 % of what its control group may use, or of the machine's.
    Auto,
    /// So many MiB. A control group that may use less counts all the same.
    Mib(u32),
}

/// What is used, and of how much: of the two things that are watched the one that is nearer to its end.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct MemoryView {
    /// Bytes in use.
    pub used_bytes: u64,
    /// Bytes that there may be.
    pub budget_bytes: u64,
    /// How short memory is, 0 to 4.
    pub pressure: Pressure,
}

impl MemoryMax {
    /// The bytes that it comes to now; None for as many as there are.
    pub(super) fn budget_bytes(self) -> Option<u64> {
        let groups = Cgroup::of_this_process().into_iter();
        let limit = groups.filter_map(|group| Some(group.memory()?.limit_bytes)).min();
        let budget = budget_bytes(self, limit, machine_bytes());
        // Whatever is given, the kernel ends the process at the limit.
        (self != MemoryMax::Unlimited).then(|| limit.map_or(budget, |limit| limit.min(budget)))
    }
}

/// Watches until it is dropped.
pub(super) struct MemoryWatch {
    seen: Arc<Seen>,
    /// Dropped to end the thread.
    _end: Option<Sender<()>>,
}

/// The last look.
#[derive(Debug, Default)]
pub(super) struct Seen {
    used_bytes: AtomicU64,
    budget_bytes: AtomicU64,
}

impl MemoryWatch {
    /// Looks once, then again and again on a thread of its own, and tells the ledger.
    ///
    /// # Errors
    /// [`ServeError::Start`] if there is no room for the thread.
    pub(super) fn start(
        max: MemoryMax,
        clock: Clock,
        ledger: Arc<Ledger>,
    ) -> Result<MemoryWatch, ServeError> {
        let seen = Arc::<Seen>::default();
        if max == MemoryMax::Unlimited {
            return Ok(MemoryWatch { seen, _end: None });
        }
        let mut gauge = Gauge::new(max, Cgroup::of_this_process());
        gauge.log_budget();
        let (end, ended) = channel();
        let for_thread = Arc::clone(&seen);
        gauge.look(&seen, &ledger);
        vital::spawn("memory", move || gauge.watch(&ended, clock, &for_thread, &ledger))
            .map_err(|source| ServeError::Start { what: "the memory's thread", source })?;
        Ok(MemoryWatch { seen, _end: Some(end) })
    }

    /// The last look.
    pub(super) fn seen(&self) -> Arc<Seen> {
        Arc::clone(&self.seen)
    }
}

impl Seen {
    /// None if nothing is watched.
    pub(super) fn view(&self, ledger: &Ledger) -> Option<MemoryView> {
        let budget_bytes = self.budget_bytes.load(Ordering::Relaxed);
        let used_bytes = self.used_bytes.load(Ordering::Relaxed);
        let pressure = ledger.pressure();
        (budget_bytes > 0).then_some(MemoryView { used_bytes, budget_bytes, pressure })
    }
}

/// Some memory, and what limits it.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Reading {
    used_bytes: u64,
    limit_bytes: u64,
    limit: Limit,
}

#[derive(Clone, PartialEq, Eq, Debug)]
enum Limit {
    /// What the process holds itself.
    Budget,
    /// What a control group uses, with all that is in it.
    Group(PathBuf),
}

impl Reading {
    fn percent(&self) -> u64 {
        self.used_bytes.saturating_mul(100) / self.limit_bytes.max(1)
    }
}

impl std::fmt::Display for Limit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Limit::Budget => f.write_str("--memory-max"),
            Limit::Group(folder) => write!(f, "the limit of {}", folder.display()),
        }
    }
}

/// How short memory is at so many percent, if it was `before`.
fn judge(percent: u64, before: Pressure) -> Pressure {
    let applies = |(begins, level): &(u64, Pressure)| {
        percent >= *begins || (before >= *level && percent + BACK >= *begins)
    };
    LEVELS.iter().rev().find(|level| applies(level)).map_or(Pressure::None, |(_, level)| *level)
}

fn pause(percent: u64) -> Duration {
    let of = PAUSES.iter().find(|(from, _)| percent >= *from);
    of.map_or(PAUSES[PAUSES.len() - 1].1, |(_, pause)| *pause)
}

struct Gauge {
    max: MemoryMax,
    groups: Vec<Cgroup>,
    machine_bytes: u64,
    pressure: Pressure,
}

impl Gauge {
    fn new(max: MemoryMax, groups: Vec<Cgroup>) -> Gauge {
        Gauge { max, groups, machine_bytes: machine_bytes(), pressure: Pressure::None }
    }

    fn watch(mut self, ended: &Receiver<()>, clock: Clock, seen: &Seen, ledger: &Ledger) {
        let mut trim_at = Time::default();
        let mut percent = 0;
        while ended.recv_timeout(pause(percent)) == Err(RecvTimeoutError::Timeout) {
            percent = self.look(seen, ledger);
            if self.pressure > Pressure::None && clock.now() >= trim_at {
                sys::give_back_free_memory();
                trim_at = clock.now().after(TRIM_INTERVAL);
            }
        }
    }

    /// Looks, tells, and says what changes. The percentage that is used.
    fn look(&mut self, seen: &Seen, ledger: &Ledger) -> u64 {
        let worst = self.read();
        let pressure = judge(worst.percent(), self.pressure);
        seen.used_bytes.store(worst.used_bytes, Ordering::Relaxed);
        seen.budget_bytes.store(worst.limit_bytes, Ordering::Relaxed);
        ledger.press(pressure);
        if std::mem::replace(&mut self.pressure, pressure) != pressure {
            log_change(pressure, &worst);
        }
        worst.percent()
    }

    fn read(&self) -> Reading {
        let groups: Vec<Reading> = self
            .groups
            .iter()
            .filter_map(|group| {
                let memory = group.memory()?;
                Some(Reading {
                    used_bytes: memory.used_bytes,
                    limit_bytes: memory.limit_bytes,
                    limit: Limit::Group(group.folder().to_owned()),
                })
            })
            .collect();
        let smallest = groups.iter().map(|group| group.limit_bytes).min();
        let own = Reading {
            used_bytes: held_bytes(),
            limit_bytes: budget_bytes(self.max, smallest, self.machine_bytes),
            limit: Limit::Budget,
        };
        worst_of(own, groups)
    }

    fn log_budget(&self) {
        let limits = self.groups.iter().filter_map(|group| Some((group.memory()?, group.folder())));
        let smallest = limits.min_by_key(|(memory, _)| memory.limit_bytes);
        let limit_bytes = smallest.map(|(memory, _)| memory.limit_bytes);
        let budget = mib(budget_bytes(self.max, limit_bytes, self.machine_bytes));
        match (self.max, smallest) {
            (MemoryMax::Mib(_), Some((memory, folder))) if budget > mib(memory.limit_bytes) => {
                let (limit, folder) = (mib(memory.limit_bytes), folder.display());
                warn!(
                    "--memory-max is {budget} MiB, but {folder} allows {limit} MiB, which counts"
                );
            }
            (MemoryMax::Auto, Some((memory, folder)))
                if memory.limit_bytes < self.machine_bytes =>
            {
                let (limit, folder) = (mib(memory.limit_bytes), folder.display());
                info!(
                    "memory: up to {budget} MiB, {AUTO} % of the {limit} MiB that {folder} allows"
                );
            }
            (MemoryMax::Auto, _) => {
                let machine = mib(self.machine_bytes);
                info!("memory: up to {budget} MiB, {AUTO} % of the machine's {machine} MiB");
            }
            _ => info!("memory: up to {budget} MiB"),
        }
    }
}

/// The one that is nearest to its limit.
fn worst_of(own: Reading, groups: Vec<Reading>) -> Reading {
    // In thousandths of a percent, so that small differences count; of equals the first.
    let part = |reading: &Reading| {
        u128::from(reading.used_bytes) * 100_000 / u128::from(reading.limit_bytes.max(1))
    };
    groups.into_iter().fold(own, |worst, group| match part(&group) > part(&worst) {
        true => group,
        false => worst,
    })
}

fn budget_bytes(max: MemoryMax, smallest_limit: Option<u64>, machine_bytes: u64) -> u64 {
    match max {
        MemoryMax::Unlimited => u64::MAX,
        MemoryMax::Auto => {
            smallest_limit.map_or(machine_bytes, |limit| limit.min(machine_bytes)) / 100 * AUTO
        }
        MemoryMax::Mib(mib) => u64::from(mib) << 20,
    }
}

/// One place for each, so that each is counted by itself.
fn log_change(pressure: Pressure, worst: &Reading) {
    let (used_mib, budget_mib) = (mib(worst.used_bytes), mib(worst.limit_bytes));
    let limit = &worst.limit;
    match pressure {
        Pressure::None => info!(used_mib, budget_mib, %limit, "memory is no longer short"),
        Pressure::Conflate => warn!(
            used_mib, budget_mib, %limit,
            "memory is getting short: slow peers are told the difference only"
        ),
        Pressure::Routes => {
            warn!(used_mib, budget_mib, %limit, "memory is short: new routes are refused")
        }
        Pressure::Joins => warn!(
            used_mib, budget_mib, %limit,
            "memory is short: new routes and subscriptions are refused"
        ),
        Pressure::Connections => warn!(
            used_mib, budget_mib, %limit,
            "memory is short: new routes, subscriptions and connections are refused"
        ),
    }
}

fn mib(bytes: u64) -> u64 {
    bytes >> 20
}

/// What the process holds in memory (RSS).
fn held_bytes() -> u64 {
    let statm = fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages: u64 = statm.split(' ').nth(1).and_then(|pages| pages.parse().ok()).unwrap_or(0);
    pages * rustix::param::page_size() as u64
}

/// Without that, nothing could be said: then nothing is short.
fn machine_bytes() -> u64 {
    let meminfo = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let total = meminfo.lines().find_map(|line| {
        let kib = line.strip_prefix("MemTotal:")?.trim().strip_suffix(" kB")?;
        kib.parse::<u64>().ok()
    });
    total.map_or(u64::MAX, |kib| kib.saturating_mul(1024))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_begin_and_end() {
        use Pressure::{Conflate, Connections, Joins, None, Routes};
        for (percent, before, now) in [
            (0, None, None),
            (74, None, None),
            (75, None, Conflate),
            (84, None, Conflate),
            (85, None, Routes),
            (90, None, Joins),
            (94, Conflate, Joins),
            (95, None, Connections),
            (100, None, Connections),
            (250, None, Connections),
            // Down again: each ends 3 % below its beginning.
            (92, Connections, Connections),
            (91, Connections, Joins),
            (87, Joins, Joins),
            (86, Joins, Routes),
            (82, Routes, Routes),
            (81, Routes, Conflate),
            (72, Conflate, Conflate),
            (71, Conflate, None),
            // All at once, also to between two of them.
            (10, Connections, None),
            (80, Connections, Conflate),
            (73, Connections, Conflate),
        ] {
            assert_eq!(judge(percent, before), now, "{percent} % after {before:?}");
        }
    }

    #[test]
    fn what_swings_by_less_than_that_does_not_flap() {
        let mut pressure = Pressure::None;
        let mut changes = 0;
        for percent in (0..1_000).map(|at| 94 + at % 3) {
            let now = judge(percent, pressure);
            changes += u32::from(now != pressure);
            pressure = now;
        }
        assert_eq!((changes, pressure), (2, Pressure::Connections));
    }

    #[test]
    fn the_nearer_it_is_the_more_often_it_is_looked_at() {
        let pauses: Vec<_> = [0, 39, 40, 59, 60, 200].map(|it| pause(it).as_millis()).into();
        assert_eq!(pauses, [100, 100, 25, 25, 10, 10]);
    }

    #[test]
    fn the_budget_is_part_of_the_smallest_limit() {
        const GIB: u64 = 1 << 30;
        for (max, group, bytes) in [
            (MemoryMax::Auto, None, 8 * GIB / 100 * 80),
            (MemoryMax::Auto, Some(GIB), GIB / 100 * 80),
            (MemoryMax::Auto, Some(16 * GIB), 8 * GIB / 100 * 80),
            (MemoryMax::Mib(100), Some(GIB), 100 << 20),
            (MemoryMax::Mib(u32::MAX), None, u64::from(u32::MAX) << 20),
        ] {
            assert_eq!(budget_bytes(max, group, 8 * GIB), bytes, "{max:?} {group:?}");
        }
        assert_eq!(budget_bytes(MemoryMax::Auto, None, u64::MAX), u64::MAX / 100 * 80);
    }

    #[test]
    fn the_worse_one_counts() {
        let own = |used_bytes| Reading { used_bytes, limit_bytes: 1000, limit: Limit::Budget };
        let group = |used_bytes, limit_bytes: u64| {
            let limit = Limit::Group(PathBuf::from(limit_bytes.to_string()));
            Reading { used_bytes, limit_bytes, limit }
        };
        assert_eq!(worst_of(own(10), vec![]), own(10));
        assert_eq!(worst_of(own(10), vec![group(10, 1000)]), own(10));
        assert_eq!(worst_of(own(10), vec![group(100, 5000)]), group(100, 5000));
        let groups = vec![group(100, 5000), group(90, 100), group(9_999, 100_000)];
        assert_eq!(worst_of(own(10), groups), group(90, 100));
        assert_eq!(group(5, 0).percent(), 500, "a limit of nothing");
        assert_eq!(group(u64::MAX, 1).percent(), u64::MAX);
    }

    #[test]
    fn this_process_holds_something_of_a_machine_that_has_something() {
        let (held, machine) = (held_bytes(), machine_bytes());
        assert!((1 << 20..machine).contains(&held), "{held} of {machine}");
        let mut gauge = Gauge::new(MemoryMax::Auto, Vec::new());
        let (seen, ledger) = (Seen::default(), Ledger::default());
        assert_eq!(seen.view(&ledger), None);
        gauge.look(&seen, &ledger);
        assert_eq!(seen.view(&ledger).unwrap().budget_bytes, machine / 100 * 80);
        // A budget that is used up already.
        let mut gauge = Gauge::new(MemoryMax::Mib(1), Vec::new());
        assert!(gauge.look(&seen, &ledger) > 100);
        assert_eq!(ledger.pressure(), Pressure::Connections);
        assert_eq!(seen.view(&ledger).unwrap().pressure, Pressure::Connections);
    }
}
