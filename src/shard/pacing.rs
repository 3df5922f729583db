//! How fast a peer may be fed that does not reassemble: a pure function of samples and time.
//!
//! Owns the allowance of one peer. Must never look at a socket or a clock.

use std::time::Duration;

use crate::types::{Pace, Time};

/// Bytes of a batch: the protocol's floor, and what fits a segment at an MTU of 1280.
pub const BATCH_BYTES_MAX: usize = 1188;
/// What the first IPv4-mapped or IPv6 segments may lose to SACK blocks, in bytes.
const SACK_BYTES: u32 = 28;
/// How long a sample of the segment's size holds: one costs a tenth of a SEND. An MTU that shrinks below a batch
/// is noticed so much later at most; what was under way when it shrank the kernel cuts anew in any case.
const SEGMENT_HOLDS: Duration = Duration::from_millis(100);
/// What `auto` means until it measures: see the design, "two kinds of readers".
const AUTO_ROUTES_PER_S: u32 = 10_000;

/// What TCP_INFO tells about a connection (`struct tcp_info`, linux/tcp.h).
#[derive(Clone, Copy, Debug, Default)]
pub struct TcpSample {
    /// `tcpi_snd_mss`: bytes of the largest segment; 0 if not known.
    pub snd_mss: u32,
    /// `tcpi_notsent_bytes`: bytes that wait in the kernel.
    pub notsent_bytes: u32,
    /// `tcpi_unacked`: segments sent and not acknowledged.
    pub unacked_segments: u32,
    /// `tcpi_bytes_acked`: bytes that were acknowledged since the connection began.
    pub bytes_acked: u64,
    /// `tcpi_bytes_received`: bytes that came since the connection began.
    pub bytes_received: u64,
    /// `tcpi_total_retrans`: segments sent again.
    pub total_retrans: u32,
    /// `tcpi_dsack_dups`: duplicates that the peer reported.
    pub dsack_dups: u32,
    /// `tcpi_delivered_ce`: segments that arrived marked "congestion experienced".
    pub delivered_ce: u32,
    /// `tcpi_min_rtt`, in microseconds.
    pub min_rtt_us: u32,
    /// `tcpi_snd_wnd`: the peer's window in bytes.
    pub snd_wnd: u32,
}

/// What may be sent now.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Permit {
    /// One batch of at most this many bytes (whole frames, one at least).
    Batch {
        /// Bytes.
        bytes_max: usize,
    },
    /// Nothing before this time.
    Wait(Time),
}

/// The allowance of one peer.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pacer {
    /// Microseconds that one route costs; 0 for no limit.
    route_us: f64,
    /// When the allowance is used up; up to [`Pacer::BURST`] in the past.
    spent_until_us: f64,
    /// Bytes that a batch may have, and until when that holds.
    batch_bytes: usize,
    sampled_until: Time,
}

impl Pacer {
    /// Allowance that may be saved up.
    const BURST: Duration = Duration::from_millis(20);

    /// A full allowance.
    pub(crate) fn new(pace: Pace) -> Pacer {
        let routes_per_s = match pace {
            Pace::Off => {
                return Pacer::with(0.0);
            }
            Pace::Auto => AUTO_ROUTES_PER_S,
            Pace::RoutesPerS(routes_per_s) => routes_per_s.max(1),
        };
        Pacer::with(1e6 / f64::from(routes_per_s))
    }

    /// Whether `permit` needs to know how TCP stands.
    pub(crate) fn wants_sample(&self, now: Time) -> bool {
        now >= self.sampled_until
    }

    /// Whether `sent` needs to know how much it was.
    pub(crate) fn counts_routes(&self) -> bool {
        self.route_us > 0.0
    }

    /// What may be sent at `now`. `sample` counts where [`Pacer::wants_sample`] says so.
    pub(crate) fn permit(&mut self, now: Time, sample: &TcpSample) -> Permit {
        let now_us = now.0 as f64;
        if self.route_us > 0.0 && self.spent_until_us > now_us {
            return Permit::Wait(Time(self.spent_until_us.ceil() as u64));
        }
        if self.wants_sample(now) {
            let segment = match sample.snd_mss {
                0 => BATCH_BYTES_MAX,
                mss => mss.saturating_sub(SACK_BYTES) as usize,
            };
            self.batch_bytes = segment.min(BATCH_BYTES_MAX);
            self.sampled_until = now.after(SEGMENT_HOLDS);
        }
        Permit::Batch { bytes_max: self.batch_bytes }
    }

    /// A batch of this many routes was sent.
    pub(crate) fn sent(&mut self, now: Time, routes: usize) {
        let earliest = now.0 as f64 - Self::BURST.as_micros() as f64;
        self.spent_until_us = self.spent_until_us.max(earliest) + routes as f64 * self.route_us;
    }

    fn with(route_us: f64) -> Pacer {
        Pacer {
            route_us,
            spent_until_us: 0.0,
            batch_bytes: BATCH_BYTES_MAX,
            sampled_until: Time::default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn routes_in(pacer: &mut Pacer, batch: usize, until: Time) -> usize {
        let (mut now, mut routes) = (Time(5_000_000), 0);
        while now < until {
            match pacer.permit(now, &TcpSample::default()) {
                Permit::Batch { .. } => {
                    pacer.sent(now, batch);
                    routes += batch;
                }
                Permit::Wait(next) => {
                    assert!(next > now, "or it would spin");
                    now = next;
                }
            }
        }
        routes
    }

    #[test]
    fn the_rate_holds_however_batches_are_cut() {
        for batch in [1, 25, 33] {
            let mut pacer = Pacer::new(Pace::RoutesPerS(1_000));
            let routes = routes_in(&mut pacer, batch, Time(15_000_000));
            assert!((10_000..10_100).contains(&routes), "{routes} routes in 10 s");
        }
        let mut pacer = Pacer::new(Pace::Auto);
        assert!((10_000..10_300).contains(&routes_in(&mut pacer, 25, Time(6_000_000))));
    }

    #[test]
    fn no_batch_is_larger_than_a_segment() {
        let mut pacer = Pacer::new(Pace::Off);
        let sample = |snd_mss| TcpSample { snd_mss, ..TcpSample::default() };
        let mut now = Time(0);
        for (snd_mss, bytes_max) in [(0, 1188), (65_483, 1188), (1_208, 1180), (536, 508)] {
            pacer.sent(now, 1_000_000);
            assert!(pacer.wants_sample(now));
            assert_eq!(pacer.permit(now, &sample(snd_mss)), Permit::Batch { bytes_max });
            // It holds for a while, whatever the caller says then.
            assert!(!pacer.wants_sample(now));
            assert_eq!(pacer.permit(now, &TcpSample::default()), Permit::Batch { bytes_max });
            now = now.after(SEGMENT_HOLDS);
        }
    }
}
