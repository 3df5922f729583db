//! Shared, immutable runs of frames, each run with its audience: a base, or what came since.
//!
//! Owns encoded frames and who may see them. Must never be changed once shared.

use std::ops::Range;
use std::sync::{Arc, OnceLock};

use super::chunk::CHUNK_BYTES_MAX;
use super::runs::{Place, Run, Scope, extend};
use super::vni_log::{frames_within, whole_frames};
use crate::types::SourceId;

/// Frames in runs of one audience each.
#[derive(Debug, Default)]
pub struct Frames {
    bytes: Vec<u8>,
    runs: Vec<Run>,
    /// Frame boundaries, at most `CHUNK_BYTES_MAX` apart where there are more bytes than that.
    cuts: Vec<usize>,
    /// The first bytes, which are to be sent before everything else (default routes).
    head_bytes: usize,
    /// In a [`FramesList`]: the frames behind these.
    next: Link,
}

#[derive(Debug, Default)]
struct Link(OnceLock<Arc<Frames>>);

impl Drop for Link {
    /// One by one: a long list would take a long stack.
    fn drop(&mut self) {
        let mut next = self.0.take();
        while let Some(mut last_held) = next.and_then(Arc::into_inner) {
            next = last_held.next.0.take();
        }
    }
}

/// Shared frames in order, growing at the end: whoever reads it from the beginning holds one place, not
/// a list of its own.
#[derive(Debug, Default)]
pub struct FramesList {
    first: Option<Arc<Frames>>,
    last: Option<Arc<Frames>>,
    len: usize,
}

impl FramesList {
    /// Appends frames.
    pub fn push(&mut self, frames: Frames) {
        let frames = Arc::new(frames);
        match &self.last {
            Some(last) => assert!(last.next.0.set(frames.clone()).is_ok(), "it was the last"),
            None => self.first = Some(frames.clone()),
        }
        self.last = Some(frames);
        self.len += 1;
    }

    /// What is in the list now, behind `base`.
    pub fn behind(&self, base: Option<Arc<Frames>>) -> Blocks {
        Blocks { base, rest: self.first.clone(), left: self.len }
    }
}

/// Shared frames, still to be read in this order.
#[derive(Clone, Debug, Default)]
pub struct Blocks {
    base: Option<Arc<Frames>>,
    rest: Option<Arc<Frames>>,
    /// How many of the list are meant: it may have grown since.
    left: usize,
}

impl Iterator for Blocks {
    type Item = Arc<Frames>;

    fn next(&mut self) -> Option<Arc<Frames>> {
        if let Some(base) = self.base.take() {
            return Some(base);
        }
        let block = self.rest.take()?;
        self.left -= 1;
        if self.left > 0 {
            self.rest = block.next.0.get().cloned();
        }
        Some(block)
    }
}

impl Frames {
    /// No frames, with room for `capacity` bytes.
    pub fn with_capacity(capacity: usize) -> Frames {
        Frames { bytes: Vec::with_capacity(capacity), ..Frames::default() }
    }

    /// Appends whole frames for one audience.
    pub fn push(&mut self, frames: &[u8], scope: Scope) {
        if frames.is_empty() {
            return;
        }
        let mut rest = frames;
        loop {
            let room = CHUNK_BYTES_MAX - (self.bytes.len() - self.cuts.last().unwrap_or(&0));
            let fitting = whole_frames(rest, room);
            self.bytes.extend_from_slice(&rest[..fitting]);
            rest = &rest[fitting..];
            if rest.is_empty() {
                break;
            }
            self.cuts.push(self.bytes.len());
        }
        extend(&mut self.runs, self.bytes.len(), scope);
    }

    /// Declares everything pushed so far the head: default routes, which clients wait for.
    pub fn end_head(&mut self) {
        self.head_bytes = self.bytes.len();
    }

    /// All bytes.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Length of the head in bytes.
    pub fn head_bytes(&self) -> usize {
        self.head_bytes
    }

    /// Whether there is nothing in it.
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// Memory held, in bytes.
    pub fn heap_bytes(&self) -> usize {
        self.bytes.capacity() + self.runs.capacity() * size_of::<Run>()
    }

    /// The runs in order.
    pub fn runs(&self) -> impl Iterator<Item = (&[u8], Scope)> {
        let mut start = 0;
        self.runs.iter().map(move |run| {
            let range = start..run.end;
            start = run.end;
            (&self.bytes[range], run.scope)
        })
    }
}

/// One subscriber's place in shared frames: it sees only what is for it.
#[derive(Clone, Debug)]
pub struct FramesCursor {
    frames: Arc<Frames>,
    place: Place,
}

