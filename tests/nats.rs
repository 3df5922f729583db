//! What the fabric relies on, asked of a real NATS server.
//!
//! Owns the contract with the engine. Without a server that is new enough it is skipped, loudly.
#![cfg(feature = "fabric")]
#![allow(clippy::unwrap_used, clippy::disallowed_methods)]

mod common;

use std::time::Duration;

use async_nats::Event;
use common::PATIENCE;
use common::nats::{NatsServer, denying, old_server};
use metalbond_uring::internals::fabric::{Ended, Publish, PublishError};
use metalbond_uring::internals::io::{
    Connected, Delivered, FabricOptions, Fault, Feed, Link, Publication,
};

const S: Duration = Duration::from_secs(1);

fn options(address: &str) -> FabricOptions {
    FabricOptions::new(address.parse().unwrap(), "R1".parse().unwrap())
}

/// A reflector's connection to the engine.
struct Node {
    connected: Connected,
    token: u64,
}

impl Node {
    async fn join(server: &NatsServer, fabric: &str) -> Node {
        let connected = Link::connect(&options(&server.fabric(fabric))).await.unwrap();
        Node { connected, token: 0 }
    }

    async fn publish(&mut self, what: Publish) -> Result<u64, PublishError> {
        self.token += 1;
        let publication = Publication::from(Publish { token: self.token, ..what });
        self.connected.link.publish(&publication).await.unwrap();
        let acked = tokio::time::timeout(PATIENCE, self.connected.acks.next()).await;
        let (token, outcome) = acked.expect("an answer").unwrap();
        assert_eq!(token, self.token);
        outcome
    }

    async fn put(&mut self, subject: &str, value: &str) -> u64 {
        self.publish(of(subject, value)).await.unwrap()
    }

    async fn open(&self) -> Feed {
        self.connected.link.stream().await.unwrap();
        self.connected.link.open().await.unwrap()
    }

    /// Waits for something that happens to the connection.
    async fn event(&mut self, is_meant: impl Fn(&Event) -> bool) {
        let event = async { while !is_meant(&self.connected.events.recv().await.unwrap()) {} };
        tokio::time::timeout(PATIENCE, event).await.expect("an event");
    }
}

fn of(subject: &str, value: &str) -> Publish {
    let (subject, value) = (subject.to_owned(), value.as_bytes().to_vec());
    Publish { subject, value, ..Publish::default() }
}

async fn next(feed: &mut Feed) -> Delivered {
    tokio::time::timeout(PATIENCE, feed.next()).await.expect("a message").unwrap()
}

/// What is there until nothing more is to come.
async fn read(feed: &mut Feed) -> Vec<Delivered> {
    let mut all = Vec::new();
    if feed.pending_at_first == 0 {
        return all;
    }
    loop {
        all.push(next(feed).await);
        if all.last().unwrap().pending == 0 {
            return all;
        }
    }
}

fn keys(all: &[Delivered]) -> Vec<&str> {
    all.iter().map(|it| it.subject.as_str()).collect()
}

/// Nothing comes for so long.
async fn silence(feed: &mut Feed, time: Duration) {
    let came = tokio::time::timeout(time, feed.next()).await;
    assert!(came.is_err(), "{came:?}");
}

