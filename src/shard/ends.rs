//! Sessions that ended, by address: who comes back again and again has ended so many.
//!
//! Owns the counts of the last hour. Must never grow without a bound: anybody may connect.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::ops::Bound;
use std::time::Duration;

use crate::types::Time;

/// The hour goes by in steps of five minutes.
const STEP: Duration = Duration::from_secs(300);
const STEPS: usize = 12;
/// How many addresses are counted.
const ADDRESSES_MAX: usize = 65_536;
/// Addresses that one piece tells of.
const PER_PIECE: usize = 4_096;

/// How many ended within the last hour, by address.
#[derive(Default)]
pub(super) struct Ends {
    of: BTreeMap<IpAddr, Hour>,
    /// The step in which those were last looked through that may be forgotten.
    swept_in: u64,
}

/// Some addresses, and how many sessions of each ended within the last hour.
#[derive(Clone, Debug, Default)]
pub struct EndsPiece {
    /// In the order of addresses.
    pub ended: Vec<(IpAddr, u32)>,
    /// Behind which address to go on; None at the end.
    pub next: Option<IpAddr>,
}

/// By the step in which they ended, round and round.
#[derive(Clone, Copy, Default)]
struct Hour {
    ended: [u32; STEPS],
    /// The last one that was counted in.
    step: u64,
}

impl Ends {
    /// A session ended. Beyond [`ADDRESSES_MAX`] other addresses it is not counted.
    pub(super) fn note(&mut self, now: Time, address: IpAddr) {
        let (address, step) = (address.to_canonical(), step_of(now));
        if self.of.len() >= ADDRESSES_MAX && !self.of.contains_key(&address) {
            if self.swept_in == step {
                return;
            }
            self.swept_in = step;
            self.of.retain(|_, hour| hour.count(step) > 0);
            if self.of.len() >= ADDRESSES_MAX {
                return;
            }
        }
        self.of.entry(address).or_default().note(step);
    }

    /// From behind an address on, or from the first one on.
    pub(super) fn piece(&self, now: Time, behind: Option<IpAddr>) -> EndsPiece {
        let from = behind.map_or(Bound::Unbounded, Bound::Excluded);
        let mut left = self.of.range((from, Bound::Unbounded));
        let some = left.by_ref().take(PER_PIECE);
        let ended: Vec<_> =
            some.map(|(address, hour)| (*address, hour.count(step_of(now)))).collect();
        let next = left.next().and(ended.last()).map(|(address, _)| *address);
        EndsPiece { ended: ended.into_iter().filter(|(_, count)| *count > 0).collect(), next }
    }
}

impl Hour {
    fn note(&mut self, step: u64) {
        self.forget(step);
        let ended = &mut self.ended[step as usize % STEPS];
        *ended = ended.saturating_add(1);
    }

    fn count(mut self, step: u64) -> u32 {
        self.forget(step);
        self.ended.iter().fold(0, |sum, ended| sum.saturating_add(*ended))
    }

    /// Steps that are longer ago than an hour.
    fn forget(&mut self, step: u64) {
        for gone in (self.step + 1..=step).take(STEPS) {
            self.ended[gone as usize % STEPS] = 0;
        }
        if step >= self.step + STEPS as u64 {
            self.ended = [0; STEPS];
        }
        self.step = self.step.max(step);
    }
}

fn step_of(now: Time) -> u64 {
    now.0 / STEP.as_micros() as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(minutes: u64) -> Time {
        Time(1_000_000).after(Duration::from_secs(60 * minutes))
    }

    #[test]
    fn what_is_longer_ago_than_an_hour_counts_no_more() {
        let mut ends = Ends::default();
        let address = IpAddr::from([10, 0, 0, 1]);
        let mapped = "::ffff:10.0.0.1".parse().unwrap();
        for minute in 0..30 {
            ends.note(at(minute), if minute % 2 == 0 { address } else { mapped });
        }
        let counted = |minute| ends.piece(at(minute), None).ended;
        assert_eq!(counted(29), [(address, 30)]);
        assert_eq!(counted(54), [(address, 30)]);
        assert_eq!(counted(60), [(address, 25)]);
        assert_eq!(counted(75), [(address, 10)]);
        assert_eq!((counted(90).len(), counted(100_000).len()), (0, 0));
        // It rests for long, and comes again.
        for (minute, count) in [(200, 1), (201, 2), (10_000, 1)] {
            ends.note(at(minute), address);
            assert_eq!(ends.piece(at(minute), None).ended, [(address, count)]);
        }
    }

    #[test]
    fn addresses_are_bounded_and_told_in_pieces() {
        let mut ends = Ends::default();
        let address = |number: u32| IpAddr::from(number.to_be_bytes());
        let many = ADDRESSES_MAX as u32;
        (0..2 * many).for_each(|number| ends.note(at(0), address(number)));
        let (mut told, mut behind) = (Vec::new(), None);
        loop {
            let piece = ends.piece(at(1), behind);
            assert!(piece.ended.len() <= PER_PIECE);
            told.extend(piece.ended);
            behind = piece.next;
            if behind.is_none() {
                break;
            }
        }
        assert!(told.into_iter().eq((0..many).map(|number| (address(number), 1))));
        ends.note(at(61), address(2 * many));
        assert_eq!(ends.piece(at(61), None).ended, [(address(2 * many), 1)]);
    }
}
