//! What became of a stretch of a log that only laggards have still to hear of: it is passed once, and what
//! it changed is kept by route, shared by all who lag.
//!
//! Owns the routes that changed and what each laggard was told of them. Must never keep a route of which
//! no laggard has anything to hear, but for those that are about to be looked through.
//!
//! For one route the records that a subscriber sees alternate: ADD, REMOVE, ADD. So whether it has to be
//! told anything is whether their number since it began to lag is odd, and what it is to be told is how
//! things stand now. `toggled` has, for each route, whether that number is odd since the beginning; a
//! laggard remembers what `toggled` was when it last knew all. The two differ exactly in the routes that it
//! has to be told of. A record that names a laggard ("all but X", "only X") turns what X remembers as well.

use std::rc::Rc;

use ahash::RandomState;

use super::bits::{Bits, PAGE_BITS};
use super::chunk::LiveBytes;
use super::runs::Scope;
use super::vni_log::Cursor;
use crate::types::{Action, Pages, Place, SourceId, SplitTable, wide};
use crate::wire::{action_and_key, encode_keyed, frames, keyed_frame_len};

/// Routes that changed before it is looked for some that nobody has to hear of any more.
const RECLAIM_SLOTS_MIN: usize = 4_096;

/// The routes that changed in the stretch that was passed.
pub struct Compaction {
    slots: Pages<Slot>,
    free: Pages<u32>,
    /// Slots by route.
    index: SplitTable<Indexed>,
    toggled: Rc<Bits>,
    /// What has not been passed yet; None if that is nothing.
    frontier: Option<Cursor>,
    hasher: RandomState,
    live: LiveBytes,
    /// What slots, keys and index have added to `live`.
    counted: usize,
    key_bytes: usize,
    /// The next page to be looked through for slots to reclaim, while that goes on.
    reclaiming: Option<u32>,
    /// How many slots may be in use before that begins anew.
    reclaim_at: usize,
}

/// A route, as its UPDATEs have it, and who sees it at the frontier (None: nobody).
struct Slot {
    key: Box<[u8]>,
    seen_by: Option<Scope>,
}

/// A slot and the hash of its key: an index that grows must not have to look at keys.
#[derive(Clone, Copy)]
struct Indexed {
    hash: u32,
    at: u32,
}

/// What one subscriber was told that lags.
#[derive(Clone)]
pub struct Laggard {
    told: Rc<Bits>,
    /// Where it is told on.
    next: u32,
}

impl Compaction {
    /// Of nothing yet; what is to be passed begins at `frontier`. Memory is counted in `live`.
    pub fn new(frontier: Cursor, hasher: RandomState, live: LiveBytes) -> Compaction {
        Compaction {
            slots: Pages::default(),
            free: Pages::default(),
            index: SplitTable::default(),
            toggled: Rc::new(Bits::new(live.clone())),
            frontier: Some(frontier),
            hasher,
            live,
            counted: 0,
            key_bytes: 0,
            reclaiming: None,
            reclaim_at: RECLAIM_SLOTS_MIN,
        }
    }

    /// What has not been passed yet.
    pub fn frontier(&self) -> Option<&Cursor> {
        self.frontier.as_ref()
    }

    /// The log goes on behind what was passed.
    pub fn go_on_at(&mut self, cursor: Cursor) {
        assert!(self.frontier.is_none(), "it was at the end");
        self.frontier = Some(cursor);
    }

    /// Goes on to the next chunk. At the last one it lets go of the log instead, and false is returned.
    pub fn step(&mut self) -> bool {
        let stepped = self.frontier.as_mut().is_some_and(Cursor::step);
        if !stepped {
            self.frontier = None;
        }
        stepped
    }

    /// Somebody who knows what the log says up to the frontier.
    pub fn laggard(&self) -> Laggard {
        Laggard { told: self.toggled.clone(), next: 0 }
    }

