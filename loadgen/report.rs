//! The report: one page of HTML that needs nothing else, with curves drawn as SVG.
//!
//! Owns its layout. Must never refer to anything outside the page, and runs no script.

use crate::output;
use crate::stage::{Sample, Stage};

/// Size of a chart, and the place for its labels, in units of the drawing.
const WIDTH: f64 = 860.0;
const HEIGHT: f64 = 260.0;
const LEFT: f64 = 80.0;
const RIGHT: f64 = 20.0;
const TOP: f64 = 12.0;
const BOTTOM: f64 = 40.0;
/// Points of a curve over time; neighbours are joined when there are more.
const POINTS_MAX: usize = 400;

const COLOURS: [&str; 6] = ["#1b6ca8", "#c2571a", "#2e7d32", "#7b3fa0", "#a8324a", "#5f6368"];

const STYLE: &str = "body{font:15px/1.45 system-ui,sans-serif;max-width:900px;margin:2em auto;padding:0 1em;\
color:#1d2126}h1{font-size:1.5em}h2{font-size:1.15em;margin-top:2em}table{border-collapse:collapse;width:100%;\
font-size:13px}th,td{padding:.35em .6em;text-align:right;border-bottom:1px solid #d9dce0;white-space:nowrap}\
th:first-child,td:first-child{text-align:left}pre{white-space:pre-wrap;padding:.8em;background:#f3f4f6;\
border-left:4px solid #5f6368}pre.ok{border-color:#2e7d32}pre.bad{border-color:#a8324a}svg{width:100%;\
height:auto}svg text{font-size:11px;fill:#444}.axis{stroke:#888}.grid{stroke:#e3e5e8}\
.curve{fill:none;stroke-width:1.8}.scroll{overflow-x:auto}";

/// The page.
pub fn page(title: &str, stages: &[Stage], samples: &[Sample], verdict: &str) -> String {
    let class = if verdict.starts_with("OK") { "ok" } else { "bad" };
    let mut page = format!(
        "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width\">\
         <title>loadgen</title><style>{STYLE}</style></head><body>\n\
         <h1>loadgen</h1><p>{}</p>\n<pre class=\"{class}\">{}</pre>\n",
        escape(title.trim()),
        escape(verdict.trim())
    );
    page += &section("Stages", &table(stages));
    let measured: Vec<&Stage> = stages.iter().filter(|stage| !stage.curve.is_empty()).collect();
    if !measured.is_empty() {
        page += &section("Latency by percentile", &latency_chart(&measured));
    }
    let spans: Vec<Span> = stages
        .iter()
        .map(|stage| Span { name: &stage.stage, from: stage.span_s.0, to: stage.span_s.1 })
        .collect();
    let deliveries = rates(samples, |sample| sample.deliveries as f64);
    page += &section("Deliveries a second", &time_chart(&deliveries, &spans, COLOURS[0]));
    if samples.iter().any(|sample| sample.server_cpu_s > 0.0) {
        let cpu = rates(samples, |sample| sample.server_cpu_s);
        page += &section("CPUs that the server uses", &time_chart(&cpu, &spans, COLOURS[1]));
        let memory: Vec<(f64, f64)> = samples
            .iter()
            .map(|sample| (sample.at_s, sample.server_rss_bytes as f64 / f64::from(1 << 20)))
            .collect();
        let memory = thinned(&memory);
        page += &section("The server's memory in MiB", &time_chart(&memory, &spans, COLOURS[2]));
    }
    page + "</body></html>\n"
}

struct Span<'a> {
    name: &'a str,
    from: f64,
    to: f64,
}

/// An axis: what its ends stand for.
#[derive(Clone, Copy)]
struct Axis {
    from: f64,
    to: f64,
    logarithmic: bool,
}

impl Axis {
    /// Where a value lies, from 0 to 1.
    fn place(&self, value: f64) -> f64 {
        if self.logarithmic {
            (value / self.from).ln() / (self.to / self.from).ln()
        } else {
            (value - self.from) / (self.to - self.from)
        }
    }

    fn x(&self, value: f64) -> f64 {
        LEFT + self.place(value) * (WIDTH - LEFT - RIGHT)
    }

    fn y(&self, value: f64) -> f64 {
        HEIGHT - BOTTOM - self.place(value) * (HEIGHT - TOP - BOTTOM)
    }
}

fn section(title: &str, body: &str) -> String {
    format!("<h2>{}</h2>\n{body}\n", escape(title))
}

