//! The protocol among several reflectors, with an engine and tables in memory, and everything going wrong.
//!
//! Owns the tests; `world` is what they happen in. `METALBOND_FABRIC_SEEDS=N` runs more seeds.

#[path = "../../../tests/fabric_simulation/engine.rs"]
#[allow(unreachable_pub)] // These are parts of a test program, too.
mod engine;
mod homes;
mod names {
    pub(super) use super::super::engine::{Effect, Ended, PublishError, Record};
    pub(super) use crate::types::Time;
}
#[path = "../../../tests/fabric_simulation/network.rs"]
#[allow(unreachable_pub)]
mod network;
#[path = "../../../tests/simulation/rng.rs"]
#[allow(unreachable_pub)]
mod rng;
mod world;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use super::config::Rule;
use super::status::State;
use world::World;

fn seeds(usual: u64) -> u64 {
    let more = std::env::var("METALBOND_FABRIC_SEEDS").ok();
    more.map_or(usual, |text| text.parse().expect("METALBOND_FABRIC_SEEDS is a number"))
}

fn seconds(count: usize) -> Duration {
    Duration::from_secs(count as u64)
}

impl World {
    /// Each host is connected somewhere, some twice.
    fn settle(&mut self) {
        for host in 0..self.hosts.len() {
            for _ in 0..1 + self.rng.below(2) {
                let at = self.any_node();
                self.connect(host, at);
            }
            for _ in 0..1 + self.rng.below(3) {
                let key = self.key();
                self.change(host, key);
            }
        }
        self.rest();
    }

    /// Everything works again, for long enough; but for reflectors that do not come back, perhaps.
    fn rest(&mut self) {
        for at in 0..self.nodes.len() {
            if self.nodes[at].process.is_none() && (at == 0 || self.rng.chance(60)) {
                self.starts(at);
            }
            self.heal(at);
        }
        if !self.is_engine_up {
            self.engine_comes();
        }
        self.engine.records_max = usize::MAX;
        for host in 0..self.hosts.len() {
            while self.hosts[host].at.is_empty() {
                let at = self.any_node();
                self.connect(host, at);
            }
        }
        self.run_for(seconds(400));
    }

    fn check(&self, what: &str) {
        let faults = self.faults();
        assert!(faults.is_empty(), "{what}: {faults:#?}");
    }

    /// Whose routes they are changes all the time, though not which there are, while all is read anew.
    fn churn(&mut self, at: usize) {
        let (stays, comes) = (0, 1);
        let keys: Vec<_> = self.hosts[stays].keys.iter().copied().collect();
        let from = *self.hosts[stays].at.first().expect("it is connected");
        let has: Vec<_> = self.hosts[comes].keys.iter().copied().collect();
        self.connect(comes, from);
        self.unlink(at);
        self.links(at);
        for _ in 0..400 {
            let key = self.rng.below(keys.len().max(1));
            if let Some(key) = keys.get(key).filter(|key| !has.contains(*key)) {
                self.change(comes, *key);
            }
            let wait = 1 + self.rng.below(20_000) as u64;
            self.run_for(Duration::from_micros(wait));
        }
    }

    /// Something happens, to anybody.
    fn disturb(&mut self) {
        let (host, at) = (self.any_host(), self.any_node());
        match self.rng.below(32) {
            0..10 => {
                let key = self.key();
                self.change(host, key);
            }
            10..14 => self.connect(host, at),
            14..16 => self.disconnect(host, at),
            16 => self.crashes(at),
            17..20 if self.nodes[at].process.is_none() => self.starts(at),
            20 => self.cut_off(at),
            21 => self.heal(at),
            22 => self.unlink(at),
            23 => self.links(at),
            24 if self.rng.chance(30) => self.engine.wipe(),
            25 if self.rng.chance(30) => self.engine_goes(),
            26 => self.engine_comes(),
            27 => self.nodes[at].is_stalled = true,
            28 => self.engine.records_max = self.rng.below(8),
            29 => self.engine.records_max = usize::MAX,
            30.. => {
                // What is on its way when the connection breaks may come after what is said then.
                let (key, wait) = (self.key(), self.rng.below(3_000) as u64);
                self.change(host, key);
                self.run_for(Duration::from_micros(wait));
                self.unlink(at);
                self.change(host, key);
                self.links(at);
            }
            _ => {}
        }
        let wait = [1_000, 100_000, 5_000_000, 5_000_000, 60_000_000][self.rng.below(5)];
        let wait = self.rng.below(wait) as u64;
        self.run_for(Duration::from_micros(wait));
    }
}

