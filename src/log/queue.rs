//! What is for one peer alone: "only X" records, and what conflation left of a slow peer's backlog.
//!
//! Owns the frames until they are sent. Must never hold two records of one route once conflated.

use std::collections::VecDeque;

use ahash::RandomState;
use hashbrown::HashTable;

use super::vni_log::whole_frames;
use crate::wire::{MessageType, action_and_key, frame_len, frames};

/// A queue of frames, each tagged with the log position before which it must not be sent.
///
/// For one route the records that a peer sees alternate (ADD, REMOVE, ADD, ...), and frames of one
/// route and action are equal to the byte. So the difference that a sequence makes is its last
/// record if its length is odd, and nothing if it is even: [`PrivateQueue::conflate`] lets a record
/// annihilate the one of its route that is still queued.
#[derive(Debug, Default)]
pub struct PrivateQueue {
    bytes: Vec<u8>,
    /// Bytes of `bytes` that were sent.
    sent: usize,
    /// Bytes of annihilated frames in `bytes` (marked in their type byte).
    dead: usize,
    /// Ends (in `bytes`) of the frames up to a tag, and the tag; ascending in both.
    tags: VecDeque<(usize, u64)>,
    /// Offsets of queued frames by route, once the queue conflates.
    index: Option<Box<HashTable<u32>>>,
}

/// Where a frame has its type, and the type that marks an annihilated one: never queued otherwise.
const TYPE_AT: usize = 3;
const DEAD: u8 = MessageType::Keepalive as u8;

impl PrivateQueue {
    /// Queues frames that must not be sent before the log was read up to `tag`.
    pub fn push(&mut self, frames: &[u8], tag: u64) {
        self.bytes.extend_from_slice(frames);
        self.tag(tag);
    }

