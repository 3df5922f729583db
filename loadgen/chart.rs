//! Charts: curves as SVG that stretches with the page, their numbers and names as text of the page beside it.
//!
//! Owns a chart's layout and its axes. Must never draw text: SVG would shrink it on a narrow screen.

/// Points of a curve over time; neighbours are joined when there are more.
const POINTS_MAX: usize = 400;
/// Seconds from one point of a rate to the next: over shorter ones a rate is mostly noise.
const RATE_S: f64 = 0.04;
/// A stage's part of the axis from which on its name has room.
const NAMED_SHARE: f64 = 0.06;
/// Colours that [`STYLE`] has.
const COLOURS: usize = 6;
/// The drawing's width and height in its own units, which stretch.
const SIZE: f64 = 1000.0;

/// The style of all charts.
pub const STYLE: &str = "
.plot{position:relative;height:220px;margin:1.6em 1.2em 2.2em 4em;border:solid var(--axis);border-width:0 0 1px 1px}
.plot svg{position:absolute;width:100%;height:100%}
.plot span{position:absolute;font-size:12px;line-height:1.2;color:var(--soft);white-space:nowrap}
.plot .y{right:100%;padding-right:.5em;transform:translateY(50%)}
.plot .x{top:100%;padding-top:.6em;transform:translateX(-50%)}
.plot .stage{bottom:100%;text-align:center;overflow:hidden;text-overflow:ellipsis}
.grid line{stroke:var(--grid)}.band{fill:var(--band)}
.curve{fill:none;stroke:currentColor;stroke-width:1.8}
svg *{vector-effect:non-scaling-stroke}
.legend{margin:.4em 0 0 4em}.legend span{margin-right:1.4em;white-space:nowrap}
.c0{color:var(--c0)}.c1{color:var(--c1)}.c2{color:var(--c2)}.c3{color:var(--c3)}.c4{color:var(--c4)}.c5{color:var(--c5)}
@media(max-width:600px){.plot{margin-left:3.4em;margin-right:1.4em}.legend{margin-left:0}.minor{display:none}}
";

/// A curve: its name, its colour, and its points.
pub struct Curve<'a> {
    /// What it is.
    pub name: &'a str,
    /// One of the style's colours, by turns.
    pub colour: usize,
    /// In the units of the axes.
    pub points: Vec<(f64, f64)>,
}

/// A stage's part of the time axis, in seconds of the run.
pub struct Span<'a> {
    /// The stage's name.
    pub name: &'a str,
    /// Its beginning.
    pub from: f64,
    /// Its end.
    pub to: f64,
}

/// One curve over time, from zero up, over the run's stages.
pub fn over_time(curve: &Curve<'_>, spans: &[Span<'_>]) -> String {
    let ends = spans.iter().map(|span| span.to).chain(curve.points.last().map(|point| point.0));
    let x = Axis { from: 0.0, to: ends.fold(0.1, f64::max), logarithmic: false };
    let top = curve.points.iter().map(|point| point.1).fold(0.0, f64::max).max(1e-3);
    let step = round_step(top / 3.0);
    let y = Axis { from: 0.0, to: (top / step - 1e-9).ceil() * step, logarithmic: false };
    let mut chart = Chart::new(x, y);
    for (index, span) in spans.iter().enumerate() {
        chart.stage(span, index % 2 == 1);
    }
    for value in multiples(step, y.to) {
        chart.horizontal(value, &number(value));
    }
    for at_s in multiples(round_step(x.to / 3.0), x.to) {
        chart.vertical(at_s, &format!("{} s", number(at_s)), false);
    }
    chart.finish(std::slice::from_ref(curve))
}

