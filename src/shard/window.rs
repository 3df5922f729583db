//! How much may be under way to a peer: a pure function of samples and time.
//!
//! Owns the bound on how late a KEEPALIVE arrives that is sent behind UPDATEs. Peers in the field restart
//! their hold timer (5/2 of the keepalive interval) on KEEPALIVE only; what the kernel has taken cannot be
//! overtaken, and it takes seconds' worth on a slow path. Must never look at a socket or a clock.
//!
//! What is under way may take half an interval to arrive, at the rate that was seen last. The rate is
//! learned in rounds: a round ends when all is acknowledged that was under way at its beginning. One that
//! ended shows that the path is at least so fast, and the bound may double, unless it was too little for
//! what a shaper lets pass at once; one that lasts shows how fast it is. On a fast path the bound is soon out of reach, and TCP is asked a few times a second at most.

use std::time::Duration;

use super::pacing::{BATCH_BYTES_MAX, Permit, TcpSample};
use crate::log::CHUNK_BYTES_MAX;
use crate::types::Time;

/// The slowest path that sessions are meant to live on, in bytes a second: 64 kbit/s. The bound before
/// anything is known, and the least one.
const RATE_MIN: u64 = 8_000;
/// What a shaper may let pass at once, in bytes: so much has to arrive fast before the path counts as fast.
const BURST: u64 = 48 << 10;
/// No bound: far more than the kernel ever takes.
const BYTES_MAX: u64 = 1 << 30;
/// How long a sample holds while more than the least bound may be under way.
const SAMPLE_HOLDS: Duration = Duration::from_millis(250);
/// Between two samples of a peer that waits, at least and at most. They grow with the round.
const WAIT_MIN: Duration = Duration::from_millis(1);
const WAIT_MAX: Duration = Duration::from_millis(250);

/// What may be under way to one peer.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Window {
    /// Bytes handed to the kernel since the connection began, and those acknowledged.
    sent_bytes: u64,
    acked_bytes: u64,
    sampled_at: Time,
    /// The bound; 0 before the first sample.
    bytes_max: u64,
    /// Bytes of the last rounds, as long as each was fast enough for more than the bound.
    fast_bytes: u64,
    round: Round,
}

#[derive(Clone, Copy, Debug, Default)]
struct Round {
    began_at: Time,
    /// Bytes acknowledged at its beginning, and those at which it ends.
    acked_bytes: u64,
    ends_at_bytes: u64,
}

impl Window {
    /// A connection on which another process has sent so much.
    pub(super) fn restored(sent_bytes: u64) -> Window {
        Window { sent_bytes, ..Window::default() }
    }

    /// Bytes handed to the kernel since the connection began.
    pub(super) fn sent_bytes(&self) -> u64 {
        self.sent_bytes
    }

    /// Bytes were handed to the kernel.
    #[inline]
    pub(super) fn sent(&mut self, bytes: usize) {
        self.sent_bytes += bytes as u64;
    }

    /// Whether `permit` needs to know how TCP stands. `interval_s` is the keepalive interval.
    #[inline]
    pub(super) fn wants_sample(&self, now: Time, interval_s: u32) -> bool {
        let least = least_bytes(interval_s);
        let bytes_max = self.bytes_max.max(least);
        let under_way = self.under_way();
        // Where there is room for a large piece, the next one shall not be cut for want of a sample.
        let piece =
            if bytes_max < CHUNK_BYTES_MAX as u64 { BATCH_BYTES_MAX } else { CHUNK_BYTES_MAX };
        under_way + piece as u64 > bytes_max
            || (under_way > least && now >= self.sampled_at.after(SAMPLE_HOLDS))
    }

    /// What may be sent at `now`: a batch fits in any case. `sample` counts where
    /// [`Window::wants_sample`] says so.
    #[inline]
    pub(super) fn permit(&mut self, now: Time, interval_s: u32, sample: &TcpSample) -> Permit {
        if self.wants_sample(now, interval_s) {
            self.take(now, interval_s, sample);
        }
        let room = self.bytes_max.max(least_bytes(interval_s)).saturating_sub(self.under_way());
        if room >= BATCH_BYTES_MAX as u64 {
            return Permit::Batch { bytes_max: usize::try_from(room).unwrap_or(usize::MAX) };
        }
        let wait_max = WAIT_MAX.min(delay(interval_s) / 4);
        let wait = (now.since(self.round.began_at) / 4).clamp(WAIT_MIN, wait_max);
        Permit::Wait(now.after(wait))
    }

    /// What may not have arrived yet: at most, since the sample grows old.
    fn under_way(&self) -> u64 {
        self.sent_bytes - self.acked_bytes
    }

