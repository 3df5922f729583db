//! Our client in the place of the Go client: the server's side of recorded sessions is played to it, and
//! what it says is compared with what that client said.
//!
//! By design ours differs in its HELLO: it has field 15, "reassembles", and it offers the configured
//! interval on every connection (the Go client sticks to what was negotiated before). The order of what one
//! event holds is free.
#![allow(clippy::unwrap_used, clippy::disallowed_methods)]

mod common;

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use common::{Frame, HELLO, PATIENCE, corpus};
use metalbond_uring::api::{Config, MetalBond, RouteClient, RouteError};
use metalbond_uring::internals::cli::{self, ClientOptions, Invocation};
use metalbond_uring::internals::wire::{self, Deframer, Message};
use metalbond_uring::types::{Action, Destination, NextHop, Route, Vni};
use serde_json::Value;

type Routes = BTreeSet<(Vni, Route)>;

#[derive(Clone, Default)]
struct Recorder(Arc<Mutex<Routes>>);

impl RouteClient for Recorder {
    fn add_route(&mut self, v: Vni, d: Destination, h: NextHop) -> Result<(), RouteError> {
        self.0.lock().unwrap().insert((v, Route { destination: d, next_hop: h }));
        Ok(())
    }
    fn remove_route(&mut self, v: Vni, d: Destination, h: NextHop) -> Result<(), RouteError> {
        self.0.lock().unwrap().remove(&(v, Route { destination: d, next_hop: h }));
        Ok(())
    }
}

/// Which client of the recording made which connection.
fn client_of(transcript: &Value, connection: u64) -> Option<&str> {
    let meta = &transcript["meta"];
    let by_letter = match connection {
        1 => "B",
        2 => "A",
        _ => "C",
    };
    meta["client"].as_str().or_else(|| meta[by_letter].as_str())
}

#[test]
fn our_client_says_what_the_go_client_said() {
    let mut played = 0;
    std::thread::scope(|scope| {
        for (name, transcript) in corpus::folder("transcripts") {
            let events = transcript["events"].as_array().unwrap().clone();
            let connections: BTreeSet<u64> =
                events.iter().filter_map(|event| event["conn"].as_u64()).collect();
            for connection in connections {
                let Some(line) = client_of(&transcript, connection).map(str::to_owned) else {
                    eprintln!("SKIPPED: {name} does not say how its clients were started");
                    continue;
                };
                played += 1;
                let of = |event: &&Value| event["conn"].as_u64() == Some(connection);
                let events: Vec<Value> = events.iter().filter(of).cloned().collect();
                let what = format!("{name}, connection {connection}");
                scope.spawn(move || play(&what, &line, &events));
            }
        }
    });
    eprintln!("{played} connections played");
}

fn options(line: &str) -> ClientOptions {
    let words: Vec<&str> = line.split_whitespace().skip(1).collect();
    match cli::parse(&words) {
        Ok(Invocation::Client(options)) => options,
        other => panic!("{other:?}"),
    }
}

fn play(what: &str, line: &str, events: &[Value]) {
    let options = options(line);
    let listener = TcpListener::bind("[::1]:0").unwrap();
    let recorder = Recorder::default();
    let keepalive_interval_s = options.node.keepalive_interval_s;
    let config = Config { keepalive_interval_s, ..Config::default() };
    let node = MetalBond::new(config, recorder.clone()).unwrap();
    options.subscribe.iter().for_each(|&vni| node.subscribe(vni).unwrap());
    for (vni, route) in &options.announce {
        node.announce_route(*vni, route.destination, route.next_hop).unwrap();
    }
    node.add_peer(&listener.local_addr().unwrap().to_string(), None).unwrap();
    let (mut stream, _) = listener.accept().unwrap();
    stream.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
    let mut unread = Vec::new();
    let mut expected = Routes::new();
    for event in events {
        let bytes = hex::decode(event["hex"].as_str().unwrap_or("")).unwrap();
        match (event["event"].as_str(), event["dir"].as_str()) {
            (Some("data"), Some("c2s")) => {
                let said = frames(what, &mut stream, &mut unread, Frame::all_of(&bytes).len());
                let mut expected = Frame::all_of(&bytes);
                for hello in expected.iter_mut().filter(|frame| frame.kind == HELLO) {
                    hello.payload = common::hello(keepalive_interval_s, false, false)[4..].to_vec();
                }
                assert_eq!(sorted(said), sorted(expected), "{what}: {event}");
            }
            (Some("data"), Some("s2c")) => {
                stream.write_all(&bytes).unwrap();
                learn(&mut expected, &bytes, &options);
            }
            (Some("close"), _) => break,
            _ => {}
        }
    }
    let deadline = Instant::now() + PATIENCE;
    while *recorder.0.lock().unwrap() != expected {
        assert!(Instant::now() < deadline, "{what}: {:?}, not {expected:?}", recorder.0.lock());
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// The next frames that the client says, field 15 of its HELLO left out.
fn frames(what: &str, stream: &mut TcpStream, unread: &mut Vec<u8>, count: usize) -> Vec<Frame> {
    let deadline = Instant::now() + PATIENCE;
    while Frame::all_of(unread).len() < count {
        assert!(Instant::now() < deadline, "{what}: {} of {count}", Frame::all_of(unread).len());
        let mut chunk = [0; 65_535];
        match stream.read(&mut chunk) {
            Ok(0) => panic!("{what}: the client hung up"),
            Ok(length) => unread.extend(&chunk[..length]),
            Err(_) => {}
        }
    }
    let mut said = Frame::all_of(unread);
    said.truncate(count);
    let length: usize = said.iter().map(|frame| frame.bytes().len()).sum();
    unread.drain(..length);
    for frame in said.iter_mut().filter(|frame| frame.kind == HELLO) {
        let bare = frame.payload.strip_suffix(&[0x78, 1]);
        frame.payload = bare.expect("our HELLO says that we reassemble").to_vec();
    }
    said
}

fn sorted(mut frames: Vec<Frame>) -> Vec<Frame> {
    frames.sort();
    frames
}

/// What a client has to know after these bytes: its own destinations are not for it.
fn learn(routes: &mut Routes, mut bytes: &[u8], options: &ClientOptions) {
    let mut deframer = Deframer::new();
    while let Some(frame) = deframer.next(&mut bytes).unwrap() {
        let Message::Update(update) = wire::decode(frame).unwrap() else { continue };
        let own = options.announce.iter().any(|(vni, route)| {
            (*vni, route.destination) == (update.vni, update.route.destination)
        });
        match update.action {
            Action::Add if !own => {
                routes.insert((update.vni, update.route));
            }
            _ => {
                routes.remove(&(update.vni, update.route));
            }
        }
    }
}
