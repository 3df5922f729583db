//! A curve: what is run for it, what came out, and what it is judged by.
//!
//! Owns the values and the judging. Must never call a goal met that has no figure.

use metalbond_uring_compare::binaries::Binaries;
use metalbond_uring_compare::summary::{Summary, short};

/// One measured value: a line's, at a place of the axis.
#[derive(Clone, Debug)]
pub struct Sample {
    /// The line's name.
    pub line: String,
    /// Where on the x axis.
    pub x: u64,
    /// The value, in the unit of the y axis.
    pub value: f64,
}

/// Measures once.
pub type Measure = Box<dyn Fn(&Binaries) -> anyhow::Result<Vec<Sample>>>;

/// What is measured at a time, with a fresh server or core.
pub struct Job {
    /// Its name in messages.
    pub name: String,
    /// What it does.
    pub measure: Measure,
}

/// A place on a line.
#[derive(Clone, Debug)]
pub struct At {
    /// The line's name.
    pub line: String,
    /// Where on the x axis.
    pub x: u64,
}

/// What the median at a place may be at most.
#[derive(Clone, Debug)]
pub enum Limit {
    /// So much, in the unit of the y axis.
    Value(f64),
    /// So many times the median at another place.
    Times(f64, At),
}

/// What a curve is judged by.
#[derive(Clone, Debug)]
pub struct Goal {
    /// What is judged.
    pub at: At,
    /// By what.
    pub limit: Limit,
}

/// What is measured, its axes and its goals.
pub struct Curve {
    /// The name of its files and for `--only`.
    pub name: &'static str,
    /// Above the plot.
    pub title: &'static str,
    /// What grows.
    pub x_title: &'static str,
    /// What it costs, with its unit.
    pub y_title: &'static str,
    /// The unit of a value in the table of goals.
    pub unit: &'static str,
    /// What is run.
    pub jobs: Vec<Job>,
    /// How often each is run in a round: more where runs differ much.
    pub runs_per_round: u32,
    /// What it is judged by.
    pub goals: Vec<Goal>,
}

/// All values of a place.
#[derive(Clone, Debug)]
pub struct Point {
    /// Where on the x axis.
    pub x: u64,
    /// A value for each run that succeeded; never empty.
    pub values: Vec<f64>,
}

/// All places of a line, in the order of x.
#[derive(Clone, Debug)]
pub struct Line {
    /// Its name.
    pub name: String,
    /// Its points.
    pub points: Vec<Point>,
}

/// What was measured of a curve.
#[derive(Default)]
pub struct Measured {
    /// The lines, in the order in which they were first heard of.
    pub lines: Vec<Line>,
    /// Runs that failed: their name and why.
    pub failures: Vec<(String, String)>,
}

/// A goal with its figure.
#[derive(Clone, PartialEq, Debug)]
pub struct Judgement {
    /// What is judged, in words.
    pub what: String,
    /// The figure with its unit, or None if a run that it takes failed.
    pub figure: Option<f64>,
    /// What it may be at most.
    pub goal: f64,
    /// The unit of both.
    pub unit: &'static str,
    /// Whether there is a figure and it is not above the goal.
    pub is_met: bool,
}

impl At {
    /// A place.
    pub fn new(line: &str, x: u64) -> At {
        At { line: line.to_owned(), x }
    }
}

impl Goal {
    /// At most so much, in the unit of the y axis.
    pub fn at_most(line: &str, x: u64, value: f64) -> Goal {
        Goal { at: At::new(line, x), limit: Limit::Value(value) }
    }

    /// At most so many times what it is elsewhere on the same line.
    pub fn within(line: &str, x: u64, times: f64, of: u64) -> Goal {
        Goal { at: At::new(line, x), limit: Limit::Times(times, At::new(line, of)) }
    }

    /// The limit in the unit of the y axis, if what it depends on was measured.
    pub fn limit_value(&self, measured: &Measured) -> Option<f64> {
        match &self.limit {
            Limit::Value(value) => Some(*value),
            Limit::Times(times, of) => Some(times * measured.summary(of)?.median),
        }
    }

    /// The figure and the verdict.
    pub fn judge(&self, measured: &Measured, unit: &'static str) -> Judgement {
        let value = measured.summary(&self.at).map(|it| it.median);
        let At { line, x } = &self.at;
        let (what, figure, goal, unit) = match &self.limit {
            Limit::Value(goal) => (format!("{line}, {}", count(*x)), value, *goal, unit),
            Limit::Times(times, of) => {
                let base = measured.summary(of).map(|it| it.median).filter(|&base| base > 0.0);
                let figure = value.zip(base).map(|(value, base)| value / base);
                let what = format!("{line}, {} against {}", count(*x), count(of.x));
                (what, figure, *times, "times")
            }
        };
        let is_met = figure.is_some_and(|figure| figure <= goal);
        Judgement { what, figure, goal, unit, is_met }
    }
}

