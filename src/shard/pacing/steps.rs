//! The steps of a proof.
//!
//! Owns the words for them. Must never decide which one comes next.

use std::time::Duration;

use super::limits::BURN_FRAMES;
use crate::types::Time;

/// What may be done now.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Ask {
    /// So many bytes may be sent.
    Feed { bytes: u64 },
    /// One frame may be sent, alone; a KEEPALIVE if that is said.
    Small { keepalive: bool },
    /// Nothing before this time.
    Wait(Time),
    /// Nothing until something is heard.
    Nothing,
    /// Too much is unread.
    Close,
}

#[derive(Clone, Copy, Debug)]
pub(super) enum Step {
    /// What fits the window may be sent.
    Feed,
    /// All has to be acknowledged first, since this time.
    Settle(Time),
    /// A frame is to be sent alone: one of so many that burn credit, or the probe.
    Small(Small),
    /// It is under way.
    Flight(Flight),
    /// Nothing but control frames until then.
    Nap(Time),
}

/// A frame that goes alone.
#[derive(Clone, Copy, Debug)]
pub(super) struct Small {
    /// How many are left that burn credit, this one included; 0 for the probe.
    pub(super) burns_left: u8,
    /// How many before it were acknowledged by the timer, in a row.
    pub(super) lates: u8,
    /// If it follows one that was not acknowledged: when that one was sent, at the earliest.
    pub(super) nudges: Option<Time>,
}

pub(super) const BURN: Small = Small { burns_left: BURN_FRAMES, lates: 0, nudges: None };
pub(super) const PROBE: Small = Small { burns_left: 0, lates: 0, nudges: None };

#[derive(Clone, Copy, Debug)]
pub(super) struct Flight {
    pub(super) small: Small,
    /// The SEND began not before this time.
    pub(super) began_at: Time,
    /// It was done by this time.
    pub(super) done_at: Option<Time>,
    /// When it was last seen not to be acknowledged.
    pub(super) unacked_at: Time,
    /// The silence before it, at most.
    pub(super) gap: Duration,
    /// And at least.
    pub(super) gap_least: Duration,
    /// Whether something else was sent meanwhile.
    pub(super) is_disturbed: bool,
}
