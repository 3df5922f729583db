//! `/summary.json`: the node in figures.
//!
//! Owns its shape. Must never count anything itself.

use std::collections::BTreeMap;

use serde::Serialize;

use super::View;
use super::answer::{Content, Refusal};
#[cfg(feature = "fabric")]
use super::fabric;
use super::totals::Totals;
use crate::io::MemoryView;
use crate::session::{CloseReason, State};
use crate::shard::{Counters, PaceCounters, Pressure, RefusedWhat, Timings};

#[derive(Serialize)]
struct Summary {
    version: &'static str,
    uptime_s: u64,
    /// Those that it is told to connect to; none if the node is no client.
    servers: Option<ServersTold>,
    /// Its part in a fabric; none if it belongs to none.
    #[cfg(feature = "fabric")]
    fabric: Option<fabric::InSummary>,
    shards: usize,
    peers: Peers,
    routes: usize,
    vnis: usize,
    /// What peers have still to be sent, as far as it lies in a log or a base.
    pending_bytes: u64,
    /// Routes that peers announce, and that policy withholds from the tables.
    routes_withheld: usize,
    absent: Absent,
    since_start: SinceStart,
    /// Connections that were closed at once, by reason.
    connections_refused: BTreeMap<&'static str, u64>,
    /// What was refused of what peers said, by reason.
    refused: BTreeMap<&'static str, u64>,
    /// Sessions that ended, by reason.
    disconnects: BTreeMap<&'static str, u64>,
    /// From the reading of an UPDATE to the SEND that carries it on, since the start.
    propagation_us: Propagation,
    memory_bytes: Memory,
    /// What there may be in all, and how short it is; none if nobody watches that.
    memory: Option<MemoryTold>,
    pacing: Pacing,
}

#[derive(Serialize)]
struct ServersTold {
    known: usize,
    established: usize,
}

#[derive(Serialize)]
struct Peers {
    established: usize,
    connecting: usize,
    slow: usize,
    paced: usize,
    /// Addresses of which more than a few sessions ended within the last hour.
    flapping: usize,
}

/// Lost peers whose routes stay for now.
#[derive(Serialize)]
struct Absent {
    sources: usize,
    routes: usize,
}

#[derive(Serialize)]
struct SinceStart {
    connections: u64,
    connections_refused: u64,
    bytes_received: u64,
    bytes_sent: u64,
    updates_received: u64,
    updates_sent: u64,
    updates_invalid: u64,
    updates_refused: u64,
    updates_without_effect: u64,
    subscriptions_refused: u64,
    peers_over_budget: u64,
    conflations: u64,
    /// How often a peer was not heard for a while, since it sent more than it may.
    rate_pauses: u64,
    /// Lost peers whose routes were withdrawn early, since there were too many.
    sources_crowded_out: u64,
    /// Lost peers whose next connection went on with their routes.
    sources_taken_over: u64,
}

#[derive(Serialize)]
struct Propagation {
    samples: u64,
    p50: u64,
    p99: u64,
    max: u64,
}

#[derive(Serialize)]
struct Memory {
    logs: usize,
    laggards: usize,
    gathered: usize,
    bases: usize,
}

#[derive(Serialize)]
struct MemoryTold {
    used_bytes: u64,
    budget_bytes: u64,
    /// What is refused: `none`, `conflate` (slow peers are told the difference only), `routes`, `joins`, `connections`,
    /// each with those before it.
    pressure: &'static str,
}

/// What feeding peers took that do not reassemble.
#[derive(Serialize)]
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
    let totals = Totals::collect(view, |_| {}).await?;
    let peers = &totals.peers;
    Ok(Content::json(&Summary {
        version: view.version,
        uptime_s: view.started_at.elapsed().unwrap_or_default().as_secs(),
        servers: view.servers.as_ref().map(|servers| ServersTold::of(&servers())),
        #[cfg(feature = "fabric")]
        fabric: fabric::in_summary(view).await,
        shards: totals.shards.0.len(),
        peers: Peers {
            established: peers.established,
            connecting: peers.connecting,
            slow: peers.slow,
            paced: peers.paced,
            flapping: totals.flapping,
        },
        routes: totals.shards.held(|usage| usage.routes),
        vnis: totals.shards.held(|usage| usage.vnis),
        pending_bytes: peers.pending_bytes,
        routes_withheld: totals.shards.held(|usage| usage.routes_withheld),
        absent: Absent {
            sources: totals.shards.held(|usage| usage.sources_absent),
            routes: totals.shards.held(|usage| usage.routes_absent as usize),
        },
        since_start: SinceStart::of(&totals, view),
        refused: at_least_one(refused(&totals)),
        connections_refused: at_least_one(view.asker.connections_refused()),
        disconnects: disconnects(&totals),
        propagation_us: Propagation::of(&totals.shards.propagation()),
        memory_bytes: Memory {
            logs: totals.shards.held(|usage| usage.log_bytes),
            laggards: totals.shards.held(|usage| usage.laggard_bytes),
            gathered: totals.shards.held(|usage| usage.gathered_bytes),
            bases: totals.shards.held(|usage| usage.base_bytes),
        },
        memory: view.asker.memory().map(MemoryTold::of),
        pacing: Pacing::of(&peers.pacing),
    }))
}

