//! Conflation of records that have audiences: what a base's joiners still need to know.
//!
//! Owns the arithmetic of scopes. Must never lose a change that any single subscriber would see, nor
//! take long at a time.

use std::sync::Arc;

use ahash::RandomState;

use super::frames::{Blocks, Frames, FramesList, Node};
use super::runs::Scope;
use crate::types::{Action, Pages, Place, SpeakerId, SplitTable, wide};
use crate::wire::{action_and_key, frame_len};

/// Where a frame stands: in which block, and at which byte.
#[derive(Clone, Copy)]
struct Spot {
    block: u32,
    at: u32,
}

/// What happened to one route, as each subscriber saw it: ADDs minus REMOVEs.
#[derive(Clone, Copy, Default)]
struct Net {
    add: Option<Spot>,
    remove: Option<Spot>,
    /// As somebody saw it whom no record names: -1, 0 or 1.
    others: i8,
    /// What else those saw who saw something else. The difference of two states: each leaves out one
    /// subscriber at most.
    named: [Option<(SpeakerId, i8)>; 2],
}

impl Net {
    fn count(&mut self, spot: Spot, action: Action, scope: Scope) {
        let step = match action {
            Action::Add => (self.add = Some(spot), 1).1,
            Action::Remove => (self.remove = Some(spot), -1).1,
        };
        match scope {
            Scope::All => self.others += step,
            Scope::AllBut(source) => {
                self.others += step;
                self.count_named(source, -step);
            }
            Scope::Only(source) => self.count_named(source, step),
        }
    }

    fn count_named(&mut self, source: SpeakerId, step: i8) {
        let known = self.named.iter().position(|named| named.is_some_and(|(id, _)| id == source));
        let free = || self.named.iter().position(Option::is_none);
        let Some(at) = known.or_else(free) else {
            panic!("a state leaves out one subscriber at most");
        };
        let net = self.named[at].map_or(0, |(_, net)| net) + step;
        self.named[at] = (net != 0).then_some((source, net));
    }

    /// The records that say the same: two at most.
    fn records(&self) -> impl Iterator<Item = (Action, Option<Spot>, Scope)> {
        let saw = |(source, net)| (source, net + self.others);
        let named = self.named.into_iter().flatten().map(saw);
        let record = move |net, scope| match net > 0 {
            true => (Action::Add, self.add, scope),
            false => (Action::Remove, self.remove, scope),
        };
        let mut unaffected = named.clone().filter(|&(_, net)| net == 0);
        let scope = unaffected.next().map_or(Scope::All, |(source, _)| Scope::AllBut(source));
        let to_others = (self.others != 0).then(|| record(self.others, scope));
        let alone = named
            .filter(move |&(_, net)| self.others == 0 && net != 0)
            .map(move |(source, net)| record(net, Scope::Only(source)));
        to_others.into_iter().chain(alone)
    }
}

/// Shortens a list of records to the least that brings every subscriber to the same state: its length
/// is bounded by the routes that differ, not by what happened. Goes on in small steps, while more
/// records come.
pub struct Merge {
    unread: Blocks,
    /// The blocks read so far, how far the last of them was read, and in which run.
    blocks: Vec<Arc<Frames>>,
    at: usize,
    run: usize,
    /// The nets of the routes, in the order in which they changed first, and an index of them with hashes.
    nets: Pages<Net>,
    index: SplitTable<(u32, u32)>,
    /// What is written so far: for the first so many nets, REMOVEs and ADDs; and the blocks up to `behind`. REMOVEs
    /// come first, for the same reason as in a compaction.
    short: FramesList,
    adds: FramesList,
    adds_linked: Option<Arc<Node>>,
    written: usize,
    behind: Option<Arc<Node>>,
    merged_bytes: usize,
}

impl Merge {
    /// Begins with what is in the list now.
    pub fn new(list: &mut FramesList) -> Merge {
        Merge {
            unread: list.behind(None),
            blocks: Vec::new(),
            at: 0,
            run: 0,
            nets: Pages::default(),
            index: SplitTable::default(),
            short: list.another(),
            adds: list.another(),
            adds_linked: None,
            written: 0,
            behind: list.close(),
            merged_bytes: 0,
        }
    }

