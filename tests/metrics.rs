//! What monitoring sees: `/metrics`, `/readyz`, and the figures of single peers.
//!
//! Owns what is claimed of them. Must never assert a time.
#![allow(clippy::unwrap_used, clippy::disallowed_methods)]

mod common;

use std::net::SocketAddr;

use common::http::{ask, ask_with, json, wait_until};
use common::openmetrics::Metrics;
use common::process::Process;
use common::served::Served;
use common::{Peer, add, frame, hello, keepalive, remove, route, server_config, subscribe};
use metalbond_uring::internals::http::{HttpListener, View};
use metalbond_uring::internals::io::Server;
use metalbond_uring::types::ShardId;
use serde_json::Value;
use socket2::{Domain, Socket, Type};

fn serve(arguments: &[&str]) -> (Process, SocketAddr) {
    let Served { process, http } = Served::start(arguments);
    (process, http)
}

fn scrape(http: SocketAddr) -> Metrics {
    let (head, body) = ask(http, "GET", "/metrics");
    assert!(head.starts_with("HTTP/1.0 200 "), "{head}");
    let kind = "content-type: application/openmetrics-text; version=1.0.0; charset=utf-8";
    assert!(head.contains(kind), "{head}");
    Metrics::read(&body)
}

fn scrape_until(http: SocketAddr, what: &str, done: impl Fn(&Metrics) -> bool) -> Metrics {
    wait_until(what, || Some(scrape(http)).filter(&done))
}

#[test]
fn what_peers_do_is_counted() {
    let (process, http) = serve(&["--cores", "2", "--routes-per-peer-max", "10"]);
    let address = process.address();
    let mut listeners: Vec<Peer> = (0..3).map(|_| Peer::established(address, 60, true)).collect();
    for peer in &mut listeners {
        peer.send(&subscribe(7));
        peer.barrier();
    }
    let mut announcer = Peer::established(address, 60, false);
    let routes: Vec<Vec<u8>> = (0..10).map(|number| route(7, number, 1)).collect();
    announcer.send(&routes.iter().flat_map(|route| add(route)).collect::<Vec<u8>>());
    announcer.barrier();
    for peer in &mut listeners {
        peer.read_until("ten routes", |peer| peer.view.len() == 10);
    }
    // One too many, one again, one that makes no sense: a destination without a prefix.
    announcer.send(&add(&route(7, 99, 1)));
    announcer.send(&add(&routes[0]));
    announcer.send(&frame(5, &[0x08, 0, 0x10, 7]));
    announcer.send(&remove(&routes[9]));
    announcer.barrier();
    for peer in &mut listeners {
        peer.read_until("nine routes", |peer| peer.view.len() == 9);
    }
    let metrics = scrape_until(http, "all that was sent", |it| {
        it.value("metalbond_updates_sent_total") >= 33.0
    });
    for (series, value) in [
        ("metalbond_peers{state=\"established\"}", 4.0),
        ("metalbond_peers{state=\"connecting\"}", 0.0),
        ("metalbond_peers_paced", 1.0),
        ("metalbond_routes", 9.0),
        ("metalbond_subscriptions", 3.0),
        ("metalbond_updates_sent_total", 33.0),
        ("metalbond_connections_total", 4.0),
        ("metalbond_dropped_messages_total{reason=\"invalid\"}", 1.0),
        // At its limit, the one again counts as one more.
        ("metalbond_dropped_messages_total{reason=\"routes_limit\"}", 2.0),
        ("metalbond_updates_received_total", 11.0),
        ("metalbond_peer_routes_max", 10.0),
        ("metalbond_peers_max", 65_536.0),
        ("metalbond_pending_bytes", 0.0),
        ("metalbond_memory_bytes{pool=\"input\"}", 0.0),
        ("metalbond_memory_max_bytes{pool=\"input\"}", 4.0 * (1192.0 + 65_536.0)),
        ("metalbond_memory_max_bytes{pool=\"laggards\"}", f64::from(1 << 30)),
    ] {
        assert_eq!(metrics.value(series), value, "{series}");
    }
    assert!(metrics.value("metalbond_propagation_seconds_count") >= 3.0);
    assert!(metrics.value("metalbond_turn_seconds_count{shard=\"1\"}") > 0.0);
    assert!(!metrics.types.keys().any(|name| name == "metalbond_peer_routes"));
    let peers = json(http, "/peers.json");
    let sent = |row: &Value| (row["updates_received"].as_u64(), row["updates_sent"].as_u64());
    let mut rows: Vec<_> = peers["peers"].as_array().unwrap().iter().map(sent).collect();
    rows.sort_unstable();
    let received = metrics.value("metalbond_updates_received_total") as u64;
    let listener = (Some(0), Some(11));
    assert_eq!(rows, [listener, listener, listener, (Some(received), Some(0))]);
    let summary = json(http, "/summary.json");
    assert_eq!(summary["since_start"]["updates_sent"], 33);
    assert_eq!(summary["peers"]["established"], 4);
}

