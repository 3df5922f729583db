//! One run: a fresh server process, loadgen against it, and the server's end.
//!
//! Owns the processes. Must never leave one behind.
// The main package's clippy.toml keeps clocks and threads out of its core; this is a program of its own.
#![allow(clippy::disallowed_methods)]

use std::io::Read;
use std::net::{Ipv6Addr, SocketAddr, TcpListener};
use std::path::Path;
use std::process::{Child, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use serde_json::Value;

use crate::link::{self, Link};

/// How long a server may take to listen.
const START_TIME_MAX: Duration = Duration::from_secs(10);
/// How long a run may take.
const RUN_TIME_MAX: Duration = Duration::from_secs(180);

/// A server to compare.
#[derive(Clone, Debug)]
pub struct Candidate {
    /// Its name in the table.
    pub name: String,
    /// Its command line, with `{port}` and, if it likes, `{address}` for where it has to listen.
    pub command: String,
}

/// What is run.
pub struct Run<'a> {
    /// The program.
    pub loadgen: &'a Path,
    /// What it does: arguments that spaces separate.
    pub arguments: &'a str,
    /// To what.
    pub candidate: &'a Candidate,
    /// Over what.
    pub link: &'a Link,
    /// Set when the user wants no more.
    pub interrupted: &'a AtomicBool,
}

/// A process that ends with its owner.
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Run<'_> {
    /// Runs it once. Returns loadgen's objects, one for each stage.
    ///
    /// # Errors
    /// If the server does not start, loadgen finds anything wrong, or the user interrupts.
    pub fn execute(&self) -> anyhow::Result<Vec<Value>> {
        let server = Server::start(self.candidate, self.link, self.interrupted)?;
        let mut load = self.link.loadgen_command(self.loadgen);
        load.args(self.arguments.split_ascii_whitespace())
            .args(["--target", &server.target.to_string()])
            .args(["--server-pid", &server.pid().to_string(), "--json"])
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut load = Process(load.spawn().context("loadgen cannot be run")?);
        let stdout = collect(load.0.stdout.take().context("loadgen's output")?);
        let stderr = collect(load.0.stderr.take().context("loadgen's messages")?);
        let deadline = Instant::now() + RUN_TIME_MAX;
        let status = loop {
            if let Some(status) = load.0.try_wait()? {
                break status;
            }
            ensure!(Instant::now() < deadline, "not done in {} s", RUN_TIME_MAX.as_secs());
            pause(Duration::from_millis(10), self.interrupted)?;
        };
        let (Ok(stdout), Ok(stderr)) = (stdout.join(), stderr.join()) else {
            bail!("loadgen's output cannot be read")
        };
        if !status.success() {
            let said = stderr?;
            bail!("loadgen: {status}: {}", reason(&said));
        }
        Ok(stdout?.lines().map(serde_json::from_str).collect::<Result<_, _>>()?)
    }
}

/// A running server, which ends with its owner.
pub struct Server {
    process: Process,
    /// Where it listens.
    pub target: SocketAddr,
}

impl Server {
    /// Starts the server at a free port and waits until it listens.
    ///
    /// # Errors
    /// If it does not, or the user interrupts.
    pub fn start(
        candidate: &Candidate,
        link: &Link,
        interrupted: &AtomicBool,
    ) -> anyhow::Result<Server> {
        let address = link.server_address();
        let target = SocketAddr::from((address, free_port()?));
        let command = candidate
            .command
            .replace("{port}", &target.port().to_string())
            .replace("{address}", &address.to_string());
        // `exec`, so that the process measured is the server and not a shell.
        let process = link
            .server_command("sh")
            .args(["-c", &format!("exec {command}")])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .context("the server's shell cannot be run")?;
        let mut server = Server { process: Process(process), target };
        let table = format!("/proc/{}/net/tcp6", server.pid());
        let deadline = Instant::now() + START_TIME_MAX;
        loop {
            if let Some(status) = server.process.0.try_wait()? {
                bail!("the server ended ({status}): {command}");
            }
            let sockets = std::fs::read_to_string(&table).with_context(|| table.clone())?;
            if link::listens(&sockets, address, target.port())? {
                return Ok(server);
            }
            ensure!(Instant::now() < deadline, "nothing listens at {target}: {command}");
            pause(Duration::from_millis(20), interrupted)?;
        }
    }

    /// Its process.
    pub fn pid(&self) -> u32 {
        self.process.0.id()
    }
}

fn pause(duration: Duration, interrupted: &AtomicBool) -> anyhow::Result<()> {
    ensure!(!interrupted.load(Ordering::Relaxed), "interrupted");
    thread::sleep(duration);
    Ok(())
}

/// Reads to the end, beside what its writer does.
fn collect(mut from: impl Read + Send + 'static) -> JoinHandle<std::io::Result<String>> {
    thread::spawn(move || {
        let mut text = String::new();
        from.read_to_string(&mut text).map(|_| text)
    })
}

/// Why loadgen failed: its verdict, or else the last that it said.
fn reason(said: &str) -> &str {
    let verdict = said.lines().find(|line| line.starts_with("FAILED") || line.starts_with("WRONG"));
    verdict.or_else(|| said.lines().last()).unwrap_or("it does not say why").trim()
}

fn free_port() -> anyhow::Result<u16> {
    let listener = TcpListener::bind((Ipv6Addr::LOCALHOST, 0))?;
    Ok(listener.local_addr()?.port())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_verdict_is_the_reason() {
        let said =
            "connect: done\nannounce: FAILED in 1 s\nFAILED: 2 lost\nWRONG: 2 reads\n  peer 5\n";
        assert_eq!(reason(said), "FAILED: 2 lost");
        assert_eq!(reason("loading\nloadgen: nothing answers\n"), "loadgen: nothing answers");
        assert_eq!(reason(""), "it does not say why");
    }
}
