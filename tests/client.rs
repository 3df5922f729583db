//! The library as a client: against our own reflector, several of them, and against a server like those
//! in the field, which is played here byte for byte.
#![allow(clippy::unwrap_used, clippy::disallowed_methods)]

mod common;

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use common::{
    Frame, HELLO, KEEPALIVE, PATIENCE, QUIET, SUBSCRIBE, UNSUBSCRIBE, UPDATE, server_config,
};
use metalbond_uring::api::{
    Config, Destination, Error, HostPortError, MetalBond, NextHop, Pace, RouteClient, RouteError,
    ServeError, State, Vni,
};
use metalbond_uring::internals::io::{Server, ServerConfig};

/// A route client that keeps what it was told, and how often.
#[derive(Clone, Default)]
struct Recorder(Arc<Mutex<(BTreeSet<String>, usize)>>);

impl Recorder {
    fn change(&self, vni: Vni, to: Destination, via: NextHop, add: bool) -> Result<(), RouteError> {
        let mut inner = self.0.lock().unwrap();
        let text = format!("{vni} {to} {via}");
        let changed = if add { inner.0.insert(text) } else { inner.0.remove(&text) };
        inner.1 += 1;
        if changed { Ok(()) } else { Err("told twice".into()) }
    }

    fn routes(&self) -> Vec<String> {
        self.0.lock().unwrap().0.iter().cloned().collect()
    }

    fn calls(&self) -> usize {
        self.0.lock().unwrap().1
    }

    fn wait_for(&self, expected: &[&str]) {
        wait(&format!("{expected:?}, not {:?}", self.routes()), || self.routes() == expected);
    }
}

impl RouteClient for Recorder {
    fn add_route(&mut self, v: Vni, d: Destination, h: NextHop) -> Result<(), RouteError> {
        self.change(v, d, h, true)
    }
    fn remove_route(&mut self, v: Vni, d: Destination, h: NextHop) -> Result<(), RouteError> {
        self.change(v, d, h, false)
    }
}

