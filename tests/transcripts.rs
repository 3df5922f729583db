//! Whole sessions, recorded between another client and another server: our server is fed the client's
//! side and must answer as that server did.
//!
//! What may differ: time (pauses are cut), how frames are spread over segments, and the order of UPDATEs
//! among themselves. Nothing else does in these sessions: where that server sends duplicates (several
//! announcers of one next hop) or gives peers their own routes, ours would differ by design, and a
//! transcript of that has no place here.
#![allow(clippy::unwrap_used, clippy::disallowed_methods)]

mod common;

use std::collections::BTreeMap;
use std::net::{Shutdown, SocketAddr};
use std::time::Duration;

use common::*;
use metalbond_uring::internals::io::Server;
use serde_json::Value;

/// Longer pauses between events become this long.
const PAUSE_MAX_MS: f64 = 15.0;

#[test]
fn answers_as_recorded() {
    for (name, transcript) in common::corpus::folder("transcripts") {
        for cores in [1, 3] {
            eprintln!("{name} on {cores} shards");
            Replay::start(&transcript, cores).run(&transcript);
        }
    }
}

struct Replay {
    server: Option<Server>,
    address: SocketAddr,
    cores: u16,
    keepalive_interval_s: u32,
    connections: BTreeMap<u64, Connection>,
}

struct Connection {
    peer: Peer,
    /// What the recorded server has sent so far.
    expected: Vec<Frame>,
}

impl Replay {
    fn start(transcript: &Value, cores: u16) -> Replay {
        let command = transcript["meta"]["server"].as_str().unwrap();
        let (_, interval) = command.split_once("--keepalive ").unwrap();
        let keepalive_interval_s = interval.split(' ').next().unwrap().parse().unwrap();
        let server = Server::start(server_config(cores, keepalive_interval_s)).unwrap();
        let address = server.local_addr();
        let connections = BTreeMap::new();
        Replay { server: Some(server), address, cores, keepalive_interval_s, connections }
    }

    fn run(mut self, transcript: &Value) {
        let mut last_ms = 0.0;
        for event in transcript["events"].as_array().unwrap() {
            let at_ms = event["t_ms"].as_f64().unwrap();
            let pause_ms = (at_ms - last_ms).clamp(0.0, PAUSE_MAX_MS);
            last_ms = at_ms;
            std::thread::sleep(Duration::from_secs_f64(pause_ms / 1000.0));
            self.event(event);
        }
        for connection in self.connections.values_mut() {
            connection.peer.settle(QUIET);
            connection.compare();
        }
    }

    fn event(&mut self, event: &Value) {
        let id = event["conn"].as_u64().unwrap_or(0);
        match (event["event"].as_str().unwrap(), event["dir"].as_str()) {
            ("open", _) => {
                let peer = Peer::connect(self.address);
                self.connections.insert(id, Connection { peer, expected: Vec::new() });
            }
            ("data", Some("c2s")) => self.connection(id).peer.send(&bytes_of(event)),
            ("data", Some("s2c")) => self.connection(id).expect(&bytes_of(event)),
            ("close", Some("c2s")) => self.connection(id).peer.shutdown(Shutdown::Write),
            ("close", Some("s2c")) => self.connection(id).peer.read_until_closed(),
            ("note", _) => self.note(event["note"].as_str().unwrap()),
            unknown => panic!("what is to be done at {unknown:?}?"),
        }
    }

    fn note(&mut self, note: &str) {
        if note.starts_with("SIGINT to server") {
            self.server.as_mut().unwrap().shutdown();
        } else if note.starts_with("server restarted") {
            self.server.take().unwrap().join();
            let mut config = server_config(self.cores, self.keepalive_interval_s);
            config.listen = vec![self.address];
            self.server = Some(Server::start(config).unwrap());
        }
    }

    fn connection(&mut self, id: u64) -> &mut Connection {
        self.connections.get_mut(&id).unwrap()
    }
}

impl Connection {
    /// Reads until as many frames of each kind have come as the recorded server had sent by then.
    fn expect(&mut self, bytes: &[u8]) {
        self.expected.extend(Frame::all_of(bytes));
        let wanted = kinds(&self.expected);
        self.peer.read_until("what the recorded server sent", |peer| {
            let came = kinds(&peer.frames);
            wanted.iter().all(|(kind, count)| came.get(kind) >= Some(count))
        });
    }

    /// Control frames in their order, UPDATEs in any: and nothing more.
    fn compare(&self) {
        let split = |frames: &[Frame]| -> (Vec<Frame>, Vec<Frame>) {
            let (mut updates, control): (Vec<_>, Vec<_>) =
                frames.iter().cloned().partition(|frame| frame.kind == UPDATE);
            updates.sort();
            (control, updates)
        };
        assert_eq!(split(&self.peer.frames), split(&self.expected));
    }
}

fn kinds(frames: &[Frame]) -> BTreeMap<u8, usize> {
    let mut count = BTreeMap::new();
    for frame in frames {
        *count.entry(frame.kind).or_default() += 1;
    }
    count
}

fn bytes_of(event: &Value) -> Vec<u8> {
    hex::decode(event["hex"].as_str().unwrap()).unwrap()
}
