//! How long an acknowledgement took.
//!
//! Owns what the kernel's smoothed RTT tells of one. Must never be more certain than that.

use std::time::Duration;

use super::TcpSample;

/// What is acknowledged later than this may not have been acknowledged for being read. Delayed-ACK timers take 30 to
/// 40 ms at least (with 100 ticks a second), unless an administrator has made the peer's minimum RTO shorter.
const PROMPT: Duration = Duration::from_millis(20);
/// What is acknowledged later than this was acknowledged by the timer: there is no credit.
const TIMER: Duration = Duration::from_millis(30);

/// How long an acknowledgement took.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Delay {
    Prompt,
    Late,
    /// Late, by the peer's timer.
    Timer,
    Unknown,
}

/// Bounds of the time that one took.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Took {
    pub(super) at_least: Duration,
    pub(super) at_most: Duration,
}

impl Took {
    /// With what the kernel has measured of the only acknowledgement between two samples: it keeps eighths of a
    /// microsecond, and adds an eighth of the difference.
    pub(super) fn measured(self, before: &TcpSample, after: &TcpSample) -> Took {
        if before.rtt_us == 0 || after.rtt_us == 0 {
            return self;
        }
        let rtt_us = 8 * i64::from(after.rtt_us) - 7 * i64::from(before.rtt_us);
        let micros = |it: i64| Duration::from_micros(u64::try_from(it).unwrap_or(0));
        Took {
            at_least: self.at_least.max(micros(rtt_us - 7)),
            at_most: self.at_most.min(micros(rtt_us + 7)),
        }
    }

    /// What that means on a way as long as the sample says.
    pub(super) fn judge(self, sample: &TcpSample) -> Delay {
        if self.at_most <= prompt(sample) {
            Delay::Prompt
        } else if self.at_least > timer(sample) {
            Delay::Timer
        } else if self.at_least > prompt(sample) {
            Delay::Late
        } else {
            Delay::Unknown
        }
    }
}

/// Within what time one comes that is sent at once.
pub(super) fn prompt(sample: &TcpSample) -> Duration {
    PROMPT + min_rtt(sample)
}

/// What comes later than this may have been sent by the timer.
pub(super) fn timer(sample: &TcpSample) -> Duration {
    TIMER + min_rtt(sample)
}

/// What the way takes at least.
pub(super) fn min_rtt(sample: &TcpSample) -> Duration {
    Duration::from_micros(u64::from(sample.min_rtt_us))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_smoothed_rtt_tells_of_one_within_some_microseconds() {
        let mut eighths: i64 = 8 * 50;
        for rtt_us in [20, 47_000, 3, 40_000, 40_000, 900, 20_100, 19_000, 12, 7] {
            let sample = |eighths: i64| TcpSample {
                rtt_us: u32::try_from(eighths / 8).unwrap(),
                min_rtt_us: 3,
                ..TcpSample::default()
            };
            let before = sample(eighths);
            // What linux/net/ipv4/tcp_input.c does.
            eighths = (eighths + rtt_us - eighths / 8).max(1);
            let seen = Took { at_least: Duration::ZERO, at_most: Duration::from_secs(1) };
            let took = seen.measured(&before, &sample(eighths));
            let rtt = Duration::from_micros(rtt_us as u64);
            assert!((took.at_least..=took.at_most).contains(&rtt), "{rtt:?} {took:?}");
            assert!(took.at_most - took.at_least <= Duration::from_micros(14));
            let expected = match rtt_us {
                ..=20_003 => Delay::Prompt,
                20_004..=30_003 => Delay::Late,
                _ => Delay::Timer,
            };
            assert_eq!(took.judge(&before), expected, "{rtt_us}");
        }
        // A look that comes late shows nothing by itself.
        let seen = Took { at_least: Duration::ZERO, at_most: Duration::from_millis(50) };
        assert_eq!(seen.judge(&TcpSample::default()), Delay::Unknown);
    }
}
