//! What is claimed of a field: what everybody sees, how many messages that may take, and how much memory.
//!
//! Owns the model: it is too simple to be wrong. Must never change anything.

use std::collections::BTreeSet;

use metalbond_uring::types::{Route, Vni};

use super::{FRAME_BYTES_MAX, FRAME_BYTES_MIN, Field, Peer, READ_BYTES};

/// Messages that a peer may get for a VNI.
pub(super) struct Due {
    pub vni: Vni,
    /// Routes that it has to be told of.
    pub difference: usize,
    pub most: usize,
    /// Messages that it got before.
    pub updates: u64,
}

impl Field {
    /// Everybody that reads sees what the model says, and nothing is left for anybody.
    pub fn check_views(&self) {
        for (at, peer) in self.peers.iter().enumerate() {
            let connection = peer.connection.as_ref().expect("nobody is closed for being slow");
            let seen = connection.keepalives_received;
            assert_eq!(seen, connection.keepalives_sent, "peer {at}: all answered");
            for (vni, view) in connection.views.iter().filter(|(_, view)| view.subscribed) {
                assert_eq!(view.routes, self.expected(at, *vni), "peer {at}, VNI {vni}");
            }
        }
        for node in &self.nodes {
            let held = node.shard.usage();
            assert_eq!((held.log_bytes, held.laggard_bytes), (0, 0), "all was read: {held:?}");
            assert_eq!(node.shard.counters().peers_over_budget, 0);
        }
    }

    /// How many messages a peer may get for each of its VNIs, if nobody says anything more.
    pub(super) fn messages_due(&self, at: usize) -> Vec<Due> {
        let Peer { connection, is_current, .. } = &self.peers[at];
        let views = connection.iter().flat_map(|connection| &connection.views);
        views
            .filter(|(_, view)| view.subscribed)
            .map(|(&vni, view)| {
                let now = self.expected(at, vni);
                let difference = view.routes.symmetric_difference(&now).count();
                // A log that is shorter than a dump, or than the limit, is read as it lies.
                let dump_bytes = view.routes.len().max(now.len()) * FRAME_BYTES_MAX;
                let log_bytes = dump_bytes.max(self.limits.lag_bytes_max as usize);
                let most = match is_current {
                    true => difference.max(log_bytes / FRAME_BYTES_MIN),
                    // The rest of its base, and then what has become of that.
                    false => 2 * self.ever.len(),
                };
                let most = most + READ_BYTES / FRAME_BYTES_MIN;
                Due { vni, difference, most, updates: view.updates }
            })
            .collect()
    }

    /// Memory costs what tables and records take, whoever reads or not, and hardly anything a reader.
    pub(super) fn check_memory(&self, at: usize) {
        let held = self.nodes[at].shard.usage();
        let extremes = self.nodes[at].shard.extremes();
        assert!(extremes.bases_alive_max <= 2, "{extremes:?}");
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

    /// What a peer should know of a VNI: the visibility rule, word for word.
    fn expected(&self, at: usize, vni: Vni) -> BTreeSet<Route> {
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
}
