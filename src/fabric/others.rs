//! Other reflectors: whether they live, and which of their records count.
//!
//! Owns what is kept of each record, which is not the record (homes have that): enough to know how many there are, from
//! which reading, and the digest. Must never let one reflector take more than its share of anything but records, which
//! are bounded together.
//!
//! A record takes about 35 bytes: a hash of its key, a hash of all of it, and its generation.

use std::collections::BTreeMap;

use ahash::RandomState;

use super::config::check_name;
use super::lease::{Contents, Lease};
use super::own::Key;
use super::status::{ReflectorStatus, Standing};
use crate::handover::{self, HandoverError};
use crate::types::{Place, SplitTable, Time};

/// Names that are known at a time, at most.
pub(super) const REFLECTORS_MAX: usize = 1_023;

/// What is kept of a record. Two keys of one reflector that have the same hash count as one: with a million records that
/// happens once in 30 million such fleets, and then a digest differs.
#[derive(Clone, Copy, Debug)]
struct Held {
    key_hash: u64,
    hash: u64,
    generation: u64,
}

/// Records of one generation.
#[derive(Clone, Copy, Debug)]
struct Generation {
    number: u64,
    records: u64,
    /// Another process has read them: which ones they are, only homes know.
    is_inherited: bool,
}

/// What is done about the records of a reflector that does not come back (rule G1).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) enum Janitor {
    #[default]
    Idle,
    /// To say so, then.
    At(Time),
    /// Saying so.
    Claiming(u64),
    /// Purging.
    Purging(u64),
    /// Somebody else does it.
    NotMe,
}

/// Why a reflector neither lives nor is stale.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Absence {
    /// That is to be read.
    Unknown,
    /// It did not come back in time.
    Lost,
    /// It was said to be gone for good, or nothing of it is left.
    Removed,
}

/// Another reflector.
#[derive(Debug)]
pub(super) struct Reflector {
    /// Its name.
    pub name: String,
    /// What is read of it now.
    pub generation: u64,
    /// There were records of it when the reading began.
    pub was_held: bool,
    /// Older generations of which some records were not read again. The oldest first.
    former: Vec<Generation>,
    held: SplitTable<Held>,
    /// Those of this generation.
    contents: Contents,
    /// Its lease, if it has one, as far as we know.
    pub lease: Option<Lease>,
    /// Without a lease: until when its records stay; None: they are gone.
    pub stale_until: Option<Time>,
    /// When what it left may be purged, if it is known when its lease ended.
    pub gone_at: Option<Time>,
    /// How often in a row its lease was looked for in vain, since neither that nor its end was heard.
    pub looked_for: u32,
    /// It says that all is published: what was not read again goes when so many records have come since the start.
    pub clears_at: Option<u64>,
    /// The last record of its lease's subject; 0: there is none.
    pub lease_sequence: u64,
    /// The engine has records of it which we did not take.
    pub has_skipped: bool,
    /// If it neither lives nor is stale.
    pub absence: Absence,
    /// Some of its records were dropped: its digest says nothing.
    pub is_incomplete: bool,
    /// Digests in a row that differed, also over several readings.
    pub misses: u32,
    /// Our next lease asks it to see what the engine has of it.
    pub is_doubted: bool,
    /// When something of its lease was heard last.
    pub heard_at: Time,
    pub janitor: Janitor,
}

impl Reflector {
    fn new(name: &str, generation: u64) -> Reflector {
        Reflector {
            name: name.to_owned(),
            generation,
            was_held: false,
            former: Vec::new(),
            held: SplitTable::default(),
            contents: Contents::default(),
            lease: None,
            stale_until: None,
            gone_at: None,
            looked_for: 0,
            clears_at: None,
            lease_sequence: 0,
            has_skipped: false,
            absence: Absence::Unknown,
            is_incomplete: false,
            misses: 0,
            is_doubted: false,
            heard_at: Time(0),
            janitor: Janitor::Idle,
        }
    }

    /// Whether its records count.
    pub(super) fn counts(&self) -> bool {
        self.lease.is_some() || self.stale_until.is_some()
    }

