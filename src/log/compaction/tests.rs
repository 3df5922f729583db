//! Laggards against a plain model.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::*;
use crate::log::VniLog;
use crate::types::{Destination, NextHop, NextHopType, PeerId, Route, ShardId, SourceId, Vni};
use crate::wire::encode_update;

fn source(slot: u32) -> SpeakerId {
    SpeakerId::of_source(SourceId(PeerId::new(ShardId(0), slot, 0)))
}

fn reader(slot: u32) -> Reader {
    Reader::new(source(slot))
}

fn update(action: Action, number: u32) -> Vec<u8> {
    let next_hop = NextHop {
        address: [0x2001, 0xdb8, 0, 0, 0, 0, 0, 1].into(),
        vni: Vni(0),
        kind: NextHopType::STANDARD,
        nat_port_from: 0,
        nat_port_to: 0,
    };
    let destination = Destination { prefix: number.to_be_bytes().into(), length: 32 };
    let mut frame = Vec::new();
    encode_update(&mut frame, action, Vni(7), &Route { destination, next_hop });
    frame
}

/// One group with a few readers, each a source too, and what each has been told.
struct World {
    log: VniLog,
    compaction: Option<Compaction>,
    live: LiveBytes,
    sources: BTreeMap<u32, BTreeSet<u32>>,
    views: Vec<BTreeSet<Vec<u8>>>,
    laggards: Vec<Option<Laggard>>,
}

impl World {
    fn new(readers: usize) -> World {
        World {
            log: VniLog::new(Rc::default()),
            compaction: None,
            live: LiveBytes::default(),
            sources: BTreeMap::new(),
            views: vec![BTreeSet::new(); readers],
            laggards: (0..readers).map(|_| None).collect(),
        }
    }

    fn sees(&self, reader: u32, number: u32) -> bool {
        self.sources.get(&number).is_some_and(|of| of.iter().any(|&source| source != reader))
    }

    /// A source comes or goes: the record that says so is appended, and passed.
    fn toggle(&mut self, of: u32, number: u32) {
        let visibility = |world: &World| {
            let mut sources = world.sources.get(&number).into_iter().flatten();
            match (sources.next(), sources.next()) {
                (None, _) => None,
                (Some(&sole), None) => Some(Scope::AllBut(source(sole))),
                _ => Some(Scope::All),
            }
        };
        let before = visibility(self);
        let sources = self.sources.entry(number).or_default();
        if !sources.remove(&of) {
            sources.insert(of);
        }
        let (action, scope) = match (before, visibility(self)) {
            (None, Some(scope)) => (Action::Add, scope),
            (Some(scope), None) => (Action::Remove, scope),
            (Some(Scope::AllBut(source)), Some(Scope::All)) => (Action::Add, Scope::Only(source)),
            (Some(Scope::All), Some(Scope::AllBut(source))) => {
                (Action::Remove, Scope::Only(source))
            }
            _ => return,
        };
        let frame = update(action, number);
        let begin = Cursor::at_end_of(&self.log.anchor(&frame), None);
        self.log.append(&frame, scope, None);
        // Those who keep up have read it at once.
        for of in 0..self.views.len() as u32 {
            if self.laggards[of as usize].is_none() && scope.includes(reader(of)) {
                apply(&mut self.views[of as usize], &frame);
            }
        }
        if let Some(compaction) = &mut self.compaction {
            if compaction.frontier().is_none() {
                compaction.go_on_at(begin);
            }
            let laggards = &mut self.laggards;
            loop {
                let (mut named, mut turned) = (None, Vec::new());
                let is_named = |speaker: SpeakerId| {
                    let slot = speaker.source().map(|SourceId(id)| id.slot() as usize);
                    named = slot.filter(|&slot| laggards.get(slot).is_some_and(Option::is_some));
                    named.is_some()
                };
                let passed = compaction.pass(usize::MAX, is_named, &mut turned);
                if let Some(laggard) = named.and_then(|slot| laggards[slot].as_mut()) {
                    laggard.turn(&turned);
                }
                if !passed && !compaction.step() {
                    break;
                }
            }
        }
    }

    fn lag(&mut self, reader: usize) {
        if self.laggards[reader].is_none() {
            let (hasher, live) = (RandomState::with_seeds(1, 2, 3, 4), self.live.clone());
            let begin = Cursor::at_end_of(&self.log.anchor(&update(Action::Add, 0)), None);
            let compaction =
                self.compaction.get_or_insert_with(|| Compaction::new(begin, hasher, live));
            self.laggards[reader] = Some(compaction.laggard());
        }
    }

