//! What comes seldom: clocks that differ, leases without an end, records by others.
//!
//! Owns the tests of what was found by reading.

use std::time::Duration;

use super::super::status::{Standing, State};
use super::names::{Key, Publish};
use super::scenarios::Fleet;
use super::with_a_route;
use super::world::World;

const SEEDS: u64 = 20;

fn writes(world: &mut World, subject: &str, value: &[u8]) {
    let now = world.network().now;
    let publish = Publish {
        token: 0,
        subject: subject.to_owned(),
        value: value.to_vec(),
        lifetime: None,
        is_tombstone: false,
        expect_last: None,
    };
    world.network().engine.publish(now, &publish).expect("there is room");
}

fn sees_ever(world: &mut World, at: usize, key: Key, seconds: usize) -> bool {
    (0..seconds).any(|_| {
        world.run_for_s(1);
        world.sees(at, key)
    })
}

/// Whoever starts now was not there when the lease ended: its clock began later.
#[test]
fn the_dead_do_not_come_back_where_a_process_is_young() {
    for seed in 0..SEEDS {
        let (mut world, key) = with_a_route(seed);
        world.crashes(1);
        world.run_for_s(150 + 60 * (seed as usize % 20));
        assert!(!world.sees(0, key), "seed {seed}");
        world.crashes(0);
        world.starts(0);
        assert!(!sees_ever(&mut world, 0, key, 200), "seed {seed}");
    }
}

/// But what has ended a moment ago stands for the rest of its time.
#[test]
fn what_ended_a_moment_ago_is_believed_by_the_young() {
    for seed in 0..SEEDS {
        let (mut world, key) = with_a_route(seed);
        world.crashes(1);
        world.run_for_s(60);
        world.crashes(0);
        world.starts(0);
        assert!(sees_ever(&mut world, 0, key, 20), "seed {seed}");
        world.run_for_s(60);
        assert!(world.sees(0, key), "seed {seed}: 122 s after its end");
        world.run_for_s(20);
        assert!(!world.sees(0, key), "seed {seed}");
    }
}

/// The engine does not end it, or nobody gave it an end: it is not renewed, and so not believed for ever, nor is everything read
/// for it again and again.
#[test]
fn a_lease_without_an_end_ends() {
    for seed in 0..SEEDS {
        let (mut world, key) = with_a_route(seed);
        world.crashes(1);
        let lease = world.network().engine.list("mb.f.l.r1").pop().expect("a lease").1;
        writes(&mut world, "mb.f.l.r1", &lease.value);
        world.run_for_s(240);
        assert!(!world.sees(0, key), "seed {seed}");
        let readings = world.status(0).readings;
        world.run_for_s(1_000);
        assert_eq!(world.status(0).readings, readings, "seed {seed}");
        // It lives after all.
        world.starts(1);
        world.connect(0, 1);
        world.run_for_s(60);
        assert!(world.sees(0, key), "seed {seed}");
    }
}

/// One that renews its lease more rarely than we expect lives. That is found out, and not again and again.
#[test]
fn a_rare_lease_is_not_looked_for_each_time() {
    for seed in 0..SEEDS {
        let (mut world, _) = with_a_route(seed);
        let readings = world.status(0).readings;
        for renewal in 0..40 {
            let lease = format!("1 synced {} 0 0000000000000000", 7);
            writes(&mut world, "mb.f.l.rare", lease.as_bytes());
            world.run_for_s(50);
            let status = world.status(0);
            let rare = status.reflectors.iter().find(|it| it.name == "rare");
            assert!(rare.is_some(), "seed {seed}, renewal {renewal}: {status:?}");
        }
        assert!(world.status(0).readings <= readings + 3, "seed {seed}: {:?}", world.status(0));
    }
}

/// Whoever may write a lease cannot have others read everything all the time.
#[test]
fn doubts_are_heeded_now_and_then() {
    for seed in 0..SEEDS {
        let (mut world, _) = with_a_route(seed);
        let readings = world.status(0).readings;
        for _ in 0..200 {
            writes(&mut world, "mb.f.l.loud", b"1 synced 7 0 0000000000000000 ?r0");
            world.run_for_s(3);
        }
        let more = world.status(0).readings - readings;
        assert!((6..=8).contains(&more), "seed {seed}: {more}");
    }
}

