//! Encoded UPDATEs on their way to subscribers: shared logs with cursors, shared bases, and the
//! private queues of single peers.
//!
//! Owns bytes and their audiences. Must never know a route table, a session or a socket.

mod chunk;
mod frames;
mod merge;
mod queue;
mod vni_log;

pub use chunk::{CHUNK_BYTES_MAX, CHUNK_BYTES_MIN, Chunk, ChunkBytes, ChunkPool};
pub use frames::{Blocks, Frames, FramesCursor, FramesList, Scope, SharedBytes};
pub use merge::Merge;
pub use queue::{Conflation, TaggedQueue, frames_within};
pub use vni_log::{Cursor, VniLog, whole_frames};