    /// Passes the next run of the frontier's chunk, up to the offset `limit`. `named` finds the laggard that
    /// a run names, if it is one. False if there is nothing to pass up to there.
    pub fn pass<'a>(
        &mut self,
        limit: usize,
        named: impl FnOnce(SourceId) -> Option<&'a mut Laggard>,
    ) -> bool {
        let Some(frontier) = &mut self.frontier else { return false };
        let Some(run) = frontier.next_run() else { return false };
        let from = (frontier.position() - frontier.chunk().start()) as usize;
        let to = run.end.min(limit);
        if from >= to {
            return false;
        }
        let chunk = frontier.chunk().clone();
        frontier.advance_to(to);
        let mut named = run.scope.named().and_then(named);
        for frame in frames(chunk.slice(from..to)) {
            self.pass_one(frame, run.scope, named.as_deref_mut());
        }
        self.count();
        true
    }

    /// Appends what `laggard` has to be told, which announces as `reader`, to `out`: whole frames, at most
    /// `bytes_max`, but one at least if `out` is empty. None if it knows all up to the frontier.
    pub fn tell(
        &self,
        laggard: &mut Laggard,
        reader: SourceId,
        out: &mut Vec<u8>,
        bytes_max: usize,
    ) -> Option<usize> {
        let before = out.len();
        let pages = self.pages();
        let first = laggard.next / PAGE_BITS;
        let mut from = laggard.next % PAGE_BITS;
        // The page in which it begins comes once more at the end.
        for page in (first..pages).chain(0..(first + 1).min(pages)) {
            if laggard.told.shares(page, &self.toggled) {
                from = 0;
                continue;
            }
            while let Some(bit) = self.toggled.first_difference(page, from, &laggard.told) {
                let at = page * PAGE_BITS + bit;
                let Slot { key, seen_by } = &self.slots[at as usize];
                let sees = seen_by.is_some_and(|scope| scope.includes(reader));
                let action = if sees { Action::Add } else { Action::Remove };
                let fits = out.len() - before + keyed_frame_len(action, key) <= bytes_max;
                if !fits && !out.is_empty() {
                    laggard.next = at;
                    return Some(out.len() - before);
                }
                encode_keyed(out, action, key);
                Rc::make_mut(&mut laggard.told).toggle(at);
                from = bit;
            }
            if self.toggled.first_difference(page, 0, &laggard.told).is_none() {
                Rc::make_mut(&mut laggard.told).share(page, &self.toggled);
            }
            from = 0;
        }
        laggard.next = 0;
        (out.len() > before).then(|| out.len() - before)
    }

    /// Whether it is time to look for routes of which nobody has to hear any more.
    pub fn wants_reclaim(&self) -> bool {
        self.reclaiming.is_some() || self.slots_in_use() >= self.reclaim_at
    }

    /// Forgets the routes of some pages of which none of the laggards has to hear: about `work_max`
    /// laggards' pages are looked at, one page at least.
    pub fn reclaim<'a, I: Iterator<Item = &'a Laggard>>(
        &mut self,
        laggards: impl Fn() -> I,
        work_max: usize,
    ) {
        let mut page = self.reclaiming.unwrap_or(0);
        let mut work = 0;
        while page < self.pages() && work < work_max {
            let mut differing = [0; PAGE_BITS as usize / 64];
            let mut last: Option<&Rc<Bits>> = None;
            for laggard in laggards() {
                work += 1;
                // Many stand at the same place.
                if !last.is_some_and(|last| Rc::ptr_eq(last, &laggard.told))
                    && !laggard.told.shares(page, &self.toggled)
                {
                    self.toggled.add_differences(page, &laggard.told, &mut differing);
                }
                last = Some(&laggard.told);
            }
            self.reclaim_page(page, &differing);
            page += 1;
        }
        self.reclaiming = (page < self.pages()).then_some(page);
        if self.reclaiming.is_none() {
            self.reclaim_at = 2 * self.slots_in_use() + RECLAIM_SLOTS_MIN;
        }
        self.count();
    }

    /// Memory that a laggard holds and does not share with those who know all, in bytes.
    pub fn bytes_beside(&self, laggard: &Laggard) -> usize {
        laggard.told.bytes_beside(&self.toggled)
    }

    fn pages(&self) -> u32 {
        (self.slots.len() as u32).div_ceil(PAGE_BITS)
    }

    fn slots_in_use(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    /// A record, on its way past. Whoever it names sees it differently from all others, so what it was
    /// told changes along: "all but X" toggles the route on both sides, "only X" on the side of X alone.
    fn pass_one(&mut self, frame: &[u8], scope: Scope, named: Option<&mut Laggard>) {
        let (action, key) = action_and_key(frame);
        let at = match scope {
            Scope::Only(_) if named.is_none() => match self.find(key) {
                Some(at) => at,
                None => return,
            },
            _ => self.find_or_insert(key),
        };
        self.slots[at as usize].seen_by = match (action, scope) {
            (Action::Add, Scope::AllBut(source)) | (Action::Remove, Scope::Only(source)) => {
                Some(Scope::AllBut(source))
            }
            (Action::Add, _) => Some(Scope::All),
            (Action::Remove, _) => None,
        };
        if !matches!(scope, Scope::Only(_)) {
            Rc::make_mut(&mut self.toggled).toggle(at);
        }
        if let Some(named) = named {
            Rc::make_mut(&mut named.told).toggle(at);
        }
    }

    fn find(&self, key: &[u8]) -> Option<u32> {
        let hash = self.hash(key);
        let is_key = |it: &Indexed| it.hash == hash && *self.slots[it.at as usize].key == *key;
        self.index.find(wide(hash), is_key).map(|it| it.at)
    }

    fn find_or_insert(&mut self, key: &[u8]) -> u32 {
        let hash = self.hash(key);
        let Compaction { slots, free, index, key_bytes, .. } = self;
        let is_key = |it: &Indexed| it.hash == hash && *slots[it.at as usize].key == *key;
        let vacancy = match index.place(wide(hash), is_key, |it| wide(it.hash)) {
            Place::Occupied(it) => return it.at,
            Place::Vacant(vacancy) => vacancy,
        };
        let slot = Slot { key: key.into(), seen_by: None };
        let at = match free.pop() {
            Some(at) => {
                slots[at as usize] = slot;
                at
            }
            None => {
                slots.push(slot);
                u32::try_from(slots.len() - 1).expect("a VNI has below 2^32 routes")
            }
        };
        vacancy.insert(Indexed { hash, at });
        *key_bytes += key.len();
        at
    }

    fn hash(&self, key: &[u8]) -> u32 {
        self.hasher.hash_one(key) as u32
    }

    fn reclaim_page(&mut self, page: u32, differing: &[u64]) {
        let first = (page * PAGE_BITS) as usize;
        let count = self.slots.len().saturating_sub(first).min(PAGE_BITS as usize);
        for bit in 0..count {
            let at = first + bit;
            if differing[bit / 64] & 1 << (bit % 64) != 0 || self.slots[at].key.is_empty() {
                continue;
            }
            let key = std::mem::take(&mut self.slots[at].key);
            let hash = self.hash(&key);
            let removed =
                self.index.remove(wide(hash), |it| it.at as usize == at, |it| wide(it.hash));
            assert!(removed.is_some(), "a slot in use is in the index");
            self.key_bytes -= key.len();
            // Its bit stays as it is, the same for all.
            self.free.push(at as u32);
        }
    }

    fn count(&mut self) {
        // An index slot has one byte of control, and the load is from 7/16 to 7/8.
        let bytes = self.slots.len() * size_of::<Slot>()
            + self.free.len() * size_of::<u32>()
            + self.index.len() * 2 * (size_of::<Indexed>() + 1)
            + self.key_bytes;
        self.live.set(self.live.get() + bytes - self.counted);
        self.counted = bytes;
    }
}

