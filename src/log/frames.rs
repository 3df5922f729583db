//! Shared, immutable runs of frames, each run with its audience: a base, or what came since.
//!
//! Owns encoded frames and who may see them, and the count of the bytes that are shared. Must never be
//! changed once shared.

use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

use super::chunk::CHUNK_BYTES_MAX;
use super::marks::Marks;
use super::runs::{self, Place, Reader, Runs, Scope, extend};

/// About how long the blocks of a list are, at most.
const BLOCK_BYTES: usize = CHUNK_BYTES_MAX;

/// Counts the bytes of shared frames, whoever holds them and on whichever thread.
#[derive(Clone, Debug, Default)]
pub struct SharedBytes(Arc<AtomicUsize>);

impl SharedBytes {
    /// Bytes that somebody holds.
    pub fn held(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }
}

/// What shared frames added to the count, until they are dropped.
#[derive(Debug, Default)]
struct Counted(Option<(SharedBytes, usize)>);

impl Drop for Counted {
    fn drop(&mut self) {
        if let Some((shared, bytes)) = self.0.take() {
            shared.0.fetch_sub(bytes, Ordering::Relaxed);
        }
    }
}

/// Frames in runs of one audience each.
#[derive(Debug, Default)]
pub struct Frames {
    bytes: Vec<u8>,
    runs: Runs,
    marks: Marks,
    /// The first bytes, which are to be sent before everything else (default routes).
    head_bytes: usize,
    counted: Counted,
}

/// Shared frames in order, growing at the end: whoever reads it from the beginning holds one place, not
/// a list of its own.
#[derive(Debug, Default)]
pub struct FramesList {
    first: Option<Arc<Node>>,
    last: Option<Arc<Node>>,
    len: usize,
    /// What was not shared yet.
    open: Frames,
    bytes: usize,
    shared: SharedBytes,
}

/// A reader of the frames does not hold what follows them, one of the list does.
#[derive(Debug)]
pub(super) struct Node {
    pub(super) frames: Arc<Frames>,
    /// So many of their first bytes are not meant.
    from: usize,
    pub(super) next: OnceLock<Arc<Node>>,
}

impl Drop for Node {
    /// One by one: a long list would take a long stack.
    fn drop(&mut self) {
        let mut next = self.next.take();
        while let Some(mut last_held) = next.and_then(Arc::into_inner) {
            next = last_held.next.take();
        }
    }
}

impl FramesList {
    /// An empty list, whose bytes are counted by `shared`.
    pub fn new(shared: SharedBytes) -> FramesList {
        FramesList { shared, ..FramesList::default() }
    }

    /// Appends whole frames for one audience: a few, for they stay together.
    pub fn push(&mut self, frames: &[u8], scope: Scope) {
        self.open.push(frames, scope);
        self.bytes += frames.len();
        if self.open.bytes.len() >= BLOCK_BYTES {
            self.close();
        }
    }

    /// Bytes of all frames in it.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// What is in the list now, behind `base`.
    pub fn behind(&mut self, base: Option<Arc<Frames>>) -> Blocks {
        self.close();
        Blocks { base, rest: self.first.clone(), left: self.len }
    }

    /// Shares what was not shared yet. Returns the last node.
    pub(super) fn close(&mut self) -> Option<Arc<Node>> {
        if !self.open.is_empty() {
            let open = std::mem::take(&mut self.open).share(&self.shared);
            self.link(open, 0);
        }
        self.last.clone()
    }

    /// The first node.
    pub(super) fn first(&self) -> Option<&Arc<Node>> {
        self.first.as_ref()
    }

    /// Appends shared frames, which were counted among its bytes, but for so many of their first bytes.
    fn link(&mut self, frames: Arc<Frames>, from: usize) {
        let node = Arc::new(Node { frames, from, next: OnceLock::new() });
        match &self.last {
            Some(last) => assert!(last.next.set(node.clone()).is_ok(), "it was the last"),
            None => self.first = Some(node.clone()),
        }
        self.last = Some(node);
        self.len += 1;
    }

    /// Appends what is shared already.
    pub(super) fn push_shared(&mut self, frames: Arc<Frames>) {
        self.push_rest(frames, 0);
    }

    /// Appends what is shared already, but for so many of its first bytes.
    pub(crate) fn push_rest(&mut self, frames: Arc<Frames>, from: usize) {
        self.close();
        self.bytes += frames.bytes.len() - from;
        self.link(frames, from);
    }

