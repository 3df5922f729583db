//! How the fabric is, for operators.
//!
//! Owns plain values. Must never be more than a copy: nobody waits for anything in here.

use std::collections::BTreeMap;
use std::time::Duration;

use super::engine::PublishError;
use super::lease::LeaseState;
use super::record::Dropped;

/// How far the fabric is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub enum State {
    /// The engine is out of reach. Remote routes stay for a while.
    #[default]
    Unlinked,
    /// Connected; what the engine has is being read.
    Reading,
    /// All was read; what others have to be told is being published, or peers of the former life may still come back.
    Syncing,
    /// All was read and published.
    Synced,
    /// It ends: others keep its routes for a while.
    Leaving,
    /// It gave the fabric up: a reflector with the same name was started later.
    Fenced,
}

/// What is known of another reflector's lease.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Standing {
    /// There is one, and this is what it says.
    Live(LeaseState),
    /// It is over. Its routes stay so much longer.
    Stale(Duration),
    /// Nobody can say: all is being read, or could not be read since. Its routes stay meanwhile.
    Unknown,
    /// It is over, and its routes are gone.
    Lost,
    /// It was said to be gone for good, and what it left is, or is being, removed.
    Removed,
}

/// Another reflector.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ReflectorStatus {
    /// Its name.
    pub name: String,
    /// Whether it lives.
    pub standing: Standing,
    /// Records of it that count.
    pub records: u64,
    /// How many of them were not said again since the feed was last opened.
    pub records_former: u64,
    /// Which reading of the stream they come from.
    pub generation: u64,
    /// Leases in a row whose digest differed from what we have. From two on everything is read anew; what
    /// differs then the reflector itself has to look at, and people.
    pub digest_misses: u32,
}

/// How the fabric is.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Status {
    /// How far it is.
    pub state: State,
    /// Records that the feed had for us behind the last one.
    pub lag_records: u64,
    /// Since when our own lease was seen in the feed last; None: not since the feed was opened.
    pub canary_age: Option<Duration>,
    /// Why our own lease was refused last, if none was taken since: others are about to count on us no more.
    pub lease_error: Option<PublishError>,
    /// How long remote routes stay if the engine does not come back; None: it is there.
    pub held_for: Option<Duration>,
    /// Routes that we publish.
    pub own_records: u64,
    /// Routes of the former life that stand for peers which are not back.
    pub own_stale: bool,
    /// Keys whose present state is still to be published.
    pub dirty: u64,
    /// Publications that wait for their acknowledgement.
    pub in_flight: u64,
    /// Keys that the engine has no room for.
    pub full: u64,
    /// Other reflectors, by name.
    pub reflectors: Vec<ReflectorStatus>,
    /// Records of all other reflectors.
    pub remote_records: u64,
    /// Records that were dropped since the start, by reason.
    pub dropped: BTreeMap<Dropped, u64>,
    /// Routes that our own tables refused since the start.
    pub refused: u64,
    /// A reading was finished since the start: what others publish is known.
    pub has_read: bool,
    /// How often everything was read anew since the start.
    pub readings: u64,
    /// Publications that failed since the start, and what the last one of them was told.
    pub publish_errors: u64,
    /// See `publish_errors`.
    pub last_error: Option<String>,
    /// How often a digest differed even after a new reading, since the start.
    pub digest_alarms: u64,
    /// Another process has our name. Its incarnation.
    pub twin: Option<u64>,
}
