//! The protocol among several reflectors, with an engine and tables in memory, and everything going wrong.
//!
//! Owns the tests; `world` is what they happen in. `METALBOND_FABRIC_SEEDS=N` runs more seeds.

#[allow(unreachable_pub)] // Part of a test program, too.
mod engine;
mod homes;
mod names {
    pub(super) use super::super::engine::{Ended, PublishError, Record};
    pub(super) use crate::types::Time;
}
#[path = "../../../tests/simulation/rng.rs"]
#[allow(unreachable_pub)]
mod rng;
mod world;

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use super::config::Rule;
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
                let at = self.rng.below(self.nodes.len());
                self.connect(host, at);
            }
            for _ in 0..1 + self.rng.below(3) {
                let key = self.key();
                self.change(host, key);
            }
        }
        self.rest();
    }

    /// Everything works again, for long enough.
    fn rest(&mut self) {
        for at in 0..self.nodes.len() {
            if self.nodes[at].protocol.is_none() {
                self.start(at);
            }
            self.heal(at);
        }
        if !self.is_engine_up {
            self.engine_comes();
        }
        self.engine.records_max = usize::MAX;
        for host in 0..self.hosts.len() {
            if self.hosts[host].at.is_empty() {
                let at = self.rng.below(self.nodes.len());
                self.connect(host, at);
            }
        }
        self.run_for(seconds(400));
    }

    fn check(&self, what: &str) {
        let faults = self.faults();
        assert!(faults.is_empty(), "{what}: {faults:#?}");
    }

    /// Something happens, to anybody.
    fn disturb(&mut self) {
        let (host, at) = (self.rng.below(self.hosts.len()), self.rng.below(self.nodes.len()));
        match self.rng.below(30) {
            0..10 => {
                let key = self.key();
                self.change(host, key);
            }
            10..14 => self.connect(host, at),
            14..16 => self.disconnect(host, at),
            16 => self.crash(at),
            17..20 if self.nodes[at].protocol.is_none() => self.start(at),
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
#[derive(Clone, Copy, Debug)]
enum Quiet {
    Restart,
    CrashAndMove,
    Wipe,
    Partition,
    EngineDown,
    LateRestart,
    FreshReflector,
    Stall,
}

const QUIET: [Quiet; 8] = [
    Quiet::Restart,
    Quiet::CrashAndMove,
    Quiet::Wipe,
    Quiet::Partition,
    Quiet::EngineDown,
    Quiet::LateRestart,
    Quiet::FreshReflector,
    Quiet::Stall,
];

fn quiet(seed: u64, what: Quiet, without: Option<Rule>) {
    let mut world = World::new(seed, without);
    world.settle();
    world.check(&format!("seed {seed}, {what:?}: at first"));
    let at = world.rng.below(world.nodes.len());
    let mut others: Vec<usize> = (0..world.nodes.len()).collect();
    if !matches!(what, Quiet::Wipe | Quiet::Partition | Quiet::EngineDown | Quiet::Stall) {
        others.retain(|other| *other != at);
    }
    let before = world.messages(&others);
    let its: Vec<usize> =
        (0..world.hosts.len()).filter(|it| world.hosts[*it].at.contains(&at)).collect();
    match what {
        Quiet::Restart => {
            world.crash(at);
            let wait = world.rng.below(90);
            world.run_for(seconds(wait));
            world.start(at);
            for host in its {
                let wait = world.rng.below(20);
                world.run_for(seconds(wait));
                world.connect(host, at);
            }
        }
        Quiet::CrashAndMove => {
            world.crash(at);
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
        Quiet::LateRestart => {
            world.crash(at);
            for host in its {
                let to = others[world.rng.below(others.len())];
                world.connect(host, to);
            }
            let wait = 130 + world.rng.below(3_000);
            world.run_for(seconds(wait));
            world.start(at);
        }
        Quiet::FreshReflector => {
            world.crash(at);
            for host in its {
                let to = others[world.rng.below(others.len())];
                world.connect(host, to);
            }
            world.run_for(seconds(4_000));
            world.start(at);
        }
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

/// Prints the seeds that fail without each rule. Slow: `cargo test --lib rules_are_needed -- --ignored --nocapture`.
#[test]
#[ignore = "prints a table, in minutes"]
fn rules_are_needed() {
    let mut table: BTreeMap<Rule, String> = BTreeMap::new();
    std::panic::set_hook(Box::new(|_| {}));
    for rule in Rule::ALL {
        let fails = |run: &dyn Fn()| catch_unwind(AssertUnwindSafe(run)).is_err();
        let of_faults = (0..200).filter(|seed| fails(&|| faults(*seed, Some(rule)))).count();
        let mut line = format!("faults {of_faults}/200");
        for what in QUIET {
            let count = (0..20).filter(|seed| fails(&|| quiet(*seed, what, Some(rule)))).count();
            if count > 0 {
                line += &format!(", {what:?} {count}/20");
            }
        }
        table.insert(rule, line);
    }
    let _ = std::panic::take_hook();
    for (rule, line) in &table {
        println!("{rule:?}: {line}");
    }
}
