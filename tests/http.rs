//! The HTTP view of the real program: its shape, its filters, and that it disturbs nobody.
//!
//! Owns what is claimed of answers. Must never assert a time.
#![allow(clippy::unwrap_used, clippy::disallowed_methods)]

mod common;

use std::io::{Read, Write};
use std::net::TcpStream;

use common::process::run;
use common::served::Served;
use common::{Peer, add, route, subscribe};
use metalbond_uring::internals::wire::encode_update;
use metalbond_uring::types::{Action, Destination, Digest, NextHop, Route, Vni};

#[test]
fn tables_have_the_shape_that_programs_know() {
    let served = Served::start(&["--cores", "2"]);
    let (_, body) = served.ask("GET", "/routes.json");
    assert!(body.contains("\n  \"vnet\": {},\n  \"metalbondVersion\": \""), "{body}");
    let (_, body) = served.ask("GET", "/routes.yaml");
    assert!(body.contains("\nvnet: {}\nmetalbondversion: "), "{body}");
    let announced = [route(100, 1, 7), route(100, 1, 3), route(20, 2, 1)];
    let _peer = served.peer(&announced.map(|route| add(&route)).concat());
    served.wait_for_routes(3);
    let (head, body) = served.ask("GET", "/routes.json");
    assert!(head.contains("content-type: application/json"), "{head}");
    let (date, rest) = body.split_once(",\n").unwrap();
    let (vnet, version) = rest.split_once(",\n  \"metalbondVersion\": \"").unwrap();
    assert_eq!(date.len(), "{\n  \"date\": \"2026-11-22 11:00:25\"".len(), "{date}");
    let hop = |number: u32| {
        format!(
            r#"        {{
          "TargetAddress": "2001:db8::{number}",
          "TargetVNI": 0,
          "Type": 0,
          "NATPortRangeFrom": 0,
          "NATPortRangeTo": 0
        }}"#
        )
    };
    // VNIs are sorted as text.
    let expected = format!(
        r#"  "vnet": {{
    "100": {{
      "{{\"IPVersion\":4,\"Prefix\":\"10.0.0.1/32\"}}": [
{},
{}
      ]
    }},
    "20": {{
      "{{\"IPVersion\":4,\"Prefix\":\"10.0.0.2/32\"}}": [
{}
      ]
    }}
  }}"#,
        hop(3),
        hop(7),
        hop(1)
    );
    assert_eq!(vnet, expected);
    assert!(version.ends_with("\"\n}\n"), "{version}");
    let (head, body) = served.ask("GET", "/routes.yaml?vni=20");
    assert!(head.contains("content-type: text/yaml"), "{head}");
    let (_, body) = body.split_once('\n').unwrap();
    let expected = r#"vnet:
  20:
    '{"IPVersion":4,"Prefix":"10.0.0.2/32"}':
    - targetaddress: 2001:db8::1
      targetvni: 0
      type: 0
      natportrangefrom: 0
      natportrangeto: 0
metalbondversion: "#;
    assert!(body.starts_with(expected), "{body}");
}

#[test]
fn questions_are_narrowed_down_and_wrong_ones_told_of() {
    let served = Served::start(&["--cores", "2"]);
    let first = served.peer(&[add(&route(7, 1, 1)), add(&route(8, 1, 1))].concat());
    let _second = served.peer(&[add(&route(7, 1, 2)), add(&route(7, 9, 2))].concat());
    served.wait_for_routes(4);
    let from = first.writer().local_addr().unwrap();
    for (query, routes) in [
        ("", 4),
        ("?vni=7", 3),
        ("?vni=7&vni=8", 4),
        ("?vni=9", 0),
        ("?prefix=10.0.0.1/32", 3),
        ("?prefix=10.0.0.1", 3),
        ("?prefix=10.0.0.2", 0),
        ("?prefix=::a00:1", 0),
        (&format!("?peer={from}"), 2),
        (&format!("?peer={from}&vni=8"), 1),
        ("?peer=::1", 4),
        ("?peer=::2", 0),
    ] {
        let vnet = served.json(&format!("/routes.json{query}"))["vnet"].take();
        let tables = vnet.as_object().unwrap().values();
        let hops = tables.flat_map(|table| table.as_object().unwrap().values());
        assert_eq!(
            hops.map(|hops| hops.as_array().unwrap().len()).sum::<usize>(),
            routes,
            "{query}"
        );
    }
    for (path, status, words) in [
        ("/routes.json?vni=x", "400", "is no VNI"),
        ("/routes.json?vnis=7", "400", "vni, prefix, peer"),
        ("/routes.yaml?prefix=10.0.0.0/99", "400", "is no prefix"),
        ("/peers.json?peer=%3Cb%3E", "400", "is no address"),
        ("/healthz?x", "400", "there are: none"),
        ("/summary.json?vni=1", "400", "there are: none"),
        ("/index.html", "404", "/routes.json"),
        ("/routes.json/", "404", "/routes.json"),
        ("/../../etc/passwd", "404", "/routes.json"),
    ] {
        let (found, body) = served.refusal(path);
        assert_eq!(found, status, "{path}");
        assert!(body.contains(words), "{path}: {body}");
    }
    assert!(served.ask("POST", "/routes.json").0.contains(" 405 "));
    assert_eq!(served.ask("HEAD", "/routes.json").1, "");
    assert_eq!(served.ask("GET", "/healthz").1, served.ask("GET", "/health").1);
}