#[test]
fn ends_are_told_by_reason_and_address() {
    let (process, http) = serve(&["--cores", "2", "--peers-max", "5"]);
    let address = process.address();
    let reason = |kind: &str| format!("metalbond_peer_disconnects_total{{reason=\"{kind}\"}}");
    for _ in 0..5 {
        drop(Peer::established(address, 60, true));
    }
    let metrics = scrape_until(http, "five ends", |it| it.value(&reason("remote_closed")) == 5.0);
    assert_eq!(metrics.value("metalbond_peers_flapping"), 1.0);
    let mut broken = Peer::established(address, 60, true);
    broken.send(b"what?");
    broken.read_until_closed();
    let mut stranger = Peer::connect(address);
    stranger.send(&keepalive());
    stranger.read_until_closed();
    let metrics = scrape_until(http, "the end of the stranger", |it| {
        it.value("metalbond_handshakes_failed_total{reason=\"unexpected_message\"}") == 1.0
    });
    assert_eq!(metrics.value(&reason("undecodable")), 1.0);
    // Back again: it is told how often its address was here.
    let _back = Peer::established(address, 60, true);
    let rows = json(http, "/peers.json");
    assert_eq!(rows["peers"][0]["reconnections_last_hour"], 6, "{rows}");
    let _four: Vec<Peer> = (0..4).map(|_| Peer::established(address, 60, true)).collect();
    let mut refused = Peer::connect(address);
    refused.read_until_closed();
    let metrics = scrape(http);
    assert_eq!(metrics.value("metalbond_connections_refused_total{reason=\"peers_max\"}"), 1.0);
}

#[test]
fn series_of_each_peer_are_for_those_who_want_them() {
    let (process, http) = serve(&["--cores", "1", "--metrics-per-peer"]);
    let mut peer = Peer::established(process.address(), 60, true);
    peer.send(&[subscribe(7), subscribe(8), add(&route(7, 1, 1))].concat());
    peer.barrier();
    let rows = json(http, "/peers.json");
    let remote = rows["peers"][0]["address"].as_str().unwrap();
    let metrics = scrape_until(http, "its route", |it| {
        it.value(&format!("metalbond_peer_routes{{peer=\"{remote}\"}}")) == 1.0
    });
    let local = process.address();
    for (name, value) in [("route", 1.0), ("subscription", 2.0)] {
        let series = format!("metalbond_{name}_count{{local=\"{local}\",peer=\"{remote}\"}}");
        assert_eq!(metrics.value(&series), value);
    }
    let received = format!("metalbond_peer_updates_received_total{{peer=\"{remote}\"}}");
    assert_eq!(metrics.value(&received), 1.0);
    drop(peer);
    scrape_until(http, "nothing of who is gone", |it| {
        !it.samples.keys().any(|series| series.contains(remote))
    });
}

