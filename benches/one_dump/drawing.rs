//! The drawing: three panels, as SVG that is legible on a phone, in the dark and in the light.
//!
//! Owns the layout. Must never measure.

use std::fmt::Write;

const WIDTH: f64 = 720.0;
const LEFT: f64 = 74.0;
const RIGHT: f64 = 700.0;
const PANEL: f64 = 210.0;
const STRIDE: f64 = 330.0;
const TOP: f64 = 84.0;
/// How much of the run the last panel shows, and from where on.
const ZOOM_S: f64 = 0.03;
const ZOOM_AT: f64 = 0.5;
/// What fails a client.
const LIMIT_BYTES: f64 = 65_535.0;

const STYLE: &str = "
.back{fill:#fff}.text{fill:#1d2126}.soft{fill:#5a636e}.grid{stroke:#dfe3e8}.axis{stroke:#8a939e}
.sent{stroke:#2f6fb0}.proven{stroke:#2a8a4a}.read{stroke:#c0651a}.limit{stroke:#b3261e}
.band{fill:#2f6fb0;opacity:.45;stroke:none}
@media (prefers-color-scheme:dark){
.back{fill:#15181c}.text{fill:#e8ebef}.soft{fill:#a3adb8}.grid{stroke:#2d333a}.axis{stroke:#77818c}
.sent{stroke:#6db3f2}.proven{stroke:#5fce83}.read{stroke:#f0a35e}.limit{stroke:#ff8a80}.band{fill:#6db3f2}}
text{font:17px sans-serif}.title{font-weight:600;font-size:19px}.key{font-weight:600;stroke:none}
.key.sent{fill:#2f6fb0}.key.proven{fill:#2a8a4a}.key.read{fill:#c0651a}.key.limit{fill:#b3261e}
@media (prefers-color-scheme:dark){
.key.sent{fill:#6db3f2}.key.proven{fill:#5fce83}.key.read{fill:#f0a35e}.key.limit{fill:#ff8a80}}
path{fill:none;stroke-width:2.2;stroke-linejoin:round}
";

/// One run: seconds, and bytes until then.
pub struct Run {
    pub arrived: Vec<(f64, usize)>,
    pub read: Vec<(f64, usize)>,
    pub proven: Vec<(f64, usize)>,
    /// What was sent from one proof to the next.
    pub windows: Vec<(f64, usize)>,
}

impl Run {
    /// The whole file.
    pub fn draw(&self) -> String {
        let height = TOP + 2.0 * STRIDE + PANEL + 60.0;
        let mut svg = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" role=\"img\" \
             aria-label=\"One dump of 100,000 routes over time\"><style>{STYLE}</style>\
             <rect class=\"back\" width=\"{WIDTH}\" height=\"{height}\"/>"
        );
        self.whole(&mut svg);
        self.unread(&mut svg);
        self.zoom(&mut svg);
        svg + "</svg>\n"
    }

    fn end_s(&self) -> f64 {
        self.read[self.read.len() - 1].0
    }

    fn whole(&self, svg: &mut String) {
        let bytes = self.read[self.read.len() - 1].1 as f64 / 1e6;
        let panel = Panel { number: 0, from: 0.0, until: self.end_s(), bottom: 0.0, top: bytes };
        panel.frame(svg, "The whole dump, MB", 1.0, "s", 1.0);
        panel.keys(svg, &[("sent", "sent"), ("read", "read")]);
        let mb =
            |curve: &[(f64, usize)]| curve.iter().map(|&(at, it)| (at, it as f64 / 1e6)).collect();
        panel.steps(svg, "sent", mb(&self.arrived));
        panel.steps(svg, "read", mb(&self.read));
    }

    fn unread(&self, svg: &mut String) {
        let panel = Panel { number: 1, from: 0.0, until: self.end_s(), bottom: 0.0, top: 70.0 };
        panel.frame(svg, "Not read yet, KB, and what is sent from proof to proof", 1.0, "s", 20.0);
        panel.keys(
            svg,
            &[("sent", "not read"), ("proven", "window"), ("limit", "what fails a client")],
        );
        let mut band = String::new();
        let (mut reads, mut read) = (self.read.iter().peekable(), 0);
        for pair in self.arrived.windows(2) {
            let (at, bytes) = pair[0];
            while let Some(&&(when, total)) = reads.peek()
                && when <= at
            {
                read = total;
                reads.next();
            }
            let unread = bytes.saturating_sub(read) as f64 / 1e3;
            let (x, width) = (panel.x(at), (panel.x(pair[1].0) - panel.x(at)).max(0.6));
            let y = panel.y(unread);
            let _ =
                write!(band, "M{x:.1} {:.1}V{y:.1}h{width:.1}V{:.1}z", panel.y(0.0), panel.y(0.0));
        }
        let _ = write!(svg, "<path class=\"band\" d=\"{band}\"/>");
        let kb = self.windows.iter().map(|&(at, it)| (at, it as f64 / 1e3)).collect();
        panel.steps(svg, "proven", kb);
        let limit = LIMIT_BYTES / 1e3;
        panel.steps(svg, "limit", vec![(panel.from, limit), (panel.until, limit)]);
    }

    fn zoom(&self, svg: &mut String) {
        let from = self.end_s() * ZOOM_AT;
        let until = from + ZOOM_S;
        let value = |curve: &[(f64, usize)], at: f64| {
            curve.iter().take_while(|it| it.0 <= at).last().map_or(0, |it| it.1) as f64
        };
        let base = value(&self.proven, from);
        let top = (value(&self.arrived, until) - base) / 1e3;
        let panel =
            Panel { number: 2, from: 0.0, until: ZOOM_S * 1e3, bottom: 0.0, top: top * 1.05 };
        panel.frame(svg, "30 ms of it, KB", 10.0, "ms", 50.0);
        panel.keys(svg, &[("sent", "sent"), ("read", "read"), ("proven", "proven to be read")]);
        for (class, curve) in
            [("sent", &self.arrived), ("read", &self.read), ("proven", &self.proven)]
        {
            let within = curve.iter().filter(|it| (from..until).contains(&it.0));
            let point = |at: f64, bytes: f64| ((at - from) * 1e3, (bytes - base).max(0.0) / 1e3);
            let mut points = vec![point(from, value(curve, from))];
            points.extend(within.map(|&(at, bytes)| point(at, bytes as f64)));
            points.push(point(until, value(curve, until)));
            panel.steps(svg, class, points);
        }
    }
}

struct Panel {
    number: usize,
    from: f64,
    until: f64,
    bottom: f64,
    top: f64,
}

impl Panel {
    fn x(&self, at: f64) -> f64 {
        LEFT + (at - self.from) / (self.until - self.from) * (RIGHT - LEFT)
    }

    fn y(&self, value: f64) -> f64 {
        let floor = TOP + self.number as f64 * STRIDE + PANEL;
        floor - (value - self.bottom) / (self.top - self.bottom) * PANEL
    }

    /// Title, grid and axes, with a line for each such step.
    fn frame(&self, svg: &mut String, title: &str, step_x: f64, unit: &str, step_y: f64) {
        let (above, below) = (self.y(self.top), self.y(self.bottom));
        let _ = write!(
            svg,
            "<text class=\"text title\" x=\"12\" y=\"{:.0}\">{title}</text>",
            above - 48.0
        );
        let step_x = if self.until - self.from < 2.5 * step_x { step_x / 4.0 } else { step_x };
        for step in 0..=((self.top - self.bottom) / step_y) as usize {
            let (value, y) = (step as f64 * step_y, self.y(step as f64 * step_y));
            let _ = write!(
                svg,
                "<line class=\"grid\" x1=\"{LEFT}\" x2=\"{RIGHT}\" y1=\"{y:.1}\" y2=\"{y:.1}\"/>\
                 <text class=\"soft\" text-anchor=\"end\" x=\"{:.0}\" y=\"{:.1}\">{value}</text>",
                LEFT - 8.0,
                y + 6.0
            );
        }
        for step in 0..=((self.until - self.from) / step_x) as usize {
            let at = self.from + step as f64 * step_x;
            let _ = write!(
                svg,
                "<text class=\"soft\" text-anchor=\"middle\" x=\"{:.1}\" y=\"{:.1}\">{at} {unit}</text>",
                self.x(at),
                below + 24.0
            );
        }
        let _ = write!(
            svg,
            "<line class=\"axis\" x1=\"{LEFT}\" x2=\"{LEFT}\" y1=\"{above:.1}\" y2=\"{below:.1}\"/>\
             <line class=\"axis\" x1=\"{LEFT}\" x2=\"{RIGHT}\" y1=\"{below:.1}\" y2=\"{below:.1}\"/>"
        );
    }

    fn keys(&self, svg: &mut String, keys: &[(&str, &str)]) {
        let mut x = LEFT;
        for (class, words) in keys {
            let y = self.y(self.top) - 18.0;
            let _ =
                write!(svg, "<text class=\"key {class}\" x=\"{x:.0}\" y=\"{y:.0}\">{words}</text>");
            x += 9.6 * words.len() as f64 + 30.0;
        }
    }

    /// A curve that goes in steps; points closer than half a unit are left out.
    fn steps(&self, svg: &mut String, class: &str, points: Vec<(f64, f64)>) {
        let mut path = String::new();
        let mut last: Option<(f64, f64)> = None;
        for (at, value) in points {
            let (x, y) = (self.x(at), self.y(value));
            match last {
                None => {
                    let _ = write!(path, "M{x:.1} {y:.1}");
                }
                Some(last) if (x - last.0).abs() < 0.5 && (y - last.1).abs() < 0.5 => continue,
                Some(_) => {
                    let _ = write!(path, "H{x:.1}V{y:.1}");
                }
            }
            last = Some((x, y));
        }
        let _ = write!(svg, "<path class=\"{class}\" d=\"{path}\"/>");
    }
}
