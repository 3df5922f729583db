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

mod handed_over;

use std::rc::Rc;

use ahash::RandomState;
pub(crate) use handed_over::ChangedRoute;

use crate::log::bits::{Bits, PAGE_BITS};
use crate::log::chunk::LiveBytes;
use crate::log::runs::{Reader, Scope};
use crate::log::vni_log::Cursor;
use crate::types::{Action, Pages, Place, SpeakerId, SplitTable, wide};
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
    /// The routes that somebody sees at the frontier.
    present: Bits,
    /// How many stretches were passed, and then when a route of each page was the last to be gone.
    passed: u64,
    gone_at: Vec<u64>,
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
    gone: GoneTold,
    /// The routes of which it has passed over an odd number of frames of its base and what followed that: while it
    /// is in there, these must stay covered. None if it passed over none.
    passed_over: Option<Box<Bits>>,
}

/// How far a laggard was told of routes that are gone: a round through the pages that have some, again and again.
#[derive(Clone, Copy)]
struct GoneTold {
    /// All that were gone when so many stretches had been passed.
    told_at: u64,
    /// The round under way began after so many, and goes on at this page.
    round_at: u64,
    page: u32,
}

/// A route of which laggards are told by a compaction.
#[derive(Clone, Copy, Debug)]
pub struct Covered(u32);

/// A route of which a laggard that a record names knows as much as before.
#[derive(Clone, Copy, Debug)]
pub struct Turned(u32);

/// Of which routes a laggard is told.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Told {
    /// Those that nobody sees any more.
    Gone,
    All,
}

impl Compaction {
    /// Of nothing yet; what is to be passed begins at `frontier`. Memory is counted in `live`.
    pub fn new(frontier: Cursor, hasher: RandomState, live: LiveBytes) -> Compaction {
        let mut compaction = Compaction::empty(hasher, live);
        compaction.frontier = Some(frontier);
        compaction
    }

    /// Of nothing yet, with nothing to be passed.
    fn empty(hasher: RandomState, live: LiveBytes) -> Compaction {
        Compaction {
            slots: Pages::default(),
            free: Pages::default(),
            index: SplitTable::default(),
            toggled: Rc::new(Bits::new(live.clone())),
            present: Bits::new(live.clone()),
            passed: 0,
            gone_at: Vec::new(),
            frontier: None,
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
        let gone = GoneTold { told_at: self.passed, round_at: self.passed, page: 0 };
        Laggard { told: self.toggled.clone(), next: 0, gone, passed_over: None }
    }

    /// Passes the next run of the frontier's chunk, up to the offset `limit`. `is_named` says whether a laggard is the
    /// one that a run names: then what has to be turned for each of those is put into `turned`, for [`Laggard::turn`].
    /// False if there is nothing to pass up to there.
    pub fn pass(
        &mut self,
        limit: usize,
        is_named: impl FnOnce(SpeakerId) -> bool,
        turned: &mut Vec<Turned>,
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
        self.passed += 1;
        let is_named = run.scope.named().is_some_and(is_named);
        for frame in frames(chunk.slice(from..to)) {
            let at = self.pass_one(frame, run.scope, is_named);
            turned.extend(at.filter(|_| is_named).map(Turned));
        }
        self.count();
        true
    }

    /// Appends what `laggard` has to be told, which announces as `reader`, to `out`: whole frames, at most
    /// `bytes_max`, but one at least if `out` is empty. None if it knows all up to the frontier.
    ///
    /// Routes that are gone come first: clients of metalnet delete by destination, so the REMOVE of an old
    /// next hop must not follow the ADD of the new one. (A route whose only source is the laggard is gone for
    /// it alone, and comes among the others.)
    pub fn tell(
        &self,
        laggard: &mut Laggard,
        reader: Reader,
        out: &mut Vec<u8>,
        bytes_max: usize,
    ) -> Option<usize> {
        let before = out.len();
        let room_until = before + bytes_max;
        if !self.tell_gone(laggard, reader, (out, room_until)) {
            return Some(out.len() - before);
        }
        let pages = self.pages();
        let first = laggard.next / PAGE_BITS;
        let mut from = laggard.next % PAGE_BITS;
        // The page in which it begins comes once more at the end.
        for page in (first..pages).chain(0..(first + 1).min(pages)) {
            if !self.tell_page(laggard, reader, page, from, Told::All, (out, room_until)) {
                return Some(out.len() - before);
            }
            from = 0;
        }
        laggard.next = 0;
        (out.len() > before).then(|| out.len() - before)
    }

    /// The route of a frame of its base, or of what followed that, if the laggard need not read it: since it
    /// joined that has changed, or it has passed over another frame of the route. See [`Laggard::pass_over`].
    pub fn covered(&self, laggard: &Laggard, frame: &[u8]) -> Option<Covered> {
        let at = self.find(action_and_key(frame).1)?;
        let differs = self.toggled.has(at) != laggard.told.has(at);
        (differs || laggard.passed_over.as_ref().is_some_and(|it| it.has(at)))
            .then_some(Covered(at))
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
                    self.toggled.add_differences(page, Some(&laggard.told), &mut differing);
                }
                last = Some(&laggard.told);
                if let Some(passed_over) = &laggard.passed_over {
                    passed_over.add_differences(page, None, &mut differing);
                }
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
        let passed_over = laggard.passed_over.as_ref().map_or(0, |bits| bits.bytes());
        laggard.told.bytes_beside(&self.toggled) + passed_over
    }