#[test]
fn only_who_is_allowed_comes_in() {
    let process = Process::serve_at("[::]:0", &["--http", "[::1]:0", "--allow", "127.0.0.0/8"]);
    let http = process.http_address();
    let port = process.address().port();
    let _peer = Peer::established(SocketAddr::from(([127, 0, 0, 1], port)), 60, true);
    let mut stranger = Peer::connect(format!("[::1]:{port}").parse().unwrap());
    stranger.read_until_closed();
    process.wait_for("refused: its address is not among those of --allow remote=[::1]:");
    let metrics = scrape(http);
    let refused = "metalbond_connections_refused_total{reason=\"not_allowed\"}";
    assert_eq!(metrics.value(refused), 1.0);
    assert_eq!(metrics.value("metalbond_peers{state=\"established\"}"), 1.0);
    assert_eq!(json(http, "/summary.json")["since_start"]["connections_refused"], 1);
}

/// By its own address, at a socket that takes both.
#[test]
fn an_ipv4_peer_is_known_by_its_address() {
    let process = Process::serve_at("[::]:0", &["--http", "[::1]:0", "--metrics-per-peer"]);
    let http = process.http_address();
    let port = process.address().port();
    let _peer = Peer::established(SocketAddr::from(([127, 0, 0, 1], port)), 60, true);
    let rows = json(http, "/peers.json?peer=127.0.0.1");
    let remote = rows["peers"][0]["address"].as_str().unwrap();
    assert!(remote.starts_with("127.0.0.1:"), "{rows}");
    assert!(rows["peers"][0]["since"].as_str().unwrap().ends_with('Z'), "{rows}");
    let series = format!("metalbond_peer_routes{{peer=\"{remote}\"}}");
    assert_eq!(scrape(http).value(&series), 0.0);
    process.wait_for(&format!("established id=peer 0.0.0 remote={remote}"));
}

#[test]
fn who_is_slow_is_counted() {
    let (process, http) = serve(&["--cores", "1", "--metrics-per-peer"]);
    let mut reader = Peer::connect_with_window(process.address(), 16 << 10);
    reader.handshake(&hello(60, false, true));
    reader.send(&[keepalive(), subscribe(7)].concat());
    reader.barrier();
    let mut announcer = Peer::established(process.address(), 60, true);
    let route = route(7, 1, 1);
    let round = [add(&route), remove(&route)].concat().repeat(1_000);
    let metrics = wait_until("a peer that lags", || {
        announcer.send(&round);
        announcer.barrier();
        Some(scrape(http)).filter(|it| it.value("metalbond_peers_slow") == 1.0)
    });
    assert!(metrics.value("metalbond_conflations_total") >= 1.0);
    let rows = json(http, "/peers.json");
    let is_slow = |row: &&Value| row["slow"] == true && row["slow_for_s"].is_u64();
    let slow: Vec<&Value> = rows["peers"].as_array().unwrap().iter().filter(is_slow).collect();
    assert_eq!((slow.len(), &slow[0]["slow_vnis"]), (1, &Value::from(1)), "{rows}");
    let remote = slow[0]["address"].as_str().unwrap();
    let series = format!("metalbond_peer_slow_vnis{{peer=\"{remote}\"}}");
    assert_eq!(scrape(http).value(&series), 1.0);
    reader.settle(common::QUIET);
    scrape_until(http, "that it is back", |it| it.value("metalbond_peers_slow") == 0.0);
}

#[test]
fn older_programs_get_the_older_form() {
    let (_process, http) = serve(&[]);
    let older = "text/plain;version=0.0.4;q=0.5,*/*;q=0.1";
    let (head, body) = ask_with(http, "GET", "/metrics", &format!("Accept: {older}\r\n"));
    assert!(head.contains("content-type: text/plain; version=0.0.4; charset=utf-8"), "{head}");
    assert!(body.contains("# TYPE metalbond_updates_sent_total counter\n"), "{body}");
    assert!(!body.contains("# EOF"), "{body}");
    let newer = format!("application/openmetrics-text;version=1.0.0,{older}");
    let (_, body) = ask_with(http, "GET", "/metrics", &format!("Accept: {newer}\r\n"));
    Metrics::read(&body);
    let (head, _) = ask_with(http, "GET", "/metrics", "Accept: text/html,*/*;q=0.8\r\n");
    assert!(head.contains("content-type: text/plain; version=0.0.4"), "{head}");
    let (head, body) = ask(http, "GET", "/metrics?peer=7");
    assert!(head.starts_with("HTTP/1.0 400 "), "{head} {body}");
}

