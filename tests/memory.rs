//! Short of memory: what the program refuses, and that it lives.
//!
//! Owns what is claimed of `--memory-max`. Must never assert a time.
#![allow(clippy::unwrap_used, clippy::disallowed_methods)]

#[path = "common/asking.rs"]
mod asking;
#[path = "common/cgroup.rs"]
mod cgroup;
mod common;

use std::io::Write;
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};

use cgroup::Cgroup;
use common::http::{ask, json, wait_until};
use common::openmetrics::Metrics;
use common::process::Process;
use common::{Peer, add, hello, keepalive, remove, route, subscribe};

const LIMIT_MIB: u64 = 256;

fn metrics(process: &Process) -> Metrics {
    Metrics::read(&ask(process.http_address(), "GET", "/metrics").1)
}

fn pressure(process: &Process) -> u8 {
    metrics(process).value("metalbond_memory_pressure") as u8
}

/// Two peers that have nothing to do with the flood, and the routes that one of them still announces.
struct Bystanders {
    announcer: Peer,
    listener: Peer,
    routes: u32,
}

impl Bystanders {
    fn new(address: SocketAddr) -> Bystanders {
        let mut announcer = Peer::established(address, 60, true);
        let mut listener = Peer::established(address, 60, true);
        listener.send(&subscribe(1));
        listener.barrier();
        let routes = 100;
        for number in 0..routes {
            announcer.send(&add(&route(1, number, 1)));
        }
        listener.read_until("all routes", |peer| peer.view.len() == routes as usize);
        Bystanders { announcer, listener, routes }
    }

    /// A withdrawal, and a route that is announced again: none of them takes memory.
    fn are_served(&mut self) {
        self.routes -= 1;
        self.announcer.send(&add(&route(1, 0, 1)));
        self.announcer.send(&remove(&route(1, self.routes, 1)));
        let routes = self.routes as usize;
        self.listener.read_until("a withdrawal", |peer| peer.view.len() == routes);
        self.announcer.barrier();
    }
}

/// Runs `flood` on several threads until pressure is that high, or nothing more comes of it.
fn flood_until(process: &Process, level: u8, flood: impl Fn(u32, &AtomicBool) + Sync) {
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..4)
            .map(|at| {
                let (flood, stop) = (&flood, &stop);
                scope.spawn(move || flood(at, stop))
            })
            .collect();
        while pressure(process) < level && !threads.iter().all(|thread| thread.is_finished()) {
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
        stop.store(true, Ordering::Relaxed);
    });
}

/// Writes until the other side takes no more, or told to stop.
fn announce(writer: &mut TcpStream, from: u32, stop: &AtomicBool) {
    for number in 0..2_000 {
        let routes = (0..500).map(|at| add(&route(100 + from, number * 500 + at, at)));
        let sent = writer.write_all(&routes.collect::<Vec<_>>().concat());
        if sent.is_err() || stop.load(Ordering::Relaxed) {
            return;
        }
    }
}