    /// Goes on, for as many records as `budget` says (reduced by what was used). When done, the list is
    /// the short one, with what came meanwhile behind it; returns the bytes that had to stay. Who reads
    /// the old one reads it to its end.
    pub fn run(
        &mut self,
        list: &mut FramesList,
        budget: &mut usize,
        hasher: &RandomState,
    ) -> Option<usize> {
        while *budget > 0 {
            *budget -= 1;
            let goes_on = self.read_one(hasher)
                || self.write_one()
                || link_next(&mut self.short, &mut self.adds_linked, &self.adds)
                || link_next(&mut self.short, &mut self.behind, list);
            if !goes_on {
                std::mem::replace(&mut self.short, list.another()).replace(list);
                return Some(self.merged_bytes);
            }
        }
        None
    }

    fn read_one(&mut self, hasher: &RandomState) -> bool {
        if self.blocks.last().is_none_or(|block| block.bytes().len() == self.at) {
            let Some(block) = self.unread.next() else { return false };
            self.blocks.push(block);
            (self.at, self.run) = (0, 0);
        }
        let Merge { blocks, nets, .. } = self;
        let block = &blocks[blocks.len() - 1];
        let frame = frame_at(block, self.at);
        let (action, key) = action_and_key(frame);
        let hash = hasher.hash_one(key) as u32;
        let is_it = |&(other, net): &(u32, u32)| {
            other == hash
                && nets[net as usize].add.or(nets[net as usize].remove).is_some_and(|spot| {
                    action_and_key(frame_at(&blocks[spot.block as usize], spot.at as usize)).1
                        == key
                })
        };
        let net = match self.index.place(wide(hash), is_it, |&(hash, _)| wide(hash)) {
            Place::Occupied(&mut (_, net)) => net,
            Place::Vacant(vacancy) => {
                let net = nets.len() as u32;
                vacancy.insert((hash, net));
                nets.push(Net::default());
                net
            }
        };
        let (scope, end) = block.run(self.run);
        let spot = Spot { block: blocks.len() as u32 - 1, at: self.at as u32 };
        nets[net as usize].count(spot, action, scope);
        self.at += frame.len();
        self.run += usize::from(self.at == end);
        true
    }

    fn write_one(&mut self) -> bool {
        if self.written == self.nets.len() {
            return false;
        }
        for (action, spot, scope) in self.nets[self.written].records() {
            let Some(Spot { block, at }) = spot else { unreachable!("it was counted") };
            let frame = frame_at(&self.blocks[block as usize], at as usize);
            match action {
                Action::Remove => self.short.push(frame, scope),
                Action::Add => self.adds.push(frame, scope),
            }
        }
        self.written += 1;
        if self.written == self.nets.len() {
            self.adds.close();
            self.merged_bytes = self.short.bytes() + self.adds.bytes();
        }
        true
    }
}

/// Appends the block of `list` that follows `linked`, the first one if that is None.
fn link_next(short: &mut FramesList, linked: &mut Option<Arc<Node>>, list: &FramesList) -> bool {
    let next = match linked {
        Some(node) => node.next.get(),
        None => list.first(),
    };
    let Some(next) = next.cloned() else { return false };
    short.push_shared(next.frames.clone());
    *linked = Some(next);
    true
}

impl std::fmt::Debug for Merge {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Merge({} of {} routes)", self.written, self.nets.len())
    }
}

