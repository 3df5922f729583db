//! Slow readers in virtual time: whoever comes back gets the difference of two tables, and ends right.
//!
//! Owns the phases, and what is claimed of each. Must never look at a time that is not virtual.
//!
//! One seed decides everything. `METALBOND_SIM_SEEDS=N` runs more seeds, `METALBOND_SIM_SEED=S` one of them.
#![allow(clippy::unwrap_used)]

#[path = "../simulation/client.rs"]
#[allow(dead_code)]
mod client;
#[path = "../../benches/common/config.rs"]
mod config;
mod field;
mod large;
#[path = "../simulation/rng.rs"]
mod rng;
#[path = "../simulation/seeds.rs"]
mod seeds;

use field::{Field, Habit};

const SEEDS: u64 = 200;

#[test]
fn whoever_comes_back_gets_the_difference_of_two_tables() {
    seeds::run(SEEDS, |seed| {
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
    seeds::run(SEEDS, |seed| {
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
    seeds::run(SEEDS, |seed| {
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