    /// It neither lives nor is stale any more, as all that was read has shown.
    pub(super) fn mark_lost(&mut self) {
        if self.absence == Absence::Unknown {
            self.absence = Absence::Lost;
        }
    }

    /// Whether it is lost, and has left nothing that anybody would have to remove.
    pub(super) fn left_nothing(&self) -> bool {
        self.absence == Absence::Lost && !self.counts() && !self.has_skipped
    }

    /// Whether there are records of it.
    pub(super) fn holds_any(&self) -> bool {
        !self.held.is_empty() || self.former.iter().any(|it| it.is_inherited)
    }

    pub(super) fn records(&self) -> u64 {
        let inherited = self.former.iter().filter(|it| it.is_inherited);
        self.held.len() as u64 + inherited.map(|it| it.records).sum::<u64>()
    }

    /// What was read of it in this generation.
    pub(super) fn contents(&self) -> Contents {
        self.contents
    }

    /// It is about to be read anew, in this generation.
    fn begin_reading(&mut self, generation: u64) {
        if self.contents.records > 0 {
            let Contents { records, .. } = self.contents;
            let (number, is_inherited) = (self.generation, false);
            self.former.push(Generation { number, records, is_inherited });
        }
        self.was_held = self.holds_any();
        self.generation = generation;
        self.contents = Contents::default();
        self.is_incomplete = false;
        self.has_skipped = false;
        self.lease_sequence = 0;
        self.gone_at = None;
        self.clears_at = None;
        self.janitor = Janitor::Idle;
    }

    /// Its record for this key has this hash. False if it is a new one, and there is no room for that.
    fn hold(&mut self, key_hash: u64, hash: u64, has_room: bool) -> bool {
        let generation = self.generation;
        let new = Held { key_hash, hash, generation };
        match self.held.place(key_hash, |held| held.key_hash == key_hash, |held| held.key_hash) {
            Place::Occupied(held) => {
                let old = std::mem::replace(held, new);
                self.left(old);
            }
            Place::Vacant(vacancy) => {
                // As a rule it is one of these, and has their room.
                let mut former = self.former.iter_mut();
                match former.find(|it| it.is_inherited && it.records > 0) {
                    Some(inherited) => inherited.records -= 1,
                    None if has_room => {}
                    None => {
                        self.is_incomplete = true;
                        return false;
                    }
                }
                vacancy.insert(new);
            }
        }
        self.contents.add(hash);
        true
    }

    /// It has no record for this key any more.
    fn release(&mut self, key_hash: u64) {
        let is_it = |held: &Held| held.key_hash == key_hash;
        if let Some(old) = self.held.remove(key_hash, is_it, |held| held.key_hash) {
            self.left(old);
        }
    }

    fn left(&mut self, old: Held) {
        if old.generation == self.generation {
            self.contents.remove(old.hash);
        } else if let Some(at) = self.former.iter().position(|it| it.number == old.generation) {
            self.former[at].records -= 1;
            if self.former[at].records == 0 {
                self.former.remove(at);
            }
        }
    }

    /// What was not read again is gone. Returns the generations that are lost.
    fn lose_former(&mut self) -> Vec<u64> {
        let lost: Vec<u64> = self.former.drain(..).map(|it| it.number).collect();
        if !lost.is_empty() {
            let generation = self.generation;
            for part in (0..self.held.parts()).rev() {
                let old = self.held.part(part).filter(|held| held.generation != generation);
                for key_hash in old.map(|held| held.key_hash).collect::<Vec<_>>() {
                    let is_it = |held: &Held| held.key_hash == key_hash;
                    self.held.remove(key_hash, is_it, |held| held.key_hash);
                }
            }
        }
        lost
    }

    /// All of it is gone. Returns the generations that are lost.
    fn lose_all(&mut self) -> Vec<u64> {
        let mut lost: Vec<u64> = self.former.drain(..).map(|it| it.number).collect();
        if self.contents.records > 0 {
            lost.push(self.generation);
            // The engine still has them.
            self.has_skipped = true;
        }
        self.held = SplitTable::default();
        self.contents = Contents::default();
        lost
    }