    /// Tells of the routes that are gone. False if no more fits.
    fn tell_gone(
        &self,
        laggard: &mut Laggard,
        reader: Reader,
        (out, room_until): (&mut Vec<u8>, usize),
    ) -> bool {
        while laggard.gone.told_at != self.passed {
            for page in laggard.gone.page..self.pages() {
                let is_any =
                    self.gone_at.get(page as usize).is_some_and(|&at| at > laggard.gone.told_at);
                if is_any
                    && !self.tell_page(laggard, reader, page, 0, Told::Gone, (out, room_until))
                {
                    laggard.gone.page = page;
                    return false;
                }
            }
            let (told_at, round_at) = (laggard.gone.round_at, self.passed);
            laggard.gone = GoneTold { told_at, round_at, page: 0 };
        }
        true
    }

    /// Tells of the routes of one page, from a bit on. False if no more fits.
    fn tell_page(
        &self,
        laggard: &mut Laggard,
        reader: Reader,
        page: u32,
        mut from: u32,
        what: Told,
        (out, room_until): (&mut Vec<u8>, usize),
    ) -> bool {
        if laggard.told.shares(page, &self.toggled) {
            return true;
        }
        let without = (what == Told::Gone).then_some(&self.present);
        while let Some(bit) = self.toggled.first_difference(page, from, &laggard.told, without) {
            let at = page * PAGE_BITS + bit;
            let Slot { key, seen_by } = &self.slots[at as usize];
            let sees = seen_by.is_some_and(|scope| scope.includes(reader));
            let action = if sees { Action::Add } else { Action::Remove };
            if !out.is_empty() && out.len() + keyed_frame_len(action, key) > room_until {
                if what == Told::All {
                    laggard.next = at;
                }
                return false;
            }
            encode_keyed(out, action, key);
            Rc::make_mut(&mut laggard.told).toggle(at);
            from = bit;
        }
        if self.toggled.first_difference(page, 0, &laggard.told, None).is_none() {
            Rc::make_mut(&mut laggard.told).share(page, &self.toggled);
        }
        true
    }

    fn pages(&self) -> u32 {
        (self.slots.len() as u32).div_ceil(PAGE_BITS)
    }

    fn slots_in_use(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    /// A record, on its way past. Whoever it names sees it differently from all others, so what it was
    /// told changes along: "all but X" toggles the route on both sides, "only X" on the side of X alone.
    fn pass_one(&mut self, frame: &[u8], scope: Scope, is_named: bool) -> Option<u32> {
        let (action, key) = action_and_key(frame);
        let at = match scope {
            Scope::Only(_) if !is_named => self.find(key)?,
            _ => self.find_or_insert(key),
        };
        let seen_by = match (action, scope) {
            (Action::Add, Scope::AllBut(source)) | (Action::Remove, Scope::Only(source)) => {
                Some(Scope::AllBut(source))
            }
            (Action::Add, _) => Some(Scope::All),
            (Action::Remove, _) => None,
        };
        self.set_seen_by(at, seen_by);
        if !matches!(scope, Scope::Only(_)) {
            Rc::make_mut(&mut self.toggled).toggle(at);
        }
        Some(at)
    }

    fn set_seen_by(&mut self, at: u32, seen_by: Option<Scope>) {
        let before = std::mem::replace(&mut self.slots[at as usize].seen_by, seen_by);
        if before.is_some() != seen_by.is_some() {
            self.present.toggle(at);
        }
        if seen_by.is_none() {
            let page = (at / PAGE_BITS) as usize;
            if self.gone_at.len() <= page {
                self.gone_at.resize(page + 1, 0);
            }
            self.gone_at[page] = self.passed;
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
            let slot = &mut self.slots[at];
            if slot.seen_by.take().is_some() {
                self.present.toggle(at as u32);
            }
            let key = std::mem::take(&mut slot.key);
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

impl Laggard {
    /// Records that name it were passed.
    pub fn turn(&mut self, turned: &[Turned]) {
        let told = Rc::make_mut(&mut self.told);
        turned.iter().for_each(|&Turned(at)| told.toggle(at));
    }

    /// It passes over a frame that it would see, and that says what may be so no more: as if that were a record
    /// since it began to lag.
    pub fn pass_over(&mut self, Covered(at): Covered) {
        let told = Rc::make_mut(&mut self.told);
        told.toggle(at);
        // Of what is gone now it has not been told.
        self.gone = GoneTold { told_at: 0, round_at: 0, page: 0 };
        self.passed_over.get_or_insert_with(|| Box::new(told.another())).toggle(at);
    }

    /// It has come to the end of its base, and of what followed that.
    pub fn has_read_base(&mut self) {
        self.passed_over = None;
    }
}

impl Drop for Compaction {
    fn drop(&mut self) {
        self.live.set(self.live.get() - self.counted);
    }
}

#[cfg(test)]
mod tests;
