//! The protocol among several reflectors, with an engine and tables in memory, and everything going wrong.
//!
//! Owns the tests; `world` is what they happen in. `METALBOND_FABRIC_SEEDS=N` runs more seeds.

#[path = "../../../tests/fabric_simulation/engine.rs"]
#[allow(unreachable_pub)] // These are parts of a test program, too.
mod engine;
mod homes;
mod names {
    pub(super) use super::super::config::Rule;
    pub(super) use super::super::engine::{Effect, Ended, Publish, PublishError, Record};
    pub(super) use super::super::own::Key;
    pub(super) use crate::types::Time;
}
#[path = "../../../tests/fabric_simulation/network.rs"]
#[allow(unreachable_pub)]
mod network;
mod oddities;
#[path = "../../../tests/simulation/rng.rs"]
#[allow(unreachable_pub)]
mod rng;
#[path = "../../../tests/fabric_simulation/scenarios.rs"]
#[allow(unreachable_pub)]
mod scenarios;
mod world;

use super::config::Rule;
use super::status::State;
use scenarios::{Case, Fleet, QUIET, Quiet, faults};
use world::World;

fn seeds(usual: u64) -> u64 {
    let more = std::env::var("METALBOND_FABRIC_SEEDS").ok();
    more.map_or(usual, |text| text.parse().expect("METALBOND_FABRIC_SEEDS is a number"))
}

#[test]
fn after_any_faults_each_view_is_right() {
    (0..seeds(300)).for_each(|seed| faults::<World>(seed, 3, None));
}

#[test]
fn who_stays_is_told_nothing() {
    for seed in 0..seeds(40) {
        QUIET.iter().for_each(|what| Case::Quiet(*what).run::<World>(seed, None));
    }
}

#[test]
fn what_never_comes_back_is_purged_and_what_does_is_spared() {
    (0..seeds(40)).for_each(|seed| Case::Purge.run::<World>(seed, None));
}

#[test]
fn a_full_engine_takes_withdrawals() {
    (0..seeds(100)).for_each(|seed| Case::Full.run::<World>(seed, None));
}

#[test]
fn what_comes_late_is_put_right() {
    (0..seeds(40)).for_each(|seed| Case::Late.run::<World>(seed, None));
}

#[test]
fn a_lease_that_is_lost_is_looked_for() {
    (0..seeds(40)).for_each(|seed| Case::Forgotten.run::<World>(seed, None));
}

/// A host has announced something at another reflector than the first one.
fn with_a_route(seed: u64) -> (World, names::Key) {
    let mut world = World::new(seed, None);
    let key = world.key();
    world.connect(0, 1);
    world.change(0, key);
    world.run_for_s(300);
    (world, key)
}

/// The times that operators are told.
#[test]
fn a_dead_reflector_is_believed_for_so_long() {
    for seed in 0..20 {
        let (mut world, key) = with_a_route(seed);
        assert!(world.sees(0, key), "seed {seed}");
        world.crashes(1);
        world.run_for_s(126);
        assert!(world.sees(0, key), "seed {seed}");
        world.run_for_s(6);
        assert!(!world.sees(0, key), "seed {seed}");
    }
}

#[test]
fn without_an_engine_remote_routes_are_held_for_so_long() {
    for seed in 0..20 {
        let (mut world, key) = with_a_route(seed);
        world.network().engine_goes();
        world.run_for_s(3_590);
        assert!(world.sees(0, key), "seed {seed}");
        world.run_for_s(20);
        assert!(!world.sees(0, key) && world.sees(1, key), "seed {seed}");
        world.rest();
        world.check(&format!("seed {seed}"));
    }
}

#[test]
fn of_two_with_one_name_the_younger_stays() {
    (0..40).for_each(|seed| twins(seed, None));
}

fn twins(seed: u64, without: Option<Rule>) {
    let mut world = World::new(seed, without);
    world.settle();
    world.crashes(1);
    world.starts_as(1, "r0");
    world.run_for_s(60);
    let (elder, younger) = (world.status(0), world.status(1));
    assert_eq!((elder.state, younger.state), (State::Fenced, State::Syncing), "seed {seed}");
    assert!(elder.twin.is_some() && younger.twin.is_none(), "seed {seed}");
}

/// A model that cannot fail shows nothing. These are caught by many seeds.
#[test]
fn without_a_rule_something_is_wrong() {
    let caught = [
        (Rule::ReadFromTheFirst, Case::Faults),
        (Rule::Canary, Case::Faults),
        (Rule::SendAgain, Case::Faults),
        (Rule::Digest, Case::Faults),
        (Rule::Fencing, Case::Quiet(Quiet::Wipe)),
        (Rule::LoseWhenSynced, Case::Quiet(Quiet::Wipe)),
        (Rule::Stale, Case::Quiet(Quiet::Restart)),
        (Rule::OwnStale, Case::Quiet(Quiet::Restart)),
        (Rule::OwnStaleAge, Case::Quiet(Quiet::LateRestart)),
        (Rule::Hold, Case::Quiet(Quiet::EngineDown)),
        (Rule::Janitor, Case::Purge),
        (Rule::Bare, Case::Full),
    ];
    for (rule, case) in caught {
        let is_caught = (0..100).any(|seed| case.fails::<World>(seed, rule));
        assert!(is_caught, "{rule:?} is not missed by {case:?}");
    }
}

/// Prints which seeds fail without each rule. Slow: `cargo test --lib rules_are_needed -- --ignored --nocapture`.
#[test]
#[ignore = "prints a table, in minutes"]
fn rules_are_needed() {
    std::panic::set_hook(Box::new(|_| {}));
    let table = scenarios::table::<World>(seeds(40));
    let _ = std::panic::take_hook();
    println!("{table}");
}
