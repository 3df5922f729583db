//! Many peers, large tables, slow readers, scarce descriptors, start and end: through real sockets.
#![allow(clippy::unwrap_used, clippy::disallowed_methods)]

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::time::{Duration, Instant};

use common::process::{Process, run};
use common::*;
use metalbond_uring::internals::io::Server;

const KEEPALIVE_S: u32 = 60;

/// Writes in the background, so that a test can read while its bytes are taken at the server's pace.
fn send_all(peer: &Peer, bytes: Vec<u8>) -> std::thread::JoinHandle<()> {
    let mut writer = peer.writer();
    std::thread::Builder::new().spawn(move || writer.write_all(&bytes).unwrap()).unwrap()
}

#[test]
fn a_thousand_peers_see_what_they_should() {
    const PEERS: u32 = 1000;
    const VNIS: u32 = 20;
    let server = Server::start(server_config(2, KEEPALIVE_S)).unwrap();
    let own = |n: u32| [route(n % VNIS, 2 * n, n), route(n % VNIS, 2 * n + 1, n)];
    let vnis = |n: u32| [n % VNIS, (n + 7) % VNIS];
    let mut peers = BTreeMap::new();
    for n in 0..PEERS {
        let mut peer = Peer::established(server.local_addr(), KEEPALIVE_S, n % 2 == 0);
        peer.recording = false;
        // Half of them announce before they subscribe.
        let announced = own(n).map(|route| add(&route)).concat();
        let subscribed = vnis(n).map(subscribe).concat();
        peer.send(
            &if n % 4 < 2 { [announced, subscribed] } else { [subscribed, announced] }.concat(),
        );
        peers.insert(n, peer);
    }
    let check = |peers: &mut BTreeMap<u32, Peer>| {
        let mut tables: BTreeMap<u32, BTreeSet<Vec<u8>>> = BTreeMap::new();
        for &n in peers.keys() {
            tables.entry(n % VNIS).or_default().extend(own(n));
        }
        for (&n, peer) in peers.iter_mut() {
            let mut view: BTreeSet<_> =
                vnis(n).iter().flat_map(|vni| tables[vni].clone()).collect();
            for route in own(n) {
                view.remove(&route);
            }
            peer.read_until(&format!("the view of peer {n}"), |peer| peer.view.len() == view.len());
            assert!(peer.view == view, "peer {n}");
        }
        for peer in peers.values_mut() {
            peer.barrier();
        }
    };
    check(&mut peers);
    for peer in peers.values() {
        assert_eq!(peer.redundant, 0);
    }
    // A hundred vanish: some of each VNI.
    peers.retain(|n, _| n / VNIS % 10 != 3);
    check(&mut peers);
    for (n, peer) in &mut peers {
        peer.settle(Duration::from_millis(1));
        assert!(!peer.closed && peer.redundant == 0, "peer {n}");
    }
}

#[test]
fn a_late_joiner_gets_a_large_table() {
    const ROUTES: u32 = 100_000;
    for cores in [1, 2, 8] {
        let server = Server::start(server_config(cores, KEEPALIVE_S)).unwrap();
        let mut announcer = Peer::established(server.local_addr(), KEEPALIVE_S, true);
        let routes: BTreeSet<_> = (0..ROUTES).map(|n| route(7, n, n)).collect();
        announcer.send(&routes.iter().map(|route| add(route)).collect::<Vec<_>>().concat());
        announcer.barrier();
        let mut joiner = Peer::established(server.local_addr(), KEEPALIVE_S, true);
        joiner.recording = false;
        let start = Instant::now();
        joiner.send(&subscribe(7));
        joiner.read_until("the table", |peer| peer.view.len() == routes.len());
        eprintln!("{cores} shards: {ROUTES} routes in {:?}", start.elapsed());
        assert!(joiner.view == routes && joiner.redundant == 0);
        // And what follows, live.
        announcer.send(&remove(&route(7, 5, 5)));
        joiner.read_until("a withdrawal", |peer| peer.view.len() == routes.len() - 1);
        drop(announcer);
        joiner.read_until("all withdrawals", |peer| peer.view.is_empty());
        assert_eq!((joiner.updates, joiner.redundant), (2 * ROUTES as usize, 0));
    }
}