fn table(stages: &[Stage]) -> String {
    let mut html = "<div class=\"scroll\"><table>\n".to_owned();
    for (index, row) in output::cells(stages).iter().enumerate() {
        let tag = if index == 0 { "th" } else { "td" };
        html += "<tr>";
        for cell in row {
            html += &format!("<{tag}>{}</{tag}>", escape(cell));
        }
        html += "</tr>\n";
    }
    html + "</table></div>"
}

fn latency_chart(stages: &[&Stage]) -> String {
    let points = || stages.iter().flat_map(|stage| &stage.curve);
    let rarest = points().map(|point| point.0).fold(10.0, f64::max);
    let slowest = points().map(|point| point.1).fold(0.1, f64::max);
    let fastest = points().map(|point| point.1).fold(slowest, f64::min).max(0.01);
    let x = Axis { from: 1.0, to: rarest, logarithmic: true };
    let y = Axis {
        from: 10f64.powf(fastest.log10().floor()),
        to: 10f64.powf(slowest.log10().ceil()).max(fastest * 10.0),
        logarithmic: true,
    };
    let mut drawing = String::new();
    let mut rarity = 1.0;
    while rarity <= rarest {
        let percent = 100.0 - 100.0 / rarity;
        drawing +=
            &vertical(x.x(rarity), &format!("{percent} %").replace("99.99999999999999", "99.9"));
        rarity *= 10.0;
    }
    let mut ms = y.from;
    while ms <= y.to * 1.001 {
        drawing += &horizontal(y.y(ms), &format!("{} ms", rounded(ms)));
        ms *= 10.0;
    }
    for (index, stage) in stages.iter().enumerate() {
        let colour = COLOURS[index % COLOURS.len()];
        let points: Vec<(f64, f64)> =
            stage.curve.iter().map(|&(rarity, ms)| (x.x(rarity), y.y(ms.max(y.from)))).collect();
        drawing += &curve(&points, colour);
        drawing += &format!(
            "<text x=\"{}\" y=\"{}\" style=\"fill:{colour}\">{}</text>",
            LEFT + 8.0,
            TOP + 14.0 + 14.0 * index as f64,
            escape(&stage.stage)
        );
    }
    svg(&drawing)
}