/// Curves of milliseconds by how rare they are: (1 / (1 - quantile), milliseconds); both axes logarithmic.
pub fn by_percentile(curves: &[Curve<'_>]) -> String {
    let points = || curves.iter().flat_map(|curve| &curve.points);
    let rarest = points().map(|point| point.0).fold(10.0, f64::max);
    let slowest = points().map(|point| point.1).fold(0.01, f64::max);
    let fastest = points().map(|point| point.1).fold(slowest, f64::min).max(0.001);
    let x = Axis { from: 1.0, to: rarest, logarithmic: true };
    let numbers = round_numbers(fastest, slowest);
    let y = Axis { from: numbers[0], to: numbers[numbers.len() - 1], logarithmic: true };
    let mut chart = Chart::new(x, y);
    for nines in 0..=rarest.log10() as i32 {
        // 0, 90, 99, 99.9, 99.99
        let percent = 100.0 - 100.0 / 10f64.powi(nines);
        let decimals = usize::try_from(nines - 2).unwrap_or_default();
        let label = format!("{percent:.decimals$} %");
        chart.vertical(10f64.powi(nines), &label, nines % 2 == 1);
    }
    for ms in numbers {
        chart.horizontal(ms, &format!("{} ms", number(ms)));
    }
    let curves: Vec<Curve<'_>> = curves
        .iter()
        .map(|curve| {
            let points = curve.points.iter().map(|&(rarity, ms)| (rarity, ms.max(y.from)));
            Curve { points: points.collect(), ..*curve }
        })
        .collect();
    chart.finish(&curves)
}

/// How fast a counter grew: from (seconds, count) to (seconds, count a second).
pub fn rates(counts: &[(f64, f64)]) -> Vec<(f64, f64)> {
    let end = counts.last().map_or(0.0, |point| point.0);
    let apart_s = RATE_S.max(end / POINTS_MAX as f64);
    let mut rates = Vec::new();
    let mut last: Option<(f64, f64)> = None;
    for &(at_s, count) in counts {
        match last {
            Some((last_s, _)) if at_s - last_s < apart_s => continue,
            Some((last_s, before)) => {
                rates.push((at_s, (count - before).max(0.0) / (at_s - last_s)));
            }
            None => {}
        }
        last = Some((at_s, count));
    }
    rates
}

/// No more points than can be told apart; the highest of each group, so that no peak is lost.
pub fn thinned(points: &[(f64, f64)]) -> Vec<(f64, f64)> {
    let highest = |group: &[(f64, f64)]| {
        let first = group[0];
        group.iter().copied().fold(first, |a, b| if b.1 > a.1 { b } else { a })
    };
    points.chunks(points.len().div_ceil(POINTS_MAX).max(1)).map(highest).collect()
}

/// Text of a page.
pub fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
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
        let place = if self.logarithmic {
            (value / self.from).ln() / (self.to / self.from).ln()
        } else {
            (value - self.from) / (self.to - self.from)
        };
        place.clamp(0.0, 1.0)
    }
}

/// A chart in the making.
struct Chart {
    x: Axis,
    y: Axis,
    bands: String,
    grid: String,
    texts: String,
}

impl Chart {
    fn new(x: Axis, y: Axis) -> Chart {
        Chart { x, y, bands: String::new(), grid: String::new(), texts: String::new() }
    }

    fn stage(&mut self, span: &Span<'_>, shaded: bool) {
        let (from, to) = (self.x.place(span.from), self.x.place(span.to));
        if shaded {
            self.bands += &format!(
                "<rect class=\"band\" x=\"{:.1}\" width=\"{:.1}\" height=\"{SIZE}\"/>",
                from * SIZE,
                (to - from) * SIZE
            );
        }
        if to - from >= NAMED_SHARE {
            self.texts += &format!(
                "<span class=\"stage\" style=\"left:{:.1}%;width:{:.1}%\">{}</span>",
                from * 100.0,
                (to - from) * 100.0,
                escape(span.name)
            );
        }
    }