    /// How TCP stands now.
    pub(super) fn take(&mut self, now: Time, interval_s: u32, sample: &TcpSample) {
        self.sampled_at = now;
        if sample.snd_mss == 0 {
            // Nothing is known, so nothing is held back.
            self.acked_bytes = self.sent_bytes;
            return;
        }
        // The kernel counts a SYN.
        self.acked_bytes = sample.bytes_acked.clamp(self.acked_bytes, self.sent_bytes);
        // One segment alone is acknowledged late.
        let least = least_bytes(interval_s).max(2 * u64::from(sample.snd_mss));
        let bytes_max = self.bytes_max.max(least);
        let elapsed = now.since(self.round.began_at);
        let acked = self.acked_bytes - self.round.acked_bytes;
        // The way itself takes its time, however little is under way.
        let min_rtt = Duration::from_micros(u64::from(sample.min_rtt_us));
        let delay = delay(interval_s);
        let shown = u128::from(acked) * (min_rtt + delay).as_micros() / elapsed.as_micros().max(1);
        let shown = u64::try_from(shown).unwrap_or(BYTES_MAX);
        if self.acked_bytes >= self.round.ends_at_bytes {
            if shown > bytes_max {
                self.fast_bytes += acked;
            } else if acked > 0 {
                self.fast_bytes = 0;
            }
            self.bytes_max = match self.fast_bytes {
                BURST.. => bytes_max.max(shown.min(2 * bytes_max)).min(BYTES_MAX.max(least)),
                _ => bytes_max,
            };
            self.round = Round {
                began_at: now,
                acked_bytes: self.acked_bytes,
                ends_at_bytes: self.sent_bytes,
            };
        } else if elapsed >= 2 * min_rtt + delay / 2 && shown < bytes_max {
            self.bytes_max = shown.max(least);
            self.fast_bytes = 0;
        }
    }
}

/// How late what is sent may arrive: half an interval. With the interval itself, and twice that when a
/// round was misjudged, a peer still hears of us within its hold time.
fn delay(interval_s: u32) -> Duration {
    Duration::from_secs(u64::from(interval_s)) / 2
}

