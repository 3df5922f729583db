//! The node as a client in virtual time, against a model of what its route client must hold, and be told.
//!
//! One seed decides everything: which servers there are, when they come, stall, restart and fall silent,
//! and what the node wants. `METALBOND_SIM_SEEDS=N` runs more seeds, `METALBOND_SIM_SEED=S` one of them.

mod checks;
#[path = "../../benches/common/config.rs"]
mod config;
mod installing;
mod link;
mod memory;
#[path = "../simulation/rng.rs"]
mod rng;
#[path = "../simulation/seeds.rs"]
mod seeds;
mod server;
mod traffic;
mod world;

use world::World;

const SEEDS: u64 = 300;

fn course_of(seed: u64) -> String {
    let mut world = World::new(seed);
    world.run();
    world.tally()
}

#[test]
fn what_the_route_client_holds_is_what_servers_said() {
    seeds::run(SEEDS, |seed| println!("{}", course_of(seed)));
}

#[test]
fn the_same_seed_gives_the_same_course() {
    let courses: Vec<String> = (0..4).map(course_of).collect();
    assert_eq!(courses, (0..4).map(course_of).collect::<Vec<_>>());
}
