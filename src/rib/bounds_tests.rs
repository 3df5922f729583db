//! Steps that could be long and lists that could grow: work is counted, and bytes.
//!
//! Owns no code of the rib. Must never look at a time.

use super::tests::{GROUP, Sink, ask, base, join, rib, route, source, tables, view};
use super::*;
use crate::wire::frames;
use std::sync::Arc;

/// What a join of the group costs to hold, whatever the table is like: a block of its own, if a record came
/// before it.
const BYTES_PER_JOIN: usize = 512;
const ROUTES: u32 = 2_000;

/// Two bases that somebody reads, so that there will be no third one.
fn two_bases(rib: &mut Rib, sink: &mut Sink) -> [Joined; 2] {
    let older = join(rib, sink, 9);
    rib.add(source(1), PeerClass::Client, GROUP.vni, &route(ROUTES), sink);
    rib.join(GROUP, Join { peer: source(9).0, epoch: 2 }, sink, Time(60_000_000));
    while rib.run_jobs(1_000, sink, Time(60_000_000)) {}
    let newer = sink.joined.pop().expect("answered");
    assert!(!Arc::ptr_eq(&base(&older), &base(&newer)));
    [older, newer]
}

fn behind(joined: &Joined) -> usize {
    joined.blocks.clone().skip(1).map(|block| block.bytes().len()).sum()
}

fn base_bytes(joined: &Joined) -> usize {
    base(joined).bytes().len()
}

#[test]
fn joins_amid_records_cost_what_their_sum_is() {
    let (mut rib, mut sink) = (rib(1 << 14), Sink::default());
    tables(&mut rib, &mut sink, 7..8, ROUTES);
    let mut held = Vec::from(two_bases(&mut rib, &mut sink));
    let base_max = base_bytes(&held[1]);
    let two_bases_bytes = rib.base_bytes();
    let (mut record_bytes, mut longest) = (0, 0);
    for round in 0..10_000 {
        // A second source comes and goes, routes go and come back: all kinds of audiences.
        for number in (0..10).map(|at| (round * 7 + at) % ROUTES) {
            let from = source(1 + (round + number) % 2);
            let (rib, sink) = (&mut rib, &mut sink);
            if !rib.remove(from, GROUP.vni, &route(number), sink).is_change() {
                rib.add(from, PeerClass::Client, GROUP.vni, &route(number), sink);
            }
            assert!(rib.take_steps() <= 8, "each pays its part");
        }
        record_bytes += sink.records.drain(..).map(|(_, _, frame)| frame.len()).sum::<usize>();
        held.push(join(&mut rib, &mut sink, 9));
        longest = longest.max(behind(&held[held.len() - 1]));
        if round % 1_000 == 0 {
            assert_eq!(view(&held[held.len() - 1]).len(), visible(&rib));
        }
    }
    assert_eq!(rib.bases_alive_max(), 2);
    // Half a base, two records for each route that differs, and an eighth of both meanwhile.
    assert!(longest <= (base_max / 2 + 2 * base_max) * 9 / 8, "{longest} of {base_max}");
    // All who joined since stand still: what each list was shortened to is a few times what came.
    let bytes = rib.base_bytes() - two_bases_bytes;
    assert!(bytes <= 5 * record_bytes + 10_000 * BYTES_PER_JOIN, "{bytes} for {record_bytes}");
    assert!(bytes >= record_bytes, "they are counted");
    held.truncate(1);
    rib.expire_bases(Time(100_000_000));
    assert!(rib.base_bytes() <= two_bases_bytes, "who reads one base holds nothing else");
    drop(held);
    assert_eq!(rib.base_bytes(), 0);
}

/// What somebody sees who announces nothing.
fn visible(rib: &Rib) -> usize {
    rib.routes()
}

#[test]
fn what_followed_a_base_is_shortened_while_more_follows() {
    let (mut rib, mut sink) = (rib(0), Sink::default());
    tables(&mut rib, &mut sink, 7..8, ROUTES);
    let held = two_bases(&mut rib, &mut sink);
    let frame = base_bytes(&held[1]) / frames(base(&held[1]).bytes()).count();
    let (mut most, mut shortened) = (0, 0);
    let mut before = 0;
    // The same few routes come and go: hardly anything differs.
    for round in 0..40_000 {
        let number = round / 2 % 10;
        match round % 2 {
            0 => rib.remove(source(1), GROUP.vni, &route(number), &mut sink),
            _ => rib.add(source(1), PeerClass::Client, GROUP.vni, &route(number), &mut sink),
        };
        assert!(rib.take_steps() <= 8);
        if round % 50 == 0 {
            let bytes = behind(&join(&mut rib, &mut sink, 9));
            (most, shortened) = (most.max(bytes), shortened + usize::from(bytes < before));
            before = bytes;
        }
    }
    let half = base_bytes(&held[1]) / 2;
    assert!(most >= half && most <= half * 5 / 4 + 100 * frame, "{most} of {half}");
    assert!(shortened > 20, "{shortened} times");
}