#[test]
fn who_does_not_read_harms_nobody() {
    const ROUTES: u32 = 20_000;
    const ROUNDS: u32 = 12;
    let server = Server::start(server_config(2, KEEPALIVE_S)).unwrap();
    let established = || {
        let mut peer = Peer::established(server.local_addr(), KEEPALIVE_S, true);
        peer.recording = false;
        peer
    };
    let (announcer, mut stalled, mut reader) = (established(), established(), established());
    stalled.send(&subscribe(7));
    reader.send(&subscribe(7));
    reader.barrier();
    // Some of them stay, some change with each round: some 30 MB for who reads all.
    let mut bytes = Vec::new();
    for round in 0..ROUNDS {
        for n in 0..ROUTES {
            bytes.extend(add(&route(7, n, round)));
        }
        for n in 0..if round + 1 < ROUNDS { ROUTES } else { 0 } {
            bytes.extend(remove(&route(7, n, round)));
        }
    }
    let sending = send_all(&announcer, bytes);
    let last: BTreeSet<_> = (0..ROUTES).map(|n| route(7, n, ROUNDS - 1)).collect();
    reader.read_until("the last round", |peer| peer.view == last);
    sending.join().unwrap();
    // Only now the other one reads, and gets a shorter way to the same view.
    stalled.read_until("the last round", |peer| peer.view == last);
    stalled.barrier();
    assert_eq!((stalled.redundant, reader.redundant), (0, 0));
    assert!(stalled.view == last);
    let all = (2 * ROUNDS - 1) * ROUTES;
    eprintln!(
        "the reader got {} of {all} updates, the stalled {}",
        reader.updates, stalled.updates
    );
    assert!(stalled.updates < all as usize / 2, "nothing was conflated: {}", stalled.updates);
}

/// Clients in the field take every read for whole frames, and give up when one fills 65,535 bytes.
#[test]
fn a_peer_that_does_not_reassemble_reads_whole_frames() {
    const ROUTES: u32 = 20_000;
    let server = Server::start(server_config(2, KEEPALIVE_S)).unwrap();
    let mut announcer = Peer::established(server.local_addr(), KEEPALIVE_S, true);
    let routes: Vec<u8> = (0..ROUTES).flat_map(|n| add(&route(7, n, n))).collect();
    announcer.send(&routes);
    announcer.barrier();
    let mut reader = Peer::connect_with_window(server.local_addr(), 16 << 10);
    reader.handshake(&hello(KEEPALIVE_S, false, false));
    reader.recording = false;
    reader.send(&subscribe(7));
    let start = Instant::now();
    let mut reads = 0;
    while reader.view.len() < ROUTES as usize {
        assert!(start.elapsed() < PATIENCE, "{} routes", reader.view.len());
        reader.read_some(PATIENCE);
        assert_eq!(reader.unread_bytes(), 0, "a read ended inside a frame");
        reads += 1;
        if reads % 16 == 0 {
            // Let several segments pile up, and KEEPALIVEs come between them.
            // And now and then so many that the window closes, and the rest waits at the sender.
            let pause_ms = if reads % 64 == 0 { 150 } else { 20 };
            std::thread::sleep(Duration::from_millis(pause_ms));
            reader.send(&keepalive());
        }
    }
    // 10,000 routes a second, as configured, and a little at once at first.
    assert!(start.elapsed() > Duration::from_millis(1500), "{:?}", start.elapsed());
    assert!(reader.keepalives > 0 && reader.redundant == 0);
}

#[test]
fn shutting_down_withdraws_nothing() {
    for (name, code) in [("TERM", 0), ("INT", 0)] {
        let mut server = Process::serve(&["--cores", "2"]);
        let mut announcer = Peer::established(server.address(), 5, false);
        let mut subscribers: Vec<_> =
            (0..8).map(|n| Peer::established(server.address(), 5, n % 2 == 0)).collect();
        let route = route(9, 1, 1);
        announcer.send(&add(&route));
        for peer in &mut subscribers {
            peer.send(&subscribe(9));
            peer.read_until("the route", |peer| peer.view.contains(&route));
        }
        let mut silent = Peer::connect(server.address());
        server.signal(name);
        for peer in subscribers.iter_mut().chain([&mut announcer, &mut silent]) {
            peer.read_until_closed();
        }
        assert!(subscribers.iter().all(|peer| peer.updates == 1), "a REMOVE came");
        drop((subscribers, announcer, silent));
        assert_eq!(server.exit_status().code(), Some(code), "{}", server.log());
        assert_eq!(server.logged("did not drain in time"), 0, "{}", server.log());
    }
}

#[test]
fn a_peer_that_does_not_close_cannot_hold_up_the_end() {
    let mut server = Server::start(server_config(2, KEEPALIVE_S)).unwrap();
    let mut peers: Vec<_> =
        (0..20).map(|_| Peer::established(server.local_addr(), KEEPALIVE_S, true)).collect();
    // Ten of them do not even read, with megabytes on their way.
    for peer in &mut peers[..10] {
        peer.send(&subscribe(7));
        peer.barrier();
    }
    let routes: Vec<u8> = (0..50_000).flat_map(|n| add(&route(7, n, n))).collect();
    peers[19].send(&routes);
    peers[19].barrier();
    let (ended, end) = std::sync::mpsc::channel();
    std::thread::Builder::new()
        .spawn(move || {
            server.shutdown();
            server.join();
            ended.send(()).unwrap();
        })
        .unwrap();
    end.recv_timeout(PATIENCE).expect("it ends");
    for peer in &mut peers[10..] {
        peer.read_until_closed();
    }
}

