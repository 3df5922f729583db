//! The curves: what is measured at which places, and their goals.
//!
//! Owns sizes and goals. Must never hold a figure that was measured.

use metalbond_uring_compare::binaries::Binaries;

use crate::curve::{Curve, Goal, Job, Sample, count};
use crate::in_process::{HeapBytes, Shape, heap_bytes, take_in_ns};
use crate::process::{Stages, resident_bytes_per_route};

/// How large the curves are.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Size {
    /// As they are shown.
    Full,
    /// Just enough to see that everything runs.
    Quick,
}

impl Size {
    fn pick<T>(self, full: T, quick: T) -> T {
        match self {
            Size::Full => full,
            Size::Quick => quick,
        }
    }
}

/// All curves.
pub fn curves(size: Size) -> Vec<Curve> {
    vec![
        fanout(size),
        fanout_aligned(size),
        take_in(size),
        cores(size),
        memory(size),
        memory_vnis(size),
        idle(size),
    ]
}

fn job(name: String, measure: impl Fn(&Binaries) -> anyhow::Result<Vec<Sample>> + 'static) -> Job {
    Job { name, measure: Box::new(measure) }
}

fn sample(line: impl Into<String>, x: impl Into<u64>, value: f64) -> Sample {
    Sample { line: line.into(), x: x.into(), value }
}

const CPU_PER_DELIVERY: &str = "server_cpu_us_per_delivery";

/// The same table for each of so many subscribers; and loadgen's and the server's flags.
struct Fanout {
    name: &'static str,
    title: &'static str,
    line: &'static str,
    routes: u32,
    loadgen: &'static str,
    server: &'static str,
}

impl Fanout {
    fn curve(self, subscribers: &[u32]) -> Curve {
        let Fanout { name, title, line, routes, loadgen, server } = self;
        let of = |&subscribers: &u32| {
            job(format!("{subscribers} subscribers"), move |binaries| {
                let arguments = format!(
                    "--scenario fanout --subscribers {subscribers} --routes {routes}{loadgen}"
                );
                let stages = Stages::of(binaries, server, &arguments)?;
                let us = stages.figure("announce", CPU_PER_DELIVERY)?;
                Ok(vec![sample(line, subscribers, us)])
            })
        };
        let (first, last) = first_and_last(subscribers);
        Curve {
            name,
            title,
            x_title: "subscribers of one VNI",
            y_title: "CPU of the server, us for each delivery",
            unit: "us",
            jobs: subscribers.iter().map(of).collect(),
            runs_per_round: 1,
            goals: vec![Goal::within(line, last, 1.5, first)],
        }
    }
}

fn subscribers(size: Size) -> &'static [u32] {
    size.pick(&[100, 300, 1_000, 2_000, 5_000], &[10, 50])
}

fn first_and_last(places: &[u32]) -> (u64, u64) {
    (places[0].into(), places[places.len() - 1].into())
}

fn fanout(size: Size) -> Curve {
    let fanout = Fanout {
        name: "fanout",
        title: "An update to many subscribers",
        line: "peers that reassemble",
        routes: size.pick(5_000, 100),
        loadgen: "",
        server: "--cores 1",
    };
    fanout.curve(subscribers(size))
}

fn fanout_aligned(size: Size) -> Curve {
    let fanout = Fanout {
        name: "fanout-aligned",
        title: "An update to many subscribers that read whole frames",
        line: "peers that read whole frames",
        routes: size.pick(2_000, 100),
        // Not --legacy, which bears 65,535 unread bytes only: nobody is paced here.
        loadgen: " --aligned",
        server: "--cores 1 --pace off",
    };
    fanout.curve(subscribers(size))
}

fn take_in(size: Size) -> Curve {
    let tables = size.pick(&[1_000, 10_000, 100_000, 1_000_000][..], &[1_000, 4_000]);
    let passes = size.pick(15, 2);
    let (first, last) = first_and_last(tables);
    let lines = [
        ("new routes, no subscriber", Shape::New, false),
        ("new routes, one subscriber", Shape::New, true),
        ("random routes, no subscriber", Shape::Spread, false),
        ("random routes, one subscriber", Shape::Spread, true),
    ];
    let mut jobs = Vec::new();
    for &routes in tables {
        for (line, shape, has_subscriber) in lines {
            jobs.push(job(format!("{line}, table of {}", count(routes.into())), move |_| {
                let ns = take_in_ns(routes, has_subscriber, shape, passes);
                Ok(vec![sample(line, routes, ns)])
            }));
        }
    }
    let mut goals = vec![Goal::at_most(lines[1].0, last, 250.0)];
    goals.extend(lines.map(|(line, _, _)| Goal::within(line, last, 3.0, first)));
    Curve {
        name: "take-in",
        title: "Taking an update in",
        x_title: "routes in the table",
        y_title: "CPU, ns for each update",
        unit: "ns",
        jobs,
        runs_per_round: 1,
        goals,
    }
}

