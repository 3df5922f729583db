//! What hostile peers cost the others: the medians of all rounds, compared.
//!
//! Owns the names of the stages and the comparison. Must never hide what else may have cost it: the same
//! hostile peers at another server on the same CPU show that.

use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

use crate::hostile::Hostility;
use crate::latency::Percentiles;
use crate::stage::Stage;

/// Stages without hostile peers.
pub const ALONE: &str = "alone";
/// Stages with hostile peers at another server.
pub const APART: &str = "apart";
/// Stages with hostile peers at the server that is measured.
pub const BESIDE: &str = "beside";

/// The comparison in words, a line each; none if there is nothing to compare.
pub fn summary(stages: &[Stage], hostility: Hostility) -> Option<String> {
    let of = |kind: &str| -> Option<Percentiles> {
        let latencies = stages.iter().filter(|stage| stage.stage.starts_with(kind));
        let latencies: Vec<Percentiles> = latencies.filter_map(|stage| stage.latency).collect();
        let median = |value: fn(&Percentiles) -> f64| median(latencies.iter().map(value));
        Some(Percentiles {
            p50_ms: median(|it| it.p50_ms)?,
            p99_ms: median(|it| it.p99_ms)?,
            ..Percentiles::default()
        })
    };
    let (alone, beside) = (of(ALONE)?, of(BESIDE)?);
    let (name, rounds) =
        (hostility.name(), stages.iter().filter(|one| one.stage.starts_with(BESIDE)));
    let mut text = format!(
        "{name}: p99 {:.2} ms alone, {:.2} ms beside it: {:.2} times; p50 {:.2} and {:.2} ms: {:.2} times \
         (medians of {} rounds)\n",
        alone.p99_ms,
        beside.p99_ms,
        beside.p99_ms / alone.p99_ms,
        alone.p50_ms,
        beside.p50_ms,
        beside.p50_ms / alone.p50_ms,
        rounds.clone().count(),
    );
    if let Some(apart) = of(APART) {
        text += &format!(
            "{name} at another server on the same CPU: p99 {:.2} ms, {:.2} times; p50 {:.2} ms, {:.2} times\n",
            apart.p99_ms,
            apart.p99_ms / alone.p99_ms,
            apart.p50_ms,
            apart.p50_ms / alone.p50_ms,
        );
    }
    let per_s = median(rounds.clone().filter_map(|stage| stage.hostile_per_s));
    let share =
        median(rounds.clone().filter_map(|stage| Some(stage.hostile_cpu_s? / stage.wall_s)));
    let server = median(rounds.filter_map(|stage| Some(stage.server_cpu_s? / stage.wall_s)));
    let percent = |share: Option<f64>| share.unwrap_or_default() * 100.0;
    text += &format!(
        "{name}: {:.0} a second; the hostile peers took {:.0} % of a CPU, the server {:.0} %\n",
        per_s.unwrap_or_default(),
        percent(share),
        percent(server),
    );
    Some(text)
}

/// Does `start` on the first CPU that this process may use, so that a server which it starts is there, and
/// keeps to the others afterwards. With one CPU everything is there.
pub fn on_first_cpu<T>(start: impl FnOnce() -> T) -> T {
    let Ok(all) = sched_getaffinity(None) else { return start() };
    let cpus: Vec<usize> = (0..CpuSet::MAX_CPU).filter(|&cpu| all.is_set(cpu)).collect();
    let [first, others @ ..] = &cpus[..] else { return start() };
    let only = |cpus: &[usize]| {
        let mut set = CpuSet::new();
        cpus.iter().for_each(|&cpu| set.set(cpu));
        // Not allowed: then the figures say more of the machine, and the control shows it.
        let _ = sched_setaffinity(None, &set);
    };
    if others.is_empty() {
        return start();
    }
    only(&[*first]);
    let started = start();
    only(others);
    started
}

fn median(values: impl Iterator<Item = f64>) -> Option<f64> {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stage(name: &str, p99_ms: f64) -> Stage {
        let latency = Percentiles { p50_ms: p99_ms / 2.0, p99_ms, ..Percentiles::default() };
        let hostile_per_s = name.starts_with(BESIDE).then_some(7_000.0);
        Stage {
            stage: name.to_owned(),
            latency: Some(latency),
            wall_s: 2.0,
            hostile_per_s,
            hostile_cpu_s: hostile_per_s.map(|_| 0.5),
            server_cpu_s: Some(1.0),
            ..Stage::default()
        }
    }

    #[test]
    fn medians_are_compared() {
        let stages = [
            stage("alone 1", 1.0),
            stage("beside 1", 9.0),
            stage("alone 2", 2.0),
            stage("beside 2", 3.0),
            stage("alone 3", 50.0),
            stage("beside 3", 2.5),
        ];
        let text = summary(&stages, Hostility::Garbage).unwrap();
        let words = "garbage: p99 2.00 ms alone, 3.00 ms beside it: 1.50 times; p50 1.00 and 1.50 ms: 1.50 times \
                     (medians of 3 rounds)\n";
        assert!(text.starts_with(words), "{text}");
        let words =
            "garbage: 7000 a second; the hostile peers took 25 % of a CPU, the server 50 %\n";
        assert!(text.ends_with(words), "{text}");
        assert!(!text.contains("another server"), "{text}");
        let apart = [&stages[..], &[stage("apart 1", 2.4)]].concat();
        let text = summary(&apart, Hostility::Garbage).unwrap();
        assert!(
            text.contains("at another server on the same CPU: p99 2.40 ms, 1.20 times"),
            "{text}"
        );
    }

    #[test]
    fn nothing_is_compared_without_both() {
        assert_eq!(summary(&[stage("alone 1", 1.0)], Hostility::Flood), None);
        assert_eq!(summary(&[stage("updates", 1.0)], Hostility::Flood), None);
    }
}
