//! The wire format against frames written down elsewhere: the corpus of the Go implementation's
//! encodings and reactions where it is at hand, and the project's own smaller set always.
//!
//! Owns the comparison. Must never make a frame itself: what it expects comes from the files.
//!
//! The large corpus is looked for in the directory that `METALBOND_CORPUS` names, else in
//! `../shared/wire` beside the repository.

#![allow(clippy::unwrap_used)] // The lint's exception for tests does not reach their helpers.

use std::io::Write;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use metalbond_uring::internals::wire::{
    self, DecodeError, Deframer, Fault, HEADER_BYTES, Hello, Message, Reaction, Update,
};
use metalbond_uring::types::{Action, Destination, NextHop, NextHopType, Route, Vni};
use serde_json::Value;

#[test]
fn own_vectors() {
    assert_eq!(check_vectors(&own_corpus().join("vectors.json")), 25);
}

#[test]
fn shared_vectors() {
    if let Some(corpus) = shared_corpus() {
        assert!(check_vectors(&corpus.join("vectors.json")) >= 480);
    }
}

#[test]
fn own_bad_frames() {
    assert_eq!(check_bad_frames(&own_corpus().join("bad-frames.json")), 22);
}

#[test]
fn shared_bad_frames() {
    if let Some(corpus) = shared_corpus() {
        assert!(check_bad_frames(&corpus.join("bad-frames.json")) >= 70);
    }
}

/// Frames that the codec takes, and whose reaction follows from the connection's state or from
/// the tables.
const NOT_A_MATTER_OF_THE_CODEC: [&str; 13] = [
    "hello-twice-before-keepalive",
    "hello-twice-established",
    "keepalive-first",
    "subscribe-first",
    "unsubscribe-first",
    "update-first",
    "update-no-nexthop-fresh",
    "subscribe-after-hello-before-keepalive",
    "subscribe-before-established-empty-table",
    "unsubscribe-not-subscribed",
    "unsubscribe-twice",
    "update-remove-unknown",
    "update-remove-other-peers-route",
];

fn own_corpus() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/corpus")
}

fn shared_corpus() -> Option<PathBuf> {
    let beside = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/wire");
    let corpus = std::env::var_os("METALBOND_CORPUS").map_or(beside, PathBuf::from);
    if corpus.join("vectors.json").exists() {
        return Some(corpus);
    }
    // Written past the test harness, which would keep it to itself.
    let text = format!(
        "\n*** NOT TESTED: no corpus of the Go implementation in {}\n\
         *** (METALBOND_CORPUS names its directory); only the project's own set is.\n\n",
        corpus.display()
    );
    std::io::stderr().write_all(text.as_bytes()).unwrap();
    None
}

fn load(path: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(path).unwrap();
    serde_json::from_str(&text).unwrap()
}

/// Every vector decodes to its fields, and they encode to its bytes. Returns how many frames.
fn check_vectors(path: &Path) -> usize {
    let mut frames = 0;
    for vector in load(path) {
        let name = vector["name"].as_str().unwrap();
        let Some(text) = vector["hex"].as_str() else {
            assert!(vector["encode_error"].is_string(), "{name}: no bytes");
            continue; // Values that our types cannot hold.
        };
        let bytes = hex::decode(text).unwrap();
        let kind = vector["kind"].as_str().unwrap();
        let decoded = decode_single(&bytes);
        frames += 1;
        if !is_valid(kind, &vector) {
            let reaction = decoded.expect_err(name).reaction();
            assert_eq!(reaction == Reaction::Close, kind == "HELLO", "{name}");
            continue;
        }
        let mut encoded = Vec::new();
        message(kind, &vector["fields"]).encode(&mut encoded);
        assert_eq!(hex::encode(encoded), text, "{name}");
        // The Go decoder loses the server flag of a HELLO, and ours keeps it.
        let lossy = &vector["go_decodes_to"];
        let as_decoded = if lossy.is_null() || kind == "HELLO" { &vector["fields"] } else { lossy };
        assert_eq!(decoded, Ok(message(kind, as_decoded)), "{name}");
    }
    frames
}

