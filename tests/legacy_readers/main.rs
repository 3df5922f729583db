//! Emulated Go clients against the real program: reads of 65,535 bytes, no reassembly, a cost for each route, stalls,
//! over loopback, veth, a router and bad paths.
//!
//! Owns which cases are run, and what is claimed of each: no read ended inside a frame, never waited more than a
//! client can read, no session was lost, and each view was right in the end. Must never assert a speed.
//!
//! One seed decides a case. `METALBOND_LEGACY_RUNS=1000 cargo test --release --test legacy_readers` runs so many large
//! ones, and says what they came to in tables; `METALBOND_LEGACY_SEED=S` runs one (large beside
//! `METALBOND_LEGACY_RUNS`, else small). `METALBOND_LEGACY_SERVER=PROGRAM` tries another build of the server.
#![allow(clippy::unwrap_used, clippy::disallowed_methods)]

mod case;
#[path = "../common/checksum.rs"]
mod checksum;
#[path = "../common/mod.rs"]
mod common;
mod net;
#[allow(dead_code)]
#[path = "../common/netns.rs"]
mod netns;
mod path;
#[allow(dead_code)]
#[path = "../../loadgen/pipeline.rs"]
mod pipeline;
mod reader;
mod report;
#[path = "../simulation/rng.rs"]
mod rng;
mod sys;
mod table;
mod world;

use std::io::Write;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use case::{Case, Extent};
use report::Report;
use world::Outcome;

/// Cases of each `cargo test`.
const SAMPLE: u64 = 60;
/// A sample's run that takes so long is worth a line.
const SLOW: Duration = Duration::from_secs(10);
/// Most of their time they wait: so many at a time.
const AT_A_TIME: usize = 6;

#[test]
fn no_go_client_breaks() {
    let runs = number("METALBOND_LEGACY_RUNS");
    let extent = if runs.is_some() { Extent::Large } else { Extent::Sample };
    let seeds: Vec<u64> = match number("METALBOND_LEGACY_SEED") {
        Some(seed) => vec![seed],
        None => (0..runs.unwrap_or(SAMPLE)).collect(),
    };
    // A thousand readers have a descriptor each, and the server as many.
    metalbond_uring::internals::io::raise_descriptor_limit().unwrap();
    let report = Mutex::new(Report::default());
    let run = |case: &Case| {
        let outcome = on_a_thread(case);
        let slow = outcome.as_ref().is_ok_and(|outcome| outcome.wall > SLOW);
        let line = report.lock().unwrap().add(case, outcome);
        if runs.is_some() || seeds.len() == 1 || slow || line.ends_with("BROKE") {
            say(&line);
        }
    };
    let cases = seeds.iter().map(|&seed| Case::new(seed, extent));
    let (alone, mut together): (Vec<_>, Vec<_>) = cases.partition(Case::alone);
    // The longest ones first, so that they end together.
    together.sort_by_key(|case| std::cmp::Reverse(case.expected()));
    let next = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..AT_A_TIME {
            let worker = || {
                while let Some(case) = together.get(next.fetch_add(1, Ordering::Relaxed)) {
                    run(case);
                }
            };
            std::thread::Builder::new().spawn_scoped(scope, worker).unwrap();
        }
    });
    alone.iter().for_each(run);
    let report = report.into_inner().unwrap();
    if runs.is_some() && seeds.len() > 1 {
        say(&report.tables());
    }
    say(&report.summary());
    let broken = report.broken();
    assert!(
        broken.is_empty(),
        "{} of {} runs broke (METALBOND_LEGACY_SEED=S runs one): {broken:?}",
        broken.len(),
        seeds.len()
    );
}

/// A run takes its thread with it into other namespaces; a panic of it is a failed run.
fn on_a_thread(case: &Case) -> Result<Outcome, String> {
    std::thread::scope(|scope| {
        let run = || catch_unwind(AssertUnwindSafe(|| world::run(case)));
        let thread = std::thread::Builder::new().name(format!("case-{}", case.seed));
        thread.spawn_scoped(scope, run).unwrap().join().unwrap()
    })
    .unwrap_or_else(|panic| {
        let words = panic.downcast_ref::<String>().cloned();
        let words = words.or_else(|| panic.downcast_ref::<&str>().map(|&words| words.to_owned()));
        let unfinished = Some(format!("panicked: {}", words.unwrap_or_default()));
        Ok(Outcome { unfinished, ..Outcome::default() })
    })
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().expect("a number"))
}

/// Not println!, which is captured when a test passes.
fn say(line: &str) {
    let _ = writeln!(std::io::stderr(), "{line}");
}
