//! What this reflector publishes: for each route what others have to be told, and what the engine has.
//!
//! Owns the two, and the set of keys in which they differ. Must never keep a queue of changes: a key is sent as it is
//! when its turn comes, once at a time.
//!
//! A withdrawal is a tombstone with a lifetime. If the engine has no room for that, a *bare* one says the same in less
//! room than the record has; it would stay for ever, so the other one follows when there is room.
//!
//! A key takes about 180 bytes, and as much again for a moment when all are to be sent anew.

use std::collections::VecDeque;

use ahash::RandomState;

use super::engine::PublishError;
use super::lease::Contents;
pub(super) use super::waiting::Key;
use super::waiting::Waiting;
use crate::types::{Announcers, SeededMap, SplitMap};

/// How many of the keys that the engine had no room for are tried at a time; and when it was seen to have some.
const PROBES: usize = 1;
const PROBES_WITH_ROOM: usize = 2;

/// What is published of a key.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Said {
    /// Nobody: a tombstone, or nothing.
    pub by: Announcers,
    /// The hash of the record.
    pub hash: u64,
    /// A tombstone without a lifetime.
    pub is_bare: bool,
}

/// What the engine has of a key, as far as we know.
#[derive(Clone, Copy, Debug, Default)]
struct Stored {
    /// In which reading we learnt that; that of others does not count.
    reading: u64,
    /// The place in the stream.
    sequence: u64,
    said: Said,
    /// The feed has said so, and not only an acknowledgement.
    from_feed: bool,
    /// It may be purged at any time.
    is_doubtful: bool,
}

#[derive(Debug, Default)]
struct Own {
    wanted: Announcers,
    stored: Stored,
    in_flight: bool,
    /// It is in one of the queues.
    queued: bool,
    /// There was no room for its tombstone: the next one is bare.
    goes_bare: bool,
}

/// A publication under way.
#[derive(Debug)]
struct Publication {
    key: Key,
    said: Said,
}

#[derive(Debug)]
pub(super) struct OwnRecords {
    keys: SplitMap<Key, Own>,
    hasher: RandomState,
    /// How many are wanted.
    wanted: u64,
    reading: u64,
    /// While reading, nothing is to be sent.
    is_reading: bool,
    /// What the engine has, as far as we know.
    contents: Contents,
    /// Keys to be sent, each in one of these at most: withdrawals, and the others.
    tombstones: VecDeque<Key>,
    changes: VecDeque<Key>,
    /// Keys that failed, to be tried again in a while.
    failed: Vec<Key>,
    /// Keys that the engine has no room for: records, withdrawals of which it does not know, and those that are bare.
    full: Waiting,
    stuck: Waiting,
    bare: Waiting,
    in_flight: SeededMap<u64, Publication>,
    tombstones_in_flight: usize,
}

impl OwnRecords {
    pub(super) fn new(hasher: RandomState) -> OwnRecords {
        OwnRecords {
            keys: SplitMap::default(),
            in_flight: SeededMap::with_hasher(hasher.clone()),
            hasher,
            wanted: 0,
            reading: 0,
            is_reading: true,
            contents: Contents::default(),
            tombstones: VecDeque::new(),
            changes: VecDeque::new(),
            failed: Vec::new(),
            full: Waiting::default(),
            stuck: Waiting::default(),
            bare: Waiting::default(),
            tombstones_in_flight: 0,
        }
    }

    /// How many records we want to be there.
    pub(super) fn wanted(&self) -> u64 {
        self.wanted
    }

    /// Keys of which others do not know yet how they are.
    pub(super) fn dirty(&self) -> usize {
        let queued = self.tombstones.len() + self.changes.len() + self.failed.len();
        queued + self.full.len() + self.stuck.len()
    }

    /// Publications that are not acknowledged.
    pub(super) fn in_flight(&self) -> usize {
        self.in_flight.len()
    }

    /// Keys that the engine had no room for.
    pub(super) fn full(&self) -> usize {
        self.full.len() + self.stuck.len() + self.bare.len()
    }

    /// Whether there are keys to be tried again in a while.
    pub(super) fn has_failed(&self) -> bool {
        !self.failed.is_empty()
    }

