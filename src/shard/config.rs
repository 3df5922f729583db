//! What a shard is told at its start: limits, budgets, and who it is.
//!
//! Owns the defaults. Must never change while the shard runs.

use std::sync::Arc;
use std::time::Duration;

use crate::policy::Policy;
use crate::rib::Ledger;
use crate::types::{Pace, ReflectOwn, ShardId};

/// A peer that was quiet for so long may send what it may send in this time at once: its whole table, mostly.
pub(super) const BURST_TIME: Duration = Duration::from_secs(2);

/// Limits that keep one peer from filling the machine.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Limits {
    /// Routes that one peer may announce; further ADDs are refused.
    pub routes_per_peer_max: u32,
    /// Routes that a VNI may have; further ones are refused.
    pub routes_per_vni_max: u32,
    /// Routes that all tables of the node may have; further ones are refused.
    pub routes_max: u64,
    /// VNIs that one peer may subscribe to; further SUBSCRIBEs are refused.
    pub vnis_per_peer_max: u32,
    /// Subscriptions that all peers of the node may have; further SUBSCRIBEs are refused.
    pub subscriptions_max: u64,
    /// UPDATEs a second of one peer, on the average of two seconds; beyond, it is read more slowly.
    pub updates_per_s_max: u32,
    /// Bytes that are kept for one laggard alone; beyond, it is closed.
    pub queue_bytes_per_peer_max: u64,
    /// Bytes that are kept for laggards of this shard; beyond, the peer that takes most is closed.
    pub queue_bytes_max: u64,
    /// Bytes of a log that a reader may be behind before it becomes a laggard.
    pub lag_bytes_max: u64,
    /// Bytes of all logs of this shard; beyond, all readers that are behind become laggards.
    pub log_bytes_max: usize,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            routes_per_peer_max: 100_000,
            routes_per_vni_max: 2_000_000,
            routes_max: 10_000_000,
            vnis_per_peer_max: 16_384,
            subscriptions_max: 2_000_000,
            updates_per_s_max: 100_000,
            queue_bytes_per_peer_max: 128 << 20,
            queue_bytes_max: 1 << 30,
            lag_bytes_max: 4 << 20,
            log_bytes_max: 256 << 20,
        }
    }
}

/// How much is done at a time, and how much may be under way between shards.
#[derive(Clone, Copy, Debug)]
pub struct Budgets {
    /// Requests that a turn serves at most.
    pub requests_per_turn: usize,
    /// Routes that the jobs of a turn (withdrawing a lost peer's, building a base) deal with.
    pub job_routes_per_turn: usize,
    /// Changes under way to one home beyond which its askers pause, and subscriptions.
    pub requests_under_way_max: usize,
    /// See `requests_under_way_max`. They cost more, and nobody's changes wait behind them.
    pub joins_under_way_max: usize,
    /// Changes of one peer under way beyond which it pauses: others' wait behind no more than these.
    pub changes_per_peer_max: usize,
    /// Record bytes under way to one shard beyond which homes stop serving.
    pub record_bytes_under_way_max: usize,
    /// Bytes of log that are compacted in a turn at least; more if more was appended.
    pub compacted_bytes_per_turn: usize,
    /// Bytes of records that are kept behind a base however small it is.
    pub tail_bytes_min: usize,
}

impl Default for Budgets {
    fn default() -> Budgets {
        Budgets {
            requests_per_turn: 4_096,
            job_routes_per_turn: 2_048,
            requests_under_way_max: 32_768,
            joins_under_way_max: 128,
            changes_per_peer_max: 1_024,
            record_bytes_under_way_max: 4 << 20,
            compacted_bytes_per_turn: 1 << 20,
            tail_bytes_min: 16 << 10,
        }
    }
}

/// What a shard is told at its start.
#[derive(Clone, Debug)]
pub struct ShardConfig {
    /// Which shard it is.
    pub id: ShardId,
    /// How many there are, 1..=1024.
    pub shards: u16,
    /// The seed of its hash tables, the same for all shards of a node.
    pub hash_seed: [u64; 4],
    /// The keepalive interval to offer, in seconds.
    pub keepalive_interval_s: u32,
    /// Which of its own routes a peer gets back.
    pub reflect_own: ReflectOwn,
    /// How fast peers are fed that do not reassemble.
    pub pace: Pace,
    /// Limits on peers and memory.
    pub limits: Limits,
    /// How long routes of a lost peer stay, in case it comes back: of one that connected to us, and of a server that
    /// we dialled.
    pub stale_time: Duration,
    /// How much is done at a time.
    pub budgets: Budgets,
    /// What peers that connected to us may announce; None: anything.
    pub policy: Option<Arc<Policy>>,
    /// What all shards of the node have in common.
    pub ledger: Arc<Ledger>,
    /// Whether this node is one of several reflectors that know each other's routes, and how hosts are told apart then.
    pub fabric: Option<Identity>,
}

/// How the hosts behind peers are told apart where several reflectors are one.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Identity {
    /// By address: a host at two reflectors is one.
    #[default]
    Address,
    /// Not at all: each connection is a host, and gets back from other reflectors what it announced there.
    Connection,
}
