//! The log of one VNI at one shard, and the cursors that read it.
//!
//! Owns the order of frames and which chunks are kept. Must never hold a chunk that no cursor has
//! still to read, nor split a frame over two chunks.

use std::ops::Range;
use std::rc::Rc;

use super::chunk::{CHUNK_BYTES_MAX, CHUNK_BYTES_MIN, Chunk, ChunkPool};
use super::runs::{Place, Reader, Run, Scope};
use crate::types::ShortTime;
use crate::wire::frame_len;

/// An append-only sequence of frames. Positions count bytes since the log began.
pub struct VniLog {
    tail: Option<Rc<Chunk>>,
    end: u64,
    pool: Rc<ChunkPool>,
}

impl VniLog {
    /// An empty log, whose chunks come from `pool`.
    pub fn new(pool: Rc<ChunkPool>) -> VniLog {
        VniLog { tail: None, end: 0, pool }
    }

    /// The position behind the last frame.
    pub fn end(&self) -> u64 {
        self.end
    }

    /// Readies the log for `bytes_next` bytes, and returns the chunk where they will begin: who has read
    /// everything takes a cursor at its end before the append.
    pub fn anchor(&mut self, bytes_next: &[u8]) -> Rc<Chunk> {
        match &self.tail {
            Some(tail) if tail.free() >= frame_len(bytes_next) => tail.clone(),
            _ => self.grow(bytes_next.len(), frame_len(bytes_next)),
        }
    }

    /// Appends whole frames for an audience; the peer's bytes that brought them were read at `read_at`, if they
    /// were.
    pub fn append(&mut self, mut frames: &[u8], scope: Scope, read_at: Option<ShortTime>) {
        while !frames.is_empty() {
            let chunk = self.anchor(frames);
            let fitting = whole_frames(frames, chunk.free());
            chunk.append(&frames[..fitting], scope, read_at);
            self.end = chunk.end();
            frames = &frames[fitting..];
        }
    }

    /// How many hold a chunk before which there is none any more: cursors in it, and the caller.
    pub fn readers_in(&self, chunk: &Rc<Chunk>) -> usize {
        let is_tail = self.tail.as_ref().is_some_and(|tail| Rc::ptr_eq(tail, chunk));
        Rc::strong_count(chunk) - usize::from(is_tail)
    }

    /// Lets go of the chunk that would be appended to.
    ///
    /// # Panics
    /// If a cursor stands in it, which would never come to what follows.
    pub fn let_go(&mut self) {
        if let Some(tail) = self.tail.take() {
            assert_eq!(Rc::strong_count(&tail), 1, "nobody has anything to read");
            self.pool.give_back(tail);
        }
    }

    fn grow(&mut self, bytes_next: usize, frame_bytes: usize) -> Rc<Chunk> {
        let doubled = match &self.tail {
            Some(tail) => 2 * (tail.end() - tail.start()) as usize,
            None => CHUNK_BYTES_MIN,
        };
        let capacity = doubled
            .max(bytes_next)
            .next_power_of_two()
            .clamp(CHUNK_BYTES_MIN, CHUNK_BYTES_MAX)
            .max(frame_bytes);
        let chunk = self.pool.chunk(self.end, capacity);
        if let Some(tail) = self.tail.replace(chunk.clone()) {
            tail.link(chunk.clone());
        }
        chunk
    }
}

/// How many of the first bytes of `frames` are whole frames of at most `bytes_max` together.
pub(super) fn whole_frames(frames: &[u8], bytes_max: usize) -> usize {
    if frames.len() <= bytes_max {
        return frames.len();
    }
    let mut taken = 0;
    loop {
        let next = taken + frame_len(&frames[taken..]);
        if next > bytes_max {
            return taken;
        }
        taken = next;
    }
}

/// The place of somebody who has something to read in a log. It keeps alive what that is.
#[derive(Clone, Debug)]
pub struct Cursor {
    chunk: Rc<Chunk>,
    place: Place,
    /// When the frames that it stands before were read from a peer, as long as that is known.
    read_at: Option<ShortTime>,
}

impl Cursor {
    /// Where the next frames are about to begin: see [`VniLog::anchor`]; and when a peer's bytes that brought them
    /// were read.
    pub fn at_end_of(chunk: &Rc<Chunk>, read_at: Option<ShortTime>) -> Cursor {
        let place = Place::behind(&chunk.runs());
        Cursor { chunk: chunk.clone(), place, read_at }
    }

    /// The chunk in which it stands.
    pub fn chunk(&self) -> &Rc<Chunk> {
        &self.chunk
    }

    /// Log position of the next byte to read.
    pub fn position(&self) -> u64 {
        self.chunk.start() + self.place.position() as u64
    }

    /// The next frames for `reader` that lie together, as offsets into [`Cursor::chunk`], somewhat more than
    /// `bytes_max` perhaps. None at the end of the log.
    pub fn readable(&mut self, reader: Reader, bytes_max: usize) -> Option<Range<usize>> {
        loop {
            let runs = self.chunk.runs();
            if self.place.skip_invisible(&runs, reader) {
                let end = self.place.visible_end(&runs, reader, bytes_max);
                return Some(self.place.position()..end);
            }
            drop(runs);
            if !self.step() {
                return None;
            }
        }
    }

    /// The end of the first frames of such a range that are at most `bytes_max` together, one frame at least;
    /// and how many they are.
    pub fn cut(&self, range: Range<usize>, bytes_max: usize) -> (usize, usize) {
        self.chunk.cut(range, bytes_max)
    }

