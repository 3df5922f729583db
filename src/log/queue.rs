//! What is for one peer alone: "only X" records, and what conflation left of a slow peer's backlog.
//!
//! Owns the frames until they are sent. Must never hold two records of one route once conflated.

use std::collections::VecDeque;

use ahash::RandomState;
use hashbrown::HashTable;

use super::vni_log::whole_frames;
use crate::wire::{MessageType, action_and_key, frame_len, frames};

/// Frames, each tagged with the log position before which it must not be sent.
#[derive(Debug, Default)]
pub struct TaggedQueue {
    bytes: Vec<u8>,
    /// Bytes of `bytes` that were sent.
    sent: usize,
    /// Ends (in `bytes`) of the frames up to a tag, and the tag; ascending in both.
    tags: VecDeque<(usize, u64)>,
}

impl TaggedQueue {
    /// Queues frames that must not be sent before the log was read up to `tag`.
    pub fn push(&mut self, frames: &[u8], tag: u64) {
        self.bytes.extend_from_slice(frames);
        let end = self.bytes.len();
        match self.tags.back_mut() {
            Some(last) if last.1 == tag => last.0 = end,
            last => {
                assert!(last.is_none_or(|last| last.1 < tag), "a log does not shrink");
                self.tags.push_back((end, tag));
            }
        }
    }

    /// Bytes still to be sent.
    pub fn pending_bytes(&self) -> usize {
        self.bytes.len() - self.sent
    }

    /// Memory held, in bytes.
    pub fn heap_bytes(&self) -> usize {
        self.bytes.capacity() + self.tags.capacity() * size_of::<(usize, u64)>()
    }

    /// The tag of the first frame that is still queued.
    pub fn first_tag(&self) -> Option<u64> {
        self.tags.front().map(|&(_, tag)| tag)
    }

    /// Moves frames that are due at the log position `position` to `out`: whole frames, at most
    /// `bytes_max`, but one at least if `out` is empty. Returns how many bytes.
    pub fn take(&mut self, position: u64, out: &mut Vec<u8>, bytes_max: usize) -> usize {
        let before = out.len();
        while let Some(&(end, tag)) = self.tags.front()
            && tag <= position
        {
            let due = &self.bytes[self.sent..end];
            let fitting = match whole_frames(due, bytes_max - (out.len() - before)) {
                0 if out.is_empty() => frame_len(due),
                fitting => fitting,
            };
            out.extend_from_slice(&due[..fitting]);
            self.sent += fitting;
            if self.sent < end {
                break;
            }
            self.tags.pop_front();
            if out.len() - before >= bytes_max {
                break;
            }
        }
        if self.sent == self.bytes.len() {
            *self = TaggedQueue::default();
        } else if self.sent > 4096 && self.sent > self.bytes.len() / 2 {
            self.bytes.drain(..self.sent);
            self.tags.iter_mut().for_each(|(end, _)| *end -= self.sent);
            self.sent = 0;
            self.bytes.shrink_to(2 * self.bytes.len());
            self.tags.shrink_to(2 * self.tags.len());
        }
        out.len() - before
    }
}

/// The difference that a sequence of records makes, which grows and shrinks as records come.
///
/// For one route the records that a peer sees alternate (ADD, REMOVE, ADD, ...), and frames of one
/// route and action are equal to the byte. So the difference is the last record if their number is
/// odd, and nothing if it is even: a record annihilates the one of its route that is still queued.
#[derive(Debug, Default)]
pub struct Conflation {
    bytes: Vec<u8>,
    /// Bytes of `bytes` that were sent.
    sent: usize,
    /// Bytes behind `sent` of annihilated frames (marked in their type byte).
    dead: usize,
    /// Offsets of the queued frames, by route.
    index: HashTable<u32>,
}

/// Where a frame has its type, and the type that marks an annihilated one: never queued otherwise.
const TYPE_AT: usize = 3;
const DEAD: u8 = MessageType::Keepalive as u8;

