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
#[cfg(test)]
mod model;
mod others;
mod own;
mod protocol;
mod record;
mod status;
mod subject;
mod waiting;

use crate::handover::{HandoverError, Item};
use crate::shard::{Correspondent, Mail};
use crate::types::{ShardId, Time};

pub use config::{FabricConfig, NAME_LEN_MAX, NameError, Rule, Timers, check_name};
pub use engine::{Effect, Ended, Publish, PublishError, Record};
pub use lease::{Contents, Lease, LeaseState};
pub use record::{Dropped, decode_announcers, encode_announcers, record_hash};
pub use status::{ReflectorStatus, Standing, State, Status};
pub use subject::{Subject, Subjects};

use protocol::{HomeCall, Homes, Protocol};

/// This reflector's part in the fabric.
pub struct Fabric {
    protocol: Protocol,
    homes: Correspondent,
    /// Homes stand still, and are told nothing.
    is_frozen: bool,
}

impl Fabric {
    /// A fabric that is not linked yet.
    pub fn new(now: Time, config: FabricConfig) -> Fabric {
        Fabric {
            homes: Correspondent::new(config.shards),
            protocol: Protocol::new(now, config),
            is_frozen: false,
        }
    }

    /// All connections are about to go to another process: homes are told nothing from now on, until [`Fabric::thaw`], but
    /// for the mail that is still to be taken. Our lease goes on. Returns what that process has to know.
    pub fn freeze(&mut self, now: Time) -> Vec<Item> {
        self.tell_homes();
        self.is_frozen = true;
        self.protocol.told(now)
    }

    /// All goes on where it stood still.
    pub fn thaw(&mut self) {
        self.is_frozen = false;
    }

    /// This is how it stood in the process of which this one takes over: the same shards' tables come from there. To be
    /// called before anything else.
    ///
    /// # Errors
    /// If that makes no sense.
    ///
    /// # Panics
    /// If it was linked already.
    pub fn inherit(&mut self, now: Time, items: Vec<Item>) -> Result<(), HandoverError> {
        self.protocol.inherit(now, items)
    }

    /// The engine can be reached, and its stream is as it should be.
    pub fn linked(&mut self, now: Time) {
        self.protocol.linked(now);
    }

    /// The engine cannot be reached any more. What is in flight is forgotten.
    pub fn unlinked(&mut self, now: Time) {
        self.protocol.unlinked(now);
    }

    /// After [`Effect::Open`], before [`Fabric::opened`]: a lease as it stands, or the marker of its end.
    pub fn found(&mut self, now: Time, lease: &Record<'_>) {
        self.protocol.found(now, lease);
    }

    /// The feed that [`Effect::Open`] asked for is there, with so many records waiting.
    pub fn opened(&mut self, now: Time, pending: u64) {
        self.protocol.opened(now, pending);
    }

    /// The feed has failed, or could not be opened. Another [`Effect::Open`] follows in a while.
    pub fn feed_broken(&mut self, now: Time) {
        self.protocol.feed_broken(now);
    }

    /// A record of the feed. A hostile one is dropped and counted.
    pub fn record(&mut self, now: Time, record: &Record<'_>) {
        self.protocol.record(now, record);
        self.tell_homes();
    }

    /// A publication is in the stream, at this place.
    pub fn acked(&mut self, now: Time, token: u64, sequence: u64) {
        self.protocol.acked(now, token, sequence);
    }

    /// A publication or a purge has failed, or nobody knows.
    pub fn refused(&mut self, now: Time, token: u64, error: &PublishError) {
        self.protocol.refused(now, token, error);
    }

    /// The engine does not permit to write others' leases, or to purge: not tried again before the next link.
    pub fn may_not_purge(&mut self) {
        self.protocol.may_not_purge();
    }

    /// A purge is done.
    pub fn purged(&mut self, _now: Time, token: u64) {
        self.protocol.purged(token);
    }

    /// Mail from a shard.
    pub fn deliver(&mut self, _now: Time, mail: Mail) {
        let protocol = &mut self.protocol;
        self.homes.deliver(mail, |vni, route, by| protocol.published(vni, route, by));
    }

    /// The process is about to end, and means to come back: others are told so, and keep our routes for a while.
    pub fn leave(&mut self, now: Time) {
        self.protocol.leave(now);
    }

    /// Whether that is done, or has taken too long: the connection can be closed.
    pub fn has_left(&self) -> bool {
        self.protocol.has_left()
    }

    /// Does what is due. To be called after each batch of calls, and at [`Fabric::next_wakeup`].
    pub fn turn(&mut self, now: Time) {
        loop {
            self.tell_homes();
            let homes = Homes {
                is_full: self.is_full(),
                is_settled: self.is_settled(),
                refused: self.homes.refused(),
            };
            self.protocol.turn(now, homes);
            self.tell_homes();
            if !self.protocol.needs_settled() || !self.is_settled() {
                return;
            }
        }
    }

    /// What the engine is to do. To be called until None after each turn.
    pub fn take_effect(&mut self) -> Option<Effect> {
        self.protocol.take_effect()
    }

    /// Mail for shards. To be called until None after each turn.
    pub fn take_mail(&mut self) -> Option<(ShardId, Mail)> {
        self.homes.take_mail()
    }

    /// When [`Fabric::turn`] is to be called at the latest.
    pub fn next_wakeup(&self) -> Time {
        self.protocol.next_wakeup()
    }

    /// Whether more of the feed is to be read for now. If not, ask again after each turn.
    pub fn wants_feed(&self) -> bool {
        !self.protocol.needs_settled() && !self.is_full()
    }

    /// How it is.
    pub fn status(&self, now: Time) -> Status {
        Status { refused: self.homes.refused(), ..self.protocol.status(now) }
    }

    /// The subjects that this fabric uses.
    pub fn subjects(&self) -> &Subjects {
        &self.protocol.subjects
    }

    /// While homes stand still, they take nothing.
    fn is_full(&self) -> bool {
        self.homes.is_full() || self.is_frozen
    }

    /// While they stand still, they have still to be told.
    fn is_settled(&self) -> bool {
        self.homes.is_settled() && !self.is_frozen
    }

    fn tell_homes(&mut self) {
        if self.is_frozen {
            return;
        }
        while let Some(call) = self.protocol.take_home_call() {
            match call {
                HomeCall::Announce(remote, vni, route, by) => {
                    self.homes.announce(remote, vni, &route, by);
                }
                HomeCall::Lose(remote) => self.homes.lose(remote),
            }
        }
    }
}
