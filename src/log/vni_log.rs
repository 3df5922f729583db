//! The log of one VNI at one shard, and the cursors that read it.
//!
//! Owns the order of frames and which chunks are kept. Must never hold a chunk that no cursor has
//! still to read, nor split a frame over two chunks.

use std::ops::Range;
use std::rc::Rc;

use super::chunk::{CHUNK_BYTES_MAX, CHUNK_BYTES_MIN, Chunk, ChunkPool};
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

    /// Readies the log for `bytes_next` bytes, and returns the chunk where they will begin: cursors
    /// that stand at the end take hold of it before the append.
    pub fn anchor(&mut self, bytes_next: &[u8]) -> Rc<Chunk> {
        match &self.tail {
            Some(tail) if tail.free() >= frame_len(bytes_next) => tail.clone(),
            _ => self.grow(bytes_next.len(), frame_len(bytes_next)),
        }
    }

    /// Appends whole frames; returns the range of positions that they got.
    pub fn append(&mut self, mut frames: &[u8]) -> Range<u64> {
        let start = self.end;
        while !frames.is_empty() {
            let chunk = self.anchor(frames);
            let fitting = whole_frames(frames, chunk.free());
            chunk.append(&frames[..fitting]);
            self.end = chunk.end();
            frames = &frames[fitting..];
        }
        start..self.end
    }

    /// Lets go of the chunk that would be appended to. For a log whose cursors all stand at its end.
    pub fn let_go(&mut self) {
        if let Some(tail) = self.tail.take() {
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
pub fn whole_frames(frames: &[u8], bytes_max: usize) -> usize {
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

/// A place in a log. It keeps alive what it has still to read.
#[derive(Debug, Default)]
pub struct Cursor {
    position: u64,
    /// None while nothing has to be read.
    chunk: Option<Rc<Chunk>>,
}

impl Cursor {
    /// A cursor that has read everything up to `end`.
    pub fn at_end(end: u64) -> Cursor {
        Cursor { position: end, chunk: None }
    }

    /// Position of the next byte to read.
    pub fn position(&self) -> u64 {
        self.position
    }

    /// Takes hold of the chunk in which the frames behind its position are about to begin.
    pub fn wake(&mut self, anchor: &Rc<Chunk>) {
        assert!(self.chunk.is_none() && self.position == anchor.end(), "it stood at the end");
        self.chunk = Some(anchor.clone());
    }

    /// What can be read without a break: the chunk, and offsets into it, at most up to the position
    /// `limit`. Empty only if the position is `limit` or the end of the log.
    pub fn readable(&mut self, limit: u64) -> Option<(Rc<Chunk>, Range<usize>)> {
        let mut chunk = self.chunk.as_ref()?;
        if self.position == chunk.end() {
            let next = chunk.next()?;
            chunk = self.chunk.insert(next);
        }
        let from = (self.position - chunk.start()) as usize;
        let to = (limit.min(chunk.end()).max(self.position) - chunk.start()) as usize;
        (from < to).then(|| (chunk.clone(), from..to))
    }

    /// Steps over what was read, or over frames that are not for this reader.
    pub fn advance_to(&mut self, position: u64) {
        assert!(position >= self.position, "cursors only move on");
        while let Some(chunk) = &self.chunk
            && position > chunk.end()
        {
            self.chunk = chunk.next();
        }
        assert!(self.chunk.is_some(), "beyond the end of the log");
        self.position = position;
    }

    /// Jumps to the end of the log and lets go of all chunks.
    pub fn rest_at(&mut self, end: u64) {
        *self = Cursor::at_end(end);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(number: u32) -> Vec<u8> {
        let mut frame = vec![1, 0, 40, 5];
        frame.extend_from_slice(&[0; 36]);
        frame.extend_from_slice(&number.to_be_bytes());
        frame
    }

    fn read_all(cursor: &mut Cursor, end: u64) -> Vec<u8> {
        let mut out = Vec::new();
        while let Some((chunk, range)) = cursor.readable(end) {
            out.extend_from_slice(chunk.slice(range.clone()));
            cursor.advance_to(cursor.position() + range.len() as u64);
        }
        out
    }

    #[test]
    fn cursors_read_what_was_appended_after_them() {
        let pool = Rc::new(ChunkPool::default());
        let mut log = VniLog::new(pool.clone());
        let mut early = Cursor::at_end(0);
        let mut expected = Vec::new();
        for number in 0..5_000 {
            let bytes = frame(number);
            if number == 0 {
                early.wake(&log.anchor(&bytes));
            }
            log.append(&bytes);
            expected.extend_from_slice(&bytes);
        }
        let bytes = [frame(5_000), frame(5_001)].concat();
        let mut late = Cursor::at_end(log.end());
        late.wake(&log.anchor(&bytes));
        log.append(&bytes);
        expected.extend_from_slice(&bytes);
        assert_eq!(read_all(&mut late, log.end()), bytes);
        assert_eq!(read_all(&mut early, log.end()), expected);
        log.let_go();
        early.rest_at(log.end());
        late.rest_at(log.end());
        assert_eq!(pool.live_bytes(), 0, "nobody has anything left to read");
    }

    #[test]
    fn a_large_run_is_split_at_frames() {
        let mut log = VniLog::new(Rc::default());
        let run: Vec<u8> = (0..9_000).flat_map(frame).collect();
        let mut cursor = Cursor::at_end(0);
        cursor.wake(&log.anchor(&run));
        assert_eq!(log.append(&run), 0..run.len() as u64);
        let mut pieces = 0;
        while let Some((chunk, range)) = cursor.readable(log.end()) {
            assert_eq!(range.len() % 44, 0, "whole frames");
            assert!(chunk.slice(range.clone()).starts_with(&[1, 0, 40, 5]));
            cursor.advance_to(cursor.position() + range.len() as u64);
            pieces += 1;
        }
        assert_eq!(pieces, (9_000 * 44usize).div_ceil(CHUNK_BYTES_MAX));
        assert_eq!(cursor.position(), log.end());
    }

    #[test]
    fn a_limit_cuts_and_skipping_hops_over_chunks() {
        let mut log = VniLog::new(Rc::default());
        let run: Vec<u8> = (0..4_000).flat_map(frame).collect();
        let mut cursor = Cursor::at_end(0);
        cursor.wake(&log.anchor(&run));
        log.append(&run);
        assert_eq!(cursor.readable(88).map(|(_, range)| range), Some(0..88));
        cursor.advance_to(44 * 3_999);
        let (chunk, range) = cursor.readable(u64::MAX).expect("one frame is left");
        assert_eq!(chunk.slice(range), frame(3_999));
    }
}
