//! What came out, as text and as JSON.
//!
//! Owns the layout of both. Must never judge: the curves do.

use metalbond_uring_compare::summary::aligned;
use serde_json::{Value, json};

use crate::curve::{Curve, Judgement, Measured, count};

/// The medians of a curve with their spread, and what failed.
pub fn values(curve: &Curve, measured: &Measured, rounds: u32) -> String {
    let mut text = format!("{}: {} [{}]\n", curve.name, curve.title, curve.y_title);
    let mut places: Vec<u64> =
        measured.lines.iter().flat_map(|line| &line.points).map(|point| point.x).collect();
    places.sort_unstable();
    places.dedup();
    let mut rows = vec![vec![curve.x_title.to_owned()]];
    rows[0].extend(places.iter().map(|&x| count(x)));
    for line in &measured.lines {
        let cell = |x: &u64| {
            let point = line.points.iter().find(|point| point.x == *x);
            let runs = rounds * curve.runs_per_round;
            point.map_or_else(|| "-".to_owned(), |point| point.summary().cell(runs))
        };
        rows.push(std::iter::once(line.name.clone()).chain(places.iter().map(cell)).collect());
    }
    text += &aligned(&rows);
    for (run, why) in &measured.failures {
        text += &format!("FAILED: {run}: {why}\n");
    }
    text
}

/// The goals of all curves: the figure, the goal, met or not.
pub fn goals(curves: &[(&Curve, &Measured)]) -> String {
    let mut rows = vec![["curve: what", "figure", "goal", ""].map(str::to_owned).to_vec()];
    for (curve, measured) in curves {
        for judgement in judgements(curve, measured) {
            let [what, cells @ ..] = judgement.cells();
            rows.push([vec![format!("{}: {what}", curve.name)], cells.to_vec()].concat());
        }
    }
    aligned(&rows)
}

/// All of a curve.
pub fn json(curve: &Curve, measured: &Measured, rounds: u32, is_quick: bool) -> Value {
    let line = |line: &crate::curve::Line| {
        let points = line.points.iter().map(|point| {
            let it = point.summary();
            json!({
                "x": point.x,
                "median": it.median,
                "lowest": it.lowest,
                "highest": it.highest,
                "values": point.values,
            })
        });
        json!({"name": line.name, "points": points.collect::<Vec<_>>()})
    };
    let judged = |it: Judgement| {
        json!({
            "what": it.what,
            "figure": it.figure,
            "goal": it.goal,
            "unit": it.unit,
            "met": it.is_met,
        })
    };
    let failure = |(run, why): &(String, String)| json!({"run": run, "why": why});
    json!({
        "title": curve.title,
        "x": curve.x_title,
        "y": curve.y_title,
        "rounds": rounds,
        "runs_per_round": curve.runs_per_round,
        "quick": is_quick,
        "lines": measured.lines.iter().map(line).collect::<Vec<_>>(),
        "goals": judgements(curve, measured).map(judged).collect::<Vec<_>>(),
        "failures": measured.failures.iter().map(failure).collect::<Vec<_>>(),
    })
}

fn judgements(curve: &Curve, measured: &Measured) -> impl Iterator<Item = Judgement> {
    curve.goals.iter().map(|goal| goal.judge(measured, curve.unit))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::curve::{Goal, Sample};

    #[test]
    fn figures_goals_and_failures_are_told() {
        let curve = Curve {
            name: "c",
            title: "Title",
            x_title: "routes",
            y_title: "ns for each",
            unit: "ns",
            jobs: Vec::new(),
            runs_per_round: 1,
            goals: vec![Goal::at_most("a", 10, 2.0), Goal::within("a", 10, 1.5, 1)],
        };
        let mut measured = Measured::default();
        for (x, value) in [(1, 1.0), (10, 1.0), (10, 3.0)] {
            measured.take(vec![Sample { line: "a".to_owned(), x, value }]);
        }
        measured.failures.push(("a, 1".to_owned(), "why".to_owned()));
        let text = values(&curve, &measured, 2);
        assert!(text.contains("2.00 (1.00-3.00)\n"), "{text}");
        assert!(text.contains("1.00 (1.00-1.00) 1 missing"), "{text}");
        assert!(text.ends_with("FAILED: a, 1: why\n"), "{text}");
        let text = goals(&[(&curve, &measured)]);
        assert!(text.contains("2.00 ns       at most 2 ns      met\n"), "{text}");
        assert!(text.contains("2.00 times  at most 1.5 times  NOT met\n"), "{text}");
        let json = json(&curve, &measured, 2, false);
        assert_eq!(json["lines"][0]["points"][1]["median"], 2.0);
        assert_eq!(
            (&json["goals"][0]["met"], &json["goals"][1]["met"]),
            (&json!(true), &json!(false))
        );
        assert_eq!(json["failures"][0]["run"], "a, 1");
    }
}
