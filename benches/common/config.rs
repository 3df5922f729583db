//! What the shards of tests and benches start with.
//!
//! Owns one configuration, of a core that drops nobody by itself. Must never be what a user gets.

use std::sync::Arc;
use std::time::Duration;

use metalbond_uring::internals::shard::{Budgets, Limits, ShardConfig};
use metalbond_uring::types::{Pace, ReflectOwn, ShardId};

/// Of one shard among so many.
pub fn shard_config(id: u16, shards: u16) -> ShardConfig {
    ShardConfig {
        id: ShardId(id),
        shards,
        hash_seed: [1, 2, 3, 4],
        keepalive_interval_s: 86_400,
        reflect_own: ReflectOwn::None,
        pace: Pace::Off,
        limits: Limits::default(),
        stale_time: Duration::ZERO,
        budgets: Budgets::default(),
        policy: None,
        ledger: Arc::default(),
        fabric: None,
    }
}