impl Measured {
    /// Takes what a run brought.
    pub fn take(&mut self, samples: Vec<Sample>) {
        for Sample { line, x, value } in samples {
            let at = self.lines.iter().position(|it| it.name == line).unwrap_or_else(|| {
                self.lines.push(Line { name: line, points: Vec::new() });
                self.lines.len() - 1
            });
            let points = &mut self.lines[at].points;
            match points.binary_search_by_key(&x, |point| point.x) {
                Ok(found) => points[found].values.push(value),
                Err(place) => points.insert(place, Point { x, values: vec![value] }),
            }
        }
    }

    /// The values at a place, if there are any.
    pub fn summary(&self, at: &At) -> Option<Summary> {
        let line = self.lines.iter().find(|line| line.name == at.line)?;
        line.points.iter().find(|point| point.x == at.x).map(Point::summary)
    }
}

impl Point {
    /// Median and spread.
    pub fn summary(&self) -> Summary {
        Summary::of(&self.values).expect("a point is made with a value")
    }
}

impl Judgement {
    /// The cells of its row: what, figure, goal, verdict.
    pub fn cells(&self) -> [String; 4] {
        let Judgement { what, figure, goal, unit, is_met } = self;
        let figure = figure.map_or_else(|| "none".to_owned(), |it| format!("{} {unit}", short(it)));
        let verdict = if *is_met { "met" } else { "NOT met" };
        [what.clone(), figure, format!("at most {goal} {unit}"), verdict.to_owned()]
    }
}

/// A number as it stands at an axis: 5000, 10 k, 1 M.
pub fn count(number: u64) -> String {
    match number {
        it if it >= 1_000_000 && it % 100_000 == 0 => format!("{} M", it as f64 / 1e6),
        it if it >= 10_000 && it % 100 == 0 => format!("{} k", it as f64 / 1e3),
        it => it.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A line "a" with three runs each at 10 and at 100.
    fn measured() -> Measured {
        let mut measured = Measured::default();
        for (x, values) in [(100, [3.0, 4.0, 90.0]), (10, [2.0, 1.0, 3.0])] {
            for value in values {
                measured.take(vec![Sample { line: "a".to_owned(), x, value }]);
            }
        }
        measured
    }

    #[test]
    fn points_are_in_the_order_of_their_axis() {
        let measured = measured();
        assert_eq!(measured.lines.len(), 1);
        let points = &measured.lines[0].points;
        assert_eq!(points.iter().map(|it| it.x).collect::<Vec<_>>(), [10, 100]);
        let summary = points[1].summary();
        assert_eq!((summary.median, summary.lowest, summary.highest), (4.0, 3.0, 90.0));
    }

    #[test]
    fn medians_are_judged_against_a_value() {
        let judged = |limit| Goal::at_most("a", 100, limit).judge(&measured(), "ns");
        assert_eq!(judged(3.9).cells(), ["a, 100", "4.00 ns", "at most 3.9 ns", "NOT met"]);
        assert!(!judged(3.9).is_met);
        assert!(judged(4.0).is_met, "the limit itself is allowed");
    }

    #[test]
    fn medians_are_judged_against_another_place() {
        let judged = |times| Goal::within("a", 100, times, 10).judge(&measured(), "ns");
        let words = ["a, 100 against 10", "2.00 times", "at most 1.9 times", "NOT met"];
        assert_eq!(judged(1.9).cells(), words);
        assert!(judged(2.0).is_met);
        assert_eq!(Goal::within("a", 100, 1.5, 10).limit_value(&measured()), Some(3.0));
    }

    #[test]
    fn what_was_not_measured_is_not_met() {
        let nothing = Measured::default();
        for goal in [Goal::at_most("a", 100, 9.0), Goal::within("a", 100, 9.0, 10)] {
            let judged = goal.judge(&nothing, "ns");
            assert_eq!((judged.figure, judged.is_met), (None, false));
            assert_eq!(judged.cells()[3], "NOT met");
        }
        let goal = Goal::within("a", 100, 9.0, 7);
        assert!(!goal.judge(&measured(), "ns").is_met, "the base is missing");
        let mut zero = measured();
        zero.take(vec![Sample { line: "a".to_owned(), x: 7, value: 0.0 }]);
        assert_eq!(goal.judge(&zero, "ns").figure, None, "no multiple of nothing");
        let mut odd = Measured::default();
        odd.take(vec![Sample { line: "a".to_owned(), x: 1, value: f64::NAN }]);
        assert!(!Goal::at_most("a", 1, 9.0).judge(&odd, "ns").is_met);
    }

    #[test]
    fn counts_are_short() {
        let words = [1, 1_000, 5_000, 10_000, 100_000, 1_000_000, 2_500_000].map(count);
        assert_eq!(words, ["1", "1000", "5000", "10 k", "100 k", "1 M", "2.5 M"]);
        assert_eq!(count(12_345), "12345");
    }
}
