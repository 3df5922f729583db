//! `/visibility.json`: who announces a route, who sees it, and who does not and why. And `/history.json`.
//!
//! Owns what is claimed of them. Must never assert a time.
#![allow(clippy::unwrap_used, clippy::disallowed_methods)]

mod common;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use common::http::ask;
use common::served::Served;
use common::{PATIENCE, Peer, add, hello, remove, route, subscribe};
use metalbond_uring::api::{Config, DummyClient, MetalBond, Vni};
use metalbond_uring::internals::wire::encode_update;
use metalbond_uring::types::{Action, Route};
use serde_json::Value;

/// What is told of one route: addresses by list, and by reason.
#[derive(Debug, PartialEq, Eq)]
struct Told {
    announced_by: Vec<String>,
    seen_by: Vec<String>,
    perhaps_not_yet: BTreeMap<String, Vec<String>>,
    not_seen_by: BTreeMap<String, Vec<String>>,
    connecting: Vec<String>,
    not_subscribed: Vec<String>,
}

impl Told {
    fn of(row: &Value) -> Told {
        Told {
            announced_by: addresses(&row["announced_by"]),
            seen_by: addresses(&row["seen_by"]),
            perhaps_not_yet: grouped(&row["perhaps_not_yet"]),
            not_seen_by: grouped(&row["not_seen_by"]),
            connecting: addresses(&row["connecting"]),
            not_subscribed: addresses(&row["not_subscribed"]),
        }
    }
}

/// Addresses by reason.
fn grouped(list: &Value) -> BTreeMap<String, Vec<String>> {
    let groups = list["reasons"].as_array().unwrap().iter().map(|group| {
        assert!(!group["why"].as_str().unwrap().is_empty());
        (group["reason"].as_str().unwrap().to_owned(), addresses(group))
    });
    let groups: BTreeMap<_, _> = groups.collect();
    assert_eq!(list["count"], groups.values().map(Vec::len).sum::<usize>());
    groups
}

fn addresses(list: &Value) -> Vec<String> {
    let peers = list["peers"].as_array().unwrap();
    assert_eq!(list["count"], peers.len());
    peers.iter().map(|peer| peer["address"].as_str().unwrap().to_owned()).collect()
}

fn address(peer: &Peer) -> String {
    peer.writer().local_addr().unwrap().to_string()
}

/// Sorted as they are told: by port, as the host is one.
fn sorted<const N: usize>(peers: [&Peer; N]) -> Vec<String> {
    let mut peers = peers;
    peers.sort_by_key(|peer| peer.writer().local_addr().unwrap().port());
    peers.map(address).to_vec()
}

fn rows(served: &Served, query: &str) -> Vec<Value> {
    let answer = served.json(&format!("/visibility.json?{query}"));
    assert_eq!(answer["cut"], false);
    answer["routes"].as_array().unwrap().clone()
}

