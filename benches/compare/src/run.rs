//! One run: a fresh server process, loadgen against it, and the server's end.
//!
//! Owns the processes. Must never leave one behind.
// The main package's clippy.toml keeps clocks and threads out of its core; this is a program of its own.
#![allow(clippy::disallowed_methods)]

use std::io::Read;
use std::net::{Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use serde_json::Value;

use crate::scenario::Scenario;

/// How long a server may take to listen.
const START_TIME_MAX: Duration = Duration::from_secs(10);
/// How long a run may take.
const RUN_TIME_MAX: Duration = Duration::from_secs(180);

/// A server to compare.
#[derive(Clone, Debug)]
pub struct Candidate {
    /// Its name in the table.
    pub name: String,
    /// Its command line, with `{port}` for the port at `[::1]`.
    pub command: String,
}

/// A process that ends with its owner.
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Runs a scenario once. Returns loadgen's objects, one for each stage.
///
/// # Errors
/// If the server does not start, or loadgen finds anything wrong.
pub fn run(
    loadgen: &Path,
    scenario: &Scenario,
    candidate: &Candidate,
) -> anyhow::Result<Vec<Value>> {
    let port = free_port()?;
    let target = SocketAddr::from((Ipv6Addr::LOCALHOST, port));
    let server = start(candidate, target)?;
    let mut load = Command::new(loadgen);
    load.args(scenario.arguments.split(' '))
        .args([
            "--target",
            &target.to_string(),
            "--server-pid",
            &server.0.id().to_string(),
            "--json",
        ])
        .stdout(Stdio::piped())
        .stderr(Stdio::null());
    let mut load = Process(load.spawn().with_context(|| loadgen.display().to_string())?);
    let mut stdout = load.0.stdout.take().context("loadgen's output")?;
    let reader = thread::spawn(move || {
        let mut text = String::new();
        stdout.read_to_string(&mut text).map(|_| text)
    });
    let deadline = Instant::now() + RUN_TIME_MAX;
    let status = loop {
        if let Some(status) = load.0.try_wait()? {
            break status;
        }
        ensure!(Instant::now() < deadline, "not done in {} s", RUN_TIME_MAX.as_secs());
        thread::sleep(Duration::from_millis(10));
    };
    let Ok(text) = reader.join() else { bail!("loadgen's output cannot be read") };
    let stages = text?.lines().map(serde_json::from_str).collect::<Result<Vec<Value>, _>>()?;
    if !status.success() {
        let bad = stages.iter().find(|stage| stage["ok"] != true);
        let why = bad.map(|stage| format!("{}: {}", stage["stage"], stage["failure"]));
        bail!("loadgen: {status}: {}", why.unwrap_or_default());
    }
    Ok(stages)
}

/// Starts the server and waits until it accepts.
fn start(candidate: &Candidate, target: SocketAddr) -> anyhow::Result<Process> {
    let command = candidate.command.replace("{port}", &target.port().to_string());
    // `exec`, so that the process measured is the server and not a shell.
    let server = Command::new("sh")
        .args(["-c", &format!("exec {command}")])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .context("sh")?;
    let mut server = Process(server);
    let deadline = Instant::now() + START_TIME_MAX;
    while TcpStream::connect(target).is_err() {
        if let Some(status) = server.0.try_wait()? {
            bail!("the server ended ({status}): {command}");
        }
        ensure!(Instant::now() < deadline, "nothing listens at {target}: {command}");
        thread::sleep(Duration::from_millis(20));
    }
    Ok(server)
}

fn free_port() -> anyhow::Result<u16> {
    let listener = TcpListener::bind((Ipv6Addr::LOCALHOST, 0))?;
    Ok(listener.local_addr()?.port())
}
