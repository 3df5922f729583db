//! The engine of the fabric: NATS JetStream, on a thread of its own.
//!
//! Owns the connection, and hands the core what comes over it. Must never keep a shard waiting: their mail is taken at
//! once, whatever the engine does.

mod fault;
mod feed;
mod link;
mod stream;

pub use self::fault::Fault;
pub use self::feed::{Delivered, Feed, Gone};
pub use self::link::{Acks, Connected, Link, Publication, Refused, ServerSeen, StreamSeen};