#[tokio::test]
async fn reading_ends_when_nothing_is_pending() {
    let Some(server) = NatsServer::start() else { return };
    let mut node = Node::join(&server, "f").await;
    assert_eq!(node.open().await.pending_at_first, 0, "an empty stream says so at once");
    for count in 1..=300 {
        node.put(&format!("mb.f.r.1.R1.k{count}"), "x").await;
    }
    let mut feed = node.open().await;
    assert_eq!(feed.pending_at_first, 300);
    let first = next(&mut feed).await;
    assert_eq!((first.sequence, first.pending), (1, 299));
    // What is written anew meanwhile moves behind the end that was known at the start.
    let last = node.put("mb.f.r.1.R1.k1", "y").await;
    let mut rest = read(&mut feed).await;
    if rest.last().unwrap().sequence != last {
        // All the others were on their way already.
        rest.push(next(&mut feed).await);
    }
    assert!(rest.is_sorted_by_key(|it| it.sequence));
    let end = rest.last().unwrap();
    assert_eq!((end.sequence, end.pending, &end.value[..]), (last, 0, &b"y"[..]));
    // From then on each comes as it is published, and is the last.
    let sequence = node.put("mb.f.r.1.R1.k2", "z").await;
    let live = next(&mut feed).await;
    assert_eq!((live.sequence, live.pending, live.ended), (sequence, 0, None));
    assert!(live.age < PATIENCE, "{live:?}");
}

#[tokio::test]
async fn the_end_of_a_lease_is_one_marker() {
    let Some(server) = NatsServer::start() else { return };
    let mut node = Node::join(&server, "f").await;
    let mut feed = node.open().await;
    let lease = Publish { lifetime: Some(5 * S), ..of("mb.f.l.R1", "alive") };
    let first = node.publish(lease.clone()).await.unwrap();
    assert_eq!(next(&mut feed).await.ended, None);
    // One that is renewed does not end.
    tokio::time::sleep(S).await;
    let renewed = Publish { expect_last: Some(first), ..lease };
    let renewed = node.publish(renewed).await.unwrap();
    assert_eq!(next(&mut feed).await.sequence, renewed);
    let marker = next(&mut feed).await;
    assert_eq!(marker.subject.as_str(), "mb.f.l.R1");
    assert_eq!(marker.ended, Some(Ended::Lifetime));
    assert!(marker.value.is_empty());
    silence(&mut feed, 3 * S).await;
    // It is there for who reads later, with the time of the end.
    let all = read(&mut node.open().await).await;
    assert_eq!(keys(&all), ["mb.f.l.R1"]);
    assert_eq!(all[0].ended, Some(Ended::Lifetime));
    assert!(all[0].age >= 2 * S, "{:?}", all[0].age);
}

#[tokio::test]
async fn a_tombstone_leaves_no_marker() {
    let Some(server) = NatsServer::start() else { return };
    let mut node = Node::join(&server, "f").await;
    let mut feed = node.open().await;
    node.put("mb.f.r.1.R1.k", "x").await;
    assert_eq!(next(&mut feed).await.ended, None);
    let tombstone = Publish { lifetime: Some(S), is_tombstone: true, ..of("mb.f.r.1.R1.k", "") };
    node.publish(tombstone).await.unwrap();
    assert_eq!(next(&mut feed).await.ended, Some(Ended::Removed));
    silence(&mut feed, 4 * S).await;
    assert_eq!(node.open().await.pending_at_first, 0, "it is gone by itself");
}

/// A mark that has a value: nobody is told when it ends.
#[tokio::test]
async fn a_lease_that_is_marked_as_removed_ends_in_silence() {
    let Some(server) = NatsServer::start() else { return };
    let mut node = Node::join(&server, "f").await;
    let mut feed = node.open().await;
    let gone = Publish { lifetime: Some(S), is_tombstone: true, ..of("mb.f.l.R1", "1 gone") };
    node.publish(gone).await.unwrap();
    let delivered = next(&mut feed).await;
    assert_eq!((delivered.ended, &delivered.value[..]), (Some(Ended::Removed), &b"1 gone"[..]));
    silence(&mut feed, 4 * S).await;
    assert_eq!(node.connected.link.leases().await, Ok(Vec::new()));
}

