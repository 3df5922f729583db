//! `fabric status`.
//!
//! Owns the columns of the other reflectors.

use serde::Deserialize;
use serde_json::{Map, Value};

use super::screen::Screen;
use super::table::{Cell, Colour, Column};
use super::{ShowError, facts, units, write_table};

/// `/fabric.json`.
#[derive(Deserialize)]
pub(super) struct Fabric {
    #[serde(default)]
    reflectors: Vec<Reflector>,
    /// Whatever else.
    #[serde(flatten)]
    facts: Map<String, Value>,
}

/// What is not told is not shown.
#[derive(Deserialize)]
struct Reflector {
    name: String,
    state: String,
    #[serde(default)]
    stale_for_s: Option<u64>,
    #[serde(default)]
    records: Option<u64>,
    #[serde(default)]
    records_former: Option<u64>,
    #[serde(default)]
    generation: Option<u64>,
    #[serde(default)]
    digest_misses: Option<u64>,
}

const COLUMNS: &[Column] = &[
    Column { name: "REFLECTOR", is_number: false, rank: 0 },
    Column { name: "STATE", is_number: false, rank: 0 },
    Column { name: "STAYS-FOR", is_number: true, rank: 3 },
    Column { name: "ROUTES", is_number: true, rank: 1 },
    Column { name: "FORMER", is_number: true, rank: 2 },
    Column { name: "GENERATION", is_number: true, rank: 5 },
    Column { name: "DIGEST-MISSES", is_number: true, rank: 4 },
];

/// The node's part, then a line for each of the others.
pub(super) fn fabric(told: Fabric, screen: &mut Screen) -> Result<(), ShowError> {
    facts::fabric(&told.facts, screen)?;
    screen.line("")?;
    if told.reflectors.is_empty() {
        screen.line("no other reflector")?;
        return Ok(());
    }
    let rows: Vec<Vec<Cell>> = told.reflectors.into_iter().map(row).collect();
    write_table(COLUMNS, &rows, screen)
}

fn row(told: Reflector) -> Vec<Cell> {
    let colour = Colour::of_state(&told.state);
    let misses = told.digest_misses.is_some_and(|misses| misses > 0);
    vec![
        Cell::new(told.name),
        Cell::new(told.state).coloured(Some(colour)),
        Cell::new(told.stale_for_s.map(units::seconds).unwrap_or_default()),
        Cell::of(told.records),
        Cell::of(told.records_former),
        Cell::of(told.generation),
        Cell::of(told.digest_misses).coloured(misses.then_some(Colour::Bad)),
    ]
}
