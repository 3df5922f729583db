//! Bytes on their way to a peer: what one SEND is given.
//!
//! Owns the ways in which such bytes are kept. Must never move or change them.

use std::ops::Range;
use std::rc::Rc;
use std::sync::Arc;

use crate::log::{ChunkBytes, Frames, LiveBytes};

/// From this size on, in bytes, a part is sent as it lies; smaller ones are gathered by copying: a
/// copy costs some 4 ns a frame, a SEND 4,500 ns.
pub(super) const DIRECT_BYTES_MIN: usize = 16 << 10;

/// Bytes to send. They stay where they are, unchanged, for as long as the piece lives.
#[derive(Clone, Debug)]
pub struct Piece {
    payload: Payload,
    range: Range<usize>,
    /// Whether it must be a segment of its own (`MSG_EOR`), and go out whole.
    pub end_of_record: bool,
    /// UPDATEs in it; what is left of one that was sent in part has none more.
    pub(super) updates: u32,
}

#[derive(Clone, Debug)]
pub(super) enum Payload {
    Chunk(Rc<ChunkBytes>),
    Shared(Arc<Frames>),
    Gathered(Rc<Gathered>),
    Control(Rc<Vec<u8>>),
}

/// A buffer of one peer alone: what was copied for it.
#[derive(Debug)]
pub(super) struct Gathered {
    pub bytes: Vec<u8>,
    live: LiveBytes,
    /// What it has added to `live`.
    counted: usize,
}

impl Gathered {
    /// An empty one, whose memory is counted in `live`.
    pub(super) fn new(live: &LiveBytes) -> Rc<Gathered> {
        Rc::new(Gathered { bytes: Vec::new(), live: live.clone(), counted: 0 })
    }

    /// Counts what it takes now.
    pub(super) fn count(&mut self) {
        let bytes = self.bytes.capacity();
        self.live.set(self.live.get() + bytes - self.counted);
        self.counted = bytes;
    }
}

impl Drop for Gathered {
    fn drop(&mut self) {
        self.live.set(self.live.get() - self.counted);
    }
}

impl Piece {
    /// UPDATEs as they lie.
    pub(super) fn of_updates(payload: Payload, range: Range<usize>, updates: usize) -> Piece {
        let updates = u32::try_from(updates).expect("a piece is a part of what memory holds");
        Piece { payload, range, end_of_record: false, updates }
    }

    /// Control frames.
    pub(super) fn control(bytes: Vec<u8>, end_of_record: bool) -> Piece {
        let range = 0..bytes.len();
        let payload = Payload::Control(Rc::new(bytes));
        Piece { payload, range, end_of_record, updates: 0 }
    }

    /// The whole of a buffer, with so many UPDATEs.
    pub(super) fn gathered(buffer: Rc<Gathered>, updates: usize, end_of_record: bool) -> Piece {
        let range = 0..buffer.bytes.len();
        Piece { end_of_record, ..Piece::of_updates(Payload::Gathered(buffer), range, updates) }
    }

    /// The bytes. Moving the piece does not move them.
    pub fn as_slice(&self) -> &[u8] {
        match &self.payload {
            Payload::Chunk(chunk) => chunk.slice(self.range.clone()),
            Payload::Shared(frames) => &frames.bytes()[self.range.clone()],
            Payload::Gathered(buffer) => &buffer.bytes[self.range.clone()],
            Payload::Control(bytes) => &bytes[self.range.clone()],
        }
    }

    /// What is left after the first `sent` bytes. If nothing is, and nobody else holds it, the buffer
    /// in which it was gathered.
    pub(super) fn rest(mut self, sent: usize) -> (Option<Piece>, Option<Rc<Gathered>>) {
        assert!(sent <= self.range.len(), "no more is sent than was given");
        self.range.start += sent;
        self.updates = 0;
        if !self.range.is_empty() {
            return (Some(self), None);
        }
        match self.payload {
            Payload::Gathered(buffer) => (None, (Rc::strong_count(&buffer) == 1).then_some(buffer)),
            _ => (None, None),
        }
    }
}
