//! How the Go client takes what it is sent, in time: a reader, a channel of 100 updates, and an applier that takes
//! its time for each.
//!
//! Owns the times and the judgement of a read. Must never look at a clock, wait, or know a socket: whoever
//! emulates the client sleeps until [`Pipeline::next_read_ns`].

use std::collections::VecDeque;
use std::fmt;

/// The client's buffer. A read that fills it is an error.
pub const BUFFER_BYTES: usize = 65_535;
/// Updates that wait between reader and applier. The reader stands while there are so many.
const CHANNEL: usize = 100;
/// A collector's pause: how many updates apart, and how long, at most.
const COLLECTOR_EVERY_MAX: u64 = 8_000;
const COLLECTOR_NS_MAX: u64 = 80_000_000;

/// What a client takes for its updates.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Habits {
    /// Time for each update, in nanoseconds.
    pub cost_ns: u64,
    /// What it takes besides, now and then.
    pub stall: Stall,
}

/// When a client stands still.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub enum Stall {
    /// Never.
    #[default]
    None,
    /// The applier, once, at an update of this number, for so many nanoseconds.
    Once {
        /// The number.
        at: u64,
        /// How long.
        ns: u64,
    },
    /// The applier, each time after so many updates.
    Each {
        /// How many.
        updates: u64,
        /// How long.
        ns: u64,
    },
    /// The whole client, at random, as for a garbage collector: up to 80 ms, on average after 4,000 updates.
    Collector,
}

impl Stall {
    /// The longest single stall, in nanoseconds.
    pub fn longest_ns(self) -> u64 {
        match self {
            Stall::None => 0,
            Stall::Once { ns, .. } | Stall::Each { ns, .. } => ns,
            Stall::Collector => COLLECTOR_NS_MAX,
        }
    }
}

impl fmt::Display for Stall {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ms = |ns: u64| ns / 1_000_000;
        match *self {
            Stall::None => f.write_str("none"),
            Stall::Once { at, ns } => write!(f, "{} ms at update {at}", ms(ns)),
            Stall::Each { updates, ns } => write!(f, "{} ms each {updates} updates", ms(ns)),
            Stall::Collector => f.write_str("gc"),
        }
    }
}

/// A read that a Go client does not survive.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fault {
    /// It ended inside a frame.
    Misaligned {
        /// Bytes read.
        bytes: usize,
    },
    /// As much was waiting as the buffer holds, or more.
    Overrun {
        /// Bytes that waited.
        bytes: usize,
    },
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Fault::Misaligned { bytes } => write!(
                f,
                "a read of {bytes} bytes ended inside a frame (legacy peers cannot reassemble)"
            ),
            Fault::Overrun { bytes } => write!(
                f,
                "{bytes} bytes waited, and a read filled the buffer of {BUFFER_BYTES} bytes (legacy peers give up)"
            ),
        }
    }
}

/// Judges a read: how many bytes waited before it, how many it brought, and how many of those are of a frame
/// that has not come whole.
pub fn fault(waiting_bytes: usize, read_bytes: usize, rest_bytes: usize) -> Option<Fault> {
    let bytes = waiting_bytes.max(read_bytes);
    if bytes >= BUFFER_BYTES {
        return Some(Fault::Overrun { bytes });
    }
    (rest_bytes > 0).then_some(Fault::Misaligned { bytes: read_bytes })
}

/// One connection of a client.
#[derive(Debug)]
pub struct Pipeline {
    habits: Habits,
    random: u64,
    /// When the applier took, or takes, the latest updates: as many as the channel holds.
    taken_ns: VecDeque<u64>,
    /// The reader's own time: it is free from then on.
    reader_ns: u64,
    /// The applier's: it is done with all.
    applier_ns: u64,
    updates: u64,
    pause_at: u64,
    /// When the first update came that counts for the share, and what the applier has worked since.
    begun_ns: Option<u64>,
    busy_ns: u64,
}

impl Pipeline {
    /// A client that has read nothing.
    pub fn new(habits: Habits, seed: u64) -> Pipeline {
        let mut pipeline = Pipeline {
            habits,
            random: seed,
            taken_ns: VecDeque::new(),
            reader_ns: 0,
            applier_ns: 0,
            updates: 0,
            pause_at: 0,
            begun_ns: None,
            busy_ns: 0,
        };
        pipeline.pause_at = pipeline.below(COLLECTOR_EVERY_MAX);
        pipeline
    }

    /// A read returned at this time; what it brought follows.
    pub fn read(&mut self, now_ns: u64) {
        self.reader_ns = self.reader_ns.max(now_ns);
    }

    /// The next update of the read, put into the channel when there is room.
    #[inline]
    pub fn update(&mut self) {
        self.updates += 1;
        self.begun_ns.get_or_insert(self.reader_ns);
        if self.habits == Habits::default() {
            self.applier_ns = self.reader_ns;
            return;
        }
        if self.taken_ns.len() >= CHANNEL {
            let oldest = self.taken_ns.pop_front().unwrap_or_default();
            self.reader_ns = self.reader_ns.max(oldest);
        }
        let taken_ns = self.applier_ns.max(self.reader_ns);
        let (work_ns, whole) = self.work();
        self.taken_ns.push_back(taken_ns);
        self.applier_ns = taken_ns + work_ns;
        self.busy_ns += work_ns;
        if whole {
            self.reader_ns = self.reader_ns.max(self.applier_ns);
        }
    }

    /// The whole client stands still from now on, for so long.
    pub fn stop(&mut self, now_ns: u64, duration_ns: u64) {
        for time in [&mut self.reader_ns, &mut self.applier_ns] {
            *time = (*time).max(now_ns) + duration_ns;
        }
        self.busy_ns += duration_ns;
    }

