//! Reflectors that fail, restart, are cut off, or have a name twice.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use crate::common::PATIENCE;
use crate::common::http::wait_until;
use crate::common::nats::NatsServer;
use crate::fleet::{FABRIC, Reflector, World};

/// Settled peers see nothing of a reflector's end where its peers are dual-homed, or go elsewhere in time; of the others the
/// routes are withdrawn when the stale time is over, and not at once.
#[test]
fn a_killed_reflector_is_missed_only_by_peers_that_it_takes_along() {
    let Some(mut world) = World::of(3, &[]) else { return };
    let settled = [world.join(&[1]), world.join(&[2])];
    let (dual, moves, dies) = (world.join(&[0, 1]), world.join(&[0]), world.join(&[0]));
    world.settle();
    let before = world.updates();
    world.reflectors[0].kill();
    world.leave(dual, 0);
    world.leave(moves, 0);
    world.leave(dies, 0);
    world.connect(moves, 2);
    // They had a table before, and what the moved one says changes nothing. Its own table is whole at once, with what
    // goes down with the reflector: nobody can know yet.
    let dead = world.hosts[dies].routes.clone();
    let with_dead: Vec<_> = (0..world.hosts.len())
        .map(|host| {
            let others = world.hosts.iter().enumerate().filter(|(other, _)| *other != host);
            others.flat_map(|(_, it)| it.routes.iter().cloned()).collect()
        })
        .collect();
    world.settle_at(&with_dead);
    let after = world.updates();
    assert_eq!(settled.map(|host| &before[host]), settled.map(|host| &after[host]));
    // Then only what died with it goes.
    world.settle();
    for host in settled {
        let told = world.updates()[host][0] - before[host][0];
        assert_eq!(told, dead.len(), "host {host} was told more than the end of what is gone");
    }
    wait_until("R0 is lost", || (world.reflectors[1].metric(LOST) == 1.0).then_some(()));
    // It comes back, and with it the last one.
    world.reflectors[0].run();
    world.connect(dies, 0);
    world.settle();
    world.reflectors[0].is(&["synced"]);
    world.agree();
}

const LOST: &str = "metalbond_fabric_reflectors{state=\"lost\"}";

/// In whatever way it ended: settled peers see nothing but what changes elsewhere meanwhile, and its own peers have everything
/// as soon as they are back.
#[test]
fn a_restarted_reflector_is_not_noticed() {
    let Some(mut world) = World::of(3, &["--fabric-restart-time=15"]) else { return };
    let settled = [world.join(&[1]), world.join(&[2])];
    let come_back = [world.join(&[0]), world.join(&[0]), world.join(&[0, 2])];
    world.settle();
    // The other connection of the dual-homed one.
    let stays = |world: &World| {
        let mut peers = world.hosts[come_back[2]].peers.iter();
        peers.find(|(at, _)| *at == 2).map(|(_, peer)| peer.updates).unwrap()
    };
    for kills in [false, true] {
        let (before, stayed) = (world.updates(), stays(&world));
        match kills {
            true => world.reflectors[0].kill(),
            false => world.reflectors[0].stop(),
        }
        come_back.iter().for_each(|&host| world.leave(host, 0));
        // Life goes on, before it is there again and while it reads.
        (1_000..1_100).for_each(|number| world.hosts[settled[0]].announce(number));
        world.reflectors[0].run();
        (1_000..1_100).for_each(|number| world.hosts[settled[0]].withdraw(number));
        for host in come_back {
            world.connect(host, 0);
        }
        world.settle();
        // Not either when the restart is over, with all that is left of the former life.
        world.reflectors[0].is(&["synced"]);
        world.settle();
        let after = world.updates();
        assert_eq!(before[settled[0]], after[settled[0]], "killed: {kills}");
        // Each change once, or not at all if it was over before it came.
        let told = after[settled[1]][0] - before[settled[1]][0];
        assert_eq!(stays(&world) - stayed, told, "killed: {kills}");
        assert!(told % 2 == 0 && told <= 400, "killed: {kills}: {told}");
        world.agree();
    }
}

