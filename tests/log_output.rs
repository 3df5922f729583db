//! The program's log, and whoever reads it or does not: it must never end or freeze the service.
#![allow(clippy::unwrap_used, clippy::disallowed_methods)]

mod common;

use std::fs::File;
use std::io::{PipeReader, Read};
use std::net::{SocketAddr, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

use common::process::Process;
use common::*;
use metalbond_uring::api::{Config, MetalBond, RouteClient, RouteError};
use metalbond_uring::internals::io::Server;
use metalbond_uring::types::{Destination, NextHop, Vni};

const KEEPALIVE_S: u32 = 60;

static SERVERS: AtomicU16 = AtomicU16::new(0);

/// A server whose stderr is the test's; it has no log to tell its port, so that is chosen before.
struct Serving {
    child: Child,
    address: SocketAddr,
}

impl Serving {
    fn start(stderr: impl Into<Stdio>, arguments: &[&str]) -> Serving {
        // Of this process alone, and no port that a connection may be given.
        let [_, high, middle, low] = std::process::id().to_be_bytes();
        let number = SERVERS.fetch_add(1, Ordering::Relaxed);
        let address = SocketAddr::from(([127, 64 + high, middle, low], 4711 + number));
        let child = Command::new(env!("CARGO_BIN_EXE_metalbond-uring"))
            // Peers say nothing while strangers come and go.
            .args(["server", "--cores", "2", "--keepalive", "3600"])
            .args(["--listen", &address.to_string()])
            .args(arguments)
            .env_remove("RUST_LOG")
            .stderr(stderr)
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        let serving = Serving { child, address };
        wait("a connection", || TcpStream::connect(address).is_ok());
        serving
    }

    /// SIGTERM, and the status within the time that a supervisor gives.
    fn end(mut self) -> Option<i32> {
        let pid = self.child.id().to_string();
        assert!(Command::new("kill").args(["-s", "TERM", &pid]).status().unwrap().success());
        wait("the end", || self.child.try_wait().unwrap().is_some());
        self.child.wait().unwrap().code()
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn wait(what: &str, mut done: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !done() {
        assert!(Instant::now() < deadline, "waited in vain for {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Strangers send what is no message: each would be a line of the log.
fn strangers(address: SocketAddr, count: usize) {
    for _ in 0..count {
        let mut stranger = Peer::connect(address);
        stranger.send(b"GET /metrics HTTP/1.1\r\n\r\n");
        stranger.read_until_closed();
    }
}

/// Old peers and a new one are served.
fn check_service(serving: &Serving, old: &mut Peer, number: u32) {
    let mut new = Peer::established(serving.address, KEEPALIVE_S, true);
    new.send(&add(&route(7, number, 1)));
    old.read_until("an update", |peer| peer.view.contains(&route(7, number, 1)));
}

#[test]
fn a_log_that_cannot_be_written_ends_nothing() {
    let closed_pipe = {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        Stdio::from(writer)
    };
    let full_disk = Stdio::from(File::options().write(true).open("/dev/full").unwrap());
    for (name, stderr) in [("nobody holds the pipe", closed_pipe), ("the disk is full", full_disk)]
    {
        let serving = Serving::start(stderr, &[]);
        let mut peer = Peer::established(serving.address, KEEPALIVE_S, true);
        peer.send(&subscribe(7));
        strangers(serving.address, 5);
        check_service(&serving, &mut peer, 1);
        drop(peer);
        assert_eq!(serving.end(), Some(0), "{name}");
    }
}

#[test]
fn a_log_file_of_limited_size_ends_nothing() {
    let path = std::env::temp_dir().join(format!("metalbond-log-{}", std::process::id()));
    let log = File::create(&path).unwrap();
    let serving = Serving::start(log.try_clone().unwrap(), &["-v"]);
    std::fs::remove_file(&path).unwrap();
    let pid = format!("--pid={}", serving.child.id());
    assert!(Command::new("prlimit").args([&pid, "--fsize=4096"]).status().unwrap().success());
    let mut peer = Peer::established(serving.address, KEEPALIVE_S, true);
    peer.send(&subscribe(7));
    wait("a full file", || {
        strangers(serving.address, 1);
        log.metadata().unwrap().len() >= 4096
    });
    strangers(serving.address, 5);
    check_service(&serving, &mut peer, 1);
    drop(peer);
    assert_eq!(serving.end(), Some(0));
}

#[test]
fn a_log_that_nobody_reads_freezes_nothing() {
    let (mut unread, writer) = std::io::pipe().unwrap();
    // `-v`, so that there are lines enough: a pipe takes 64 KiB.
    let serving = Serving::start(writer, &["-v"]);
    let mut peer = Peer::established(serving.address, KEEPALIVE_S, true);
    peer.send(&subscribe(7));
    peer.barrier();
    strangers(serving.address, 600);
    check_service(&serving, &mut peer, 1);
    // Read again, it goes on, and says what is missing.
    let log = read_some(&mut unread, 60_000);
    assert!(log.contains("listening on"), "{log}");
    drop(peer);
    assert_eq!(serving.end(), Some(0), "with a log that is not read to its end");
}

fn read_some(reader: &mut PipeReader, bytes: u64) -> String {
    let mut text = Vec::new();
    reader.take(bytes).read_to_end(&mut text).unwrap();
    String::from_utf8_lossy(&text).into_owned()
}

#[test]
fn what_strangers_provoke_is_counted_and_probes_say_nothing() {
    let server = Process::serve(&["--cores", "2"]);
    for _ in 0..50 {
        drop(Peer::connect(server.address()));
    }
    strangers(server.address(), 100);
    let said = || server.logged("metalbond_uring::strangers");
    wait("lines", || said() >= 10);
    let mut session = Peer::established(server.address(), KEEPALIVE_S, true);
    session.barrier();
    assert_eq!(said(), 10, "{}", server.log());
    // Other kinds are not held back by it.
    let mut other = Peer::connect(server.address());
    other.send(&subscribe(1));
    other.read_until_closed();
    wait("another kind", || server.logged("SUBSCRIBE is not allowed in CONNECTING") == 1);
    wait("the count", || server.logged("90 more lines were left out: closed before") == 1);
}

#[test]
fn the_end_of_a_session_has_a_reason() {
    let server = Process::serve(&["--cores", "1", "--keepalive", "1"]);
    let established = || Peer::established(server.address(), 1, true);
    let told = |words: &str| wait(words, || server.logged(words) == 1);
    drop(established());
    told("reason=the peer closed the connection after_s=");
    let mut peer = established();
    peer.send(&hello(1, false, false));
    peer.read_until_closed();
    told("reason=a second HELLO");
    let mut peer = established();
    peer.send(b"XXXXXXX");
    peer.read_until_closed();
    told("reason=undecodable bytes detail=protocol version 88");
    established().read_until_closed();
    told("reason=hold time over");
    assert_eq!(server.logged(" established id="), 4, "{}", server.log());
}

#[test]
fn refusals_are_summed_up_when_it_quiets_down() {
    let server = Process::serve(&["--cores", "1", "--routes-per-peer-max", "10"]);
    let mut peer = Peer::established(server.address(), KEEPALIVE_S, true);
    let routes =
        |numbers: std::ops::Range<u32>| peer_bytes(numbers.map(|number| add(&route(7, number, 1))));
    peer.send(&routes(0..30));
    peer.barrier();
    wait("a sum", || server.logged("20 routes refused, limit 10 (--routes-per-peer-max)") == 1);
    assert_eq!(server.logged("refused 10.0.0.10/32"), 1, "{}", server.log());
    peer.send(&routes(30..32));
    wait("another", || server.logged("2 routes refused, limit 10") == 1);
    // The sum is not lost with the peer.
    peer.send(&routes(40..45));
    peer.barrier();
    drop(peer);
    wait("the last", || server.logged("5 routes refused, limit 10") == 1);
}

fn peer_bytes(frames: impl Iterator<Item = Vec<u8>>) -> Vec<u8> {
    frames.collect::<Vec<_>>().concat()
}

#[test]
fn a_hangup_is_no_end() {
    let mut server = Process::serve(&["--cores", "1"]);
    let mut peer = Peer::established(server.address(), KEEPALIVE_S, true);
    for times in 1..=2 {
        server.signal("HUP");
        wait("a line", || server.logged("SIGHUP received") == times);
        peer.barrier();
    }
    assert!(server.is_running());
    drop(peer);
    server.signal("TERM");
    assert_eq!(server.exit_status().code(), Some(0));
}

#[test]
fn a_wrong_filter_is_said() {
    let serving = |filter: &str| {
        let (mut reader, writer) = std::io::pipe().unwrap();
        let child = Command::new(env!("CARGO_BIN_EXE_metalbond-uring"))
            .args(["--listen", "[::1]:0", "--cores", "1"])
            .env("RUST_LOG", filter)
            .stderr(writer)
            .spawn()
            .unwrap();
        let mut log = Vec::new();
        let mut byte = [0];
        while !String::from_utf8_lossy(&log).contains("listening on [::1]") {
            assert_eq!(reader.read(&mut byte).unwrap(), 1);
            log.push(byte[0]);
        }
        drop(Serving { child, address: "[::1]:1".parse().unwrap() });
        String::from_utf8(log).unwrap()
    };
    let log = serving("info,=x=y");
    assert!(log.contains("RUST_LOG=\"info,=x=y\" is no filter"), "{log}");
    let log = serving("debug");
    assert!(!log.contains("no filter") && !log.contains('\x1b'), "{log}");
}

/// Fails as a bug in it would.
struct Panics;

impl RouteClient for Panics {
    fn add_route(&mut self, _: Vni, _: Destination, _: NextHop) -> Result<(), RouteError> {
        panic!("the route client has a bug")
    }
    fn remove_route(&mut self, _: Vni, _: Destination, _: NextHop) -> Result<(), RouteError> {
        Ok(())
    }
}

const CHILD: &str = "METALBOND_TEST_PANICKING_CHILD";

/// This very test, started again as a process of its own: a node whose route client panics.
#[test]
fn a_thread_that_fails_ends_the_process() {
    if std::env::var_os(CHILD).is_some() {
        let server = Server::start(server_config(1, KEEPALIVE_S)).unwrap();
        let node = MetalBond::new(Config::default(), Panics).unwrap();
        node.subscribe(Vni(7)).unwrap();
        node.add_peer(&server.local_addr().to_string(), None).unwrap();
        let mut peer = Peer::established(server.local_addr(), KEEPALIVE_S, true);
        peer.send(&add(&route(7, 1, 1)));
        std::thread::sleep(PATIENCE);
        return; // it lives on: status 0
    }
    let name = "a_thread_that_fails_ends_the_process";
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args([name, "--exact", "--nocapture"])
        .env(CHILD, "1")
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut said = String::new();
    child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(101), "{said}");
    assert!(said.contains("the route client has a bug"), "{said}");
}