    /// When the reader can read again.
    pub fn next_read_ns(&self) -> u64 {
        self.reader_ns
    }

    /// Counts the share anew.
    pub fn count_anew(&mut self) {
        (self.begun_ns, self.busy_ns) = (None, 0);
    }

    /// The share of its time that the applier has worked, from the first update to the end of the last: 1 if
    /// the client was fed as fast as it can take it. None if it took no time, or nothing came.
    pub fn share(&self) -> Option<f64> {
        let (busy_ns, passed_ns) = self.times_ns()?;
        (busy_ns > 0 && passed_ns > 0).then(|| busy_ns as f64 / passed_ns as f64)
    }

    /// For how long the applier has worked, of what time: from the first update to the end of the last.
    pub fn times_ns(&self) -> Option<(u64, u64)> {
        Some((self.busy_ns, self.applier_ns.saturating_sub(self.begun_ns?)))
    }

    /// What the update in hand takes, and whether the whole client stands meanwhile.
    fn work(&mut self) -> (u64, bool) {
        let Habits { cost_ns, stall } = self.habits;
        match stall {
            Stall::Once { at, ns } if self.updates == at => (cost_ns + ns, false),
            Stall::Each { updates, ns } if self.updates.is_multiple_of(updates) => {
                (cost_ns + ns, false)
            }
            Stall::Collector if self.updates >= self.pause_at => {
                self.pause_at = self.updates + 1 + self.below(COLLECTOR_EVERY_MAX);
                (cost_ns + 1_000_000 + self.below(COLLECTOR_NS_MAX - 1_000_000), true)
            }
            _ => (cost_ns, false),
        }
    }

    /// splitmix64, so that runs can be repeated.
    fn below(&mut self, bound: u64) -> u64 {
        self.random = self.random.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.random;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (z ^ (z >> 31)) % bound
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(pipeline: &mut Pipeline, now_ns: u64, updates: usize) -> u64 {
        pipeline.read(now_ns);
        (0..updates).for_each(|_| pipeline.update());
        pipeline.next_read_ns()
    }

    #[test]
    fn what_the_go_client_would_not_survive() {
        assert_eq!(fault(100, 100, 0), None);
        assert_eq!(fault(65_534, 65_534, 0), None);
        assert_eq!(fault(65_535, 65_535, 0), Some(Fault::Overrun { bytes: 65_535 }));
        // What waited counts, and what came between asking and reading.
        assert_eq!(fault(70_000, 65_535, 7), Some(Fault::Overrun { bytes: 70_000 }));
        assert_eq!(fault(60_000, 65_535, 0), Some(Fault::Overrun { bytes: 65_535 }));
        assert_eq!(fault(100, 100, 3), Some(Fault::Misaligned { bytes: 100 }));
    }

    #[test]
    fn the_reader_is_a_channel_ahead_of_the_applier() {
        let habits = Habits { cost_ns: 10, stall: Stall::None };
        let mut pipeline = Pipeline::new(habits, 1);
        // One in hand and 100 in the channel: no wait.
        assert_eq!(read(&mut pipeline, 1000, 101), 1000);
        // The next one has to wait until one is done, and so on.
        assert_eq!(read(&mut pipeline, 1000, 1), 1010);
        assert_eq!(read(&mut pipeline, 1000, 5), 1060);
        // Late reads find an idle applier.
        assert_eq!(read(&mut pipeline, 9000, 1), 9000);
        assert_eq!(read(&mut pipeline, 9000, 101), 9010);
    }

    #[test]
    fn a_stalled_applier_stops_the_reader() {
        let stall = Stall::Once { at: 50, ns: 5000 };
        let mut pipeline = Pipeline::new(Habits { cost_ns: 0, stall }, 1);
        assert_eq!(read(&mut pipeline, 100, 149), 100);
        assert_eq!(read(&mut pipeline, 100, 1), 100);
        assert_eq!(read(&mut pipeline, 200, 1), 5100);
        let stall = Stall::Each { updates: 200, ns: 70 };
        let mut pipeline = Pipeline::new(Habits { cost_ns: 0, stall }, 1);
        assert_eq!(read(&mut pipeline, 0, 1000), 4 * 70);
    }

    #[test]
    fn a_collector_stops_all_now_and_then() {
        let habits = Habits { cost_ns: 0, stall: Stall::Collector };
        let mut pipeline = Pipeline::new(habits, 3);
        let stood_ns = read(&mut pipeline, 0, 400_000);
        assert!((2_000_000_000..8_000_000_000).contains(&stood_ns), "{stood_ns}");
    }

    #[test]
    fn who_is_fed_in_time_has_the_whole_share() {
        let mut pipeline = Pipeline::new(Habits { cost_ns: 10, stall: Stall::None }, 1);
        assert_eq!(pipeline.share(), None);
        read(&mut pipeline, 1000, 500);
        assert_eq!(pipeline.share(), Some(1.0));
        // Idle as long as it worked.
        read(&mut pipeline, 1000 + 2 * 5000, 500);
        assert!((pipeline.share().unwrap() - 2.0 / 3.0).abs() < 0.01);
        pipeline.count_anew();
        assert_eq!(pipeline.share(), None);
    }

    #[test]
    fn a_stopped_client_reads_nothing() {
        let mut pipeline = Pipeline::new(Habits::default(), 1);
        pipeline.stop(100, 50);
        assert_eq!(pipeline.next_read_ns(), 150);
        assert_eq!(read(&mut pipeline, 150, 1000), 150);
    }
}
