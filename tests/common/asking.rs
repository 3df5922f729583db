//! What the tests of `show` and `diff` share: a reflector with its view, and the commands run to their ends.
#![allow(dead_code, clippy::unwrap_used, clippy::disallowed_methods)]

use std::net::SocketAddr;
use std::process::{Command, Stdio};

use crate::common::Peer;
use crate::common::served::Served;

pub const BINARY: &str = env!("CARGO_BIN_EXE_metalbond-uring");

/// A reflector that can be asked.
pub struct Asked {
    served: Served,
    /// Where, as an operand of a command.
    pub http: String,
}

/// What a command said.
pub struct Said {
    pub code: Option<i32>,
    pub out: String,
    pub err: String,
}

impl Asked {
    pub fn start() -> Asked {
        let served = Served::start(&["--cores", "2", "--routes-per-peer-max", "10000000"]);
        Asked { http: served.http.to_string(), served }
    }

    pub fn address(&self) -> SocketAddr {
        self.served.process.address()
    }

    /// An established peer that has said this, and the server has dealt with it.
    pub fn peer(&self, said: &[u8]) -> Peer {
        let mut peer = Peer::established(self.address(), 3_600, true);
        peer.send(said);
        peer.barrier();
        peer
    }

    /// Waits until so many routes have reached their homes.
    pub fn wait_for_routes(&self, routes: usize) {
        self.served.wait_for_routes(routes);
    }
}

/// A command of the binary, as a script runs it.
pub fn command(arguments: &[&str]) -> Command {
    let mut command = Command::new(BINARY);
    command.args(arguments).env_remove("NO_COLOR").env("TERM", "xterm").stdin(Stdio::null());
    command
}

/// Runs it to its end. One that never ends is ended, and its code is none that is expected.
pub fn run(arguments: &[&str]) -> Said {
    let mut command = Command::new("timeout");
    command.args(["--signal=KILL", "60", BINARY]).args(arguments);
    command.env_remove("NO_COLOR").env("TERM", "xterm").stdin(Stdio::null());
    let output = command.output().unwrap();
    Said {
        code: output.status.code(),
        out: String::from_utf8(output.stdout).unwrap(),
        err: String::from_utf8(output.stderr).unwrap(),
    }
}

/// Whether a terminal would do nothing with it but show it.
#[track_caller]
pub fn assert_harmless(text: &str) {
    let harm = text.chars().find(|c| {
        c.is_control() && *c != '\n' || "\u{202e}\u{200b}\u{feff}\u{ad}\u{e0041}".contains(*c)
    });
    assert_eq!(harm, None, "{text:?}");
}
