//! Reflectors of one fabric, and hypervisors that are connected to them.
//!
//! Owns the processes and the connections, and what every view must be. Must never decide what fails.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::common::http::{ask, json, wait_until};
use crate::common::nats::NatsServer;
use crate::common::process::Process;
use crate::common::{PATIENCE, Peer, add, hello, remove, route, subscribe};

/// The fabric's name.
pub const FABRIC: &str = "test";

/// All hypervisors are in both.
pub const VNIS: [u32; 2] = [7, 70_000];

/// Timers as short as they may be, but the hold time. Peers say nothing for as long as a test takes.
const QUICK: [&str; 6] = [
    "--fabric-heartbeat=1",
    "--fabric-lease=3",
    "--fabric-stale-time=4",
    "--fabric-restart-time=4",
    "--keepalive=60",
    "--cores=1",
];

/// One reflector. It is there again at the same address after its end.
pub struct Reflector {
    pub name: String,
    pub address: SocketAddr,
    flags: Vec<String>,
    process: Option<Process>,
}

impl Reflector {
    /// Starts one with short timers, or as these flags say, and waits until it listens.
    pub fn start(name: &str, url: &str, flags: &[&str]) -> Reflector {
        let name_of = |flag: &str| flag.split('=').next().unwrap().to_owned();
        let is_other = |quick: &&&str| flags.iter().all(|flag| name_of(flag) != name_of(quick));
        let quick = QUICK.iter().filter(is_other);
        let own = [
            format!("--fabric={url}"),
            format!("--fabric-name={name}"),
            "--http=127.0.0.1:0".to_owned(),
        ];
        let flags =
            own.into_iter().chain(quick.chain(flags).map(|flag| (*flag).to_owned())).collect();
        let address = (Ipv4Addr::LOCALHOST, 0).into();
        let mut reflector = Reflector { name: name.to_owned(), address, flags, process: None };
        reflector.run();
        reflector
    }

    /// Starts it, again if it was there.
    pub fn run(&mut self) {
        assert!(self.process.is_none());
        let flags: Vec<&str> = self.flags.iter().map(String::as_str).collect();
        let process = Process::serve_at(&self.address.to_string(), &flags);
        self.address = process.address();
        self.process = Some(process);
    }

    /// Another process takes over from it, with so many shards.
    pub fn upgrade(&mut self, cores: u16) {
        self.flags.retain(|flag| !flag.starts_with("--cores="));
        self.flags.push(format!("--cores={cores}"));
        let mut old = self.process.take().unwrap();
        self.run();
        assert!(old.exit_status().success(), "{}", old.log());
    }

    /// Another process is to take over with this flag besides, or without it if it has no value, and cannot, for this
    /// reason.
    #[track_caller]
    pub fn refuses(&self, flag: &str, why: &str) {
        let name = flag.split('=').next().unwrap();
        let others = self.flags.iter().filter(|it| !it.starts_with(&format!("{name}=")));
        let listen = format!("--listen={}", self.address);
        let own = ["server", &listen].into_iter().chain(flag.contains('=').then_some(flag));
        let flags: Vec<&str> = own.chain(others.map(String::as_str)).collect();
        let mut process = Process::begin(&[], &flags);
        assert!(!process.exit_status().success());
        process.wait_for(why);
    }

    /// Ends it at once, as kill -9 does.
    pub fn kill(&mut self) {
        self.process = None;
    }

    /// Ends it as an operator does, and waits for its end.
    pub fn stop(&mut self) {
        let mut process = self.process.take().unwrap();
        process.signal("TERM");
        assert!(process.exit_status().success(), "{}", process.log());
    }

    pub fn process(&mut self) -> &mut Process {
        self.process.as_mut().unwrap()
    }

    pub fn http(&self) -> SocketAddr {
        self.process.as_ref().unwrap().http_address()
    }

    /// `/fabric.json`.
    pub fn status(&self) -> Value {
        json(self.http(), "/fabric.json")
    }

    /// Waits until its state is one of these.
    #[track_caller]
    pub fn is(&self, states: &[&str]) {
        self.becomes(states, PATIENCE);
    }

    /// Waits until it has found its engine again, which was away: the pause before it tries may be half a minute.
    #[track_caller]
    pub fn comes_back(&self) {
        self.becomes(&["reading", "syncing", "synced"], 3 * PATIENCE);
    }