/// Neither by its peers nor by others: whatever the engine does meanwhile, and however often.
#[test]
fn an_upgraded_reflector_is_not_noticed() {
    let Some(mut world) = World::of(1, &[]) else { return };
    let path = std::env::temp_dir().join(format!("metalbond-fabric-{}", std::process::id()));
    let (flag, url) = (format!("--handover={}", path.display()), world.engine.fabric(FABRIC));
    world.reflectors.push(Reflector::start("R1", &url, &[&flag]));
    world.reflectors[1].is(&["synced"]);
    for at in [&[0][..], &[1], &[0, 1], &[1], &[0]] {
        world.join(at);
    }
    world.settle();
    for (round, cores) in (0..).zip([2, 3, 1, 1]) {
        let before = world.updates();
        // Without an engine, and with one that has lost everything.
        let is_away = round == 1;
        if is_away {
            world.engine.kill();
        }
        world.reflectors[1].upgrade(cores);
        world.settle();
        if is_away {
            world.reflectors[1].is(&["unlinked"]);
            world.engine.wipe();
            world.engine.run();
            world.reflectors.iter().for_each(Reflector::comes_back);
        }
        if round < 3 {
            world.reflectors.iter().for_each(|it| it.is(&["synced"]));
            world.settle();
            assert_eq!(world.updates(), before, "round {round}");
        }
        // And while it reads: nobody missed anything.
        let host = round as usize;
        world.hosts[host].announce(1_000);
        world.hosts[4].withdraw(400 + round);
        world.settle();
    }
    world.reflectors[1].is(&["synced"]);
    world.agree();
    for (flag, why) in [
        (
            "--fabric-name=R2",
            "it was started with --fabric-name R1, this one with --fabric-name R2",
        ),
        (
            "--fabric-identity=none",
            "with --fabric-identity address, this one with --fabric-identity none",
        ),
        (
            "--fabric=nats://[::1]:9/other",
            "with --fabric .../test, this one with --fabric .../other",
        ),
    ] {
        world.reflectors[1].refuses(flag, why);
    }
    world.hosts[1].announce(2_000);
    world.settle();
    let _ = std::fs::remove_file(path);
}

/// NATS would know it no more when all sessions are there.
#[test]
fn who_has_no_credentials_does_not_take_over() {
    let Some(world) = World::of(0, &[]) else { return };
    let (path, creds) = (world.engine.folder().join("handover"), world.engine.folder().join("nk"));
    let flags = [
        &*format!("--handover={}", path.display()),
        &*format!("--fabric-creds={}", creds.display()),
    ];
    let reflector = Reflector::start("R1", &world.engine.fabric(FABRIC), &flags);
    let why = "it was started with --fabric-creds, this one with no --fabric-creds";
    reflector.refuses("--fabric-creds", why);
    assert_eq!(reflector.status()["name"], "R1");
}

/// What a peer does not announce again goes when the time for coming back is over, and not before.
#[test]
fn what_does_not_come_back_goes_when_the_restart_is_over() {
    let Some(mut world) = World::of(2, &[]) else { return };
    let (settled, back, away) = (world.join(&[1]), world.join(&[0]), world.join(&[0]));
    world.settle();
    let before = world.updates()[settled][0];
    world.reflectors[0].kill();
    world.leave(back, 0);
    world.leave(away, 0);
    world.reflectors[0].run();
    world.connect(back, 0);
    world.settle();
    let told = world.updates()[settled][0] - before;
    assert_eq!(told, world.hosts[away].routes.len());
    world.reflectors[0].is(&["synced"]);
    world.agree();
}

