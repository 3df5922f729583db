//! How long updates take, and how late they were sent.
//!
//! Owns the histograms and what may be said about them. Must never measure from the moment of sending:
//! a sender that is held up would hide the wait (coordinated omission). It is from the schedule.

use hdrhistogram::Histogram;
use serde::Serialize;

/// The longest time that is told apart, in nanoseconds (10 minutes).
const LONGEST_NS: u64 = 600_000_000_000;

/// What one shard measured in a stage.
pub struct Latency {
    /// From schedule to arrival, in nanoseconds.
    pub delivery_ns: Histogram<u64>,
    /// From schedule to the socket, in nanoseconds: how late the generator was.
    pub lag_ns: Histogram<u64>,
    /// The longest time between two reads of a peer that brought updates, in nanoseconds; 0 if there were none.
    pub pause_ns: u64,
}

/// Percentiles in milliseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Percentiles {
    /// Half are at most this.
    pub p50_ms: f64,
    /// 90 % are at most this.
    pub p90_ms: f64,
    /// 99 % are at most this.
    pub p99_ms: f64,
    /// 99.9 % are at most this.
    pub p999_ms: f64,
    /// The longest.
    pub max_ms: f64,
}

impl Latency {
    /// Nothing measured yet.
    pub fn new() -> Latency {
        let histogram =
            || Histogram::new_with_bounds(1_000, LONGEST_NS, 3).expect("the bounds are valid");
        Latency { delivery_ns: histogram(), lag_ns: histogram(), pause_ns: 0 }
    }

    /// Adds what another shard measured.
    pub fn add(&mut self, other: &Latency) {
        // Both have the same bounds.
        let _ = self.delivery_ns.add(&other.delivery_ns);
        let _ = self.lag_ns.add(&other.lag_ns);
        self.pause_ns = self.pause_ns.max(other.pause_ns);
    }

    /// Why the figures mislead, if they do.
    pub fn warning(&self) -> Option<String> {
        let (delivery, lag) = (percentiles(&self.delivery_ns), percentiles(&self.lag_ns));
        (!self.delivery_ns.is_empty() && lag.p99_ms > 0.5 && lag.p99_ms > delivery.p99_ms / 4.0)
            .then(|| {
                format!(
                    "loadgen itself was late: 99 % of its updates within {:.2} ms, so the latency says \
                     more about this machine than about the server; lower --rate, or give it more CPUs",
                    lag.p99_ms
                )
            })
    }
}

/// The usual percentiles.
pub fn percentiles(histogram: &Histogram<u64>) -> Percentiles {
    let ms = |quantile| histogram.value_at_quantile(quantile) as f64 / 1e6;
    Percentiles {
        p50_ms: ms(0.5),
        p90_ms: ms(0.9),
        p99_ms: ms(0.99),
        p999_ms: ms(0.999),
        max_ms: histogram.max() as f64 / 1e6,
    }
}

/// Points of the curve by percentile: (1 / (1 - quantile), milliseconds), for a logarithmic axis.
pub fn curve(histogram: &Histogram<u64>) -> Vec<(f64, f64)> {
    if histogram.is_empty() {
        return Vec::new();
    }
    let samples = histogram.len() as f64;
    let mut points = Vec::new();
    let mut rarity = 1.0;
    while rarity <= samples.max(2.0) {
        let quantile = 1.0 - 1.0 / rarity;
        points.push((rarity, histogram.value_at_quantile(quantile) as f64 / 1e6));
        rarity *= 1.25;
    }
    points
}

#[cfg(test)]
mod tests {
    use super::*;

    fn recorded(delivery_ms: u64, lag_ms: u64) -> Latency {
        let mut latency = Latency::new();
        for _ in 0..1000 {
            latency.delivery_ns.saturating_record(delivery_ms * 1_000_000);
            latency.lag_ns.saturating_record(lag_ms * 1_000_000);
        }
        latency
    }

    #[test]
    fn a_late_generator_is_owned_up_to() {
        assert_eq!(recorded(10, 2).warning(), None);
        assert_eq!(recorded(1, 0).warning(), None);
        assert_eq!(Latency::new().warning(), None);
        let warning = recorded(10, 3).warning().unwrap();
        assert!(warning.contains("loadgen itself was late"), "{warning}");
    }

    #[test]
    fn percentiles_are_those_of_the_samples() {
        let mut latency = Latency::new();
        for n in 1..=1000u64 {
            latency.delivery_ns.saturating_record(n * 1_000_000);
        }
        let it = percentiles(&latency.delivery_ns);
        for (found, expected) in [
            (it.p50_ms, 500.0),
            (it.p90_ms, 900.0),
            (it.p99_ms, 990.0),
            (it.p999_ms, 999.0),
            (it.max_ms, 1000.0),
        ] {
            assert!((found / expected - 1.0).abs() < 0.002, "{it:?}");
        }
        let curve = curve(&latency.delivery_ns);
        assert!(curve.is_sorted_by(|a, b| a.0 < b.0 && a.1 <= b.1));
        assert!(curve.len() > 25);
    }
}
