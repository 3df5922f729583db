//! `show peers` and `show peer`.
//!
//! Owns their columns.

use serde::Deserialize;
use serde_json::Value;

use super::screen::Screen;
use super::table::{Cell, Colour, Column};
use super::{ShowError, facts, units, write_table};
use crate::ask::AskError;

/// `/peers.json`.
#[derive(Deserialize)]
pub(super) struct Peers {
    peers: Vec<Peer>,
}

/// What is not told is not shown.
#[derive(Deserialize)]
struct Peer {
    address: String,
    state: String,
    #[serde(default)]
    direction: Option<String>,
    #[serde(default)]
    established_for_s: Option<u64>,
    #[serde(default)]
    reconnections_last_hour: Option<u64>,
    #[serde(default)]
    routes: Option<u64>,
    #[serde(default)]
    vnis: Option<Vec<u32>>,
    #[serde(default)]
    updates_received: Option<u64>,
    #[serde(default)]
    updates_sent: Option<u64>,
    #[serde(default)]
    pending_bytes: Option<u64>,
    #[serde(default)]
    slow_vnis: Option<u64>,
    #[serde(default)]
    slow_for_s: Option<u64>,
    #[serde(default)]
    paused: Option<bool>,
    #[serde(default)]
    pace: Option<String>,
}

const COLUMNS: &[Column] = &[
    Column { name: "ADDRESS", is_number: false, rank: 0 },
    Column { name: "STATE", is_number: false, rank: 0 },
    Column { name: "UP", is_number: true, rank: 1 },
    Column { name: "RECONNECTS/H", is_number: true, rank: 5 },
    Column { name: "ROUTES", is_number: true, rank: 2 },
    Column { name: "VNIS", is_number: true, rank: 6 },
    Column { name: "UPDATES-IN", is_number: true, rank: 8 },
    Column { name: "UPDATES-OUT", is_number: true, rank: 9 },
    Column { name: "PENDING", is_number: true, rank: 3 },
    Column { name: "SLOW-VNIS", is_number: true, rank: 4 },
    Column { name: "SLOW-FOR", is_number: true, rank: 7 },
    Column { name: "PAUSED", is_number: false, rank: 10 },
    Column { name: "DIRECTION", is_number: false, rank: 11 },
    Column { name: "PACE", is_number: false, rank: 12 },
];

/// A line for each; returns how many there are.
pub(super) fn all(told: Peers, screen: &mut Screen) -> Result<u64, ShowError> {
    let rows: Vec<Vec<Cell>> = told.peers.into_iter().map(row).collect();
    write_table(COLUMNS, &rows, screen)?;
    Ok(rows.len() as u64)
}

/// All about each connection of one address. Says so if there is none.
pub(super) fn one(
    told: &Value,
    url: &str,
    address: &str,
    is_shown: bool,
    screen: &mut Screen,
) -> Result<(), ShowError> {
    let peers = told.get("peers").and_then(Value::as_array);
    let why = "there are no \"peers\"".to_owned();
    let peers = peers.ok_or(AskError::Nonsense { url: url.to_owned(), why })?;
    if peers.is_empty() {
        screen.end()?;
        return Err(ShowError::NoPeer(address.to_owned()));
    }
    for (at, peer) in peers.iter().enumerate().filter(|_| is_shown) {
        if at > 0 {
            screen.line("")?;
        }
        facts::peer(peer, screen)?;
    }
    Ok(())
}

fn row(peer: Peer) -> Vec<Cell> {
    let colour = Colour::of_state(&peer.state);
    let unsettled = |is_so: bool| is_so.then_some(Colour::Unsettled);
    let slow = peer.slow_vnis.is_some_and(|slow| slow > 0);
    // As in the alerts: more than three an hour are too many.
    let flaps = peer.reconnections_last_hour.is_some_and(|times| times > 3);
    let paused = peer.paused.map(|is_so| if is_so { "yes" } else { "no" });
    vec![
        Cell::new(peer.address),
        Cell::new(peer.state).coloured(Some(colour)),
        Cell::of(peer.established_for_s.map(units::seconds)),
        Cell::of(peer.reconnections_last_hour).coloured(unsettled(flaps)),
        Cell::of(peer.routes),
        Cell::of(peer.vnis.map(|vnis| vnis.len())),
        Cell::of(peer.updates_received),
        Cell::of(peer.updates_sent),
        Cell::of(peer.pending_bytes.map(units::bytes)),
        Cell::of(peer.slow_vnis).coloured(unsettled(slow)),
        Cell::of(peer.slow_for_s.map(units::seconds))
            .coloured(unsettled(peer.slow_for_s.is_some())),
        Cell::of(paused).coloured(unsettled(paused == Some("yes"))),
        Cell::of(peer.direction),
        Cell::of(peer.pace),
    ]
}