    /// When a peer's bytes were read that brought the frames before which it stands: a sample, told once for who was
    /// woken by them, and of the first ones of each chunk to all others.
    pub fn take_read_at(&mut self) -> Option<ShortTime> {
        self.read_at.take()
    }

    /// The same place, without anything known of when something was read: it was told otherwise.
    pub fn restarted(&self) -> Cursor {
        Cursor { read_at: None, ..self.clone() }
    }

    /// Steps behind what was read, an offset into [`Cursor::chunk`].
    pub fn advance_to(&mut self, offset: usize) {
        assert!(self.chunk.start() + offset as u64 <= self.chunk.end(), "beyond the end");
        self.place.advance_to(offset);
    }

    /// What is left of the next run in this chunk, whoever it is for: up to this offset and audience.
    pub(super) fn next_run(&mut self) -> Option<Run> {
        self.place.next_run(&self.chunk.runs())
    }

    /// Passes the next frames that are for one audience, whoever that is: they are appended to `out`. None at the end.
    pub(crate) fn pass(&mut self, out: &mut Vec<u8>) -> Option<Scope> {
        loop {
            if let Some(run) = self.next_run() {
                out.extend_from_slice(self.chunk.slice(self.place.position()..run.end));
                self.place.advance_to(run.end);
                return Some(run.scope);
            }
            if !self.step() {
                return None;
            }
        }
    }

    /// Goes on to the next chunk. False if there is none.
    pub(super) fn step(&mut self) -> bool {
        let Some(next) = self.chunk.next() else { return false };
        self.read_at = next.read_at();
        self.chunk = next;
        self.place = Place::default();
        true
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
        let mut frame = vec![1, 0, 40, 5];
        frame.extend_from_slice(&[0; 36]);
        frame.extend_from_slice(&number.to_be_bytes());
        frame
    }

    fn at_end(log: &mut VniLog, bytes_next: &[u8]) -> Cursor {
        Cursor::at_end_of(&log.anchor(bytes_next), None)
    }

    fn read_all(cursor: &mut Cursor, reader: Reader) -> Vec<u8> {
        let mut out = Vec::new();
        while let Some(range) = cursor.readable(reader, CHUNK_BYTES_MAX) {
            out.extend_from_slice(cursor.chunk().slice(range.clone()));
            cursor.advance_to(range.end);
        }
        out
    }

    #[test]
    fn cursors_read_what_was_appended_after_them() {
        let pool = Rc::new(ChunkPool::default());
        let mut log = VniLog::new(pool.clone());
        let mut early = at_end(&mut log, &frame(0));
        let mut expected = Vec::new();
        for number in 0..5_000 {
            log.append(&frame(number), Scope::All, None);
            expected.extend_from_slice(&frame(number));
        }
        let bytes = [frame(5_000), frame(5_001)].concat();
        let mut late = at_end(&mut log, &bytes);
        log.append(&bytes, Scope::All, None);
        expected.extend_from_slice(&bytes);
        assert_eq!(read_all(&mut late, reader(1)), bytes);
        assert_eq!(read_all(&mut early, reader(1)), expected);
        drop((early, late));
        log.let_go();
        assert_eq!(pool.live_bytes(), 0, "nobody has anything left to read");
    }

    #[test]
    fn a_large_run_is_split_at_frames() {
        let mut log = VniLog::new(Rc::default());
        let run: Vec<u8> = (0..9_000).flat_map(frame).collect();
        let mut cursor = at_end(&mut log, &run);
        log.append(&run, Scope::All, None);
        let mut pieces = 0;
        while let Some(range) = cursor.readable(reader(1), CHUNK_BYTES_MAX) {
            assert_eq!(range.len() % 44, 0, "whole frames");
            assert!(cursor.chunk().slice(range.clone()).starts_with(&[1, 0, 40, 5]));
            cursor.advance_to(range.end);
            pieces += 1;
        }
        assert_eq!(pieces, (9_000 * 44usize).div_ceil(CHUNK_BYTES_MAX));
        assert_eq!(cursor.position(), log.end());
    }

    #[test]
    fn each_reads_what_is_for_it_also_where_the_last_run_grows() {
        let scopes =
            [Scope::All, Scope::AllBut(source(1)), Scope::Only(source(2)), Scope::Only(source(1))];
        let mut log = VniLog::new(Rc::default());
        let mut cursors: Vec<_> = (0..4).map(|_| at_end(&mut log, &frame(0))).collect();
        let mut read = vec![Vec::new(); 4];
        let mut expected = read.clone();
        for number in 0..8_000 {
            let scope = scopes[number as usize / 3 % scopes.len()];
            log.append(&frame(number), scope, None);
            for (slot, expected) in (0..).zip(&mut expected) {
                if scope.includes(reader(slot)) {
                    expected.extend_from_slice(&frame(number));
                }
            }
            // Some read each time, some seldom, one at the very end.
            for (slot, every) in [(0, 1), (1, 7), (2, 3_000)] {
                if number % every == 0 {
                    read[slot].extend(read_all(&mut cursors[slot], reader(slot as u32)));
                }
            }
        }
        for (slot, cursor) in cursors.iter_mut().enumerate() {
            read[slot].extend(read_all(cursor, reader(slot as u32)));
        }
        assert!(read == expected);
    }
}
