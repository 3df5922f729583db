//! A dump over a slow path: the session lives, since KEEPALIVEs do not wait behind all of it.
//!
//! The path is the loopback device of a namespace of the test's own, with a token bucket.
#![allow(clippy::unwrap_used, clippy::disallowed_methods)]

mod common;
#[allow(dead_code)]
#[path = "common/netns.rs"]
mod netns;

use std::io::Write;
use std::process::Command;
use std::time::{Duration, Instant};

use common::*;
use metalbond_uring::internals::io::{Server, ServerConfig};
use metalbond_uring::types::Pace;
use netns::{in_namespace, ip};

const VNI: u32 = 7;
/// 10 s of the path: the kernel alone would take more than what passes in a hold time.
const ROUTES: u32 = 7_000;
const KBIT_PER_S: u32 = 256;
const INTERVAL_S: u32 = 2;

#[test]
fn who_reassembles_hears_of_us_in_time() {
    in_namespace("who_reassembles_hears_of_us_in_time", || dump_over_a_slow_path(true));
}

#[test]
fn who_does_not_reassemble_hears_of_us_in_time() {
    in_namespace("who_does_not_reassemble_hears_of_us_in_time", || dump_over_a_slow_path(false));
}

fn dump_over_a_slow_path(reassembles: bool) {
    ip("link set lo mtu 1500 up");
    let config = ServerConfig { pace: Pace::Off, ..server_config(1, 60) };
    let server = Server::start(config).unwrap();
    let mut announcer = Peer::established(server.local_addr(), 60, true);
    let routes: Vec<u8> = (0..ROUTES).flat_map(|n| add(&route(VNI, n, n))).collect();
    announcer.send(&routes);
    announcer.barrier();
    if let Err(error) = slow_down() {
        let line = format!("SKIPPED: dump over a slow path: {error} (expected: tc, sch_tbf)\n");
        std::io::stderr().write_all(line.as_bytes()).unwrap();
        return;
    }

    // As peers in the field do: only a KEEPALIVE restarts the hold timer.
    let interval = Duration::from_secs(INTERVAL_S.into());
    let hold_time = interval * 5 / 2;
    let mut peer = Peer::established(server.local_addr(), INTERVAL_S, reassembles);
    peer.recording = false;
    peer.send(&subscribe(VNI));
    let (mut heard_at, mut answers) = (Instant::now(), 0);
    let mut ask_at = heard_at + interval;
    while peer.view.len() < ROUTES as usize {
        assert!(!peer.closed, "closed after {} routes", peer.view.len());
        peer.read_some(Duration::from_millis(50));
        if peer.keepalives > answers {
            (heard_at, answers) = (Instant::now(), peer.keepalives);
        }
        let waited = heard_at.elapsed();
        assert!(waited < hold_time, "hold time over after {} routes", peer.view.len());
        if Instant::now() >= ask_at {
            peer.send(&keepalive());
            ask_at += interval;
        }
    }
    assert!(answers > 0, "the path was not slow: the test shows nothing");
}

/// All that leaves by loopback, from now on.
fn slow_down() -> Result<(), String> {
    let rate = format!("{KBIT_PER_S}kbit");
    let arguments = [
        "qdisc", "add", "dev", "lo", "root", "tbf", "rate", &rate, "burst", "4kb", "limit", "64kb",
    ];
    let output = Command::new("tc").args(arguments).output().map_err(|error| error.to_string())?;
    if !output.status.success() {
        return Err(String::from_utf8_lossy(&output.stderr).into_owned());
    }
    Ok(())
}
