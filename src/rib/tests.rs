//! The rib on its own: bases, and tables against a naive model.

use super::*;
use crate::log::{Frames, FramesCursor, Reader};
use crate::types::{Action, Destination, NextHop, NextHopType, ReflectOwn, SpeakerId};
use crate::wire::encode_update;
use crate::wire::{action_and_key, frames};
use ahash::RandomState;
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

#[derive(Default)]
pub(super) struct Sink {
    pub joined: Vec<Joined>,
    pub records: Vec<(UpdateGroup, Scope, Vec<u8>)>,
    pub published: Vec<(u32, Announcers)>,
}

impl RecordSink for Sink {
    fn record(&mut self, _: ShardId, group: UpdateGroup, scope: Scope, frame: &[u8], _: usize) {
        self.records.push((group, scope, frame.to_vec()));
    }
    fn joined(&mut self, _: ShardId, joined: Joined) {
        self.joined.push(joined);
    }
    fn publish(&mut self, _: Vni, route: &Route, by: Announcers) {
        let number = (0..100).find(|&number| super::tests::route(number) == *route);
        self.published.push((number.unwrap_or(u32::MAX), by));
    }
    fn swept(&mut self, _: ShardId, _: SourceId, _: u32, _: u32) {}
    fn judged(&mut self, _: SourceId, _: Introduction, _: (Vni, &Route), _: Option<Denial>) {}
}

pub(super) const GROUP: UpdateGroup = UpdateGroup { vni: Vni(7), class: GroupClass::Client };

pub(super) fn source(slot: u32) -> SourceId {
    SourceId(PeerId::new(ShardId(0), slot, 0))
}

fn reader(source: SourceId) -> Reader {
    Reader::new(SpeakerId::of_source(source))
}

pub(super) fn route(number: u32) -> Route {
    let length = if number == 5 { 0 } else { 32 };
    Route {
        destination: Destination { prefix: number.to_be_bytes().into(), length },
        next_hop: NextHop {
            address: [0x2001, 0xdb8, 0, 0, 0, 0, 0, 1].into(),
            vni: Vni(0),
            kind: NextHopType::STANDARD,
            nat_port_from: 0,
            nat_port_to: 0,
        },
    }
}

fn hasher() -> RandomState {
    RandomState::with_seeds(1, 2, 3, 4)
}

pub(super) fn rib(tail_bytes_min: usize) -> Rib {
    Rib::new(Rules { tail_bytes_min, ..Rules::new(hasher()) })
}

pub(super) fn join(rib: &mut Rib, sink: &mut Sink, slot: u32) -> Joined {
    let join = Join { peer: source(slot).0, epoch: 1 };
    rib.join(GROUP, join, sink, Time(0));
    while rib.run_jobs(10, sink, Time(0)) {}
    sink.joined.pop().expect("answered")
}

pub(super) fn base(joined: &Joined) -> Arc<Frames> {
    joined.blocks.clone().next().expect("it begins with a base")
}

/// What a joiner knows after reading what it was given.
pub(super) fn view(joined: &Joined) -> BTreeSet<Vec<u8>> {
    let mut view = BTreeSet::new();
    for block in joined.blocks.clone() {
        let mut cursor = FramesCursor::new(block.clone());
        while let Some(range) = cursor.readable(reader(SourceId(joined.peer)), 1_000) {
            for frame in frames(&block.bytes()[range.clone()]) {
                match action_and_key(frame) {
                    (Action::Add, key) => assert!(view.insert(key.to_vec())),
                    (Action::Remove, key) => assert!(view.remove(key)),
                }
            }
            cursor.advance_to(range.end);
        }
    }
    view
}

