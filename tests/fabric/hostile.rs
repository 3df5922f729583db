//! A foreign writer in the stream: what makes no sense is dropped and counted, what does counts as any reflector's.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::time::Instant;

use serde_json::Value;

use crate::common::http::wait_until;
use crate::common::{PATIENCE, QUIET, route};
use crate::fleet::{FABRIC, VNIS, World};
use crate::writer::Writer;

/// As RFC 4648 has it, without padding.
fn base64url(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let mut text = String::new();
    for chunk in bytes.chunks(3) {
        let bits = chunk.iter().fold(0u32, |bits, byte| bits << 8 | u32::from(*byte));
        let bits = bits << (8 * (3 - chunk.len()));
        for digit in 0..=chunk.len() {
            text.push(DIGITS[(bits >> (18 - 6 * digit) & 63) as usize] as char);
        }
    }
    text
}

/// The subject of a route of reflector `name`.
fn subject(name: &str, vni: u32, route: &[u8]) -> String {
    format!("mb.{FABRIC}.r.{vni:x}.{name}.{}", base64url(route))
}

fn lease(name: &str) -> String {
    format!("mb.{FABRIC}.l.{name}")
}

/// Clients of many addresses announce it.
const MANY: &[u8] = &[1, 3, 0];

fn dropped(status: &Value) -> BTreeMap<String, u64> {
    serde_json::from_value(status["dropped_records"].clone()).unwrap()
}

/// Each with the reason for which it is dropped. No subject comes twice: of those only the last one would be read.
fn nonsense() -> Vec<(String, Vec<u8>, &'static str)> {
    let mut number = 9_000;
    let mut next = || {
        number += 1;
        route(VNIS[0], number, 1)
    };
    let of = |vni: &str, name: &str, key: &str| format!("mb.{FABRIC}.r.{vni}.{name}.{key}");
    let mut all = Vec::new();
    let mut bad =
        |subject: String, value: &[u8], reason| all.push((subject, value.to_vec(), reason));
    for short in [".x", ".r", ".r.7", ".r.7.R9", ".l", ".l.R9.x"] {
        bad(format!("mb.{FABRIC}{short}"), MANY, "subject");
    }
    let known = next();
    let key = base64url(&known);
    bad(of("7", "R9", &format!("{key}.x")), MANY, "subject");
    for vni in ["07", "0x7", "7g", "FF", "123456789", "-1"] {
        bad(of(vni, "R9", &key), MANY, "vni");
    }
    for name in ["R~9", &"x".repeat(33), "R\u{e9}"] {
        bad(of("7", name, &key), MANY, "name");
        bad(lease(name), b"1 synced 5 - -", "name");
    }
    // Another VNI's, padded, of another alphabet, cut, none, longer, and a REMOVE.
    let keys = [
        base64url(&route(8, 9_000, 1)),
        format!("{key}="),
        key.replace(|c: char| c.is_ascii_lowercase(), "+"),
        key[..key.len() - 2].to_owned(),
        "AAAA".to_owned(),
        "_".repeat(2_000),
        base64url(&[&[8, 1], &known[..]].concat()),
        base64url(&[&known[..], &[0x78, 1]].concat()),
    ];
    for key in keys {
        bad(of("7", "R9", &key), MANY, "key");
    }
    for value in [&[2, 3, 3][..], &[0], b"{}"] {
        bad(subject("R9", VNIS[0], &next()), value, "version");
    }
    let values: [&[u8]; 7] =
        [&[1], &[1, 3], &[1, 0, 0], &[1, 9, 9], &[1, 3, 3, 3], &[1, 1, 10, 0], &[1; 4_000]];
    for value in values {
        bad(subject("R9", VNIS[0], &next()), value, "value");
    }
    let leases: [&[u8]; 4] = [b"1", b"1 dancing 5 - -", b"1 synced -5 - -", b"1 synced 5 1 1"];
    for (at, value) in leases.into_iter().enumerate() {
        bad(lease(&format!("bad{at}")), value, "lease");
    }
    bad(lease("bad5"), &[0xff; 300], "lease");
    bad(lease("bad6"), &[b' '; 3_900], "lease");
    bad(lease("bad7"), b"2 synced 5 - -", "version");
    // Right, but nobody lives who has said it.
    bad(subject("R7", VNIS[0], &next()), MANY, "dead");
    all
}

/// Two reflectors with a host each, what these were told so far, and somebody who writes what he likes.
fn with_a_writer() -> Option<(World, Vec<Vec<usize>>, Writer)> {
    let mut world = World::of(2, &[])?;
    world.join(&[0]);
    world.join(&[1]);
    world.settle();
    let before = world.updates();
    let writer = Writer::connect(&world.engine.host());
    Some((world, before, writer))
}