#[test]
fn a_second_signal_ends_it_at_once() {
    let mut server = Process::serve(&["--cores", "1"]);
    let mut stalled = Peer::established(server.address(), 5, true);
    stalled.send(&subscribe(7));
    stalled.barrier();
    let mut announcer = Peer::established(server.address(), 5, true);
    let routes: Vec<u8> = (0..200_000).flat_map(|n| add(&route(7, n, n))).collect();
    announcer.send(&routes);
    announcer.barrier();
    server.signal("TERM");
    // Two signals at once would be one.
    server.wait_for("SIGTERM received");
    assert!(server.is_running(), "ended although a peer had not read: {}", server.log());
    server.signal("TERM");
    // The status is 0 if it ends by itself.
    assert_eq!(server.exit_status().code(), Some(1));
}

#[test]
fn an_idle_server_rests() {
    let server = Process::serve(&["--cores", "2", "--keepalive", "60"]);
    let mut peers: Vec<_> =
        (0..100).map(|n| Peer::established(server.address(), 60, n % 2 == 0)).collect();
    for peer in &mut peers {
        peer.send(&[add(&route(3, 1, 1)), subscribe(3)].concat());
        peer.barrier();
    }
    std::thread::sleep(Duration::from_millis(300));
    let before = server.cpu_time();
    std::thread::sleep(Duration::from_secs(1));
    let used = server.cpu_time() - before;
    assert!(used <= Duration::from_millis(50), "{used:?} of CPU in an idle second");
}

#[test]
fn exit_codes() {
    let first = Process::serve(&["--cores", "1"]);
    let address = first.address().to_string();
    let (code, stderr) = run(&["server", "--listen", &address]);
    assert_eq!(code, Some(1), "{stderr}");
    assert!(stderr.contains(&format!("address in use: {address}")), "{stderr}");
    let (code, stderr) = run(&["server", "--no-such-flag"]);
    assert_eq!(code, Some(2), "{stderr}");
    assert!(stderr.contains("no-such-flag"), "{stderr}");
    let (code, stderr) = run(&["server", "--listen", "192.0.2.1:4711"]);
    assert_eq!(code, Some(1), "{stderr}");
    assert!(stderr.contains("192.0.2.1:4711"), "{stderr}");
}

#[test]
fn without_descriptors_peers_wait_and_others_are_served() {
    let server = Process::serve_with_descriptors(40, &["--cores", "1", "--keepalive", "60"]);
    // The backlog takes them all; the server has descriptors for a part.
    let mut peers: Vec<_> = (0..60).map(|_| Peer::connect(server.address())).collect();
    server.wait_for("cannot accept");
    for peer in &mut peers {
        peer.send(&hello(60, false, false));
    }
    let deadline = Instant::now() + PATIENCE;
    while peers.iter().filter(|peer| !peer.frames.is_empty()).count() < 10 {
        assert!(Instant::now() < deadline, "hardly anybody is served");
        for peer in &mut peers {
            peer.read_some(Duration::from_millis(1));
        }
    }
    let (mut served, mut waiting): (Vec<_>, Vec<_>) =
        peers.into_iter().partition(|peer| !peer.frames.is_empty());
    assert!(served.len() >= 10 && waiting.len() >= 20, "{} served", served.len());
    assert!(waiting.iter().all(|peer| !peer.closed));
    for _ in 0..5 {
        for peer in &mut served {
            peer.barrier();
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    assert_eq!(server.logged("cannot accept"), 1, "{}", server.log());
    // As peers leave, others come in; at last nobody waits.
    while !waiting.is_empty() {
        let count = served.len().min(waiting.len());
        drop(served);
        for peer in &mut waiting[..count] {
            peer.read_until("a HELLO", |peer| !peer.frames.is_empty());
            peer.barrier();
        }
        served = waiting.drain(..count).collect();
    }
    // The last of them may hold every descriptor, and accept() wants one even if nobody waits.
    drop(served);
    server.wait_for("descriptors are free again");
    assert_eq!(server.logged("cannot accept"), 1, "{}", server.log());
}

#[test]
fn beyond_the_maximum_of_peers_connections_are_closed() {
    let mut config = server_config(2, KEEPALIVE_S);
    config.peers_max = 5;
    let server = Server::start(config).unwrap();
    let mut peers: Vec<_> =
        (0..5).map(|_| Peer::established(server.local_addr(), KEEPALIVE_S, false)).collect();
    for _ in 0..3 {
        Peer::connect(server.local_addr()).read_until_closed();
    }
    for peer in &mut peers {
        peer.barrier();
    }
    peers.pop();
    // There is room once the server has seen the end of that one.
    let deadline = Instant::now() + PATIENCE;
    loop {
        let mut peer = Peer::connect(server.local_addr());
        peer.send(&hello(KEEPALIVE_S, false, false));
        while !peer.closed && peer.frames.is_empty() && Instant::now() < deadline {
            peer.read_some(QUIET);
        }
        if !peer.closed {
            assert_eq!(peer.frames.len(), 1);
            break;
        }
        assert!(Instant::now() < deadline);
    }
}