#[test]
fn a_flood_in_a_control_group_is_refused_and_bystanders_are_served() {
    let test = "a_flood_in_a_control_group";
    let Some(group) = Cgroup::new("flood", LIMIT_MIB << 20, test) else { return };
    // Bystanders say nothing while a flood goes on.
    let [rarely, many] = [["--keepalive", "3600"], ["--routes-per-peer-max", "10000000"]];
    let flags = [["--http", "[::1]:0"], ["--cores", "2"], rarely, many].concat();
    let process = Process::serve_in_group(&group.procs(), &flags);
    process.wait_for("memory: up to 204 MiB, 80 % of the 256 MiB that ");
    let address = process.address();
    let mut bystanders = Bystanders::new(address);
    // Those who never read, of what the flood is about; kept until the end, as are all others.
    let stalled = (0..40).map(|at| {
        let mut peer = Peer::connect_with_window(address, 4096);
        peer.handshake(&hello(60, false, at % 2 == 0));
        peer.send(&(0..4).map(|vni| subscribe(100 + vni)).collect::<Vec<_>>().concat());
        peer
    });
    let _stalled: Vec<Peer> = stalled.collect();
    let peers: Vec<Peer> = (0..4).map(|_| Peer::established(address, 60, true)).collect();
    flood_until(&process, 2, |at, stop| announce(&mut peers[at as usize].writer(), at, stop));
    bystanders.are_served();
    process.wait_for("memory is short: new routes are refused");
    // More of it is refused, not kept.
    flood_until(&process, 5, |at, _| {
        let mut writer = peers[at as usize].writer();
        let routes = (0..20_000).map(|number| add(&route(200 + at, number, 7)));
        let _ = writer.write_all(&routes.collect::<Vec<_>>().concat());
    });
    bystanders.are_served();
    let refused = metrics(&process)
        .samples
        .iter()
        .any(|(series, value)| series.contains("reason=\"routes_memory\"") && *value > 0.0);
    assert!(refused, "{:#?}", metrics(&process).samples);
    // Subscriptions, each of a VNI that nobody has yet.
    let subscribers: Vec<Peer> = (0..80).map(|_| Peer::established(address, 60, true)).collect();
    flood_until(&process, 3, |at, stop| {
        for (number, peer) in subscribers.iter().enumerate().filter(|(n, _)| n % 4 == at as usize) {
            let vnis = (0..8_000).map(|vni| subscribe(10_000 + number as u32 * 8_000 + vni));
            if peer.writer().write_all(&vnis.collect::<Vec<_>>().concat()).is_err()
                || stop.load(Ordering::Relaxed)
            {
                return;
            }
        }
    });
    bystanders.are_served();
    // Connections that say nothing, or half of something.
    let idle = std::sync::Mutex::new(Vec::new());
    flood_until(&process, 4, |at, stop| {
        for number in 0..3_000_u32 {
            let Ok(mut stream) = TcpStream::connect(address) else { return };
            let _ = stream.write_all(&hello(60, false, true)[..(number % 3) as usize * 3]);
            if number % 2 == at % 2 {
                let _ = stream.write_all(&[hello(60, false, true), keepalive()].concat());
            }
            idle.lock().unwrap().push(stream);
            if stop.load(Ordering::Relaxed) {
                return;
            }
        }
    });
    bystanders.are_served();
    let summary = json(process.http_address(), "/summary.json");
    assert_eq!(group.oom_kills(), 0, "{summary}");
    let peak = group.peak_mib();
    let said = process.log();
    let lines: Vec<&str> = said.lines().filter(|it| it.contains("memory")).collect();
    eprintln!("peak {peak} MiB of {LIMIT_MIB}; {}\n{}", summary["memory"], lines.join("\n"));
    assert!(peak <= LIMIT_MIB);
    // What is gone is given back, and everybody may come in again.
    drop((idle, subscribers, peers));
    wait_until("memory", || (pressure(&process) < 2).then_some(()));
    let mut peer = Peer::established(address, 60, true);
    peer.send(&add(&route(1, 1_000_000, 1)));
    let routes = bystanders.routes as usize + 1;
    bystanders.listener.read_until("a new route", |peer| peer.view.len() == routes);
}

#[test]
fn the_door_is_closed_when_memory_is_used_up_and_says_so() {
    let process = Process::serve(&["--http", "[::1]:0", "--cores", "1", "--memory-max", "32"]);
    let used = |metrics: &Metrics| metrics.value("metalbond_memory_used_bytes");
    let before = metrics(&process);
    assert_eq!(before.value("metalbond_memory_budget_bytes"), f64::from(32 << 20));
    assert!(used(&before) > 0.0);
    let address = process.address();
    let mut bystander = Peer::established(address, 60, true);
    let peers: Vec<Peer> = (0..4).map(|_| Peer::established(address, 60, true)).collect();
    flood_until(&process, 2, |at, stop| announce(&mut peers[at as usize].writer(), at, stop));
    process.wait_for("memory is");
    // Connections with a session until there is no room.
    let mut connections = Vec::new();
    let refused = "refused: memory is short (--memory-max) remote=";
    while process.logged(refused) == 0 && connections.len() < 8_000 {
        for _ in 0..100 {
            let mut stream = TcpStream::connect(address).unwrap();
            let _ = stream.write_all(&[hello(60, false, true), keepalive()].concat());
            connections.push(stream);
        }
    }
    process.wait_for(refused);
    bystander.barrier();
    let summary = json(process.http_address(), "/summary.json");
    assert_eq!(summary["memory"]["budget_bytes"], 32 << 20, "{summary}");
    let http = process.http_address().to_string();
    let shown = asking::run(&["show", "summary", "--http", &http]).out;
    assert!(shown.contains("memory used bytes") && shown.contains("memory pressure"), "{shown}");
}
