//! Whether a path loses, doubles or reorders segments.
//!
//! Owns the difference between that and a receiver that is slow. Must never take the kernel's own probes for loss:
//! where a reader is busy for 10 ms, the sender repeats its last segment in vain, and the receiver reports a
//! duplicate.

use std::time::Duration;

use super::TcpSample;
use crate::types::Time;

/// What was counted, and when it last was trouble.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Trouble {
    is_known: bool,
    /// Segments sent again that were not reported as duplicates; or the other way round, below zero.
    imbalance: i64,
    /// Whether it had just changed: the report may be on its way.
    is_open: bool,
    reord_seen: u32,
    rcv_ooopack: u32,
    lossy_at: Option<Time>,
    doubled_at: Option<Time>,
    holes_at: Option<Time>,
}

impl Trouble {
    /// How TCP stands.
    pub(super) fn take(&mut self, now: Time, sample: &TcpSample) {
        let imbalance = i64::from(sample.total_retrans) - i64::from(sample.dsack_dups);
        // At the first sample too: the hole may still be there.
        if sample.rcv_ooopack != self.rcv_ooopack {
            self.holes_at = Some(now);
        }
        if !std::mem::replace(&mut self.is_known, sample.is_known()) {
            self.imbalance = imbalance;
        } else {
            if imbalance == self.imbalance {
                self.is_open = false;
            } else if std::mem::replace(&mut self.is_open, true) {
                self.lossy_at = Some(now);
                if imbalance < self.imbalance {
                    self.doubled_at = Some(now);
                }
                (self.imbalance, self.is_open) = (imbalance, false);
            }
            if sample.reord_seen != self.reord_seen {
                self.lossy_at = Some(now);
            }
        }
        (self.reord_seen, self.rcv_ooopack) = (sample.reord_seen, sample.rcv_ooopack);
    }

    /// Whether segments of ours were lost, doubled or reordered within this time.
    pub(super) fn is_lossy(&self, now: Time, within: Duration) -> bool {
        self.lossy_at.is_some_and(|at| now.since(at) < within)
    }

    /// Whether the network has doubled some within this time.
    pub(super) fn doubles(&self, now: Time, within: Duration) -> bool {
        self.doubled_at.is_some_and(|at| now.since(at) < within)
    }

    /// Whether segments of the peer's came out of order within this time: then ours have to carry SACK blocks.
    pub(super) fn has_holes(&self, now: Time, within: Duration) -> bool {
        self.holes_at.is_some_and(|at| now.since(at) < within)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_sent_again_in_vain_is_no_loss() {
        let mut trouble = Trouble::default();
        let sample = |total_retrans, dsack_dups, rcv_ooopack| TcpSample {
            snd_mss: 1_208,
            total_retrans,
            dsack_dups,
            rcv_ooopack,
            ..TcpSample::default()
        };
        let within = Duration::from_secs(5);
        // Whether the report comes with the acknowledgement or behind it.
        for (retrans, dups) in [(0, 0), (1, 0), (1, 1), (2, 2), (3, 2), (3, 3), (5, 5)] {
            trouble.take(Time(9), &sample(retrans, dups, 0));
        }
        assert!(!trouble.is_lossy(Time(9), within) && !trouble.has_holes(Time(9), within));
        // A loss; a duplicate of the network's; a hole.
        for (at, counted) in [(10, (6, 5, 0)), (20_000_000, (6, 6, 0)), (40_000_000, (6, 6, 1))] {
            let now = Time(at);
            assert!(!trouble.is_lossy(now, within) && !trouble.has_holes(now, within));
            let (retrans, dups, holes) = counted;
            (0..2).for_each(|_| trouble.take(now, &sample(retrans, dups, holes)));
            assert_eq!(trouble.is_lossy(now, within), holes == 0);
            assert_eq!(trouble.has_holes(now, within), holes > 0);
        }
        // What came out of order before the first look may still be missing.
        let mut trouble = Trouble::default();
        trouble.take(Time(9), &sample(0, 0, 1));
        assert!(trouble.has_holes(Time(9), within) && !trouble.is_lossy(Time(9), within));
    }
}
