//! An engine that ends, is emptied, stands still, is full, or is a cluster that loses a part.

use std::collections::BTreeSet;
use std::net::TcpListener;
use std::time::{Duration, Instant};

use crate::common::QUIET;
use crate::common::http::{ask, wait_until};
use crate::common::nats::NatsServer;
use crate::fleet::{FABRIC, Reflector, World};
use crate::writer::Writer;

/// How long it stands still: `METALBOND_NATS_STOP_S`, by default a little longer than a lease.
fn stop() -> Duration {
    let named = std::env::var("METALBOND_NATS_STOP_S").ok().and_then(|text| text.parse().ok());
    Duration::from_secs(named.unwrap_or(5))
}

/// Longer than reflectors take to connect again, which is up to half a minute: none is taken for dead.
const STALE: &str = "--fabric-stale-time=40";

/// Two hosts at each of two reflectors, and a dual-homed one.
fn usual(flags: &[&str]) -> Option<World> {
    let mut world = World::of(2, &[&[STALE], flags].concat())?;
    for at in [&[0][..], &[0], &[1], &[1], &[0, 1]] {
        world.join(at);
    }
    world.settle();
    Some(world)
}

/// Changes between the peers of one reflector go on at once; the other one's peers get them when the engine is back, and
/// nothing else. `ends` is what becomes of the engine, `returns` how it comes back.
fn is_away(world: &mut World, ends: impl Fn(&mut World), returns: impl Fn(&mut World)) {
    ends(world);
    world.reflectors.iter().for_each(|it| it.is(&["unlinked"]));
    let before = world.updates();
    let tables: Vec<_> = world.hosts.iter().map(|host| host.routes.clone()).collect();
    world.hosts[0].announce(500);
    let new = world.hosts[0].routes.difference(&tables[0]).cloned();
    let new: BTreeSet<_> = new.collect();
    for (at, peer) in [(1, 0), (4, 0)] {
        let (_, peer) = &mut world.hosts[at].peers[peer];
        peer.read_until("a route of its own reflector", |peer| new.is_subset(&peer.view));
    }
    let not_ready = ask(world.reflectors[0].http(), "GET", "/readyz");
    assert!(not_ready.0.starts_with("HTTP/1.0 503 "), "{not_ready:?}");
    nobody_is_taken_for_dead(world);
    returns(world);
    world.reflectors.iter().for_each(Reflector::comes_back);
    world.settle();
    world.reflectors.iter().for_each(|it| it.is(&["synced"]));
    world.settle();
    // Each change once: nothing was told again, nothing withdrawn.
    let after = world.updates();
    assert_eq!(after[0], before[0]);
    for host in 1..5 {
        for (before, after) in before[host].iter().zip(&after[host]) {
            assert_eq!(after - before, new.len(), "host {host}");
        }
    }
    world.agree();
    world.hosts[0].withdraw(500);
    world.settle();
}

/// What nobody can know is not said: that the others are dead.
fn nobody_is_taken_for_dead(world: &World) {
    for reflector in &world.reflectors {
        let status = reflector.status();
        for other in status["reflectors"].as_array().unwrap() {
            let is_dead = ["stale", "lost"].contains(&other["state"].as_str().unwrap());
            assert!(!is_dead && other["stale_for_s"].is_null(), "{status}");
        }
    }
}

#[test]
fn the_engine_ends_and_comes_back() {
    let Some(mut world) = usual(&[]) else { return };
    is_away(&mut world, |it| it.engine.kill(), |it| it.engine.run());
}

#[test]
fn the_engine_comes_back_without_anything() {
    let Some(mut world) = usual(&[]) else { return };
    let returns = |it: &mut World| {
        it.engine.wipe();
        it.engine.run();
    };
    is_away(&mut world, |it| it.engine.kill(), returns);
    // Again, and a reflector is there that never saw what was before.
    is_away(&mut world, |it| it.engine.kill(), returns);
}

#[test]
fn the_engine_stands_still() {
    let Some(mut world) = usual(&[]) else { return };
    let begun = Instant::now();
    let ends = |it: &mut World| it.engine.freeze(true);
    let returns = |it: &mut World| {
        std::thread::sleep(stop().saturating_sub(begun.elapsed()));
        nobody_is_taken_for_dead(it);
        it.engine.freeze(false);
    };
    is_away(&mut world, ends, returns);
}