    #[track_caller]
    fn becomes(&self, states: &[&str], patience: Duration) {
        let deadline = Instant::now() + patience;
        while !states.contains(&self.status()["state"].as_str().unwrap()) {
            let said = || format!("{} {}", self.status(), self.process.as_ref().unwrap().log());
            assert!(Instant::now() < deadline, "{} is not {states:?}: {}", self.name, said());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// A figure of its metrics; 0 if nobody shows it.
    pub fn metric(&self, series: &str) -> f64 {
        let (_, text) = ask(self.http(), "GET", "/metrics");
        let line = text.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
        line.map_or(0.0, |value| value.trim().parse().unwrap())
    }
}

impl Drop for Reflector {
    /// Of a test that failed, what it said: the reason is often there.
    fn drop(&mut self) {
        if let Some(process) = self.process.as_mut().filter(|_| std::thread::panicking()) {
            let state = if process.is_running() { "runs" } else { "has ended" };
            eprintln!("{} {state}: {}", self.name, process.log());
        }
    }
}

/// A hypervisor: an address, some connections from it, and the routes that it announces to all of them.
pub struct Host {
    pub address: Ipv4Addr,
    pub peers: Vec<(usize, Peer)>,
    pub routes: BTreeSet<Vec<u8>>,
    /// All that it ever announced: nothing of it may come back.
    said: BTreeSet<Vec<u8>>,
}

impl Host {
    fn tell(&mut self, frames: &[u8]) {
        for (_, peer) in &mut self.peers {
            peer.send(frames);
        }
    }

    /// Announces route `number` in all VNIs.
    pub fn announce(&mut self, number: u32) {
        for route in routes(self.address, number) {
            self.tell(&add(&route));
            self.said.insert(route.clone());
            self.routes.insert(route);
        }
    }

    pub fn withdraw(&mut self, number: u32) {
        for route in routes(self.address, number) {
            self.tell(&remove(&route));
            self.routes.remove(&route);
        }
    }

    /// UPDATEs that came so far, by connection.
    pub fn updates(&self) -> Vec<usize> {
        self.peers.iter().map(|(_, peer)| peer.updates).collect()
    }
}

/// The next hop is the host's.
fn routes(address: Ipv4Addr, number: u32) -> [Vec<u8>; 2] {
    VNIS.map(|vni| route(vni, number, address.to_bits()))
}

/// An engine, reflectors and hosts.
pub struct World {
    pub engine: NatsServer,
    pub reflectors: Vec<Reflector>,
    pub hosts: Vec<Host>,
    /// Whether hosts may be told of their own routes.
    pub echoes: bool,
}

impl World {
    /// So many reflectors at an engine of one server. None if there is no engine to be had.
    pub fn of(reflectors: usize, flags: &[&str]) -> Option<World> {
        let engine = NatsServer::start()?;
        let url = engine.fabric(FABRIC);
        Some(World::at(engine, &url, reflectors, flags))
    }

    /// The same at an engine that is there.
    pub fn at(engine: NatsServer, url: &str, reflectors: usize, flags: &[&str]) -> World {
        let start = |n| Reflector::start(&format!("R{n}"), url, flags);
        let reflectors: Vec<Reflector> = (0..reflectors).map(start).collect();
        reflectors.iter().for_each(|reflector| reflector.is(&["synced"]));
        World { engine, reflectors, hosts: Vec::new(), echoes: false }
    }

    /// A host that is connected to these reflectors and announces two routes. Returns its number.
    pub fn join(&mut self, at: &[usize]) -> usize {
        let number = self.hosts.len();
        self.join_from(Ipv4Addr::new(127, 2, 0, number as u8 + 1), at)
    }

    /// The same, from an address.
    pub fn join_from(&mut self, address: Ipv4Addr, at: &[usize]) -> usize {
        let number = self.hosts.len();
        let (routes, said) = (BTreeSet::new(), BTreeSet::new());
        self.hosts.push(Host { address, peers: Vec::new(), routes, said });
        at.iter().for_each(|&at| self.connect(number, at));
        for route in 0..2 {
            self.hosts[number].announce(number as u32 * 100 + route);
        }
        number
    }

    /// One more connection of a host: it subscribes, and announces all it has.
    pub fn connect(&mut self, host: usize, at: usize) {
        let host = &mut self.hosts[host];
        let mut peer = Peer::connect_from(IpAddr::V4(host.address), self.reflectors[at].address);
        peer.handshake(&hello(60, false, true));
        for vni in VNIS {
            peer.send(&subscribe(vni));
        }
        host.routes.iter().for_each(|route| peer.send(&add(route)));
        host.peers.push((at, peer));
    }

    /// Its connections to a reflector end.
    pub fn leave(&mut self, host: usize, at: usize) {
        self.hosts[host].peers.retain(|(there, _)| *there != at);
    }

    /// All that others announce.
    fn expected(&self, host: usize) -> BTreeSet<Vec<u8>> {
        let others = self.hosts.iter().enumerate();
        let others = others.filter(|(other, it)| *other != host && !it.peers.is_empty());
        others.flat_map(|(_, it)| it.routes.iter().cloned()).collect()
    }

    /// Waits until every view is what it has to be. Nothing may have come twice, and nobody's own.
    #[track_caller]
    pub fn settle(&mut self) {
        let expected: Vec<_> = (0..self.hosts.len()).map(|host| self.expected(host)).collect();
        self.settle_at(&expected);
    }

    /// The same with other views than those.
    #[track_caller]
    pub fn settle_at(&mut self, expected: &[BTreeSet<Vec<u8>>]) {
        let deadline = Instant::now() + PATIENCE;
        let mut quiet = 0;
        // More than once: what should not come may come late.
        while quiet < 4 {
            let mut wrong = Vec::new();
            for (number, (host, expected)) in self.hosts.iter_mut().zip(expected).enumerate() {
                for (at, peer) in &mut host.peers {
                    let came = peer.read_some(Duration::from_millis(5));
                    assert!(!peer.closed, "host {number}: R{at} closed its connection");
                    let view: BTreeSet<_> = peer.view.difference(&host.said).cloned().collect();
                    if came || view != *expected {
                        let (missing, stale) =
                            (expected.difference(&view).count(), view.difference(expected).count());
                        wrong.push(format!(
                            "host {number} at R{at}: {missing} missing, {stale} stale"
                        ));
                    }
                }
            }
            quiet = if wrong.is_empty() { quiet + 1 } else { 0 };
            assert!(Instant::now() < deadline, "{}\n{}", wrong.join("\n"), self.said());
        }
        self.nothing_superfluous();
    }

    /// Nobody was told what he knew, or what he said himself.
    #[track_caller]
    fn nothing_superfluous(&mut self) {
        for (number, host) in self.hosts.iter_mut().enumerate() {
            for (at, peer) in &mut host.peers {
                assert_eq!(peer.redundant, 0, "host {number} at R{at} was told something twice");
                let is_own = |route: &[u8]| host.said.contains(route);
                let own = peer.frames.iter().filter_map(|frame| frame.update());
                let own: Vec<_> = own.filter(|(_, route)| is_own(route)).collect();
                assert!(self.echoes || own.is_empty(), "host {number} at R{at} got back {own:?}");
                peer.frames.clear();
            }
        }
    }

    /// UPDATEs that came so far, by host and connection.
    pub fn updates(&self) -> Vec<Vec<usize>> {
        self.hosts.iter().map(Host::updates).collect()
    }

    /// `metalbond-uring diff` of all reflectors finds nothing.
    #[track_caller]
    pub fn agree(&self) {
        let mut command = Command::new(env!("CARGO_BIN_EXE_metalbond-uring"));
        command.arg("diff").args(self.reflectors.iter().map(|it| it.http().to_string()));
        let output = command.args(["--for", "10s"]).stdin(Stdio::null()).output().unwrap();
        let said = [output.stdout, output.stderr].concat();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&said));
    }

    /// What all reflectors say, for whoever has to find out.
    fn said(&self) -> String {
        let live = self.reflectors.iter().filter(|it| it.process.is_some());
        let said = live.map(|it| {
            let log = it.process.as_ref().unwrap().log();
            format!("{}: {}\n{log}\n", it.name, it.status())
        });
        said.collect()
    }

    /// Waits until a reflector counts another one's routes.
    #[track_caller]
    pub fn knows(&self, at: usize, of: &str, records: u64) {
        wait_until(&format!("{records} records of {of}"), || {
            let status = self.reflectors[at].status();
            let others = status["reflectors"].as_array().unwrap();
            let other = others.iter().find(|it| it["name"] == of)?;
            (other["records"] == records).then_some(())
        });
    }
}