/// Anything may happen; when it is over, each view is right, and everything is published.
fn faults(seed: u64, without: Option<Rule>) {
    let mut world = World::new(seed, without);
    for round in 0..3 {
        for _ in 0..world.rng.below(60) {
            world.disturb();
        }
        world.rest();
        world.check(&format!("seed {seed}, round {round}"));
    }
}

/// Things that peers which stay must not notice.
#[derive(Clone, Copy, PartialEq, Debug)]
enum Quiet {
    Restart,
    CrashAndMove,
    Wipe,
    Partition,
    EngineDown,
    LateRestart,
    FreshReflector,
    Stall,
    Churn,
}

const QUIET: [Quiet; 9] = [
    Quiet::Restart,
    Quiet::CrashAndMove,
    Quiet::Wipe,
    Quiet::Partition,
    Quiet::EngineDown,
    Quiet::LateRestart,
    Quiet::FreshReflector,
    Quiet::Stall,
    Quiet::Churn,
];

fn quiet(seed: u64, what: Quiet, without: Option<Rule>) {
    let mut world = World::new(seed, without);
    world.settle();
    world.check(&format!("seed {seed}, {what:?}: at first"));
    let at = world.any_node();
    let mut others: Vec<usize> = (0..world.nodes.len()).collect();
    if matches!(
        what,
        Quiet::Restart | Quiet::CrashAndMove | Quiet::LateRestart | Quiet::FreshReflector
    ) {
        others.retain(|other| *other != at);
    }
    let mut before = world.messages(&others);
    let its: Vec<usize> =
        (0..world.hosts.len()).filter(|it| world.hosts[*it].at.contains(&at)).collect();
    match what {
        Quiet::Restart => {
            world.crashes(at);
            let wait = world.rng.below(90);
            world.run_for(seconds(wait));
            world.starts(at);
            for host in its {
                let wait = world.rng.below(20);
                world.run_for(seconds(wait));
                world.connect(host, at);
            }
        }
        Quiet::CrashAndMove => {
            world.crashes(at);
            for host in its {
                let wait = world.rng.below(25);
                world.run_for(seconds(wait));
                let to = others[world.rng.below(others.len())];
                world.connect(host, to);
            }
            world.run_for(seconds(300));
        }
        Quiet::Wipe => world.engine.wipe(),
        Quiet::Partition => {
            world.cut_off(at);
            let wait = world.rng.below(100);
            world.run_for(seconds(wait));
            world.heal(at);
        }
        Quiet::EngineDown => {
            world.engine_goes();
            let wait = world.rng.below(3_000);
            world.run_for(seconds(wait));
            if world.rng.chance(50) {
                world.engine.wipe();
            }
            world.engine_comes();
        }
        Quiet::LateRestart | Quiet::FreshReflector => {
            world.crashes(at);
            // One of those that were there is gone for good: nothing may bring its routes back.
            for host in its.iter().skip(1) {
                let to = others[world.rng.below(others.len())];
                world.connect(*host, to);
            }
            if let Some(host) = its.first() {
                others.iter().for_each(|at| world.disconnect(*host, *at));
                world.hosts[*host].keys.clear();
            }
            let wait =
                if what == Quiet::LateRestart { 140 + world.rng.below(1_500) } else { 4_000 };
            world.run_for(seconds(wait));
            before = world.messages(&others);
            world.starts(at);
        }
        Quiet::Churn => world.churn(at),
        Quiet::Stall => world.nodes[at].is_stalled = true,
    }
    world.rest();
    world.check(&format!("seed {seed}, {what:?}"));
    let told = world.messages(&others) - before;
    assert_eq!(told, 0, "seed {seed}, {what:?}: messages to peers that stay");
}