impl FramesCursor {
    /// At the beginning.
    pub fn new(frames: Arc<Frames>) -> FramesCursor {
        FramesCursor { frames, place: Place::default() }
    }

    /// The next contiguous frames for `reader`, of at most `bytes_max` (one frame at least); None
    /// at the end. Never reaches beyond the head while in it.
    pub fn readable(&mut self, reader: SourceId, bytes_max: usize) -> Option<Range<usize>> {
        if !self.place.skip_invisible(&self.frames.runs, reader) {
            return None;
        }
        let from = self.place.position();
        let mut end = self.place.visible_end(&self.frames.runs, reader, bytes_max);
        if from < self.frames.head_bytes {
            end = end.min(self.frames.head_bytes);
        }
        Some(from..self.cut(from, end, bytes_max))
    }

    /// Steps to `position`, the end of a range from [`FramesCursor::readable`].
    pub fn advance_to(&mut self, position: usize) {
        assert!(position <= self.frames.bytes.len());
        self.place.advance_to(position);
    }

    /// The frames that it reads.
    pub fn frames(&self) -> &Arc<Frames> {
        &self.frames
    }

    fn cut(&self, from: usize, end: usize, bytes_max: usize) -> usize {
        if end - from <= bytes_max {
            return end;
        }
        let cuts = &self.frames.cuts;
        match cuts[..cuts.partition_point(|&cut| cut <= from + bytes_max)].last() {
            Some(&cut) if cut > from => cut,
            _ => from + frames_within(&self.frames.bytes[from..end], bytes_max),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::{PeerId, ShardId};

    fn source(slot: u32) -> SourceId {
        SourceId(PeerId::new(ShardId(0), slot, 0))
    }

    fn frame(number: u32) -> Vec<u8> {
        let mut frame = vec![1, 0, 32, 5];
        frame.extend_from_slice(&[7; 28]);
        frame.extend_from_slice(&number.to_be_bytes());
        frame
    }

    fn read(frames: &Arc<Frames>, reader: SourceId, bytes_max: usize) -> (Vec<u32>, usize) {
        let mut cursor = FramesCursor::new(frames.clone());
        let (mut numbers, mut pieces) = (Vec::new(), 0);
        while let Some(range) = cursor.readable(reader, bytes_max) {
            assert!(!range.is_empty() && range.len() <= bytes_max.max(36));
            for frame in frames.bytes()[range.clone()].chunks(36) {
                numbers.push(u32::from_be_bytes(frame[32..].try_into().unwrap()));
            }
            cursor.advance_to(range.end);
            pieces += 1;
        }
        (numbers, pieces)
    }

    #[test]
    fn each_reader_sees_its_runs_in_large_pieces() {
        let mut frames = Frames::default();
        frames.push(&frame(0), Scope::All);
        frames.end_head();
        for number in 1..10_000 {
            let scope = match number {
                1..100 => Scope::All,
                100..3_000 => Scope::AllBut(source(1)),
                3_000..3_100 => Scope::Only(source(2)),
                _ => Scope::AllBut(source(3)),
            };
            frames.push(&frame(number), scope);
        }
        let frames = Arc::new(frames);
        let except =
            |range: Range<u32>| (0..10_000).filter(|n| !range.contains(n)).collect::<Vec<_>>();
        let (seen, pieces) = read(&frames, source(1), CHUNK_BYTES_MAX);
        assert_eq!(seen, except(100..3_100), "neither its own nor what is for another");
        assert!(pieces <= 9, "{pieces} pieces");
        assert_eq!(read(&frames, source(2), CHUNK_BYTES_MAX).0, except(0..0));
        assert_eq!(read(&frames, source(3), 1188).0, (0..3_000).collect::<Vec<_>>());
        assert_eq!(read(&frames, source(9), 1).1, 9_900, "at least one frame");
    }

    #[test]
    fn the_head_is_a_piece_of_its_own() {
        let mut frames = Frames::default();
        frames.push(&frame(0), Scope::All);
        frames.end_head();
        frames.push(&frame(1), Scope::All);
        let mut cursor = FramesCursor::new(Arc::new(frames));
        assert_eq!(cursor.readable(source(1), 9_999), Some(0..36));
    }

    #[test]
    fn a_long_list_takes_no_stack() {
        let mut list = FramesList::default();
        for number in 0..300_000u32 {
            let mut frames = Frames::default();
            frames.push(&[1, 0, 4, 5, 1, 2, 3, number as u8], Scope::All);
            list.push(frames);
        }
        let reader = list.behind(None);
        drop(list);
        assert_eq!(reader.clone().count(), 300_000);
        drop(reader);
    }
}
