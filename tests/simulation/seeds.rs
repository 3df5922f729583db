//! Runs a simulation from many seeds, on all CPUs.
//!
//! Owns which seeds are run, and names all that fail. Must never know what is simulated.
//!
//! `METALBOND_SIM_SEEDS=N` runs more seeds, `METALBOND_SIM_SEED=S` one of them.

use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Mutex, PoisonError};

/// So many seeds, unless the environment says otherwise.
pub fn run(seeds: u64, what: impl Fn(u64) + Sync) {
    if let Some(seed) = number("METALBOND_SIM_SEED") {
        return what(seed);
    }
    let seeds = number("METALBOND_SIM_SEEDS").unwrap_or(seeds);
    let threads = std::thread::available_parallelism().map_or(1, |n| n.get() as u64);
    let failed = Mutex::new(BTreeSet::new());
    std::thread::scope(|scope| {
        for thread in 0..threads {
            let (failed, what) = (&failed, &what);
            scope.spawn(move || {
                for seed in (thread..seeds).step_by(threads as usize) {
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