impl Conflation {
    /// Queues one frame, or lets it annihilate the queued one of the same route.
    ///
    /// # Panics
    /// If the route's queued record has the same action: the records did not alternate.
    pub fn push(&mut self, frame: &[u8], hasher: &RandomState) {
        let (action, key) = action_and_key(frame);
        let hash = hasher.hash_one(key);
        let Conflation { bytes, index, dead, .. } = self;
        match index.find_entry(hash, |&at| key_at(bytes, at) == key) {
            Ok(queued) => {
                let at = queued.remove().0 as usize;
                let length = frame_len(&bytes[at..]);
                let (before, _) = action_and_key(&bytes[at..at + length]);
                assert_ne!(before, action, "the records that one peer sees alternate");
                bytes[at + TYPE_AT] = DEAD;
                *dead += length;
            }
            Err(_) => {
                let at = u32::try_from(bytes.len()).expect("private queues stay below 4 GiB");
                bytes.extend_from_slice(frame);
                index.insert_unique(hash, at, |&at| hasher.hash_one(key_at(bytes, at)));
            }
        }
        if self.bytes.len() > 4096 && self.pending_bytes() < self.bytes.len() / 2 {
            self.compact(hasher);
        }
    }

    /// Bytes still to be sent.
    pub fn pending_bytes(&self) -> usize {
        self.bytes.len() - self.sent - self.dead
    }

    /// Memory held, in bytes.
    pub fn heap_bytes(&self) -> usize {
        // An index slot is 4 bytes and one of control, at a load of at most 7/8.
        self.bytes.capacity() + self.index.capacity() * 6
    }

    /// The queued frames in order.
    pub fn iter(&self) -> impl Iterator<Item = &[u8]> {
        frames(&self.bytes[self.sent..]).filter(|frame| frame[TYPE_AT] != DEAD)
    }

    /// Moves frames to `out`: whole frames, at most `bytes_max`, but one at least if `out` is
    /// empty. Returns how many bytes.
    pub fn take(&mut self, out: &mut Vec<u8>, bytes_max: usize, hasher: &RandomState) -> usize {
        let before = out.len();
        while self.sent < self.bytes.len() {
            let rest = &self.bytes[self.sent..];
            let frame = &rest[..frame_len(rest)];
            let length = frame.len();
            if frame[TYPE_AT] == DEAD {
                self.dead -= length;
            } else {
                if out.len() - before + length > bytes_max && !out.is_empty() {
                    break;
                }
                out.extend_from_slice(frame);
                let hash = hasher.hash_one(action_and_key(frame).1);
                match self.index.find_entry(hash, |&at| at as usize == self.sent) {
                    Ok(entry) => drop(entry.remove()),
                    Err(_) => unreachable!("every live frame is in the index"),
                }
            }
            self.sent += length;
        }
        if self.sent == self.bytes.len() {
            *self = Conflation::default();
        }
        out.len() - before
    }

    fn compact(&mut self, hasher: &RandomState) {
        let queued = std::mem::take(self);
        self.bytes.reserve(queued.pending_bytes());
        for frame in queued.iter() {
            self.push(frame, hasher);
        }
    }
}

fn key_at(bytes: &[u8], at: u32) -> &[u8] {
    let from = &bytes[at as usize..];
    action_and_key(&from[..frame_len(from)]).1
}

