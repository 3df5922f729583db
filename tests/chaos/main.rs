//! Chaos on the real program: peers that connect, say anything, stall, and die, beyond all limits, while the
//! policy changes. At rest those who behave see exactly what they should, none of them was disconnected, and
//! memory and descriptors are back to where they were.
//!
//! Owns the model: what the well-behaved have announced, as far as the last policy permits it. Must never wait
//! without a limit, and never use chance that cannot be repeated by its seed (but for the machine's own).
//!
//! `METALBOND_CHAOS_S=120 cargo test --test chaos` goes on for longer, `METALBOND_CHAOS_SEED` repeats a seed.
#![allow(clippy::unwrap_used, clippy::disallowed_methods)]

#[path = "../common/mod.rs"]
mod common;
#[path = "../simulation/rng.rs"]
mod rng;
mod wild;

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use common::http::wait_until;
use common::openmetrics::Metrics;
use common::process::Process;
use common::{Peer, QUIET, add, hello, remove, route, subscribe};
use rng::Rng;
use serde_json::Value;
use wild::{Deeds, Wild};

/// How long it lasts unless `METALBOND_CHAOS_S` says so.
const CHAOS_S_DEFAULT: u64 = 20;
/// Chaos before memory is looked at for the first time: what is kept for the next time is there.
const WARM_UP_S: u64 = 5;

/// How long views may take to be right. Some peers do not reassemble: on a busy machine they are fed slowly.
const REST_MAX: Duration = Duration::from_secs(120);

/// What all who behave subscribe to; others come there too.
const VNIS: [u32; 4] = [1, 2, 3, 4];
/// Where nobody who behaves is: it may be filled up.
const WILD_VNIS: [u32; 3] = [7, 8, 9];
/// Who behaves, and is always permitted; who behaves, but depends on the policy; who does not behave.
const GOOD: u8 = 1;
const JUDGED: u8 = 3;
const WILD: u8 = 2;
const GOOD_PEERS: u8 = 6;
const JUDGED_PEERS: u8 = 3;
const WILD_THREADS: u64 = 8;

const ROUTES_PER_PEER_MAX: u32 = 120;
const VNIS_PER_PEER_MAX: u32 = 5;
const PEERS_MAX: u32 = 60;
/// In VNIs of those who behave there are never so many.
const ROUTES_PER_VNI_MAX: u32 = 400;
/// More than anybody sends who behaves, or floods only now and then.
const UPDATES_PER_S_MAX: u32 = 200;
/// `--stale-time`, and limits that nobody must come to who behaves.
const OTHER_FLAGS: [&str; 10] = [
    "--cores=2",
    "--keepalive=60",
    "--stale-time=2",
    "--peers-per-address-max=25",
    "--handshakes-max=50",
    "--queue-mib-max=8",
    "--queue-mib-per-peer-max=2",
    "--subscriptions-max=10000",
    "--routes-max=10000",
    "--memory-max=1024",
];

/// Memory that may stay behind, beside that of the start.
const GROWTH_BYTES_MAX: u64 = 6 << 20;

/// The policies, by turns; the last one is a mistake, and changes nothing.
const POLICIES: [&str; 4] = [
    "permit peer 127.1.0.0/16\npermit peer 127.2.0.0/16\npermit peer 127.3.0.0/16\n\
     permit peer 127.0.0.1\n",
    "permit peer 127.1.0.0/16\ndeny peer 127.3.0.0/16 vni 2\npermit peer 127.3.0.0/16\n\
     permit peer 127.2.0.0/16 destination 10.0.0.0/27\n",
    "permit peer 127.1.0.0/16\npermit peer 127.3.0.0/16 destination 10.0.16.0/24\n",
    "permit peer nobody\n",
];

/// The same as a rule of our own: a route of the judged by its VNI and number.
fn is_permitted(policy: usize, vni: u32, number: u32) -> bool {
    match policy {
        0 => true,
        1 => vni != 2,
        2 => number / 256 == 16,
        _ => unreachable!("a mistake is never in force"),
    }
}

