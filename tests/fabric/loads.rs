//! `loadgen` over a fabric: what it finds right, and that it finds what is not.
//!
//! Owns the runs. Must never judge a view: loadgen does.

use std::io::{BufRead, BufReader, Read};
use std::process::{Command, Stdio};

use crate::common::http::wait_until;
use crate::fleet::World;
use crate::load::{self, Run};

/// Every view across three reflectors, dual-homed peers among them; and it can fail, as `loadgen_targets` shows.
#[test]
fn loadgen_finds_every_view_right() {
    let Some(world) = World::of(3, &[]) else { return };
    let targets: Vec<String> = world.reflectors.iter().map(|it| it.address.to_string()).collect();
    let scenarios = [
        "mix --peers 60 --dual 20 --duration-s 2 --rate 200",
        "mesh --peers 60 --vnis 12 --dual 60",
        "join --announcers 6 --routes 500 --joiners 12 --dual 6",
        "churn --announcers 6 --subscribers 12 --routes 50 --rounds 3 --dual 9",
        "latency --announcers 5 --subscribers 10 --rate 500 --duration-s 2",
    ];
    for (number, scenario) in scenarios.iter().enumerate() {
        // Each for itself: what peers of the one before have left may still be on its way.
        let base = 1_000_000 * (number + 1);
        let targets = targets.join(",");
        let run = load::run(&format!(
            "--scenario {scenario} --vni-base {base} --targets {targets} --json"
        ));
        run.found_no_fault();
    }
}

/// A restart amid updates: nobody at the other reflectors is told anything of it.
#[test]
fn loadgen_shows_that_a_restart_is_not_noticed() {
    let Some(mut world) = World::of(3, &["--fabric-restart-time=15"]) else { return };
    for (number, kills) in [false, true].into_iter().enumerate() {
        let arguments = format!("--peers 60 --dual 15 --duration-s 4 --vni-base {number}00");
        let run = amid_load(&mut world, &arguments, |world| {
            match kills {
                true => world.reflectors[2].kill(),
                false => world.reflectors[2].stop(),
            }
            world.reflectors[2].run();
        });
        run.found_no_fault();
        let stage = run.stage("restart");
        // 15 of the 60 have two connections: to each of the three are 25.
        assert_eq!(stage["returned"], 25, "{}", run.all());
        assert!(stage["away_s"].as_f64().unwrap() > 0.0, "{}", run.all());
        world.reflectors[2].is(&["synced"]);
    }
}

/// A reflector that is away for too long is missed, and loadgen says so. Nobody is told of one that is not restarted.
#[test]
fn loadgen_finds_a_restart_that_is_noticed() {
    let Some(mut world) = World::of(3, &[]) else { return };
    let run = amid_load(&mut world, "--peers 30 --duration-s 1", |world| {
        world.reflectors[2].kill();
        wait_until("R2 to be lost", || {
            let status = world.reflectors[0].status();
            let others = status["reflectors"].as_array().unwrap();
            others.iter().all(|it| it["name"] != "R2" || it["records"] == 0).then_some(())
        });
        world.reflectors[2].run();
    });
    run.failed_with(" updates that told others of the restart");
    run.failed_with(" was told of the restart: a REMOVE of ");
    let run = amid_load(&mut world, "--peers 30 --duration-s 1 --vni-base 100", |_| ());
    run.failed_with("was not restarted: none of its 10 connections ended");
}

/// A run of the scenario `restart`, and what is done as soon as it asks for it.
fn amid_load(world: &mut World, arguments: &str, restart: impl FnOnce(&mut World)) -> Run {
    let targets: Vec<String> = world.reflectors.iter().map(|it| it.address.to_string()).collect();
    let mut command = Command::new(load::BINARY);
    command.args(["--scenario", "restart", "--json", "--targets", &targets.join(",")]);
    command.args(arguments.split_whitespace());
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut stderr = BufReader::new(child.stderr.take().unwrap());
    let mut said = String::new();
    let asks = format!("restart the server at {} now", targets[targets.len() - 1]);
    while !said.contains(&asks) {
        assert!(stderr.read_line(&mut said).unwrap() > 0, "{said}");
    }
    restart(world);
    stderr.read_to_string(&mut said).unwrap();
    let mut run = Run::of(child.wait_with_output().unwrap());
    run.stderr = said;
    run
}
