//! `show vnis`.
//!
//! Owns its columns.

use serde::Deserialize;

use super::screen::Screen;
use super::table::{Cell, Colour, Column};
use super::{ShowError, write_table};

/// `/vnis.json`.
#[derive(Deserialize)]
pub(super) struct Vnis {
    vnis: Vec<Row>,
}

#[derive(Deserialize)]
struct Row {
    vni: u32,
    routes: u64,
    #[serde(default)]
    sources: Option<u64>,
    #[serde(default)]
    subscribers: Option<u64>,
    #[serde(default)]
    slow_subscribers: Option<u64>,
    #[serde(default)]
    digest: Option<String>,
}

const COLUMNS: &[Column] = &[
    Column { name: "VNI", is_number: true, rank: 0 },
    Column { name: "ROUTES", is_number: true, rank: 0 },
    Column { name: "SOURCES", is_number: true, rank: 3 },
    Column { name: "SUBSCRIBERS", is_number: true, rank: 2 },
    Column { name: "SLOW", is_number: true, rank: 4 },
    Column { name: "DIGEST", is_number: false, rank: 5 },
];

/// A line for each; returns how many there are.
pub(super) fn vnis(told: Vnis, screen: &mut Screen) -> Result<u64, ShowError> {
    let row = |row: Row| {
        let slow = row.slow_subscribers.is_some_and(|slow| slow > 0);
        vec![
            Cell::new(row.vni.to_string()),
            Cell::new(row.routes.to_string()),
            Cell::of(row.sources),
            Cell::of(row.subscribers),
            Cell::of(row.slow_subscribers).coloured(slow.then_some(Colour::Unsettled)),
            Cell::of(row.digest),
        ]
    };
    let rows: Vec<Vec<Cell>> = told.vnis.into_iter().map(row).collect();
    write_table(COLUMNS, &rows, screen)?;
    Ok(rows.len() as u64)
}