#[tokio::test]
async fn leases_are_had_at_once() {
    let Some(server) = NatsServer::start() else { return };
    let mut node = Node::join(&server, "f").await;
    assert_eq!(node.connected.link.leases().await, Ok(Vec::new()));
    for count in 0..100 {
        node.put(&format!("mb.f.r.1.R1.{count}"), "x").await;
    }
    for name in ["R1", "R2", "R1"] {
        let lease = Publish { lifetime: Some(5 * S), ..of(&format!("mb.f.l.{name}"), name) };
        node.publish(lease).await.unwrap();
    }
    let leases = node.connected.link.leases().await.unwrap();
    assert_eq!(keys(&leases), ["mb.f.l.R2", "mb.f.l.R1"]);
    // Then their marks.
    let marks = async {
        loop {
            let leases = node.connected.link.leases().await.unwrap();
            assert_eq!(leases.len(), 2);
            if leases.iter().all(|lease| lease.ended == Some(Ended::Lifetime)) {
                break;
            }
            tokio::time::sleep(S / 10).await;
        }
    };
    tokio::time::timeout(PATIENCE, marks).await.unwrap();
}

#[tokio::test]
async fn only_the_last_of_a_key_is_kept_and_told() {
    let Some(server) = NatsServer::start() else { return };
    let mut node = Node::join(&server, "f").await;
    for round in 0..50 {
        for key in 0..10 {
            node.put(&format!("mb.f.r.1.R1.k{key}"), &round.to_string()).await;
        }
    }
    let all = read(&mut node.open().await).await;
    assert_eq!(all.len(), 10);
    assert!(all.iter().all(|it| it.value == "49"));
}

/// The engine conflates for who does not read, and nothing is lost of what counts.
#[tokio::test]
async fn a_slow_reader_is_told_the_present_state() {
    const KEYS: usize = 60_000;
    let Some(server) = NatsServer::start() else { return };
    let mut node = Node::join(&server, "f").await;
    let mut slow = node.open().await;
    for round in ["1", "2", "3"] {
        let mut pending = 0;
        for key in 0..KEYS {
            let what = Publish { token: 1, ..of(&format!("mb.f.r.1.R1.{key}"), round) };
            let publication = Publication::from(what);
            node.connected.link.publish(&publication).await.unwrap();
            pending += 1;
            if pending == 1_000 {
                while pending > 0 {
                    node.connected.acks.next().await.unwrap().1.unwrap();
                    pending -= 1;
                }
            }
        }
    }
    let mut last = vec![String::new(); KEYS];
    let mut told = 0;
    loop {
        let delivered = next(&mut slow).await;
        let key: usize = delivered.subject.rsplit('.').next().unwrap().parse().unwrap();
        last[key] = String::from_utf8(delivered.value.to_vec()).unwrap();
        told += 1;
        if delivered.pending == 0 {
            break;
        }
    }
    assert!(last.iter().all(|value| value == "3"));
    assert!(told < 3 * KEYS, "{told}: what was overwritten meanwhile is not told");
    silence(&mut slow, S).await;
}

#[tokio::test]
async fn a_key_is_changed_only_by_who_knows_it() {
    let Some(server) = NatsServer::start() else { return };
    let mut node = Node::join(&server, "f").await;
    let cas = |expect_last| Publish { expect_last: Some(expect_last), ..of("mb.f.l.R1", "x") };
    let first = node.publish(cas(0)).await.unwrap();
    assert_eq!(node.publish(cas(0)).await, Err(PublishError::WrongSequence));
    assert_eq!(node.publish(cas(first + 1)).await, Err(PublishError::WrongSequence));
    let second = node.publish(cas(first)).await.unwrap();
    assert_eq!(node.publish(cas(first)).await, Err(PublishError::WrongSequence));
    // What others do to other keys does not count.
    node.put("mb.f.l.R2", "y").await;
    node.publish(cas(second)).await.unwrap();
}