fn least_bytes(interval_s: u32) -> u64 {
    (u64::from(interval_s) * RATE_MIN / 2).max(2 * BATCH_BYTES_MAX as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A path that carries `rate` bytes a second after a burst, and acknowledges them an RTT later.
    struct Path {
        rate: f64,
        burst: f64,
        rtt: Duration,
        /// What the peer has, and when it had how much: its acknowledgements are late.
        sent: f64,
        arrived: f64,
        tokens: f64,
        history: Vec<(Time, f64)>,
        now: Time,
    }

    impl Path {
        fn new(kbit_per_s: u32, burst: u32, rtt_ms: u64) -> Path {
            Path {
                rate: f64::from(kbit_per_s) * 125.0,
                burst: f64::from(burst),
                rtt: Duration::from_millis(rtt_ms),
                sent: 0.0,
                arrived: 0.0,
                tokens: f64::from(burst),
                history: Vec::new(),
                now: Time(1_000_000),
            }
        }

        fn until(&mut self, then: Time) {
            let step = Duration::from_millis(1);
            while self.now < then {
                self.now = self.now.after(step).min(then.max(self.now.after(step)));
                self.tokens = (self.tokens + self.rate * step.as_secs_f64())
                    .min(self.burst.max(self.rate * step.as_secs_f64()));
                let arrives = (self.sent - self.arrived).min(self.tokens);
                self.arrived += arrives;
                self.tokens -= arrives;
                self.history.push((self.now, self.arrived));
            }
        }

        fn sample(&self) -> TcpSample {
            let seen = self.history.iter().rev().find(|(at, _)| at.after(self.rtt) <= self.now);
            TcpSample {
                snd_mss: 1208,
                bytes_acked: seen.map_or(0, |&(_, bytes)| bytes as u64),
                min_rtt_us: u32::try_from(self.rtt.as_micros()).unwrap(),
                ..TcpSample::default()
            }
        }

        /// How late a KEEPALIVE would arrive that is sent now.
        fn delay_s(&self) -> f64 {
            (self.sent - self.arrived) / self.rate + self.rtt.as_secs_f64() / 2.0
        }
    }

    /// What came of sending for some seconds.
    struct Outcome {
        delay_s_max: f64,
        bytes: f64,
        samples: usize,
        waits: usize,
    }

    fn send_for(path: &mut Path, window: &mut Window, interval_s: u32, seconds: u64) -> Outcome {
        let end = path.now.after(Duration::from_secs(seconds));
        let (start, mut outcome) =
            (path.arrived, Outcome { delay_s_max: 0.0, bytes: 0.0, samples: 0, waits: 0 });
        while path.now < end {
            outcome.samples += usize::from(window.wants_sample(path.now, interval_s));
            match window.permit(path.now, interval_s, &path.sample()) {
                Permit::Batch { bytes_max } => {
                    // As large as the kernel takes it at once.
                    let bytes =
                        bytes_max.min(65_536).min((4e6 - path.sent + path.arrived) as usize);
                    window.sent(bytes);
                    path.sent += bytes as f64;
                    if bytes < bytes_max.min(65_536) {
                        path.until(path.now.after(Duration::from_millis(1)));
                    }
                }
                Permit::Wait(then) => {
                    assert!(then > path.now, "or it would spin");
                    outcome.waits += 1;
                    path.until(then);
                }
                other => panic!("{other:?}"),
            }
            outcome.delay_s_max = outcome.delay_s_max.max(path.delay_s());
        }
        outcome.bytes = path.arrived - start;
        outcome
    }

    #[test]
    fn keepalives_arrive_in_time_on_slow_paths_and_the_path_is_full() {
        for interval_s in 1..=5 {
            for kbit_per_s in [64, 128, 256, 512, 1_000, 4_000] {
                for (burst, rtt_ms) in
                    [(1_500, 1), (4_000, 1), (4_000, 100), (1_500, 600), (32_768, 1)]
                {
                    let mut path = Path::new(kbit_per_s, burst, rtt_ms);
                    let mut window = Window::default();
                    let start = send_for(&mut path, &mut window, interval_s, 20);
                    let outcome = send_for(&mut path, &mut window, interval_s, 100);
                    let case =
                        format!("{interval_s} s, {kbit_per_s} kbit/s, {burst} B, {rtt_ms} ms");
                    // The hold time is 5/2 of the interval, of which one passes until we are asked.
                    let late = outcome.delay_s_max.max(start.delay_s_max) / f64::from(interval_s);
                    assert!(late < 1.3 + 0.001 * rtt_ms as f64, "{case}: {late:.2} intervals late");
                    let share = outcome.bytes / (path.rate * 100.0);
                    assert!(share > 0.9, "{case}: {share:.2} of what the path takes");
                    assert!(outcome.samples < 100 * 400, "{case}: {} samples", outcome.samples);
                }
            }
        }
    }

    #[test]
    fn a_path_that_becomes_slow_is_noticed() {
        let mut path = Path::new(8_000, 4_000, 20);
        let mut window = Window::default();
        send_for(&mut path, &mut window, 3, 20);
        path.rate /= 50.0;
        // What was under way is; it is bounded again when that has arrived.
        send_for(&mut path, &mut window, 3, 200);
        let outcome = send_for(&mut path, &mut window, 3, 60);
        assert!(outcome.delay_s_max < 3.0, "{}", outcome.delay_s_max);
        assert!(outcome.bytes > 0.9 * 60.0 * path.rate);
        // And back.
        path.rate *= 50.0;
        send_for(&mut path, &mut window, 3, 5);
        assert!(send_for(&mut path, &mut window, 3, 10).bytes > 0.9 * 10.0 * path.rate);
    }

    #[test]
    fn a_fast_path_is_soon_left_alone() {
        let mut path = Path::new(8_000_000, 1_000_000, 0);
        let mut window = Window::default();
        let first = send_for(&mut path, &mut window, 5, 1);
        assert!(
            first.waits < 20 && first.bytes > 0.9 * path.rate,
            "{} {}",
            first.waits,
            first.bytes
        );
        let then = send_for(&mut path, &mut window, 5, 2);
        assert!(then.waits == 0 && then.samples < 20, "{} {}", then.waits, then.samples);
    }

    #[test]
    fn a_trickle_does_not_look_like_a_slow_path() {
        let mut path = Path::new(1_000_000, 100_000, 1);
        let mut window = Window::default();
        send_for(&mut path, &mut window, 5, 1);
        let bytes_max = window.bytes_max;
        for _ in 0..1_000 {
            assert!(matches!(
                window.permit(path.now, 5, &path.sample()),
                Permit::Batch { bytes_max: 1_000_000.. }
            ));
            window.sent(300);
            path.sent += 300.0;
            path.until(path.now.after(Duration::from_millis(100)));
        }
        assert!(window.bytes_max >= bytes_max);
    }

    #[test]
    fn who_does_not_read_is_looked_at_a_few_times_a_second_and_resumes() {
        let mut path = Path::new(100_000, 100_000, 1);
        let mut window = Window::default();
        send_for(&mut path, &mut window, 5, 1);
        let rate = std::mem::replace(&mut path.rate, 0.0);
        path.tokens = 0.0;
        let outcome = send_for(&mut path, &mut window, 5, 60);
        assert!(outcome.waits < 400 && outcome.samples < 800, "{}", outcome.samples);
        path.rate = rate;
        let outcome = send_for(&mut path, &mut window, 5, 5);
        assert!(outcome.bytes > 0.8 * 5.0 * rate, "{}", outcome.bytes / rate);
    }

    #[test]
    fn nothing_known_holds_nothing_back() {
        let mut window = Window::default();
        for _ in 0..1_000 {
            let permit = window.permit(Time(5), 1, &TcpSample::default());
            assert!(matches!(permit, Permit::Batch { .. }));
            window.sent(1_000);
        }
    }
}
