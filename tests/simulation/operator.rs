//! What shards tell an operator who asks, against the model.

use std::collections::{BTreeMap, BTreeSet};

use metalbond_uring::internals::session::State;
use metalbond_uring::internals::shard::{PeerView, Shard};
use metalbond_uring::types::{Digest, PeerId, Route, Time, Vni};

use crate::client::Connection;

type Routes = BTreeMap<Vni, BTreeMap<Route, BTreeSet<PeerId>>>;

/// At rest: each peer, VNI and route is told as it is.
pub fn check<'a>(
    now: Time,
    shards: impl Iterator<Item = &'a Shard> + Clone,
    connections: impl Iterator<Item = &'a Connection>,
) {
    let (mut routes, mut peers) = (Routes::new(), BTreeMap::new());
    for connection in connections {
        for (vni, route) in &connection.announced {
            routes.entry(*vni).or_default().entry(*route).or_default().insert(connection.id);
        }
        assert!(peers.insert(connection.id, connection).is_none());
    }
    let held: usize = shards.clone().map(|shard| shard.usage().routes).sum();
    assert_eq!(held, routes.values().map(BTreeMap::len).sum::<usize>(), "each route once");
    let mut subscribers: BTreeMap<Vni, usize> = BTreeMap::new();
    for shard in shards.clone() {
        check_peers(now, shard, &mut peers);
        check_tables(shard, &mut routes);
        let piece = shard.subscribers_piece(0);
        assert_eq!(piece.next, None, "there are few");
        for group in piece.groups {
            assert_eq!(group.slow, 0, "at rest nobody is");
            *subscribers.entry(group.vni).or_default() += group.subscribers;
        }
    }
    assert!(peers.is_empty() && routes.is_empty(), "all are told: {peers:?} {routes:?}");
    let told = shards.flat_map(|shard| shard.peers_piece(now, 0).peers);
    let mut expected: BTreeMap<Vni, usize> = BTreeMap::new();
    told.flat_map(|peer| peer.vnis).for_each(|vni| *expected.entry(vni).or_default() += 1);
    subscribers.retain(|_, count| *count > 0);
    assert_eq!(subscribers, expected);
}

fn check_peers(now: Time, shard: &Shard, peers: &mut BTreeMap<PeerId, &Connection>) {
    let piece = shard.peers_piece(now, 0);
    assert_eq!(piece.next, None, "there are few");
    for peer in piece.peers {
        let PeerView { id, state, routes, vnis, pending_bytes, slow_vnis, reassembles, .. } = peer;
        let connection = peers.remove(&id).expect("it is connected");
        let expected = if connection.established { State::Established } else { state };
        assert_eq!((state, pending_bytes, slow_vnis), (expected, 0, 0), "{id}");
        assert_eq!(routes, connection.announced.len() as u64, "{id}");
        assert_eq!(peer.slow_for, None, "{id}");
        let (said, heard) = connection.updates;
        assert_eq!(peer.updates_sent, heard, "{id} {reassembles}");
        // Some may be refused.
        assert!((routes..=said).contains(&peer.updates_received), "{id}");
        assert!(vnis.is_sorted() && !vnis.windows(2).any(|pair| pair[0] == pair[1]));
        let views = connection.views.iter().filter(|(_, view)| view.subscribed);
        assert_eq!(vnis, views.map(|(vni, _)| *vni).collect::<Vec<_>>(), "{id} {reassembles}");
    }
}

fn check_tables(shard: &Shard, routes: &mut Routes) {
    for at in 0..shard.vnis_piece(0).pieces {
        for told in shard.vnis_piece(at).vnis {
            let expected = routes.remove(&told.vni).unwrap_or_default();
            let mut digest = Digest::default();
            expected.keys().for_each(|route| digest.add(route));
            let sources: BTreeSet<PeerId> = expected.values().flatten().copied().collect();
            assert_eq!((told.routes, told.digest), (expected.len(), digest), "{:?}", told.vni);
            assert_eq!(told.sources, sources.len(), "{:?}", told.vni);
            let piece = shard.routes_piece(told.vni, 0);
            assert_eq!(piece.next, None, "there are few");
            let table: BTreeMap<Route, BTreeSet<PeerId>> = (piece.routes.into_iter())
                .map(|(route, sources)| {
                    (route, sources.iter().map(|(source, _)| source.0).collect())
                })
                .collect();
            assert_eq!(table, expected, "{:?}", told.vni);
        }
    }
}