#[tokio::test]
async fn a_purge_spares_what_came_later_and_what_does_not_match() {
    let Some(server) = NatsServer::start() else { return };
    let mut node = Node::join(&server, "f").await;
    node.put("mb.f.r.1.R1.a", "x").await;
    node.put("mb.f.r.2.R1.b", "x").await;
    node.put("mb.f.r.1.R2.a", "x").await;
    let gone = node.put("mb.f.l.R1", "gone").await;
    node.put("mb.f.r.1.R1.a", "y").await;
    let mut feed = node.open().await;
    assert_eq!(read(&mut feed).await.len(), 4);
    assert_eq!(node.connected.link.purge("mb.f.r.*.R1.>", gone).await, Ok(1));
    silence(&mut feed, S).await;
    let all = read(&mut node.open().await).await;
    assert_eq!(keys(&all), ["mb.f.r.1.R2.a", "mb.f.l.R1", "mb.f.r.1.R1.a"]);
}

/// An engine that is full refuses new keys; what there is may change, and leases and tombstones go on.
#[tokio::test]
async fn a_full_engine_takes_changes_of_what_there_is() {
    let Some(server) = NatsServer::start() else { return };
    for (fabric, limit) in [("m", "max_msgs"), ("b", "max_bytes")] {
        let mut node = Node::join(&server, fabric).await;
        let key = |name: &str| format!("mb.{fabric}.r.1.R1.{name}");
        node.put(&key("a"), "x").await;
        let lease = format!("mb.{fabric}.l.R1");
        node.publish(Publish { lifetime: Some(60 * S), ..of(&lease, "x") }).await.unwrap();
        let max = if limit == "max_msgs" { 2 } else { 400 };
        bound(&server, fabric, limit, max).await;
        let mut full = None;
        for count in 0..20 {
            if let Err(error) = node.publish(of(&key(&format!("n{count}")), "x")).await {
                full = Some(error);
                break;
            }
        }
        assert_eq!(full, Some(PublishError::Full), "{limit}");
        node.put(&key("a"), "y").await;
        node.publish(Publish { lifetime: Some(60 * S), ..of(&lease, "y") }).await.unwrap();
        // Nor does the lease need room that is renewed.
        node.publish(Publish { lifetime: Some(60 * S), ..of(&lease, "z") }).await.unwrap();
        // A tombstone has headers, which may be more than the value was; one without them always finds room.
        let headed = Publish { lifetime: Some(60 * S), is_tombstone: true, ..of(&key("a"), "") };
        let told = node.publish(headed).await;
        match limit {
            "max_msgs" => drop(told.unwrap()),
            _ => assert_eq!(told, Err(PublishError::Full)),
        }
        node.put(&key("a"), "").await;
        // A stream that the operator has bounded is still ours.
        let again = Link::connect(&options(&server.fabric(fabric))).await;
        assert!(again.is_ok(), "{:?}", again.err());
    }
}

/// As `nats stream edit` does it.
async fn bound(server: &NatsServer, fabric: &str, limit: &str, max: u64) {
    let client = async_nats::connect(server.host()).await.unwrap();
    let name = format!("MB_{fabric}");
    let ask = async |verb: &str, body: String| -> serde_json::Value {
        let subject = format!("$JS.API.STREAM.{verb}.{name}");
        let answer = client.request(subject, body.into()).await.unwrap();
        serde_json::from_slice(&answer.payload).unwrap()
    };
    let mut config = ask("INFO", String::new()).await["config"].take();
    config[limit] = max.into();
    let answer = ask("UPDATE", config.to_string()).await;
    assert_eq!(answer["config"][limit], max, "{answer}");
}

#[tokio::test]
async fn a_killed_server_comes_back_with_all_it_had() {
    let Some(mut server) = NatsServer::start() else { return };
    let mut node = Node::join(&server, "f").await;
    let mut feed = node.open().await;
    for count in 0..100 {
        node.put(&format!("mb.f.r.1.R1.k{count}"), "x").await;
    }
    assert_eq!(next(&mut feed).await.sequence, 1);
    server.kill();
    node.event(|event| *event == Event::Disconnected).await;
    server.run();
    let mut again = Node::join(&server, "f").await;
    assert_eq!(read(&mut again.open().await).await.len(), 100);
    assert_eq!(again.put("mb.f.r.1.R1.k0", "y").await, 101);
}