fn cores(size: Size) -> Curve {
    let arguments = size.pick(
        "--scenario mesh --peers 500 --vnis 100 --vnis-per-peer 4 --routes 50",
        "--scenario mesh --peers 50 --vnis 10 --vnis-per-peer 2 --routes 20",
    );
    let jobs = [1u32, 2].map(|cores| {
        job(format!("{cores} cores"), move |binaries| {
            let stages = Stages::of(binaries, &format!("--cores {cores}"), arguments)?;
            let (mut samples, mut cpu_s, mut deliveries) = (Vec::new(), 0.0, 0.0);
            for stage in stages.with_deliveries() {
                cpu_s += stages.figure(stage, "server_cpu_s")?;
                deliveries += stages.figure(stage, "deliveries")?;
                samples.push(sample(stage, cores, stages.figure(stage, CPU_PER_DELIVERY)?));
            }
            samples.push(sample("all stages", cores, cpu_s * 1e6 / deliveries));
            Ok(samples)
        })
    });
    let lines = ["all stages", "announce", "vanish", "return"];
    Curve {
        name: "cores",
        title: "Many VNIs on more cores",
        x_title: "cores (shards)",
        y_title: "CPU of the server, us for each delivery",
        unit: "us",
        jobs: jobs.into(),
        runs_per_round: size.pick(8, 1),
        goals: lines.map(|line| Goal::within(line, 2, 1.25, 1)).into(),
    }
}

fn memory(size: Size) -> Curve {
    let tables = size.pick(&[10_000, 100_000, 1_000_000][..], &[1_000, 10_000]);
    let (_, last) = first_and_last(tables);
    let with_base = "process: table and a base, at most";
    let heap_with_base = "heap: table and a base";
    let mut jobs = Vec::new();
    for &routes in tables {
        jobs.push(job(format!("process, {} routes", count(routes.into())), move |binaries| {
            let arguments =
                format!("--scenario join --announcers 10 --routes {} --joiners 1", routes / 10);
            let stages = Stages::of(binaries, "--cores 1", &arguments)?;
            let before = stages.figure("table", "server_rss_bytes_before")?;
            let per_route = |stage: &str, field: &str| {
                let bytes = stages.figure(stage, field)? - before;
                anyhow::Ok(bytes / f64::from(routes))
            };
            // At most, since a base is made of parts that are there for a moment besides.
            Ok(vec![
                sample(with_base, routes, per_route("join", "server_rss_bytes_peak")?),
                sample("process: table", routes, per_route("table", "server_rss_bytes_after")?),
            ])
        }));
        jobs.push(job(format!("heap, {} routes", count(routes.into())), move |_| {
            let HeapBytes { tables, with_base } = heap_bytes(routes, 1);
            Ok(vec![
                sample(heap_with_base, routes, with_base),
                sample("heap: table", routes, tables),
            ])
        }));
    }
    Curve {
        name: "memory",
        title: "Memory of one VNI's table",
        x_title: "routes in the table",
        y_title: "bytes for each route",
        unit: "bytes",
        jobs,
        runs_per_round: 1,
        goals: [with_base, heap_with_base].map(|line| Goal::at_most(line, last, 250.0)).into(),
    }
}

fn memory_vnis(size: Size) -> Curve {
    let routes = size.pick(100_000, 10_000);
    let vnis = size.pick(&[1, 100, 10_000, 100_000][..], &[1, 10_000]);
    let (first, last) = first_and_last(vnis);
    let (process, heap) = ("process", "heap");
    let mut jobs = Vec::new();
    for &vnis in vnis {
        jobs.push(job(format!("process, {} VNIs", count(vnis.into())), move |binaries| {
            let bytes = resident_bytes_per_route(binaries, routes, vnis)?;
            Ok(vec![sample(process, vnis, bytes)])
        }));
        jobs.push(job(format!("heap, {} VNIs", count(vnis.into())), move |_| {
            Ok(vec![sample(heap, vnis, heap_bytes(routes, vnis).tables)])
        }));
    }
    Curve {
        name: "memory-vnis",
        title: size.pick(
            "Memory of 100,000 routes spread over VNIs",
            "Memory of 10,000 routes spread over VNIs",
        ),
        x_title: "VNIs",
        y_title: "bytes for each route",
        unit: "bytes",
        jobs,
        runs_per_round: 1,
        goals: [process, heap].map(|line| Goal::within(line, last, 2.0, first)).into(),
    }
}

fn idle(size: Size) -> Curve {
    let line = "idle peers";
    let peers = size.pick(&[1_000u32, 5_000][..], &[50, 100]);
    let jobs = peers.iter().map(|&peers| {
        job(format!("{peers} peers"), move |binaries| {
            let arguments = format!("--scenario idle --peers {peers} --duration-s 0.1");
            let stages = Stages::of(binaries, "--cores 1", &arguments)?;
            let bytes = stages.figure("connect", "server_rss_bytes_per_new_peer")?;
            Ok(vec![sample(line, peers, bytes)])
        })
    });
    Curve {
        name: "idle",
        title: "Memory of idle peers",
        x_title: "peers",
        y_title: "resident bytes for each peer",
        unit: "bytes",
        jobs: jobs.collect(),
        runs_per_round: 1,
        goals: peers.iter().map(|&peers| Goal::at_most(line, peers.into(), 6_144.0)).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn curves_have_names_jobs_and_goals() {
        for size in [Size::Full, Size::Quick] {
            let mut names: Vec<&str> = curves(size).iter().map(|it| it.name).collect();
            assert!(curves(size).iter().all(|it| it.jobs.len() > 1 && !it.goals.is_empty()));
            names.sort_unstable();
            names.dedup();
            assert_eq!(names.len(), curves(size).len(), "no file is written twice");
        }
    }
}