    /// Whether there is no room for withdrawals, not even for such as say nothing else.
    pub(super) fn has_stuck(&self) -> bool {
        self.stuck.len() > 0
    }

    /// Whether a withdrawal is to be sent, or under way.
    pub(super) fn has_tombstones(&self) -> bool {
        let is_sending = !self.tombstones.is_empty() || self.tombstones_in_flight > 0;
        // Among those that failed there may be some.
        is_sending || !self.failed.is_empty() || self.stuck.len() > 0
    }

    /// What the engine has: exact while nothing is in flight.
    pub(super) fn contents(&self) -> Contents {
        self.contents
    }

    /// Others have to be told this from now on.
    pub(super) fn want(&mut self, key: Key, by: Announcers) {
        let own = self.keys.find_or(key, &self.hasher, Own::default);
        self.wanted += u64::from(!by.is_nobody());
        self.wanted -= u64::from(!own.wanted.is_nobody());
        own.wanted = by;
        self.waits_no_more(key);
        self.reconsider(key);
    }

    /// All that the engine has is about to be read, in this reading.
    pub(super) fn begin_reading(&mut self, reading: u64) {
        self.reading = reading;
        self.contents = Contents::default();
        self.pause();
    }

    /// Nothing is to be sent until all was read. What is in flight is forgotten: if it arrives, the feed says so.
    pub(super) fn pause(&mut self) {
        self.is_reading = true;
        let queues = [&mut self.tombstones, &mut self.changes];
        let queued = queues.into_iter().flat_map(|queue| queue.drain(..));
        let waiting = [&mut self.full, &mut self.stuck, &mut self.bare];
        let waiting = waiting.into_iter().flat_map(|waiting| waiting.drain());
        let in_flight = self.in_flight.drain().map(|(_, publication)| publication.key);
        let failed = self.failed.drain(..);
        let keys: Vec<Key> = queued.chain(waiting).chain(failed).chain(in_flight).collect();
        self.tombstones_in_flight = 0;
        for key in keys {
            if let Some(own) = self.keys.find_mut(key, &self.hasher) {
                (own.queued, own.in_flight, own.goes_bare) = (false, false, false);
                self.tidy(key);
            }
        }
    }

    /// All was read: what differs from what is wanted is to be sent from now on.
    pub(super) fn end_reading(&mut self) {
        self.is_reading = false;
        let reading = self.reading;
        // The last part first: where keys go, it is joined with one that is still to come.
        for part in (0..self.keys.parts()).rev() {
            let is_due = |own: &Own| !own.is_right(reading) || own.wanted.is_nobody();
            let part = self.keys.part(part).filter(|(_, own)| is_due(own));
            for key in part.map(|(key, _)| key).collect::<Vec<_>>() {
                self.reconsider(key);
            }
        }
    }

    /// What was read below this place of the stream may be purged at any time: it does not count.
    pub(super) fn doubt_below(&mut self, sequence: u64) {
        for part in 0..self.keys.parts() {
            let is_below = |own: &Own| own.stored.sequence < sequence;
            let part = self.keys.part(part).filter(|(_, own)| is_below(own));
            for key in part.map(|(key, _)| key).collect::<Vec<_>>() {
                let Some(own) = self.keys.find_mut(key, &self.hasher) else { continue };
                if own.stored.counts(self.reading) {
                    self.contents.remove(own.stored.said.hash);
                }
                own.stored.is_doubtful = true;
            }
        }
    }

    /// The feed says that the engine has this. With `repairs` it is put right if it is not what is wanted.
    pub(super) fn read(&mut self, key: Key, sequence: u64, said: Said, repairs: bool) {
        let is_nobody = said.by.is_nobody();
        if is_nobody && !said.is_bare && self.keys.find(key, &self.hasher).is_none() {
            return;
        }
        let own = self.keys.find_or(key, &self.hasher, Own::default);
        let reading = self.reading;
        own.stored.replace(
            Stored { reading, sequence, said, from_feed: true, is_doubtful: false },
            &mut self.contents,
        );
        if repairs || is_nobody {
            self.waits_no_more(key);
            self.reconsider(key);
        }
    }

