//! What came out: medians, spread and ratios, as text and as JSON.
//!
//! Owns the arithmetic. Must never mix runs of different stages or servers.

use metalbond_uring_compare::summary::{Summary, aligned};
use serde_json::{Value, json};

use crate::setting::Setting;

/// A figure of a stage: loadgen's field, the title in the table, and a factor for its unit.
struct Figure {
    pointer: &'static str,
    title: &'static str,
    factor: f64,
}

const FIGURES: [Figure; 5] = [
    Figure { pointer: "/server_cpu_us_per_delivery", title: "CPU us/delivery", factor: 1.0 },
    Figure { pointer: "/server_cpu_s", title: "CPU s", factor: 1.0 },
    Figure { pointer: "/wall_s", title: "wall s", factor: 1.0 },
    Figure { pointer: "/latency/p99_ms", title: "p99 ms", factor: 1.0 },
    Figure { pointer: "/server_rss_bytes_peak", title: "RSS MiB", factor: 1.0 / 1_048_576.0 },
];

/// All runs of one stage against one server: the values of each figure, and failures.
#[derive(Clone, Default)]
struct Runs {
    values: [Vec<f64>; FIGURES.len()],
}

struct Row {
    scenario: &'static str,
    setting: Setting,
    stage: String,
    has_deliveries: bool,
    runs: Vec<Runs>,
}

/// The runs so far.
pub struct Report {
    servers: Vec<String>,
    rounds: u32,
    rows: Vec<Row>,
    failures: Vec<Failure>,
}

struct Failure {
    scenario: &'static str,
    setting: Setting,
    server: usize,
    why: String,
}

impl Report {
    /// No runs of these servers; the first one is what the others are compared with.
    pub fn new(servers: impl Iterator<Item = String>, rounds: u32) -> Report {
        Report { servers: servers.collect(), rounds, rows: Vec::new(), failures: Vec::new() }
    }

    /// Takes the stages of a run of the server with this number.
    pub fn take(
        &mut self,
        scenario: &'static str,
        setting: Setting,
        server: usize,
        stages: &[Value],
    ) {
        for stage in stages {
            let name = stage["stage"].as_str().unwrap_or_default();
            let found = self.rows.iter().position(|it| {
                it.scenario == scenario && it.setting == setting && it.stage == name
            });
            let at = found.unwrap_or_else(|| {
                let runs = vec![Runs::default(); self.servers.len()];
                let stage = name.to_owned();
                self.rows.push(Row { scenario, setting, stage, has_deliveries: false, runs });
                self.rows.len() - 1
            });
            let row = &mut self.rows[at];
            row.has_deliveries |= stage["deliveries"].as_u64().unwrap_or_default() > 0;
            for (values, figure) in row.runs[server].values.iter_mut().zip(&FIGURES) {
                let value = stage.pointer(figure.pointer).and_then(Value::as_f64);
                values.extend(value.map(|value| value * figure.factor));
            }
        }
    }

    /// A run failed: its figures do not count.
    pub fn fail(&mut self, scenario: &'static str, setting: Setting, server: usize, why: &str) {
        self.failures.push(Failure { scenario, setting, server, why: why.to_owned() });
    }

    /// Whether a run of the server with this number failed.
    pub fn has_failed(&self, server: usize) -> bool {
        self.failures.iter().any(|it| it.server == server)
    }

    /// The table: a block for each figure.
    pub fn text(&self) -> String {
        let mut text = String::new();
        for (figure, Figure { title, .. }) in FIGURES.iter().enumerate() {
            let rows: Vec<Vec<String>> =
                self.rows.iter().filter_map(|row| self.cells(row, figure)).collect();
            if !rows.is_empty() {
                let mut titles = vec![(*title).to_owned()];
                for (at, server) in self.servers.iter().enumerate() {
                    titles.push(server.clone());
                    titles.extend((at > 0).then(|| "times ours".to_owned()));
                }
                text += &aligned(&[vec![titles], rows].concat());
                text += "\n";
            }
        }
        text += &format!(
            "Medians of {} interleaved runs, lowest and highest in brackets; each with a fresh server process.\n",
            self.rounds
        );
        for Failure { scenario, setting, server, why } in &self.failures {
            text += &format!("FAILED: {scenario}, {setting}: {}: {why}\n", self.servers[*server]);
        }
        text
    }