    /// An empty list with the same count.
    pub(super) fn another(&self) -> FramesList {
        FramesList::new(self.shared.clone())
    }

    /// Takes the place of `other`, all of whose shared frames are in this one.
    pub(super) fn replace(mut self, other: &mut FramesList) {
        self.close();
        self.open = std::mem::take(&mut other.open);
        self.bytes += self.open.bytes.len();
        *other = self;
    }
}

/// Shared frames, still to be read in this order.
#[derive(Clone, Debug, Default)]
pub struct Blocks {
    base: Option<Arc<Frames>>,
    rest: Option<Arc<Node>>,
    /// How many of the list are meant: it may have grown since.
    left: usize,
}

impl Blocks {
    /// All of them, at what is to be read of them first.
    pub(crate) fn cursors(&self) -> impl Iterator<Item = FramesCursor> + use<> {
        let mut blocks = self.clone();
        std::iter::from_fn(move || blocks.next_cursor())
    }

    /// The next ones, at what is to be read of them first.
    pub(crate) fn next_cursor(&mut self) -> Option<FramesCursor> {
        if let Some(base) = self.base.take() {
            return Some(FramesCursor::new(base));
        }
        let node = self.rest.take()?;
        self.left -= 1;
        if self.left > 0 {
            self.rest = node.next.get().cloned();
        }
        Some(FramesCursor::at(node.frames.clone(), node.from))
    }
}

impl Iterator for Blocks {
    type Item = Arc<Frames>;

    fn next(&mut self) -> Option<Arc<Frames>> {
        self.next_cursor().map(|cursor| cursor.frames)
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
        self.bytes.extend_from_slice(frames);
        self.marks.append(frames);
        extend(&mut self.runs, self.bytes.len(), scope);
    }

    /// No more is to come. Its bytes count as held from now on.
    pub fn share(mut self, shared: &SharedBytes) -> Arc<Frames> {
        self.bytes.shrink_to_fit();
        self.runs.shrink_to_fit();
        self.marks.shrink_to_fit();
        let bytes = self.heap_bytes() + size_of::<Frames>() + size_of::<Node>();
        shared.0.fetch_add(bytes, Ordering::Relaxed);
        self.counted = Counted(Some((shared.clone(), bytes)));
        Arc::new(self)
    }

    /// Whether an offset is the beginning of a frame, or the end of all.
    pub(crate) fn begins_one_at(&self, offset: usize) -> bool {
        let length = self.bytes.len();
        let is_cut = || self.marks.cut(&self.bytes, 0..length, offset) == offset;
        offset == 0 || offset <= length && is_cut()
    }

    /// Declares everything pushed so far the head: default routes, which clients wait for.
    pub fn end_head(&mut self) {
        self.head_bytes = self.bytes.len();
    }

    /// Declares so many of the first bytes the head, as far as they are here.
    pub fn set_head(&mut self, head_bytes: usize) {
        self.head_bytes = head_bytes.min(self.bytes.len());
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
        self.bytes.capacity() + runs::heap_bytes(&self.runs) + self.marks.heap_bytes()
    }

    /// The first frames from an offset on that are for one audience, of at most `bytes_max` (one frame at least), and
    /// where they end. None at the end.
    pub fn part(&self, from: usize, bytes_max: usize) -> Option<(Scope, Range<usize>)> {
        let run = Place::at(from).next_run(&self.runs)?;
        let end = self.marks.cut(&self.bytes, from..run.end, bytes_max);
        Some((run.scope, from..end))
    }

    /// The audience of a run, and where it ends.
    pub(super) fn run(&self, at: usize) -> (Scope, usize) {
        (self.runs[at].scope, self.runs[at].end)
    }
}

/// One subscriber's place in shared frames: it sees only what is for it.
#[derive(Clone, Debug)]
pub(crate) struct FramesCursor {
    frames: Arc<Frames>,
    place: Place,
}

impl FramesCursor {
    /// At the beginning.
    pub(crate) fn new(frames: Arc<Frames>) -> FramesCursor {
        FramesCursor { frames, place: Place::default() }
    }

    /// Where somebody stands who has read so many bytes, or need not: the end of a frame.
    pub(crate) fn at(frames: Arc<Frames>, position: usize) -> FramesCursor {
        FramesCursor { frames, place: Place::at(position) }
    }

