//! What a shard counts and holds, in figures.
//!
//! Owns their names and units. Must never count anything itself.

use super::pacing::PaceCounters;
use super::refused::{Refused, RefusedWhat};
use crate::session::CloseReason;

/// What a shard has counted since its start.
#[derive(Clone, Copy, Default, Debug)]
pub struct Counters {
    /// Connections taken over.
    pub connections: u64,
    /// Bytes read from peers.
    pub bytes_received: u64,
    /// Bytes sent to peers.
    pub bytes_sent: u64,
    /// UPDATEs passed on to the homes of their VNIs.
    pub updates_received: u64,
    /// UPDATEs given to SENDs, of those to peers that have a connection.
    pub updates_sent: u64,
    /// At home: ADDs of what was there, REMOVEs of what was not.
    pub updates_without_effect: u64,
    /// What was refused of what peers said, by [`Counters::REFUSED`].
    pub refused: [u64; Refused::KINDS.len()],
    /// How often a peer was not heard for a while, since it sent more than it may.
    pub rate_pauses: u64,
    /// Lost sources that were withdrawn early, since there were too many.
    pub sources_crowded_out: u64,
    /// Lost sources that another connection went on with.
    pub sources_taken_over: u64,
    /// Peers closed because laggards took too much memory.
    pub peers_over_budget: u64,
    /// Subscriptions that were so far behind that they were told the difference only from then on.
    pub conflations: u64,
    /// Sessions that ended, by [`CloseReason::kind`].
    pub sessions_ended: [u64; CloseReason::KINDS.len()],
    /// Connections that ended before a session was established, in the same way.
    pub handshakes_failed: [u64; CloseReason::KINDS.len()],
    /// About peers that do not reassemble.
    pub pacing: PaceCounters,
}

impl Counters {
    /// A word for each kind of [`Counters::refused`], and what it is of.
    pub const REFUSED: [(&str, RefusedWhat); Refused::KINDS.len()] = Refused::KINDS;

    /// How many of something were refused.
    pub fn refused(&self, what: RefusedWhat) -> u64 {
        let of = Counters::REFUSED.iter().zip(self.refused);
        of.filter(|((_, of), _)| *of == what).map(|(_, count)| count).sum()
    }
}

/// What a shard holds in memory, in bytes but for the counts; see [`Limits`](super::Limits) for the bounds.
#[derive(Clone, Copy, Default, Debug)]
pub struct Usage {
    /// Routes in the tables of its VNIs.
    pub routes: usize,
    /// VNIs of which it is the home and that anything is known of.
    pub vnis: usize,
    /// Log chunks that somebody has still to read.
    pub log_bytes: usize,
    /// What laggards have still to be told: the routes that changed, and who was told what.
    pub laggard_bytes: usize,
    /// Buffers in which small parts, and what laggards are told, are copied together for one peer each.
    pub gathered_bytes: usize,
    /// Bases and what followed them, of the VNIs whose home it is: as far as they are to be read by
    /// peers of any shard, or are kept for the next joiner.
    pub base_bytes: usize,
    /// Requests of all shards that wait here, for VNIs whose home it is.
    pub request_bytes: usize,
    /// Lost connections to servers whose routes stay for now: a few for each server.
    pub lost_connections: usize,
    /// Sources known to its tables, and routes that policy withholds from these.
    pub sources: usize,
    /// See `sources`.
    pub routes_withheld: usize,
    /// Sources without a connection whose addresses fall to it, and the routes that they announced.
    pub sources_absent: usize,
    /// See `sources_absent`.
    pub routes_absent: u64,
}

/// Bounds of what a shard holds, in bytes.
#[derive(Clone, Copy, Debug)]
pub struct MemoryBounds {
    /// Of logs; beyond, all readers that are behind become laggards.
    pub log_bytes: usize,
    /// Of what laggards have still to be told; beyond, the peer is closed that takes most.
    pub laggard_bytes: u64,
    /// Of buffers to gather in; beyond, they are small.
    pub gathered_bytes: usize,
    /// Of requests that wait; at it, peers are not read.
    pub request_bytes: usize,
    /// Of the input of a peer that waits.
    pub input_bytes_per_peer: usize,
}

/// The most of something that there is at a shard.
#[derive(Clone, Copy, Default, Debug)]
pub struct Extremes {
    /// The longest way that a reader is behind in a log, in bytes.
    pub lag_bytes_longest: u64,
    /// The most bases that any group has alive.
    pub bases_alive_max: usize,
}