impl Drop for Compaction {
    fn drop(&mut self) {
        self.live.set(self.live.get() - self.counted);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use proptest::prelude::*;

    use super::*;
    use crate::log::VniLog;
    use crate::types::{Destination, NextHop, NextHopType, PeerId, Route, ShardId, Vni};
    use crate::wire::encode_update;

    fn source(slot: u32) -> SourceId {
        SourceId(PeerId::new(ShardId(0), slot, 0))
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
                (Some(Scope::AllBut(source)), Some(Scope::All)) => {
                    (Action::Add, Scope::Only(source))
                }
                (Some(Scope::All), Some(Scope::AllBut(source))) => {
                    (Action::Remove, Scope::Only(source))
                }
                _ => return,
            };
            let frame = update(action, number);
            let begin = Cursor::at_end_of(&self.log.anchor(&frame));
            self.log.append(&frame, scope);
            // Those who keep up have read it at once.
            for reader in 0..self.views.len() as u32 {
                if self.laggards[reader as usize].is_none() && scope.includes(source(reader)) {
                    apply(&mut self.views[reader as usize], &frame);
                }
            }
            if let Some(compaction) = &mut self.compaction {
                if compaction.frontier().is_none() {
                    compaction.go_on_at(begin);
                }
                let laggards = &mut self.laggards;
                while compaction
                    .pass(usize::MAX, |SourceId(id)| laggards.get_mut(id.slot() as usize)?.as_mut())
                    || compaction.step()
                {}
            }
        }

        fn lag(&mut self, reader: usize) {
            if self.laggards[reader].is_none() {
                let (hasher, live) = (RandomState::with_seeds(1, 2, 3, 4), self.live.clone());
                let begin = Cursor::at_end_of(&self.log.anchor(&update(Action::Add, 0)));
                let compaction =
                    self.compaction.get_or_insert_with(|| Compaction::new(begin, hasher, live));
                self.laggards[reader] = Some(compaction.laggard());
            }
        }

        /// True if there was anything to tell.
        fn tell(&mut self, reader: usize, bytes_max: usize) -> bool {
            let (Some(compaction), Some(laggard)) = (&self.compaction, &mut self.laggards[reader])
            else {
                return false;
            };
            let mut out = Vec::new();
            let told = compaction.tell(laggard, source(reader as u32), &mut out, bytes_max);
            assert_eq!(told.unwrap_or(0), out.len());
            apply(&mut self.views[reader], &out);
            if told.is_none() {
                self.laggards[reader] = None;
            }
            if self.laggards.iter().all(Option::is_none) {
                self.compaction = None;
            }
            told.is_some()
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
}