/// Waits until it is told so.
#[track_caller]
fn wait_for(served: &Served, query: &str, is_so: impl Fn(&Told) -> bool) -> Told {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let rows = rows(served, query);
        if let [row] = &rows[..]
            && is_so(&Told::of(row))
        {
            return Told::of(row);
        }
        assert!(Instant::now() < deadline, "{rows:?}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn server_peer(served: &Served, said: &[u8]) -> Peer {
    let mut peer = Peer::connect(served.process.address());
    peer.handshake(&hello(60, true, true));
    peer.send(said);
    peer.barrier();
    peer
}

#[test]
fn a_route_is_seen_by_all_but_its_only_announcer() {
    let served = Served::start(&["--cores", "2"]);
    let both = [add(&route(7, 1, 1)), subscribe(7)].concat();
    let first = served.peer(&both);
    // Enough to be on both shards.
    let others = [0, 1, 2].map(|_| served.peer(&subscribe(7)));
    let [a, b, c] = &others;
    let stranger = served.peer(&subscribe(8));
    served.wait_for_routes(1);
    let told = wait_for(&served, "prefix=10.0.0.1/32", |told| told.seen_by.len() == 3);
    assert_eq!(
        told,
        Told {
            announced_by: vec![address(&first)],
            seen_by: sorted([a, b, c]),
            perhaps_not_yet: BTreeMap::new(),
            connecting: vec![],
            not_seen_by: [("own".to_owned(), vec![address(&first)])].into(),
            not_subscribed: vec![address(&stranger)],
        }
    );
    // With a second announcer both see it; the second one does not subscribe.
    let mut second = served.peer(&add(&route(7, 1, 1)));
    let told = wait_for(&served, "prefix=10.0.0.1&vni=7", |told| told.announced_by.len() == 2);
    assert_eq!(told.announced_by, sorted([&first, &second]));
    assert_eq!(told.seen_by, sorted([&first, a, b, c]));
    assert_eq!(told.not_seen_by, BTreeMap::new());
    assert_eq!(told.not_subscribed, sorted([&stranger, &second]));
    // What is told is what they know.
    let mut first = first;
    first.read_until("the route", |peer| peer.view.len() == 1);
    second.send(&remove(&route(7, 1, 1)));
    first.read_until("its withdrawal", |peer| peer.view.is_empty());
    wait_for(&served, "prefix=10.0.0.1/32", |told| told.not_seen_by.contains_key("own"));
    // One that has said nothing yet.
    let silent = Peer::connect(served.process.address());
    let told = wait_for(&served, "prefix=10.0.0.1/32", |told| !told.connecting.is_empty());
    assert_eq!(told.connecting, [address(&silent)]);
    assert!(!told.not_subscribed.contains(&address(&silent)));
}

#[test]
fn nothing_is_passed_from_servers_to_servers() {
    let served = Served::start(&["--cores", "2"]);
    let both = [add(&route(7, 1, 1)), subscribe(7)].concat();
    let (one, other) = (server_peer(&served, &both), server_peer(&served, &subscribe(7)));
    let client = served.peer(&subscribe(7));
    let told = wait_for(&served, "prefix=10.0.0.1", |told| !told.seen_by.is_empty());
    assert_eq!(told.seen_by, [address(&client)]);
    assert_eq!(told.not_seen_by, [("between_servers".to_owned(), sorted([&one, &other]))].into());
    // As soon as a client announces it too, both see it.
    let announcer = served.peer(&both);
    let told = wait_for(&served, "prefix=10.0.0.1", |told| told.announced_by.len() == 2);
    assert_eq!(told.seen_by, sorted([&one, &other, &client, &announcer]));
}

#[test]
fn a_reflected_route_is_seen_by_its_announcer() {
    let served = Served::start(&["--cores", "1", "--reflect-own", "all-but-nat"]);
    let peer = served.peer(&[add(&route(7, 1, 1)), subscribe(7)].concat());
    let told = wait_for(&served, "prefix=10.0.0.1", |told| !told.seen_by.is_empty());
    assert_eq!((told.seen_by, told.not_seen_by), (vec![address(&peer)], BTreeMap::new()));
}

#[test]
fn who_does_not_read_has_not_been_told_yet() {
    let served = Served::start(&["--cores=2", "--keepalive=3600", "--routes-per-peer-max=1000000"]);
    let mut stalled = Peer::connect_with_window(served.process.address(), 4_096);
    stalled.handshake(&hello(3_600, false, true));
    stalled.send(&subscribe(5));
    stalled.barrier();
    let reader = served.peer(&subscribe(6));
    let said = |frame: fn(&[u8]) -> Vec<u8>| {
        (0..30_000).flat_map(|number| frame(&route(5, number, 1))).collect::<Vec<u8>>()
    };
    let mut announcer = served.peer(&said(add));
    served.wait_for_routes(30_000);
    let told =
        wait_for(&served, "prefix=10.0.0.1", |told| told.perhaps_not_yet.contains_key("behind"));
    assert_eq!(told.perhaps_not_yet["behind"], [address(&stalled)]);
    assert_eq!(told.not_subscribed, sorted([&reader, &announcer]));
    let row = &rows(&served, "prefix=10.0.0.1")[0];
    let peer = &row["perhaps_not_yet"]["reasons"][0]["peers"][0];
    assert!(peer["pending_bytes"].as_u64().unwrap() > 500_000, "{row}");
    // It falls so far behind that it will be told the difference.
    (0..5).for_each(|_| announcer.send(&[said(remove), said(add)].concat()));
    announcer.barrier();
    served.wait_for_routes(30_000);
    let told =
        wait_for(&served, "prefix=10.0.0.1", |told| told.perhaps_not_yet.contains_key("slow"));
    assert_eq!(told.perhaps_not_yet["slow"], [address(&stalled)]);
    // And when it has read all, it sees it.
    stalled.recording = false;
    stalled.read_until("the table", |peer| peer.view.len() == 30_000);
    let told = wait_for(&served, "prefix=10.0.0.1", |told| told.perhaps_not_yet.is_empty());
    assert_eq!(told.seen_by, [address(&stalled)]);
}

#[test]
fn an_address_finds_the_longest_prefix_of_each_vni_and_questions_are_bounded() {
    let served = Served::start(&["--cores", "2"]);
    let say = |vni: u32, prefix: &str, hop: &str| {
        let route = Route { destination: prefix.parse().unwrap(), next_hop: hop.parse().unwrap() };
        let mut frame = Vec::new();
        encode_update(&mut frame, Action::Add, Vni(vni), &route);
        frame
    };
    let mut said = [
        say(0, "10.0.0.0/8", "2001:db8::1"),
        say(0, "10.0.7.9/24", "2001:db8::2"),
        say(0, "10.0.7.9/24", "2001:db8::1"),
        say(u32::MAX, "0.0.0.0/0", "2001:db8::3"),
    ]
    .concat();
    said.extend((0..150).flat_map(|vni| say(1_000 + vni, "fd00::/8", "2001:db8::1")));
    let _peer = served.peer(&said);
    served.wait_for_routes(154);
    let found = |query: &str| {
        let rows = rows(&served, query);
        let text = rows.iter().map(|row| {
            format!(
                "{} {} {}",
                row["vni"],
                row["destination"].as_str().unwrap(),
                row["next_hop"]["address"].as_str().unwrap()
            )
        });
        text.collect::<Vec<_>>()
    };
    assert_eq!(
        found("prefix=10.0.7.1"),
        [
            "0 10.0.7.9/24 2001:db8::1",
            "0 10.0.7.9/24 2001:db8::2",
            "4294967295 0.0.0.0/0 2001:db8::3"
        ]
    );
    assert_eq!(found("prefix=10.0.0.0/8"), ["0 10.0.0.0/8 2001:db8::1"]);
    assert_eq!(found("prefix=10.0.7.1&vni=4294967295"), ["4294967295 0.0.0.0/0 2001:db8::3"]);
    assert_eq!(found("prefix=10.0.7.1&vni=9"), [""; 0]);
    let answer = served.json("/visibility.json?prefix=fd00::7");
    assert_eq!((answer["routes"].as_array().unwrap().len(), &answer["cut"]), (20, &true.into()));
    assert_eq!(answer["routes"][19]["vni"], 1_019);
    for (query, words) in [
        ("", "prefix= is missing"),
        ("?vni=7", "prefix= is missing"),
        ("?prefix=x", "is no prefix"),
        ("?prefix=10.0.0.1&prefix=10.0.0.2", "twice"),
        ("?prefix=10.0.0.1&peer=::1", "there are: prefix, vni"),
    ] {
        let (status, body) = served.refusal(&format!("/visibility.json{query}"));
        assert_eq!(status, "400", "{query}");
        assert!(body.contains(words), "{query}: {body}");
    }
}

#[test]
fn long_lists_are_cut_and_counted() {
    let served = Served::start(&["--cores", "2"]);
    let peers: Vec<Peer> = (0..250).map(|_| served.peer(&subscribe(7))).collect();
    let _announcer = served.peer(&add(&route(7, 1, 1)));
    served.wait_for_routes(1);
    let deadline = Instant::now() + PATIENCE;
    let seen_by = loop {
        let seen_by = rows(&served, "prefix=10.0.0.1")[0]["seen_by"].clone();
        if seen_by["count"] == 250 {
            break seen_by;
        }
        assert!(Instant::now() < deadline, "{seen_by}");
    };
    // The first by address, whatever shards they are at.
    let mut ports: Vec<u16> =
        peers.iter().map(|peer| peer.writer().local_addr().unwrap().port()).collect();
    ports.sort_unstable();
    let named =
        seen_by["peers"].as_array().unwrap().iter().map(|peer| peer["address"].as_str().unwrap());
    let expected = ports.iter().take(200).map(|port| format!("[::1]:{port}"));
    assert!(named.map(str::to_owned).eq(expected), "{seen_by}");
}

#[test]
fn a_client_announces_to_its_servers() {
    let top = Served::start(&["--cores", "1"]);
    let node = MetalBond::new(Config { cores: 2, ..Config::default() }, DummyClient).unwrap();
    let http = node.start_http_server("[::1]:0").unwrap();
    let server = top.process.address().to_string();
    node.add_peer(&server, None).unwrap();
    node.announce_route(Vni(7), "10.0.9.0/24".parse().unwrap(), "2001:db8::9".parse().unwrap())
        .unwrap();
    node.subscribe(Vni(7)).unwrap();
    let _other = top.peer(&add(&route(7, 1, 1)));
    let told = |prefix: &str, is_so: &dyn Fn(&Told) -> bool| {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let (_, body) = ask(http, "GET", &format!("/visibility.json?prefix={prefix}"));
            let answer: Value = serde_json::from_str(&body).unwrap();
            let rows = answer["routes"].as_array().unwrap();
            if let [row] = &rows[..]
                && is_so(&Told::of(row))
            {
                return Told::of(row);
            }
            assert!(Instant::now() < deadline, "{body}");
            std::thread::sleep(Duration::from_millis(20));
        }
    };
    // Its own goes to the server; the server's to itself, and not back.
    let own = told("10.0.9.1", &|told| !told.seen_by.is_empty());
    assert_eq!(
        (own.announced_by, own.seen_by),
        (vec!["this node".to_owned()], vec![server.clone()])
    );
    assert_eq!(own.not_seen_by["own"], ["this node"]);
    let learned = told("10.0.0.1", &|told| !told.seen_by.is_empty());
    assert_eq!(
        (learned.announced_by, learned.seen_by),
        (vec![server.clone()], vec!["this node".to_owned()])
    );
    assert_eq!(learned.not_seen_by, [("own_server".to_owned(), vec![server])].into());
    assert_eq!(learned.not_subscribed, [""; 0]);
    node.shutdown();
}

