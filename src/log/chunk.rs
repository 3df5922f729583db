//! One contiguous piece of a log: appended to at its end, while the kernel reads what lies before.
//!
//! Owns the bytes, and all the `unsafe` of the core. Must never move or change a byte that was
//! appended, nor be used by two threads (it is `!Send` by its `Cell`s).

use std::cell::{Cell, Ref, RefCell};
use std::collections::VecDeque;
use std::ops::Range;
use std::ptr::NonNull;
use std::rc::Rc;

use super::marks::Marks;
use super::runs::{self, Runs, Scope, extend};
use crate::types::ShortTime;

/// The smallest chunk, in bytes.
pub(super) const CHUNK_BYTES_MIN: usize = 1 << 10;
/// The largest chunk, in bytes: also the most that one SEND carries.
pub(crate) const CHUNK_BYTES_MAX: usize = 1 << 16;

/// Chunks of the smallest size that are kept for use again.
const SPARE_MAX: usize = 64;
/// Spare chunks that are looked at for one that no SEND holds any more.
const SPARE_TRIES: usize = 4;

/// Counts bytes that are held.
pub type LiveBytes = Rc<Cell<usize>>;

/// Where the logs of a shard get their chunks from: small ones are used again, since a log that everybody
/// has read lets go of its chunk, be it after each frame.
#[derive(Default)]
pub struct ChunkPool {
    live: LiveBytes,
    /// The oldest first: what is in flight may still hold the bytes of the others.
    spare: RefCell<VecDeque<Rc<Chunk>>>,
    spare_bytes: Cell<usize>,
}

/// The bytes of a chunk; those below `len` never change. What is in flight holds these alone: it
/// must not keep the chunks that follow.
pub struct ChunkBytes {
    bytes: NonNull<u8>,
    capacity: usize,
    len: Cell<usize>,
}

/// Bytes of whole frames, in runs of one audience each. Readers hold an `Rc`, and through `next` all later chunks too, so a chunk
/// lives exactly as long as somebody has still to read it.
pub struct Chunk {
    start: u64,
    bytes: Rc<ChunkBytes>,
    runs: RefCell<Runs>,
    marks: RefCell<Marks>,
    next: RefCell<Option<Rc<Chunk>>>,
    /// When the bytes were read from a peer that brought the first frames.
    read_at: Cell<Option<ShortTime>>,
    live: LiveBytes,
    /// What it has added to `live`.
    counted: Cell<usize>,
}

impl ChunkPool {
    /// Bytes of the chunks that somebody has still to read. What is in flight of others is not counted:
    /// it is a piece of a single peer.
    pub fn live_bytes(&self) -> usize {
        self.live.get() - self.spare_bytes.get()
    }

    /// An empty chunk whose first byte has the log position `start`.
    pub fn chunk(&self, start: u64, capacity: usize) -> Rc<Chunk> {
        let mut spare = self.spare.borrow_mut();
        let tries = if capacity == CHUNK_BYTES_MIN { SPARE_TRIES.min(spare.len()) } else { 0 };
        for _ in 0..tries {
            if let Some(mut chunk) = spare.pop_front() {
                if chunk.restart_at(start) {
                    self.spare_bytes.set(self.spare_bytes.get() - chunk.counted.get());
                    return chunk;
                }
                spare.push_back(chunk);
            }
        }
        if tries > 0 && spare.len() == SPARE_MAX {
            // Or chunks that stalled readers hold would keep all others out.
            let dropped = spare.pop_front().map_or(0, |chunk| chunk.counted.get());
            self.spare_bytes.set(self.spare_bytes.get() - dropped);
        }
        Chunk::new(start, capacity, &self.live)
    }

    /// Takes back the last chunk of a log that everybody has read.
    pub fn give_back(&self, chunk: Rc<Chunk>) {
        let mut spare = self.spare.borrow_mut();
        let is_last_reader = Rc::strong_count(&chunk) == 1;
        if chunk.bytes.capacity == CHUNK_BYTES_MIN && is_last_reader && spare.len() < SPARE_MAX {
            self.spare_bytes.set(self.spare_bytes.get() + chunk.counted.get());
            spare.push_back(chunk);
        }
    }
}

impl ChunkBytes {
    /// The bytes at these offsets. Their address stays while this lives.
    ///
    /// # Panics
    /// If the range reaches beyond what was appended.
    pub fn slice(&self, range: Range<usize>) -> &[u8] {
        assert!(range.start <= range.end && range.end <= self.len.get());
        // SAFETY: within the allocation, initialised (zeroed at birth), and below `len`, so nobody
        // writes there while it lives.
        unsafe {
            std::slice::from_raw_parts(
                self.bytes.as_ptr().add(range.start),
                range.end - range.start,
            )
        }
    }
}