    /// Queues one frame, or lets it annihilate the queued one of the same route.
    pub fn conflate(&mut self, frame: &[u8], tag: u64, hasher: &RandomState) {
        if self.index.is_none() {
            self.build_index(hasher);
        }
        let (action, key) = action_and_key(frame);
        let hash = hasher.hash_one(key);
        let PrivateQueue {
            bytes, index, dead, ..
        } = self;
        let index = index.as_mut().expect("built above");
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
                self.tag(tag);
            }
        }
        if self.dead + self.sent > self.bytes.len() / 2 && self.bytes.len() > 4096 {
            self.build_index(hasher);
        }
    }

    /// Bytes still to be sent.
    pub fn pending_bytes(&self) -> usize {
        self.bytes.len() - self.sent - self.dead
    }

    /// Memory held, in bytes.
    pub fn heap_bytes(&self) -> usize {
        let index = self.index.as_ref().map_or(0, |index| index.capacity() * 5);
        self.bytes.capacity() + self.tags.capacity() * 16 + index
    }

    /// The tag of the first frame that is still queued.
    pub fn first_tag(&self) -> Option<u64> {
        self.tags.front().map(|&(_, tag)| tag)
    }

    /// The first tag beyond `position`, if any frame carries one.
    pub fn next_tag_after(&self, position: u64) -> Option<u64> {
        self.tags
            .iter()
            .map(|&(_, tag)| tag)
            .find(|&tag| tag > position)
    }

    /// Moves frames that are due at the log position `position` to `out`: whole frames, at most
    /// `bytes_max`, but one at least if `out` is empty. Returns how many bytes.
    pub fn take(
        &mut self,
        position: u64,
        out: &mut Vec<u8>,
        bytes_max: usize,
        hasher: &RandomState,
    ) -> usize {
        let before = out.len();
        while let Some(&(end, tag)) = self.tags.front()
            && tag <= position
        {
            if self.sent == end {
                self.tags.pop_front();
                continue;
            }
            let length = frame_len(&self.bytes[self.sent..]);
            let frame = &self.bytes[self.sent..self.sent + length];
            if frame[TYPE_AT] == DEAD {
                self.dead -= length;
            } else {
                if out.len() - before + length > bytes_max && !out.is_empty() {
                    break;
                }
                out.extend_from_slice(frame);
                self.forget(self.sent, length, hasher);
            }
            self.sent += length;
        }
        if self.sent == self.bytes.len() {
            *self = PrivateQueue::default();
        }
        out.len() - before
    }

    /// The queued frames in order, each with its tag.
    pub fn iter(&self) -> impl Iterator<Item = (&[u8], u64)> {
        let mut at = self.sent;
        self.tags.iter().flat_map(move |&(end, tag)| {
            let range = &self.bytes[at..end];
            at = end;
            frames(range)
                .filter(|frame| frame[TYPE_AT] != DEAD)
                .map(move |frame| (frame, tag))
        })
    }

    fn tag(&mut self, tag: u64) {
        let end = self.bytes.len();
        match self.tags.back_mut() {
            Some(last) if last.1 >= tag => last.0 = end,
            _ => self.tags.push_back((end, tag)),
        }
    }

    fn forget(&mut self, at: usize, length: usize, hasher: &RandomState) {
        if let Some(index) = &mut self.index {
            let (_, key) = action_and_key(&self.bytes[at..at + length]);
            match index.find_entry(hasher.hash_one(key), |&found| found as usize == at) {
                Ok(entry) => drop(entry.remove()),
                Err(_) => unreachable!("every live frame is in the index"),
            }
        }
    }

    /// Makes the queue anew from its live frames, with an index.
    fn build_index(&mut self, hasher: &RandomState) {
        let queued = std::mem::take(self);
        self.index = Some(Box::default());
        self.bytes.reserve(queued.pending_bytes());
        for (frame, tag) in queued.iter() {
            self.conflate(frame, tag, hasher);
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
            destination: Destination {
                prefix: [10, 0, 0, number].into(),
                length: 32,
            },
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
        let mut queue = PrivateQueue::default();
        let (first, second) = (update(Action::Add, 1), update(Action::Add, 2));
        queue.push(&first, 10);
        queue.push(&second, 20);
        let mut out = Vec::new();
        assert_eq!(queue.take(9, &mut out, 9_999, &hasher()), 0);
        assert_eq!(
            (queue.first_tag(), queue.next_tag_after(10)),
            (Some(10), Some(20))
        );
        queue.take(10, &mut out, 9_999, &hasher());
        assert_eq!(out, first);
        queue.take(25, &mut out, 9_999, &hasher());
        assert_eq!(out, [first, second].concat());
        assert_eq!((queue.pending_bytes(), queue.heap_bytes()), (0, 0));
    }

    #[test]
    fn pieces_hold_whole_frames() {
        let mut queue = PrivateQueue::default();
        for number in 0..100 {
            queue.push(&update(Action::Add, number), 0);
        }
        let length = update(Action::Add, 0).len();
        let mut out = Vec::new();
        assert_eq!(
            queue.take(0, &mut out, 3 * length + 1, &hasher()),
            3 * length
        );
        let mut out = Vec::new();
        assert_eq!(
            queue.take(0, &mut out, 1, &hasher()),
            length,
            "one at least"
        );
    }

    proptest! {
        /// What is left is the difference between two states, never more, in whatever pieces it
        /// is taken meanwhile.
        #[test]
        fn conflation_keeps_the_difference(
            steps in proptest::collection::vec((0u8..6, 0usize..200), 1..400),
        ) {
            let hasher = hasher();
            let mut queue = PrivateQueue::default();
            let mut table: BTreeMap<u8, bool> = BTreeMap::new();
            let mut view: BTreeMap<Vec<u8>, bool> = BTreeMap::new();
            let mut conflating = false;
            for (number, take) in steps {
                let present = table.entry(number).or_default();
                let action = if *present { Action::Remove } else { Action::Add };
                *present = !*present;
                conflating |= take > 150;
                if conflating {
                    queue.conflate(&update(action, number), 5, &hasher);
                    prop_assert!(queue.iter().count() <= 6, "one record a route");
                } else {
                    queue.push(&update(action, number), 5);
                }
                if take < 80 {
                    let mut out = Vec::new();
                    queue.take(5, &mut out, take, &hasher);
                    apply(&mut view, &out)?;
                }
            }
            let mut out = Vec::new();
            queue.take(5, &mut out, usize::MAX, &hasher);
            apply(&mut view, &out)?;
            for (number, present) in table {
                let (_, key) = (0, update(Action::Add, number));
                let seen = view.get(action_and_key(&key).1).copied().unwrap_or(false);
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
