//! What a run says at its end: a table for people, or one JSON object a line for each stage.
//!
//! Owns the layout. Must never compute a figure: the record has them.

use indicatif::{HumanBytes, HumanCount};

use crate::stage::Stage;
use crate::upgrade;

const TITLES: [&str; 10] = [
    "stage",
    "time s",
    "delivered",
    "per s",
    "p50 ms",
    "p99 ms",
    "p99.9 ms",
    "server us",
    "own us",
    "server RSS",
];

/// What the titles mean.
pub const LEGEND: &str = "server us: CPU of the server for each delivered update; own us: CPU of loadgen for each \
                      update sent or received";

/// One JSON object a line.
pub fn json(stages: &[Stage]) -> String {
    let line = |stage| serde_json::to_string(stage).expect("a stage has plain fields only") + "\n";
    stages.iter().map(line).collect()
}

/// The cells of the table: titles first.
pub fn cells(stages: &[Stage]) -> Vec<Vec<String>> {
    let titles = TITLES.iter().map(|title| (*title).to_owned()).collect();
    std::iter::once(titles).chain(stages.iter().map(row)).collect()
}

/// The table, what spoils its figures, and the verdict.
pub fn table(stages: &[Stage], findings: &[String], failure: Option<&str>) -> String {
    let cells = cells(stages);
    let widths: Vec<usize> = (0..TITLES.len())
        .map(|column| cells.iter().map(|row| row[column].len()).max().unwrap_or_default())
        .collect();
    let mut text = String::new();
    for row in &cells {
        for (column, (cell, &width)) in row.iter().zip(&widths).enumerate() {
            // Names to the left, numbers to the right.
            if column == 0 {
                text += &format!("{cell:width$}");
            } else {
                text += &format!("  {cell:>width$}");
            }
        }
        text += "\n";
    }
    text += &format!("({LEGEND})\n");
    text += &memory(stages).unwrap_or_default();
    text += &shares(stages);
    text += &upgrade::summary(stages);
    text += &restarts(stages);
    text += &warnings(stages);
    text + &verdict(stages, findings, failure)
}

/// What spoils the figures, a line each.
pub fn warnings(stages: &[Stage]) -> String {
    let of = |stage: &Stage| -> String {
        let line = |warning| format!("warning: {}: {warning}\n", stage.stage);
        stage.warnings.iter().map(line).collect()
    };
    stages.iter().map(of).collect()
}

/// How well receivers were fed that need time for what they read, a line for each stage.
pub fn shares(stages: &[Stage]) -> String {
    let of = |stage: &Stage| {
        let (least, median) = (stage.receiver_share_min?, stage.receiver_share_median?);
        let (least, median) = (least * 100.0, median * 100.0);
        Some(format!(
            "{}: receivers got at least {least:.0} % of what they can take, median {median:.0} %\n",
            stage.stage
        ))
    };
    stages.iter().filter_map(of).collect()
}

/// The restart in words, in a line.
pub fn restarts(stages: &[Stage]) -> String {
    let line = |stage: &Stage| {
        let (returned, away_s) = (stage.returned, stage.away_s?);
        let peers = if returned == 1 { "connection was" } else { "connections were" };
        let others = match stage.disturbed {
            0 => "nobody else was told anything of it".to_owned(),
            1 => "others were told of it by 1 update".to_owned(),
            n => format!("others were told of it by {n} updates"),
        };
        Some(format!("{}: {returned} {peers} back after {away_s:.3} s; {others}\n", stage.stage))
    };
    stages.iter().filter_map(line).collect()
}

/// The server's memory in a line, if it is known.
pub fn memory(stages: &[Stage]) -> Option<String> {
    let before = HumanBytes(stages.first()?.server_rss_bytes_before?);
    let peak = HumanBytes(stages.iter().filter_map(|stage| stage.server_rss_bytes_peak).max()?);
    let mut line = format!("server memory: {before} before the run, {peak} at most");
    // The first stage that connects peers: later ones find memory that was used before.
    let connecting = stages.iter().find(|stage| stage.server_rss_bytes_per_new_peer.is_some());
    if let Some(stage) = connecting {
        let bytes = stage.server_rss_bytes_per_new_peer.unwrap_or_default();
        line += &format!(", {bytes:.0} bytes for each peer in stage {}", stage.stage);
    }
    Some(line + "\n")
}

/// Whether all went well, and if not, what did not.
pub fn verdict(stages: &[Stage], findings: &[String], failure: Option<&str>) -> String {
    let deliveries: u64 = stages.iter().map(|stage| stage.deliveries).sum();
    let faults = fault_counts(stages);
    let mut text = String::new();
    if let Some(failure) = failure {
        text += &format!("FAILED: {failure}\n");
    }
    if !faults.is_empty() {
        text += &format!("WRONG: {}\n", faults.join(", "));
    }
    if text.is_empty() && deliveries == 0 {
        return "OK: no update was to be delivered, and none came\n".to_owned();
    }
    if text.is_empty() {
        let deliveries = HumanCount(deliveries);
        return format!("OK: {deliveries} updates verified, every view was right\n");
    }
    for finding in findings {
        text += &format!("  {finding}\n");
    }
    text
}

