//! So many log lines of a kind, then counts: what anybody can provoke must not fill a disk.
//!
//! Owns the kinds and their rations. Must never hold back `debug` and `trace`, which were asked for.
//!
//! A kind is a place in the code, and the reason that is given there.

use std::collections::BTreeMap;
use std::fmt;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use metalbond_uring::internals::shard::STRANGERS;
use metalbond_uring::types::Time;
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::Context;

/// Kinds beyond which quiet ones are forgotten; reasons come from a closed set, so there are far fewer.
const KINDS_MAX: usize = 1024;

/// How many lines of a kind are written, and when the others are counted.
#[derive(Clone, Copy, Debug)]
struct Allowance {
    /// Lines before counting begins.
    lines: u32,
    /// From there to the first count; doubled each time up to `interval_max`.
    interval: Duration,
    interval_max: Duration,
    /// Whether a count gives new lines; if not, only a quiet interval does.
    renewed: bool,
}

/// What somebody who never had a session can provoke.
const STRANGER: Allowance = Allowance {
    lines: 10,
    interval: Duration::from_secs(10),
    interval_max: Duration::from_secs(600),
    renewed: false,
};

/// Anything else: a fleet that comes back at once is hundreds of lines.
const ORDINARY: Allowance = Allowance {
    lines: 40,
    interval: Duration::from_secs(10),
    interval_max: Duration::from_secs(600),
    renewed: true,
};

/// The log's target for the counts themselves, which are never held back.
pub const COUNTS: &str = "metalbond_uring";

/// A filter of log lines. Clones share their state.
#[derive(Clone, Debug)]
pub struct Ration {
    kinds: Arc<Mutex<BTreeMap<u64, Kind>>>,
    start: Instant,
}

/// What was left out of a kind.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LeftOut {
    /// The kind's level.
    pub level: Level,
    /// How many lines.
    pub lines: u64,
    /// What they say.
    pub words: String,
}

#[derive(Debug)]
struct Kind {
    allowance: Allowance,
    level: Level,
    /// Its first line, without what was special to it.
    words: String,
    lines_left: u32,
    left_out: u64,
    interval: Duration,
    count_at: Time,
}

impl Ration {
    /// Nothing was written yet.
    #[allow(clippy::disallowed_methods)] // the program's log has a clock of its own
    pub fn new() -> Ration {
        Ration { kinds: Arc::default(), start: Instant::now() }
    }

    /// What was left out and is to be told now.
    pub fn due(&self) -> Vec<LeftOut> {
        let now = self.now();
        self.kinds().values_mut().filter_map(|kind| kind.due(now)).collect()
    }

    fn now(&self) -> Time {
        Time::default().after(self.start.elapsed())
    }

    fn kinds(&self) -> MutexGuard<'_, BTreeMap<u64, Kind>> {
        self.kinds.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<S: Subscriber> Layer<S> for Ration {
    fn event_enabled(&self, event: &Event<'_>, _: Context<'_, S>) -> bool {
        let metadata = event.metadata();
        if *metadata.level() > Level::INFO || metadata.target() == COUNTS {
            return true;
        }
        let mut reason = Text { name: "reason", text: String::new() };
        event.record(&mut reason);
        let mut hasher = DefaultHasher::new();
        (metadata.callsite(), &reason.text).hash(&mut hasher);
        let allowance = if metadata.target() == STRANGERS { STRANGER } else { ORDINARY };
        let now = self.now();
        let mut kinds = self.kinds();
        let key = hasher.finish();
        if kinds.len() >= KINDS_MAX && !kinds.contains_key(&key) {
            kinds.retain(|_, kind| !kind.is_quiet(now));
        }
        let level = *metadata.level();
        let new = || {
            let mut message = Text { name: "message", text: String::new() };
            event.record(&mut message);
            let words = [message.text, reason.text].into_iter().filter(|text| !text.is_empty());
            Kind::new(allowance, level, words.collect::<Vec<_>>().join(": "))
        };
        let kind = kinds.entry(key).or_insert_with(new);
        kind.permits(now)
    }
}

impl Kind {
    fn new(allowance: Allowance, level: Level, words: String) -> Kind {
        let Allowance { lines, interval, .. } = allowance;
        let (lines_left, count_at) = (lines, Time::NEVER);
        Kind { allowance, level, words, lines_left, left_out: 0, interval, count_at }
    }

    /// Whether an interval has passed without a line too many.
    fn is_quiet(&self, now: Time) -> bool {
        now >= self.count_at && self.left_out == 0
    }

    fn permits(&mut self, now: Time) -> bool {
        if self.count_at == Time::NEVER {
            self.count_at = now.after(self.interval);
        } else if self.is_quiet(now) {
            *self = Kind::new(self.allowance, self.level, std::mem::take(&mut self.words));
            self.count_at = now.after(self.interval);
        }
        let permits = self.lines_left > 0;
        self.lines_left = self.lines_left.saturating_sub(1);
        self.left_out += u64::from(!permits);
        permits
    }

    fn due(&mut self, now: Time) -> Option<LeftOut> {
        if now < self.count_at || self.left_out == 0 {
            return None;
        }
        let lines = std::mem::take(&mut self.left_out);
        self.interval = (self.interval * 2).min(self.allowance.interval_max);
        self.count_at = now.after(self.interval);
        if self.allowance.renewed {
            self.lines_left = self.allowance.lines;
        }
        Some(LeftOut { level: self.level, lines, words: self.words.clone() })
    }
}

/// One field of an event as text.
struct Text {
    name: &'static str,
    text: String,
}

impl Visit for Text {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        if field.name() == self.name {
            self.text = format!("{value:?}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Time {
        Time::default().after(Duration::from_secs(seconds))
    }

    #[test]
    fn a_flood_is_counted_at_growing_intervals() {
        let mut kind = Kind::new(STRANGER, Level::INFO, "bad input".into());
        let mut lines = Vec::new();
        for second in 0..3600 {
            for _ in 0..5 {
                if kind.permits(at(second)) {
                    lines.push(0);
                }
            }
            lines.extend(kind.due(at(second)).map(|left_out| left_out.lines));
        }
        assert_eq!(lines[..10], [0; 10], "the first ones as they come");
        assert_eq!(lines[10..13], [45, 100, 200], "10, 20, 40 s");
        assert!(lines.len() < 24, "{lines:?}");
        assert!(lines[10..].iter().sum::<u64>() > 5 * 3_000);
    }

    #[test]
    fn after_a_quiet_time_lines_are_written_again() {
        let mut kind = Kind::new(STRANGER, Level::INFO, String::new());
        assert_eq!((0..100).filter(|_| kind.permits(at(1))).count(), 10);
        assert_eq!(kind.due(at(10)), None);
        assert_eq!(kind.due(at(11)).map(|left_out| left_out.lines), Some(90));
        assert_eq!(kind.due(at(1000)), None, "nothing came");
        assert!(kind.permits(at(1000)));
        // One now and then is never held back.
        assert!((1..100).all(|n| kind.permits(at(1000 + 20 * n))));
    }

    #[test]
    fn ordinary_lines_come_back_with_each_count() {
        let mut kind = Kind::new(ORDINARY, Level::INFO, String::new());
        assert_eq!((0..100).filter(|_| kind.permits(at(1))).count(), 40);
        assert_eq!(kind.due(at(11)).map(|left_out| left_out.lines), Some(60));
        assert_eq!((0..100).filter(|_| kind.permits(at(11))).count(), 40);
    }
}
