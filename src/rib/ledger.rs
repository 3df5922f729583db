//! What all shards of a node have in common: how much there is of what is limited in total, and how short memory is.
//!
//! Owns counts alone. Must never hold anything that a shard waits for.

use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};

/// How short memory is. Each level refuses what those before it refuse as well.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub enum Pressure {
    /// There is enough.
    #[default]
    None,
    /// Whoever is behind is told the difference only.
    Conflate,
    /// No more routes.
    Routes,
    /// No more subscriptions.
    Joins,
    /// No more connections.
    Connections,
}

impl Pressure {
    /// All levels, in their order.
    pub const ALL: [Pressure; 5] = [
        Pressure::None,
        Pressure::Conflate,
        Pressure::Routes,
        Pressure::Joins,
        Pressure::Connections,
    ];
}

/// Counts of one node, shared by its shards, and by whoever watches its memory.
#[derive(Debug, Default)]
pub struct Ledger {
    routes: AtomicU64,
    subscriptions: AtomicU64,
    pressure: AtomicU8,
}

impl Ledger {
    /// Says how short memory is from now on.
    pub fn press(&self, pressure: Pressure) {
        self.pressure.store(pressure as u8, Ordering::Relaxed);
    }

    /// How short memory is.
    pub fn pressure(&self) -> Pressure {
        Pressure::ALL[usize::from(self.pressure.load(Ordering::Relaxed))]
    }

    /// Routes in all tables, each counted once.
    pub fn routes(&self) -> u64 {
        self.routes.load(Ordering::Relaxed)
    }

    /// Subscriptions of all peers.
    pub fn subscriptions(&self) -> u64 {
        self.subscriptions.load(Ordering::Relaxed)
    }

    /// One more route, if there may be: never are there more than `routes_max`.
    pub(super) fn take_route(&self, routes_max: u64) -> bool {
        take(&self.routes, routes_max)
    }

    /// One route less.
    pub(super) fn give_route_back(&self) {
        self.routes.fetch_sub(1, Ordering::Relaxed);
    }

    /// One more subscription, if there may be: never are there more than `subscriptions_max`.
    pub(crate) fn take_subscription(&self, subscriptions_max: u64) -> bool {
        take(&self.subscriptions, subscriptions_max)
    }

    /// One subscription less.
    pub(crate) fn discount_subscription(&self) {
        self.subscriptions.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Shards take at the same time: none refuses what another one does not get.
fn take(count: &AtomicU64, max: u64) -> bool {
    let one_more = |count: u64| (count < max).then_some(count + 1);
    count.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_more).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_taken_beyond_the_limit() {
        let ledger = Ledger::default();
        assert!(ledger.take_route(2) && ledger.take_route(2));
        assert!(!ledger.take_route(2) && !ledger.take_route(1));
        assert_eq!(ledger.routes(), 2);
        ledger.give_route_back();
        assert!(ledger.take_route(2));
        assert!(!ledger.take_subscription(0) && ledger.take_subscription(2));
        assert!(ledger.take_subscription(2) && !ledger.take_subscription(2));
        ledger.discount_subscription();
        assert_eq!((ledger.routes(), ledger.subscriptions()), (2, 1));
    }

    #[test]
    fn each_level_of_pressure_is_told_as_it_is() {
        let ledger = Ledger::default();
        assert_eq!(ledger.pressure(), Pressure::None);
        for pressure in Pressure::ALL {
            ledger.press(pressure);
            assert_eq!(ledger.pressure(), pressure);
        }
        assert!(Pressure::ALL.is_sorted());
    }
}
