//! An engine in memory: an ordered map that keeps the last record of each subject.
//!
//! Owns what an engine promises, and no more: no order but that of arrival, nothing that outlasts a wipe. Also part of
//! the model in `src/fabric`, which is why names come from `super`.

use std::collections::BTreeMap;
use std::time::Duration;

use super::names::{Ended, Publish, PublishError, Record, Time};

/// Room that each header takes.
const HEADER_BYTES: usize = 24;

/// A record that is kept.
#[derive(Clone, Debug)]
pub struct Kept {
    pub subject: String,
    pub value: Vec<u8>,
    pub at: Time,
    pub ended: Option<Ended>,
    ends_at: Time,
    /// When its lifetime is over, that is told.
    is_told: bool,
    /// The room that it takes.
    bytes: usize,
}

/// What there is room for.
#[derive(Clone, Copy, Debug)]
pub enum Room {
    Enough,
    /// So many subjects.
    Subjects(usize),
    /// So many bytes, and whatever is not larger than what it replaces (`max_bytes` of a stream).
    Bytes(usize),
    /// Not even for that (`max_file_store` of a server).
    Nothing,
}

#[derive(Debug)]
pub struct Engine {
    records: BTreeMap<u64, Kept>,
    last: BTreeMap<String, u64>,
    next: u64,
    pub room: Room,
    /// How long markers stay.
    marker_lifetime: Duration,
    /// Records that were published by anybody.
    pub published: u64,
}

impl Engine {
    pub fn new(marker_lifetime: Duration) -> Engine {
        Engine {
            records: BTreeMap::new(),
            last: BTreeMap::new(),
            next: 1,
            room: Room::Enough,
            marker_lifetime,
            published: 0,
        }
    }

    pub fn publish(&mut self, now: Time, what: &Publish) -> Result<u64, PublishError> {
        self.expire(now);
        let last = self.last.get(&what.subject).copied().unwrap_or(0);
        if what.expect_last.is_some_and(|expected| expected != last) {
            return Err(PublishError::WrongSequence);
        }
        if !self.has_room(last, what) {
            return Err(PublishError::Full);
        }
        self.published += 1;
        let Publish { subject, value, is_tombstone, .. } = what.clone();
        let ended = (is_tombstone && value.is_empty()).then_some(Ended::Removed);
        let ends_at = what.lifetime.map_or(Time::NEVER, |lifetime| now.after(lifetime));
        let bytes = bytes(what);
        let is_told = !is_tombstone;
        Ok(self.store(Kept { subject, value, at: now, ended, ends_at, is_told, bytes }))
    }

    fn has_room(&self, last: u64, what: &Publish) -> bool {
        match self.room {
            Room::Enough => true,
            Room::Subjects(most) => last > 0 || self.records.len() < most,
            Room::Bytes(most) => {
                let replaced = self.records.get(&last).map_or(0, |kept| kept.bytes);
                let is_larger = bytes(what) > replaced;
                !is_larger || self.bytes() - replaced + bytes(what) <= most
            }
            Room::Nothing => false,
        }
    }

    /// What it keeps.
    pub fn bytes(&self) -> usize {
        self.records.values().map(|kept| kept.bytes).sum()
    }

    /// Takes out what is older than this, of these subjects. Nobody is told.
    pub fn purge(&mut self, filter: &str, below: u64) {
        let gone = self.records.range(..below).filter(|(_, kept)| matches(filter, &kept.subject));
        for sequence in gone.map(|(sequence, _)| *sequence).collect::<Vec<_>>() {
            let kept = self.records.remove(&sequence).expect("it was there");
            self.last.remove(&kept.subject);
        }
    }

    /// It has lost everything, and counts from 1 again.
    pub fn wipe(&mut self) {
        (self.records, self.last) = (BTreeMap::new(), BTreeMap::new());
        self.next = 1;
    }

    /// It has lost some of what it had, and tells nobody.
    pub fn lose_some(&mut self, mut is_lost: impl FnMut(&Kept) -> bool) {
        let Engine { records, last, .. } = self;
        records.retain(|_, kept| {
            let is_lost = is_lost(kept);
            if is_lost {
                last.remove(&kept.subject);
            }
            !is_lost
        });
    }

    /// Lifetimes that are over.
    pub fn expire(&mut self, now: Time) {
        let is_over = |kept: &Kept| kept.ends_at <= now;
        let over: Vec<u64> =
            self.records.iter().filter(|(_, kept)| is_over(kept)).map(|(at, _)| *at).collect();
        for sequence in over {
            let kept = self.records.remove(&sequence).expect("it was there");
            self.last.remove(&kept.subject);
            if kept.is_told {
                let at = kept.ends_at;
                self.store(Kept {
                    subject: kept.subject,
                    value: Vec::new(),
                    at,
                    ended: Some(Ended::Lifetime),
                    ends_at: at.after(self.marker_lifetime),
                    is_told: false,
                    bytes: HEADER_BYTES,
                });
            }
        }
    }

    /// When the next lifetime is over.
    pub fn next_expiry(&self) -> Time {
        self.records.values().map(|kept| kept.ends_at).min().unwrap_or(Time::NEVER)
    }

    /// The next record behind this place.
    pub fn after(&self, sequence: u64) -> Option<(u64, &Kept)> {
        self.records.range(sequence + 1..).next().map(|(sequence, kept)| (*sequence, kept))
    }

    /// How many there are behind this place.
    pub fn pending(&self, sequence: u64) -> u64 {
        self.records.range(sequence + 1..).count() as u64
    }

    /// The last records of these subjects, in order.
    pub fn list(&self, filter: &str) -> Vec<(u64, Kept)> {
        let such = self.records.iter().filter(|(_, kept)| matches(filter, &kept.subject));
        such.map(|(sequence, kept)| (*sequence, kept.clone())).collect()
    }

    fn store(&mut self, kept: Kept) -> u64 {
        let sequence = self.next;
        self.next += 1;
        if let Some(old) = self.last.insert(kept.subject.clone(), sequence) {
            self.records.remove(&old);
        }
        self.records.insert(sequence, kept);
        sequence
    }
}

impl Kept {
    /// As the feed hands it over.
    pub fn as_record(&self, now: Time, sequence: u64, pending: u64) -> Record<'_> {
        Record {
            sequence,
            age: now.since(self.at),
            subject: &self.subject,
            value: &self.value,
            ended: self.ended,
            pending,
        }
    }
}

/// The room that a record takes.
fn bytes(what: &Publish) -> usize {
    let headers = usize::from(what.lifetime.is_some())
        + usize::from(what.is_tombstone)
        + usize::from(what.expect_last.is_some());
    what.subject.len() + what.value.len() + headers * HEADER_BYTES
}

/// `*` is one word, `>` the rest.
fn matches(filter: &str, subject: &str) -> bool {
    let (mut filter, mut subject) = (filter.split('.'), subject.split('.'));
    loop {
        match (filter.next(), subject.next()) {
            (Some(">"), Some(_)) | (None, None) => return true,
            (Some("*"), Some(_)) => {}
            (Some(wanted), Some(word)) if wanted == word => {}
            _ => return false,
        }
    }
}
