//! What a former run of the node has left with the route client, and until when it stays.
//!
//! Owns the clock for the time in which no server can be reached. Must never end it while a server
//! is connected that may still tell: that is for the caller to say.

use std::time::Duration;

use crate::types::Time;

/// Whether what a former run has left stays.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum FormerRun {
    /// It stays until a server has told what it knows, but not beyond this time.
    Kept(Time),
    /// What nobody announced is to go.
    Over,
}

impl FormerRun {
    /// A server is there: no clock counts any more.
    pub(super) fn server_is_here(&mut self) {
        if *self != FormerRun::Over {
            *self = FormerRun::Kept(Time::NEVER);
        }
    }

    /// No server can be reached: from now on the time counts, unless it does already.
    pub(super) fn servers_are_away(&mut self, now: Time, stale_time: Duration) {
        if *self == FormerRun::Kept(Time::NEVER) {
            *self = FormerRun::Kept(now.after(stale_time));
        }
    }

    /// When the time is over.
    pub(super) fn next_deadline(self) -> Time {
        match self {
            FormerRun::Kept(until) => until,
            FormerRun::Over => Time::NEVER,
        }
    }

    /// It is over. True if it was not before.
    pub(super) fn end(&mut self) -> bool {
        std::mem::replace(self, FormerRun::Over) != FormerRun::Over
    }
}