/// Others' leases come in pairs, each second. That our own does not come back is found out all the same: one was missed, and
/// none is taken on top of it.
#[test]
fn a_canary_is_missed_among_others() {
    for seed in 0..SEEDS {
        let (mut world, _) = with_a_route(seed);
        let lease = world.network().engine.list("mb.f.l.r0").pop().expect("a lease").1;
        world.network().skips = 100;
        writes(&mut world, "mb.f.l.r0", &lease.value);
        world.run_for_s(1);
        world.network().skips = 0;
        for _ in 0..60 {
            writes(&mut world, "mb.f.l.x", b"1 synced 7 0 0000000000000000");
            writes(&mut world, "mb.f.l.y", b"1 synced 7 0 0000000000000000");
            world.run_for_s(1);
        }
        let status = world.status(0);
        let is_seen = status.canary_age.is_some_and(|age| age < Duration::from_secs(9));
        assert!(is_seen && status.state == State::Synced, "seed {seed}: {status:?}");
    }
}

/// The engine comes back empty, and a reflector that lags hears that another one has published all before it hears of a route that
/// has changed since: that one is not withdrawn for it.
#[test]
fn what_is_still_to_come_is_not_lost() {
    let mut lagged = 0;
    for seed in 0..4 * SEEDS {
        let (mut world, key) = with_a_route(seed);
        world.connect(1, 1);
        world.run_for_s(30);
        let (told, readings) = (world.told(None), world.status(0).readings);
        world.network().engine.wipe();
        let is_reread = |world: &World| {
            let status = world.status(0);
            status.readings > readings && matches!(status.state, State::Syncing | State::Synced)
        };
        while !is_reread(&world) {
            world.network().run_for(Duration::from_millis(1));
        }
        lagged += usize::from(world.network().engine.list("mb.f.r.*.r1.*").is_empty());
        world.network().nodes[0].is_stalled = true;
        for _ in 0..60 {
            world.network().run_for(Duration::from_millis(500));
            let leases = world.network().engine.list("mb.f.l.r1");
            if leases.iter().any(|(_, lease)| lease.value.starts_with(b"1 synced")) {
                break;
            }
        }
        world.change(1, key);
        world.network().run_for(Duration::from_millis(900));
        world.network().nodes[0].is_stalled = false;
        world.run_for_s(60);
        assert!(world.sees(0, key), "seed {seed}");
        assert_eq!(world.told(None), told, "seed {seed}");
    }
    assert!(lagged > 0, "nobody lagged");
}

/// What others wrote in our place is written over.
#[test]
fn what_makes_no_sense_in_our_place_is_put_right() {
    for seed in 0..SEEDS {
        let (mut world, key) = with_a_route(seed);
        let (_, record) = world.network().engine.list("mb.f.r.*.r1.*").pop().expect("a record");
        writes(&mut world, &record.subject, b"no such thing");
        world.run_for_s(10);
        let (_, now) = world.network().engine.list("mb.f.r.*.r1.*").pop().expect("a record");
        assert_eq!(now.value, record.value, "seed {seed}");
        assert!(world.sees(0, key), "seed {seed}");
    }
}

/// Its lease says that the former life was started later: it was, by a clock that was wrong.
#[test]
fn a_clock_that_was_set_back_is_not_noticed() {
    for seed in 0..SEEDS {
        let (mut world, key) = with_a_route(seed);
        let told = world.told(None);
        world.crashes(1);
        world.begins_as(0);
        world.starts(1);
        world.run_for_s(20);
        world.connect(0, 1);
        world.run_for_s(300);
        assert!(world.sees(0, key), "seed {seed}");
        let after = world.told(None);
        let at_others = |at: usize| told.iter().filter(move |((node, _), _)| *node == at);
        for (peer, count) in at_others(0) {
            assert_eq!(after.get(peer), Some(count), "seed {seed}");
        }
    }
}

