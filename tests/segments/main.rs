//! The ends of segments: a peer in user space, on a tun device, sees each one that the server's kernel sends. All of
//! them, those that are sent again too, have to be whole frames, whatever window, loss or path there is.
//!
//! Owns how cases are run, and the verdict. Must never assert a speed.
//!
//! `METALBOND_SEGMENTS=WORDS` runs the cases whose names have these words in them, and says what was seen.
#![allow(clippy::unwrap_used, clippy::disallowed_methods)]

mod case;
#[path = "../common/checksum.rs"]
mod checksum;
#[path = "../common/mod.rs"]
mod common;
#[allow(dead_code)]
#[path = "../common/netns.rs"]
mod netns;
mod packet;
mod peer;
mod receiver;
#[allow(dead_code)]
#[path = "../legacy_readers/sys.rs"]
mod sys;
#[allow(dead_code)]
#[path = "../legacy_readers/table.rs"]
mod table;

use std::io::Write;
use std::net::SocketAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use case::{Case, Slices};
use common::Peer;
use common::process::Process;
use netns::ip;
use packet::Ends;
use peer::Holes;
use receiver::Seen;

/// Most of their time they wait: so many at a time.
const AT_A_TIME: usize = 8;
const PORT: u16 = 20_000;

#[test]
fn every_segment_is_whole_frames() {
    let words = std::env::var("METALBOND_SEGMENTS").ok();
    let mut cases = case::all();
    cases.retain(|case| words.as_ref().is_none_or(|words| case.name.contains(words)));
    assert!(!cases.is_empty(), "no case of that name");
    let (next, broken) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        for _ in 0..AT_A_TIME {
            let worker = || {
                while let Some(case) = cases.get(next.fetch_add(1, Ordering::Relaxed)) {
                    match on_a_thread(case) {
                        Ok(seen) if words.is_some() => say(&format!("{}: {seen:?}", case.name)),
                        Ok(_) => {}
                        Err(Ended::Skipped(why)) => say(&format!("SKIPPED: {}: {why}", case.name)),
                        Err(Ended::Broken(why)) => {
                            broken.lock().unwrap().push(format!("{}: {why}", case.name));
                        }
                    }
                }
            };
            std::thread::Builder::new().spawn_scoped(scope, worker).unwrap();
        }
    });
    let broken = broken.into_inner().unwrap();
    let count = broken.len();
    assert!(count == 0, "{count} of {} cases:\n{}", cases.len(), broken.join("\n"));
}

enum Ended {
    /// What cannot be had here.
    Skipped(String),
    Broken(String),
}

/// A case takes its thread with it into another namespace.
fn on_a_thread(case: &Case) -> Result<Seen, Ended> {
    std::thread::scope(|scope| {
        let run = || catch_unwind(AssertUnwindSafe(|| run(case)));
        let thread = std::thread::Builder::new().name(case.name.clone());
        thread.spawn_scoped(scope, run).unwrap().join().unwrap()
    })
    .unwrap_or_else(|panic| {
        let words = panic.downcast_ref::<String>().cloned();
        let words = words.or_else(|| panic.downcast_ref::<&str>().map(|&words| words.to_owned()));
        Err(Ended::Broken(format!("panicked: {}", words.unwrap_or_default())))
    })
}

fn run(case: &Case) -> Result<Seen, Ended> {
    let skipped = |what, error| Ended::Skipped(format!("{what}: {error}"));
    sys::new_network().map_err(|error| skipped("no network namespace", error))?;
    Command::new("ip").arg("-V").output().map_err(|error| skipped("no iproute2", error))?;
    ip("link set lo up");
    let device = sys::tun("end").map_err(|error| skipped("no tun device", error))?;
    ip("addr add fd00::1/64 dev end nodad");
    ip("addr add 10.9.0.1/24 dev end");
    ip("link set end up");
    if let Some(segments) = case.initcwnd {
        ip(&format!("-6 route replace fd00::/64 dev end metric 1 initcwnd {segments}"));
    }
    let pace = format!("--pace={}", case.pace);
    let mut arguments = vec!["--cores=1", "--keepalive=60", &pace];
    arguments.extend(case.arguments.iter().map(String::as_str));
    let server = Process::serve_at("[::]:0", &arguments);
    let port = server.address().port();
    let at = SocketAddr::new("::1".parse().unwrap(), port);
    let mut announcer = Peer::established(at, 60, true);
    let routes = (0..case.routes).flat_map(|number| common::add(&table::route(number)));
    announcer.send(&routes.collect::<Vec<u8>>());
    announcer.barrier();

    let (mut all, mut round) = (Seen::default(), 0);
    // On a busy machine a path may seem long, or lossy, for a while.
    while round < case.rounds || (case.slices == Slices::Used && !all.used_slices() && round < 5) {
        let (theirs, ours) = packet::addresses(case.v6, round);
        let ends = Ends { ours: (ours, PORT + round), theirs: (theirs, port) };
        let seen = peer::run(&device, ends, case.manners, case.routes);
        all.add(
            &seen.map_err(|why| Ended::Broken(format!("{why}; the server: {}", server.log())))?,
        );
        round += 1;
    }
    let why = verdict(case, round, &all);
    if why.is_empty() { Ok(all) } else { Err(Ended::Broken(format!("{why}; {all:?}"))) }
}

/// What is not as it should be, in words.
fn verdict(case: &Case, rounds: u16, seen: &Seen) -> String {
    // A hole that comes between the look at TCP and the SEND is not seen; those that stay are.
    let has_holes = case.manners.holes == Holes::Amid;
    let broken_max = if has_holes { usize::from(rounds) / 3 } else { 0 };
    if seen.broken > broken_max {
        format!("{} of {} segments were cut", seen.cut, seen.segments)
    } else if seen.overruns > 0 && case.pace != "off" {
        format!("{} reads were too much", seen.overruns)
    } else if seen.routes != case.routes * usize::from(rounds) {
        "not each route came once".to_owned()
    } else if case.slices == Slices::Used && !seen.used_slices() {
        "no slices were used, so the case shows nothing".to_owned()
    } else if case.manners.loses_updates && seen.alone <= seen.said {
        "nothing was asked when a window update was lost".to_owned()
    } else if case.slices == Slices::Unused && seen.pads > 0 {
        "slices were used".to_owned()
    } else {
        String::new()
    }
}

/// Not println!, which is captured when a test passes.
fn say(line: &str) {
    let _ = writeln!(std::io::stderr(), "{line}");
}
