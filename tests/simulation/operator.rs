//! What shards tell an operator who asks, against the model.

use std::collections::{BTreeMap, BTreeSet};

use metalbond_uring::internals::session::State;
use metalbond_uring::internals::shard::{PeerView, Shard};
use metalbond_uring::types::{Digest, PeerId, Route, SourceId, Time, Vni};

use crate::checks::Stored;
use crate::client::Connection;
use crate::trust::Trust;

type Routes = BTreeMap<Vni, BTreeMap<Route, BTreeSet<PeerId>>>;

/// At rest: each peer, VNI and route is told as it is.
pub fn check<'a>(
    now: Time,
    shards: impl Iterator<Item = &'a Shard> + Clone,
    connections: impl Iterator<Item = &'a Connection>,
    trust: &Trust,
    is_permitted: impl Fn(&Connection, Vni, &Route) -> bool,
    stored: &Stored,
) {
    let (mut routes, mut peers) = (Routes::new(), BTreeMap::new());
    for connection in connections {
        for (vni, route) in &connection.announced {
            let is_there = !trust.is_limited || stored.contains(&(connection.id, *vni, *route));
            if !is_there || !is_permitted(connection, *vni, route) {
                continue;
            }
            routes.entry(*vni).or_default().entry(*route).or_default().insert(connection.id);
        }
        assert!(peers.insert(connection.id, connection).is_none());
    }
    let told = shards.clone().flat_map(|shard| shard.peers_piece(now, 0).peers);
    let ids: BTreeMap<SourceId, PeerId> = told.map(|peer| (peer.source, peer.id)).collect();
    let announced = routes.values().map(BTreeMap::len).sum::<usize>();
    let mut subscribers: BTreeMap<Vni, usize> = BTreeMap::new();
    for shard in shards.clone() {
        for peer in shard.peers_piece(now, 0).peers {
            let connection = peers[&peer.id];
            let denied = |(vni, route): &&(Vni, Route)| !is_permitted(connection, *vni, route);
            let denied = connection.announced.iter().filter(denied).count() as u64;
            let is_exact = peer.routes_withheld == denied && !peer.is_stale;
            assert!(is_exact || trust.is_limited, "{} {denied}", peer.routes_withheld);
        }
        check_peers(now, shard, &mut peers, trust);
        check_tables(shard, &mut routes, &ids);
        let piece = shard.subscribers_piece(0);
        assert_eq!(piece.next, None, "there are few");
        for group in piece.groups {
            assert_eq!(group.slow, 0, "at rest nobody is");
            *subscribers.entry(group.vni).or_default() += group.subscribers;
        }
    }
    let held: usize = shards.clone().map(|shard| shard.usage().routes).sum();
    assert_eq!(held, announced, "each route once");
    assert!(peers.is_empty() && routes.is_empty(), "all are told: {peers:?} {routes:?}");
    let told = shards.flat_map(|shard| shard.peers_piece(now, 0).peers);
    let mut expected: BTreeMap<Vni, usize> = BTreeMap::new();
    told.flat_map(|peer| peer.vnis).for_each(|vni| *expected.entry(vni).or_default() += 1);
    subscribers.retain(|_, count| *count > 0);
    assert_eq!(subscribers, expected);
}

fn check_peers(now: Time, shard: &Shard, peers: &mut BTreeMap<PeerId, &Connection>, trust: &Trust) {
    let piece = shard.peers_piece(now, 0);
    assert_eq!(piece.next, None, "there are few");
    for peer in piece.peers {
        let PeerView { id, state, routes, vnis, pending_bytes, slow_vnis, reassembles, .. } = peer;
        let connection = peers.remove(&id).expect("it is connected");
        let expected = if connection.established { State::Established } else { state };
        assert_eq!((state, pending_bytes, slow_vnis), (expected, 0, 0), "{id}");
        let announced = connection.announced.len() as u64;
        assert!(routes == announced || trust.is_limited && routes < announced, "{id} {routes}");
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

fn check_tables(shard: &Shard, routes: &mut Routes, ids: &BTreeMap<SourceId, PeerId>) {
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
                .map(|(route, sources)| (route, sources.iter().map(|it| ids[&it.source]).collect()))
                .collect();
            assert_eq!(table, expected, "{:?}", told.vni);
        }
    }
}
