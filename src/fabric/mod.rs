//! Many reflectors as one: what each of them tells the others, through an engine that keeps it.
//!
//! Owns the protocol: what is published and when, whose word counts for how long, and what goes when. Must never wait
//! for the engine, ask a clock, or know which engine it is: its driver (in `io`) carries out [`Effect`]s and tells
//! what came of them.
//!
//! The engine is a cache; each reflector holds the truth about its own peers, and publishes again what the engine has
//! lost. The words:
//!
//! * a *record* says who announces a route at one reflector (a subject for each, so that the engine keeps the last only);
//! * a *lease* says that its reflector lives, and how far it is;
//! * a *reading* is the whole stream, from its first record until nothing is pending. What was said in earlier ones
//!   stays until its reflector has said all anew: so nothing flaps when the engine comes back, even empty;
//! * a *generation* is what was read of one reflector in one reading.
//!
//! A driver calls what happened, then [`Fabric::turn`], then takes effects and mail until there are none, then sleeps
//! until [`Fabric::next_wakeup`]. It reads from the feed only while [`Fabric::wants_feed`].

mod config;
mod engine;
mod lease;
mod record;
mod status;

use crate::shard::Mail;
use crate::types::{ShardId, Time};

pub use config::{FabricConfig, NAME_LEN_MAX, NameError, Rule, Timers, check_name};
pub use engine::{Effect, Ended, PublishError, Record};
pub use lease::{Contents, Lease, LeaseState};
pub use record::Dropped;
pub use status::{ReflectorStatus, Standing, State, Status};

/// This reflector's part in the fabric.
#[derive(Debug)]
pub struct Fabric {
    config: FabricConfig,
}

impl Fabric {
    /// A fabric that is not linked yet.
    ///
    /// # Panics
    /// If a name is none: see [`check_name`].
    pub fn new(_now: Time, config: FabricConfig) -> Fabric {
        Fabric { config }
    }

    /// The engine can be reached, and its stream is as it should be.
    pub fn linked(&mut self, _now: Time) {}

    /// The engine cannot be reached any more. All that is in flight is to be refused ([`PublishError::Other`]) before or
    /// after this, or never: it is forgotten.
    pub fn unlinked(&mut self, _now: Time) {}

    /// After [`Effect::Open`], before [`Fabric::opened`]: a lease as it stands.
    pub fn found(&mut self, _now: Time, _lease: &Record<'_>) {}

    /// The feed that [`Effect::Open`] asked for is there, with so many records waiting.
    pub fn opened(&mut self, _now: Time, _pending: u64) {}

    /// The feed has failed, or could not be opened. Another [`Effect::Open`] follows in a while.
    pub fn feed_broken(&mut self, _now: Time) {}

    /// A record of the feed. A hostile one is dropped and counted.
    pub fn record(&mut self, _now: Time, _record: &Record<'_>) {}

    /// A publication is in the stream, at this place.
    pub fn acked(&mut self, _now: Time, _token: u64, _sequence: u64) {}

    /// A publication or a purge has failed, or nobody knows.
    pub fn refused(&mut self, _now: Time, _token: u64, _error: &PublishError) {}

    /// A purge is done.
    pub fn purged(&mut self, _now: Time, _token: u64) {}

    /// Mail from a shard.
    pub fn deliver(&mut self, _now: Time, _mail: Mail) {}

    /// The process is about to end: others are told so, and keep our routes for a while.
    pub fn leave(&mut self, _now: Time) {}

    /// Whether that is done, or has taken too long: the connection can be closed.
    pub fn has_left(&self) -> bool {
        false
    }

    /// Does what is due. To be called after each batch of calls, and at [`Fabric::next_wakeup`].
    pub fn turn(&mut self, _now: Time) {}

    /// What the engine is to do. To be called until None after each turn.
    pub fn take_effect(&mut self) -> Option<Effect> {
        None
    }

    /// Mail for shards. To be called until None after each turn.
    pub fn take_mail(&mut self) -> Option<(ShardId, Mail)> {
        None
    }

    /// When [`Fabric::turn`] is to be called at the latest.
    pub fn next_wakeup(&self) -> Time {
        Time::NEVER
    }

    /// Whether more of the feed is to be read for now.
    pub fn wants_feed(&self) -> bool {
        true
    }

    /// How it is.
    pub fn status(&self, _now: Time) -> Status {
        Status::default()
    }

    /// The subjects that this fabric uses.
    pub fn subjects(&self) -> Subjects {
        Subjects::new(&self.config.fabric)
    }
}

/// The subjects of one fabric.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Subjects {
    prefix: String,
}

impl Subjects {
    /// Those of the fabric of this name. See [`check_name`].
    pub fn new(fabric: &str) -> Subjects {
        Subjects { prefix: format!("mb.{fabric}.") }
    }

    /// All of them: the stream takes these.
    pub fn all(&self) -> String {
        format!("{}>", self.prefix)
    }

    /// Those of all leases.
    pub fn leases(&self) -> String {
        format!("{}l.*", self.prefix)
    }

    /// That of a reflector's lease.
    pub fn lease(&self, name: &str) -> String {
        format!("{}l.{name}", self.prefix)
    }

    /// Those of a reflector's records.
    pub fn records(&self, name: &str) -> String {
        format!("{}r.*.{name}.>", self.prefix)
    }
}