    /// A line across, with its number to the left.
    fn horizontal(&mut self, value: f64, label: &str) {
        let place = self.y.place(value);
        let y = (1.0 - place) * SIZE;
        self.grid += &format!("<line x2=\"{SIZE}\" y1=\"{y:.1}\" y2=\"{y:.1}\"/>");
        let bottom = place * 100.0;
        self.texts += &format!("<span class=\"y\" style=\"bottom:{bottom:.1}%\">{label}</span>");
    }

    /// A line upwards, with its number below; a minor one has none where the page is narrow.
    fn vertical(&mut self, value: f64, label: &str, minor: bool) {
        let (x, left) = (self.x.place(value) * SIZE, self.x.place(value) * 100.0);
        self.grid += &format!("<line y2=\"{SIZE}\" x1=\"{x:.1}\" x2=\"{x:.1}\"/>");
        let class = if minor { "x minor" } else { "x" };
        self.texts += &format!("<span class=\"{class}\" style=\"left:{left:.1}%\">{label}</span>");
    }

    fn finish(self, curves: &[Curve<'_>]) -> String {
        let (mut drawn, mut legend) = (String::new(), String::new());
        for Curve { name, colour, points } in curves {
            let colour = colour % COLOURS;
            drawn += &format!("<polyline class=\"curve c{colour}\" points=\"");
            for &(x, y) in points {
                let (x, y) = (self.x.place(x) * SIZE, (1.0 - self.y.place(y)) * SIZE);
                drawn += &format!("{x:.1},{y:.1} ");
            }
            drawn += "\"/>";
            let name = escape(name);
            legend += &format!("<span><b class=\"c{colour}\">&#9473;&#9473;</b> {name}</span>");
        }
        let Chart { bands, grid, texts, .. } = self;
        format!(
            "<p class=\"legend\">{legend}</p>\n<div class=\"plot\"><svg viewBox=\"0 0 {SIZE} {SIZE}\" \
             preserveAspectRatio=\"none\" aria-hidden=\"true\">{bands}<g class=\"grid\">{grid}</g>{drawn}</svg>\
             {texts}</div>"
        )
    }
}

/// The largest of 1, 2 or 5 times a power of ten that is not above `most`.
fn round_step(most: f64) -> f64 {
    let power = 10f64.powf(most.log10().floor());
    let step = [5.0, 2.0].into_iter().find(|step| step * power <= most * (1.0 + 1e-9));
    step.unwrap_or(1.0) * power
}

/// 0 and the multiples of `step` up to `end`.
fn multiples(step: f64, end: f64) -> impl Iterator<Item = f64> {
    (0..=(end / step + 1e-9) as u32).map(move |n| f64::from(n) * step)
}

/// Round numbers from at most `low` to at least `high`: powers of ten, or in a small range 2 and 5 times them, too.
fn round_numbers(low: f64, high: f64) -> Vec<f64> {
    let factors: &[f64] = if high / low > 500.0 { &[1.0] } else { &[1.0, 2.0, 5.0] };
    let decades = low.log10().floor() as i32 - 1..=high.log10().ceil() as i32 + 1;
    let numbers = decades.flat_map(|n| factors.iter().map(move |factor| factor * 10f64.powi(n)));
    let numbers: Vec<f64> = numbers.collect();
    let first = numbers.iter().rposition(|&number| number <= low * (1.0 + 1e-9)).unwrap_or(0);
    let last = numbers.iter().position(|&number| number >= high * (1.0 - 1e-9));
    // An axis has two ends, even if all values are the same.
    let last = last.unwrap_or(numbers.len() - 1).max(first + 1);
    numbers[first..=last].to_vec()
}

/// A number without the noise of its last digits.
fn number(value: f64) -> String {
    if value >= 1e6 {
        format!("{} M", (value / 1e4).round() / 100.0)
    } else if value >= 1e4 {
        format!("{} k", (value / 10.0).round() / 100.0)
    } else {
        format!("{}", (value * 1e4).round() / 1e4)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The numbers that a chart shows at an axis.
    fn numbers<'a>(chart: &'a str, axis: &str) -> Vec<&'a str> {
        let tag = format!("<span class=\"{axis}");
        let labels = chart.split(&tag).skip(1);
        let numbers =
            labels.map(|rest| &rest[rest.find('>').unwrap() + 1..rest.find('<').unwrap()]);
        numbers.collect()
    }