fn refused(totals: &Totals) -> impl Iterator<Item = (&'static str, u64)> {
    let kinds = Counters::REFUSED.iter().enumerate();
    kinds.map(|(at, (reason, _))| (*reason, totals.shards.counted(|it| it.refused[at])))
}

fn disconnects(totals: &Totals) -> BTreeMap<&'static str, u64> {
    let counted = CloseReason::KINDS.into_iter().enumerate();
    let counted =
        counted.map(|(at, kind)| (kind, totals.shards.counted(|it| it.sessions_ended[at])));
    at_least_one(counted)
}

fn at_least_one(counted: impl Iterator<Item = (&'static str, u64)>) -> BTreeMap<&'static str, u64> {
    counted.filter(|(_, count)| *count > 0).collect()
}

impl ServersTold {
    fn of(states: &[State]) -> ServersTold {
        let established = states.iter().filter(|state| **state == State::Established);
        ServersTold { known: states.len(), established: established.count() }
    }
}

impl SinceStart {
    fn of(totals: &Totals, view: &View) -> SinceStart {
        SinceStart {
            connections: totals.shards.counted(|it| it.connections),
            connections_refused: view.asker.connections_refused().map(|(_, count)| count).sum(),
            bytes_received: totals.shards.counted(|it| it.bytes_received),
            bytes_sent: totals.shards.counted(|it| it.bytes_sent),
            updates_received: totals.shards.counted(|it| it.updates_received),
            updates_sent: totals.shards.counted(|it| it.updates_sent),
            updates_invalid: totals.shards.counted(|it| it.refused(RefusedWhat::Invalid)),
            updates_refused: totals.shards.counted(|it| it.refused(RefusedWhat::Route)),
            updates_without_effect: totals.shards.counted(|it| it.updates_without_effect),
            subscriptions_refused: totals
                .shards
                .counted(|it| it.refused(RefusedWhat::Subscription)),
            peers_over_budget: totals.shards.counted(|it| it.peers_over_budget),
            conflations: totals.shards.counted(|it| it.conflations),
            rate_pauses: totals.shards.counted(|it| it.rate_pauses),
            sources_crowded_out: totals.shards.counted(|it| it.sources_crowded_out),
            sources_taken_over: totals.shards.counted(|it| it.sources_taken_over),
        }
    }
}

impl MemoryTold {
    fn of(memory: MemoryView) -> MemoryTold {
        let MemoryView { used_bytes, budget_bytes, pressure } = memory;
        let pressure = match pressure {
            Pressure::None => "none",
            Pressure::Conflate => "conflate",
            Pressure::Routes => "routes",
            Pressure::Joins => "joins",
            Pressure::Connections => "connections",
        };
        MemoryTold { used_bytes, budget_bytes, pressure }
    }
}

impl Propagation {
    fn of(timings: &Timings) -> Propagation {
        let us = |part| u64::try_from(timings.quantile(part).as_micros()).unwrap_or(u64::MAX);
        let max = u64::try_from(timings.max().as_micros()).unwrap_or(u64::MAX);
        Propagation { samples: timings.count(), p50: us(0.5), p99: us(0.99), max }
    }
}

impl Pacing {
    fn of(counters: &PaceCounters) -> Pacing {
        let PaceCounters {
            proofs,
            late,
            void,
            burn_frames,
            gate_waits,
            pads,
            unread_closes,
            resets,
        } = *counters;
        Pacing { proofs, late, void, burn_frames, gate_waits, pads, unread_closes, resets }
    }
}