#[test]
fn joiners_share_a_base_and_default_routes_come_first() {
    let (mut rib, mut sink) = (rib(1 << 20), Sink::default());
    for number in 0..50 {
        rib.add(source(number % 3), PeerClass::Client, GROUP.vni, &route(number), &mut sink);
    }
    assert!(sink.records.is_empty(), "nobody listens");
    let first = join(&mut rib, &mut sink, 0);
    rib.remove(source(1), GROUP.vni, &route(1), &mut sink);
    let second = join(&mut rib, &mut sink, 9);
    assert!(Arc::ptr_eq(&base(&first), &base(&second)));
    assert_eq!((view(&first).len(), view(&second).len()), (50 - 17, 49));
    let base = base(&first);
    let head = base.head_bytes();
    assert!(head > 0 && frames(&base.bytes()[..head]).count() == 1);
    assert_eq!(sink.records.len(), 1, "the first shard follows by now");
}

#[test]
fn no_third_base_while_two_are_read() {
    let (mut rib, mut sink) = (rib(0), Sink::default());
    let (mut held, mut bases) = (Vec::new(), Vec::new());
    for round in 0..40u32 {
        for number in 0..20 {
            let source = source(number % 3);
            match (round + number) % 2 {
                0 => rib.add(source, PeerClass::Client, Vni(7), &route(number), &mut sink),
                _ => rib.remove(source, Vni(7), &route(number), &mut sink),
            };
        }
        let joined = join(&mut rib, &mut sink, 9);
        assert_eq!(view(&joined).len(), rib.routes(), "round {round}");
        let tail: usize = joined.blocks.clone().skip(1).map(|block| block.bytes().len()).sum();
        assert!(tail <= 2 * 20 * 60 + 20 * 60, "{tail} bytes are more than what differs");
        if !bases.iter().any(|known| Arc::ptr_eq(known, &base(&joined))) {
            bases.push(base(&joined));
        }
        held.push(joined);
    }
    assert_eq!(bases.len(), 2);
    drop((held, bases));
    join(&mut rib, &mut sink, 9);
    rib.expire_bases(Time(10_000_000));
    assert_eq!((rib.bases_alive_max(), rib.has_bases()), (0, false), "forgotten in time");
}

#[test]
fn nothing_is_left_behind() {
    let (mut rib, mut sink) = (rib(0), Sink::default());
    for number in 0..1_000 {
        let vni = Vni(number % 100);
        rib.add(source(number % 7), PeerClass::Client, vni, &route(number), &mut sink);
    }
    join(&mut rib, &mut sink, 3);
    rib.leave(GROUP, ShardId(0));
    assert_eq!((rib.routes(), rib.vnis()), (1_000, 100));
    (0..7).for_each(|slot| rib.lose(source(slot)));
    while rib.run_jobs(17, &mut sink, Time(0)) {}
    rib.expire_bases(Time(10_000_000));
    assert_eq!((rib.routes(), rib.vnis(), rib.has_bases()), (0, 0, false));
}

/// A subscriber that applies what it is told.
struct Subscriber {
    source: SourceId,
    class: PeerClass,
    group: GroupClass,
    view: BTreeSet<Vec<u8>>,
}

impl Subscriber {
    fn apply(&mut self, scope: Scope, frame: &[u8]) -> Result<(), TestCaseError> {
        if !scope.includes(reader(self.source)) {
            return Ok(());
        }
        let (action, key) = action_and_key(frame);
        match action {
            Action::Add => prop_assert!(self.view.insert(key.to_vec()), "told twice"),
            Action::Remove => prop_assert!(self.view.remove(key), "never told"),
        }
        Ok(())
    }
}

fn key(number: u32) -> Vec<u8> {
    let mut frame = Vec::new();
    encode_update(&mut frame, Action::Add, GROUP.vni, &route(number));
    action_and_key(&frame).1.to_vec()
}

