//! Slow readers in virtual time: whoever comes back gets the difference of two tables, and ends right.
//!
//! Owns the phases, and what is claimed of each. Must never look at a time that is not virtual.
//!
//! One seed decides everything. `METALBOND_SIM_SEEDS=N` runs more seeds, `METALBOND_SIM_SEED=S` one of them.
#![allow(clippy::unwrap_used)]

#[path = "../simulation/client.rs"]
#[allow(dead_code)]
mod client;
mod field;
mod large;
#[path = "../simulation/rng.rs"]
mod rng;

use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;

use field::{Field, Habit};

const SEEDS: u64 = 200;

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().expect("a number"))
}

/// Runs seeds on all CPUs, all of them even if some fail, and names those.
fn run(what: fn(u64)) {
    if let Some(seed) = number("METALBOND_SIM_SEED") {
        return what(seed);
    }
    let seeds = number("METALBOND_SIM_SEEDS").unwrap_or(SEEDS);
    let threads = std::thread::available_parallelism().map_or(1, |n| n.get() as u64);
    let failed = Mutex::new(BTreeSet::new());
    std::thread::scope(|scope| {
        for thread in 0..threads {
            let failed = &failed;
            scope.spawn(move || {
                for seed in (thread..seeds).step_by(threads as usize) {
                    if catch_unwind(AssertUnwindSafe(|| what(seed))).is_err() {
                        failed.lock().unwrap().insert(seed);
                    }
                }
            });
        }
    });
    let failed = failed.into_inner().unwrap();
    let count = failed.len();
    assert!(
        count == 0,
        "{count} of {seeds} seeds failed; METALBOND_SIM_SEED=S runs one: {failed:?}"
    );
}

#[test]
fn whoever_comes_back_gets_the_difference_of_two_tables() {
    run(|seed| {
        let mut field = Field::new(seed);
        for _ in 0..3 {
            // They stall at different moments, some read a piece a second, some come back amid updates.
            field.storm(60);
            // Then nothing is announced any more; what has been is dealt with.
            field.settle();
            field.come_back();
            field.check_views();
        }
        field.end();
    });
}

#[test]
fn those_that_leave_or_resubscribe_leave_nothing_behind() {
    run(|seed| {
        let mut field = Field::new(seed);
        field.fickle = true;
        field.storm(150);
        field.settle();
        field.set_habits(Habit::Fast);
        field.rest();
        field.check_views();
        field.end();
    });
}

#[test]
fn one_piece_a_second_is_enough_to_end_right() {
    run(|seed| {
        let mut field = Field::new(seed);
        field.set_habits(Habit::Slow);
        field.restless = 0;
        field.storm(100);
        field.settle();
        field.rest();
        field.check_views();
        field.end();
    });
}