#[test]
fn nonsense_is_dropped_and_counted() {
    let Some((mut world, before, mut writer)) = with_a_writer() else { return };
    writer.publish(&lease("R9"), b"1 synced 5 - -");
    let nonsense = nonsense();
    let mut expected = BTreeMap::<String, u64>::new();
    for (subject, value, reason) in &nonsense {
        *expected.entry((*reason).to_owned()).or_default() += 1;
        writer.publish(subject, value);
    }
    assert_eq!(writer.flush(), Vec::<String>::new());
    // The engine does not take what could fill anybody's memory.
    let answer = writer.ask(&lease("bad7"), &" ".repeat(5_000));
    assert_eq!(answer["error"]["err_code"], 10_054, "{answer}");
    // Also one that comes later reads all of it, and drops it.
    for at in 0..2 {
        let counted = || dropped(&world.reflectors[at].status());
        let deadline = Instant::now() + PATIENCE;
        while counted() != expected {
            assert!(Instant::now() < deadline, "R{at}: {:?} instead of {expected:?}", counted());
            std::thread::sleep(QUIET);
        }
    }
    world.settle();
    assert_eq!(world.updates(), before);
    world.reflectors[1].kill();
    world.leave(1, 1);
    world.reflectors[1].run();
    world.connect(1, 1);
    world.settle();
    assert!(!dropped(&world.reflectors[1].status()).is_empty());
    world.agree();
}

/// Whoever may write is believed: that is why permissions matter. With its lease goes what it said.
#[test]
fn a_foreign_reflector_is_one() {
    let Some(mut world) = World::of(1, &[]) else { return };
    let host = world.join(&[0]);
    world.settle();
    let mut writer = Writer::connect(&world.engine.host());
    writer.publish_with(&lease("R9"), &["Nats-TTL: 2s"], b"1 synced 5 - -");
    let foreign = route(VNIS[0], 9_000, 1);
    writer.publish(&subject("R9", VNIS[0], &foreign), MANY);
    // The host itself is who announces it there: it is not told.
    let own = world.hosts[host].address.octets();
    let one = [&[1, 1][..], &own, &[0]].concat();
    writer.publish(&subject("R9", VNIS[0], &route(VNIS[0], 9_001, 1)), &one);
    let other = Ipv4Addr::new(127, 2, 0, 99).octets();
    let one = [&[1, 1][..], &other, &[0]].concat();
    let second = route(VNIS[0], 9_002, 1);
    writer.publish(&subject("R9", VNIS[0], &second), &one);
    writer.flush();
    world.settle_at(&[[foreign, second].into()]);
    // The lease ends.
    world.settle();
    assert_eq!(world.reflectors[0].metric("metalbond_fabric_reflectors{state=\"lost\"}"), 1.0);
}

/// More than may be taken.
#[test]
fn records_beyond_the_bound_are_dropped() {
    let Some(mut world) = World::of(1, &["--fabric-routes-max=100"]) else { return };
    world.join(&[0]);
    world.settle();
    let mut writer = Writer::connect(&world.engine.host());
    writer.publish(&lease("R9"), b"1 synced 5 - -");
    for number in 0..150 {
        writer.publish(&subject("R9", VNIS[0], &route(VNIS[0], 9_000 + number, 1)), MANY);
    }
    writer.flush();
    let beyond = |world: &World| dropped(&world.reflectors[0].status()).get("routes_max").copied();
    wait_until("some to be dropped", || (beyond(&world)? >= 50).then_some(()));
    let (_, peer) = &mut world.hosts[0].peers[0];
    peer.read_until("what has room", |peer| peer.view.len() == 100);
    world.reflectors[0].is(&["synced"]);
}

/// Any byte of what is right may be another one.
#[test]
fn mutations_end_nobody() {
    let Some((mut world, before, mut writer)) = with_a_writer() else { return };
    let mut seed = 0x9E37_79B9_7F4A_7C15_u64;
    let mut random = |below: usize| {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        (seed % below as u64) as usize
    };
    let printable: Vec<u8> = (b'!'..=b'~').filter(|c| !b"*>".contains(c)).collect();
    // Far from the VNIs of the hosts, by more than one digit.
    let vni = 0x12_3456;
    for number in 0..4_000 {
        let mut subject = match number % 8 {
            0 => lease("R9"),
            _ => subject("R9", vni, &route(vni, number, 1)),
        }
        .into_bytes();
        let mut value = match number % 8 {
            0 => b"1 synced 5 - -".to_vec(),
            1 => [&[1, 1][..], &number.to_be_bytes(), &[3]].concat(),
            _ => MANY.to_vec(),
        };
        match random(4) {
            0 => value.truncate(random(value.len())),
            1 => {
                let at = random(value.len());
                value[at] = random(256) as u8;
            }
            2 => {
                // What stands before is the stream's.
                let first = FABRIC.len() + 4;
                let at = first + random(subject.len() - first);
                subject[at] = printable[random(printable.len())];
            }
            _ => {}
        }
        let subject = String::from_utf8(subject).unwrap();
        let is_whole = !subject.ends_with('.') && !subject.contains("..");
        if is_whole {
            writer.publish(&subject, &value);
        }
    }
    writer.flush();
    world.settle();
    for reflector in &world.reflectors {
        // What was sent last may not have come yet, and then nothing lags either.
        wait_until("everything to be read, and much of it to be dropped", || {
            let status = reflector.status();
            let count = dropped(&status).values().sum::<u64>();
            (status["lag_records"] == 0 && count > 500).then_some(())
        });
    }
    assert_eq!(world.updates(), before);
    world.hosts[0].announce(55);
    world.settle();
}
