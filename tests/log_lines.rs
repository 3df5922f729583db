//! Lines of the log: their forms, and what is said of a peer that is slow.
#![allow(clippy::unwrap_used, clippy::disallowed_methods)]

mod common;

use std::time::Duration;

use common::http::wait_until;
use common::process::{Process, run};
use common::*;
use serde_json::Value;

fn start_and_end(format: &str) -> Vec<String> {
    let mut server = Process::serve(&["--cores", "1", "--log-format", format]);
    let mut stranger = Peer::connect(server.address());
    // With what a form has to escape.
    stranger.send(b"\"\\\n\x1b\x00\xff\xff\xff\xff");
    stranger.read_until_closed();
    drop(Peer::established(server.address(), 60, true));
    server.wait_for("the peer closed the connection");
    server.signal("TERM");
    assert_eq!(server.exit_status().code(), Some(0));
    server.wait_for("shutting down");
    server.log().lines().map(str::to_owned).collect()
}

#[test]
fn json_is_an_object_a_line() {
    let lines = start_and_end("json");
    let values: Vec<Value> = lines
        .iter()
        .map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}")))
        .collect();
    for value in &values {
        for key in ["timestamp", "level", "message", "target"] {
            assert!(value[key].is_string(), "{key}: {value}");
        }
    }
    let ended = values.iter().find(|value| value["message"] == "closed").unwrap();
    assert_eq!(ended["reason"], "the peer closed the connection", "{ended}");
    assert!(ended["remote"].as_str().unwrap().starts_with("[::1]:"), "{ended}");
    assert!(values.iter().any(|value| value["message"] == "established"));
}

#[test]
fn logfmt_is_pairs() {
    for line in start_and_end("logfmt") {
        let keys = keys_of(&line);
        assert!(
            ["ts", "level", "target", "message"].iter().all(|key| keys.contains(key)),
            "{line}"
        );
        assert!(!line.contains('\x1b'), "{line}");
    }
}

/// The keys of a line; panics if it is no logfmt.
fn keys_of(line: &str) -> Vec<&str> {
    let (mut keys, mut rest) = (Vec::new(), line);
    while !rest.is_empty() {
        let (key, behind) = rest.split_once('=').unwrap_or_else(|| panic!("no pair: {rest}"));
        let is_bare = |c: char| c.is_ascii_alphanumeric() || "._".contains(c);
        assert!(!key.is_empty() && key.chars().all(is_bare), "{line}");
        keys.push(key);
        let end = match behind.strip_prefix('"') {
            None => behind.find(' ').unwrap_or(behind.len()),
            Some(quoted) => {
                let escaped = |at: usize| quoted[..at].bytes().rev().take_while(|c| *c == b'\\');
                let ends = quoted.match_indices('"').map(|(at, _)| at);
                let end = ends.into_iter().find(|&at| escaped(at).count() % 2 == 0);
                end.expect("a quote ends") + 2
            }
        };
        rest = behind[end..].strip_prefix(' ').unwrap_or(&behind[end..]);
    }
    keys
}

/// Before the log begins, and for what ends the process, the form counts too.
#[test]
fn last_words_have_the_form() {
    let taken = std::net::TcpListener::bind("[::1]:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let (code, said) = run(&["--listen", "[::1]:0", "--http", &address, "--log-format", "json"]);
    assert_eq!(code, Some(1));
    let last: Value = serde_json::from_str(said.lines().last().unwrap()).unwrap();
    assert_eq!(last["level"], "ERROR");
    assert!(last["message"].as_str().unwrap().contains("--http"), "{last}");
    let (_, said) = run(&["--listen", "[::1]:0", "--http", &address, "--log-format", "logfmt"]);
    assert!(keys_of(said.lines().last().unwrap()).contains(&"message"), "{said}");
    let (code, said) = run(&["--log-format", "xml"]);
    assert_eq!(code, Some(2));
    assert!(said.contains("text, json or logfmt"), "{said}");
}

#[test]
fn a_slow_peer_is_told_of_when_it_lags_and_when_it_is_back() {
    let server = Process::serve(&["--cores", "1"]);
    let mut reader = Peer::connect_with_window(server.address(), 16 << 10);
    reader.handshake(&hello(60, false, true));
    reader.send(&keepalive());
    reader.send(&subscribe(7));
    reader.barrier();
    let mut announcer = Peer::established(server.address(), 60, true);
    let routes: Vec<Vec<u8>> = (0..100).map(|number| route(7, number, 1)).collect();
    let adds: Vec<u8> = routes.iter().flat_map(|route| add(route)).collect();
    let removes: Vec<u8> = routes.iter().flat_map(|route| remove(route)).collect();
    let round = [adds.clone(), removes].concat();
    wait_until("a peer that lags", || {
        for _ in 0..50 {
            announcer.send(&round);
        }
        announcer.barrier();
        (server.logged("conflated: it reads too slowly") == 1).then_some(())
    });
    assert_eq!(server.logged("back: it was told all"), 0, "{}", server.log());
    announcer.send(&adds);
    announcer.barrier();
    // Each round before the last brings all routes too.
    wait_until("a peer that was told all", || {
        reader.read_some(Duration::from_millis(1));
        let is_back = server.logged("back: it was told all") == 1;
        (is_back && reader.view.len() == routes.len()).then_some(())
    });
    assert_eq!(server.logged("conflated"), 1, "{}", server.log());
}