/// What we must take. The Go encoder writes some messages that are to be refused.
fn is_valid(kind: &str, vector: &Value) -> bool {
    match kind {
        "HELLO" => vector["fields"]["keepalive_interval"] != 0,
        "UPDATE" => vector["decode_verdict"].is_null() && vector["fields"]["prefix_len"] != -1,
        _ => true,
    }
}

fn message(kind: &str, fields: &Value) -> Message {
    let vni = |name: &str| Vni(number(fields, name).try_into().unwrap());
    match kind {
        "HELLO" => Message::Hello(Hello {
            keepalive_interval_s: number(fields, "keepalive_interval").try_into().unwrap(),
            is_server: fields["is_server"].as_bool().unwrap(),
            reassembles: fields["reassembles"].as_bool().unwrap_or(false),
        }),
        "KEEPALIVE" => Message::Keepalive,
        "SUBSCRIBE" => Message::Subscribe(vni("vni")),
        "UNSUBSCRIBE" => Message::Unsubscribe(vni("vni")),
        "UPDATE" => {
            let prefix = address(&fields["prefix_hex"]);
            assert_eq!(prefix.is_ipv6(), fields["ip_version"] == 6);
            Message::Update(Update {
                action: match fields["action"].as_str().unwrap() {
                    "ADD" => Action::Add,
                    "REMOVE" => Action::Remove,
                    other => panic!("action {other}"),
                },
                vni: vni("vni"),
                route: Route {
                    destination: Destination {
                        prefix,
                        length: number(fields, "prefix_len").try_into().unwrap(),
                    },
                    next_hop: NextHop {
                        address: address(&fields["target_address_hex"]),
                        vni: vni("target_vni"),
                        kind: NextHopType(number(fields, "type").try_into().unwrap()),
                        nat_port_from: number(fields, "nat_from").try_into().unwrap(),
                        nat_port_to: number(fields, "nat_to").try_into().unwrap(),
                    },
                },
            })
        }
        other => panic!("kind {other}"),
    }
}

fn number(fields: &Value, name: &str) -> i64 {
    fields[name].as_i64().unwrap()
}

fn address(text: &Value) -> IpAddr {
    let bytes = hex::decode(text.as_str().unwrap()).unwrap();
    match bytes.len() {
        4 => <[u8; 4]>::try_from(bytes).unwrap().into(),
        _ => <[u8; 16]>::try_from(bytes).unwrap().into(),
    }
}

/// The message in these bytes, which are one frame.
fn decode_single(bytes: &[u8]) -> Result<Message, Fault> {
    let mut deframer = Deframer::new();
    let mut input = bytes;
    let frame = deframer.next(&mut input)?.expect("a whole frame");
    assert!(input.is_empty());
    assert_eq!(frame.payload.len() + HEADER_BYTES, bytes.len());
    Ok(wire::decode(frame)?)
}

/// Every bad frame gets the reaction that is written beside it, as far as that is up to the
/// codec. Returns how many were judged.
fn check_bad_frames(path: &Path) -> usize {
    let mut judged = 0;
    for case in load(path) {
        let name = case["name"].as_str().unwrap();
        if NOT_A_MATTER_OF_THE_CODEC.contains(&name) {
            continue;
        }
        let ours = case["ours"].as_str().unwrap();
        let Some(text) = case["hex"].as_str() else {
            continue; // Too long to be written down.
        };
        let expected = match ours {
            _ if ours.starts_with("close the connection") => Some(Reaction::Close),
            _ if ours.starts_with("drop this message only") => Some(Reaction::DropMessage),
            _ => None,
        };
        let bytes = hex::decode(text).unwrap();
        assert_eq!(reaction(&bytes), expected, "{name}: {ours}");
        judged += 1;
    }
    judged
}

/// The reaction to the first fault in a stream, if there is one.
fn reaction(bytes: &[u8]) -> Option<Reaction> {
    let mut deframer = Deframer::new();
    let mut input = bytes;
    loop {
        let decoded: Result<Message, DecodeError> = match deframer.next(&mut input) {
            Ok(Some(frame)) => wire::decode(frame),
            Ok(None) => return None,
            Err(error) => return Some(Fault::Frame(error).reaction()),
        };
        if let Err(error) = decoded {
            return Some(Fault::Decode(error).reaction());
        }
    }
}
