//! The clock of the program: time since its start, as the core counts it.
//!
//! Owns the only look at a clock on the way of the data. Must never be used inside the core, which is
//! given the time.

use std::time::{Instant, SystemTime};

use crate::types::Time;

/// Time since the server's start, or since that of the one whose connections it took over. All shards share one start, so
/// that their times compare.
#[derive(Clone, Copy, Debug)]
pub(super) struct Clock {
    start: Instant,
}

impl Clock {
    /// A clock that starts now.
    #[allow(clippy::disallowed_methods)] // this is where the core's time comes from
    pub(super) fn start() -> Clock {
        Clock { start: Instant::now() }
    }

    /// A clock that goes on where another process is: what stood then is as old as it is.
    #[allow(clippy::disallowed_methods)]
    pub(super) fn continuing(then: Time) -> Clock {
        let now = Instant::now();
        Clock { start: now.checked_sub(then.since(Time::default())).unwrap_or(now) }
    }

    /// When it started, as others know it.
    #[allow(clippy::disallowed_methods)]
    pub(super) fn began_at(&self) -> SystemTime {
        SystemTime::now() - self.start.elapsed()
    }

    /// The time now.
    pub(super) fn now(&self) -> Time {
        Time::default().after(self.start.elapsed())
    }
}
