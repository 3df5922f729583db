//! Several reflectors as one, with a real engine: the programs themselves, peers of a small client, and everything that fails.
//!
//! Owns what is claimed of a fabric from outside: exact views, and no message that nobody needs. Must never assert a time.
//! Without a NATS server that is new enough it is skipped, loudly.
#![cfg(feature = "fabric")]
#![allow(clippy::unwrap_used, clippy::disallowed_methods)]

#[path = "../common/mod.rs"]
mod common;
mod engine;
mod fleet;
mod hostile;
#[path = "../common/load.rs"]
mod load;
mod loads;
mod packages;
mod reflectors;
mod writer;

use std::net::Ipv4Addr;

use fleet::World;

#[test]
fn what_is_announced_at_one_is_seen_at_all() {
    let Some(mut world) = World::of(3, &[]) else { return };
    for at in [&[0][..], &[1], &[2], &[0], &[0, 1], &[1, 2], &[2, 0]] {
        world.join(at);
    }
    world.settle();
    world.agree();
    world.hosts[0].withdraw(0);
    world.hosts[4].withdraw(400);
    world.hosts[5].announce(777);
    // Of two hosts, and of one that is dual-homed.
    world.hosts[1].announce(777);
    world.settle();
    world.hosts[5].withdraw(777);
    world.settle();
    // One connection of a dual-homed host ends: nobody notices. Then the other one.
    let before = world.updates();
    world.leave(4, 0);
    world.settle();
    let after = world.updates();
    assert_eq!((&before[..4], &before[5..]), (&after[..4], &after[5..]));
    world.leave(4, 1);
    world.settle();
    world.connect(4, 2);
    world.settle();
    world.agree();
}

/// Which reflector has how much, as operators see it.
#[test]
fn each_says_what_it_has() {
    let Some(mut world) = World::of(2, &[]) else { return };
    world.join(&[0]);
    world.join(&[0, 1]);
    world.settle();
    // Two routes in two VNIs each.
    world.knows(1, "R0", 8);
    world.knows(0, "R1", 4);
    assert_eq!(world.reflectors[1].metric("metalbond_fabric_records{reflector=\"R0\"}"), 8.0);
    assert_eq!(world.reflectors[0].metric("metalbond_fabric_synced"), 1.0);
    let status = world.reflectors[0].status();
    assert_eq!((&status["own_records"], &status["dirty_keys"]), (&8.into(), &0.into()));
}

/// Two peers behind one address, at different reflectors, cannot be told from a dual-homed one by their address.
#[test]
fn without_identity_each_connection_is_a_peer() {
    let Some(mut world) = World::of(2, &["--fabric-identity=none"]) else { return };
    let shared = Ipv4Addr::new(127, 2, 9, 9);
    world.join_from(shared, &[0]);
    world.join_from(shared, &[1]);
    world.join(&[1]);
    world.settle();
    // And a dual-homed one is told its own routes, by each of what it said to the other.
    world.echoes = true;
    world.join(&[0, 1]);
    world.settle();
    let own = world.hosts[3].routes.clone();
    for (_, peer) in &mut world.hosts[3].peers {
        peer.read_until("its own routes", |peer| own.is_subset(&peer.view));
    }
}

/// The same with identity: this is what the documents warn of, and an operator may see.
#[test]
fn with_identity_two_peers_of_one_address_are_one() {
    let Some(mut world) = World::of(2, &[]) else { return };
    let shared = Ipv4Addr::new(127, 2, 9, 9);
    let (a, b) = (world.join_from(shared, &[0]), world.join_from(shared, &[1]));
    let c = world.join(&[1]);
    let routes: Vec<_> = world.hosts.iter().map(|host| host.routes.clone()).collect();
    let both = routes[a].union(&routes[b]).cloned().collect();
    world.settle_at(&[routes[c].clone(), routes[c].clone(), both]);
}