/// Whole frames from `frames` that fit `bytes_max`; the first one at least.
pub fn frames_within(frames: &[u8], bytes_max: usize) -> usize {
    match whole_frames(frames, bytes_max) {
        0 => frame_len(frames),
        fitting => fitting,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::{Action, Destination, NextHop, NextHopType, Route, Vni};
    use crate::wire::encode_update;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    fn update(action: Action, number: u8) -> Vec<u8> {
        let route = Route {
            destination: Destination { prefix: [10, 0, 0, number].into(), length: 32 },
            next_hop: NextHop {
                address: [0x2001, 0xdb8, 0, 0, 0, 0, 0, 1].into(),
                vni: Vni(0),
                kind: NextHopType::STANDARD,
                nat_port_from: 0,
                nat_port_to: 0,
            },
        };
        let mut frame = Vec::new();
        encode_update(&mut frame, action, Vni(7), &route);
        frame
    }

    fn hasher() -> RandomState {
        RandomState::with_seeds(1, 2, 3, 4)
    }

    #[test]
    fn frames_wait_for_their_tag() {
        let mut queue = TaggedQueue::default();
        let (first, second) = (update(Action::Add, 1), update(Action::Add, 2));
        queue.push(&first, 10);
        queue.push(&second, 20);
        let mut out = Vec::new();
        assert_eq!(queue.take(9, &mut out, 9_999), 0);
        assert_eq!(queue.take(10, &mut out, 9_999), first.len());
        assert_eq!((queue.first_tag(), &out), (Some(20), &first));
        queue.take(25, &mut out, 9_999);
        assert_eq!(out, [first, second].concat());
        assert_eq!((queue.pending_bytes(), queue.heap_bytes()), (0, 0));
    }

    #[test]
    fn pieces_hold_whole_frames() {
        let mut tagged = TaggedQueue::default();
        let mut conflated = Conflation::default();
        for number in 0..100 {
            tagged.push(&update(Action::Add, number), u64::from(number / 2));
            conflated.push(&update(Action::Add, number), &hasher());
        }
        let length = update(Action::Add, 0).len();
        for (bytes_max, expected) in [(3 * length + 1, 3 * length), (1, length), (length, length)] {
            let mut out = Vec::new();
            assert_eq!(tagged.take(99, &mut out, bytes_max), expected);
            assert_eq!(tagged.take(99, &mut out, length - 1), 0, "the next one does not fit");
            let mut out = Vec::new();
            assert_eq!(conflated.take(&mut out, bytes_max, &hasher()), expected);
            assert_eq!(conflated.take(&mut out, length - 1, &hasher()), 0);
        }
    }

    proptest! {
        /// What is left is the difference between two states, never more, in whatever pieces it
        /// is taken meanwhile.
        #[test]
        fn conflation_keeps_the_difference(
            steps in proptest::collection::vec((0u8..6, 0usize..200), 1..400),
        ) {
            let hasher = hasher();
            let mut queue = Conflation::default();
            let mut table: BTreeMap<u8, bool> = BTreeMap::new();
            let mut view: BTreeMap<Vec<u8>, bool> = BTreeMap::new();
            for (number, take) in steps {
                let present = table.entry(number).or_default();
                let action = if *present { Action::Remove } else { Action::Add };
                *present = !*present;
                queue.push(&update(action, number), &hasher);
                prop_assert!(queue.iter().count() <= 6, "one record a route");
                if take < 80 {
                    let mut out = Vec::new();
                    queue.take(&mut out, take, &hasher);
                    apply(&mut view, &out)?;
                }
            }
            let mut out = Vec::new();
            queue.take(&mut out, usize::MAX, &hasher);
            apply(&mut view, &out)?;
            prop_assert_eq!(queue.heap_bytes(), 0);
            for (number, present) in table {
                let frame = update(Action::Add, number);
                let seen = view.get(action_and_key(&frame).1).copied().unwrap_or(false);
                prop_assert_eq!(seen, present);
            }
        }
    }

    fn apply(view: &mut BTreeMap<Vec<u8>, bool>, out: &[u8]) -> Result<(), TestCaseError> {
        for frame in frames(out) {
            let (action, key) = action_and_key(frame);
            let present = view.entry(key.to_vec()).or_default();
            prop_assert_eq!(*present, action == Action::Remove, "records alternate");
            *present = !*present;
        }
        Ok(())
    }
}
