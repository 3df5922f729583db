//! Tables against a model.
//!
//! Owns what is claimed of them. Must never look at their insides.

use super::*;
use crate::rib::speakers::SpeakerRef;
use crate::types::PeerClass;
use crate::types::{Destination, NextHop, NextHopType, PeerId, ShardId, Vni};
use std::collections::{BTreeMap, BTreeSet};

fn role() -> Role {
    Role::new(PeerClass::Client, 0, SpeakerRef::ITSELF)
}

fn source(slot: u32) -> SourceId {
    SourceId(PeerId::new(ShardId(0), slot, 0))
}

fn route(number: u8) -> Route {
    let next_hop = NextHop {
        address: [0xfd00, 0, 0, 0, 0, 0, 0, 1].into(),
        vni: Vni(0),
        kind: NextHopType::STANDARD,
        nat_port_from: 0,
        nat_port_to: 0,
    };
    let destination = Destination { prefix: [10, 0, 0, number].into(), length: 32 };
    Route { destination, next_hop }
}

#[test]
fn routes_of_one_hash_are_told_apart() {
    let hasher = RandomState::with_seeds(1, 2, 3, 4);
    let mut table = VniTable { indexes: Some(Box::default()), ..VniTable::default() };
    let hash = RouteHash(7);
    let places: Vec<u32> =
        (0..100).map(|number| table.find_or_insert(&route(number), hash, &hasher)).collect();
    assert_eq!(table.len(), 100);
    for (number, &place) in (0..100).zip(&places) {
        assert_eq!(table.find(&route(number), hash), Some(place));
        assert_eq!(table.find_or_insert(&route(number), hash, &hasher), place);
    }
    assert_eq!(table.find(&route(100), hash), None);
}

/// Adds and removes at random, a table that grows large and falls empty again and again: after each
/// step it is what a plain map of sets says.
#[test]
fn a_table_that_grows_and_shrinks_agrees_with_a_plain_map() {
    for (numbers, compactions_min) in [(12, 2), (200, 2)] {
        let mut compactions = 0;
        let mut was_small = 0;
        let mut was_large = 0;
        churn(numbers, |table, places_before| {
            was_small += u32::from(table.indexes.is_none() && !table.is_empty());
            was_large += u32::from(table.indexes.is_some());
            compactions += u32::from(table.places() < places_before);
        });
        assert!(was_small > 10 && was_large > 10, "was of both kinds");
        assert!(compactions >= compactions_min, "gave memory back");
    }
}

fn churn(numbers: u64, mut look: impl FnMut(&VniTable, usize)) {
    let mut is_compacting = false;
    let hasher = RandomState::with_seeds(1, 2, 3, 4);
    let mut table = VniTable::default();
    let mut model = BTreeMap::<u8, BTreeSet<SourceId>>::new();
    let mut random = 1_u64;
    let mut draw = |below: u64| {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (random >> 33) % below
    };
    for step in 0..200_000 {
        match step % 1_000 {
            0 => table.freeze(),
            200 => table.thaw(),
            _ => {}
        }
        let (number, source) = (draw(numbers) as u8, source(draw(3) as u32));
        let hash = RouteHash::of(&route(number), &hasher);
        let places = table.places();
        let (mut is_change, mut changed) = (false, None);
        if draw(100) < [70, 1, 30, 1][step / 2_900 % 4] {
            let place = table.find_or_insert(&route(number), hash, &hasher);
            let is_new = !model.contains_key(&number);
            assert!(step % 1_000 > 199 || !is_new || place as usize == places, "frozen");
            is_change = model.entry(number).or_default().insert(source);
            changed = table.add_source(place, source, role(), &hasher).ok();
        } else if let Some(place) = table.find(&route(number), hash) {
            let sources = model.get_mut(&number).expect("found, so it has sources");
            is_change = sources.remove(&source);
            if sources.is_empty() {
                model.remove(&number);
            }
            changed = table.remove_source(place, source, &hasher);
        } else {
            assert!(!model.contains_key(&number));
        }
        is_compacting |= table.is_sparse();
        if is_compacting {
            let before = table.places();
            is_compacting = !table.compact(&mut 2, &hasher);
            assert!(before - table.places() <= 2, "a budget");
        }
        let of_source = model.values().filter(|sources| sources.contains(&source)).count();
        assert_eq!(changed, is_change.then_some(of_source));
        assert_eq!(table.len(), model.len());
        let last = table.last_of(source, &hasher).map(|place| table.entry(place));
        assert_eq!(last.is_some(), of_source > 0);
        assert!(last.is_none_or(|entry| entry.has(source)));
        assert!(step % 1_000 > 199 || table.places() >= places, "frozen");
        look(&table, places);
    }
}

#[test]
fn a_table_that_falls_empty_gives_its_memory_back() {
    let hasher = RandomState::with_seeds(1, 2, 3, 4);
    let hash = |number| RouteHash::of(&route(number), &hasher);
    for routes in [9, 64, 65, 200] {
        let mut table = VniTable::default();
        for number in 0..routes {
            let place = table.find_or_insert(&route(number), hash(number), &hasher);
            table.add_source(place, source(1), role(), &hasher).ok();
        }
        table.freeze();
        for number in 0..routes {
            let place = table.find(&route(number), hash(number)).expect("it was added");
            table.remove_source(place, source(1), &hasher);
            assert!(!table.is_sparse() && table.compact(&mut 99, &hasher));
        }
        assert_eq!(table.places(), usize::from(routes), "places stay where they are");
        table.thaw();
        assert!(table.is_sparse());
        while !table.compact(&mut 7, &hasher) {}
        assert!(table.indexes.is_none() && table.entries.is_empty(), "{routes} routes");
    }
}

#[test]
fn a_route_that_moves_costs_what_it_has_sources() {
    let hasher = RandomState::with_seeds(1, 2, 3, 4);
    let hash = |number| RouteHash::of(&route(number), &hasher);
    let mut table = VniTable::default();
    for number in 0..100 {
        let place = table.find_or_insert(&route(number), hash(number), &hasher);
        let sources = if number < 90 { 1 } else { 50 };
        for slot in 0..sources {
            table.add_source(place, source(slot), role(), &hasher).ok();
        }
    }
    for number in 0..90 {
        let place = table.find(&route(number), hash(number)).expect("it was added");
        table.remove_source(place, source(0), &hasher);
    }
    let places = |table: &VniTable| {
        (90..100).map(|number| table.find(&route(number), hash(number))).collect::<Vec<_>>()
    };
    let (mut before, mut moves) = ((table.places(), places(&table)), 0);
    while !table.compact(&mut 10, &hasher) {
        let after = (table.places(), places(&table));
        let moved = before.1.iter().zip(&after.1).filter(|(one, other)| one != other).count();
        assert!(moved <= 1 && before.0 - after.0 <= 10, "a budget");
        moves += moved;
        before = after;
    }
    assert!((10..50).contains(&moves), "{moves}");
    assert_eq!((table.places(), table.len()), (10, 10));
    for number in 90..100 {
        let place = table.find(&route(number), hash(number)).expect("it is there still");
        (0..50).for_each(|slot| {
            table.remove_source(place, source(slot), &hasher).expect("it has it");
        });
    }
    assert!(table.is_empty());
}