#[test]
fn after_any_faults_each_view_is_right() {
    (0..seeds(300)).for_each(|seed| faults(seed, None));
}

#[test]
fn who_stays_is_told_nothing() {
    for seed in 0..seeds(40) {
        QUIET.iter().for_each(|what| quiet(seed, *what, None));
    }
}

#[test]
fn what_never_comes_back_is_purged_and_what_does_is_spared() {
    (0..seeds(40)).for_each(|seed| purge(seed, None));
}

/// A reflector is gone, and comes back about when it is purged, or not at all.
fn purge(seed: u64, without: Option<Rule>) {
    let mut world = World::new(seed, without);
    world.settle();
    let at = world.nodes.len() - 1;
    world.crashes(at);
    let records = |world: &World| world.engine.list(&format!("mb.f.r.*.r{at}.>")).len();
    let wait = if world.rng.chance(50) { 3_000 } else { 1_790 + world.rng.below(140) };
    world.run_for(seconds(wait));
    assert!(wait < 3_000 || records(&world) == 0, "seed {seed}: nothing is left");
    world.starts(at);
    let wait = world.rng.below(30_000_000) as u64;
    world.run_for(Duration::from_micros(wait));
    world.rest();
    world.check(&format!("seed {seed}"));
}

/// The times that operators are told.
#[test]
fn a_dead_reflector_is_believed_for_so_long() {
    for seed in 0..20 {
        let mut world = World::new(seed, None);
        let key = world.key();
        world.connect(0, 1);
        world.change(0, key);
        world.run_for(seconds(300));
        assert!(world.sees(0, key), "seed {seed}");
        world.crashes(1);
        world.run_for(seconds(126));
        assert!(world.sees(0, key), "seed {seed}");
        world.run_for(seconds(6));
        assert!(!world.sees(0, key), "seed {seed}");
    }
}

#[test]
fn without_an_engine_remote_routes_are_held_for_so_long() {
    for seed in 0..20 {
        let mut world = World::new(seed, None);
        let key = world.key();
        world.connect(0, 1);
        world.change(0, key);
        world.run_for(seconds(300));
        world.engine_goes();
        world.run_for(seconds(3_590));
        assert!(world.sees(0, key), "seed {seed}");
        world.run_for(seconds(20));
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
    world.run_for(seconds(60));
    let state = |at: usize| world.nodes[at].process.as_ref().unwrap().status(world.now);
    assert_eq!((state(0).state, state(1).state), (State::Fenced, State::Syncing), "seed {seed}");
    assert!(state(0).twin.is_some() && state(1).twin.is_none(), "seed {seed}");
}

/// Prints how many seeds fail without each rule. Slow: `cargo test --lib rules_are_needed -- --ignored --nocapture`.
#[test]
#[ignore = "prints a table, in minutes"]
fn rules_are_needed() {
    std::panic::set_hook(Box::new(|_| {}));
    let fails = |run: &dyn Fn()| catch_unwind(AssertUnwindSafe(run)).is_err();
    let mut lines = Vec::new();
    for rule in Rule::ALL {
        let count = |seeds: u64, run: &dyn Fn(u64)| {
            format!("{}/{seeds}", (0..seeds).filter(|seed| fails(&|| run(*seed))).count())
        };
        let mut line = format!("{rule:?}: faults {}", count(100, &|seed| faults(seed, Some(rule))));
        line += &format!(", purge {}", count(20, &|seed| purge(seed, Some(rule))));
        line += &format!(", twins {}", count(20, &|seed| twins(seed, Some(rule))));
        for what in QUIET {
            let failed = count(20, &|seed| quiet(seed, what, Some(rule)));
            line += &format!(", {what:?} {failed}");
        }
        lines.push(line.replace("0/", "-/"));
    }
    let _ = std::panic::take_hook();
    println!("{}", lines.join("\n"));
}
