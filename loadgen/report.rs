//! The report: one page of HTML that needs nothing else, for wide and narrow screens, light and dark.
//!
//! Owns its layout. Must never refer to anything outside the page, and runs no script.

use crate::chart::{self, Curve, Span, escape};
use crate::facts::Facts;
use crate::output;
use crate::stage::{Sample, Stage};
use crate::upgrade;

const STYLE: &str = "
:root{color-scheme:light dark;--page:#fff;--ink:#1d2126;--soft:#50565d;--line:#d9dce0;--box:#f3f4f6;--axis:#868c93;
--grid:#e3e5e8;--band:#0000000b;--good:#2e7d32;--bad:#a8324a;--warn:#b26a00;
--c0:#1b6ca8;--c1:#c2571a;--c2:#2e7d32;--c3:#7b3fa0;--c4:#a8324a;--c5:#5f6368}
@media(prefers-color-scheme:dark){:root{--page:#15181c;--ink:#e3e6ea;--soft:#a4abb3;--line:#363c43;--box:#20252b;
--axis:#7d848c;--grid:#2b3037;--band:#ffffff0d;--good:#5fb865;--bad:#e8728a;--warn:#e3a54a;
--c0:#5fb0ea;--c1:#f0935a;--c2:#6cc571;--c3:#bd8fdd;--c4:#e8728a;--c5:#a4abb3}}
body{font:15px/1.45 system-ui,sans-serif;max-width:900px;margin:1.5em auto;padding:0 1em;background:var(--page);
color:var(--ink)}
h1{font-size:1.5em}h2{font-size:1.15em;margin:2em 0 .4em}
.box{white-space:pre-wrap;overflow-wrap:anywhere;padding:.7em;margin:.6em 0;background:var(--box);
border-left:4px solid var(--good)}
.box.bad{border-color:var(--bad)}.box.warn{border-color:var(--warn)}
dl{display:grid;grid-template-columns:max-content 1fr;gap:.2em 1em;margin:1em 0}
dt{color:var(--soft)}dd{margin:0}dd span{display:inline-block;max-width:100%;overflow-wrap:anywhere}
table{border-collapse:collapse;width:100%;font-size:13px}
th,td{padding:.35em .5em;text-align:right;border-bottom:1px solid var(--line);white-space:nowrap}
th:first-child,td:first-child{text-align:left}
.note{font-size:13px;color:var(--soft)}
@media(max-width:600px){thead{display:none}table,tbody{display:block}
tr{display:grid;grid-template-columns:1fr 1fr;gap:.1em 1.2em;padding:.5em 0;border-bottom:1px solid var(--line)}
td{display:flex;justify-content:space-between;border:0;padding:0}
td::before{content:attr(data-title);color:var(--soft)}
td:first-child{grid-column:1/-1;font-weight:bold}td:first-child::before{content:none}.none{display:none}}
";

/// What the charts' bands are.
const BANDS: &str =
    "Over time: every second stage is shaded; it is named above where its name has room.";

/// What the page is made of.
pub struct Report<'a> {
    /// The scenario's name.
    pub scenario: &'a str,
    /// What was loaded.
    pub line: &'a str,
    /// When, where, with what.
    pub facts: &'a Facts,
    /// All stages.
    pub stages: &'a [Stage],
    /// The server's cost over time.
    pub samples: &'a [Sample],
    /// How it ended, in words.
    pub verdict: &'a str,
}

impl Report<'_> {
    /// The page.
    pub fn page(&self) -> String {
        let title = format!("loadgen: {}", escape(self.scenario));
        let mut page = format!(
            "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\
             <meta name=\"viewport\" content=\"width=device-width,initial-scale=1\">\
             <title>{title}</title><style>{STYLE}{}</style></head><body>\n<h1>{title}</h1>\n<p>{}</p>\n",
            chart::STYLE,
            escape(self.line.trim()),
        );
        let class = if self.verdict.starts_with("OK") { "good" } else { "bad" };
        page += &boxed(class, self.verdict);
        let warnings = output::warnings(self.stages);
        if !warnings.is_empty() {
            page += &boxed("warn", &warnings);
        }
        page += "<dl>";
        for (name, fact) in self.facts {
            page += &format!("<dt>{name}</dt><dd>{}</dd>\n", unbroken(fact));
        }
        page += "</dl>\n";
        if !self.stages.is_empty() {
            page += &section("Stages", &table(self.stages));
        }
        page + &self.charts() + "</body></html>\n"
    }

    fn charts(&self) -> String {
        let mut html = String::new();
        let measured = self.stages.iter().filter(|stage| !stage.curve.is_empty());
        let curves: Vec<Curve<'_>> = measured
            .enumerate()
            .map(|(colour, stage)| Curve {
                name: &stage.stage,
                colour,
                points: stage.curve.clone(),
            })
            .collect();
        if !curves.is_empty() {
            html += &section("Latency by percentile", &chart::by_percentile(&curves));
        }
        let spans: Vec<Span<'_>> = self
            .stages
            .iter()
            .map(|stage| Span { name: &stage.stage, from: stage.span_s.0, to: stage.span_s.1 })
            .collect();
        let samples = |value: fn(&Sample) -> f64| -> Vec<(f64, f64)> {
            self.samples.iter().map(|sample| (sample.at_s, value(sample))).collect()
        };
        let mut over_time = |title: &str, name: &str, colour: usize, points: Vec<(f64, f64)>| {
            if points.len() > 1 {
                let curve = Curve { name, colour, points };
                html += &section(title, &chart::over_time(&curve, &spans));
            }
        };
        let deliveries = chart::rates(&samples(|sample| sample.deliveries as f64));
        over_time("Deliveries", "updates a second, all peers together", 0, deliveries);
        if self.samples.iter().any(|sample| sample.server_cpu_s > 0.0) {
            let cpu = chart::rates(&samples(|sample| sample.server_cpu_s));
            over_time("CPU of the server", "CPUs in use", 1, cpu);
            let memory = samples(|sample| sample.server_rss_bytes as f64 / f64::from(1 << 20));
            over_time("Memory of the server", "resident, MiB", 2, chart::thinned(&memory));
        }
        html
    }
}

/// Lines break between words, not behind the hyphens of a flag.
fn unbroken(text: &str) -> String {
    let words: Vec<String> =
        text.split(' ').map(|word| format!("<span>{}</span>", escape(word))).collect();
    words.join(" ")
}

fn boxed(class: &str, text: &str) -> String {
    format!("<p class=\"box {class}\">{}</p>\n", escape(text.trim()))
}

fn section(title: &str, body: &str) -> String {
    format!("<h2>{}</h2>\n{body}\n", escape(title))
}

/// The table; where the page is narrow each cell bears its title, and empty ones go.
fn table(stages: &[Stage]) -> String {
    let cells = output::cells(stages);
    let titles: Vec<String> = cells[0].iter().map(|title| escape(title)).collect();
    let mut html =
        format!("<table><thead><tr><th>{}</th></tr></thead><tbody>\n", titles.join("</th><th>"));
    for row in &cells[1..] {
        html += "<tr>";
        for (title, cell) in titles.iter().zip(row) {
            let class = if cell == "-" { " class=\"none\"" } else { "" };
            html += &format!("<td{class} data-title=\"{title}\">{}</td>", escape(cell));
        }
        html += "</tr>\n";
    }
    html += "</tbody></table>\n";
    let (legend, bands) = (output::LEGEND.to_owned(), BANDS.to_owned());
    let memory = output::memory(stages).unwrap_or_default();
    let (upgrades, restarts) = (upgrade::summary(stages), output::restarts(stages));
    for note in [legend, memory, upgrades, restarts, bands] {
        for line in note.lines() {
            html += &format!("<p class=\"note\">{}</p>\n", escape(line));
        }
    }
    html
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stage() -> Stage {
        Stage {
            stage: "updates <b>".to_owned(),
            ok: true,
            deliveries: 5,
            curve: (0..40).map(|n| (1.25f64.powi(n), 0.2 + f64::from(n))).collect(),
            span_s: (0.0, 2.0),
            server_rss_bytes_before: Some(4 << 20),
            server_rss_bytes_peak: Some(24 << 20),
            warnings: vec!["loadgen itself was late: <1>".to_owned()],
            ..Stage::default()
        }
    }

    fn page(stages: &[Stage], samples: &[Sample], verdict: &str) -> String {
        let facts = vec![("date", "today".to_owned()), ("command", "loadgen 'a & b'".to_owned())];
        let line = "loading & more\n";
        Report { scenario: "mix", line, facts: &facts, stages, samples, verdict }.page()
    }

    #[test]
    fn the_page_stands_alone_and_is_escaped() {
        let sample = |n: u32| Sample {
            at_s: f64::from(n) / 10.0,
            deliveries: u64::from(n * n),
            server_cpu_s: f64::from(n) / 20.0,
            server_rss_bytes: 1 << 24,
        };
        let samples: Vec<Sample> = (0..2000).map(sample).collect();
        let page = page(&[stage()], &samples, "OK: all right\n");
        assert!(page.contains("loading &amp; more") && page.contains("updates &lt;b&gt;"));
        assert_eq!(page.matches("<svg").count(), 4);
        for outside in ["<script", "http:", "https:", "src=", "href=", "url(", "NaN", "inf"] {
            assert!(!page.contains(outside), "{outside}");
        }
        assert!(page.len() < 60_000, "{}", page.len());
    }

    #[test]
    fn the_page_says_what_a_reader_must_know() {
        let page = page(&[stage()], &[], "OK: all right\n");
        for words in [
            "updates &lt;b&gt;: loadgen itself was late: &lt;1&gt;",
            "<dt>date</dt><dd><span>today</span></dd>",
            "<dd><span>loadgen</span> <span>'a</span> <span>&amp;</span> <span>b'</span></dd>",
            "server memory: 4.00 MiB before the run, 24.00 MiB at most",
            "server us: CPU of the server for each delivered update",
            "prefers-color-scheme:dark",
            "<td data-title=\"delivered\">5</td>",
        ] {
            assert!(page.contains(words), "{words}: {page}");
        }
    }

    #[test]
    fn a_run_without_samples_has_a_page_too() {
        let page = page(&[], &[], "FAILED: nothing");
        assert!(page.contains("\"box bad\"") && !page.contains("NaN"), "{page}");
    }
}