fn wait(what: &str, mut done: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !done() {
        assert!(Instant::now() < deadline, "waited in vain for {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn client(servers: &[SocketAddr], stale_time: Duration) -> (MetalBond, Recorder) {
    let recorder = Recorder::default();
    let config = Config { stale_time, ..Config::default() };
    let metalbond = MetalBond::new(config, recorder.clone()).unwrap();
    for server in servers {
        metalbond.add_peer(&server.to_string(), None).unwrap();
    }
    (metalbond, recorder)
}

fn announce(metalbond: &MetalBond, vni: u32, to: &str, via: &str) {
    metalbond.announce_route(Vni(vni), to.parse().unwrap(), via.parse().unwrap()).unwrap();
}

fn withdraw(metalbond: &MetalBond, vni: u32, to: &str, via: &str) {
    metalbond.withdraw_route(Vni(vni), to.parse().unwrap(), via.parse().unwrap()).unwrap();
}

#[test]
fn routes_go_from_client_to_client() {
    let server = Server::start(server_config(2, 5)).unwrap();
    let (a, _) = client(&[server.local_addr()], Duration::ZERO);
    let (b, seen) = client(&[server.local_addr()], Duration::ZERO);
    // Before or after the connection stands: it makes no difference.
    announce(&a, 100, "10.0.1.0/24", "2001:db8::a");
    b.subscribe(Vni(100)).unwrap();
    seen.wait_for(&["100 10.0.1.0/24 2001:db8::a"]);
    announce(&a, 100, "10.0.2.0/24", "2001:db8::a");
    announce(&a, 200, "10.0.3.0/24", "2001:db8::a");
    seen.wait_for(&["100 10.0.1.0/24 2001:db8::a", "100 10.0.2.0/24 2001:db8::a"]);
    withdraw(&a, 100, "10.0.1.0/24", "2001:db8::a");
    b.subscribe(Vni(200)).unwrap();
    seen.wait_for(&["100 10.0.2.0/24 2001:db8::a", "200 10.0.3.0/24 2001:db8::a"]);
    // Out and in again, faster than any answer can come.
    for _ in 0..20 {
        b.unsubscribe(Vni(100)).unwrap();
        b.subscribe(Vni(100)).unwrap();
    }
    b.unsubscribe(Vni(200)).unwrap();
    seen.wait_for(&["100 10.0.2.0/24 2001:db8::a"]);
    a.shutdown();
    seen.wait_for(&[]);
    assert!(seen.calls() > 5);
}

#[test]
fn a_destination_of_its_own_is_kept_from_the_route_client_whatever_its_host_bits() {
    let server = Server::start(server_config(1, 5)).unwrap();
    let (far, _) = client(&[server.local_addr()], Duration::ZERO);
    let (node, seen) = client(&[server.local_addr()], Duration::ZERO);
    node.subscribe(Vni(7)).unwrap();
    announce(&node, 7, "10.0.2.0/24", "2001:db8::1");
    for to in ["10.0.1.0/24", "10.0.2.9/24", "10.0.3.0/24"] {
        announce(&far, 7, to, "2001:db8::2");
    }
    let [first, last] = ["7 10.0.1.0/24 2001:db8::2", "7 10.0.3.0/24 2001:db8::2"];
    seen.wait_for(&[first, last]);
    announce(&node, 7, "10.0.1.5/24", "2001:db8::1");
    announce(&node, 7, "10.0.1.5/24", "2001:db8::3");
    seen.wait_for(&[last]);
    withdraw(&node, 7, "10.0.1.5/24", "2001:db8::1");
    withdraw(&node, 7, "10.0.2.0/24", "2001:db8::1");
    let middle = "7 10.0.2.9/24 2001:db8::2";
    seen.wait_for(&[middle, last]);
    withdraw(&node, 7, "10.0.1.5/24", "2001:db8::3");
    seen.wait_for(&[first, middle, last]);
}

#[test]
fn questions_and_refusals() {
    let (node, _) = client(&[], Duration::ZERO);
    let (to, via): (Destination, NextHop) = ("::/0".parse().unwrap(), "::1".parse().unwrap());
    assert!(!node.is_route_announced(Vni(1), to, via));
    assert!(matches!(node.withdraw_route(Vni(1), to, via), Err(Error::NotAnnounced(..))));
    node.announce_route(Vni(1), to, via).unwrap();
    assert!(node.is_route_announced(Vni(1), to, via));
    let impossible = Destination { length: 129, ..to };
    let refused = node.announce_route(Vni(1), impossible, via).unwrap_err();
    assert_eq!(
        refused.to_string(),
        format!("{impossible} has an impossible prefix length: at most 32 in IPv4, 128 in IPv6")
    );
    assert!(matches!(node.announce_route(Vni(1), to, via), Err(Error::Announced(..))));
    node.subscribe(Vni(3)).unwrap();
    node.subscribe(Vni(2)).unwrap();
    assert!(matches!(node.subscribe(Vni(2)), Err(Error::Subscribed(Vni(2)))));
    assert!(node.is_subscribed(Vni(2)) && !node.is_subscribed(Vni(4)));
    assert_eq!(node.subscribed_vnis(), [Vni(2), Vni(3)]);
    assert!(matches!(node.unsubscribe(Vni(4)), Err(Error::NotSubscribed(Vni(4)))));
    assert!(matches!(node.peer_state("[::1]:1"), Err(Error::PeerUnknown(_))));
    // Nobody listens there: that is no error.
    node.add_peer("[::1]:1", None).unwrap();
    assert!(matches!(node.add_peer("[::1]:1", None), Err(Error::PeerKnown(_))));
    wait("RETRY", || node.peer_state("[::1]:1").unwrap() == State::Retry);
    // Written in another way, it is the same server.
    assert!(matches!(node.add_peer("[0::1]:1", None), Err(Error::PeerKnown(_))));
    node.remove_peer("[0:0::1]:1").unwrap();
    assert!(matches!(node.remove_peer("[::1]:1"), Err(Error::PeerUnknown(_))));
}

#[test]
fn what_is_no_servers_address_is_refused() {
    let (node, _) = client(&[], Duration::ZERO);
    for wrong in [
        "",
        "foo",
        "foo:",
        "foo:0",
        "foo:65536",
        "foo:http",
        "4711",
        "::1",
        "::1:4711",
        "[::1]",
        "[::1]:",
        "[::1]:0",
        "[foo]:4711",
        "http://foo:4711",
        "foo:4711/",
        "a b:4711",
        "[fe80::1]:4711",
    ] {
        let refused = node.add_peer(wrong, None).expect_err(wrong);
        assert!(matches!(&refused, Error::PeerAddress { address, .. } if address == wrong));
        assert!(refused.to_string().contains(&format!("{wrong:?} is no server's address: ")));
        assert!(matches!(node.peer_state(wrong), Err(Error::PeerUnknown(_))), "{wrong}");
        assert!(matches!(node.remove_peer(wrong), Err(Error::PeerUnknown(_))), "{wrong}");
    }
    let Err(Error::PeerAddress { reason, .. }) = node.add_peer("foo", None) else { panic!() };
    assert_eq!(reason, HostPortError::NoPort("foo".to_owned()));
    // Without a host it is this host.
    node.add_peer(":1", None).unwrap();
    assert!(matches!(node.add_peer("localhost:1", None), Err(Error::PeerKnown(_))));
    node.remove_peer(":1").unwrap();
}

#[test]
fn settings_out_of_their_ranges_are_refused() {
    let default = Config::default;
    let wrong = [
        ("cores", Config { cores: 1025, ..default() }),
        ("cores", Config { cores: u16::MAX, ..default() }),
        ("keepalive_interval_s", Config { keepalive_interval_s: 86_401, ..default() }),
        ("pace", Config { pace: Pace::RoutesPerS(0), ..default() }),
        ("peers_max", Config { peers_max: 0, ..default() }),
        ("peers_max", Config { peers_max: (1 << 20) + 1, ..default() }),
    ];
    for (named, config) in wrong {
        let refused = MetalBond::new(config.clone(), Recorder::default()).err();
        let said = refused.map(|error| error.to_string()).unwrap_or_default();
        assert!(
            said.starts_with(&format!("{named} is ")) && said.contains("must be from"),
            "{said}"
        );
        assert!(matches!(Server::start(config), Err(ServeError::OutOfRange { .. })));
    }
    let right = [
        Config { cores: 0, ..default() },
        Config { keepalive_interval_s: 86_400, ..default() },
        Config { pace: Pace::RoutesPerS(1), peers_max: 1, ..default() },
        Config { keepalive_interval_s: 0, pace: Pace::Off, peers_max: 1 << 20, ..default() },
    ];
    for config in right {
        MetalBond::new(config, Recorder::default()).unwrap().shutdown();
    }
}

#[test]
fn installed_on_the_first_and_removed_on_the_last_server() {
    let mut servers: Vec<Server> =
        (0..2).map(|_| Server::start(server_config(1, 5)).unwrap()).collect();
    let addresses: Vec<SocketAddr> = servers.iter().map(Server::local_addr).collect();
    let (a, _) = client(&addresses, Duration::ZERO);
    let (b, seen) = client(&addresses[..1], Duration::ZERO);
    announce(&a, 100, "10.0.1.0/24", "2001:db8::a");
    b.subscribe(Vni(100)).unwrap();
    // The first server tells it, then the second one.
    seen.wait_for(&["100 10.0.1.0/24 2001:db8::a"]);
    b.add_peer(&addresses[1].to_string(), None).unwrap();
    let established =
        |address: &SocketAddr| b.peer_state(&address.to_string()).unwrap() == State::Established;
    wait("both servers", || addresses.iter().all(established));
    std::thread::sleep(QUIET);
    assert_eq!(seen.calls(), 1, "once, though both servers tell it");
    servers.pop().unwrap().join();
    wait("the loss", || !established(&addresses[1]));
    std::thread::sleep(QUIET);
    assert_eq!(seen.calls(), 1, "the other one still has it");
    b.remove_peer(&addresses[0].to_string()).unwrap();
    seen.wait_for(&[]);
}

#[test]
fn a_restart_within_the_stale_time_is_not_seen() {
    let mut server = Server::start(server_config(1, 5)).unwrap();
    let address = server.local_addr();
    let (a, _) = client(&[address], Duration::ZERO);
    let (b, seen) = client(&[address], Duration::from_secs(40));
    announce(&a, 7, "10.0.1.0/24", "2001:db8::a");
    announce(&a, 7, "10.0.2.0/24", "2001:db8::a");
    b.subscribe(Vni(7)).unwrap();
    seen.wait_for(&["7 10.0.1.0/24 2001:db8::a", "7 10.0.2.0/24 2001:db8::a"]);
    server.shutdown();
    server.join();
    let state = || b.peer_state(&address.to_string()).unwrap();
    wait("RETRY", || state() == State::Retry);
    withdraw(&a, 7, "10.0.2.0/24", "2001:db8::a");
    let config = ServerConfig { listen: vec![address], ..server_config(1, 5) };
    let server = Server::start(config).unwrap();
    wait("the new server", || state() == State::Established);
    wait("the new server, at A", || {
        a.peer_state(&address.to_string()).unwrap() == State::Established
    });
    announce(&a, 7, "10.0.3.0/24", "2001:db8::a");
    seen.wait_for(&[
        "7 10.0.1.0/24 2001:db8::a",
        // Withdrawn while nobody could tell: it stays until the stale time is over.
        "7 10.0.2.0/24 2001:db8::a",
        "7 10.0.3.0/24 2001:db8::a",
    ]);
    assert_eq!(seen.calls(), 3, "no route flapped");
    // What the new server says counts at once, whatever is held.
    withdraw(&a, 7, "10.0.1.0/24", "2001:db8::a");
    seen.wait_for(&["7 10.0.2.0/24 2001:db8::a", "7 10.0.3.0/24 2001:db8::a"]);
    drop(server);
}

#[test]
fn one_node_is_client_and_server() {
    let top = Server::start(server_config(1, 5)).unwrap();
    let (node, node_seen) = client(&[top.local_addr()], Duration::ZERO);
    let listening = node.start_server("[::1]:0".parse().unwrap()).unwrap();
    let (below, below_seen) = client(&[listening], Duration::ZERO);
    let (far, far_seen) = client(&[top.local_addr()], Duration::ZERO);
    for node in [&node, &below, &far] {
        node.subscribe(Vni(1)).unwrap();
    }
    announce(&below, 1, "10.1.0.0/16", "2001:db8::1");
    node_seen.wait_for(&["1 10.1.0.0/16 2001:db8::1"]);
    announce(&far, 1, "10.3.0.0/16", "2001:db8::3");
    announce(&node, 1, "10.2.0.0/16", "2001:db8::2");
    // What comes from a server goes to clients; to servers goes only what the node itself announces.
    below_seen.wait_for(&["1 10.2.0.0/16 2001:db8::2", "1 10.3.0.0/16 2001:db8::3"]);
    far_seen.wait_for(&["1 10.2.0.0/16 2001:db8::2"]);
    node_seen.wait_for(&["1 10.1.0.0/16 2001:db8::1", "1 10.3.0.0/16 2001:db8::3"]);
    node.shutdown();
    below_seen.wait_for(&[]);
    far_seen.wait_for(&[]);
}

/// A server like those in the field: it answers, and takes notes.
struct FieldServer {
    stream: TcpStream,
    buffer: Vec<u8>,
    unanswered_bytes: usize,
    subscribed: Vec<Vec<u8>>,
    updates: Vec<Frame>,
}

impl FieldServer {
    fn accept(listener: &TcpListener) -> FieldServer {
        let (stream, _) = listener.accept().unwrap();
        stream.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
        let (buffer, subscribed, updates) = (Vec::new(), Vec::new(), Vec::new());
        FieldServer { stream, buffer, unanswered_bytes: 0, subscribed, updates }
    }

    fn next(&mut self) -> Option<Frame> {
        loop {
            if let Some(frame) = Frame::all_of(&self.buffer).into_iter().next() {
                self.buffer.drain(..frame.bytes().len());
                return Some(frame);
            }
            let mut chunk = [0; 65_535];
            match self.stream.read(&mut chunk) {
                Ok(length) if length > 0 => self.buffer.extend(&chunk[..length]),
                _ => return None,
            }
        }
    }

    /// Answers for a while. Panics at what a server of the field would fail at.
    fn serve(&mut self, until: impl Fn(&FieldServer) -> bool) {
        let deadline = Instant::now() + PATIENCE;
        while !until(self) {
            assert!(Instant::now() < deadline, "waited in vain");
            let Some(frame) = self.next() else { continue };
            self.unanswered_bytes += frame.bytes().len();
            assert!(self.unanswered_bytes < 20_000, "more than 16 KiB without an answer");
            match frame.kind {
                KEEPALIVE => {
                    self.unanswered_bytes = 0;
                    self.stream.write_all(&common::keepalive()).unwrap();
                }
                SUBSCRIBE => {
                    assert!(!self.subscribed.contains(&frame.payload), "subscribed twice");
                    self.subscribed.push(frame.payload);
                }
                UPDATE => self.updates.push(frame),
                kind => panic!("type {kind} has no place here"),
            }
        }
    }
}

impl FieldServer {
    fn serve_updates(&mut self, count: usize) {
        let deadline = Instant::now() + PATIENCE;
        while self.updates.len() < count {
            assert!(Instant::now() < deadline, "waited in vain");
            let Some(frame) = self.next() else { continue };
            match frame.kind {
                KEEPALIVE => self.stream.write_all(&common::keepalive()).unwrap(),
                UPDATE => self.updates.push(frame),
                _ => self.subscribed.push(frame.payload),
            }
        }
    }

    fn serve_subscribes(&mut self, count: usize) {
        self.serve(|server| server.subscribed.len() >= count);
    }
}

#[test]
fn servers_of_the_field_are_handled_with_care() {
    let listener = TcpListener::bind("[::1]:0").unwrap();
    let (node, seen) = client(&[listener.local_addr().unwrap()], Duration::ZERO);
    for vni in 0..2_000 {
        node.subscribe(Vni(vni)).unwrap();
    }
    for number in 0..3_000u32 {
        announce(&node, number % 7, &format!("10.{}.{}.1/32", number >> 8, number & 255), "::5");
    }
    let mut server = FieldServer::accept(&listener);
    let mut hello = None;
    wait("HELLO", || {
        hello = server.next();
        hello.is_some()
    });
    assert_eq!(hello.unwrap().kind, HELLO);
    let answered = Instant::now();
    // No field says that this server reassembles.
    server.stream.write_all(&common::hello(5, true, false)).unwrap();
    let mut first = None;
    wait("KEEPALIVE", || {
        first = server.next();
        first.is_some()
    });
    assert!(answered.elapsed() >= Duration::from_millis(15), "not at once");
    assert_eq!(first.unwrap().kind, KEEPALIVE);
    assert!(server.next().is_none(), "nothing before the answer");
    server.stream.write_all(&common::keepalive()).unwrap();
    server.serve(|server| server.updates.len() == 3_000);
    assert_eq!(server.subscribed.len(), 2_000);
    assert_eq!(server.updates.iter().collect::<BTreeSet<_>>().len(), 3_000);
    // Unsubscribed and wanted again: nothing of it may reach this server, its routes do come back.
    let route = common::route(100, 1, 9);
    server.stream.write_all(&common::add(&route)).unwrap();
    server.stream.write_all(&common::add(&common::route(5_000, 1, 9))).unwrap();
    seen.wait_for(&["100 10.0.0.1/32 2001:db8::9"]);
    node.unsubscribe(Vni(100)).unwrap();
    seen.wait_for(&[]);
    node.subscribe(Vni(100)).unwrap();
    seen.wait_for(&["100 10.0.0.1/32 2001:db8::9"]);
    server.stream.write_all(&common::remove(&route)).unwrap();
    seen.wait_for(&[]);
    assert!(server.next().is_none_or(|frame| frame.kind == KEEPALIVE));
    let _ = UNSUBSCRIBE;
}

/// A field server that is established with the one client.
fn established(listener: &TcpListener) -> FieldServer {
    let mut server = FieldServer::accept(listener);
    wait("HELLO", || server.next().is_some());
    server.stream.write_all(&common::hello(5, true, false)).unwrap();
    wait("KEEPALIVE", || server.next().is_some());
    server.stream.write_all(&common::keepalive()).unwrap();
    server
}

#[test]
fn an_own_route_in_a_dump_is_not_installed_after_its_withdrawal() {
    let listener = TcpListener::bind("[::1]:0").unwrap();
    let (node, seen) = client(&[listener.local_addr().unwrap()], Duration::ZERO);
    let own = common::route(100, 1, 9);
    announce(&node, 100, "10.0.0.1/32", "2001:db8::9");
    let mut server = established(&listener);
    server.serve_updates(1);
    node.subscribe(Vni(100)).unwrap();
    server.serve_subscribes(1);
    // Servers in the field dump it to its announcer, and never withdraw it from there.
    server.stream.write_all(&common::add(&own)).unwrap();
    server.stream.write_all(&common::add(&common::route(100, 2, 9))).unwrap();
    seen.wait_for(&["100 10.0.0.2/32 2001:db8::9"]);
    withdraw(&node, 100, "10.0.0.1/32", "2001:db8::9");
    server.serve_updates(2);
    std::thread::sleep(QUIET);
    assert_eq!(seen.routes(), ["100 10.0.0.2/32 2001:db8::9"]);
}

#[test]
fn a_removed_server_is_not_held() {
    let server = Server::start(server_config(1, 5)).unwrap();
    let address = server.local_addr();
    let (a, _) = client(&[address], Duration::ZERO);
    let (b, seen) = client(&[address], Duration::from_secs(3600));
    announce(&a, 7, "10.0.1.0/24", "2001:db8::a");
    b.subscribe(Vni(7)).unwrap();
    seen.wait_for(&["7 10.0.1.0/24 2001:db8::a"]);
    b.remove_peer(&address.to_string()).unwrap();
    seen.wait_for(&[]);
}

#[test]
fn a_server_of_the_field_gets_everything_at_a_shutdown() {
    let listener = TcpListener::bind("[::1]:0").unwrap();
    let (node, _) = client(&[listener.local_addr().unwrap()], Duration::ZERO);
    for number in 0..3_000u32 {
        announce(&node, 7, &format!("10.{}.{}.1/32", number >> 8, number & 255), "::5");
    }
    let mut server = established(&listener);
    server.serve_updates(1);
    let ending = std::thread::spawn(move || node.shutdown());
    std::thread::sleep(QUIET);
    server.serve_updates(3_000);
    drop(server);
    ending.join().unwrap();
}

#[test]
fn a_lost_server_that_is_removed_is_not_held() {
    let mut server = Server::start(server_config(1, 5)).unwrap();
    let address = server.local_addr();
    let (a, _) = client(&[address], Duration::ZERO);
    let (b, seen) = client(&[address], Duration::from_secs(3600));
    announce(&a, 7, "10.0.1.0/24", "2001:db8::a");
    b.subscribe(Vni(7)).unwrap();
    seen.wait_for(&["7 10.0.1.0/24 2001:db8::a"]);
    server.shutdown();
    server.join();
    wait("RETRY", || b.peer_state(&address.to_string()).unwrap() == State::Retry);
    b.remove_peer(&address.to_string()).unwrap();
    seen.wait_for(&[]);
}
