//! How long things took: a histogram.
//!
//! Owns its bounds. Must never grow.

use std::time::Duration;

/// Upper bounds of the buckets, in microseconds; behind them comes one without.
pub const TIMING_BOUNDS_US: [u64; 23] = [
    1, 2, 5, 10, 20, 50, 100, 200, 500, 1_000, 2_000, 5_000, 10_000, 20_000, 50_000, 100_000,
    200_000, 500_000, 1_000_000, 2_000_000, 5_000_000, 10_000_000, 60_000_000,
];

const BUCKETS: usize = TIMING_BOUNDS_US.len() + 1;

/// How long something took each time.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Timings {
    /// How many lie in each bucket.
    buckets: [u64; BUCKETS],
    sum_us: u64,
    max_us: u64,
}

impl Timings {
    /// It took so long once more.
    pub fn note(&mut self, took: Duration) {
        let us = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        self.buckets[TIMING_BOUNDS_US.partition_point(|&bound| bound < us)] += 1;
        self.sum_us = self.sum_us.saturating_add(us);
        self.max_us = self.max_us.max(us);
    }

    /// How often.
    pub fn count(&self) -> u64 {
        self.buckets.iter().sum()
    }

    /// How long all together.
    pub fn sum(&self) -> Duration {
        Duration::from_micros(self.sum_us)
    }

    /// How long at most.
    pub fn max(&self) -> Duration {
        Duration::from_micros(self.max_us)
    }

    /// By bucket: how many took no longer than each bound of [`TIMING_BOUNDS_US`], and longer than the one before;
    /// and in the end all others.
    pub fn buckets(&self) -> &[u64] {
        &self.buckets
    }

    /// What a part, 0.0..=1.0, of them did not exceed, as exactly as buckets tell (within them evenly spread); zero
    /// if there are none.
    pub fn quantile(&self, part: f64) -> Duration {
        let rank = part.clamp(0.0, 1.0) * self.count() as f64;
        let mut before = 0;
        for (at, &bucket) in self.buckets.iter().enumerate().filter(|(_, bucket)| **bucket > 0) {
            if (before + bucket) as f64 >= rank {
                let lower = if at == 0 { 0 } else { TIMING_BOUNDS_US[at - 1] };
                let upper = TIMING_BOUNDS_US.get(at).copied().unwrap_or(lower);
                let within = ((rank - before as f64) / bucket as f64).clamp(0.0, 1.0);
                let us = lower as f64 + within * (upper - lower) as f64;
                // None took longer than the longest.
                return Duration::from_micros((us as u64).min(self.max_us));
            }
            before += bucket;
        }
        Duration::ZERO
    }

    /// What came since `earlier`, which is an earlier state of this one; but the maximum is that of all.
    #[must_use]
    pub fn since(&self, earlier: &Timings) -> Timings {
        let mut since = *self;
        for (bucket, before) in since.buckets.iter_mut().zip(earlier.buckets) {
            *bucket = bucket.saturating_sub(before);
        }
        since.sum_us = since.sum_us.saturating_sub(earlier.sum_us);
        since
    }

    /// Adds those of another.
    pub fn add(&mut self, other: &Timings) {
        for (bucket, more) in self.buckets.iter_mut().zip(other.buckets) {
            *bucket += more;
        }
        self.sum_us = self.sum_us.saturating_add(other.sum_us);
        self.max_us = self.max_us.max(other.max_us);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_bound_belongs_to_its_bucket() {
        let mut timings = Timings::default();
        assert_eq!((timings.count(), timings.quantile(0.5)), (0, Duration::ZERO));
        for (at, bound) in TIMING_BOUNDS_US.into_iter().enumerate() {
            let before = timings;
            timings.note(Duration::from_micros(bound));
            assert_eq!(timings.since(&before).buckets()[at], 1, "{bound}");
            assert_eq!(timings.since(&before).sum(), Duration::from_micros(bound));
            timings.note(Duration::from_micros(bound + 1));
            assert_eq!(timings.since(&before).buckets()[at + 1], 1, "{bound}");
        }
        timings.note(Duration::MAX);
        assert_eq!(timings.count(), 47);
        assert_eq!(timings.buckets().iter().sum::<u64>(), 47);
    }

    #[test]
    fn quantiles_lie_in_their_bucket() {
        let mut timings = Timings::default();
        for us in 1..=1_000 {
            timings.note(Duration::from_micros(us));
        }
        for (part, us) in [(0.5, 500), (0.9, 900), (0.99, 990), (1.0, 1_000)] {
            let told = timings.quantile(part).as_micros() as i64;
            assert!((told - us).abs() <= 5, "{part}: {told}");
        }
        let mut one = Timings::default();
        one.note(Duration::from_micros(13));
        assert_eq!((one.quantile(0.99), one.max()), (Duration::from_micros(13), one.sum()));
        let mut twice = timings;
        twice.add(&timings);
        assert_eq!(twice.quantile(0.9), timings.quantile(0.9));
        assert_eq!((twice.count(), twice.since(&timings)), (2_000, timings));
    }
}