proptest! {
    /// After each change every subscriber knows what the rule, applied to a plain set of
    /// announcements, says; whoever joins then knows the same at once.
    #[test]
    fn the_table_agrees_with_a_naive_one(
        steps in proptest::collection::vec((0u32..6, 0u32..5, 0u8..10), 1..150),
        reflected in any::<bool>(),
    ) {
        let reflect = if reflected { ReflectOwn::AllButNat } else { ReflectOwn::None };
        let hasher = RandomState::with_seeds(5, 6, 7, 8);
        let mut rib = Rib::new(Rules { reflect, ..Rules::new(hasher) });
        let class = |slot: u32| if slot % 3 == 2 { PeerClass::Server } else { PeerClass::Client };
        let group = |slot: u32| match class(slot) {
            PeerClass::Server => GroupClass::Server,
            _ => GroupClass::Client,
        };
        let mut sink = Sink::default();
        let mut subscribers: Vec<Subscriber> = (0..6)
            .map(|slot| Subscriber { source: source(slot), class: class(slot), group: group(slot), view: BTreeSet::new() })
            .collect();
        for subscriber in &subscribers {
            let join = Join { peer: subscriber.source.0, epoch: 1 };
            rib.join(UpdateGroup::new(GROUP.vni, subscriber.group), join, &mut sink, Time(0));
        }
        while rib.run_jobs(3, &mut sink, Time(0)) {}
        let mut naive: BTreeMap<u32, BTreeSet<u32>> = BTreeMap::new();
        for (slot, number, what) in steps {
            let announcers = naive.entry(number).or_default();
            match what {
                0..5 => {
                    let added = rib
                        .add(source(slot), class(slot), Vni(7), &route(number), &mut sink)
                        .is_change();
                    prop_assert_eq!(added, announcers.insert(slot));
                }
                5..9 => {
                    let removed =
                        rib.remove(source(slot), Vni(7), &route(number), &mut sink).is_change();
                    prop_assert_eq!(removed, announcers.remove(&slot));
                }
                _ => {
                    rib.lose(source(slot));
                    while rib.run_jobs(1, &mut sink, Time(0)) {}
                    naive.values_mut().for_each(|announcers| announcers.retain(|&of| of != slot));
                }
            }
            for (group, scope, frame) in sink.records.drain(..) {
                for subscriber in subscribers.iter_mut().filter(|s| s.group == group.class) {
                    subscriber.apply(scope, &frame)?;
                }
            }
            let with_source = naive.values().filter(|announcers| !announcers.is_empty()).count();
            prop_assert_eq!(rib.routes(), with_source);
            for (at, subscriber) in subscribers.iter().enumerate() {
                let sees = |announcers: &BTreeSet<u32>| announcers.iter().any(|&announcer| {
                    let own = announcer == at as u32 && !reflected;
                    let servers = [class(announcer), subscriber.class];
                    !own && servers != [PeerClass::Server; 2]
                });
                let expected: BTreeSet<Vec<u8>> =
                    naive.iter().filter(|(_, by)| sees(by)).map(|(&number, _)| key(number)).collect();
                prop_assert_eq!(&subscriber.view, &expected);
                if what == 0 {
                    let join = Join { peer: subscriber.source.0, epoch: 2 };
                    let group = UpdateGroup::new(GROUP.vni, subscriber.group);
                    sink.joined.clear();
                    rib.join(group, join, &mut sink, Time(0));
                    while rib.run_jobs(2, &mut sink, Time(0)) {}
                    prop_assert_eq!(view(&sink.joined[0]), expected);
                }
            }
        }
    }
}

#[test]
fn a_source_that_comes_and_goes_leaves_no_list_behind() {
    let (mut rib, mut sink) = (rib(0), Sink::default());
    let stays = source(1);
    rib.add(stays, PeerClass::Client, Vni(0), &route(0), &mut sink);
    for round in 0..10_000 {
        for source in [stays, source(2)] {
            rib.add(source, PeerClass::Client, Vni(1 + round % 50), &route(1), &mut sink);
            rib.remove(source, Vni(1 + round % 50), &route(1), &mut sink);
        }
    }
    assert_eq!((rib.vnis(), rib.sources()), (1, 1), "what has nothing is forgotten");
    assert_eq!(rib.sources.find(stays, &hasher()).map(|of| of.vnis.len()), Some(1));
}

