//! The whole sans-IO core in virtual time, against a model that is too simple to be wrong.
//!
//! One seed decides everything: how bytes are chunked, when mail arrives, who stalls, who leaves.
//! `METALBOND_SIM_SEEDS=N` runs more seeds, `METALBOND_SIM_SEED=S` one of them.

mod client;
mod rng;
mod world;

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

use world::World;

const SEEDS: u64 = 200;

fn run(seed: u64) -> u64 {
    let result = catch_unwind(AssertUnwindSafe(|| {
        let mut world = World::new(seed);
        world.run();
        world.trace()
    }));
    result.unwrap_or_else(|panic| {
        eprintln!("simulation failed: METALBOND_SIM_SEED={seed} reproduces it");
        resume_unwind(panic)
    })
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().expect("a number"))
}

#[test]
fn every_peer_sees_what_the_model_says() {
    if let Some(seed) = number("METALBOND_SIM_SEED") {
        run(seed);
        return;
    }
    let seeds = number("METALBOND_SIM_SEEDS").unwrap_or(SEEDS);
    let threads = std::thread::available_parallelism().map_or(1, |n| n.get() as u64);
    std::thread::scope(|scope| {
        for thread in 0..threads {
            scope.spawn(move || {
                for seed in (thread..seeds).step_by(threads as usize) {
                    run(seed);
                }
            });
        }
    });
}

#[test]
fn the_same_seed_gives_the_same_trace() {
    let traces: Vec<u64> = (0..6).map(run).collect();
    assert_eq!(traces, (0..6).map(run).collect::<Vec<_>>());
    assert!(traces.windows(2).all(|pair| pair[0] != pair[1]), "seeds differ");
}