fn time_chart(points: &[(f64, f64)], spans: &[Span<'_>], colour: &str) -> String {
    let end = points.last().map_or(1.0, |point| point.0).max(0.1);
    let top = points.iter().map(|point| point.1).fold(0.0, f64::max).max(1e-3);
    let step = round_step(top);
    let x = Axis { from: 0.0, to: end, logarithmic: false };
    let y = Axis { from: 0.0, to: (top / step).ceil() * step, logarithmic: false };
    let mut drawing = String::new();
    let steps = (y.to / step).round() as u32;
    for n in 0..=steps {
        let value = f64::from(n) * step;
        drawing += &horizontal(y.y(value), &rounded(value));
    }
    let mut labelled_to = 0.0;
    for (index, span) in spans.iter().enumerate() {
        let (from, to) = (x.x(span.from), x.x(span.to.min(end)));
        if index % 2 == 1 {
            drawing += &format!(
                "<rect x=\"{from:.1}\" y=\"{TOP}\" width=\"{:.1}\" height=\"{}\" fill=\"#00000009\"/>",
                (to - from).max(0.0),
                HEIGHT - TOP - BOTTOM
            );
        }
        // Names that would overlap are left out: the table has them.
        let middle = (from + to) / 2.0;
        let half = span.name.len() as f64 * 3.2;
        if to - from > 2.0 && middle - half > labelled_to && middle + half < WIDTH {
            labelled_to = middle + half + 4.0;
            let name = escape(span.name);
            drawing += &format!(
                "<text x=\"{middle:.1}\" y=\"{}\" text-anchor=\"middle\">{name}</text>",
                HEIGHT - 8.0
            );
        }
    }
    let seconds = round_step(end);
    for n in 0..=(end / seconds) as u32 {
        let at = f64::from(n) * seconds;
        drawing += &vertical(x.x(at), &format!("{} s", rounded(at)));
    }
    let points: Vec<(f64, f64)> = points.iter().map(|&(at, value)| (x.x(at), y.y(value))).collect();
    drawing += &curve(&points, colour);
    svg(&drawing)
}

/// How fast a counter grew, between neighbouring samples.
fn rates(samples: &[Sample], counter: impl Fn(&Sample) -> f64) -> Vec<(f64, f64)> {
    let step = samples.len().div_ceil(POINTS_MAX).max(1);
    let samples: Vec<&Sample> = samples.iter().step_by(step).collect();
    samples
        .windows(2)
        .filter(|pair| pair[1].at_s - pair[0].at_s > 0.001)
        .map(|pair| {
            let growth = (counter(pair[1]) - counter(pair[0])).max(0.0);
            (pair[1].at_s, growth / (pair[1].at_s - pair[0].at_s))
        })
        .collect()
}

fn thinned(points: &[(f64, f64)]) -> Vec<(f64, f64)> {
    points.iter().copied().step_by(points.len().div_ceil(POINTS_MAX).max(1)).collect()
}

/// A step of 1, 2 or 5 times a power of ten, of which `top` has four to ten.
fn round_step(top: f64) -> f64 {
    let power = 10f64.powf((top / 4.0).log10().floor());
    let step = [5.0, 2.0].into_iter().find(|step| step * power <= top / 4.0);
    step.unwrap_or(1.0) * power
}

/// A number without the noise of its last digits.
fn rounded(value: f64) -> String {
    if value >= 1e6 {
        format!("{} M", (value / 1e4).round() / 100.0)
    } else if value >= 1e4 {
        format!("{} k", (value / 10.0).round() / 100.0)
    } else {
        format!("{}", (value * 1e3).round() / 1e3)
    }
}

fn vertical(x: f64, label: &str) -> String {
    let (bottom, text) = (HEIGHT - BOTTOM, HEIGHT - BOTTOM + 14.0);
    format!(
        "<line class=\"grid\" x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"{TOP}\" y2=\"{bottom}\"/>\
         <text x=\"{x:.1}\" y=\"{text}\" text-anchor=\"middle\">{label}</text>"
    )
}

fn horizontal(y: f64, label: &str) -> String {
    let (right, text) = (WIDTH - RIGHT, LEFT - 6.0);
    format!(
        "<line class=\"grid\" x1=\"{LEFT}\" x2=\"{right}\" y1=\"{y:.1}\" y2=\"{y:.1}\"/>\
         <text x=\"{text}\" y=\"{:.1}\" text-anchor=\"end\">{label}</text>",
        y + 4.0
    )
}

fn curve(points: &[(f64, f64)], colour: &str) -> String {
    let points: Vec<String> = points.iter().map(|(x, y)| format!("{x:.1},{y:.1}")).collect();
    format!("<polyline class=\"curve\" stroke=\"{colour}\" points=\"{}\"/>", points.join(" "))
}

fn svg(drawing: &str) -> String {
    let (bottom, right) = (HEIGHT - BOTTOM, WIDTH - RIGHT);
    format!(
        "<svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\">{drawing}\
         <line class=\"axis\" x1=\"{LEFT}\" x2=\"{LEFT}\" y1=\"{TOP}\" y2=\"{bottom}\"/>\
         <line class=\"axis\" x1=\"{LEFT}\" x2=\"{right}\" y1=\"{bottom}\" y2=\"{bottom}\"/></svg>"
    )
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stage() -> Stage {
        let curve = (0..40).map(|n| (1.25f64.powi(n), 0.2 + f64::from(n))).collect();
        let name = "updates <b>".to_owned();
        Stage { stage: name, deliveries: 5, curve, span_s: (0.0, 2.0), ..Stage::default() }
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
        let page = page("loading & more", &[stage()], &samples, "OK: all right\n");
        assert!(page.contains("loading &amp; more") && page.contains("updates &lt;b&gt;"));
        assert_eq!(page.matches("<svg").count(), 4);
        for outside in ["<script", "http:", "https:", "src=", "href=", "url(", "NaN", "inf"] {
            assert!(!page.contains(outside), "{outside}");
        }
        assert!(page.len() < 60_000, "{}", page.len());
    }

    #[test]
    fn a_run_without_samples_has_a_page_too() {
        let page = page("", &[], &[], "FAILED: nothing");
        assert!(page.contains("class=\"bad\"") && !page.contains("NaN"), "{page}");
    }

    #[test]
    fn steps_are_round() {
        for (top, step) in [(10.0, 2.0), (1.0, 0.2), (4.1, 1.0), (20.0, 5.0), (81e3, 2e4)] {
            let found = round_step(top);
            assert!((found / step - 1.0).abs() < 1e-9, "{top}: {found}");
        }
    }
}
