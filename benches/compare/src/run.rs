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

/// A running server, which ends with its owner.
pub struct Server {
    process: Process,
    /// Where it listens.
    pub target: SocketAddr,
}

impl Server {
    /// Starts the server at a free port and waits until it accepts.
    ///
    /// # Errors
    /// If it does not.
    pub fn start(candidate: &Candidate) -> anyhow::Result<Server> {
        let target = SocketAddr::from((Ipv6Addr::LOCALHOST, free_port()?));
        let command = candidate.command.replace("{port}", &target.port().to_string());
        // `exec`, so that the process measured is the server and not a shell.
        let process = Command::new("sh")
            .args(["-c", &format!("exec {command}")])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .context("sh")?;
        let mut server = Server { process: Process(process), target };
        let deadline = Instant::now() + START_TIME_MAX;
        while TcpStream::connect(target).is_err() {
            if let Some(status) = server.process.0.try_wait()? {
                bail!("the server ended ({status}): {command}");
            }
            ensure!(Instant::now() < deadline, "nothing listens at {target}: {command}");
            thread::sleep(Duration::from_millis(20));
        }
        Ok(server)
    }

    /// Its process.
    pub fn pid(&self) -> u32 {
        self.process.0.id()
    }
}

/// Runs loadgen once, with arguments that spaces separate. Returns its objects, one for each stage.
///
/// # Errors
/// If the server does not start, or loadgen finds anything wrong.
pub fn run(loadgen: &Path, arguments: &str, candidate: &Candidate) -> anyhow::Result<Vec<Value>> {
    let server = Server::start(candidate)?;
    let mut load = Command::new(loadgen);
    load.args(arguments.split(' '))
        .args([
            "--target",
            &server.target.to_string(),
            "--server-pid",
            &server.pid().to_string(),
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

fn free_port() -> anyhow::Result<u16> {
    let listener = TcpListener::bind((Ipv6Addr::LOCALHOST, 0))?;
    Ok(listener.local_addr()?.port())
}