#[test]
fn chaos_leaves_nothing_behind() {
    let variable = |name: &str| std::env::var(name).ok().map(|text| text.parse::<u64>().unwrap());
    let duration_s = variable("METALBOND_CHAOS_S").unwrap_or(CHAOS_S_DEFAULT);
    let seed = variable("METALBOND_CHAOS_SEED").unwrap_or_else(|| u64::from(std::process::id()));
    eprintln!("METALBOND_CHAOS_S={duration_s} METALBOND_CHAOS_SEED={seed}");
    let policy = Policy::new();
    let mut world = World::new(&policy);
    world.chaos(&policy, seed, WARM_UP_S.min(duration_s));
    world.rest();
    let before = world.held();
    world.chaos(&policy, seed + 1, duration_s);
    world.rest();
    world.is_back_at(&before);
    world.has_been_chaos();
}

/// The policy's file; gone with the test.
struct Policy {
    path: PathBuf,
}

impl Policy {
    fn new() -> Policy {
        let name = format!("metalbond-chaos-{}.policy", std::process::id());
        let policy = Policy { path: std::env::temp_dir().join(name) };
        policy.write(0);
        policy
    }

    fn write(&self, which: usize) {
        let beside = self.path.with_extension("new");
        std::fs::write(&beside, POLICIES[which]).unwrap();
        std::fs::rename(beside, &self.path).unwrap();
    }
}

impl Drop for Policy {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

/// What a process holds.
#[derive(Debug)]
struct Held {
    rss_bytes: u64,
    descriptors: usize,
}

/// Somebody who behaves, and what it announces at the moment.
struct Honest {
    peer: Peer,
    /// The first of its numbers.
    base: u32,
    announced: BTreeSet<(u32, u32)>,
    is_judged: bool,
}

struct World {
    server: Process,
    http: SocketAddr,
    honest: Vec<Honest>,
    /// The policy in force.
    in_force: usize,
    deeds: Arc<Deeds>,
    changes: u64,
}

impl World {
    fn new(policy: &Policy) -> World {
        let numbers = [
            format!("--routes-per-peer-max={ROUTES_PER_PEER_MAX}"),
            format!("--vnis-per-peer-max={VNIS_PER_PEER_MAX}"),
            format!("--peers-max={PEERS_MAX}"),
            format!("--routes-per-vni-max={ROUTES_PER_VNI_MAX}"),
            format!("--updates-per-s-max={UPDATES_PER_S_MAX}"),
        ];
        let mut flags: Vec<&str> = numbers.iter().map(String::as_str).collect();
        let path = policy.path.to_str().unwrap();
        flags.extend(OTHER_FLAGS);
        flags.extend(["--announce-policy", path, "--http", "[::1]:0"]);
        let server = Process::serve_at("127.0.0.1:0", &flags);
        let http = server.http_address();
        let address = server.address();
        let kinds = [(GOOD, GOOD_PEERS), (JUDGED, JUDGED_PEERS)];
        let honest =
            kinds.into_iter().flat_map(|(kind, peers)| (1..=peers).map(move |n| (kind, n)));
        let honest = honest.map(|(kind, number)| {
            let from = Ipv4Addr::new(127, kind, 0, number);
            let mut peer = Peer::connect_from(from.into(), address);
            peer.handshake(&hello(60, false, number % 2 == 0));
            peer.recording = false;
            peer.send(&VNIS.map(subscribe).concat());
            peer.barrier();
            let base = 4096 + 256 * u32::from(number) + if kind == GOOD { 16_384 } else { 0 };
            Honest { peer, base, announced: BTreeSet::new(), is_judged: kind == JUDGED }
        });
        let honest = honest.collect();
        World { server, http, honest, in_force: 0, deeds: Arc::default(), changes: 0 }
    }

    /// Chaos for some time; when this returns, all who do not behave are gone.
    fn chaos(&mut self, policy: &Policy, seed: u64, duration_s: u64) {
        let over = Arc::new(AtomicBool::new(false));
        let address = self.server.address();
        let threads: Vec<_> = (0..WILD_THREADS)
            .map(|number| {
                let (over, deeds) = (Arc::clone(&over), Arc::clone(&self.deeds));
                let rng = Rng::new(seed.wrapping_mul(1000) + number);
                let mut wild = Wild { rng, address, deeds, over };
                std::thread::Builder::new().spawn(move || wild.rage(number == 0)).unwrap()
            })
            .collect();
        let mut rng = Rng::new(seed.wrapping_mul(1000) + 999);
        // Each once for certain: chance may pass them by on a busy machine.
        for which in 0..POLICIES.len() {
            self.change_policy(policy, which);
            (0..30).for_each(|_| self.somebody_behaves(&mut rng));
        }
        let end = Instant::now() + Duration::from_secs(duration_s);
        while Instant::now() < end {
            if rng.below(200) == 0 {
                self.change_policy(policy, rng.below(POLICIES.len()));
            }
            self.somebody_behaves(&mut rng);
        }
        over.store(true, Ordering::Relaxed);
        for thread in threads {
            thread.join().unwrap();
        }
        // Neither a mistake nor that of the start: it would be in force if it were never changed.
        self.change_policy(policy, 1 + rng.below(POLICIES.len() - 2));
    }