    fn rising(top: f64, end: f64) -> String {
        let points = vec![(0.0, 0.0), (end, top)];
        over_time(&Curve { name: "a & b", colour: 7, points }, &[])
    }

    #[test]
    fn axes_have_few_round_numbers() {
        let chart = rising(81_000.0, 11.3);
        assert_eq!(numbers(&chart, "y"), ["0", "20 k", "40 k", "60 k", "80 k", "100 k"]);
        assert_eq!(numbers(&chart, "x"), ["0 s", "2 s", "4 s", "6 s", "8 s", "10 s"]);
        assert!(chart.contains("a &amp; b") && chart.contains("curve c1"), "{chart}");
        assert_eq!(numbers(&rising(0.3, 0.02), "y"), ["0", "0.1", "0.2", "0.3"]);
        for top in [1.0, 1.1, 1.5, 2.0, 2.9, 3.0, 4.0, 5.9, 6.1, 9.9, 10.0, 123_456.0, 2e9] {
            let chart = rising(top, top);
            for (axis, most) in [("y", 9), ("x", 8)] {
                let count = numbers(&chart, axis).len();
                assert!((4..=most).contains(&count), "{top}: {:?}", numbers(&chart, axis));
            }
        }
    }

    #[test]
    fn percentiles_have_their_names() {
        let points = vec![(1.0, 0.3), (10.0, 1.0), (123_456.0, 4.1)];
        let chart = by_percentile(&[Curve { name: "updates", colour: 0, points }]);
        let percents = ["0 %", "90 %", "99 %", "99.9 %", "99.99 %", "99.999 %"];
        assert_eq!(numbers(&chart, "x"), percents);
        assert_eq!(numbers(&chart, "y"), ["0.2 ms", "0.5 ms", "1 ms", "2 ms", "5 ms"]);
        let points = vec![(1.0, 0.0), (10.0, 700.0)];
        let chart = by_percentile(&[Curve { name: "updates", colour: 0, points }]);
        assert_eq!(numbers(&chart, "y")[0], "0.001 ms");
        assert_eq!(numbers(&chart, "y").last(), Some(&"1000 ms"));
        for flat in [0.0, 0.5, 1.0, 1000.0] {
            let points = vec![(1.0, flat), (10.0, flat)];
            let chart = by_percentile(&[Curve { name: "updates", colour: 0, points }]);
            assert!(numbers(&chart, "y").len() >= 2 && !chart.contains("NaN"), "{chart}");
        }
    }

    #[test]
    fn names_stand_where_they_have_room() {
        let curve = Curve { name: "x", colour: 0, points: vec![(10.0, 1.0)] };
        let span = |name, from, to| Span { name, from, to };
        let chart = over_time(&curve, &[span("short", 0.0, 0.1), span("long", 0.1, 10.0)]);
        assert_eq!(numbers(&chart, "stage"), ["long"]);
        assert_eq!(chart.matches("class=\"band\"").count(), 1);
    }

    #[test]
    fn rates_are_not_taken_over_moments() {
        let rates = rates(&[(0.0, 0.0), (0.05, 5.0), (0.0501, 6.0), (0.1, 10.0)]);
        assert_eq!(rates.len(), 2);
        assert!(rates.iter().all(|(_, rate)| (rate - 100.0).abs() < 1.0), "{rates:?}");
    }

    #[test]
    fn a_peak_survives_thinning() {
        let mut points: Vec<(f64, f64)> = (0..5000).map(|n| (f64::from(n), 1.0)).collect();
        points[1234].1 = 9.0;
        let thinned = thinned(&points);
        assert!(thinned.len() <= POINTS_MAX && thinned.contains(&(1234.0, 9.0)));
    }
}
