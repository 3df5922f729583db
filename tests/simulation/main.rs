//! The whole sans-IO core in virtual time, against a model that is too simple to be wrong.
//!
//! One seed decides everything: how bytes are chunked, when mail arrives, who stalls, who leaves.
//! `METALBOND_SIM_SEEDS=N` runs more seeds, `METALBOND_SIM_SEED=S` one of them.

mod checks;
mod client;
#[path = "../../benches/common/config.rs"]
mod config;
mod failed;
mod handover;
mod operator;
mod quiet;
mod returning;
mod rng;
mod routes;
mod seeds;
mod shared;
mod tight;
mod trust;
mod world;

use world::World;

const SEEDS: u64 = 200;

fn trace_of(seed: u64) -> u64 {
    let mut world = World::new(seed);
    world.run();
    world.trace()
}

#[test]
fn every_peer_sees_what_the_model_says() {
    seeds::run(SEEDS, |seed| {
        trace_of(seed);
    });
}

#[test]
fn the_same_seed_gives_the_same_trace() {
    let traces: Vec<u64> = (0..6).map(trace_of).collect();
    assert_eq!(traces, (0..6).map(trace_of).collect::<Vec<_>>());
    assert!(traces.windows(2).all(|pair| pair[0] != pair[1]), "seeds differ");
}