    fn change_policy(&mut self, policy: &Policy, which: usize) {
        let told = self.server.logged("SIGHUP: the ");
        policy.write(which);
        self.server.signal("HUP");
        // One at a time: two signals at once would be one.
        wait_until("the answer to SIGHUP", || {
            (self.server.logged("SIGHUP: the ") > told).then_some(())
        });
        if which < POLICIES.len() - 1 {
            self.in_force = which;
        }
        self.changes += 1;
    }

    /// One of them announces or withdraws something, or reads.
    fn somebody_behaves(&mut self, rng: &mut Rng) {
        let at = rng.below(self.honest.len());
        let one = &mut self.honest[at];
        if rng.chance(50) {
            // Of two blocks, which a policy tells apart.
            let number = one.base + rng.below(12) as u32;
            let number = if one.is_judged && rng.chance(50) { 4096 + number % 256 } else { number };
            let known = (VNIS[rng.below(VNIS.len())], number);
            let payload = one.route(known);
            if one.announced.remove(&known) {
                one.peer.send(&remove(&payload));
            } else if one.announced.len() < ROUTES_PER_PEER_MAX as usize / 4 {
                one.announced.insert(known);
                one.peer.send(&add(&payload));
            }
        }
        one.peer.read_some(Duration::from_millis(1));
        assert!(!one.peer.closed, "honest peer {at} was disconnected\n{}", self.server.log());
    }

    /// All who behave see what they should: no more, no less, and nothing was told twice.
    fn rest(&mut self) {
        self.until_alone();
        let address = self.server.address();
        let mut newcomer = Peer::connect_from([127, GOOD, 1, 1].into(), address);
        newcomer.handshake(&hello(60, false, true));
        newcomer.send(&VNIS.map(subscribe).concat());
        self.until_told(&mut newcomer);
        let (in_force, log) = (self.in_force, || self.server.log());
        let mut tables: Vec<BTreeSet<Vec<u8>>> = Vec::new();
        for one in &self.honest {
            let judged = |&&(vni, number): &&(u32, u32)| {
                !one.is_judged || is_permitted(in_force, vni, number)
            };
            tables
                .push(one.announced.iter().filter(judged).map(|known| one.route(*known)).collect());
        }
        for (at, peer) in everybody(&mut self.honest, &mut newcomer).enumerate() {
            let others = tables.iter().enumerate().filter(|(of, _)| *of != at);
            let view: BTreeSet<Vec<u8>> = others.flat_map(|(_, table)| table.clone()).collect();
            let deadline = Instant::now() + REST_MAX;
            while peer.view != view && !peer.closed && Instant::now() < deadline {
                peer.read_some(Duration::from_millis(100));
            }
            let names = |routes: &mut dyn Iterator<Item = &Vec<u8>>| -> Vec<String> {
                routes.take(5).map(hex::encode).collect()
            };
            let is_right = |peer: &Peer, when: &str| {
                assert!(
                    peer.view == view && !peer.closed,
                    "peer {at} (closed: {}) under policy {in_force} {when} has not {:?}, but {:?}\n{}",
                    peer.closed,
                    names(&mut view.difference(&peer.view)),
                    names(&mut peer.view.difference(&view)),
                    log()
                );
            };
            is_right(peer, "in the end");
            peer.barrier();
            peer.settle(QUIET);
            is_right(peer, "after it was right");
            assert_eq!(peer.redundant, 0, "peer {at} was told twice\n{}", log());
        }
    }

