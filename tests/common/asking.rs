//! What the tests of `show` and `diff` share: a reflector with its view, and the commands run to their ends.
#![allow(dead_code, clippy::unwrap_used, clippy::disallowed_methods)]

use std::process::{Command, Stdio};
use std::time::Instant;

use crate::common::process::Process;
use crate::common::{PATIENCE, Peer};

pub const BINARY: &str = env!("CARGO_BIN_EXE_metalbond-uring");

/// A reflector that can be asked.
pub struct Asked {
    pub process: Process,
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
        let arguments = ["--cores", "2", "--routes-per-peer-max", "10000000", "--http", "[::1]:0"];
        let process = Process::serve(&arguments);
        process.wait_for("HTTP on ");
        let log = process.log();
        let (_, rest) = log.split_once("HTTP on http://").unwrap();
        let http = rest.split_whitespace().next().unwrap().to_owned();
        Asked { process, http }
    }

    /// An established peer that has said this, and the server has dealt with it.
    pub fn peer(&self, said: &[u8]) -> Peer {
        let mut peer = Peer::established(self.process.address(), 3_600, true);
        peer.send(said);
        peer.barrier();
        peer
    }

    /// Waits until so many routes have reached their homes.
    #[track_caller]
    pub fn wait_for_routes(&self, routes: usize) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let said = run(&["show", "vnis", "--json", "--http", &self.http]);
            let told: serde_json::Value = serde_json::from_str(&said.out).expect(&said.err);
            let rows = told["vnis"].as_array().unwrap();
            let found: u64 = rows.iter().map(|row| row["routes"].as_u64().unwrap()).sum();
            if found == routes as u64 {
                return;
            }
            assert!(Instant::now() < deadline, "{found} of {routes}");
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
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