pub(super) fn tables(rib: &mut Rib, sink: &mut Sink, vnis: std::ops::Range<u32>, routes: u32) {
    for vni in vnis {
        for number in 0..routes {
            rib.add(source(1), PeerClass::Client, Vni(vni), &route(number), sink);
        }
    }
}

pub(super) fn ask(rib: &mut Rib, sink: &mut Sink, vni: u32) {
    let join = Join { peer: source(2).0, epoch: 1 };
    rib.join(UpdateGroup::new(Vni(vni), GroupClass::Client), join, sink, Time(0));
}

#[test]
fn the_join_of_a_small_vni_waits_for_no_large_one() {
    let (mut rib, mut sink) = (rib(1 << 14), Sink::default());
    tables(&mut rib, &mut sink, 0..50, 1_000);
    tables(&mut rib, &mut sink, 50..90, 60);
    tables(&mut rib, &mut sink, 90..91, 6);
    for lost in 3..10 {
        for number in 0..1_000 {
            rib.add(source(lost), PeerClass::Client, Vni(0), &route(number), &mut sink);
        }
        rib.lose(source(lost));
    }
    (0..91).for_each(|vni| ask(&mut rib, &mut sink, vni));
    // A third of the budget is for small ones: here 40 of 60 routes come before it.
    let turns = (1..).find(|_| {
        rib.run_jobs(1_600, &mut sink, Time(0));
        sink.joined.iter().any(|joined| joined.group.vni == Vni(90))
    });
    assert!(turns.is_some_and(|turns| turns <= 6), "{turns:?}");
    assert!(sink.joined.iter().all(|joined| joined.group.vni >= Vni(50)), "small ones first");
}

#[test]
fn jobs_of_a_kind_take_turns() {
    let (mut rib, mut sink) = (rib(1 << 14), Sink::default());
    tables(&mut rib, &mut sink, 0..1, 50_000);
    tables(&mut rib, &mut sink, 1..2, 1_000);
    for number in 0..100 {
        rib.add(source(3), PeerClass::Client, Vni(1), &route(number), &mut sink);
    }
    (0..2).for_each(|vni| ask(&mut rib, &mut sink, vni));
    rib.lose(source(1));
    rib.lose(source(3));
    let mut turns = 0;
    while sink.joined.is_empty() || rib.sources.find(source(3), &hasher()).is_some() {
        rib.run_jobs(1_600, &mut sink, Time(0));
        turns += 1;
    }
    assert!(turns <= 4, "{turns}");
    assert_eq!((sink.joined[0].group.vni, rib.is_losing()), (Vni(1), true));
}

#[test]
fn no_kind_of_job_starves() {
    for budget in [1, 2, 3, 100] {
        let (mut rib, mut sink) = (rib(1 << 14), Sink::default());
        tables(&mut rib, &mut sink, 0..3, 200);
        tables(&mut rib, &mut sink, 3..4, 1);
        for number in 0..200 {
            rib.add(source(3), PeerClass::Client, Vni(9), &route(number), &mut sink);
        }
        rib.lose(source(3));
        (0..3).for_each(|vni| ask(&mut rib, &mut sink, vni));
        let mut turns = 0;
        let mut all_done_at = None;
        while all_done_at.is_none() {
            // Somebody always asks for a small one, whose base is gone by then.
            ask(&mut rib, &mut sink, 3);
            rib.run_jobs(budget, &mut sink, Time(0));
            sink.joined.retain(|joined| joined.group.vni != Vni(3));
            rib.expire_bases(Time(10_000_000));
            turns += 1;
            assert!(turns * budget < 10_000, "budget {budget}: something starves");
            let built = (0..3).all(|vni| sink.joined.iter().any(|j| j.group.vni == Vni(vni)));
            let withdrawn = !rib.is_losing();
            all_done_at = (built && withdrawn).then_some(turns);
        }
    }
}