#[test]
fn the_last_minutes_are_kept() {
    let served = Served::start(&["--cores", "2"]);
    let mut reader = served.peer(&subscribe(5));
    let mut announcer = served.peer(&[]);
    let deadline = Instant::now() + PATIENCE;
    let mut number = 0;
    // Until there are three samples with something to tell.
    let history = loop {
        number += 1;
        announcer.send(&add(&route(5, number, 1)));
        reader.read_until("an update", |peer| peer.updates >= number as usize);
        let history = served.json("/history.json");
        if history["samples"].as_array().unwrap().len() >= 3 {
            break history;
        }
        assert!(Instant::now() < deadline, "{history}");
        std::thread::sleep(Duration::from_millis(20));
    };
    let samples = history["samples"].as_array().unwrap();
    assert_eq!(history["last"], samples.last().unwrap()["number"]);
    let last = samples.last().unwrap();
    assert!(last["updates_received_per_s"].as_f64().unwrap() > 0.0, "{last}");
    assert!(last["updates_sent_per_s"].as_f64().unwrap() > 0.0, "{last}");
    let [p50, p99] = ["p50", "p99"].map(|part| last["propagation_us"][part].as_u64().unwrap());
    assert!(p50 <= p99, "{last}");
    assert!(
        last["routes"].as_u64().unwrap() > 0
            && last["unix_time_ms"].as_i64().unwrap() > 1_700_000_000_000
    );
    // Only what is newer.
    let newer = served.json("/history.json?after=2");
    assert_eq!(newer["samples"][0]["number"], 3);
    let (status, body) = served.refusal("/history.json?after=soon");
    assert_eq!((&*status, body.contains("is no number")), ("400", true), "{body}");
}
