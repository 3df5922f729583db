//! A fixed rate of routes.
//!
//! Owns the allowance that is left of it. Must never know what a route is.

use std::time::Duration;

use crate::types::Time;

/// The allowance of one peer.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rate {
    /// Microseconds that one route costs.
    route_us: f64,
    /// When the allowance is used up; up to [`Rate::BURST`] in the past.
    spent_until_us: f64,
}

impl Rate {
    /// Allowance that may be saved up.
    const BURST: Duration = Duration::from_millis(20);

    /// A full allowance.
    pub(super) fn new(routes_per_s: u32) -> Rate {
        Rate { route_us: 1e6 / f64::from(routes_per_s.max(1)), spent_until_us: 0.0 }
    }

    /// When there is some again, if it is used up.
    pub(super) fn spent_until(&self, now: Time) -> Option<Time> {
        let is_spent = self.spent_until_us > now.0 as f64;
        is_spent.then(|| Time(self.spent_until_us.ceil() as u64))
    }

    /// So many routes were sent.
    pub(super) fn sent(&mut self, now: Time, routes: usize) {
        let earliest = now.0 as f64 - Self::BURST.as_micros() as f64;
        self.spent_until_us = self.spent_until_us.max(earliest) + routes as f64 * self.route_us;
    }
}