/// It is away for longer than routes of others are kept: they go, and come back.
#[test]
fn the_hold_time_is_over() {
    let Some(mut world) = usual(&["--fabric-hold-time=3"]) else { return };
    world.engine.kill();
    let routes: Vec<_> = world.hosts.iter().map(|host| host.routes.clone()).collect();
    let of = |hosts: &[usize]| hosts.iter().flat_map(|&host| routes[host].clone()).collect();
    // The dual-homed one has both halves, each by its own connection.
    let dual = world.hosts.pop().unwrap();
    world.settle_at(&[of(&[1, 4]), of(&[0, 4]), of(&[3, 4]), of(&[2, 4])]);
    world.engine.run();
    world.hosts.push(dual);
    world.settle();
    world.reflectors.iter().for_each(|it| it.is(&["synced"]));
    world.agree();
}

/// What has no room waits, and is counted. Peers of the same reflector have it, nobody is taken for dead, and
/// when there is room everything is published.
fn is_full(mut world: World, takes_leases: bool, make_room: impl Fn(&mut World)) {
    let (a, b, c) = (world.join(&[0]), world.join(&[0]), world.join(&[1]));
    world.settle();
    let first =
        world.hosts[a].routes.union(&world.hosts[b].routes).cloned().collect::<BTreeSet<_>>();
    for number in 1_000..2_000 {
        world.hosts[a].announce(number);
    }
    wait_until("an engine without room", || (world.reflectors[0].metric(FULL) > 0.0).then_some(()));
    let all = world.hosts[a].routes.clone();
    let (_, peer) = &mut world.hosts[b].peers[0];
    peer.read_until("all routes", |peer| all.is_subset(&peer.view));
    // Longer than a lease and the stale time together.
    std::thread::sleep(Duration::from_secs(9));
    let (_, peer) = &mut world.hosts[c].peers[0];
    peer.settle(QUIET);
    assert!(first.is_subset(&peer.view), "a reflector was taken for dead");
    let has = peer.view.len();
    assert!(has < all.len(), "{has} routes had room");
    says_so(&world.reflectors[0], takes_leases);
    make_room(&mut world);
    world.settle();
    wait_until("no trouble any more", || {
        let (head, _) = ask(world.reflectors[0].http(), "GET", "/readyz");
        let is_well = world.reflectors[0].status()["trouble"].is_null();
        (is_well && head.starts_with("HTTP/1.0 200 ")).then_some(())
    });
    wait_until("room", || (world.reflectors[0].metric(FULL) == 0.0).then_some(()));
    world.reflectors.iter().for_each(|it| it.is(&["synced"]));
    world.agree();
}

/// Operators are told that there is no room, and what to do. Who cannot show that it lives is not ready.
fn says_so(reflector: &Reflector, takes_leases: bool) {
    let trouble = wait_until("trouble", || {
        let status = reflector.status();
        let trouble = status["trouble"].as_str()?;
        (takes_leases || trouble.contains("lease")).then(|| trouble.to_owned())
    });
    for word in ["has no room", "max_bytes", "max_file_store"] {
        assert!(trouble.contains(word), "{trouble}");
    }
    let (head, body) = ask(reflector.http(), "GET", "/readyz");
    if takes_leases {
        assert!(head.starts_with("HTTP/1.0 200 "), "{head}: {body}");
    } else {
        assert!(head.starts_with("HTTP/1.0 503 ") && body.contains(&trouble), "{head}: {body}");
    }
    let refused = reflector.metric("metalbond_fabric_lease_refused");
    assert_eq!(refused, if takes_leases { 0.0 } else { 1.0 });
}

const FULL: &str = "metalbond_fabric_full_keys";

/// The server has no room for anything, not even for signs of life.
#[test]
fn the_server_is_full() {
    let configuration = "jetstream { store_dir: \"STORE\", max_file_store: 64K }";
    let Some(engine) = NatsServer::with(configuration) else { return };
    let url = engine.fabric(FABRIC);
    let world = World::at(engine, &url, 2, &[]);
    is_full(world, false, |world| {
        world.engine.kill();
        world.engine.reconfigure("jetstream { store_dir: \"STORE\" }");
        world.engine.run();
    });
}

