//! A curve as a drawing: SVG, on a white ground so that it reads on any page.
//!
//! Owns the layout. Must never compute a figure.

use std::path::Path;

use anyhow::anyhow;
use metalbond_uring_compare::summary::short;
use plotters::coord::Shift;
use plotters::prelude::*;

use crate::curve::{Curve, Goal, Limit, Line, Measured, count};

const SIZE: (u32, u32) = (900, 420);
/// Where the legend begins.
const LEGEND_AT: u32 = 620;
const FONT: &str = "sans-serif";
const INK: RGBColor = RGBColor(29, 33, 38);
const GRID: RGBColor = RGBColor(227, 229, 232);
/// Apart from each other for most colour-blind eyes too.
const COLOURS: [RGBColor; 4] =
    [RGBColor(27, 108, 168), RGBColor(194, 87, 26), RGBColor(46, 125, 50), RGBColor(123, 63, 160)];

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;
/// What plotters says of a file that it cannot write.
type Failure = DrawingAreaErrorKind<std::io::Error>;

/// Draws all that was measured, if anything was.
///
/// # Errors
/// If the file cannot be written.
pub fn draw(curve: &Curve, measured: &Measured, path: &Path) -> anyhow::Result<()> {
    if measured.lines.is_empty() {
        return Ok(());
    }
    let area = SVGBackend::new(path, SIZE).into_drawing_area();
    let drawn = on_area(curve, measured, &area).and_then(|()| area.present());
    drawn.map_err(|error| anyhow!("{}: {error}", path.display()))
}

/// A dashed line: how high, its colour, the places that it is meant for, and what is said of it.
struct Dashed {
    value: f64,
    colour: RGBColor,
    places: Vec<String>,
    limit: String,
}

fn on_area(curve: &Curve, measured: &Measured, area: &Area<'_>) -> Result<(), Failure> {
    area.fill(&WHITE)?;
    let dashed = dashed(curve, measured);
    let places = places(&measured.lines);
    let (first, last) = (places[0], places[places.len() - 1]);
    // A little air at both sides, whatever the range.
    let air = (last / first).powf(0.05).max(1.05);
    let points = measured.lines.iter().flat_map(|line| &line.points);
    let highest = points.map(|point| point.summary().highest);
    let top = dashed.iter().map(|it| it.value).chain(highest).fold(0.0, f64::max) * 1.1;
    let (left, right) = area.split_horizontally(LEGEND_AT);
    let mut chart = ChartBuilder::on(&left)
        .caption(curve.title, (FONT, 19).into_font().color(&INK))
        .margin(12)
        .x_label_area_size(48)
        .y_label_area_size(72)
        .build_cartesian_2d(
            (first / air..last * air).log_scale().with_key_points(places),
            0.0..top.max(1e-9),
        )?;
    chart
        .configure_mesh()
        .bold_line_style(GRID)
        .light_line_style(TRANSPARENT)
        .axis_style(INK)
        .x_desc(curve.x_title)
        .y_desc(curve.y_title)
        .x_label_formatter(&|&x| count(x.round() as u64))
        .y_label_formatter(&|&y| tick(y))
        .label_style((FONT, 13).into_font().color(&INK))
        .axis_desc_style((FONT, 14).into_font().color(&INK))
        .draw()?;
    for Dashed { value, colour, .. } in &dashed {
        let ends = [(first / air, *value), (last * air, *value)];
        chart.draw_series(DashedLineSeries::new(ends, 7, 5, colour.stroke_width(1)))?;
    }
    for (line, colour) in measured.lines.iter().zip(COLOURS.into_iter().cycle()) {
        let bars = line.points.iter().map(|point| (point.x as f64, point.summary()));
        chart.draw_series(LineSeries::new(
            bars.clone().map(|(x, it)| (x, it.median)),
            colour.stroke_width(2),
        ))?;
        chart.draw_series(bars.map(|(x, it)| {
            ErrorBar::new_vertical(x, it.lowest, it.median, it.highest, colour.filled(), 8)
        }))?;
    }
    legend(measured, &dashed, &right)
}

/// Names beside the lines' colours, in the order from top to bottom at the right end; then the goals.
fn legend(measured: &Measured, dashed: &[Dashed], area: &Area<'_>) -> Result<(), Failure> {
    let style = (FONT, 13).into_font().color(&INK);
    let mut y = 50;
    let mut lines: Vec<(&Line, RGBColor)> =
        measured.lines.iter().zip(COLOURS.into_iter().cycle()).collect();
    let end = |line: &Line| line.points.last().map_or(0.0, |it| it.summary().median);
    lines.sort_by(|(a, _), (b, _)| end(b).total_cmp(&end(a)));
    for (line, colour) in lines {
        area.draw(&PathElement::new([(4, y), (28, y)], colour.stroke_width(2)))?;
        area.draw(&Circle::new((16, y), 4, colour.filled()))?;
        area.draw(&Text::new(line.name.clone(), (36, y - 6), style.clone()))?;
        y += 24;
    }
    let label = |it: &Dashed| format!("goal at {}: {}", it.places.join(", "), it.limit);
    let mut labels: Vec<String> = dashed.iter().map(label).collect();
    labels.dedup();
    for label in labels {
        for x in [4, 16] {
            area.draw(&PathElement::new([(x, y), (x + 7, y)], INK.stroke_width(1)))?;
        }
        area.draw(&Text::new(label, (36, y - 6), style.clone()))?;
        y += 24;
    }
    area.draw(&Text::new("points: medians; bars: lowest and highest", (4, y), style))
}

/// The goals to draw: those in the unit of the axis, or else those against another place.
fn dashed(curve: &Curve, measured: &Measured) -> Vec<Dashed> {
    let absolute = |goal: &&Goal| matches!(goal.limit, Limit::Value(_));
    let has_absolute = curve.goals.iter().any(|goal| absolute(&goal));
    let mut dashed: Vec<Dashed> = Vec::new();
    for goal in curve.goals.iter().filter(|goal| !has_absolute || absolute(goal)) {
        let Some(value) = goal.limit_value(measured) else { continue };
        let limit = match &goal.limit {
            Limit::Value(value) => format!("{value} {}", curve.unit),
            Limit::Times(times, of) => format!("{times} times that at {}", count(of.x)),
        };
        let line = measured.lines.iter().position(|line| line.name == goal.at.line);
        let colour = if has_absolute { INK } else { COLOURS[line.unwrap_or(0) % COLOURS.len()] };
        let place = count(goal.at.x);
        match dashed.iter_mut().find(|it| it.value == value && it.colour == colour) {
            Some(it) if it.places.contains(&place) => {}
            Some(it) => it.places.push(place),
            None => dashed.push(Dashed { value, colour, places: vec![place], limit }),
        }
    }
    dashed
}

/// All places on the x axis, ascending.
fn places(lines: &[Line]) -> Vec<f64> {
    let mut places: Vec<u64> =
        lines.iter().flat_map(|line| &line.points).map(|point| point.x).collect();
    places.sort_unstable();
    places.dedup();
    places.into_iter().map(|x| x as f64).collect()
}

fn tick(value: f64) -> String {
    if value == 0.0 { "0".to_owned() } else { short(value) }
}