#[test]
fn a_browser_runs_the_page_and_nothing_else() {
    let served = Served::start(&["--cores", "1"]);
    let (head, body) = served.ask("GET", "/");
    assert!(head.starts_with("HTTP/1.0 200 ") && body.starts_with("<!doctype html>"), "{head}");
    for line in [
        "content-type: text/html; charset=utf-8",
        "x-content-type-options: nosniff",
        "content-security-policy: default-src 'none'; style-src 'sha256-",
    ] {
        assert!(head.contains(line), "{line}: {head}");
    }
    assert!(!head.contains("unsafe"), "{head}");
    let (of_head, nothing) = served.ask("HEAD", "/");
    let lines = |head: &str| {
        head.lines().filter(|line| !line.starts_with("date")).map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!((lines(&of_head), &*nothing), (lines(&head), ""));
    let (head, _) = served.ask("POST", "/");
    assert!(head.contains(" 405 ") && head.contains("allow: GET, HEAD"), "{head}");
    assert_eq!(served.refusal("/?vni=1").0, "400");
}

/// An ADD of a prefix.
fn add_prefix(vni: u32, prefix: &str) -> Vec<u8> {
    let route =
        Route { destination: prefix.parse().unwrap(), next_hop: "2001:db8::1".parse().unwrap() };
    let mut frame = Vec::new();
    encode_update(&mut frame, Action::Add, Vni(vni), &route);
    frame
}

#[test]
fn an_address_finds_the_longest_prefix_of_each_vni() {
    let served = Served::start(&["--cores", "2"]);
    let prefixes =
        ["0.0.0.0/0", "10.0.0.0/8", "10.0.7.9/24", "10.0.8.0/24", "::/0", "2001:db8::/32"];
    let mut said: Vec<u8> = prefixes.iter().flat_map(|prefix| add_prefix(0, prefix)).collect();
    said.extend(add_prefix(u32::MAX, "10.0.0.0/16"));
    let _peer = served.peer(&said);
    served.wait_for_routes(7);
    for (address, expected) in [
        ("10.0.7.1", &["10.0.7.9/24", "10.0.0.0/16"][..]),
        ("10.1.7.1", &["10.0.0.0/8"]),
        ("11.0.0.0", &["0.0.0.0/0"]),
        ("2001:db8::7", &["2001:db8::/32"]),
        ("::ffff:10.0.7.1", &["::/0"]),
    ] {
        let vnet = served.json(&format!("/routes.json?prefix={address}"))["vnet"].take();
        let tables = vnet.as_object().unwrap().values();
        let found = tables.flat_map(|table| table.as_object().unwrap().keys().cloned());
        let expected = expected.iter().map(|prefix| {
            let version = if prefix.contains('.') { 4 } else { 6 };
            format!("{{\"IPVersion\":{version},\"Prefix\":\"{prefix}\"}}")
        });
        assert_eq!(found.collect::<Vec<_>>(), expected.collect::<Vec<_>>(), "{address}");
    }
}

#[test]
fn tables_are_told_two_at_a_time_and_updates_go_on() {
    let served = Served::start(&["--cores=1", "--keepalive=3600", "--routes-per-peer-max=1000000"]);
    let mut reader = served.peer(&subscribe(6));
    let announced: Vec<u8> = (0..100_000).flat_map(|number| add(&route(5, number, 1))).collect();
    let mut announcer = served.peer(&announced);
    served.wait_for_routes(100_000);
    // They ask for all and read nothing.
    let mut idle: Vec<TcpStream> =
        (0..2).map(|_| TcpStream::connect(served.http).unwrap()).collect();
    for stream in &mut idle {
        write!(stream, "GET /routes.json HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
        let mut first = [0; 15];
        stream.read_exact(&mut first).unwrap();
        assert_eq!(&first, b"HTTP/1.1 200 OK");
    }
    let (head, body) = served.ask("GET", "/routes.json");
    assert!(head.contains(" 503 ") && head.contains("retry-after: 1"), "{head}");
    assert!(body.contains("try again"), "{body}");
    assert_eq!(served.ask("GET", "/healthz").1, "ok\n");
    assert_eq!(served.ask("GET", "/livez").1, "live\n");
    drop(idle);
    std::thread::scope(|scope| {
        for _ in 0..2 {
            // Nothing matches: nothing is written, and all is looked at, time and again.
            scope
                .spawn(|| (0..20).for_each(|_| drop(served.ask("GET", "/routes.json?prefix=::1"))));
        }
        for number in 0..100 {
            announcer.send(&add(&route(6, number, 1)));
            let is_there = |peer: &Peer| peer.update_frames().len() == number as usize + 1;
            reader.read_until("an update", is_there);
        }
    });
}

#[test]
fn a_large_table_is_whole_and_has_its_digest() {
    let served = Served::start(&["--cores", "2"]);
    let announced: Vec<u8> = (0..20_000).flat_map(|number| add(&route(5, number, 1))).collect();
    let mut reader = served.peer(&subscribe(5));
    let _peer = served.peer(&announced);
    served.wait_for_routes(20_000);
    let table = served.json("/routes.json")["vnet"]["5"].take();
    let mut digest = Digest::default();
    let next_hop: NextHop = "2001:db8::1".parse().unwrap();
    let mut destinations: Vec<String> = (0..20_000)
        .map(|number: u32| {
            let prefix = std::net::Ipv4Addr::from(0x0a00_0000 + number).into();
            let destination = Destination { prefix, length: 32 };
            digest.add(&Route { destination, next_hop });
            format!("{{\"IPVersion\":4,\"Prefix\":\"{destination}\"}}")
        })
        .collect();
    destinations.sort();
    let found: Vec<&String> = table.as_object().unwrap().keys().collect();
    assert!(found.into_iter().eq(&destinations));
    let vnis = served.json("/vnis.json");
    let row = &vnis["vnis"][0];
    assert_eq!(row["digest"], digest.to_string());
    let counts = ["vni", "routes", "sources", "subscribers", "slow_subscribers"].map(|it| &row[it]);
    assert_eq!(counts.map(|count| count.as_u64().unwrap()), [5, 20_000, 1, 1, 0]);
    reader.read_until("20,000 updates", |peer| peer.update_frames().len() == 20_000);
    let peers = served.json("/peers.json");
    let peers = peers["peers"].as_array().unwrap();
    let from = |peer: &Peer| peer.writer().local_addr().unwrap().to_string();
    let row = peers.iter().find(|row| row["address"] == from(&reader)).unwrap();
    assert_eq!((&row["state"], &row["direction"]), (&"established".into(), &"incoming".into()));
    assert_eq!((&row["vnis"][0], &row["routes"]), (&5.into(), &0.into()));
    let routes: u64 = peers.iter().map(|row| row["routes"].as_u64().unwrap()).sum();
    assert_eq!((peers.len(), routes), (2, 20_000));
}

#[test]
fn who_asks_slowly_waits_for_nobody_but_himself() {
    let served = Served::start(&["--cores", "1"]);
    let mut reader = served.peer(&subscribe(5));
    let mut announcer = served.peer(&[]);
    // More than there is room for, and none of them ever asks anything.
    let mut slow: Vec<TcpStream> =
        (0..200).map(|_| TcpStream::connect(served.http).unwrap()).collect();
    slow.iter_mut().for_each(|stream| stream.write_all(b"G").unwrap());
    for number in 0..100 {
        announcer.send(&add(&route(5, number, 1)));
        let is_there = |peer: &Peer| peer.update_frames().len() == number as usize + 1;
        reader.read_until("an update", is_there);
    }
    // They wait for their turn, no longer than it takes those before them to be given up.
    assert_eq!(served.ask("GET", "/healthz").1, "ok\n");
    drop(slow);
}

#[test]
fn a_summary_tells_what_feeding_took() {
    let served = Served::start(&["--cores", "2"]);
    let announced: Vec<u8> = (0..5_000).flat_map(|number| add(&route(5, number, 1))).collect();
    let _announcer = served.peer(&announced);
    let mut client = Peer::established(served.process.address(), 60, false);
    client.send(&subscribe(5));
    client.read_until("5,000 updates", |peer| peer.update_frames().len() == 5_000);
    let summary = served.json("/summary.json");
    let peers = &summary["peers"];
    assert_eq!(peers["established"], 2, "{peers}");
    assert_eq!((&peers["paced"], &peers["slow"]), (&1.into(), &0.into()), "{peers}");
    assert_eq!((&summary["routes"], &summary["shards"]), (&5_000.into(), &2.into()));
    assert_eq!(summary["since_start"]["updates_received"], 5_000);
    assert!(summary["pacing"]["proofs"].as_u64().unwrap() > 0, "{summary}");
    assert_eq!(summary["pacing"]["unread_closes"], 0, "{summary}");
}

#[test]
fn an_address_that_cannot_be_had_is_told_of() {
    let taken = std::net::TcpListener::bind("[::1]:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let (code, error) = run(&["server", "--listen", "[::1]:0", "--http", &address]);
    assert_eq!(code, Some(1), "{error}");
    assert!(error.contains("--http: ") && error.contains(&address), "{error}");
    let (code, error) = run(&["server", "--listen", "[::1]:0", "--http", "no-such-host.invalid:1"]);
    assert_eq!(code, Some(1), "{error}");
    assert!(error.contains("cannot find out the address of no-such-host.invalid:1"), "{error}");
}