#[tokio::test]
async fn a_wiped_server_has_a_new_stream() {
    let Some(mut server) = NatsServer::start() else { return };
    let mut node = Node::join(&server, "f").await;
    for count in 0..10 {
        node.put(&format!("mb.f.r.1.R1.k{count}"), "x").await;
    }
    server.kill();
    server.wipe();
    server.run();
    node.event(|event| *event == Event::Disconnected).await;
    let mut again = Node::join(&server, "f").await;
    assert_eq!(again.connected.stream.last_sequence, 0);
    assert_eq!(again.open().await.pending_at_first, 0);
    assert_eq!(again.put("mb.f.r.1.R1.k0", "y").await, 1);
}

/// The stream is removed under a reader who stays connected.
#[tokio::test]
async fn a_removed_stream_ends_the_feed_and_is_made_anew() {
    let Some(server) = NatsServer::start() else { return };
    let mut node = Node::join(&server, "f").await;
    node.put("mb.f.r.1.R1.k", "x").await;
    let mut feed = node.open().await;
    assert_eq!(read(&mut feed).await.len(), 1);
    let client = async_nats::connect(server.host()).await.unwrap();
    client.request("$JS.API.STREAM.DELETE.MB_f", "".into()).await.unwrap();
    let ended = tokio::time::timeout(PATIENCE, feed.next()).await.expect("the end");
    assert!(ended.is_err(), "{ended:?}");
    let refused = node.publish(of("mb.f.r.1.R1.k", "y")).await;
    assert!(matches!(refused, Err(PublishError::Other(_))), "{refused:?}");
    assert_eq!(node.open().await.pending_at_first, 0);
    assert_eq!(node.put("mb.f.r.1.R1.k", "y").await, 1);
}

#[tokio::test]
async fn a_stream_of_another_kind_is_refused_and_left_alone() {
    let Some(server) = NatsServer::start() else { return };
    let client = async_nats::connect(server.host()).await.unwrap();
    let config = serde_json::json!({
        "name": "MB_f", "subjects": ["mb.f.>"], "retention": "limits", "discard": "old", "storage": "file",
        "num_replicas": 1, "max_msgs_per_subject": 1, "max_age": 0,
    });
    client.request("$JS.API.STREAM.CREATE.MB_f", config.to_string().into()).await.unwrap();
    let fault = Link::connect(&options(&server.fabric("f"))).await.unwrap_err();
    let words = fault.to_string();
    assert!(words.starts_with("the stream MB_f has discard Old, and it must be New"), "{words}");
    assert!(words.contains("nats stream rm MB_f"), "{words}");
    let info = client.request("$JS.API.STREAM.INFO.MB_f", "".into()).await.unwrap();
    let info: serde_json::Value = serde_json::from_slice(&info.payload).unwrap();
    assert_eq!(info["config"]["discard"], "old", "it is as it was");
}

#[tokio::test]
async fn what_is_wrong_with_a_server_is_said() {
    let Some(server) = NatsServer::with("") else { return };
    let fault = Link::connect(&options(&server.fabric("f"))).await.unwrap_err();
    assert_eq!(fault, Fault::NoJetStream);
    let Some(single) = NatsServer::start() else { return };
    let wants_three = FabricOptions { replicas: 3, ..options(&single.fabric("f")) };
    let fault = Link::connect(&wants_three).await.unwrap_err();
    assert!(fault.to_string().contains("with 3 replica(s)"), "{fault}");
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let fault = Link::connect(&options(&format!("nats://{nobody}/f"))).await.unwrap_err();
    assert!(matches!(fault, Fault::Connect { .. }), "{fault:?}");
    assert!(fault.to_string().contains(&nobody.to_string()), "{fault}");
}

