//! What the runs came to: a line for each, a table, and the weak ones.
//!
//! Owns the words. Must never judge: the outcome does.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::case::{Case, Link};
use crate::world::{Limit, Outcome};

/// The share of what it can take that each reader should get.
const SHARE_MIN: f64 = 0.8;
const HEAD: &str = "link      cost   stall       runs broken overruns misaligned unfinished | limited  median   least";

/// All runs so far.
#[derive(Default)]
pub struct Report {
    all: Row,
    broken: Vec<u64>,
    hold_expiries: u64,
    closed_by_server: u64,
    /// Why cases were skipped, and how many.
    skipped: BTreeMap<String, usize>,
    /// By link, cost and stall.
    rows: BTreeMap<(&'static str, u64, &'static str), Row>,
    /// For each value of each dimension.
    by: BTreeMap<(&'static str, String), Row>,
    /// What got less than its share: that, and its line.
    weak: Vec<(f64, String)>,
    /// Server CPU and updates of the runs of one reader, by its cost.
    cpu: BTreeMap<u64, (Duration, u64)>,
}

/// What some runs came to.
#[derive(Clone, Default)]
struct Row {
    runs: usize,
    broken: usize,
    misaligned: u64,
    overruns: u64,
    unfinished: usize,
    /// Runs whose share says nothing: CPU was all used up.
    limited: usize,
    /// Of the others: the median reader's share, and the least.
    medians: Vec<f64>,
    least: Option<f64>,
}

impl Row {
    fn add(&mut self, outcome: &Outcome) {
        self.runs += 1;
        self.broken += usize::from(!outcome.held());
        self.misaligned += outcome.misaligned;
        self.overruns += outcome.overruns;
        self.unfinished += usize::from(outcome.unfinished.is_some());
        if outcome.limit.is_some() {
            self.limited += 1;
        } else if let [least, ..] = outcome.shares[..] {
            self.medians.push(median(&outcome.shares));
            self.least = Some(self.least.map_or(least, |other| other.min(least)));
        }
    }

    fn text(&self) -> String {
        let shares = self.least.map(|least| {
            let mut medians = self.medians.clone();
            medians.sort_by(f64::total_cmp);
            format!("{:5.0} % {:5.0} %", 100.0 * median(&medians), 100.0 * least)
        });
        format!(
            "{:5} {:6} {:8} {:10} {:10} | {:7} {}",
            self.runs,
            self.broken,
            self.overruns,
            self.misaligned,
            self.unfinished,
            self.limited,
            shares.unwrap_or_default()
        )
    }
}

impl Report {
    /// Takes over an outcome; returns its line.
    pub fn add(&mut self, case: &Case, outcome: Result<Outcome, String>) -> String {
        let outcome = match outcome {
            Ok(outcome) => outcome,
            Err(why) => {
                *self.skipped.entry(why.clone()).or_default() += 1;
                return format!("SKIPPED {}: {case}: {why}", case.seed);
            }
        };
        self.hold_expiries += outcome.hold_expiries;
        self.closed_by_server += outcome.closed_by_server;
        if !outcome.held() {
            self.broken.push(case.seed);
        }
        self.all.add(&outcome);
        let cost_us = case.habits.cost_ns / 1000;
        let key = (link_name(case), cost_us, case.stall_name());
        self.rows.entry(key).or_default().add(&outcome);
        for value in case.values() {
            self.by.entry(value).or_default().add(&outcome);
        }
        let only_a_dump = !(case.bursts || case.stopped || case.early || case.talk.is_some());
        if outcome.held() && only_a_dump && case.readers == 1 {
            let (cpu, updates) = self.cpu.entry(cost_us).or_default();
            *cpu += outcome.server_cpu;
            *updates += outcome.updates;
        }
        let line = line(case, &outcome);
        if let Some(&least) = outcome.shares.first()
            && least < SHARE_MIN
        {
            self.weak.push((least, line.clone()));
        }
        line
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
            self.all.runs,
            self.broken.len(),
            self.all.misaligned,
            self.all.overruns,
            self.all.unfinished,
            self.hold_expiries,
            self.closed_by_server
        );
        for (why, count) in &self.skipped {
            text += &format!("SKIPPED {count} runs: {why}\n");
        }
        for (cost_us, (cpu, updates)) in &self.cpu {
            let us = cpu.as_secs_f64() * 1e6 / (*updates).max(1) as f64;
            text += &format!("  {cost_us} us a route, one reader: server CPU {us:.2} us a route\n");
        }
        text
    }

    /// All that is known.
    pub fn tables(&self) -> String {
        let mut text = String::from(
            "The share is of what a reader can take of the table: the time that it needs (1 us a route at least), or the \
             way (64 KiB a round trip, TCP's rate at the path's loss), by the time that it took. \"limited\" are runs \
             whose share is left out: the shard had work for 80 % of the time, or a CPU was waited for 10 % of it.\n",
        );
        text += &format!("{HEAD}\n");
        for ((link, cost_us, stall), row) in &self.rows {
            text += &format!("{link:8} {cost_us:3} us  {stall:11}{}\n", row.text());
        }
        for ((name, value), row) in &self.by {
            text += &format!("{:26}{}\n", format!("{name} {}", value.trim()), row.text());
        }
        text += &format!("{:26}{}\n", "all", self.all.text());
        let mut weak = self.weak.clone();
        weak.sort_by(|one, other| one.0.total_cmp(&other.0));
        text += &format!("Weak, the least share below 80 %: {} runs\n", weak.len());
        weak.iter().for_each(|(_, line)| text += &format!("  {line}\n"));
        text
    }
}

fn median(ascending: &[f64]) -> f64 {
    ascending[ascending.len() / 2]
}

fn link_name(case: &Case) -> &'static str {
    match case.link {
        Link::Loopback => "loopback",
        Link::Veth(_) => "veth",
        Link::Routed(_) => "router",
        Link::Path(_) => "path",
    }
}

fn line(case: &Case, outcome: &Outcome) -> String {
    let wall_s = outcome.wall.as_secs_f64();
    let mut line = format!("{}: {case}: {wall_s:.1} s", case.seed);
    if let [least, ..] = outcome.shares[..] {
        let median = median(&outcome.shares);
        line += &format!(", share {:.0} / {:.0} %", least * 100.0, median * 100.0);
    }
    line += match outcome.limit {
        Some(Limit::Shard) => " (shard busy)",
        Some(Limit::Machine) => " (CPU busy)",
        None => "",
    };
    if !case.way_needs().is_zero() && case.way_needs() > case.needs() {
        line += " (of the way's)";
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