    /// For a successor of this process.
    fn told(&self, number: u32) -> handover::Reflector {
        let Contents { records, .. } = self.contents;
        let now = (records > 0).then_some((self.generation, records));
        let former = self.former.iter().map(|it| (it.number, it.records));
        let generations = former.chain(now);
        handover::Reflector {
            number,
            name: self.name.clone(),
            counts: self.counts(),
            generations: generations
                .map(|(number, records)| handover::Generation { number, records })
                .collect(),
        }
    }

    fn status(&self, now: Time) -> ReflectorStatus {
        let standing = match (self.lease, self.stale_until) {
            (Some(lease), _) => Standing::Live(lease.state),
            (None, Some(Time::NEVER)) => Standing::Unknown,
            (None, Some(until)) => Standing::Stale(until.since(now)),
            (None, None) => match self.absence {
                Absence::Unknown => Standing::Unknown,
                Absence::Lost => Standing::Lost,
                Absence::Removed => Standing::Removed,
            },
        };
        ReflectorStatus {
            name: self.name.clone(),
            standing,
            records: self.records(),
            records_former: self.former.iter().map(|it| it.records).sum(),
            generation: self.generation,
            digest_misses: self.misses,
        }
    }
}

/// All other reflectors.
#[derive(Debug)]
pub(super) struct Others {
    /// By their place: the `reflector` of a [`Remote`](crate::types::Remote).
    reflectors: Vec<Reflector>,
    by_name: BTreeMap<String, u16>,
    hasher: RandomState,
    /// The last generation that was given out: none is used twice, not by another reflector in the same place either.
    generation: u64,
    /// Records of all of them.
    records: u64,
    records_max: u64,
}

impl Others {
    pub(super) fn new(hasher: RandomState, records_max: u64) -> Others {
        Others {
            reflectors: Vec::new(),
            by_name: BTreeMap::new(),
            hasher,
            generation: 0,
            records: 0,
            records_max,
        }
    }

    /// A generation that nobody had.
    pub(super) fn new_generation(&mut self) -> u64 {
        self.generation += 1;
        self.generation
    }

    /// The last one that was given out.
    pub(super) fn generation(&self) -> u64 {
        self.generation
    }

    /// No generation that is given out from now on is as low as this.
    pub(super) fn begin_behind(&mut self, generation: u64) {
        self.generation = self.generation.max(generation);
    }

    /// All of them, in the order of their places, for a successor of this process.
    pub(super) fn told(&self) -> impl Iterator<Item = handover::Reflector> {
        (0..).zip(&self.reflectors).map(|(number, reflector)| reflector.told(number))
    }

    /// The next one that another process knew: what that had read counts until all is read here.
    pub(super) fn inherit(&mut self, told: handover::Reflector) -> Result<(), HandoverError> {
        let is_next = told.number as usize == self.reflectors.len();
        let is_new = !self.by_name.contains_key(&told.name);
        if !is_next
            || !is_new
            || check_name(&told.name).is_err()
            || usize::from(self.len()) >= REFLECTORS_MAX
        {
            return Err(HandoverError::Nonsense("reflectors have numbers and names, each its own"));
        }
        let Some(place) = self.place_of(&told.name) else { return Ok(()) };
        let former = told.generations.iter().map(|it| {
            let handover::Generation { number, records } = *it;
            Generation { number, records, is_inherited: true }
        });
        let former: Vec<Generation> = former.collect();
        self.changed(place, |reflector| {
            // If it has left anything, that shows at the first reading.
            if !told.counts && former.is_empty() {
                reflector.absence = Absence::Removed;
            }
            reflector.former = former;
            reflector.stale_until = told.counts.then_some(Time::NEVER);
        });
        Ok(())
    }

    /// How many places there are.
    pub(super) fn len(&self) -> u16 {
        self.reflectors.len() as u16
    }

    pub(super) fn at(&mut self, place: u16) -> &mut Reflector {
        &mut self.reflectors[usize::from(place)]
    }