    /// Waits until all others are gone, and what they announced.
    fn until_alone(&self) {
        let peers = self.honest.len() as u64;
        wait_until("the wild ones to be gone", || {
            let known = &common::http::json(self.http, "/summary.json");
            let count = |state: &str| known["peers"][state].as_u64().unwrap();
            let alone = count("established") + count("connecting") == peers;
            (alone && known["absent"]["sources"] == 0).then_some(())
        });
    }

    /// Waits until the server has told everything to everybody. Before that a view may be right by chance: whoever
    /// is fed slowly may have a route's ADD, REMOVE and ADD before it, and have read the first of them.
    fn until_told(&mut self, newcomer: &mut Peer) {
        everybody(&mut self.honest, newcomer).for_each(Peer::barrier);
        let deadline = Instant::now() + REST_MAX;
        loop {
            for peer in everybody(&mut self.honest, newcomer) {
                peer.read_some(Duration::from_millis(1));
            }
            let peers = common::http::json(self.http, "/peers.json");
            let is_told = |peer: &Value| peer["pending_bytes"] == 0 && peer["slow"] == false;
            if peers["peers"].as_array().unwrap().iter().all(is_told) {
                break;
            }
            assert!(Instant::now() < deadline, "not all is told\n{peers}\n{}", self.server.log());
        }
        everybody(&mut self.honest, newcomer).for_each(Peer::barrier);
    }

    fn held(&self) -> Held {
        let process = PathBuf::from(format!("/proc/{}", self.server.id()));
        self.until_alone();
        std::thread::sleep(QUIET);
        Held { rss_bytes: rss_bytes(&process), descriptors: descriptors(&process) }
    }

    fn is_back_at(&self, before: &Held) {
        let after = self.held();
        let process = PathBuf::from(format!("/proc/{}", self.server.id()));
        eprintln!(
            "{before:?} {after:?} {:?}, {} changes of policy",
            self.deeds.each(),
            self.changes
        );
        wait_until("descriptors to be closed", || {
            (descriptors(&process) <= before.descriptors).then_some(())
        });
        let grown = after.rss_bytes.saturating_sub(before.rss_bytes);
        assert!(grown < GROWTH_BYTES_MAX, "{before:?} {after:?}");
        let routes: u64 = self.honest.iter().map(|one| one.announced.len() as u64).sum();
        wait_until("the routes of the wild ones to be gone", || {
            let known = &common::http::json(self.http, "/summary.json")["routes"];
            (known.as_u64().unwrap() <= routes).then_some(())
        });
    }

    /// Whatever can be done has been done, and what was beyond a limit was counted.
    fn has_been_chaos(&self) {
        for (name, count) in self.deeds.each() {
            assert!(count > 0, "nobody has done this: {name}");
        }
        assert!(self.changes > 5, "{} changes of policy", self.changes);
        let (_, text) = common::http::ask(self.http, "GET", "/metrics");
        let metrics = Metrics::read(&text);
        for refused in [
            "connections_refused_total{reason=\"peers_max\"}",
            "connections_refused_total{reason=\"peers_per_address\"}",
            "dropped_messages_total{reason=\"routes_limit\"}",
            "dropped_messages_total{reason=\"routes_per_vni_limit\"}",
            "dropped_messages_total{reason=\"vnis_limit\"}",
            "dropped_messages_total{reason=\"policy_denies\"}",
            "dropped_messages_total{reason=\"policy_no_rule\"}",
        ] {
            assert!(metrics.value(&format!("metalbond_{refused}")) > 0.0, "{refused}: {text}");
        }
        for words in ["panicked", "ERROR"] {
            assert_eq!(self.server.logged(words), 0, "{}", self.server.log());
        }
    }
}

impl Honest {
    fn route(&self, (vni, number): (u32, u32)) -> Vec<u8> {
        route(vni, number, self.base)
    }
}

/// All who behave, and one that has come to see the same.
fn everybody<'a>(
    honest: &'a mut [Honest],
    newcomer: &'a mut Peer,
) -> impl Iterator<Item = &'a mut Peer> {
    honest.iter_mut().map(|one| &mut one.peer).chain([newcomer])
}

fn descriptors(process: &Path) -> usize {
    std::fs::read_dir(process.join("fd")).unwrap().count()
}

fn rss_bytes(process: &Path) -> u64 {
    let status = std::fs::read_to_string(process.join("status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().strip_suffix(" kB").unwrap().parse::<u64>().unwrap() * 1024
}