/// What a server that knows one user by its nkey is told.
const NKEY_USER: &str = r#"authorization { users = [ { nkey: UBZGQZXXYDL2SZ6VGPBKD72CTLHPH64CVOFZJHGAD5VHUZRPSVHXXEU5 } ] }"#;
const NKEY_SEED: &str = "SUAEV73KPO4DVT5OODCHP4BNCVS7O5JXIDEZ4OT2B7HFTJHQQ3NOI57M24";
const OTHER_SEED: &str = "SUAPJHIGADQL4UT2PLHROM4UWW22ATXT4NHEZINZ2KA6ZN7LSW3MS2JBUE";

#[tokio::test]
async fn a_server_that_knows_us_lets_us_in() {
    let configuration = format!("jetstream {{ store_dir: \"STORE\" }}\n{NKEY_USER}");
    let Some(server) = NatsServer::with(&configuration) else { return };
    let file = server.folder().join("user.nk");
    let options =
        FabricOptions { credentials_file: Some(file.clone()), ..options(&server.fabric("f")) };
    let connect = async |seed: &str| {
        std::fs::write(&file, seed).unwrap();
        Link::connect(&options).await
    };
    let ours = format!("# for the fabric\n{NKEY_SEED}\n");
    assert!(connect(&ours).await.is_ok());
    let fault = connect(OTHER_SEED).await.unwrap_err();
    assert!(matches!(fault, Fault::Unauthorized { .. }), "{fault:?}");
    // One that is no seed at all, though it looks like one.
    let broken = NKEY_SEED.replace('7', "6");
    let fault = connect(&broken).await.unwrap_err();
    assert!(!format!("{fault} {fault:?}").contains(&broken), "{fault:?}");
    for nothing in ["", "SUBBUR", &format!("{NKEY_SEED}\n{OTHER_SEED}")] {
        let fault = connect(nothing).await.unwrap_err();
        assert!(fault.to_string().contains("neither NATS credentials"), "{fault}");
        assert!(!format!("{fault:?}").contains("SUBBUR"), "{fault:?}");
    }
    std::fs::remove_file(&file).unwrap();
    let fault = Link::connect(&options).await.unwrap_err().to_string();
    assert!(fault.starts_with("--fabric-creds: ") && fault.contains("user.nk: No such"), "{fault}");
    let nobody = FabricOptions { credentials_file: None, ..options };
    let fault = Link::connect(&nobody).await.unwrap_err();
    assert!(matches!(fault, Fault::Unauthorized { .. }), "{fault:?}");
    assert!(fault.to_string().contains("See --fabric-creds"), "{fault}");
}

/// A server's certificate, and what it is signed with; both made for these tests, and good for nothing else.
const TLS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/tls");

fn with_tls() -> String {
    format!(
        "jetstream {{ store_dir: \"STORE\" }}\n\
         tls {{ cert_file: \"{TLS}/server.pem\", key_file: \"{TLS}/server.key\" }}"
    )
}

#[tokio::test]
async fn tls_is_spoken_with_whom_the_ca_knows() {
    let Some(server) = NatsServer::with(&with_tls()) else { return };
    for scheme in ["tls", "nats"] {
        let address = format!("{scheme}://{}/f", server.host());
        let ca_file = Some(format!("{TLS}/ca.pem").into());
        let known = FabricOptions { ca_file, ..options(&address) };
        let connected = Link::connect(&known).await;
        assert!(connected.is_ok(), "{scheme}: {:?}", connected.err());
        // One that the system does not know.
        let fault = Link::connect(&options(&address)).await.unwrap_err();
        assert!(matches!(fault, Fault::Connect { .. }), "{scheme}: {fault:?}");
    }
    let other = FabricOptions {
        ca_file: Some(server.folder().join("no.pem")),
        ..options(&format!("tls://{}/f", server.host()))
    };
    let fault = Link::connect(&other).await.unwrap_err().to_string();
    assert!(fault.starts_with("--fabric-ca: ") && fault.contains("no.pem: No such"), "{fault}");
    // Nothing goes in the clear to a server that speaks no TLS.
    let Some(plain) = NatsServer::start() else { return };
    let address = format!("tls://{}/f", plain.host());
    let fault = Link::connect(&options(&address)).await.unwrap_err();
    assert!(matches!(fault, Fault::Connect { .. }), "{fault:?}");
}

