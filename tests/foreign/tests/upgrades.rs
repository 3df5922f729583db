//! Clients of another implementation, while one server takes over from the other under load.
//!
//! Owns that they notice nothing. Needs the two programs beside the test, as `cargo test` of the main package builds them.
#![allow(clippy::unwrap_used)]

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::JoinHandle;
use std::time::Duration;

use metalbond_uring_foreign::{Rustbond, route, underlay};
use rustbond::{NextHop, Route};

const CLIENTS: usize = 10;
const UPGRADES_MIN: usize = 3;
/// Between two of them.
const PAUSE: Duration = Duration::from_secs(2);
const VNI: u32 = 7;
const ROUTES: usize = 20;

/// A server that has said that it listens.
struct Serving {
    child: Child,
    address: SocketAddr,
    /// Takes all that it says.
    log: JoinHandle<Vec<String>>,
}

impl Serving {
    fn start(program: &Path, listen: &str, path: &Path, cores: usize) -> Serving {
        let mut command = Command::new(program);
        command.args(["server", "--listen", listen, "--keepalive", "5", "--handover"]).arg(path);
        command.args(["--cores", &cores.to_string(), "--updates-per-s-max", "4294967295"]);
        let mut child = command.stdin(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines().map_while(Result::ok);
        let mut said = Vec::new();
        let address = loop {
            let line = lines.next().unwrap_or_else(|| panic!("it ends: {said:#?}"));
            let address = line.split_once("listening on ").map(|(_, rest)| rest.to_owned());
            said.push(line);
            if let Some(address) = address {
                break address.split(' ').next().unwrap().parse().unwrap();
            }
        };
        let log = std::thread::spawn(move || said.into_iter().chain(lines).collect());
        Serving { child, address, log }
    }

    /// Another one takes over, and this one ends.
    fn upgrade(self, program: &Path, path: &Path, cores: usize) -> Serving {
        let new = Serving::start(program, &self.address.to_string(), path, cores);
        let Serving { mut child, log, .. } = self;
        assert!(child.wait().unwrap().success(), "{:#?}", log.join().unwrap());
        new
    }
}

/// Peers whose every update is verified; it fails if one of them is closed.
fn load(program: &Path, at: SocketAddr, vni_base: u32, more: &[&str]) -> Child {
    let mut command = Command::new(program);
    command.args(["--target", &at.to_string(), "--vni-base", &vni_base.to_string()]);
    command.args(["--peers", "500", "--vnis", "250", "--rate", "5000", "--duration-s", "8"]);
    command.args(more).stdin(Stdio::null()).stdout(Stdio::null()).spawn().unwrap()
}

#[test]
fn clients_notice_no_upgrade() {
    let Some(programs) = programs() else { return };
    let [server, loadgen] = ["metalbond-uring", "loadgen"].map(|name| programs.join(name));
    let path = std::env::temp_dir().join(format!("metalbond-foreign-{}", std::process::id()));
    let mut serving = Serving::start(&server, "127.0.0.1:0", &path, 2);
    let at = serving.address;
    let clients: Vec<Rustbond> = (0..CLIENTS).map(|_| Rustbond::connect("a client", at)).collect();
    clients[1..].iter().for_each(|client| client.subscribe(VNI));
    let mut loads = [load(&loadgen, at, 1 << 20, &[]), load(&loadgen, at, 2 << 20, &["--legacy"])];
    let (mut known, mut removals) = (Vec::new(), 0);
    let mut upgrades = 0;
    while upgrades < UPGRADES_MIN || loads.iter_mut().any(|it| it.try_wait().unwrap().is_none()) {
        // What is said before and after it, and what is taken back.
        let routes = round(upgrades);
        let (before, after) = routes.split_at(ROUTES / 2);
        before.iter().for_each(|route| clients[0].announce(VNI, route));
        serving = serving.upgrade(&server, &path, 1 + upgrades % 3);
        after.iter().for_each(|route| clients[0].announce(VNI, route));
        removals += known.len();
        known.iter().for_each(|route| clients[0].withdraw(VNI, route));
        known = routes;
        for client in &clients[1..] {
            client.expect("the last round", VNI, &known);
            assert_eq!(client.removals(), removals, "after {upgrades} upgrades");
        }
        upgrades += 1;
        std::thread::sleep(PAUSE);
    }
    assert!(clients.iter().all(Rustbond::is_established));
    for load in &mut loads {
        assert!(load.wait().unwrap().success(), "after {upgrades} upgrades a peer was not served");
    }
    serving.child.kill().unwrap();
    serving.child.wait().unwrap();
    let log = serving.log.join().unwrap();
    assert!(log.iter().any(|line| line.contains("took over all connections")), "{log:#?}");
    let _ = std::fs::remove_file(path);
}

/// Other routes each time.
fn round(number: usize) -> Vec<Route> {
    let next_hop = || NextHop::standard(underlay(1 + number as u16));
    (0..ROUTES).map(|n| route(&format!("10.{number}.0.{n}/32"), next_hop())).collect()
}

/// Where the programs are.
fn programs() -> Option<PathBuf> {
    let test = std::env::current_exe().unwrap();
    let folder = test.parent().and_then(Path::parent).unwrap().to_owned();
    let is_there = ["metalbond-uring", "loadgen"].iter().all(|name| folder.join(name).exists());
    if !is_there {
        assert!(std::env::var_os("CI").is_none(), "no programs in {}", folder.display());
        eprintln!(
            "SKIPPED: no programs in {}: `cargo build` in the main folder first, and --target-dir",
            folder.display()
        );
        return None;
    }
    Some(folder)
}
