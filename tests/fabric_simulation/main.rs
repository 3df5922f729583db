//! Whole reflectors as one fabric, with an engine in memory, in virtual time: at rest each host sees what it has to, no
//! message says what its peer knows, and what happens to one reflector is not noticed at others.
//!
//! One seed decides everything. `METALBOND_SIM_SEEDS=N` runs more seeds, `METALBOND_SIM_SEED=S` one of them.
//! `METALBOND_FABRIC_RULES=N` prints how many of N seeds fail when a rule is not kept.

#![allow(clippy::unwrap_used)]

#[allow(dead_code)]
#[path = "../simulation/client.rs"]
mod client;
mod engine;
mod handover;
mod names {
    pub use metalbond_uring::internals::fabric::{
        Effect, Ended, Publish, PublishError, Record, Rule,
    };
    pub use metalbond_uring::types::{Route, Time, Vni};

    pub type Key = (Vni, Route);
}
mod network;
mod reflector;
#[path = "../simulation/rng.rs"]
mod rng;
mod scenarios;
#[path = "../simulation/seeds.rs"]
mod seeds;
#[path = "../simulation/tight.rs"]
mod tight;
mod world;

use std::sync::atomic::{AtomicBool, Ordering};

use metalbond_uring::internals::shard::Identity;

use names::Rule;
use scenarios::{Case, Fleet, QUIET, Quiet, faults, table};
use world::World;

const SEEDS: u64 = 200;

#[test]
fn after_any_faults_each_view_is_right() {
    seeds::run(SEEDS, |seed| faults::<World>(seed, 2, None));
}

#[test]
fn who_stays_is_told_nothing() {
    seeds::run(SEEDS, |seed| {
        Case::Quiet(QUIET[seed as usize % QUIET.len()]).run::<World>(seed, None);
    });
}

#[test]
fn what_never_comes_back_is_purged_and_what_does_is_spared() {
    seeds::run(20, |seed| Case::Purge.run::<World>(seed, None));
}

#[test]
fn a_full_engine_takes_withdrawals() {
    seeds::run(SEEDS / 2, |seed| Case::Full.run::<World>(seed, None));
}

#[test]
fn what_comes_late_is_put_right() {
    seeds::run(SEEDS / 2, |seed| Case::Late.run::<World>(seed, None));
}

#[test]
fn a_lease_that_is_lost_is_looked_for() {
    seeds::run(SEEDS / 2, |seed| Case::Forgotten.run::<World>(seed, None));
}

/// Two routes of three have room. When one is withdrawn, the others are told everywhere, without anybody saying them again.
#[test]
fn what_had_no_room_is_told_when_there_is_some() {
    let saw_refusals = AtomicBool::new(false);
    seeds::run(20, |seed| {
        let mut world = World::with(seed, None, |kind| kind.limits.routes_per_vni_max = 2);
        (0..3).for_each(|host| world.connect(host, host % 2));
        world.run_for_s(10);
        let [one, two, three] = [1, 2, 3].map(|destination| world::key(0, destination, 0));
        // At each its own come first.
        world.network().cut_off(1);
        world.change(0, one);
        world.change(1, two);
        world.change(1, three);
        world.run_for_s(10);
        world.network().heal(1);
        world.run_for_s(20);
        saw_refusals.fetch_or(!world.faults().is_empty(), Ordering::Relaxed);
        world.change(1, two);
        world.run_for_s(300);
        world.check(&format!("seed {seed}"));
    });
    assert!(saw_refusals.into_inner(), "there was room for all");
}

/// The same where a reflector takes so many routes of others and no more.
#[test]
fn what_was_beyond_the_limit_is_told_when_there_is_room() {
    let saw_drops = AtomicBool::new(false);
    seeds::run(20, |seed| {
        let mut world = World::with(seed, None, |_| {});
        world.routes_max = 1;
        (0..world.nodes()).for_each(|at| world.crashes(at));
        (0..2).for_each(|at| world.starts(at));
        (0..2).for_each(|host| world.connect(host, host));
        let [one, two] = [1, 2].map(|destination| world::key(0, destination, 0));
        world.change(0, one);
        world.run_for_s(200);
        world.change(0, two);
        world.run_for_s(20);
        saw_drops.fetch_or(!world.faults().is_empty(), Ordering::Relaxed);
        world.change(0, one);
        world.run_for_s(300);
        world.check(&format!("seed {seed}"));
    });
    assert!(saw_drops.into_inner(), "there was room for all");
}

/// Without an engine remote routes stay for one hour, and no longer if a reflector is upgraded meanwhile.
#[test]
fn an_upgrade_holds_routes_no_longer() {
    let saw_some = AtomicBool::new(false);
    seeds::run(20, |seed| {
        let mut world = World::with(seed, None, |kind| kind.identity = Identity::Address);
        world.connect(0, 0);
        world.connect(1, 1);
        world.change(0, world::key(0, 1, 0));
        world.run_for_s(200);
        let seen = world.seen(1);
        saw_some.fetch_or(seen > 0, Ordering::Relaxed);
        world.network().engine_goes();
        for _ in 0..3 {
            world.run_for_s(1_100);
            world.hand_over(1);
            assert_eq!(world.seen(1), seen, "seed {seed}");
        }
        world.run_for_s(400);
        assert_eq!(world.seen(1), 0, "seed {seed}: for ever");
    });
    assert!(saw_some.into_inner(), "nobody wanted it");
}

/// A simulation that cannot fail shows nothing.
#[test]
fn without_a_rule_something_is_wrong() {
    let number = std::env::var("METALBOND_FABRIC_RULES").ok().map(|text| text.parse().unwrap());
    std::panic::set_hook(Box::new(|_| {}));
    let table = number.map(table::<World>);
    let few = [(Rule::LoseWhenSynced, Quiet::Wipe), (Rule::Hold, Quiet::EngineDown)];
    let caught = few.map(|(rule, what)| !Case::Quiet(what).failing::<World>(20, rule).is_empty());
    let _ = std::panic::take_hook();
    println!("{}", table.unwrap_or_default());
    assert_eq!(caught, [true; 2]);
}