/// Files that are read, and are none of certificates; and what a server says to whom it does not understand.
#[tokio::test]
async fn what_is_wrong_with_certificates_is_said() {
    let Some(plain) = NatsServer::start() else { return };
    let ca_file = plain.folder().join("ca.pem");
    let of = |scheme: &str, ca_file| FabricOptions {
        ca_file,
        ..options(&format!("{scheme}://{}/f", plain.host()))
    };
    for nothing in ["", "-----BEGIN PRIVATE KEY-----\nAA==\n-----END PRIVATE KEY-----\n"] {
        std::fs::write(&ca_file, nothing).unwrap();
        let fault = Link::connect(&of("tls", Some(ca_file.clone()))).await.unwrap_err();
        let (fault, words) = (fault.to_string(), "ca.pem: it has no certificate (PEM");
        assert!(fault.starts_with("--fabric-ca: ") && fault.contains(words), "{fault}");
    }
    let fault = Link::connect(&of("tls", None)).await.unwrap_err().to_string();
    assert!(fault.contains("speak no TLS: begin with nats://"), "{fault}");
    let Some(server) = NatsServer::with(&with_tls()) else { return };
    let unknown = Link::connect(&options(&format!("tls://{}/f", server.host()))).await;
    let fault = unknown.unwrap_err().to_string();
    assert!(fault.contains("with --fabric-ca"), "{fault}");
}

/// The server's own words say more than that no answer came.
#[tokio::test]
async fn what_a_connection_needs_and_may_not_do_is_said() {
    for denied in ["subscribe: { deny: \"_INBOX.>\" }", "publish: { deny: \"$JS.API.>\" }"] {
        let Some(server) = NatsServer::with(&denying(denied)) else { return };
        let fault = Link::connect(&options(&server.fabric("f"))).await.unwrap_err();
        assert!(matches!(fault, Fault::Forbidden(_)), "{fault:?}");
        assert!(fault.to_string().to_lowercase().contains("permissions violation"), "{fault}");
    }
}

/// Whoever may write may write much. What waits for a reader is bounded all the same: a server closes the connection of
/// whom more than 64 MiB wait for.
#[tokio::test]
async fn large_messages_are_read_by_whom_is_slow() {
    let Some(server) = NatsServer::start() else { return };
    let mut node = Node::join(&server, "f").await;
    let link = node.connected.link.clone();
    let value = "x".repeat(4_000);
    const MESSAGES: u64 = 24_000;
    for first in (0..MESSAGES).step_by(1_000) {
        for number in first..first + 1_000 {
            let what = of(&format!("mb.f.r.7.R9.{number}"), &value);
            link.publish(&Publication::from(what)).await.unwrap();
        }
        for _ in 0..1_000 {
            node.connected.acks.next().await.unwrap().1.unwrap();
        }
    }
    let mut feed = node.open().await;
    next(&mut feed).await;
    // The thread that reads the connection stands still.
    std::thread::sleep(3 * S);
    for number in 2..=MESSAGES {
        assert_eq!(next(&mut feed).await.sequence, number);
    }
}

#[tokio::test]
async fn an_old_server_is_refused() {
    let address = old_server();
    let fault = Link::connect(&options(&format!("nats://{address}/f"))).await.unwrap_err();
    let words = "the NATS server old is of version 2.9.10, which cannot carry a fabric: install nats-server 2.11";
    assert!(fault.to_string().starts_with(words), "{fault}");
}
