//! A server with its HTTP view.

use std::net::SocketAddr;

use serde_json::Value;

use super::Peer;
use super::http::{ask, json, wait_until};
use super::process::Process;

/// A running server.
pub struct Served {
    pub process: Process,
    pub http: SocketAddr,
}

impl Served {
    pub fn start(arguments: &[&str]) -> Served {
        Served::at("[::1]:0", arguments)
    }

    /// With its view at an address.
    pub fn at(http: &str, arguments: &[&str]) -> Served {
        // A peer of a test may say nothing for long, while something else is looked at.
        let is_said = arguments.iter().any(|argument| argument.starts_with("--keepalive"));
        let keepalive: &[&str] = if is_said { &[] } else { &["--keepalive", "3600"] };
        let process = Process::serve(&[arguments, keepalive, &["--http", http]].concat());
        let http = process.http_address();
        Served { process, http }
    }

    /// A whole answer: its head, and its body.
    pub fn ask(&self, method: &str, path: &str) -> (String, String) {
        ask(self.http, method, path)
    }

    pub fn json(&self, path: &str) -> Value {
        json(self.http, path)
    }

    /// What a mistaken question gets.
    pub fn refusal(&self, path: &str) -> (String, String) {
        let (head, body) = self.ask("GET", path);
        assert!(head.contains("content-type: text/plain"), "{head}");
        (head.split(' ').nth(1).unwrap().to_owned(), body)
    }

    /// An established peer that has said this, and the server has dealt with it.
    pub fn peer(&self, said: &[u8]) -> Peer {
        let mut peer = Peer::established(self.process.address(), 60, true);
        peer.send(said);
        peer.barrier();
        peer
    }

    /// Waits until all that was announced has reached its home.
    pub fn wait_for_routes(&self, expected: usize) {
        wait_until("routes", || {
            let vnis = self.json("/vnis.json");
            let rows = vnis["vnis"].as_array().unwrap();
            let routes: u64 = rows.iter().map(|row| row["routes"].as_u64().unwrap()).sum();
            (routes == expected as u64).then_some(())
        });
    }
}
