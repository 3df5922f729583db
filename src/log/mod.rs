//! Encoded UPDATEs on their way to subscribers: shared logs with cursors, what became of the part of a log
//! that only laggards have still to hear of, and shared bases.
//!
//! Owns bytes and their audiences. Must never know a route table, a session or a socket.

mod bits;
mod chunk;
mod compaction;
mod frames;
mod marks;
mod merge;
mod runs;
mod vni_log;

pub use chunk::LiveBytes;
pub(crate) use chunk::{CHUNK_BYTES_MAX, ChunkBytes, ChunkPool};
pub(crate) use compaction::ChangedRoute;
pub use compaction::{Compaction, Laggard, Turned};
pub use frames::FramesList;
pub(crate) use frames::{Blocks, Frames, FramesCursor, SharedBytes};
pub use merge::Merge;
pub use runs::{Reader, Scope};
pub use vni_log::{Cursor, VniLog};