#[test]
fn records_push_the_base_on_that_they_would_be_kept_for() {
    let (mut rib, mut sink) = (rib(0), Sink::default());
    tables(&mut rib, &mut sink, 7..8, 10_000);
    ask(&mut rib, &mut sink, 7);
    let mut records = 0;
    loop {
        // The base alone would take 10,000 such turns and more.
        rib.run_jobs(1, &mut sink, Time(0));
        if !sink.joined.is_empty() {
            break;
        }
        let number = 20_000 + records / 2;
        match records % 2 {
            0 => rib.add(source(1), PeerClass::Client, GROUP.vni, &route(number), &mut sink),
            _ => rib.remove(source(1), GROUP.vni, &route(number), &mut sink),
        };
        assert!(rib.take_steps() <= 8);
        records += 1;
        assert!(records < 2_000, "it does not get ready");
    }
    let after = frames(base(&sink.joined[0]).bytes()).count();
    assert_eq!((after, view(&sink.joined[0]).len()), (10_000, rib.routes()));
    let places = rib.homes.find(GROUP.vni, &rib.common.rules.hasher).map(|it| it.table.places());
    assert!(places.is_some_and(|places| places <= 11_000), "{places:?}");
}

#[test]
fn a_large_table_gives_memory_back_in_small_steps() {
    let (mut rib, mut sink) = (rib(0), Sink::default());
    tables(&mut rib, &mut sink, 7..8, 30_000);
    let places = |rib: &Rib| {
        let home = rib.homes.find(GROUP.vni, &rib.common.rules.hasher);
        home.map_or(0, |home| home.table.places())
    };
    for at in 0..30_000 {
        // Here and there.
        rib.remove(source(1), GROUP.vni, &route(at * 7_919 % 30_000), &mut sink);
        let before = places(&rib);
        rib.run_jobs(20, &mut sink, Time(0));
        assert!(before - places(&rib) <= 20, "a budget");
        assert!(
            places(&rib) <= (8 * rib.routes()).max(8 + rib.routes()) + 20 || before > places(&rib)
        );
    }
    while rib.run_jobs(20, &mut sink, Time(0)) {}
    assert_eq!((rib.routes(), rib.vnis()), (0, 0));
}

#[test]
fn a_table_that_falls_empty_at_once_is_dropped_in_small_steps() {
    let (mut rib, mut sink) = (rib(0), Sink::default());
    tables(&mut rib, &mut sink, 7..8, 30_000);
    let mut left = usize::MAX;
    assert!(rib.lose_in(source(1), GROUP.vni, &mut left, &mut sink));
    let mut turns = 0;
    while rib.run_jobs(1_000, &mut sink, Time(0)) {
        turns += 1;
    }
    assert!((29..40).contains(&turns), "{turns}");
    assert_eq!((rib.routes(), rib.vnis()), (0, 0));
}

#[test]
fn many_joins_are_answered_in_small_steps() {
    let (mut rib, mut sink) = (rib(0), Sink::default());
    tables(&mut rib, &mut sink, 7..8, 100);
    for slot in 10..10_010 {
        rib.join(GROUP, Join { peer: source(slot).0, epoch: 1 }, &mut sink, Time(0));
    }
    let mut turns = 0;
    while rib.run_jobs(200, &mut sink, Time(0)) {
        let joined: Vec<Joined> = sink.joined.drain(..).collect();
        assert!(joined.len() <= 200, "{} in one turn", joined.len());
        // Those that were answered follow, the others will be told by their answers.
        rib.remove(source(1), GROUP.vni, &route(turns), &mut sink);
        assert!(joined.first().is_none_or(|first| {
            view(first).len() == rib.routes() + 1 && view(&joined[joined.len() - 1]) == view(first)
        }));
        turns += 1;
    }
    assert!((50..60).contains(&turns), "{turns}");
}

#[test]
fn a_small_join_waits_for_few_turns_whatever_waits_before_it() {
    let (mut rib, mut sink) = (rib(1 << 14), Sink::default());
    tables(&mut rib, &mut sink, 0..300, 300);
    tables(&mut rib, &mut sink, 1_000..11_000, 2);
    tables(&mut rib, &mut sink, 20_000..20_001, 6);
    for lost in 100..400 {
        for number in 0..100 {
            let vni = Vni(lost % 300);
            rib.add(source(lost), PeerClass::Client, vni, &route(1_000 * lost + number), &mut sink);
        }
        rib.lose(source(lost));
    }
    (0..300).chain(1_000..11_000).chain([20_000]).for_each(|vni| ask(&mut rib, &mut sink, vni));
    let (mut turns, mut small_at, mut begun_most) = (0, None, 0);
    while rib.run_jobs(8_192, &mut sink, Time(0)) {
        turns += 1;
        if sink.joined.iter().any(|joined| joined.group.vni == Vni(20_000)) {
            small_at = small_at.or(Some(turns));
        }
        let groups = rib.homes.values().filter_map(|home| home.feeds.of(GroupClass::Client));
        begun_most = begun_most.max(groups.filter(|at| at.is_building()).count());
    }
    // Each of the 10,000 takes some 9 steps, of 4,096 in a turn.
    assert!(small_at.is_some_and(|turns| turns <= 27), "{small_at:?} of {turns}");
    assert!(begun_most <= 5, "{begun_most} bases begun at a time");
    assert_eq!(sink.joined.len(), 10_301);
}
