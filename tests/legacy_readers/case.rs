//! The cases of the matrix: one seed decides one of them.
//!
//! Owns what may come together, and how long a run can take. Must never know how a case is run.

use std::fmt;
use std::time::Duration;

use crate::pipeline::{Habits, Stall};
use crate::rng::Rng;

/// What readers and server have between them.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Link {
    Loopback,
    Veth { mtu: u32, segments_offloaded: bool },
    Path(Path),
}

/// A path in user space. Chances are of 10,000 packets, in either direction.
#[derive(Clone, Copy, PartialEq, Debug, Default)]
pub struct Path {
    pub delay_us: u64,
    pub lost: usize,
    pub doubled: usize,
    pub reordered: usize,
    /// Packets may have so many bytes from half a second on.
    pub mtu_falls_to: Option<usize>,
}

/// One run.
#[derive(Clone, PartialEq, Debug)]
pub struct Case {
    pub seed: u64,
    pub link: Link,
    pub readers: usize,
    pub routes: usize,
    pub habits: Habits,
    /// SO_RCVBUF; None: the kernel's own, which grows.
    pub receive_buffer: Option<usize>,
    /// Readers are there before the table is announced.
    pub early: bool,
    /// Bursts of updates go on while the readers are fed.
    pub bursts: bool,
    /// Readers announce while they are fed.
    pub talking: bool,
    /// All readers stand for a second while 2,000 updates a second go on.
    pub stopped: bool,
    pub keepalive_s: u32,
}

/// How much time a run may need.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Extent {
    /// Some seconds: for each `cargo test`.
    Sample,
    /// Up to minutes.
    Large,
}

const MS: u64 = 1_000_000;

impl Case {
    /// The case of a seed.
    pub fn new(seed: u64, extent: Extent) -> Case {
        let mut rng = Rng::new(seed);
        // What matters most comes in turn, so that a few seeds show each of it.
        let cost_us = [0, 10, 50, 200, 300][(seed % 5) as usize];
        let link = match seed % 4 {
            0 => Link::Loopback,
            1 | 2 => Link::Veth {
                mtu: [1280, 1500, 9000][rng.below(3)],
                segments_offloaded: rng.chance(50),
            },
            _ => Link::Path(path(&mut rng)),
        };
        let mut readers = [1, 1, 1, 1, 1, 1, 50, 50, 50, 1000][rng.below(10)];
        if matches!(link, Link::Path(_)) {
            readers = readers.min(50);
        }
        let tables: &[usize] = match extent {
            Extent::Sample => &[1_000, 5_000, 20_000, 50_000],
            Extent::Large => &[1_000, 20_000, 100_000, 300_000],
        };
        let (time_s, deliveries) = match extent {
            Extent::Sample => (2.5, 1_000_000),
            Extent::Large => (100.0, 6_000_000),
        };
        let mut fitting: Vec<usize> = tables.to_vec();
        fitting.retain(|&routes| {
            routes as f64 * cost_us as f64 / 1e6 <= time_s && routes * readers <= deliveries
        });
        let routes = fitting.get(rng.below(fitting.len())).copied().unwrap_or(tables[0]);
        let stall = stall(&mut rng, routes, extent);
        let receive_buffer = match rng.below(6) {
            0 | 1 => Some(6_000 + rng.below(74_000)),
            2 => Some(4 << 20),
            _ => None,
        };
        Case {
            seed,
            link,
            readers,
            routes,
            habits: Habits { cost_ns: cost_us * 1000, stall },
            receive_buffer,
            early: rng.chance(25),
            bursts: rng.chance(30),
            talking: rng.chance(25),
            stopped: rng.chance(15),
            // Whoever stands for so long hears no KEEPALIVE, and needs a longer hold time.
            keepalive_s: if stall.longest_ns() > 10_000 * MS { 20 } else { 5 },
        }
    }

    /// What its reader needs for the table if it is never kept waiting.
    pub fn needs(&self) -> Duration {
        let work_ns = self.routes as u64 * self.habits.cost_ns;
        let stalls_ns = match self.habits.stall {
            Stall::None => 0,
            Stall::Once { ns, .. } => ns,
            Stall::Each { updates, ns } => self.routes as u64 / updates * ns,
            Stall::Collector => self.routes as u64 / 4_000 * 40 * MS,
        };
        Duration::from_nanos(work_ns + stalls_ns + if self.stopped { 1000 * MS } else { 0 })
    }

    /// Whether it takes the machine for itself.
    pub fn alone(&self) -> bool {
        self.readers * self.routes > 400_000 || self.readers > 100
    }

    /// When it has failed. Generous: a slow path takes its time, and so does a busy machine.
    pub fn deadline(&self) -> Duration {
        let slowest_per_s = 2_000.0;
        let fed = Duration::from_secs_f64(self.routes as f64 / slowest_per_s);
        Duration::from_secs(60) + 4 * self.needs() + fed
    }
}

fn path(rng: &mut Rng) -> Path {
    let lossy = |rng: &mut Rng, most| if rng.chance(60) { rng.below(most) } else { 0 };
    Path {
        delay_us: [100, 300, 1_000, 5_000, 25_000][rng.below(5)],
        lost: lossy(rng, 200),
        doubled: lossy(rng, 200),
        reordered: lossy(rng, 500),
        mtu_falls_to: rng.chance(30).then(|| 1280 + rng.below(200)),
    }
}

fn stall(rng: &mut Rng, routes: usize, extent: Extent) -> Stall {
    let at = 1 + rng.below(routes / 2) as u64;
    match rng.below(if extent == Extent::Large { 6 } else { 5 }) {
        0 => Stall::None,
        1 => Stall::Each { updates: 20_000.min(routes as u64 / 4), ns: 50 * MS },
        2 => Stall::Collector,
        3 | 4 => Stall::Once { at, ns: 2_000 * MS },
        _ => Stall::Once { at, ns: 30_000 * MS },
    }
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.link {
            Link::Loopback => write!(f, "loopback")?,
            Link::Veth { mtu, segments_offloaded } => {
                write!(f, "veth {mtu}{}", if segments_offloaded { "" } else { " no TSO" })?;
            }
            Link::Path(path) => {
                write!(f, "path {} us", path.delay_us)?;
                for (of_10_000, what) in
                    [(path.lost, "lost"), (path.doubled, "doubled"), (path.reordered, "reordered")]
                {
                    if of_10_000 > 0 {
                        write!(f, " {:.2} % {what}", of_10_000 as f64 / 100.0)?;
                    }
                }
                if let Some(mtu) = path.mtu_falls_to {
                    write!(f, " MTU falls to {mtu}")?;
                }
            }
        }
        let cost_us = self.habits.cost_ns / 1000;
        write!(f, ", {} x {} routes, {cost_us} us each", self.readers, self.routes)?;
        write!(f, ", stall {}", self.habits.stall)?;
        match self.receive_buffer {
            Some(bytes) => write!(f, ", rcvbuf {bytes}")?,
            None => write!(f, ", rcvbuf default")?,
        }
        let marks = [
            (self.early, "early"),
            (self.bursts, "bursts"),
            (self.talking, "talking"),
            (self.stopped, "stopped"),
        ];
        marks.iter().filter(|(set, _)| *set).try_for_each(|(_, mark)| write!(f, ", {mark}"))
    }
}