/// Counts of what was wrong, in words.
fn fault_counts(stages: &[Stage]) -> Vec<String> {
    let sum = |field: fn(&Stage) -> u64| stages.iter().map(field).sum::<u64>();
    let counts = [
        (sum(|stage| stage.missing), "missing"),
        (sum(|stage| stage.stale), "stale"),
        (sum(|stage| stage.duplicate), "duplicate"),
        (sum(|stage| stage.unexpected), "unexpected"),
        (sum(|stage| stage.wrong), "wrong"),
        (sum(|stage| stage.echoed), "own routes that came back"),
        (sum(|stage| stage.unaligned_reads), "unaligned reads"),
        (sum(|stage| stage.overruns), "of them overruns"),
        (sum(|stage| stage.hold_expiries), "hold times that ran out"),
        (sum(|stage| stage.resets), "resets"),
        (sum(|stage| stage.disturbed), "updates that told others of the restart"),
    ];
    let found = counts.into_iter().filter(|(count, _)| *count > 0);
    found.map(|(count, what)| format!("{} {what}", HumanCount(count))).collect()
}

fn row(stage: &Stage) -> Vec<String> {
    let dash = || "-".to_owned();
    let ms = |value: Option<f64>| value.map_or_else(dash, |ms| format!("{ms:.2}"));
    let latency = stage.latency;
    let delivered = stage.deliveries > 0;
    let failed = if stage.ok { "" } else { " (FAILED)" };
    vec![
        format!("{}{failed}", stage.stage),
        format!("{:.3}", stage.wall_s),
        if delivered { HumanCount(stage.deliveries).to_string() } else { dash() },
        if delivered { HumanCount(stage.deliveries_per_s as u64).to_string() } else { dash() },
        ms(latency.map(|it| it.p50_ms)),
        ms(latency.map(|it| it.p99_ms)),
        ms(latency.map(|it| it.p999_ms)),
        stage.server_cpu_us_per_delivery.map_or_else(dash, |us| format!("{us:.3}")),
        match stage.generator_cpu_us_per_update {
            Some(us) if delivered => format!("{us:.3}"),
            _ => dash(),
        },
        stage.server_rss_bytes_peak.map_or_else(dash, |bytes| HumanBytes(bytes).to_string()),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stage() -> Stage {
        Stage { stage: "announce".to_owned(), ok: true, deliveries: 12_345, ..Stage::default() }
    }

    #[test]
    fn all_right() {
        let text = table(&[stage()], &[], None);
        assert!(text.contains("12,345"), "{text}");
        assert!(text.ends_with("OK: 12,345 updates verified, every view was right\n"), "{text}");
        let json = json(&[stage(), stage()]);
        assert_eq!(json.lines().count(), 2);
        assert!(!text.contains("server memory"), "not known: {text}");
        let value: serde_json::Value = serde_json::from_str(json.lines().next().unwrap()).unwrap();
        assert_eq!(value["deliveries"], 12_345);
    }

    #[test]
    fn a_run_that_verified_nothing_says_so() {
        let idle = Stage { deliveries: 0, ..stage() };
        let words = "OK: no update was to be delivered, and none came\n";
        assert_eq!(verdict(&[idle], &[], None), words);
    }

    #[test]
    fn memory_is_told_where_it_is_known() {
        let mut stage = stage();
        stage.server_rss_bytes_before = Some(4 << 20);
        stage.server_rss_bytes_peak = Some(24 << 20);
        stage.server_rss_bytes_per_new_peer = Some(3899.4);
        let words =
            "server memory: 4.00 MiB before the run, 24.00 MiB at most, 3899 bytes for each peer";
        assert!(table(&[stage], &[], None).contains(words));
    }

    #[test]
    fn shares_are_told_where_receivers_need_time() {
        assert_eq!(shares(&[stage()]), "");
        let mut stage = stage();
        (stage.receiver_share_min, stage.receiver_share_median) = (Some(0.81), Some(0.957));
        let words = "announce: receivers got at least 81 % of what they can take, median 96 %\n";
        assert!(table(&[stage], &[], None).contains(words));
    }

    #[test]
    fn a_restart_is_told_in_words() {
        let mut stage = Stage { stage: "restart".to_owned(), returned: 12, ..Stage::default() };
        assert_eq!(restarts(&[stage.clone()]), "");
        stage.away_s = Some(1.25);
        let words = "restart: 12 connections were back after 1.250 s; nobody else was told anything of it\n";
        assert_eq!(restarts(&[stage.clone()]), words);
        (stage.disturbed, stage.returned) = (3, 1);
        let words =
            "restart: 1 connection was back after 1.250 s; others were told of it by 3 updates\n";
        assert_eq!(restarts(&[stage]), words);
    }

    #[test]
    fn what_is_wrong_is_named() {
        let bad = Stage { ok: false, duplicate: 2, wrong: 1, ..stage() };
        let text = table(&[stage(), bad], &["peer 7 got a duplicate".to_owned()], Some("why"));
        assert!(text.contains("announce (FAILED)"), "{text}");
        let end = "FAILED: why\nWRONG: 2 duplicate, 1 wrong\n  peer 7 got a duplicate\n";
        assert!(text.ends_with(end), "{text}");
    }

    #[test]
    fn rows_have_a_cell_for_each_title() {
        assert!(cells(&[stage()]).iter().all(|row| row.len() == TITLES.len()));
    }
}