    /// All values, and what the table says.
    pub fn json(&self) -> Value {
        let rows = self.rows.iter().map(|row| {
            let servers = self.servers.iter().zip(&row.runs).map(|(server, runs)| {
                let figures = FIGURES.iter().zip(&runs.values).filter_map(|(figure, values)| {
                    let it = Summary::of(values)?;
                    let body = json!({
                        "median": it.median,
                        "lowest": it.lowest,
                        "highest": it.highest,
                        "values": values,
                    });
                    Some((figure.title.to_owned(), body))
                });
                (server.clone(), Value::Object(figures.collect()))
            });
            let servers: serde_json::Map<String, Value> = servers.collect();
            json!({
                "scenario": row.scenario,
                "link": row.setting.link.name(),
                "receivers": row.setting.receivers.name(),
                "stage": row.stage,
                "servers": servers,
            })
        });
        let failures = self.failures.iter().map(|it| {
            json!({
                "scenario": it.scenario,
                "link": it.setting.link.name(),
                "receivers": it.setting.receivers.name(),
                "server": self.servers[it.server],
                "why": it.why,
            })
        });
        json!({
            "rounds": self.rounds,
            "rows": rows.collect::<Vec<_>>(),
            "failures": failures.collect::<Vec<_>>(),
        })
    }

    fn cells(&self, row: &Row, figure: usize) -> Option<Vec<String>> {
        let summaries: Vec<_> =
            row.runs.iter().map(|runs| Summary::of(&runs.values[figure])).collect();
        // What a stage without deliveries cost is of interest as a whole, if it cost something.
        let highest = summaries.iter().flatten().map(|it| it.median).fold(0.0, f64::max);
        let of_interest = match FIGURES[figure].title {
            "CPU s" => !row.has_deliveries && highest >= 0.01,
            "RSS MiB" => row.has_deliveries || row.scenario == "idle",
            _ => row.has_deliveries,
        };
        if !of_interest || highest == 0.0 {
            return None;
        }
        let ours = summaries[0].as_ref().map(|it| it.median).filter(|&ours| ours > 0.0);
        let mut cells = vec![format!("{}, {} / {}", row.scenario, row.setting, row.stage)];
        for (at, summary) in summaries.iter().enumerate() {
            let missing = || if self.failed_in(row, at) { "failed" } else { "-" }.to_owned();
            cells.push(summary.as_ref().map_or_else(missing, |it| it.cell(self.rounds)));
            if at > 0 {
                let ratio = summary.as_ref().zip(ours).map(|(it, ours)| it.median / ours);
                cells.push(ratio.map_or_else(|| "-".to_owned(), |ratio| format!("{ratio:.2}")));
            }
        }
        Some(cells)
    }

    fn failed_in(&self, row: &Row, server: usize) -> bool {
        self.failures.iter().any(|it| {
            it.server == server && it.scenario == row.scenario && it.setting == row.setting
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::setting::Receivers;
    use metalbond_uring_compare::link::LinkKind;

    const LOOPBACK: Setting =
        Setting { link: LinkKind::Loopback, receivers: Receivers::Reassemble };
    const VETH: Setting = Setting { link: LinkKind::Veth, receivers: Receivers::Aligned };

    #[test]
    fn settings_are_rows_of_their_own_and_failures_no_figures() {
        let mut report = Report::new(["ours", "theirs"].map(str::to_owned).into_iter(), 1);
        for (setting, value) in [(LOOPBACK, 1.0), (VETH, 4.0)] {
            let stage = json!({"stage": "a", "deliveries": 1, "server_cpu_us_per_delivery": value});
            report.take("s", setting, 0, &[stage]);
        }
        report.fail("s", VETH, 1, "why");
        let text = report.text();
        let cells = |row: &str| -> Vec<String> {
            let line = text.lines().find_map(|line| line.strip_prefix(row));
            line.unwrap_or_default().split_whitespace().map(str::to_owned).collect()
        };
        assert_eq!(cells("s, loopback, reassemble / a "), ["1.00", "(1.00-1.00)", "-", "-"]);
        assert_eq!(cells("s, veth, aligned / a "), ["4.00", "(4.00-4.00)", "failed", "-"]);
        assert!(report.has_failed(1) && !report.has_failed(0));
        assert_eq!(report.json()["failures"][0]["link"], "veth");
    }

    #[test]
    fn medians_and_ratios() {
        let mut report = Report::new(["ours", "theirs"].map(str::to_owned).into_iter(), 3);
        for (server, values) in [(0, [3.0, 1.0, 2.0]), (1, [10.0, 9.0, 20.0])] {
            for value in values {
                let stage =
                    json!({"stage": "a", "deliveries": 1, "server_cpu_us_per_delivery": value});
                report.take("s", LOOPBACK, server, &[stage]);
            }
        }
        report.fail("s", LOOPBACK, 1, "why");
        let text = report.text();
        assert!(text.contains("2.00 (1.00-3.00)  10.0 (9.00-20.0)        5.00"), "{text}");
        assert!(text.contains("FAILED: s, loopback, reassemble: theirs: why"), "{text}");
        assert_eq!(
            report.json()["rows"][0]["servers"]["theirs"]["CPU us/delivery"]["median"],
            10.0
        );
    }
}