impl std::fmt::Debug for ChunkBytes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "ChunkBytes({} of {})", self.len.get(), self.capacity)
    }
}

impl Drop for ChunkBytes {
    fn drop(&mut self) {
        let bytes = std::ptr::slice_from_raw_parts_mut(self.bytes.as_ptr(), self.capacity);
        // SAFETY: made by `Box::leak` of a box of this length, given back once.
        drop(unsafe { Box::from_raw(bytes) });
    }
}

impl Chunk {
    /// An empty chunk whose first byte has the log position `start`.
    pub fn new(start: u64, capacity: usize, live: &LiveBytes) -> Rc<Chunk> {
        let boxed: Box<[u8]> = vec![0; capacity].into_boxed_slice();
        let marks = Marks::with_capacity(capacity);
        let counted = capacity + marks.heap_bytes();
        live.set(live.get() + counted);
        // The pointer is the only way to the bytes from here on; `drop` makes the box again.
        let bytes = NonNull::from(Box::leak(boxed)).cast();
        Rc::new(Chunk {
            start,
            bytes: Rc::new(ChunkBytes { bytes, capacity, len: Cell::new(0) }),
            runs: RefCell::default(),
            marks: RefCell::new(marks),
            next: RefCell::default(),
            read_at: Cell::default(),
            live: live.clone(),
            counted: Cell::new(counted),
        })
    }

    /// Empties the chunk for use at another place; false if somebody holds it or its bytes.
    fn restart_at(self: &mut Rc<Chunk>, start: u64) -> bool {
        let Some(chunk) = Rc::get_mut(self) else { return false };
        let Some(bytes) = Rc::get_mut(&mut chunk.bytes) else { return false };
        bytes.len.set(0);
        chunk.start = start;
        chunk.runs.borrow_mut().clear();
        chunk.marks.borrow_mut().clear();
        chunk.next.take();
        true
    }

    /// The bytes, without what follows.
    pub fn bytes(&self) -> &Rc<ChunkBytes> {
        &self.bytes
    }

    /// Log position of the first byte.
    pub fn start(&self) -> u64 {
        self.start
    }

    /// Log position behind the last byte.
    pub fn end(&self) -> u64 {
        self.start + self.bytes.len.get() as u64
    }

    /// Bytes that can still be appended.
    pub fn free(&self) -> usize {
        self.bytes.capacity - self.bytes.len.get()
    }

    /// The runs of its frames.
    pub(super) fn runs(&self) -> Ref<'_, Runs> {
        self.runs.borrow()
    }

    /// When the bytes were read from a peer that brought the first frames, if some did.
    pub(super) fn read_at(&self) -> Option<ShortTime> {
        self.read_at.get()
    }

    /// Appends frames for an audience, that came with bytes read at `read_at`.
    ///
    /// # Panics
    /// If they do not fit.
    pub fn append(&self, bytes: &[u8], scope: Scope, read_at: Option<ShortTime>) {
        assert!(bytes.len() <= self.free(), "a chunk never grows");
        let len = &self.bytes.len;
        // SAFETY: the target lies within the allocation and behind `len`, where no slice handed out
        // by `slice` and no SEND in flight reaches; the source is another allocation or lies before
        // `len`, so they do not overlap. One thread only: ChunkBytes is !Send and !Sync.
        unsafe {
            let target = self.bytes.bytes.as_ptr().add(len.get());
            std::ptr::copy_nonoverlapping(bytes.as_ptr(), target, bytes.len());
        }
        if len.get() == 0 {
            self.read_at.set(read_at);
        }
        len.set(len.get() + bytes.len());
        let (mut runs, mut marks) = (self.runs.borrow_mut(), self.marks.borrow_mut());
        let beside = |runs: &Runs, marks: &Marks| runs::heap_bytes(runs) + marks.heap_bytes();
        let before = beside(&runs, &marks);
        extend(&mut runs, len.get(), scope);
        marks.append(bytes);
        let grown = beside(&runs, &marks) - before;
        self.counted.set(self.counted.get() + grown);
        self.live.set(self.live.get() + grown);
    }

    /// The bytes at these offsets into the chunk: see [`ChunkBytes::slice`].
    pub fn slice(&self, range: Range<usize>) -> &[u8] {
        self.bytes.slice(range)
    }

    /// The end of the first frames of a range that are at most `bytes_max` together, one frame at least; and how
    /// many they are.
    pub(super) fn cut(&self, range: Range<usize>, bytes_max: usize) -> (usize, usize) {
        let (bytes, marks) = (self.slice(0..range.end), self.marks.borrow());
        let end = marks.cut(bytes, range.clone(), bytes_max);
        (end, marks.count(bytes, range.start..end))
    }

    /// The chunk that follows, once there is one.
    pub fn next(&self) -> Option<Rc<Chunk>> {
        self.next.borrow().clone()
    }

    /// Puts `next` behind this chunk.
    pub fn link(&self, next: Rc<Chunk>) {
        assert_eq!(next.start, self.end(), "a log has no gaps");
        let before = self.next.borrow_mut().replace(next);
        assert!(before.is_none(), "a chunk has one successor");
    }
}

