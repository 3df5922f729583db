//! Runs of the program `loadgen`, and what they came to.
//!
//! Owns how a run is read. Must never judge what a test is about.
#![allow(dead_code)]

use std::process::{Command, Output, Stdio};

use serde_json::Value;

/// The program.
pub const BINARY: &str = env!("CARGO_BIN_EXE_loadgen");

/// Fields of a stage that count what must not happen.
pub const FAULTS: [&str; 8] = [
    "missing",
    "stale",
    "duplicate",
    "unexpected",
    "wrong",
    "echoed",
    "connections_lost",
    "disturbed",
];

/// What a run of loadgen came to.
pub struct Run {
    /// Its exit code.
    pub code: Option<i32>,
    /// What it printed.
    pub stdout: String,
    /// What it said.
    pub stderr: String,
}

impl Run {
    /// What a process came to.
    pub fn of(output: Output) -> Run {
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        Run { code: output.status.code(), stdout: text(output.stdout), stderr: text(output.stderr) }
    }

    /// All that is known.
    pub fn all(&self) -> String {
        format!("exit {:?}\n{}\n{}", self.code, self.stdout, self.stderr)
    }

    /// The objects of `--json`.
    pub fn stages(&self) -> Vec<Value> {
        self.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    /// The object of one stage.
    pub fn stage(&self, name: &str) -> Value {
        let stages = self.stages();
        stages.into_iter().find(|stage| stage["stage"] == name).unwrap_or_else(|| {
            panic!("no stage {name}: {}", self.all());
        })
    }

    /// It found everything right.
    #[track_caller]
    pub fn found_no_fault(&self) {
        assert_eq!(self.code, Some(0), "{}", self.all());
        for stage in self.stages() {
            assert_eq!(stage["ok"], true, "{stage}");
            for fault in FAULTS {
                assert_eq!(stage[fault], 0, "{fault} {stage}");
            }
        }
    }

    /// It found something, in these words.
    #[track_caller]
    pub fn failed_with(&self, words: &str) {
        assert_eq!(self.code, Some(1), "{}", self.all());
        assert!(self.all().contains(words), "{words}: {}", self.all());
    }
}

/// Runs it with these words.
pub fn run(arguments: &str) -> Run {
    let output = Command::new(BINARY)
        .args(arguments.split_whitespace())
        .stdin(Stdio::null())
        .output()
        .unwrap();
    Run::of(output)
}

/// A run that must find everything right, with `--json`.
#[track_caller]
pub fn right(arguments: &str) -> Run {
    let run = run(&format!("{arguments} --json"));
    run.found_no_fault();
    for stage in run.stages() {
        // Those who leave may be told that others left before them, and those who join of routes that are
        // gone again.
        if !["vanish", "restart", "return", "herd"].contains(&stage["stage"].as_str().unwrap()) {
            assert_eq!(stage["deliveries"], stage["deliveries_expected"], "{stage}");
        }
    }
    run
}