/// Who cannot even withdraw what a former life left, and so shows no sign of life, is not ready.
#[test]
fn a_restart_at_a_full_engine_is_not_ready() {
    let configuration = "jetstream { store_dir: \"STORE\", max_file_store: 64K }";
    let Some(engine) = NatsServer::with(configuration) else { return };
    let url = engine.fabric(FABRIC);
    let mut world = World::at(engine, &url, 2, &[]);
    let (a, b) = (world.join(&[0]), world.join(&[1]));
    world.settle();
    world.leave(a, 0);
    world.reflectors[0].kill();
    for number in 1_000..2_000 {
        world.hosts[b].announce(number);
    }
    wait_until("an engine without room", || (world.reflectors[1].metric(FULL) > 0.0).then_some(()));
    // Longer than a lease and the stale time together: what it left is withdrawn first.
    std::thread::sleep(Duration::from_secs(9));
    world.reflectors[0].run();
    wait_until("a refusal", || {
        (world.reflectors[0].metric("metalbond_fabric_lease_refused") > 0.0).then_some(())
    });
    let (head, body) = ask(world.reflectors[0].http(), "GET", "/readyz");
    assert!(head.starts_with("HTTP/1.0 503 ") && body.contains("has no room"), "{head}: {body}");
}

/// The stream has a bound. Withdrawals go on, though in the engine one takes a little more than the route had.
#[test]
fn the_stream_is_full() {
    let Some(engine) = NatsServer::start() else { return };
    let url = engine.fabric(FABRIC);
    let world = World::at(engine, &url, 2, &[]);
    Writer::connect(&world.engine.host()).bound_stream(FABRIC, 65_536);
    is_full(world, true, |world| {
        for number in 1_010..2_000 {
            world.hosts[0].withdraw(number);
        }
        world.settle();
        Writer::connect(&world.engine.host()).bound_stream(FABRIC, 1 << 20);
    });
}

/// Three servers. One may end; without two there is no engine, and all goes on when there are two again.
#[test]
fn an_engine_of_three() {
    if NatsServer::program().is_none() {
        return;
    }
    let kept: Vec<_> = (0..3).map(|_| TcpListener::bind("127.0.0.1:0").unwrap()).collect();
    let ports: Vec<u16> = kept.iter().map(|it| it.local_addr().unwrap().port()).collect();
    drop(kept);
    let routes: Vec<String> = ports.iter().map(|port| format!("nats://127.0.0.1:{port}")).collect();
    let start = |n: usize| {
        NatsServer::with(&format!(
            "server_name: n{n}\njetstream {{ store_dir: \"STORE\" }}\ncluster {{ name: t, listen: \"127.0.0.1:{}\", routes: {routes:?} }}",
            ports[n]
        ))
        .unwrap()
    };
    let mut servers: Vec<NatsServer> = (0..3).map(start).collect();
    let hosts: Vec<String> = servers.iter().map(NatsServer::host).collect();
    let url = format!("nats://{}/{FABRIC}", hosts.join(","));
    let engine = servers.remove(0);
    let mut world = World::at(engine, &url, 3, &[STALE]);
    for at in [&[0][..], &[1], &[2], &[0, 1]] {
        world.join(at);
    }
    world.settle();
    let before = world.updates();
    world.engine.kill();
    world.hosts[0].announce(500);
    world.settle();
    world.reflectors.iter().for_each(|it| it.is(&["synced"]));
    assert_eq!(world.updates()[1][0] - before[1][0], 2, "nobody was told more than what is new");
    // The second one.
    servers[0].kill();
    world.hosts[0].announce(501);
    world.reflectors.iter().for_each(|it| it.is(&["unlinked"]));
    nobody_is_taken_for_dead(&world);
    let before = world.updates();
    servers[0].run();
    world.reflectors.iter().for_each(Reflector::comes_back);
    world.settle();
    world.reflectors.iter().for_each(|it| it.is(&["synced"]));
    assert_eq!(world.updates()[1][0] - before[1][0], 2, "nobody was told more than what is new");
    world.engine.run();
    world.hosts[0].withdraw(500);
    world.settle();
    world.agree();
}
