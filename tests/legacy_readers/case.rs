//! The cases of the matrix: one seed decides one of them.
//!
//! Owns what may come together, and how long a run can take. Must never know how a case is run.

use std::fmt;
use std::time::Duration;

use crate::pipeline::{Habits, Stall};
use crate::rng::Rng;
use crate::table;

/// What readers and server have between them.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Link {
    Loopback,
    Veth(Veth),
    /// Two veth pairs, and a router between them.
    Routed(Veth),
    Path(Path),
}

#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Veth {
    pub mtu: u32,
    pub segments_offloaded: bool,
}

/// A path in user space. Chances are of 10,000 packets, in either direction.
#[derive(Clone, Copy, PartialEq, Debug, Default)]
pub struct Path {
    pub delay_us: u64,
    pub lost: usize,
    pub doubled: usize,
    pub reordered: usize,
}

/// The way's MTU falls.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Fall {
    pub to: u32,
    /// When all readers together have so many updates.
    pub after_updates: u64,
}

/// What readers announce while they are fed.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Talk {
    /// Routes of a VNI that nobody subscribes to.
    Elsewhere,
    /// Routes of the table that all of them get.
    OnTheTable,
}

/// One run.
#[derive(Clone, PartialEq, Debug)]
pub struct Case {
    pub seed: u64,
    pub link: Link,
    pub is_ipv4: bool,
    pub falls: Option<Fall>,
    pub readers: usize,
    pub routes: usize,
    pub habits: Habits,
    /// SO_RCVBUF; None: the kernel's own, which grows.
    pub receive_buffer: Option<usize>,
    /// Readers are there before the table is announced.
    pub early: bool,
    /// Bursts of updates go on while the readers are fed.
    pub bursts: bool,
    pub talk: Option<Talk>,
    /// All readers stand for a second while 2,000 updates a second go on.
    pub stopped: bool,
    pub keepalive_s: u32,
    /// The server lets segments be as long as the way takes them.
    pub long_segments: bool,
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
/// What a reader takes for a route that takes "no time": that of the emulation itself.
const FREE_NS: u64 = 1_000;
/// What server and reader together take for an update, at least.
const DELIVERY_CPU_S: f64 = 0.5e-6;
/// What a Go client reads at once: so much can be under way to it, and no more, within a round trip.
const UNREAD_BYTES_MAX: f64 = 65_535.0;

impl Case {
    /// The case of a seed.
    pub fn new(seed: u64, extent: Extent) -> Case {
        let mut rng = Rng::new(seed);
        // What matters most comes in turn, so that a few seeds show each of it.
        let cost_us = [0, 10, 50, 200, 300][(seed % 5) as usize];
        let link = link(&mut rng, seed % 8);
        let readers = match extent {
            Extent::Sample if matches!(link, Link::Path(_)) => pick(&mut rng, &[(80, 1), (20, 50)]),
            Extent::Sample => pick(&mut rng, &[(77, 1), (20, 50), (3, 1000)]),
            Extent::Large => pick(&mut rng, &[(71, 1), (25, 50), (4, 1000)]),
        };
        let routes = routes(&mut rng, extent, cost_us, readers, link);
        let stall = stall(&mut rng, routes, extent);
        // Small ones show a missing gate: few runs have to be enough for that.
        let more_bytes = if extent == Extent::Large { 74_000 } else { 24_000 };
        let receive_buffer = match rng.below(6) {
            0 | 1 => Some(6_000 + rng.below(more_bytes)),
            2 => Some(4 << 20),
            _ => None,
        };
        let is_ipv4 = rng.chance(40);
        let falls_percent = match link {
            Link::Loopback | Link::Veth(_) => 0,
            Link::Routed(_) => 80,
            Link::Path(_) => 35,
        };
        let falls = rng.chance(falls_percent).then(|| {
            // To the least in half of them.
            let range = pick(&mut rng, &[(1, 1), (1, 120)]);
            Fall {
                to: 1280 + rng.below(range) as u32,
                after_updates: rng.below(routes * readers * 9 / 10) as u64,
            }
        });
        Case {
            seed,
            link,
            is_ipv4,
            falls,
            readers,
            routes,
            habits: Habits { cost_ns: cost_us * 1000, stall },
            receive_buffer,
            early: rng.chance(25),
            bursts: rng.chance(30),
            talk: pick(
                &mut rng,
                &[(70, None), (12, Some(Talk::Elsewhere)), (18, Some(Talk::OnTheTable))],
            ),
            stopped: rng.chance(15),
            // Whoever stands for so long hears no KEEPALIVE, and needs a longer hold time.
            keepalive_s: if stall.longest_ns() > 10_000 * MS { 20 } else { 5 },
            long_segments: rng.chance(25),
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

    /// The least time in which the table can get to a reader over this way, whoever sends it: no more than the
    /// reader's buffers hold in a round trip, and where packets are lost no more than TCP keeps under way
    /// (1.22 / sqrt(loss) segments, Mathis et al. 1997).
    pub fn way_needs(&self) -> Duration {
        let bytes = self.routes as f64 * table::frame_bytes_mean();
        let Link::Path(path) = self.link else { return Duration::ZERO };
        let round_trip_s = 2.0 * path.delay_us as f64 / 1e6;
        let buffer = self.receive_buffer.map_or(UNREAD_BYTES_MAX, |bytes| bytes as f64);
        let mut window = buffer.min(UNREAD_BYTES_MAX);
        if path.lost > 0 {
            window = window.min(1_188.0 * 1.22 / (path.lost as f64 / 10_000.0).sqrt());
        }
        Duration::from_secs_f64(bytes / window * round_trip_s)
    }

    /// How long it is likely to take: on a way that doubles packets a proof takes many round trips.
    pub fn expected(&self) -> Duration {
        let round_trips = match self.link {
            Link::Path(path) if path.doubled > 0 || self.talk.is_some() => 30,
            _ => 3,
        };
        self.needs() + round_trips * self.way_needs()
    }

    /// What a reader of no cost takes for the table all the same.
    pub fn free_reader_needs(&self) -> Duration {
        let is_free = self.habits.cost_ns == 0;
        Duration::from_nanos(if is_free { self.routes as u64 * FREE_NS } else { 0 })
    }

    /// Whether the table stays as it is.
    pub fn is_calm(&self) -> bool {
        !self.bursts && !self.stopped
    }

    /// Updates a second that a reader can be told beside the table, so that a run ends: a long way takes few.
    pub fn live_per_s_max(&self) -> usize {
        match self.link {
            Link::Path(path) => 10_000_000 / path.delay_us as usize,
            _ => usize::MAX,
        }
    }

    /// Whether it takes the machine for itself.
    pub fn alone(&self) -> bool {
        let deliveries = self.readers * self.routes;
        let cpu_s = deliveries as f64 * DELIVERY_CPU_S;
        self.readers > 100 || (deliveries > 400_000 && cpu_s > 0.2 * self.needs().as_secs_f64())
    }

    /// When it has failed. Generous: a slow path takes its time, and so does a busy machine.
    pub fn deadline(&self) -> Duration {
        let slowest_per_s = 2_000.0;
        let fed = Duration::from_secs_f64(self.routes as f64 / slowest_per_s);
        // On a bad path each frame may go alone.
        let times = if let Link::Path(_) = self.link { 100.0 } else { 10.0 };
        let deliveries = (self.readers * self.routes) as f64;
        let cpu = Duration::from_secs_f64(times * DELIVERY_CPU_S * deliveries);
        let ways = 40 * self.way_needs() + 4 * self.proofs_need();
        Duration::from_secs(60) + 4 * self.needs() + fed + ways + cpu
    }

    /// What the proofs of a table take on a path that doubles packets: what a duplicate brings may be unseen, so each
    /// proof begins with 18 frames that go alone, and three are begun until none of their packets, nor of the
    /// reader's own, is lost or doubled. No more than 4 KiB are unread meanwhile.
    fn proofs_need(&self) -> Duration {
        let Link::Path(path) = self.link else { return Duration::ZERO };
        if path.doubled == 0 {
            return Duration::ZERO;
        }
        let proofs = self.routes as f64 * table::frame_bytes_mean() / 4_096.0;
        let round_trip_s = 2.0 * path.delay_us as f64 / 1e6;
        Duration::from_secs_f64(proofs * 3.0 * 20.0 * round_trip_s)
    }

    /// What is drawn, in words: a dimension and a value each.
    pub fn values(&self) -> Vec<(&'static str, String)> {
        let link = match self.link {
            Link::Loopback => "loopback".to_owned(),
            Link::Veth(Veth { mtu, .. }) => format!("veth {mtu}"),
            Link::Routed(_) => "router".to_owned(),
            Link::Path(_) => "path".to_owned(),
        };
        let buffer = match self.receive_buffer {
            None => "default",
            Some(bytes) if bytes > 100_000 => "4 MiB",
            Some(_) => "6-80 KB",
        };
        let talk = match self.talk {
            None => "none",
            Some(Talk::Elsewhere) => "elsewhere",
            Some(Talk::OnTheTable) => "on the table",
        };
        let yes = |is: bool| if is { "yes" } else { "no" }.to_owned();
        let mut values = vec![
            ("link", link),
            ("IP", if self.is_ipv4 { "v4" } else { "v6" }.to_owned()),
            ("cost", format!("{:3} us", self.habits.cost_ns / 1000)),
            ("stall", self.stall_name().to_owned()),
            ("readers", format!("{:4}", self.readers)),
            ("routes", format!("{:6}", self.routes)),
            ("rcvbuf", buffer.to_owned()),
            ("talk", talk.to_owned()),
            ("early", yes(self.early)),
            ("bursts", yes(self.bursts)),
            ("stop of 1 s", yes(self.stopped)),
            ("long segments", yes(self.long_segments)),
        ];
        match self.link {
            Link::Loopback => {}
            Link::Veth(veth) | Link::Routed(veth) => {
                values.push(("TSO", yes(veth.segments_offloaded)));
            }
            Link::Path(path) => {
                let some = |chance| yes(chance > 0);
                values.push(("path's delay", format!("{:5} us", path.delay_us)));
                values.push(("path loses", some(path.lost)));
                values.push(("path doubles", some(path.doubled)));
                values.push(("path reorders", some(path.reordered)));
            }
        }
        if matches!(self.link, Link::Routed(_) | Link::Path(_)) {
            values.push(("MTU falls", yes(self.falls.is_some())));
        }
        values
    }

    /// The kind of its stall.
    pub fn stall_name(&self) -> &'static str {
        match self.habits.stall {
            Stall::None => "none",
            Stall::Each { .. } => "50 ms each",
            Stall::Collector => "gc",
            Stall::Once { ns, .. } if ns > 10_000 * MS => "30 s",
            Stall::Once { ns, .. } if ns > 2_000 * MS => "8 s",
            Stall::Once { .. } => "2 s",
        }
    }
}

/// One of these, by weight.
fn pick<T: Copy>(rng: &mut Rng, of: &[(usize, T)]) -> T {
    let mut at = rng.below(of.iter().map(|(weight, _)| weight).sum());
    for &(weight, value) in of {
        if at < weight {
            return value;
        }
        at -= weight;
    }
    unreachable!("below the sum of all weights")
}

fn link(rng: &mut Rng, kind: u64) -> Link {
    let mtu = [1280, 1500, 9000][rng.below(3)];
    let veth = Veth { mtu, segments_offloaded: rng.chance(50) };
    match kind {
        0 => Link::Loopback,
        1 => Link::Veth(Veth { mtu: 1280, ..veth }),
        3 => Link::Veth(Veth { mtu: 1500, ..veth }),
        5 => Link::Veth(Veth { mtu: 9000, ..veth }),
        7 => Link::Routed(Veth { mtu: mtu.max(1500), ..veth }),
        _ => Link::Path(path(rng)),
    }
}

fn path(rng: &mut Rng) -> Path {
    let some = |rng: &mut Rng, most| if rng.chance(60) { rng.below(most) } else { 0 };
    Path {
        delay_us: pick(rng, &[(25, 100), (25, 300), (25, 1_000), (15, 5_000), (13, 25_000)]),
        lost: some(rng, 200),
        doubled: some(rng, 200),
        reordered: some(rng, 500),
    }
}

/// How many routes the table has: what a run of this extent has time for.
fn routes(rng: &mut Rng, extent: Extent, cost_us: u64, readers: usize, link: Link) -> usize {
    let tables: &[(usize, usize)] = match (extent, readers) {
        (Extent::Sample, _) => &[(30, 1_000), (30, 5_000), (25, 20_000), (15, 50_000)],
        (Extent::Large, 1) => &[(42, 1_000), (40, 20_000), (13, 100_000), (5, 300_000)],
        (Extent::Large, 50) => &[(52, 1_000), (30, 20_000), (13, 100_000), (5, 300_000)],
        (Extent::Large, _) => &[(66, 1_000), (16, 20_000), (9, 100_000), (9, 300_000)],
    };
    let (time_s, deliveries) = match extent {
        Extent::Sample => (2.5, 1_000_000),
        Extent::Large => (100.0, 300_000_000),
    };
    // A path's one thread carries each packet.
    let deliveries = match (extent, link) {
        (Extent::Sample, Link::Path(_)) => deliveries / 10,
        (Extent::Large, Link::Path(_)) => deliveries / 15,
        _ => deliveries,
    };
    // Some round trips for each proof.
    let way_us = match link {
        Link::Path(path) => path.delay_us as f64 * if path.lost > 0 { 0.03 } else { 0.01 },
        _ => 0.0,
    };
    let is_short = |routes: usize| {
        let took_s = routes as f64 * (cost_us as f64).max(way_us) / 1e6;
        took_s <= time_s && routes * readers <= deliveries
    };
    let fitting: Vec<_> = tables.iter().copied().filter(|&(_, routes)| is_short(routes)).collect();
    if fitting.is_empty() { tables[0].1 } else { pick(rng, &fitting) }
}

fn stall(rng: &mut Rng, routes: usize, extent: Extent) -> Stall {
    let at = 1 + rng.below(routes / 2) as u64;
    let (long_weight, long_s) = if extent == Extent::Large { (7, 30) } else { (5, 8) };
    let long = Stall::Once { at, ns: long_s * 1_000 * MS };
    let each = Stall::Each { updates: 20_000.min(routes as u64 / 4), ns: 50 * MS };
    let once = Stall::Once { at, ns: 2_000 * MS };
    let stalls =
        [(22, Stall::None), (22, each), (22, Stall::Collector), (28, once), (long_weight, long)];
    pick(rng, &stalls)
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let offload = |veth: Veth| if veth.segments_offloaded { "" } else { " no TSO" };
        match self.link {
            Link::Loopback => write!(f, "loopback")?,
            Link::Veth(veth) => write!(f, "veth {}{}", veth.mtu, offload(veth))?,
            Link::Routed(veth) => write!(f, "router {}{}", veth.mtu, offload(veth))?,
            Link::Path(path) => {
                write!(f, "path {} us", path.delay_us)?;
                for (of_10_000, what) in
                    [(path.lost, "lost"), (path.doubled, "doubled"), (path.reordered, "reordered")]
                {
                    if of_10_000 > 0 {
                        write!(f, " {:.2} % {what}", of_10_000 as f64 / 100.0)?;
                    }
                }
            }
        }
        write!(f, " {}", if self.is_ipv4 { "v4" } else { "v6" })?;
        if let Some(fall) = self.falls {
            write!(f, " MTU falls to {} after {} updates", fall.to, fall.after_updates)?;
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
            (self.talk == Some(Talk::Elsewhere), "talking"),
            (self.talk == Some(Talk::OnTheTable), "talking on the table"),
            (self.stopped, "stopped"),
            (self.long_segments, "long segments"),
        ];
        marks.iter().filter(|(set, _)| *set).try_for_each(|(_, mark)| write!(f, ", {mark}"))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    /// Values that cannot come together: they would take hours, or mean nothing.
    const NEVER: &[(&str, &str)] = &[("routes 300000", "path's delay 25000 us")];

    #[test]
    fn a_thousand_large_cases_have_each_value_with_each_other() {
        let words = |case: Case| {
            let values = case.values().into_iter();
            values.map(|(name, value)| (name, format!("{name} {}", value.trim()))).collect()
        };
        let cases: Vec<Vec<(&str, String)>> =
            (0..1_000).map(|seed| words(Case::new(seed, Extent::Large))).collect();
        let all: BTreeSet<_> = cases.iter().flatten().cloned().collect();
        assert!(all.len() > 45, "{all:?}");
        let mut pairs = BTreeSet::new();
        for case in &cases {
            for one in case {
                pairs.extend(case.iter().map(|other| (one.clone(), other.clone())));
            }
        }
        let on_a_way = |name: &str| {
            let ways = ["TSO", "path's delay", "path loses", "path doubles", "path reorders"];
            name == "link" || name == "MTU falls" || ways.contains(&name)
        };
        let missing = all.iter().flat_map(|one| all.iter().map(move |other| (one, other)));
        let missing = missing.filter(|(one, other)| {
            one.0 < other.0 && !(on_a_way(one.0) && on_a_way(other.0)) && {
                let pair = ((*one).clone(), (*other).clone());
                let is_never = NEVER
                    .iter()
                    .any(|&(a, b)| (one.1 == a && other.1 == b) || (one.1 == b && other.1 == a));
                !is_never && !pairs.contains(&pair)
            }
        });
        let missing: Vec<_> = missing.map(|(one, other)| (&one.1, &other.1)).collect();
        assert!(missing.is_empty(), "{} pairs do not come: {missing:?}", missing.len());
    }

    #[test]
    fn the_sample_has_each_kind() {
        let cases = || (0..crate::SAMPLE).map(|seed| Case::new(seed, Extent::Sample));
        let values = |of: fn(&Case) -> bool| cases().filter(of).count();
        let large: BTreeSet<_> =
            (0..1_000).flat_map(|seed| Case::new(seed, Extent::Large).values()).collect();
        let sample: BTreeSet<_> = cases().flat_map(|case| case.values()).collect();
        let missing: Vec<_> = large.difference(&sample).collect();
        let is_large =
            |name: &str, value: &str| name == "routes" || (name == "stall" && value == "30 s");
        assert!(missing.iter().all(|(name, value)| is_large(name, value)), "{missing:?}");
        for is_ipv4 in [true, false] {
            let falls = cases().filter(|case| case.falls.is_some() && case.is_ipv4 == is_ipv4);
            assert!(falls.count() >= 3);
        }
        assert!(values(|case| case.alone()) >= 3);
    }
}
