//! `/history.json`: the last minutes, so that who opens the page sees how it came to this.
//!
//! Owns the samples and their shape. Must never ask a shard for more than what it has counted.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use serde::Serialize;
use tokio::time::Instant;

use super::View;
use super::answer::{Content, Refusal};
use super::query::Filter;
use super::totals::Shards;
use crate::shard::Timings;

/// From one sample to the next.
const INTERVAL: Duration = Duration::from_secs(2);
/// Samples that are kept: ten minutes.
const SAMPLES_MAX: usize = 300;

/// The samples.
#[derive(Default)]
pub(super) struct History(Mutex<Samples>);

#[derive(Default)]
struct Samples {
    kept: VecDeque<Sample>,
    /// The number of the last one; 0 if there is none.
    last: u64,
}

/// What happened in one interval, and how things stood at its end.
#[derive(Clone, Serialize)]
struct Sample {
    number: u64,
    unix_time_ms: i64,
    updates_received_per_s: f64,
    updates_sent_per_s: f64,
    routes: usize,
    propagation_us: Option<Propagation>,
}

/// From the read that brought an update to the SEND that carries it; none if there was none.
#[derive(Clone, Serialize)]
struct Propagation {
    p50: u64,
    p99: u64,
}

#[derive(Serialize)]
struct Answer {
    interval_s: u64,
    /// The number of the last sample: lower than one had before, the node was started anew.
    last: u64,
    samples: Vec<Sample>,
}

/// What all shards have counted.
#[derive(Default)]
struct Counted {
    updates_received: u64,
    updates_sent: u64,
    routes: usize,
    propagation: Timings,
}

/// The samples that are newer than the filter says, the oldest first.
pub(super) fn history(view: &View, filter: &Filter) -> Content {
    let samples = view.history.0.lock().unwrap_or_else(PoisonError::into_inner);
    let after = filter.after.unwrap_or(0);
    let newer = samples.kept.iter().filter(|sample| sample.number > after);
    Content::json(&Answer {
        interval_s: INTERVAL.as_secs(),
        last: samples.last,
        samples: newer.cloned().collect(),
    })
}

/// Takes samples for as long as the node runs.
pub(super) async fn keep(view: &View) {
    let mut ticks = tokio::time::interval(INTERVAL);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut before: Option<(Instant, Counted)> = None;
    loop {
        ticks.tick().await;
        // The node is shutting down: nobody will ask.
        let Ok(counted) = counted(view).await else { return std::future::pending().await };
        let now = Instant::now();
        if let Some((then, earlier)) = &before {
            view.history.push(sample(earlier, &counted, now.duration_since(*then)));
        }
        before = Some((now, counted));
    }
}

async fn counted(view: &View) -> Result<Counted, Refusal> {
    let shards = Shards::collect(view).await?;
    Ok(Counted {
        updates_received: shards.counted(|it| it.updates_received),
        updates_sent: shards.counted(|it| it.updates_sent),
        routes: shards.held(|it| it.routes),
        propagation: shards.propagation(),
    })
}

fn sample(earlier: &Counted, now: &Counted, time: Duration) -> Sample {
    let rate = |before: u64, after: u64| {
        let per_s = after.saturating_sub(before) as f64 / time.as_secs_f64();
        (per_s * 10.0).round() / 10.0
    };
    let propagation = now.propagation.since(&earlier.propagation);
    let within = |part| u64::try_from(propagation.quantile(part).as_micros()).unwrap_or(u64::MAX);
    Sample {
        number: 0,
        unix_time_ms: jiff::Timestamp::now().as_millisecond(),
        updates_received_per_s: rate(earlier.updates_received, now.updates_received),
        updates_sent_per_s: rate(earlier.updates_sent, now.updates_sent),
        routes: now.routes,
        propagation_us: (propagation.count() > 0)
            .then(|| Propagation { p50: within(0.5), p99: within(0.99) }),
    }
}

impl History {
    fn push(&self, mut sample: Sample) {
        let mut samples = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        samples.last += 1;
        sample.number = samples.last;
        if samples.kept.len() == SAMPLES_MAX {
            samples.kept.pop_front();
        }
        samples.kept.push_back(sample);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_are_of_their_interval_and_the_oldest_go() {
        let history = History::default();
        let mut propagation = Timings::default();
        let mut before = Counted { routes: 7, ..Counted::default() };
        for number in 0..1_000 {
            let mut now = Counted { updates_received: before.updates_received + number, ..before };
            now.updates_sent += 2 * number;
            // In every other interval one update, slower each time.
            if number % 2 == 0 {
                propagation.note(Duration::from_millis(number));
                now.propagation = propagation;
            }
            history.push(sample(&before, &now, Duration::from_millis(2_500)));
            before = now;
        }
        let samples = history.0.lock().unwrap();
        assert_eq!((samples.kept.len(), samples.last), (SAMPLES_MAX, 1_000));
        let oldest = &samples.kept[0];
        assert_eq!((oldest.number, oldest.routes), (701, 7));
        // 700 in 2.5 s.
        assert_eq!((oldest.updates_received_per_s, oldest.updates_sent_per_s), (280.0, 560.0));
        // Only what took so long in this interval.
        let told = oldest.propagation_us.as_ref().unwrap();
        assert!((500_000..=1_000_000).contains(&told.p50), "{}", told.p50);
        assert!(samples.kept[1].propagation_us.is_none());
    }
}