fn frame_at(block: &Frames, at: usize) -> &[u8] {
    let rest = &block.bytes()[at..];
    &rest[..frame_len(rest)]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::{FramesCursor, Reader};
    use crate::types::{Destination, NextHop, NextHopType, PeerId, Route, ShardId, SourceId, Vni};
    use crate::wire::{encode_update, frames};
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    fn source(slot: u32) -> SpeakerId {
        SpeakerId::of_source(SourceId(PeerId::new(ShardId(0), slot, 0)))
    }

    fn reader(slot: u32) -> Reader {
        Reader::new(source(slot))
    }

    fn update(action: Action, number: u8) -> Vec<u8> {
        let next_hop = NextHop {
            address: [0xfd; 16].into(),
            vni: Vni(0),
            kind: NextHopType::STANDARD,
            nat_port_from: 0,
            nat_port_to: 0,
        };
        let destination = Destination { prefix: [10, 0, 0, number].into(), length: 32 };
        let mut frame = Vec::new();
        encode_update(&mut frame, action, Vni(7), &Route { destination, next_hop });
        frame
    }

    /// What a step from one set of subscribers that see a route (nobody, all but one, all) to the next
    /// one tells, towards all or towards nobody.
    fn step(seen: &mut [Option<Scope>], number: u8, up: bool, by: u32) -> Option<(Action, Scope)> {
        let sees = &mut seen[usize::from(number)];
        let (next, action, told) = match (*sees, up) {
            (None, true) if by == 0 => (Some(Scope::All), Action::Add, Scope::All),
            (None, true) => {
                let scope = Scope::AllBut(source(by));
                (Some(scope), Action::Add, scope)
            }
            (Some(Scope::AllBut(of)), true) => (Some(Scope::All), Action::Add, Scope::Only(of)),
            (Some(Scope::All), false) if by > 0 => {
                let of = source(by);
                (Some(Scope::AllBut(of)), Action::Remove, Scope::Only(of))
            }
            (Some(scope), false) => (None, Action::Remove, scope),
            (None, false) | (Some(_), true) => return None,
        };
        *sees = next;
        Some((action, told))
    }

    fn read(blocks: Blocks, reader: Reader, view: &mut BTreeSet<Vec<u8>>) {
        for block in blocks {
            let mut cursor = FramesCursor::new(block.clone());
            while let Some(range) = cursor.readable(reader, 1_000) {
                for frame in frames(&block.bytes()[range.clone()]) {
                    match action_and_key(frame) {
                        (Action::Add, key) => assert!(view.insert(key.to_vec()), "told twice"),
                        (Action::Remove, key) => assert!(view.remove(key), "never told"),
                    }
                }
                cursor.advance_to(range.end);
            }
        }
    }

    fn view_of(seen: &[Option<Scope>], reader: Reader) -> BTreeSet<Vec<u8>> {
        let sees = |(_, scope): &(u8, &Option<Scope>)| scope.is_some_and(|it| it.includes(reader));
        let key = |(number, _)| action_and_key(&update(Action::Add, number)).1.to_vec();
        (0..).zip(seen).filter(sees).map(key).collect()
    }

    proptest! {
        /// Whoever reads the list, at whatever step, comes to the state of then; and when a merge is done
        /// the list is what differs and what came meanwhile.
        #[test]
        fn a_list_that_is_merged_says_the_same(
            steps in proptest::collection::vec((0u8..5, any::<bool>(), 0u32..4, 0usize..5, any::<bool>()), 1..300),
        ) {
            let hasher = RandomState::with_seeds(1, 2, 3, 4);
            let mut seen = vec![None; 5];
            // Some of it is there before.
            step(&mut seen, 0, true, 1);
            step(&mut seen, 1, true, 0);
            let before: Vec<_> = (0..5).map(|slot| view_of(&seen, reader(slot))).collect();
            let mut list = FramesList::default();
            let (mut merge, mut came) = (Merge::new(&mut list), 0);
            for (number, up, by, mut budget, look) in steps {
                if let Some((action, scope)) = step(&mut seen, number, up, by) {
                    let frame = update(action, number);
                    came += frame.len();
                    list.push(&frame, scope);
                }
                if look {
                    for (slot, mut view) in (0..5).zip(before.clone()) {
                        read(list.behind(None), reader(slot), &mut view);
                        prop_assert_eq!(view, view_of(&seen, reader(slot)));
                    }
                }
                let given = budget;
                if let Some(bytes) = merge.run(&mut list, &mut budget, &hasher) {
                    let short = list.behind(None).flat_map(|it| it.bytes().to_vec()).collect::<Vec<_>>();
                    let actions = frames(&short[..bytes]).map(|frame| action_and_key(frame).0);
                    prop_assert!(actions.is_sorted_by_key(|action| action == Action::Add));
                    prop_assert!(bytes <= 5 * 2 * 80, "two records a route");
                    prop_assert!(list.bytes() <= bytes + came);
                    merge = Merge::new(&mut list);
                    came = 0;
                }
                prop_assert!(budget <= given);
            }
        }
    }
}
