//! A lease: what a reflector says of itself every few seconds, and others believe as long as it stands.
//!
//! Owns its text. Must never take what it would write otherwise.

/// What a reflector says of itself.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum LeaseState {
    /// It has not published everything yet.
    Syncing,
    /// All that it has is published.
    Synced,
    /// It ends, and means to come back.
    Leaving,
    /// Somebody else says that it will not come back: what it has published is about to be purged.
    Gone,
}

/// What a reflector says of itself: `1 STATE INCARNATION RECORDS DIGEST`, as text, for people read it too.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Lease {
    /// How far it is.
    pub state: LeaseState,
    /// When its process was started, in nanoseconds since 1970.
    pub incarnation: u64,
    /// How many records it has published, and the sum of their hashes; None: unknown, some are on their way.
    pub contents: Option<Contents>,
}

/// What a reflector has published, in short.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Contents {
    /// How many records.
    pub records: u64,
    /// The sum, modulo 2^64, of `record_hash` of each.
    pub digest: u64,
}
