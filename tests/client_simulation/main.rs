//! The node as a client in virtual time, against a model of what its route client must hold.
//!
//! One seed decides everything: which servers there are, when they come, stall, restart and fall silent,
//! and what the node wants. `METALBOND_SIM_SEEDS=N` runs more seeds, `METALBOND_SIM_SEED=S` one of them.

mod checks;
mod link;
mod memory;
#[path = "../simulation/rng.rs"]
mod rng;
mod server;
mod traffic;
mod world;

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

use world::World;

const SEEDS: u64 = 300;

fn run(seed: u64) -> String {
    let result = catch_unwind(AssertUnwindSafe(|| {
        let mut world = World::new(seed);
        world.run();
        world.tally()
    }));
    result.unwrap_or_else(|panic| {
        eprintln!("METALBOND_SIM_SEED={seed} cargo test --test client_simulation shows it again");
        resume_unwind(panic)
    })
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

#[test]
fn what_the_route_client_holds_is_what_servers_said() {
    if let Some(seed) = number("METALBOND_SIM_SEED") {
        println!("{}", run(seed));
        return;
    }
    let seeds = number("METALBOND_SIM_SEEDS").unwrap_or(SEEDS);
    let threads = std::thread::available_parallelism().map_or(2, |n| n.get() as u64);
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
fn the_same_seed_gives_the_same_course() {
    let courses: Vec<String> = (0..4).map(run).collect();
    assert_eq!(courses, (0..4).map(run).collect::<Vec<_>>());
}
