//! Who may come in, and how many: the real program at its limits.
//!
//! Owns what is claimed of them. Must never assert a time.
#![allow(clippy::unwrap_used, clippy::disallowed_methods)]

#[path = "common/asking.rs"]
mod asking;
mod common;

use std::io::Write;
use std::net::{SocketAddr, TcpStream};

use common::http::{ask, json, wait_until};
use common::openmetrics::Metrics;
use common::process::Process;
use common::{Peer, QUIET, add, hello, keepalive, route, subscribe};

fn metrics(process: &Process) -> Metrics {
    Metrics::read(&ask(process.http_address(), "GET", "/metrics").1)
}

fn refused(process: &Process, reason: &str) -> f64 {
    let series = format!("metalbond_connections_refused_total{{reason=\"{reason}\"}}");
    metrics(process).value(&series)
}

fn serve(arguments: &[&str]) -> Process {
    Process::serve_at("[::]:0", &[&["--http", "[::1]:0", "--cores", "2"], arguments].concat())
}

/// One of the hosts 127.0.0.0/8, which all are this one.
fn from(host: u8, process: &Process) -> TcpStream {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    socket.bind(&SocketAddr::from(([127, 0, 0, host], 0)).into()).unwrap();
    socket.connect(&SocketAddr::from(([127, 0, 0, 1], process.address().port())).into()).unwrap();
    socket.into()
}

/// Connects again and again until it gets a session: what has ended is seen a moment later.
fn let_in(connect: impl Fn() -> Peer) -> Peer {
    wait_until("a place", || {
        let mut peer = connect();
        peer.send(&hello(60, false, true));
        while !peer.closed && peer.frames.is_empty() {
            peer.read_some(QUIET);
        }
        peer.send(&keepalive());
        while !peer.closed && peer.keepalives == 0 {
            peer.read_some(QUIET);
        }
        (!peer.closed).then_some(peer)
    })
}

#[test]
fn an_address_has_so_many_connections_and_others_have_theirs() {
    let process = serve(&["--peers-per-address-max", "3"]);
    let connect = |host| Peer::over(from(host, &process));
    let mut peers: Vec<Peer> = (0..3).map(|_| connect(1)).collect();
    // Whether it has a session or not.
    peers[0].handshake(&hello(60, false, true));
    for _ in 0..4 {
        connect(1).read_until_closed();
    }
    for host in 2..5 {
        let mut other = connect(host);
        other.handshake(&hello(60, false, true));
        peers.push(other);
    }
    // IPv6 is an address of its own.
    let address = format!("[::1]:{}", process.address().port()).parse().unwrap();
    peers.push(Peer::established(address, 60, true));
    assert_eq!(refused(&process, "peers_per_address"), 4.0);
    process.wait_for(
        "refused: its address has as many connections as --peers-per-address-max allows remote=127.0.0.1:",
    );
    // Lost before it said anything, and lost with a session: there is room for one more, each time.
    for at in [1, 0] {
        drop(peers.swap_remove(at));
        peers.push(let_in(|| connect(1)));
        connect(1).read_until_closed();
    }
    let summary = json(process.http_address(), "/summary.json");
    let count = summary["connections_refused"]["peers_per_address"].as_u64().unwrap();
    assert!(count >= 6, "{summary}");
    assert_eq!(summary["since_start"]["connections_refused"], count, "{summary}");
    let http = process.http_address().to_string();
    let shown = asking::run(&["show", "summary", "--http", &http]).out;
    assert!(shown.contains("connections refused peers per address"), "{shown}");
    for (series, value) in [("peers_per_address_max", 3.0), ("handshakes_max", 32_768.0)] {
        assert_eq!(metrics(&process).value(&format!("metalbond_{series}")), value);
    }
}

#[test]
fn handshakes_have_a_limit_that_sessions_do_not_count_for() {
    let process = serve(&["--handshakes-max", "3"]);
    let address = format!("[::1]:{}", process.address().port()).parse().unwrap();
    // As many sessions as one likes.
    let mut peers: Vec<Peer> = (0..8).map(|_| let_in(|| Peer::connect(address))).collect();
    let before = refused(&process, "handshakes_max");
    let connecting = "metalbond_peers{state=\"connecting\"}";
    wait_until("sessions", || (metrics(&process).value(connecting) == 0.0).then_some(()));
    let mut silent: Vec<TcpStream> = (1..4).map(|host| from(host, &process)).collect();
    wait_until("handshakes", || (metrics(&process).value(connecting) == 3.0).then_some(()));
    for _ in 0..2 {
        Peer::connect(address).read_until_closed();
    }
    assert_eq!(refused(&process, "handshakes_max"), before + 2.0);
    process.wait_for("refused: as many connections as --handshakes-max allows have no session yet");
    for peer in &mut peers {
        peer.barrier();
    }
    // What ends without a session makes room: here by bytes that nobody understands.
    silent.pop().unwrap().write_all(b"GET / HTTP/1.0\r\n\r\n").unwrap();
    peers.push(let_in(|| Peer::connect(address)));
    let before = refused(&process, "handshakes_max");
    silent.push(from(1, &process));
    Peer::connect(address).read_until_closed();
    assert_eq!(refused(&process, "handshakes_max"), before + 1.0);
}

