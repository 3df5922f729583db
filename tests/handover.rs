//! One server takes over from another: real programs, real sockets, and no session notices.
//!
//! Owns what peers see of it, whatever goes wrong amid. Must never assert how long it takes.
#![allow(clippy::unwrap_used, clippy::disallowed_methods)]

mod common;

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixDatagram;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use common::http::{json, wait_until};
use common::process::Process;
use common::*;

const KEEPALIVE_S: u32 = 60;
const VNIS: u32 = 8;
const TAKEN: &str = "took over all connections";
const REFUSED: &str = "nothing is handed over";

/// Where servers meet; removed in the end.
struct Meeting {
    folder: PathBuf,
    path: String,
}

impl Meeting {
    fn new(name: &str) -> Meeting {
        let folder =
            std::env::temp_dir().join(format!("metalbond-handover-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&folder);
        std::fs::create_dir(&folder).unwrap();
        let path = folder.join("socket").to_str().unwrap().to_owned();
        Meeting { folder, path }
    }

    /// The first server.
    fn first(&self, cores: u32, more: &[&str]) -> Process {
        Process::serve_at_with_environment("[::1]:0", &[], &self.arguments(cores, more))
    }

    /// One that takes over, and is waited for.
    fn successor(&self, of: &Process, cores: u32, more: &[&str]) -> Process {
        let at = of.address().to_string();
        let new = Process::serve_at_with_environment(&at, &[], &self.arguments(cores, more));
        assert_eq!(new.logged(TAKEN), 1, "{}", new.log());
        new
    }

    /// One that listens elsewhere.
    fn successor_at(&self, listen: &str, cores: u32) -> Process {
        Process::serve_at_with_environment(listen, &[], &self.arguments(cores, &[]))
    }

    /// One that has been told that something is to go wrong, and is not waited for.
    fn begin(&self, of: &Process, sabotage: &str, more: &[&str]) -> Process {
        let at = of.address().to_string();
        let arguments = [&["server", "--listen", &at][..], &self.arguments(3, more)].concat();
        Process::begin(&[("METALBOND_HANDOVER_TEST", sabotage)], &arguments)
    }

    /// One that stands still when it has taken something.
    fn begin_and_stop(&self, of: &Process, more: &[&str]) -> Process {
        let new = self.begin(of, "stop-after-items=1", more);
        wait_until("a successor that stands still", || is_stopped(&new).then_some(()));
        new
    }

    fn arguments<'a>(&'a self, cores: u32, more: &[&'a str]) -> Vec<&'a str> {
        let cores = ["1", "2", "3"][cores as usize - 1];
        let always = ["--keepalive", "60", "--cores", cores, "--handover", &self.path];
        [&always[..], more].concat()
    }
}

impl Drop for Meeting {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

fn is_stopped(process: &Process) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", process.id())).unwrap();
    stat.contains(") T ")
}

/// Peers of both kinds, each with routes of its own and two VNIs that it wants.
struct Fleet {
    peers: Vec<Peer>,
    /// How often all routes have changed.
    rounds: u32,
}

impl Fleet {
    fn own(n: u32, round: u32) -> [Vec<u8>; 2] {
        [2 * n, 2 * n + 1].map(|number| route(n % VNIS, number, 100 * round + n))
    }

    fn new(at: SocketAddr, count: u32) -> Fleet {
        let peers = (0..count).map(|n| {
            let mut peer = Peer::established(at, KEEPALIVE_S, n % 2 == 0);
            let announced = Fleet::own(n, 0).map(|route| add(&route)).concat();
            peer.send(&[announced, subscribe(n % VNIS), subscribe((n + 3) % VNIS)].concat());
            peer
        });
        let mut fleet = Fleet { peers: peers.collect(), rounds: 0 };
        fleet.check();
        fleet
    }

    /// All announce other routes instead. Nobody reads.
    fn change(&mut self) {
        self.rounds += 1;
        for (n, peer) in (0..).zip(&mut self.peers) {
            let added = Fleet::own(n, self.rounds).map(|route| add(&route)).concat();
            let removed = Fleet::own(n, self.rounds - 1).map(|route| remove(&route)).concat();
            peer.send(&[added, removed].concat());
        }
    }

    /// Everybody is connected, sees what it should, and was told nothing twice.
    #[track_caller]
    fn check(&mut self) {
        let count = u32::try_from(self.peers.len()).unwrap();
        for (n, peer) in (0..).zip(&mut self.peers) {
            let others = (0..count).filter(|other| {
                *other != n && [n % VNIS, (n + 3) % VNIS].contains(&(other % VNIS))
            });
            let view: BTreeSet<_> =
                others.flat_map(|other| Fleet::own(other, self.rounds)).collect();
            peer.read_until(&format!("the view of peer {n}"), |peer| peer.view == view);
            peer.barrier();
            assert_eq!((peer.redundant, peer.unread_bytes()), (0, 0), "peer {n}");
        }
    }
}

#[test]
fn no_session_notices() {
    let meeting = Meeting::new("plain");
    let mut old = meeting.first(2, &[]);
    let mode = std::fs::metadata(&meeting.path).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let mut fleet = Fleet::new(old.address(), 40);
    // To more shards, to one, and to as many again.
    for cores in [3, 1, 2] {
        fleet.change();
        let mut halves = Vec::new();
        for (n, peer) in (1000..).zip(&mut fleet.peers) {
            // Half of a frame before, half of it after.
            let frame = add(&route(99, n, n));
            peer.send(&frame[..frame.len() / 2]);
            halves.push(frame[frame.len() / 2..].to_vec());
        }
        let new = meeting.successor(&old, cores, &[]);
        assert!(old.exit_status().success(), "{}", old.log());
        old = new;
        for (half, peer) in halves.iter().zip(&mut fleet.peers) {
            peer.send(half);
        }
        fleet.check();
        fleet.change();
        fleet.check();
    }
    // Whoever comes now is served, and sees all: of VNI 99 what all have announced in the end.
    let mut late = Peer::established(old.address(), KEEPALIVE_S, false);
    late.send(&subscribe(99));
    late.read_until("VNI 99", |peer| peer.view.len() == fleet.peers.len());
    // A peer that ends is noticed.
    drop(fleet);
    late.read_until("nothing", |peer| peer.view.is_empty());
    assert_eq!(late.redundant, 0);
    old.signal("TERM");
    late.read_until_closed();
    assert!(old.exit_status().success(), "{}", old.log());
}

#[test]
fn what_is_said_all_the_time_arrives_once() {
    let meeting = Meeting::new("churn");
    let mut old = meeting.first(2, &[]);
    let mut announcer = Peer::established(old.address(), KEEPALIVE_S, true);
    let mut readers: Vec<_> = (0..6)
        .map(|n| {
            let mut peer = Peer::established(old.address(), KEEPALIVE_S, n % 2 == 0);
            peer.recording = false;
            (0..4).for_each(|vni| peer.send(&subscribe(vni)));
            peer.barrier();
            peer
        })
        .collect();
    let is_over = Arc::new(AtomicBool::new(false));
    let (for_thread, writer) = (Arc::clone(&is_over), announcer.writer());
    let sending = std::thread::Builder::new().spawn(move || {
        let mut round = 0;
        while !for_thread.load(Ordering::Relaxed) {
            for n in 0..200 {
                std::io::Write::write_all(&mut &writer, &add(&route(n % 4, n, round))).unwrap();
                if round > 0 {
                    let gone = remove(&route(n % 4, n, round - 1));
                    std::io::Write::write_all(&mut &writer, &gone).unwrap();
                }
            }
            round += 1;
        }
        round - 1
    });
    let mut others = Vec::new();
    for cores in [1, 3, 2] {
        for reader in &mut readers {
            let updates = reader.updates;
            reader.read_until("updates", |peer| peer.updates > updates + 400);
        }
        let new = meeting.successor(&old, cores, &[]);
        assert!(old.exit_status().success(), "{}", old.log());
        old = new;
        // Amid the noise.
        let mut other = Peer::established(old.address(), KEEPALIVE_S, true);
        other.send(&subscribe(1));
        others.push(other);
    }
    is_over.store(true, Ordering::Relaxed);
    let last = sending.unwrap().join().unwrap();
    announcer.barrier();
    let view: BTreeSet<_> = (0..200).map(|n| route(n % 4, n, last)).collect();
    for reader in &mut readers {
        reader.read_until("the last round", |peer| peer.view == view);
        reader.barrier();
        assert_eq!(reader.redundant, 0);
    }
    let view: BTreeSet<_> = view.into_iter().filter(|it| it[1] == 1).collect();
    for other in &mut others {
        other.read_until("the last round", |peer| peer.view == view);
        assert_eq!(other.redundant, 0);
    }
}

/// What operators see of a session does not begin anew either.
#[test]
fn a_session_is_as_old_as_it_is() {
    let meeting = Meeting::new("age");
    let http = ["--http", "127.0.0.1:0"];
    let old = meeting.first(1, &http);
    let _peer = Peer::established(old.address(), KEEPALIVE_S, true);
    let age = |of: &Process| {
        let peers = json(of.http_address(), "/peers.json");
        peers["peers"][0]["established_for_s"].as_u64().unwrap()
    };
    wait_until("a session of some age", || (age(&old) >= 3).then_some(()));
    let new = meeting.successor(&old, 2, &http);
    assert!(age(&new) >= 3, "{}", age(&new));
}

/// Those that do not read get it all later, from the successor.
#[test]
fn what_is_pending_goes_over() {
    const ROUTES: u32 = 60_000;
    let meeting = Meeting::new("pending");
    let mut old = meeting.first(2, &["--pace", "off"]);
    let mut stalled: Vec<_> = [true, false]
        .map(|reassembles| {
            let mut peer = Peer::connect_with_window(old.address(), 16 << 10);
            peer.handshake(&hello(KEEPALIVE_S, false, reassembles));
            peer.recording = false;
            peer.send(&subscribe(7));
            peer.barrier();
            peer
        })
        .into();
    let mut announcer = Peer::established(old.address(), KEEPALIVE_S, true);
    let routes: BTreeSet<_> = (0..ROUTES).map(|n| route(7, n, n)).collect();
    announcer.send(&routes.iter().map(|route| add(route)).collect::<Vec<_>>().concat());
    announcer.barrier();
    for cores in [1, 2] {
        let new = meeting.successor(&old, cores, &["--pace", "off"]);
        assert!(old.exit_status().success(), "{}", old.log());
        old = new;
        announcer.barrier();
    }
    announcer.send(&remove(&route(7, 5, 5)));
    announcer.barrier();
    for peer in &mut stalled {
        peer.read_until("the table", |peer| {
            peer.view.len() == routes.len() - 1 && !peer.view.contains(&route(7, 5, 5))
        });
        peer.barrier();
        assert_eq!(peer.redundant, 0);
    }
}

/// Whatever becomes of the successor, the old one goes on.
#[test]
fn a_successor_that_fails_harms_nobody() {
    let meeting = Meeting::new("fails");
    let mut old = meeting.first(2, &["--handover-time", "60"]);
    let mut fleet = Fleet::new(old.address(), 24);
    let sabotages =
        ["crash-after-items=1", "crash-after-items=30", "exit-before-taken", "version=99"];
    for (attempts, sabotage) in (1..).zip(sabotages) {
        fleet.change();
        let mut new = meeting.begin(&old, sabotage, &[]);
        assert!(!new.exit_status().success(), "{sabotage}: {}", new.log());
        wait_until("a line", || (old.logged(REFUSED) == attempts).then_some(()));
        if sabotage == "version=99" {
            new.wait_for("version 99");
            old.wait_for("version 99");
        }
        assert!(old.is_running());
        fleet.check();
        drop(Peer::established(old.address(), KEEPALIVE_S, true));
    }
    // One that has other rules says so itself.
    let mut new = meeting.begin(&old, "", &["--reflect-own", "lb"]);
    assert!(!new.exit_status().success());
    for server in [&new, &old] {
        server.wait_for("--reflect-own none");
        server.wait_for("--reflect-own lb");
    }
    fleet.check();
    // And at last one that does not fail.
    let _new = meeting.successor(&old, 3, &[]);
    assert!(old.exit_status().success(), "{}", old.log());
    fleet.change();
    fleet.check();
}

#[test]
fn a_successor_that_stands_still_has_nothing_when_it_wakes() {
    let meeting = Meeting::new("stopped");
    let mut old = meeting.first(2, &["--handover-time", "10"]);
    let mut fleet = Fleet::new(old.address(), 24);
    fleet.change();
    let mut new = meeting.begin_and_stop(&old, &[]);
    // Who asks meanwhile is told so.
    let mut third = meeting.begin(&old, "", &[]);
    assert!(!third.exit_status().success());
    third.wait_for("another handover is under way");
    old.wait_for("it has taken too long");
    fleet.check();
    new.signal("CONT");
    assert!(!new.exit_status().success(), "{}", new.log());
    assert_eq!(new.logged(TAKEN), 0);
    fleet.change();
    fleet.check();
    let _new = meeting.successor(&old, 1, &[]);
    assert!(old.exit_status().success(), "{}", old.log());
    fleet.check();
}

#[test]
fn who_connects_amid_it_is_served_by_whoever_owns() {
    let meeting = Meeting::new("amid");
    let mut old = meeting.first(2, &["--handover-time", "60"]);
    let mut fleet = Fleet::new(old.address(), 10);
    let new = meeting.begin_and_stop(&old, &[]);
    let mut late: Vec<_> = (0..10).map(|_| Peer::connect(old.address())).collect();
    late.iter_mut().for_each(|peer| peer.send(&hello(KEEPALIVE_S, false, true)));
    fleet.change();
    for peer in late.iter_mut().chain(&mut fleet.peers) {
        peer.frames.clear();
        peer.settle(Duration::from_millis(1));
        assert!(!peer.closed && peer.frames.is_empty(), "somebody served it");
    }
    new.signal("CONT");
    assert!(old.exit_status().success(), "{}", old.log());
    new.wait_for(TAKEN);
    for peer in &mut late {
        peer.read_until("a HELLO", |peer| !peer.frames.is_empty());
        peer.send(&[keepalive(), subscribe(0)].concat());
        peer.read_until("VNI 0", |peer| peer.view.len() == 4);
    }
    fleet.check();
}

#[test]
fn signals_amid_it() {
    let meeting = Meeting::new("signals");
    let mut old = meeting.first(2, &["--handover-time", "60"]);
    let mut fleet = Fleet::new(old.address(), 10);
    // The successor is told to end: it does, and the old one goes on.
    let mut new = meeting.begin(&old, "wait-before-taken", &[]);
    new.wait_for("waiting instead of taking over");
    fleet.change();
    new.signal("TERM");
    assert!(new.exit_status().success(), "{}", new.log());
    assert_eq!(new.logged(TAKEN), 0);
    fleet.check();
    // The old one is told to end: it does what it always does.
    let mut new = meeting.begin_and_stop(&old, &[]);
    old.signal("TERM");
    for peer in &mut fleet.peers {
        let updates = peer.updates;
        peer.read_until_closed();
        assert_eq!(peer.updates, updates, "something was withdrawn");
    }
    drop(fleet);
    assert!(old.exit_status().success(), "{}", old.log());
    new.signal("CONT");
    assert!(!new.exit_status().success(), "{}", new.log());
    assert_eq!(new.logged(TAKEN), 0);
}

#[test]
fn strangers_and_garbage_are_turned_away() {
    let meeting = Meeting::new("strangers");
    let old = meeting.first(1, &[]);
    let mut fleet = Fleet::new(old.address(), 4);
    let claim = [0x0a, 6, 0x0a, 4, 0x08, 1, 0x1a, 0];
    let garbage = [
        &[&b"GET / HTTP/1.0\r\n\r\n"[..]][..],
        &[&[0xff; 5000]],
        &[&[0x22, 0]],
        &[&claim, &claim],
        &[&claim, &[0x3a, 0]],
        // A claim, that its shards run, and nothing that may come then.
        &[&claim, &[0x22, 0], &[0x22, 0]],
        &[],
    ];
    for (lines, garbage) in (1..).zip(garbage) {
        let socket = socket2::Socket::new(socket2::Domain::UNIX, socket2::Type::SEQPACKET, None);
        let socket = socket.unwrap();
        socket.connect(&socket2::SockAddr::unix(&meeting.path).unwrap()).unwrap();
        for packet in garbage {
            let _ = socket.send(packet);
        }
        // Until its end.
        if !garbage.is_empty() {
            socket.set_read_timeout(Some(PATIENCE)).unwrap();
            while std::io::Read::read(&mut &socket, &mut [0; 4096]).unwrap_or(0) > 0 {}
        }
        drop(socket);
        wait_until("a line", || (old.logged(REFUSED) == lines).then_some(()));
        fleet.check();
    }
    if !is_root() {
        eprintln!("SKIPPED: only root can be somebody else");
        return;
    }
    let as_nobody = || {
        let arguments = ["server", "--listen", "[::1]:0", "--handover", &meeting.path];
        // One that takes over would serve.
        let limit = PATIENCE.as_secs().to_string();
        let child = Command::new("timeout")
            .args([&limit, env!("CARGO_BIN_EXE_metalbond-uring")])
            .args(arguments)
            .uid(65_534)
            .stdin(Stdio::null())
            .output()
            .unwrap();
        assert!(!child.status.success());
        String::from_utf8_lossy(&child.stderr).into_owned()
    };
    assert!(as_nobody().contains("Permission denied"));
    let everybody = |path: &Path| {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o777)).unwrap();
    };
    everybody(&meeting.folder);
    everybody(Path::new(&meeting.path));
    let said = as_nobody();
    assert!(said.contains("runs as user 65534"), "{said}");
    old.wait_for("runs as user 65534");
    fleet.change();
    fleet.check();
}

fn is_root() -> bool {
    std::fs::read_to_string("/proc/self/status").unwrap().contains("Uid:\t0\t0")
}

#[test]
fn sockets_go_over_as_the_flags_say() {
    let meeting = Meeting::new("sockets");
    let notified = meeting.folder.join("notify");
    let manager = UnixDatagram::bind(&notified).unwrap();
    manager.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut old = meeting.first(1, &["--http", "[::1]:0"]);
    let http = old.http_address();
    let mut fleet = Fleet::new(old.address(), 6);
    let at = [old.address().to_string(), http.to_string()];
    let environment = [("NOTIFY_SOCKET", notified.to_str().unwrap())];
    let arguments = meeting.arguments(2, &["--http", &at[1]]);
    let new = Process::serve_at_with_environment(&at[0], &environment, &arguments);
    assert!(old.exit_status().success(), "{}", old.log());
    assert_eq!((new.address(), new.http_address()), (old.address(), http));
    let mut said = [0; 100];
    let length = manager.recv(&mut said).unwrap();
    let said = String::from_utf8_lossy(&said[..length]);
    assert_eq!(said, format!("MAINPID={}\nREADY=1\n", new.id()));
    let summary = common::http::json(http, "/peers.json");
    assert_eq!(summary["peers"].as_array().unwrap().len(), 6, "{summary}");
    // The next one listens elsewhere: whoever is connected stays.
    let mut old = new;
    let new = meeting.successor_at("[::1]:0", 2);
    assert!(old.exit_status().success(), "{}", old.log());
    assert_ne!(new.address(), old.address());
    assert_eq!(new.logged("no longer listening on"), 2, "{}", new.log());
    assert!(std::net::TcpStream::connect(old.address()).is_err());
    drop(Peer::established(new.address(), KEEPALIVE_S, true));
    fleet.change();
    fleet.check();
}

#[test]
fn a_file_that_is_no_socket_stays() {
    let meeting = Meeting::new("file");
    std::fs::write(&meeting.path, "precious").unwrap();
    let arguments = ["server", "--listen", "[::1]:0", "--handover", &meeting.path];
    let (code, said) = common::process::run(&arguments);
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("no socket") && said.contains(&meeting.path), "{said}");
    assert_eq!(std::fs::read_to_string(&meeting.path).unwrap(), "precious");
    // One that was left behind is no hindrance.
    std::fs::remove_file(&meeting.path).unwrap();
    for _ in 0..2 {
        let mut server = meeting.first(1, &[]);
        server.signal("TERM");
        assert!(server.exit_status().success());
    }
}