    /// The place of a reflector, a new one if it is not known. None if there are too many.
    pub(super) fn place_of(&mut self, name: &str) -> Option<u16> {
        if let Some(place) = self.by_name.get(name) {
            return Some(*place);
        }
        let generation = self.new_generation();
        let reflector = Reflector::new(name, generation);
        let place = if self.reflectors.len() < REFLECTORS_MAX {
            self.reflectors.push(reflector);
            self.reflectors.len() - 1
        } else {
            // The place of one that is gone.
            let is_gone = |it: &Reflector| !it.counts() && !it.holds_any();
            let place = self.reflectors.iter().position(is_gone)?;
            let gone = std::mem::replace(&mut self.reflectors[place], reflector);
            self.by_name.remove(&gone.name);
            place
        };
        let place = place as u16;
        self.by_name.insert(name.to_owned(), place);
        Some(place)
    }

    /// All is about to be read anew.
    pub(super) fn begin_reading(&mut self) {
        for place in 0..self.reflectors.len() {
            let generation = self.new_generation();
            self.reflectors[place].begin_reading(generation);
        }
    }

    /// The next one that our lease is to ask to see what the engine has of it.
    pub(super) fn take_doubted(&mut self) -> Option<String> {
        let doubted = self.reflectors.iter_mut().find(|it| it.is_doubted)?;
        doubted.is_doubted = false;
        Some(doubted.name.clone())
    }

    /// Records of all of them.
    pub(super) fn records(&self) -> u64 {
        self.records
    }

    /// A reflector's record for this key has this hash. False if it is a new one, and there is no room for that.
    pub(super) fn hold(&mut self, place: u16, key: &Key, hash: u64) -> bool {
        let (key_hash, has_room) = (self.hasher.hash_one(key), self.records < self.records_max);
        self.changed(place, |reflector| reflector.hold(key_hash, hash, has_room))
    }

    /// A reflector has no record for this key any more.
    pub(super) fn release(&mut self, place: u16, key: &Key) {
        let key_hash = self.hasher.hash_one(key);
        self.changed(place, |reflector| reflector.release(key_hash));
    }

    /// What a reflector has not said again is gone. Returns the generations that are lost.
    pub(super) fn lose_former(&mut self, place: u16) -> Vec<u64> {
        self.changed(place, Reflector::lose_former)
    }

    /// All of a reflector is gone. Returns the generations that are lost.
    pub(super) fn lose_all(&mut self, place: u16) -> Vec<u64> {
        self.changed(place, Reflector::lose_all)
    }

    fn changed<T>(&mut self, place: u16, change: impl FnOnce(&mut Reflector) -> T) -> T {
        let reflector = &mut self.reflectors[usize::from(place)];
        self.records -= reflector.records();
        let result = change(reflector);
        self.records += reflector.records();
        result
    }

    /// All of them, to be shown.
    pub(super) fn statuses(&self, now: Time) -> Vec<ReflectorStatus> {
        let known = self.by_name.values().map(|place| &self.reflectors[usize::from(*place)]);
        known.map(|reflector| reflector.status(now)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A successor has as many routes as there may be, and reads them anew: each goes in the place of itself.
    #[test]
    fn what_was_handed_over_has_room() {
        let mut others = Others::new(RandomState::with_seeds(1, 2, 3, 4), 3);
        let generations = vec![
            handover::Generation { number: 7, records: 2 },
            handover::Generation { number: 9, records: 3 },
        ];
        let told =
            handover::Reflector { number: 0, name: "r1".to_owned(), counts: true, generations };
        others.begin_behind(9);
        others.inherit(told).unwrap();
        assert_eq!(others.records(), 5);
        others.begin_reading();
        let reflector = others.at(0);
        let held: Vec<bool> = (0..7).map(|key| reflector.hold(key, key, false)).collect();
        assert_eq!(held, [true, true, true, true, true, false, false]);
        assert_eq!(reflector.records(), 5);
        assert!(reflector.is_incomplete);
        assert_eq!(reflector.lose_former(), [7, 9]);
        assert_eq!(reflector.records(), 5);
    }
}
