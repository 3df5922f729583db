//! Runs a simulation from many seeds, on all CPUs.
//!
//! Owns which seeds are run, and names all that fail. Must never know what is simulated.
//!
//! `METALBOND_SIM_SEEDS=N` runs more seeds, `METALBOND_SIM_SEED=S` one of them.

use std::collections::BTreeSet;
use std::num::NonZero;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

/// So many seeds, unless the environment says otherwise.
pub fn run(seeds: u64, what: impl Fn(u64) + Sync) {
    if let Some(seed) = number("METALBOND_SIM_SEED") {
        return what(seed);
    }
    let seeds = number("METALBOND_SIM_SEEDS").unwrap_or(seeds);
    let threads = std::thread::available_parallelism().map_or(1, NonZero::get);
    let failed = Mutex::new(BTreeSet::new());
    // Not all take as long.
    let next = AtomicU64::new(0);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                let seeds = std::iter::from_fn(|| Some(next.fetch_add(1, Ordering::Relaxed)))
                    .take_while(|seed| *seed < seeds);
                for seed in seeds {
                    if catch_unwind(AssertUnwindSafe(|| what(seed))).is_err() {
                        failed.lock().unwrap_or_else(PoisonError::into_inner).insert(seed);
                    }
                }
            });
        }
    });
    let failed = failed.into_inner().unwrap_or_else(PoisonError::into_inner);
    let count = failed.len();
    assert!(
        count == 0,
        "{count} of {seeds} seeds failed; METALBOND_SIM_SEED=S runs one: {failed:?}"
    );
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().expect("a number"))
}