/// What a reading brought that was broken off is held for so long as well, though all before it was lost.
#[test]
fn what_came_after_the_hold_time_is_held_for_so_long() {
    for seed in 0..4 * SEEDS {
        let (mut world, _) = with_a_route(seed);
        for host in 0..world.hosts() {
            for _ in 0..4 {
                let key = world.key();
                world.change(host, key);
            }
            world.connect(host, 1);
        }
        world.run_for_s(60);
        world.network().engine_goes();
        world.run_for_s(3_700);
        assert_eq!(world.status(0).remote_records, 0, "seed {seed}");
        world.network().engine_comes();
        for _ in 0..10_000 {
            world.network().run_for(Duration::from_millis(1));
            if world.status(0).remote_records > 0 {
                break;
            }
        }
        world.network().engine_goes();
        world.run_for_s(3_700);
        assert_eq!(world.status(0).remote_records, 0, "seed {seed}");
    }
}

/// How r1 is, as r0 sees it.
fn standing(world: &World) -> Standing {
    let status = world.status(0);
    let r1 = status.reflectors.iter().find(|it| it.name == "r1");
    r1.expect("it was there").standing
}

/// What was removed is nobody's business any more: until it comes back.
#[test]
fn who_was_removed_is_not_lost() {
    for seed in 0..SEEDS {
        let (mut world, key) = with_a_route(seed);
        world.crashes(1);
        world.run_for_s(600);
        assert_eq!(standing(&world), Standing::Lost, "seed {seed}");
        world.run_for_s(1_800);
        assert_eq!(standing(&world), Standing::Removed, "seed {seed}");
        // Also when all is read anew, and when nothing in the engine says so any more.
        world.run_for_s(3_600);
        world.network().unlink(0);
        world.network().links(0);
        world.run_for_s(60);
        assert_eq!(standing(&world), Standing::Removed, "seed {seed}");
        world.starts(1);
        world.connect(0, 1);
        world.run_for_s(150);
        assert!(matches!(standing(&world), Standing::Live(_)) && world.sees(0, key), "seed {seed}");
    }
}

/// Who may not remove what others left leaves it, and does not try again and again.
#[test]
fn what_is_not_permitted_is_not_tried() {
    for seed in 0..SEEDS {
        let (mut world, _) = with_a_route(seed);
        world.crashes(1);
        for at in (0..world.network().nodes.len()).filter(|at| *at != 1) {
            world.may_not_purge(at);
        }
        world.run_for_s(6_000);
        assert_eq!(standing(&world), Standing::Lost, "seed {seed}");
        assert!(!world.network().engine.list("mb.f.r.*.r1.>").is_empty(), "seed {seed}");
    }
}

/// One that has left nothing is lost for a while, and then nobody's business: there is nothing to remove.
#[test]
fn who_left_nothing_is_not_lost_for_ever() {
    for seed in 0..SEEDS {
        let (mut world, key) = with_a_route(seed);
        world.change(0, key);
        world.run_for_s(60);
        world.crashes(1);
        world.run_for_s(600);
        assert_eq!(standing(&world), Standing::Lost, "seed {seed}");
        world.network().unlink(0);
        assert_eq!(standing(&world), Standing::Lost, "seed {seed}");
        world.network().links(0);
        world.run_for_s(1_800);
        assert_eq!(standing(&world), Standing::Removed, "seed {seed}");
    }
}

/// What was heard before the engine went says nothing of now.
#[test]
fn without_an_engine_nobody_is_known_to_live() {
    for seed in 0..SEEDS {
        let (mut world, _) = with_a_route(seed);
        assert!(matches!(standing(&world), Standing::Live(_)), "seed {seed}");
        world.network().engine_goes();
        world.run_for_s(4);
        assert_eq!(standing(&world), Standing::Unknown, "seed {seed}");
        world.network().engine_comes();
        // Nor is anybody taken for dead while all is read: no lease is over.
        let is_known = (0..20_000).any(|_| {
            let standing = standing(&world);
            let is_dead = matches!(standing, Standing::Stale(_) | Standing::Lost);
            assert!(!is_dead, "seed {seed}: {standing:?}");
            world.network().run_for(Duration::from_millis(5));
            matches!(standing, Standing::Live(_))
        });
        assert!(is_known, "seed {seed}");
    }
}