impl Drop for Chunk {
    fn drop(&mut self) {
        self.live.set(self.live.get() - self.counted.get());
        // A long chain would be dropped recursively, chunk within chunk: unroll it.
        let mut next = self.next.take();
        while let Some(chunk) = next {
            match Rc::try_unwrap(chunk) {
                Ok(last_reader) => next = last_reader.next.take(),
                Err(_) => break,
            }
        }
    }
}

impl std::fmt::Debug for Chunk {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Chunk({}..{})", self.start, self.end())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: &[u8] = &[1, 0, 0, 1];
    const OTHER: &[u8] = &[1, 0, 0, 2];
    const THIRD: &[u8] = &[1, 0, 0, 3];

    #[test]
    fn bytes_stay_where_they_are_while_more_is_appended() {
        let live = LiveBytes::default();
        let chunk = Chunk::new(100, 16, &live);
        chunk.append(ONE, Scope::All, None);
        let first = chunk.slice(0..4);
        let address = first.as_ptr();
        chunk.append(OTHER, Scope::All, None);
        assert_eq!(first, ONE);
        assert_eq!(chunk.slice(2..8), [0, 1, 1, 0, 0, 2]);
        assert_eq!(chunk.slice(0..4).as_ptr(), address);
        assert_eq!((chunk.end(), chunk.free()), (108, 8));
        assert_eq!(live.get(), 16);
    }

    #[test]
    fn a_long_chain_is_dropped_without_recursion() {
        let live = LiveBytes::default();
        let first = Chunk::new(0, 4, &live);
        first.append(ONE, Scope::All, None);
        let mut last = first.clone();
        for number in 1..200_000 {
            let next = Chunk::new(4 * number, 4, &live);
            next.append(ONE, Scope::All, None);
            last.link(next.clone());
            last = next;
        }
        drop(last);
        drop(first);
        assert_eq!(live.get(), 0);
    }

    #[test]
    fn a_chunk_is_used_again_when_nobody_holds_its_bytes() {
        let pool = ChunkPool::default();
        let chunk = pool.chunk(0, CHUNK_BYTES_MIN);
        chunk.append(ONE, Scope::All, None);
        let in_flight = chunk.bytes().clone();
        pool.give_back(chunk);
        assert_eq!(pool.live_bytes(), 0);
        let other = pool.chunk(4, CHUNK_BYTES_MIN);
        other.append(OTHER, Scope::All, None);
        assert_eq!(in_flight.slice(0..4), ONE);
        let address = in_flight.slice(0..4).as_ptr();
        drop(in_flight);
        let again = pool.chunk(8, CHUNK_BYTES_MIN);
        assert_eq!((again.start(), again.end(), again.free()), (8, 8, CHUNK_BYTES_MIN));
        again.append(THIRD, Scope::All, None);
        assert_eq!(again.slice(0..4).as_ptr(), address);
        assert_eq!(pool.live_bytes(), 2 * CHUNK_BYTES_MIN);
        pool.give_back(again.clone());
        pool.give_back(pool.chunk(9, 2 * CHUNK_BYTES_MIN));
        assert_eq!(pool.spare.borrow().len(), 0, "held by a reader, or too large");
    }

    #[test]
    fn chunks_of_stalled_readers_do_not_fill_the_pool() {
        let pool = ChunkPool::default();
        let chunks: Vec<_> = (0..SPARE_MAX).map(|_| pool.chunk(0, CHUNK_BYTES_MIN)).collect();
        let held: Vec<_> = chunks.iter().map(|chunk| chunk.bytes().clone()).collect();
        chunks.into_iter().for_each(|chunk| pool.give_back(chunk));
        let mut reused = 0;
        for _ in 0..10 * SPARE_MAX {
            let before = pool.live.get();
            let chunk = pool.chunk(0, CHUNK_BYTES_MIN);
            reused += usize::from(pool.live.get() == before);
            pool.give_back(chunk);
        }
        assert!(reused > 8 * SPARE_MAX, "{reused} were used again");
        assert_eq!(pool.live_bytes(), 0, "what is in flight is not counted");
        drop(held);
    }

    #[test]
    #[should_panic(expected = "a chunk never grows")]
    fn too_much_is_refused() {
        Chunk::new(0, 2, &LiveBytes::default()).append(ONE, Scope::All, None);
    }
}