    /// The next key to be sent, what is to be said of it, and whether that is bare. Only a withdrawal, if only those may
    /// go.
    pub(super) fn next(&mut self, tombstones_only: bool) -> Option<(Key, Announcers, bool)> {
        loop {
            let key = match self.tombstones.pop_front() {
                Some(key) => key,
                None if tombstones_only => return None,
                None => self.changes.pop_front()?,
            };
            let Some(own) = self.keys.find_mut(key, &self.hasher) else { continue };
            own.queued = false;
            let goes_bare = std::mem::take(&mut own.goes_bare) && own.wanted.is_nobody();
            if own.in_flight || own.is_right(self.reading) {
                self.tidy(key);
            } else if tombstones_only && !own.wanted.is_nobody() {
                own.queued = true;
                self.changes.push_back(key);
            } else {
                return Some((key, own.wanted, goes_bare));
            }
        }
    }

    /// This was sent.
    pub(super) fn sent(&mut self, token: u64, key: Key, said: Said) {
        let own = self.keys.find_or(key, &self.hasher, Own::default);
        assert!(!own.in_flight, "one publication in flight a key");
        own.in_flight = true;
        self.tombstones_in_flight += usize::from(said.by.is_nobody());
        self.in_flight.insert(token, Publication { key, said });
    }

    /// It is in the stream, at this place. False if it is none of ours.
    pub(super) fn acked(&mut self, token: u64, sequence: u64) -> bool {
        let Some(Publication { key, said }) = self.landed(token) else {
            return false;
        };
        let own = self.keys.find_or(key, &self.hasher, Own::default);
        // A record that was not there, or a tombstone, which is larger than what it replaces.
        let takes_room = !own.stored.counts(self.reading) || said.by.is_nobody();
        let reading = self.reading;
        own.stored
            .replace(Stored { reading, sequence, said, ..Stored::default() }, &mut self.contents);
        if said.is_bare && own.has_bare(reading) && !own.queued {
            own.queued = true;
            self.bare.put(key);
            return true;
        }
        self.reconsider(key);
        if takes_room && !said.is_bare {
            // There is room again, perhaps for more.
            self.probe_some(PROBES_WITH_ROOM);
        }
        true
    }

    /// It may be in the stream, or not. False if it is none of ours.
    pub(super) fn refused(
        &mut self,
        token: u64,
        error: &PublishError,
        (sends_again, goes_bare): (bool, bool),
    ) -> bool {
        let Some(Publication { key, said }) = self.landed(token) else {
            return false;
        };
        let reading = self.reading;
        // If it is there all the same, the feed will say so.
        let own = self.keys.find_or(key, &self.hasher, Own::default);
        if own.is_right(reading) {
            self.tidy(key);
        } else if own.queued || !sends_again {
            // It has its turn.
        } else if *error != PublishError::Full {
            own.queued = true;
            self.failed.push(key);
        } else if own.wanted.is_nobody() != said.by.is_nobody() {
            // That is not what there was no room for.
            self.reconsider(key);
        } else if goes_bare && said.by.is_nobody() && !said.is_bare && !own.has_bare(reading) {
            (own.queued, own.goes_bare) = (true, true);
            self.tombstones.push_front(key);
        } else {
            self.has_no_room(key);
        }
        true
    }

    /// A key waits for room.
    fn has_no_room(&mut self, key: Key) {
        let own = self.keys.find_or(key, &self.hasher, Own::default);
        own.queued = true;
        let waiting = match (own.has_bare(self.reading), own.wanted.is_nobody()) {
            (true, _) => &mut self.bare,
            (false, true) => &mut self.stuck,
            (false, false) => &mut self.full,
        };
        waiting.put(key);
    }

    /// What the engine has and is no longer true does not wait for room until it is its turn.
    fn waits_no_more(&mut self, key: Key) {
        let Some(own) = self.keys.find_mut(key, &self.hasher) else { return };
        let is_nobody = own.wanted.is_nobody();
        let was_full = (is_nobody || own.stored.counts(self.reading)) && self.full.take(&key);
        let was_stuck = !is_nobody && self.stuck.take(&key);
        let was_bare = !own.has_bare(self.reading) && self.bare.take(&key);
        own.queued &= !(was_full || was_stuck || was_bare);
    }

