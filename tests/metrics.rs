//! What monitoring sees: `/metrics`, `/readyz`, and the figures of single peers.
//!
//! Owns what is claimed of them. Must never assert a time.
#![allow(clippy::unwrap_used, clippy::disallowed_methods)]

mod common;

use std::net::SocketAddr;

use common::http::{ask, ask_with, json, wait_until};
use common::openmetrics::Metrics;
use common::process::Process;
use common::{Peer, add, frame, keepalive, remove, route, subscribe};
use serde_json::Value;
use socket2::{Domain, Socket, Type};

fn serve(arguments: &[&str]) -> (Process, SocketAddr) {
    let process = Process::serve(&[arguments, &["--http", "[::1]:0"]].concat());
    let http = process.http_address();
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
        ("metalbond_pending_bytes", 0.0),
        ("metalbond_memory_bytes{pool=\"input\"}", 0.0),
        ("metalbond_memory_max_bytes{pool=\"input\"}", 4.0 * (1192.0 + 65_536.0)),
        ("metalbond_memory_max_bytes{pool=\"laggards\"}", f64::from(1 << 30)),
    ] {
        assert_eq!(metrics.value(series), value, "{series}");
    }
    // Whether the one too many was taken depends on what was known of the others.
    let refused = metrics.value("metalbond_dropped_messages_total{reason=\"routes_limit\"}");
    assert_eq!(metrics.value("metalbond_updates_received_total") + refused, 13.0);
    assert!(metrics.value("metalbond_propagation_seconds_count") >= 3.0);
    assert!(metrics.value("metalbond_turn_seconds_count{shard=\"1\"}") > 0.0);
    assert!(!metrics.types.keys().any(|name| name.contains("metalbond_peer_routes")));
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
    assert_eq!(metrics.value("metalbond_connections_refused_total"), 1.0);
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
    let local = "[::1]:0";
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
    let (head, body) = ask(http, "GET", "/metrics?peer=7");
    assert!(head.starts_with("HTTP/1.0 400 "), "{head} {body}");
}

#[test]
fn ready_is_who_does_what_it_is_there_for() {
    let (server, http) = serve(&["--cores", "2"]);
    let status = |http| ask(http, "GET", "/readyz");
    let (head, body) = status(http);
    assert!(head.starts_with("HTTP/1.0 200 ") && body == "ready\n", "{head} {body}");
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
