//! What is measured of the reflector's own process: a fresh one for each run.
//!
//! Owns the server's flags and the reading of loadgen's figures. Must never take a figure of a run that failed.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use metalbond_uring::internals::wire::{Deframer, Hello, Message, MessageType};
use metalbond_uring_compare::binaries::Binaries;
use metalbond_uring_compare::link::{Link, LinkKind};
use metalbond_uring_compare::run::{Candidate, Run, Server};
use serde_json::Value;

use crate::in_process::adds;

/// How long the server may say nothing.
const SILENCE_MAX: Duration = Duration::from_secs(30);

/// What loadgen said of a run: its stages.
pub struct Stages(Vec<Value>);

impl Stages {
    /// Runs loadgen against a server with these flags.
    ///
    /// # Errors
    /// If anything went wrong.
    pub fn of(binaries: &Binaries, server: &str, loadgen: &str) -> anyhow::Result<Stages> {
        let run = Run {
            loadgen: &binaries.loadgen(),
            arguments: loadgen,
            candidate: &candidate(binaries, server),
            link: &Link::up(LinkKind::Loopback)?,
            interrupted: &AtomicBool::new(false),
        };
        Ok(Stages(run.execute()?))
    }

    /// A figure of a stage.
    ///
    /// # Errors
    /// If there is none.
    pub fn figure(&self, stage: &str, field: &str) -> anyhow::Result<f64> {
        let found = self.0.iter().find(|it| it["stage"] == stage);
        let value = found.and_then(|it| it[field].as_f64());
        value.with_context(|| format!("loadgen says no {field} of stage {stage}"))
    }

    /// The names of the stages that delivered something.
    pub fn with_deliveries(&self) -> impl Iterator<Item = &str> {
        let delivered = |it: &&Value| it["deliveries"].as_u64().unwrap_or_default() > 0;
        self.0.iter().filter(delivered).filter_map(|it| it["stage"].as_str())
    }
}

/// Resident bytes of a reflector for each of so many routes, announced by one peer and spread evenly over so many VNIs
/// that nobody subscribes to.
///
/// # Errors
/// If the server does not take them.
pub fn resident_bytes_per_route(
    binaries: &Binaries,
    routes: u32,
    vnis: u32,
) -> anyhow::Result<f64> {
    // No KEEPALIVE comes by itself meanwhile.
    let candidate = candidate(binaries, "--cores 1 --keepalive 3600");
    let (link, uninterrupted) = (Link::up(LinkKind::Loopback)?, AtomicBool::new(false));
    let server = Server::start(&candidate, &link, &uninterrupted)?;
    let mut peer = Peer::connect(&server)?;
    let before = resident_bytes(server.pid())?;
    for first in (0..routes).step_by(10_000) {
        peer.stream.write_all(&adds(first..routes.min(first + 10_000), vnis))?;
    }
    peer.barrier()?;
    let after = resident_bytes(server.pid())?;
    Ok((after as f64 - before as f64) / f64::from(routes))
}

/// An established peer.
struct Peer {
    stream: TcpStream,
    deframer: Deframer,
}

impl Peer {
    fn connect(server: &Server) -> anyhow::Result<Peer> {
        let stream = TcpStream::connect(server.target)?;
        stream.set_read_timeout(Some(SILENCE_MAX))?;
        let mut peer = Peer { stream, deframer: Deframer::new() };
        peer.say(Message::Hello(Hello {
            keepalive_interval_s: 3600,
            is_server: false,
            reassembles: true,
        }))?;
        peer.say(Message::Keepalive)?;
        // The handshake's KEEPALIVE, then the answer to one more: nothing else is under way.
        peer.await_keepalive()?;
        peer.barrier()?;
        Ok(peer)
    }

    /// Returns when the server has read all that was said.
    fn barrier(&mut self) -> anyhow::Result<()> {
        self.say(Message::Keepalive)?;
        self.await_keepalive()
    }

    fn say(&mut self, message: Message) -> anyhow::Result<()> {
        let mut bytes = Vec::new();
        message.encode(&mut bytes);
        Ok(self.stream.write_all(&bytes)?)
    }

    /// Awaits one KEEPALIVE. The server never sends two at a time here.
    fn await_keepalive(&mut self) -> anyhow::Result<()> {
        let mut bytes = [0; 4096];
        loop {
            let length = self.stream.read(&mut bytes).context("the server's KEEPALIVE")?;
            ensure!(length > 0, "the server has hung up");
            let mut input = &bytes[..length];
            while let Some(frame) = self.deframer.next(&mut input)? {
                match frame.message_type {
                    MessageType::Keepalive => return Ok(()),
                    MessageType::Hello => {}
                    other => bail!("{} came, which nobody asked for", other.name()),
                }
            }
        }
    }
}

fn candidate(binaries: &Binaries, flags: &str) -> Candidate {
    let command = binaries.server_command(flags);
    Candidate { name: "metalbond-uring".to_owned(), command }
}

fn resident_bytes(pid: u32) -> anyhow::Result<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let kib =
        status.lines().find_map(|line| line.strip_prefix("VmRSS:")?.trim().strip_suffix("kB"));
    let kib: u64 = kib.context("the server has ended")?.trim().parse()?;
    Ok(kib * 1024)
}