#[test]
fn ready_is_who_does_what_it_is_there_for() {
    let (server, http) = serve(&["--cores", "2"]);
    let status = |http| ask(http, "GET", "/readyz");
    // On a busy machine a shard may answer late, which is not ready.
    wait_until("a server that is ready", || {
        let (head, body) = status(http);
        (head.starts_with("HTTP/1.0 200 ") && body == "ready\n").then_some(())
    });
    // A port that is taken, and on which nobody listens.
    let taken = Socket::new(Domain::IPV6, Type::STREAM, None).unwrap();
    taken.bind(&"[::1]:0".parse::<SocketAddr>().unwrap().into()).unwrap();
    let nobody = taken.local_addr().unwrap().as_socket().unwrap().to_string();
    let client = Process::client(&["--server", &nobody]);
    let http = client.address();
    let (head, body) = status(http);
    assert!(head.starts_with("HTTP/1.0 503 "), "{head}");
    assert_eq!(body, "no server is established\n");
    let metrics = scrape(http);
    assert_eq!(metrics.value("metalbond_servers{state=\"established\"}"), 0.0);
    let connected = server.address().to_string();
    let client = Process::client(&["--server", &connected, "--server", &nobody]);
    let http = client.address();
    wait_until("a server", || (status(http).1 == "ready\n").then_some(()));
    let metrics = scrape(http);
    assert_eq!(metrics.value("metalbond_servers{state=\"established\"}"), 1.0);
}

/// One shard is held up; the other questions at it wait, and `/readyz` says which one.
#[test]
fn a_late_shard_is_not_ready() {
    let server = Server::start(server_config(2, 60)).unwrap();
    let asker = server.asker().clone();
    let view = View::new(asker.clone(), "test");
    let http = HttpListener::bind(&"[::1]:0".parse().unwrap()).unwrap().serve(view).unwrap();
    let status = || ask(http.local_addr(), "GET", "/readyz");
    wait_until("two shards in time", || (status().1 == "ready\n").then_some(()));
    let (release, released) = std::sync::mpsc::channel::<()>();
    let held = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(asker.ask(ShardId(1), move |_, _| released.recv().unwrap()))
    });
    wait_until("a late shard", || {
        let (head, body) = status();
        (head.starts_with("HTTP/1.0 503 ") && body == "shard 1 did not answer within 1s\n")
            .then_some(())
    });
    // Who asks again leaves no more questions behind; one answer is for all.
    assert!(status().0.starts_with("HTTP/1.0 503 "));
    release.send(()).unwrap();
    held.join().unwrap();
    wait_until("all shards", || (status().1 == "ready\n").then_some(()));
}

#[test]
fn who_drains_is_not_ready() {
    let (process, http) = serve(&["--cores", "1"]);
    // It has something to be sent, and does not read: so the end takes a while.
    let mut reader = Peer::connect_with_window(process.address(), 4 << 10);
    reader.handshake(&hello(60, false, true));
    reader.send(&[keepalive(), subscribe(7)].concat());
    reader.barrier();
    let mut announcer = Peer::established(process.address(), 60, true);
    let routes: Vec<Vec<u8>> = (0..50_000).map(|number| add(&route(7, number, 1))).collect();
    announcer.send(&routes.concat());
    announcer.barrier();
    process.signal("TERM");
    process.wait_for("shutting down");
    wait_until("the drain", || {
        let (head, body) = ask(http, "GET", "/readyz");
        (head.starts_with("HTTP/1.0 503 ") && body == "shutting down\n").then_some(())
    });
}