    /// Bytes behind it.
    pub(crate) fn position(&self) -> usize {
        self.place.position()
    }

    /// The next contiguous frames for `reader`, of at most `bytes_max` (one frame at least); None
    /// at the end. Never reaches beyond the head while in it.
    pub(crate) fn readable(&mut self, reader: Reader, bytes_max: usize) -> Option<Range<usize>> {
        if !self.place.skip_invisible(&self.frames.runs, reader) {
            return None;
        }
        let from = self.place.position();
        let mut end = self.place.visible_end(&self.frames.runs, reader, bytes_max);
        if from < self.frames.head_bytes {
            end = end.min(self.frames.head_bytes);
        }
        Some(from..self.frames.marks.cut(&self.frames.bytes, from..end, bytes_max))
    }

    /// How many frames such a range, or its end, has.
    pub(crate) fn count(&self, range: Range<usize>) -> usize {
        self.frames.marks.count(&self.frames.bytes, range)
    }

    /// Steps to `position`, the end of a range from [`FramesCursor::readable`].
    pub(crate) fn advance_to(&mut self, position: usize) {
        assert!(position <= self.frames.bytes.len());
        self.place.advance_to(position);
    }

    /// Bytes before it, those included that it does not see.
    pub(crate) fn bytes_left(&self) -> usize {
        self.frames.bytes.len() - self.place.position()
    }

    /// The frames that it reads.
    pub(crate) fn frames(&self) -> &Arc<Frames> {
        &self.frames
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::{PeerId, ShardId, SourceId, SpeakerId};

    fn source(slot: u32) -> SpeakerId {
        SpeakerId::of_source(SourceId(PeerId::new(ShardId(0), slot, 0)))
    }

    fn reader(slot: u32) -> Reader {
        Reader::new(source(slot))
    }

    fn frame(number: u32) -> Vec<u8> {
        let mut frame = vec![1, 0, 32, 5];
        frame.extend_from_slice(&[7; 28]);
        frame.extend_from_slice(&number.to_be_bytes());
        frame
    }

    fn read(frames: &Arc<Frames>, reader: Reader, bytes_max: usize) -> (Vec<u32>, usize) {
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
        let (seen, pieces) = read(&frames, reader(1), CHUNK_BYTES_MAX);
        assert_eq!(seen, except(100..3_100), "neither its own nor what is for another");
        assert!(pieces <= 9, "{pieces} pieces");
        assert_eq!(read(&frames, reader(2), CHUNK_BYTES_MAX).0, except(0..0));
        assert_eq!(read(&frames, reader(3), 1188).0, (0..3_000).collect::<Vec<_>>());
        assert_eq!(read(&frames, reader(9), 1).1, 9_900, "at least one frame");
    }

    #[test]
    fn the_head_is_a_piece_of_its_own() {
        let mut frames = Frames::default();
        frames.push(&frame(0), Scope::All);
        frames.end_head();
        frames.push(&frame(1), Scope::All);
        let mut cursor = FramesCursor::new(Arc::new(frames));
        assert_eq!(cursor.readable(reader(1), 9_999), Some(0..36));
    }

    #[test]
    fn a_long_list_takes_no_stack() {
        let shared = SharedBytes::default();
        let mut list = FramesList::new(shared.clone());
        for number in 0..300_000u32 {
            list.push(&frame(number), Scope::All);
            list.close();
        }
        let reader = list.behind(None);
        drop(list);
        assert_eq!(reader.clone().count(), 300_000);
        assert!(shared.held() > 300_000 * 36);
        drop(reader);
        assert_eq!(shared.held(), 0);
    }

    #[test]
    fn a_block_being_read_does_not_hold_what_follows() {
        let shared = SharedBytes::default();
        let mut list = FramesList::new(shared.clone());
        for number in 0..100_000 {
            list.push(&frame(number), Scope::All);
        }
        let mut reader = list.behind(None);
        let cursor = FramesCursor::new(reader.next().expect("there are blocks"));
        assert!(cursor.frames().bytes().len() <= BLOCK_BYTES + 36);
        assert_eq!((list.bytes(), reader.count()), (3_600_000, 100_000 * 36 / BLOCK_BYTES));
        drop(list);
        assert!((36..BLOCK_BYTES + 2_500).contains(&shared.held()), "{}", shared.held());
    }
}