#[test]
fn jobs_keep_to_their_budget() {
    let (mut rib, mut sink) = (rib(1 << 14), Sink::default());
    tables(&mut rib, &mut sink, 0..4, 1_000);
    rib.join(GROUP, Join { peer: source(9).0, epoch: 1 }, &mut sink, Time(0));
    for vni in 0..4 {
        ask(&mut rib, &mut sink, vni);
    }
    rib.run_jobs(usize::MAX, &mut sink, Time(0));
    rib.lose(source(1));
    let mut before = rib.routes();
    while rib.run_jobs(100, &mut sink, Time(0)) {
        assert!(before - rib.routes() <= 100);
        assert!(before > rib.routes() || !rib.is_losing());
        before = rib.routes();
    }
    assert_eq!(rib.routes(), 0);
}

#[test]
fn a_loss_in_one_vni_keeps_to_its_budget() {
    let (mut rib, mut sink) = (rib(1 << 14), Sink::default());
    tables(&mut rib, &mut sink, 7..8, 1_000);
    tables(&mut rib, &mut sink, 8..9, 10);
    let mut left = 300;
    assert!(!rib.lose_in(source(1), Vni(7), &mut left, &mut sink));
    assert_eq!((left, rib.routes()), (0, 710));
    let mut left = 1_000;
    assert!(rib.lose_in(source(1), Vni(7), &mut left, &mut sink));
    assert_eq!((left, rib.routes()), (300, 10), "the other VNI is not touched");
}

#[test]
fn a_peer_that_subscribes_again_and_again_during_a_build_waits_once() {
    let (mut rib, mut sink) = (rib(1 << 14), Sink::default());
    tables(&mut rib, &mut sink, 7..8, 1_000);
    for epoch in 1..=10_000 {
        for slot in 2..5 {
            rib.join(GROUP, Join { peer: source(slot).0, epoch }, &mut sink, Time(0));
        }
    }
    while rib.run_jobs(100, &mut sink, Time(0)) {}
    let mut answered: Vec<_> = sink.joined.iter().map(|it| (it.peer, it.epoch)).collect();
    answered.sort_unstable();
    assert_eq!(answered, [2, 3, 4].map(|slot| (source(slot).0, 10_000)));
}

#[test]
fn joiners_amid_records_share_what_followed_the_base() {
    let (mut rib, mut sink) = (rib(1 << 14), Sink::default());
    tables(&mut rib, &mut sink, 7..8, 20_000);
    // Two bases are being read, so there will be no third one.
    let older = join(&mut rib, &mut sink, 9);
    rib.add(source(1), PeerClass::Client, GROUP.vni, &route(20_000), &mut sink);
    rib.join(GROUP, Join { peer: source(9).0, epoch: 2 }, &mut sink, Time(60_000_000));
    while rib.run_jobs(1_000, &mut sink, Time(60_000_000)) {}
    let newer = sink.joined.pop().expect("answered");
    assert!(!Arc::ptr_eq(&base(&older), &base(&newer)));
    let mut joined = Vec::new();
    for number in 30_000..33_000 {
        rib.add(source(1), PeerClass::Client, GROUP.vni, &route(number), &mut sink);
        joined.push(join(&mut rib, &mut sink, 9));
    }
    assert_eq!(rib.bases_alive_max(), 2);
    assert!(size_of::<Blocks>() <= 32, "each has its place, and no list");
    let mut records: Vec<*const Frames> = Vec::new();
    for (at, joined) in joined.iter().enumerate() {
        let blocks = joined.blocks.clone().skip(1);
        let routes: usize = blocks.clone().map(|block| frames(block.bytes()).count()).sum();
        assert_eq!(routes, at + 1, "all that came before it joined, and nothing later");
        records.extend(blocks.map(|block| Arc::as_ptr(&block)));
        records.sort_unstable();
        records.dedup();
    }
    assert_eq!(records.len(), joined.len(), "one block for each record, shared by all");
    assert_eq!(view(&joined[2_999]).len(), 23_001);
}
