//! `/summary.json`: the node in figures.
//!
//! Owns its shape. Must never count anything itself.

use serde::Serialize;

use super::answer::{Content, Refusal};
use super::{View, collect};
use crate::session::State;
use crate::shard::{Counters, PaceCounters, Usage};

#[derive(Serialize, Default)]
struct Summary {
    version: &'static str,
    shards: usize,
    peers: Peers,
    routes: usize,
    vnis: usize,
    since_start: SinceStart,
    memory_bytes: Memory,
    /// What feeding peers took that do not reassemble.
    pacing: Pacing,
}

#[derive(Serialize, Default)]
struct Peers {
    established: usize,
    /// Those that are not established yet.
    connecting: usize,
    /// Those that will be told the difference only, in some VNI.
    slow: usize,
    /// Those that do not reassemble.
    paced: usize,
}

#[derive(Serialize, Default)]
struct SinceStart {
    connections: u64,
    bytes_received: u64,
    bytes_sent: u64,
    updates_received: u64,
    updates_invalid: u64,
    updates_refused: u64,
    updates_without_effect: u64,
    subscriptions_refused: u64,
    peers_over_budget: u64,
}

#[derive(Serialize, Default)]
struct Memory {
    logs: usize,
    laggards: usize,
    gathered: usize,
    bases: usize,
}

#[derive(Serialize, Default)]
struct Pacing {
    proofs: u64,
    late: u64,
    void: u64,
    burn_frames: u64,
    gate_waits: u64,
    pads: u64,
    unread_closes: u64,
    resets: u64,
}

/// All shards, added up.
pub(super) async fn summary(view: &View) -> Result<Content, Refusal> {
    let mut summary = Summary { version: view.version, ..Summary::default() };
    for shard in view.asker.shards() {
        let told = view.asker.ask(shard, |shard, _| (*shard.counters(), shard.usage())).await;
        let (counters, usage) = told.ok_or(Refusal::Gone)?;
        summary.shards += 1;
        summary.routes += usage.routes;
        summary.vnis += usage.vnis;
        summary.since_start.add(&counters);
        summary.memory_bytes.add(&usage);
        summary.pacing.add(&counters.pacing);
    }
    collect::peers(view, |peer| {
        summary.pacing.add(&peer.pacing);
        if peer.remote.is_some() {
            let peers = &mut summary.peers;
            match peer.state {
                State::Established => {
                    peers.established += 1;
                    peers.paced += usize::from(!peer.reassembles);
                }
                State::Closed | State::Retry => {}
                _ => peers.connecting += 1,
            }
            peers.slow += usize::from(peer.slow_vnis > 0);
        }
    })
    .await?;
    Ok(Content::json(&summary))
}

impl SinceStart {
    fn add(&mut self, counters: &Counters) {
        self.connections += counters.connections;
        self.bytes_received += counters.bytes_received;
        self.bytes_sent += counters.bytes_sent;
        self.updates_received += counters.updates_received;
        self.updates_invalid += counters.updates_invalid;
        self.updates_refused += counters.updates_refused;
        self.updates_without_effect += counters.updates_without_effect;
        self.subscriptions_refused += counters.subscriptions_refused;
        self.peers_over_budget += counters.peers_over_budget;
    }
}

impl Memory {
    fn add(&mut self, usage: &Usage) {
        self.logs += usage.log_bytes;
        self.laggards += usage.laggard_bytes;
        self.gathered += usage.gathered_bytes;
        self.bases += usage.base_bytes;
    }
}

impl Pacing {
    fn add(&mut self, counters: &PaceCounters) {
        self.proofs += counters.proofs;
        self.late += counters.late;
        self.void += counters.void;
        self.burn_frames += counters.burn_frames;
        self.gate_waits += counters.gate_waits;
        self.pads += counters.pads;
        self.unread_closes += counters.unread_closes;
        self.resets += counters.resets;
    }
}