/// Strangers leave nothing behind: no place, no descriptor, not a line each. Whoever has a session sees nothing of them.
#[test]
fn a_flood_of_strangers_leaves_nothing_behind() {
    let process = serve(&["--peers-per-address-max", "64", "--handshakes-max", "100"]);
    let address: SocketAddr = format!("[::1]:{}", process.address().port()).parse().unwrap();
    let mut announcer = Peer::established(address, 60, true);
    let mut listener = Peer::established(address, 60, true);
    listener.send(&subscribe(7));
    listener.barrier();
    let descriptors = || std::fs::read_dir(format!("/proc/{}/fd", process.id())).unwrap().count();
    let before = descriptors();
    let flood = |host: u8| {
        for number in 0..1_000_u32 {
            let mut stream = from(host, &process);
            let _ = match number % 4 {
                0 => stream.write_all(&[0xff; 64]),
                1 => stream.write_all(&keepalive()),
                // HELLO, and gone.
                2 => stream.write_all(&hello(60, false, true)),
                _ => Ok(()),
            };
        }
    };
    let flood = &flood;
    std::thread::scope(|scope| {
        for host in 1..5 {
            scope.spawn(move || flood(host));
        }
        for number in 0..100 {
            announcer.send(&add(&route(7, number, 1)));
        }
        listener.read_until("a hundred routes", |peer| peer.view.len() == 100);
    });
    wait_until("the end of all strangers", || {
        let metrics = metrics(&process);
        (metrics.value("metalbond_peers{state=\"connecting\"}") == 0.0).then_some(())
    });
    wait_until("their descriptors", || (descriptors() <= before + 1).then_some(()));
    // Each of their addresses has all its places again.
    let _inside: Vec<Peer> = (0..64).map(|_| let_in(|| Peer::over(from(1, &process)))).collect();
    Peer::over(from(1, &process)).read_until_closed();
    for peer in [&mut announcer, &mut listener] {
        peer.barrier();
    }
    let lines = process.logged("remote=127.0.0.1");
    assert!(lines <= 64 + 60, "{lines} lines: {}", process.log());
}

/// Those who are not closed yet are served as ever; and whoever does not want to wait says so twice.
#[test]
fn a_fleet_is_let_go_one_by_one() {
    let mut process = serve(&["--drain-time", "120"]);
    let address: SocketAddr = format!("[::1]:{}", process.address().port()).parse().unwrap();
    let mut peers: Vec<Peer> = (0..60).map(|_| Peer::established(address, 60, true)).collect();
    for peer in &mut peers {
        peer.send(&[subscribe(7), keepalive()].concat());
        peer.barrier();
    }
    process.signal("TERM");
    wait_until("the end of somebody", || {
        peers.iter_mut().any(|peer| !peer.read_some(QUIET / 20) && peer.closed).then_some(())
    });
    peers.retain(|peer| !peer.closed);
    assert!(peers.len() > 30, "{} of 60 are left", peers.len());
    assert!(TcpStream::connect(address).is_err(), "nobody is taken in any more");
    let mut served = 0;
    let (announcer, others) = peers.split_last_mut().unwrap();
    announcer.send(&add(&route(7, 1, 1)));
    for peer in others {
        while !peer.closed && peer.view.is_empty() {
            peer.read_some(QUIET);
        }
        served += usize::from(!peer.view.is_empty());
    }
    assert!(served > 20, "{served} were told");
    process.signal("TERM");
    assert_eq!(process.exit_status().code(), Some(1));
}

#[test]
fn a_fleet_that_is_let_go_in_a_second_ends_whole() {
    let mut process = serve(&["--drain-time", "1"]);
    let address: SocketAddr = format!("[::1]:{}", process.address().port()).parse().unwrap();
    let mut peers: Vec<Peer> = (0..30).map(|_| Peer::established(address, 60, true)).collect();
    process.signal("TERM");
    for peer in &mut peers {
        peer.read_until_closed();
    }
    drop(peers);
    assert!(process.exit_status().success());
}