    /// Those that failed are to be tried again.
    pub(super) fn retry(&mut self) {
        for key in std::mem::take(&mut self.failed) {
            if let Some(own) = self.keys.find_mut(key, &self.hasher) {
                own.queued = false;
                self.reconsider(key);
            }
        }
    }

    /// Some of those that the engine had no room for are to be tried again.
    pub(super) fn probe(&mut self) {
        self.probe_some(PROBES);
    }

    fn probe_some(&mut self, most: usize) {
        let kinds: [fn(&mut OwnRecords) -> &mut Waiting; 3] =
            [|own| &mut own.stuck, |own| &mut own.full, |own| &mut own.bare];
        for waiting in kinds {
            let mut probes = 0;
            while probes < most {
                let Some(key) = waiting(self).next() else { break };
                if let Some(own) = self.keys.find_mut(key, &self.hasher) {
                    own.queued = false;
                    self.reconsider(key);
                }
                // One that came and went has nothing to be sent.
                let is_sent = self.keys.find_mut(key, &self.hasher).is_some_and(|own| own.queued);
                probes += usize::from(is_sent);
            }
        }
    }

    /// A publication is over.
    fn landed(&mut self, token: u64) -> Option<Publication> {
        let publication = self.in_flight.remove(&token)?;
        self.tombstones_in_flight -= usize::from(publication.said.by.is_nobody());
        let own = self.keys.find_or(publication.key, &self.hasher, Own::default);
        own.in_flight = false;
        Some(publication)
    }

    /// Puts a key into its queue, if it is to be sent.
    fn reconsider(&mut self, key: Key) {
        let Some(own) = self.keys.find_mut(key, &self.hasher) else { return };
        if own.in_flight || own.queued {
            // It has its turn.
        } else if own.is_right(self.reading) {
            self.tidy(key);
        } else if !self.is_reading {
            own.queued = true;
            let is_withdrawal = own.wanted.is_nobody();
            let queue = if is_withdrawal { &mut self.tombstones } else { &mut self.changes };
            queue.push_back(key);
        }
    }

    /// Forgets a key of which there is nothing to be known.
    fn tidy(&mut self, key: Key) {
        let Some(own) = self.keys.find(key, &self.hasher) else { return };
        let is_idle = own.wanted.is_nobody() && !own.in_flight && !own.queued;
        // The feed may still bring what was before our tombstone.
        let is_behind = own.stored.reading == self.reading && !own.stored.from_feed;
        if is_idle && own.is_right(self.reading) && !(is_behind && own.stored.sequence > 0) {
            self.keys.remove(key, &self.hasher);
        }
    }
}

impl Own {
    /// Whether the engine has what is wanted.
    fn is_right(&self, reading: u64) -> bool {
        if self.stored.reading == reading {
            let Stored { said, is_doubtful, .. } = self.stored;
            said.by == self.wanted && !is_doubtful && !said.is_bare
        } else {
            self.wanted.is_nobody()
        }
    }

    /// Whether the engine has a tombstone that is to be replaced by another one when there is room.
    fn has_bare(&self, reading: u64) -> bool {
        let is_there = self.stored.reading == reading && self.stored.said.is_bare;
        is_there && self.wanted.is_nobody()
    }
}

impl Stored {
    /// Whether the engine has a record.
    fn counts(&self, reading: u64) -> bool {
        self.reading == reading && !self.said.by.is_nobody() && !self.is_doubtful
    }

    /// Takes what is newer.
    fn replace(&mut self, newer: Stored, contents: &mut Contents) {
        if self.reading == newer.reading && self.sequence >= newer.sequence {
            self.from_feed |= self.sequence == newer.sequence && newer.from_feed;
            return;
        }
        if self.counts(newer.reading) {
            contents.remove(self.said.hash);
        }
        *self = newer;
        if self.counts(newer.reading) {
            contents.add(self.said.hash);
        }
    }
}
