//! What passes between the fabric and its engine: an ordered map that keeps the last record of each subject, with
//! sequence numbers over all of them, records with a lifetime, and one feed.
//!
//! Owns plain values. Must never know which engine that is.

use std::time::Duration;

use super::lease::{Lease, LeaseState};

/// A record as the engine delivers it.
#[derive(Clone, Copy, Debug)]
pub struct Record<'a> {
    /// Its place in the stream: each record's is higher than those before.
    pub sequence: u64,
    /// How long ago the engine took it, by the engine's clock.
    pub age: Duration,
    /// Its key.
    pub subject: &'a str,
    /// Its value. An empty one says that there is none any more.
    pub value: &'a [u8],
    /// Why there is none any more, if the engine or the writer says so.
    pub ended: Option<Ended>,
    /// Records that the feed has for us behind this one. 0: nothing more, for now.
    pub pending: u64,
}

/// Why a subject has no value any more.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Ended {
    /// Its lifetime was over (`Nats-Marker-Reason: MaxAge`).
    Lifetime,
    /// Its writer took it back: a tombstone (`Nats-Marker-Reason: Remove`).
    Removed,
    /// It was purged (`Nats-Marker-Reason: Purge`).
    Purged,
}

/// Why something was not published, or nobody knows whether it was.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum PublishError {
    /// The engine has no room: for one more subject, for something larger than what there is, or for anything.
    Full,
    /// The subject's last record was not the expected one.
    WrongSequence,
    /// Anything else: no answer in time, the connection was lost, not permitted. It may have been published all the same.
    Other(String),
}

/// Something that the engine is to do for the fabric.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Effect {
    /// Read everything anew, and forget the feed of before: see that the stream is there and as it should be; hand over
    /// all leases as they stand (subject [`Subjects::leases`](super::Subjects::leases)), each by
    /// [`Fabric::found`](super::Fabric::found); open an ordered feed from the very first record and call
    /// [`Fabric::opened`](super::Fabric::opened); then hand over its records. Whatever fails:
    /// [`Fabric::feed_broken`](super::Fabric::feed_broken).
    Open,
    /// Publish a record.
    Publish(Publish),
    /// Take out all records of these subjects whose sequence is lower than this. The answer is
    /// [`Fabric::purged`](super::Fabric::purged) or [`Fabric::refused`](super::Fabric::refused).
    Purge {
        /// What the answer has to name.
        token: u64,
        /// Subjects, with `*` for one word and `>` for the rest.
        filter: String,
        /// The lowest sequence that stays.
        below: u64,
    },
    /// Give the connection up, for good: a reflector with our name was started later.
    Leave,
}

/// A record to be published. The answer is [`Fabric::acked`](super::Fabric::acked) or
/// [`Fabric::refused`](super::Fabric::refused), within a few seconds. Publications are sent in this order.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Publish {
    /// What the answer has to name.
    pub token: u64,
    /// The record's key.
    pub subject: String,
    /// Its value; empty for a tombstone. One without a lifetime takes less room than any record.
    pub value: Vec<u8>,
    /// How long it is to stay; None: until it is replaced.
    pub lifetime: Option<Duration>,
    /// When its lifetime is over the engine is to make no marker of that (`Nats-Marker-Reason: Remove`).
    pub is_tombstone: bool,
    /// Only if this is the sequence of the subject's last record; 0 if it must have none.
    pub expect_last: Option<u64>,
}

impl Publish {
    /// A lease that says of a reflector, whose last lease this was, that it is gone: what it has published is about to be
    /// purged. When its time is over, nobody is to take that for the end of a life.
    pub fn gone(token: u64, subject: String, last: u64, lifetime: Duration) -> Publish {
        let lease = Lease { state: LeaseState::Gone, incarnation: 0, contents: None };
        Publish {
            token,
            subject,
            value: lease.to_string().into_bytes(),
            lifetime: Some(lifetime),
            is_tombstone: true,
            expect_last: Some(last),
        }
    }
}
