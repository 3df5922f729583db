//! What the runs came to: a line for each, and counts.
//!
//! Owns the words. Must never judge: the outcome does.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::case::{Case, Link};
use crate::world::Outcome;

/// All runs so far.
#[derive(Default)]
pub struct Report {
    runs: usize,
    broken: Vec<u64>,
    misaligned: u64,
    overruns: u64,
    hold_expiries: u64,
    closed_by_server: u64,
    unfinished: usize,
    /// Why cases were skipped, and how many.
    skipped: BTreeMap<String, usize>,
    /// Runs and broken ones, for each value of each dimension.
    by: BTreeMap<String, (usize, usize)>,
    /// The lowest share of each run that has nothing but a dump, by the readers' cost.
    shares: BTreeMap<u64, Vec<f64>>,
    /// Server CPU and updates of the runs of one reader, by its cost.
    cpu: BTreeMap<u64, (Duration, u64)>,
}

impl Report {
    /// Takes over an outcome; returns its line.
    pub fn add(&mut self, case: &Case, outcome: Result<Outcome, String>) -> String {
        let seed = case.seed;
        let outcome = match outcome {
            Ok(outcome) => outcome,
            Err(why) => {
                *self.skipped.entry(why.clone()).or_default() += 1;
                return format!("SKIPPED {seed}: {case}: {why}");
            }
        };
        self.runs += 1;
        self.misaligned += outcome.misaligned;
        self.overruns += outcome.overruns;
        self.hold_expiries += outcome.hold_expiries;
        self.closed_by_server += outcome.closed_by_server;
        self.unfinished += usize::from(outcome.unfinished.is_some());
        let held = outcome.held();
        if !held {
            self.broken.push(seed);
        }
        for key in keys(case) {
            let (runs, broken) = self.by.entry(key).or_default();
            *runs += 1;
            *broken += usize::from(!held);
        }
        let cost_us = case.habits.cost_ns / 1000;
        let only_a_dump = !(case.bursts || case.stopped || case.early);
        if held
            && only_a_dump
            && let Some(&least) = outcome.shares.first()
        {
            self.shares.entry(cost_us).or_default().push(least);
        }
        if held && only_a_dump && case.readers == 1 {
            let (cpu, updates) = self.cpu.entry(cost_us).or_default();
            *cpu += outcome.server_cpu;
            *updates += outcome.updates;
        }
        line(case, &outcome)
    }

    /// The seeds of the runs that broke.
    pub fn broken(&self) -> Vec<u64> {
        let mut broken = self.broken.clone();
        broken.sort_unstable();
        broken
    }

    /// All in a few lines.
    pub fn summary(&self) -> String {
        let mut text = format!(
            "{} runs, {} broke: {} misaligned reads, {} overruns, {} unfinished; {} hold times ran out, the server \
             closed {} connections\n",
            self.runs,
            self.broken.len(),
            self.misaligned,
            self.overruns,
            self.unfinished,
            self.hold_expiries,
            self.closed_by_server
        );
        for (why, count) in &self.skipped {
            text += &format!("SKIPPED {count} runs: {why}\n");
        }
        if !self.broken.is_empty() {
            for (key, (runs, broken)) in &self.by {
                text += &format!("  {key}: {broken} of {runs} broke\n");
            }
        }
        for (cost_us, shares) in &self.shares {
            let mut shares = shares.clone();
            shares.sort_by(f64::total_cmp);
            let percent = |share: f64| share * 100.0;
            let (least, median) = (percent(shares[0]), percent(shares[shares.len() / 2]));
            text += &format!(
                "  {cost_us} us a route: lowest share of a dump {least:.0} %, median {median:.0} % ({} runs)\n",
                shares.len()
            );
        }
        for (cost_us, (cpu, updates)) in &self.cpu {
            let us = cpu.as_secs_f64() * 1e6 / (*updates).max(1) as f64;
            text += &format!("  {cost_us} us a route, one reader: server CPU {us:.2} us a route\n");
        }
        text
    }
}

fn keys(case: &Case) -> Vec<String> {
    let link = match case.link {
        Link::Loopback => "link loopback".to_owned(),
        Link::Veth { mtu, .. } => format!("link veth {mtu}"),
        Link::Path(_) => "link path".to_owned(),
    };
    let cost_us = case.habits.cost_ns / 1000;
    let buffer = match case.receive_buffer {
        None => "default",
        Some(bytes) if bytes > 100_000 => "4 MiB",
        Some(_) => "6-80 KB",
    };
    let stall = case.habits.stall.to_string();
    let stall = stall.split(" at ").next().unwrap_or_default();
    let mut keys = vec![
        link,
        format!("cost {cost_us:3} us"),
        format!("readers {:4}", case.readers),
        format!("routes {:6}", case.routes),
        format!("rcvbuf {buffer}"),
        format!("stall {}", stall.split(" each").next().unwrap_or_default()),
    ];
    let marks = [
        (case.early, "with early readers"),
        (case.bursts, "with bursts"),
        (case.talking, "with talking readers"),
        (case.stopped, "with a stop of 1 s"),
    ];
    keys.extend(marks.iter().filter(|(set, _)| *set).map(|(_, mark)| (*mark).to_owned()));
    keys
}

fn line(case: &Case, outcome: &Outcome) -> String {
    let wall_s = outcome.wall.as_secs_f64();
    let mut line = format!("{}: {case}: {wall_s:.1} s", case.seed);
    if let [least, ..] = outcome.shares[..] {
        let median = outcome.shares[outcome.shares.len() / 2];
        line += &format!(", share {:.0} / {:.0} %", least * 100.0, median * 100.0);
    }
    let us = outcome.server_cpu.as_secs_f64() * 1e6 / outcome.updates.max(1) as f64;
    line += &format!(", {us:.2} us CPU");
    for (count, what) in [
        (outcome.redundant, "redundant"),
        (outcome.hold_expiries, "hold times ran out"),
        (outcome.closed_by_server, "closed by the server"),
        (outcome.misaligned, "MISALIGNED"),
        (outcome.overruns, "OVERRUNS"),
    ] {
        if count > 0 {
            line += &format!(", {count} {what}");
        }
    }
    if let Some(words) = &outcome.unfinished {
        line += &format!(", UNFINISHED: {words}");
    }
    if !outcome.findings.is_empty() {
        line += &format!(" [{}]", outcome.findings.join("; "));
    }
    line + if outcome.held() { ": held" } else { ": BROKE" }
}
