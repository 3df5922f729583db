//! Budgets so small that all of them are felt.

use metalbond_uring::internals::shard::Budgets;

use crate::rng::Rng;

/// Some of them.
pub fn budgets(rng: &mut Rng) -> Budgets {
    Budgets {
        requests_per_turn: 1 + rng.below(40),
        job_routes_per_turn: 1 + rng.below(20),
        requests_under_way_max: 1 + rng.below(60),
        joins_under_way_max: 1 + rng.below(60),
        changes_per_peer_max: 1 + rng.below(60),
        record_bytes_under_way_max: 1 + rng.below(5_000),
        compacted_bytes_per_turn: [1, 100, 1_000, 1 << 20][rng.below(4)],
        tail_bytes_min: [0, 100, 1_000, 16_384][rng.below(4)],
    }
}
