//! What has to hold, at each step and at rest.
//!
//! Owns the model of who should see what. Must never change the world.

use std::collections::{BTreeMap, BTreeSet};

use metalbond_uring::types::{PeerId, Route, SourceId, Vni};

use crate::client::{Client, Connection};
use crate::operator;
use crate::world::World;

/// Routes that are in tables, by the connection of their source.
pub type Stored = BTreeSet<(PeerId, Vni, Route)>;

impl World {
    /// Memory is bounded at every step, whoever reads or not.
    pub fn check_memory(&self, at: usize) {
        let held = self.nodes[at].shard.usage();
        let extremes = self.nodes[at].shard.extremes();
        assert!(extremes.bases_alive_max <= 2, "{extremes:?}");
        // What one turn may append between two looks at the readers.
        let turn_bytes = 200 * (self.budgets.requests_per_turn + self.budgets.job_routes_per_turn)
            + self.budgets.record_bytes_under_way_max * self.nodes.len();
        let table_bytes = 2 * 120 * self.destinations * self.hops;
        let lag_max = self.limits.lag_bytes_max.max(table_bytes as u64) * 5 / 4 + (64 << 10);
        assert!(extremes.lag_bytes_longest <= lag_max + turn_bytes as u64, "{extremes:?}");
        // Each route once (250 bytes, twice for growth), those to be forgotten, a page a reader.
        let routes = self.vnis * 3 * (self.destinations * self.hops + 4_096);
        let private_max = routes * 2 * 250 + self.clients.len() * self.vnis * 3 * 700;
        assert!(held.laggard_bytes <= private_max, "{held:?} {private_max}");
        let chunks = 2 * self.vnis * (64 << 10);
        let logs_max = 2 * (self.limits.log_bytes_max + 2 * turn_bytes) + chunks;
        assert!(held.log_bytes <= logs_max, "{held:?} {logs_max}");
        // Of each VNI and class two bases and a list of what followed one; and who reads slowly may still
        // hold the list that it was given.
        let frames_bytes = 2 * 130 * self.destinations * self.hops;
        let list_bytes = self.budgets.tail_bytes_min + 4 * frames_bytes + turn_bytes;
        let lists = (3 + self.clients.len()) * self.vnis;
        let bases_max = 6 * self.vnis * frames_bytes + lists * list_bytes;
        assert!(held.base_bytes <= bases_max, "{held:?} {bases_max}");
    }

    pub fn check_views(&self) {
        let stored = self.stored();
        for (at, subscriber) in self.clients.iter().enumerate() {
            let Some(connection) = &subscriber.connection else { continue };
            assert!(connection.is_live(), "at rest everything was noticed");
            assert!(connection.established, "everybody has said HELLO");
            assert_eq!(connection.keepalives_received, connection.keepalives_sent, "all answered");
            for (vni, view) in &connection.views {
                let expected = self.expected(at, *vni, view.subscribed, &stored);
                assert_eq!(view.routes, expected, "client {at}, VNI {vni}");
            }
        }
        for node in &self.nodes {
            let held = node.shard.usage();
            assert_eq!(held.log_bytes, 0, "everybody has read everything: {held:?}");
            assert_eq!(held.laggard_bytes, 0, "{held:?}");
            assert_eq!(held.base_bytes, 0, "nobody joined for a while: {held:?}");
        }
        let connections = self.clients.iter().filter_map(|client| client.connection.as_ref());
        let shards = self.nodes.iter().map(|node| &node.shard);
        let is_permitted = |connection: &Connection, vni, route: &Route| {
            let of =
                |client: &Client| client.connection.as_ref().is_some_and(|c| c.id == connection.id);
            let at = self.clients.iter().position(of).expect("it is one of them");
            self.is_permitted(at, vni, route)
        };
        operator::check(self.now, shards, connections, &self.trust, is_permitted, &stored);
    }

    /// What a client should know of a VNI: the visibility rule, word for word.
    pub fn expected(
        &self,
        at: usize,
        vni: Vni,
        subscribed: bool,
        stored: &Stored,
    ) -> BTreeSet<Route> {
        let mut expected = BTreeSet::new();
        for (from, source) in self.clients.iter().enumerate() {
            let both_servers = source.is_server && self.clients[at].is_server;
            let Some(announcer) = &source.connection else { continue };
            for (of, route) in &announcer.announced {
                let own = from == at && !self.reflect.permits(route.next_hop.kind);
                let is_stored =
                    !self.trust.is_limited || stored.contains(&(announcer.id, *of, *route));
                let counts = self.is_permitted(from, *of, route) && is_stored;
                if *of == vni && counts && !own && !both_servers && subscribed {
                    expected.insert(*route);
                }
            }
        }
        expected
    }

    /// What is in the tables, if a limit may keep something out of them.
    pub fn stored(&self) -> Stored {
        let mut stored = Stored::new();
        if !self.trust.is_limited {
            return stored;
        }
        let shards = || self.nodes.iter().map(|node| &node.shard);
        let peers = shards().flat_map(|shard| shard.peers_piece(self.now, 0).peers);
        let ids: BTreeMap<SourceId, PeerId> = peers.map(|peer| (peer.source, peer.id)).collect();
        for shard in shards() {
            let pieces = 0..shard.vnis_piece(0).pieces;
            for vni in pieces.flat_map(|at| shard.vnis_piece(at).vnis) {
                assert!(vni.routes <= self.limits.routes_per_vni_max as usize, "{vni:?}");
                for (route, sources) in shard.routes_piece(vni.vni, 0).routes {
                    let connected = sources.iter().filter_map(|it| ids.get(&it.source));
                    stored.extend(connected.map(|id| (*id, vni.vni, route)));
                }
            }
        }
        let routes: usize = shards().map(|shard| shard.usage().routes).sum();
        assert!(routes as u64 <= self.limits.routes_max, "{routes}");
        stored
    }

    /// Whether policy permits a client's route.
    pub fn is_permitted(&self, at: usize, vni: Vni, route: &Route) -> bool {
        self.trust.is_permitted(self.trust.address_of(at), vni, route)
    }
}
