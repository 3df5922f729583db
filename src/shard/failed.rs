//! Addresses of peers that failed though they were paced: next time they begin with the smallest window.
//!
//! Owns how long that is remembered. Must never grow without a bound: anybody may connect.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use crate::types::Time;

/// How long an address is remembered.
const KEPT: Duration = Duration::from_secs(600);
/// How many are.
const ADDRESSES_MAX: usize = 4_096;

/// Who failed, and when.
#[derive(Default)]
pub(super) struct Failed {
    at: BTreeMap<IpAddr, Time>,
}

impl Failed {
    /// A peer of this address failed.
    pub(super) fn note(&mut self, now: Time, address: IpAddr) {
        if self.at.len() >= ADDRESSES_MAX && !self.at.contains_key(&address) {
            self.at.retain(|_, at| now.since(*at) < KEPT);
            if self.at.len() >= ADDRESSES_MAX {
                return;
            }
        }
        self.at.insert(address, now);
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
        (0..2 * ADDRESSES_MAX as u32).for_each(|number| failed.note(begin, address(number)));
        assert_eq!(failed.at.len(), ADDRESSES_MAX);
        assert!(failed.is_known(begin, address(0)));
        let later = begin.after(KEPT);
        assert!(!failed.is_known(later, address(0)));
        failed.note(later, address(u32::MAX));
        assert!(failed.is_known(later, address(u32::MAX)) && failed.at.len() == 1);
    }
}
