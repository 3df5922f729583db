//! Addresses of peers that failed though they were paced: next time they begin with the smallest window.
//!
//! Owns how long that is remembered, and what is news to the other shards: the next connection may be another
//! one's. Must never grow without a bound: anybody may connect.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use crate::types::Time;

/// How long an address is remembered.
const KEPT: Duration = Duration::from_secs(600);
/// For how long it is no news that it failed again.
const FRESH: Duration = Duration::from_secs(60);
/// How many are.
const ADDRESSES_MAX: usize = 4_096;

/// Who failed, and when.
#[derive(Default)]
pub(super) struct Failed {
    at: BTreeMap<IpAddr, Time>,
}

impl Failed {
    /// A peer of this address failed at `now`. True if that is news, for the other shards too.
    pub(super) fn note(&mut self, now: Time, address: IpAddr) -> bool {
        if self.at.get(&address).is_some_and(|at| now.since(*at) < FRESH) {
            return false;
        }
        if self.at.len() >= ADDRESSES_MAX && !self.at.contains_key(&address) {
            self.at.retain(|_, at| now.since(*at) < KEPT);
            if self.at.len() >= ADDRESSES_MAX {
                return false;
            }
        }
        self.at.insert(address, now);
        true
    }

    /// Whether one did, not long ago.
    pub(super) fn is_known(&self, now: Time, address: IpAddr) -> bool {
        self.at.get(&address).is_some_and(|at| now.since(*at) < KEPT)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_forgotten_and_bounded() {
        let mut failed = Failed::default();
        let address = |number: u32| IpAddr::from(number.to_be_bytes());
        let begin = Time(1);
        let news =
            (0..2 * ADDRESSES_MAX as u32).filter(|&n| failed.note(begin, address(n))).count();
        assert_eq!((failed.at.len(), news), (ADDRESSES_MAX, ADDRESSES_MAX));
        assert!(failed.is_known(begin, address(0)));
        let later = begin.after(KEPT);
        assert!(!failed.is_known(later, address(0)));
        assert!(failed.note(later, address(u32::MAX)));
        assert!(failed.is_known(later, address(u32::MAX)) && failed.at.len() == 1);
    }

    #[test]
    fn who_fails_again_and_again_is_news_now_and_then() {
        let mut failed = Failed::default();
        let address = IpAddr::from([10, 0, 0, 1]);
        let noted = (0..1_200).filter(|&s| {
            let now = Time(1).after(Duration::from_secs(s));
            let is_news = failed.note(now, address);
            assert!(failed.is_known(now.after(KEPT - FRESH), address), "since the last time");
            is_news
        });
        assert_eq!(noted.count(), 20);
        // Mail tells of what is older than what is known.
        assert!(!failed.note(Time(1), address));
        assert!(failed.is_known(Time(1).after(Duration::from_secs(1_199)), address));
    }
}
