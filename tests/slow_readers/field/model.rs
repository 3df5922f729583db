//! What each peer should see, and what a shard may hold.
//!
//! Owns the claims. Must never change anything.

use std::collections::BTreeSet;

use super::*;

impl Field {
    /// What a peer should know of a VNI: the visibility rule, word for word.
    pub(super) fn expected(&self, at: usize, vni: Vni) -> BTreeSet<Route> {
        let mut expected = BTreeSet::new();
        for (from, source) in self.peers.iter().enumerate() {
            let both_servers = source.is_server && self.peers[at].is_server;
            let Some(announcer) = &source.connection else { continue };
            if both_servers || announcer.hung_up {
                continue;
            }
            let of_vni = announcer.announced.iter().filter(|(of, _)| *of == vni);
            expected.extend(
                of_vni
                    .map(|(_, route)| *route)
                    .filter(|route| from != at || self.reflect.permits(route.next_hop.kind)),
            );
        }
        expected
    }

    /// Memory costs what tables and records take, whoever reads or not, and hardly anything a reader.
    pub(super) fn check_memory(&self, at: usize) {
        let held = self.nodes[at].shard.held();
        assert!(held.bases_alive_max <= 2, "{held:?}");
        let (routes, limits, budgets) = (self.ever.len(), &self.limits, &self.budgets);
        // A route has one record in each of two classes of groups.
        let table_bytes = 2 * routes * FRAME_BYTES_MAX;
        let a_turn = budgets.requests_per_turn + budgets.job_routes_per_turn;
        let said_bytes = self.peers.len() * READ_BYTES + budgets.record_bytes_under_way_max;
        let turn_bytes = (a_turn * FRAME_BYTES_MAX).min(said_bytes + table_bytes);
        let lag_bytes = 2 * self.vnis * limits.lag_bytes_max as usize + 2 * table_bytes;
        let chunk_bytes = 2 * 2 * self.vnis * READ_BYTES;
        let logs_max = lag_bytes.min(limits.log_bytes_max) + 2 * turn_bytes + chunk_bytes;
        // What changed, once; and for each reader bits of it.
        let changed_max = 3 * table_bytes;
        let readers_max = self.peers.len() * self.vnis * (routes / 4 + 2048);
        let bytes = held.log_bytes + held.laggard_bytes;
        let most = logs_max + changed_max + readers_max;
        assert!(bytes <= most, "{held:?}: at most {logs_max} + {changed_max} + {readers_max}");
    }
}