/// The others take it for dead, though its hypervisors live: their routes are lost to others' peers until it is back. Its
/// own peers go on.
#[test]
fn a_reflector_that_is_cut_off_keeps_what_it_has() {
    let Some(engine) = NatsServer::start() else { return };
    let way = Way::to(engine.host().parse().unwrap());
    let url = engine.fabric(FABRIC);
    let mut world = World::at(engine, &url, 1, &[]);
    let cut = format!("nats://{}/{FABRIC}", way.address);
    world.reflectors.push(Reflector::start("R1", &cut, &[]));
    world.reflectors[1].is(&["synced"]);
    let (far, near, beside) = (world.join(&[0]), world.join(&[1]), world.join(&[1]));
    world.settle();
    way.cut(true);
    world.reflectors[1].is(&["unlinked"]);
    // Between its own peers everything goes on.
    world.hosts[near].announce(999);
    let all: Vec<_> = world.hosts.iter().map(|host| host.routes.clone()).collect();
    let union = |a: usize, b: usize| all[a].union(&all[b]).cloned().collect();
    world.settle_at(&[Default::default(), union(far, beside), union(far, near)]);
    assert!(world.reflectors[1].metric("metalbond_fabric_held_seconds") > 0.0);
    let before = world.updates();
    way.cut(false);
    world.reflectors[1].comes_back();
    world.settle();
    world.reflectors[1].is(&["synced"]);
    // Nothing that they have was said again to them.
    assert_eq!(world.updates()[near..], before[near..]);
    world.agree();
}

/// The one that was started first leaves the fabric, and says so. What it had announced stays announced by the other one's
/// peers only.
#[test]
fn of_two_with_one_name_the_older_one_leaves() {
    let Some(mut world) = World::of(2, &[]) else { return };
    let (a, b) = (world.join(&[0]), world.join(&[1]));
    world.settle();
    let url = world.engine.fabric(FABRIC);
    let mut twin = Reflector::start("R0", &url, &[]);
    world.reflectors[0].is(&["fenced"]);
    twin.is(&["synced"]);
    assert_eq!(world.reflectors[0].metric("metalbond_fabric_twin"), 1.0);
    let not_ready = crate::common::http::ask(world.reflectors[0].http(), "GET", "/readyz");
    assert!(not_ready.0.starts_with("HTTP/1.0 503 "), "{not_ready:?}");
    assert!(not_ready.1.contains("--fabric-name"), "{not_ready:?}");
    // Its peers go to the other one.
    world.leave(a, 0);
    std::mem::swap(&mut world.reflectors[0], &mut twin);
    world.connect(a, 0);
    world.settle();
    assert_eq!(world.updates()[b].len(), 1);
    assert!(twin.process().is_running(), "it goes on with its own peers");
}

/// A way to the engine that can be cut.
struct Way {
    address: SocketAddr,
    is_cut: Arc<AtomicBool>,
    open: Arc<Mutex<Vec<TcpStream>>>,
}

impl Way {
    fn to(server: SocketAddr) -> Way {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let is_cut = Arc::new(AtomicBool::new(false));
        let open = Arc::<Mutex<Vec<TcpStream>>>::default();
        let (cut, kept) = (Arc::clone(&is_cut), Arc::clone(&open));
        let accept = move || {
            for near in listener.incoming().map_while(Result::ok) {
                if cut.load(Ordering::Relaxed) {
                    continue;
                }
                let Ok(far) = TcpStream::connect(server) else { continue };
                let pair = || (near.try_clone().unwrap(), far.try_clone().unwrap());
                let ((a, b), (c, d)) = (pair(), pair());
                kept.lock().unwrap().extend([near.try_clone().unwrap(), far.try_clone().unwrap()]);
                std::thread::Builder::new().spawn(move || carry(a, b)).unwrap();
                std::thread::Builder::new().spawn(move || carry(d, c)).unwrap();
            }
        };
        std::thread::Builder::new().spawn(accept).unwrap();
        Way { address, is_cut, open }
    }

    fn cut(&self, cut: bool) {
        self.is_cut.store(cut, Ordering::Relaxed);
        if cut {
            let open = std::mem::take(&mut *self.open.lock().unwrap());
            open.iter().for_each(|stream| drop(stream.shutdown(Shutdown::Both)));
        }
    }
}

fn carry(mut from: TcpStream, mut to: TcpStream) {
    let mut buffer = vec![0; 65_536];
    from.set_read_timeout(Some(10 * PATIENCE)).unwrap();
    while let Ok(length @ 1..) = from.read(&mut buffer) {
        if to.write_all(&buffer[..length]).is_err() {
            break;
        }
    }
    let _ = (from.shutdown(Shutdown::Both), to.shutdown(Shutdown::Both));
}