    /// True if there was anything to tell.
    fn tell(&mut self, of: usize, bytes_max: usize) -> bool {
        let (Some(compaction), Some(laggard)) = (&self.compaction, &mut self.laggards[of]) else {
            return false;
        };
        let mut out = Vec::new();
        let told = compaction.tell(laggard, reader(of as u32), &mut out, bytes_max);
        assert_eq!(told.unwrap_or(0), out.len());
        self.check_order(&out);
        let is_any = !out.is_empty();
        apply(&mut self.views[of], &out);
        if !is_any {
            self.laggards[of] = None;
        }
        if self.laggards.iter().all(Option::is_none) {
            self.compaction = None;
        }
        is_any
    }

    /// What nobody sees any more comes first.
    fn check_order(&self, told: &[u8]) {
        let actions: Vec<Action> = frames(told).map(|frame| action_and_key(frame).0).collect();
        if actions.is_sorted_by_key(|&action| action == Action::Add) {
            return;
        }
        let of_nobody = self.sources.iter().filter(|(_, sources)| sources.is_empty());
        let gone: BTreeSet<_> = of_nobody.map(|(&number, _)| key(number)).collect();
        let is_gone = |frame: &[u8]| gone.contains(action_and_key(frame).1);
        assert!(frames(told).is_sorted_by_key(|frame| !is_gone(frame)));
    }

    fn reclaim(&mut self) {
        if let Some(compaction) = &mut self.compaction {
            compaction.reclaim(|| self.laggards.iter().flatten(), usize::MAX);
        }
    }

    /// How many routes a reader sees otherwise than it was told.
    fn differing(&self, reader: usize) -> usize {
        let differs = |&&number: &&u32| {
            let told = self.views[reader].contains(&key(number));
            told != self.sees(reader as u32, number)
        };
        self.sources.keys().filter(differs).count()
    }
}

fn key(number: u32) -> Vec<u8> {
    action_and_key(&update(Action::Add, number)).1.to_vec()
}

fn apply(view: &mut BTreeSet<Vec<u8>>, bytes: &[u8]) {
    for frame in frames(bytes) {
        let (action, key) = action_and_key(frame);
        let changed = match action {
            Action::Add => view.insert(key.to_vec()),
            Action::Remove => view.remove(key),
        };
        assert!(changed, "the messages of a route alternate");
    }
}

proptest! {
    /// Readers lag at any time, are told in pieces, and are told no more than what differs; sources are
    /// readers too, and routes have several.
    #[test]
    fn laggards_are_told_what_differs_and_no_more(
        numbers in prop_oneof![Just(5_u32), Just(300), Just(9_000)],
        steps in proptest::collection::vec((0_u32..100, any::<u32>(), 0_usize..5), 1..600),
    ) {
        let mut world = World::new(5);
        for (what, number, reader) in steps {
            match what {
                0..70 => world.toggle(reader as u32 % 3, number % numbers),
                70..75 => {
                    let first = number % numbers;
                    for number in first..(first + 200).min(numbers) {
                        world.toggle(reader as u32, number);
                    }
                }
                75..83 => world.lag(reader),
                83..93 => drop(world.tell(reader, number as usize % 2_000)),
                93..97 => world.reclaim(),
                _ => {
                    let (differing, mut told) = (world.differing(reader), 0);
                    while world.tell(reader, 1) {
                        told += 1;
                    }
                    prop_assert_eq!(told, differing);
                }
            }
        }
        for reader in 0..5 {
            while world.tell(reader, 1 << 16) {}
            prop_assert_eq!(world.differing(reader), 0);
        }
        drop(world.compaction.take());
        prop_assert_eq!(world.live.get(), 0);
    }
}

#[test]
fn what_nobody_has_to_be_told_is_forgotten() {
    let mut world = World::new(2);
    world.lag(0);
    for number in 0..100_000 {
        world.toggle(1, number);
        world.toggle(1, number);
        if world.compaction.as_ref().is_some_and(Compaction::wants_reclaim) {
            world.reclaim();
        }
    }
    let compaction = world.compaction.as_ref().expect("somebody lags");
    assert!(compaction.slots.len() <= 2 * RECLAIM_SLOTS_MIN, "{}", compaction.slots.len());
    assert!(world.live.get() < 1 << 20);
    assert!(!world.tell(0, 1 << 16));
}

#[test]
fn what_goes_while_a_laggard_is_told_of_what_is_gone_comes_first_as_well() {
    let mut world = World::new(2);
    let known = || (0..4_096).chain(9_000..9_500);
    known().for_each(|number| world.toggle(1, number));
    world.lag(0);
    // In this order they have their places, on three pages.
    (0..4_096).for_each(|number| (0..2).for_each(|_| world.toggle(1, number)));
    (5_000..9_000).for_each(|number| world.toggle(1, number));
    (9_000..9_500).for_each(|number| (0..2).for_each(|_| world.toggle(1, number)));
    // It is amid those that came, then amid those that are gone.
    assert!(world.tell(0, 500));
    (9_000..9_500).for_each(|number| world.toggle(1, number));
    assert!(world.tell(0, 500));
    world.toggle(1, 3);
    while world.tell(0, 1 << 20) {}
    assert_eq!(world.differing(0), 0);
}
