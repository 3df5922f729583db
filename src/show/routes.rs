//! `show routes`: as they come, so that a table of any length can be shown.
//!
//! Owns its columns. Must never hold more than the first rows.

use std::io::Read;

use metalbond_uring::types::{NextHopType, Route, Vni};

use super::ShowError;
use super::screen::Screen;
use super::table::{Cell, Column, Layout};
use crate::ask::{AskError, Shape, read_routes};

/// Rows that columns are as wide as; later ones may be wider.
const ROWS_MEASURED: usize = 1_000;

const COLUMNS: &[Column] = &[
    Column { name: "VNI", is_number: true, rank: 0 },
    Column { name: "DESTINATION", is_number: false, rank: 0 },
    Column { name: "NEXT-HOP", is_number: false, rank: 0 },
    Column { name: "TYPE", is_number: false, rank: 1 },
    Column { name: "NAT-PORTS", is_number: false, rank: 2 },
    Column { name: "TARGET-VNI", is_number: true, rank: 3 },
];

/// A line for each; returns how many there are, as far as they were read.
pub(super) fn routes(body: impl Read, url: &str, screen: &mut Screen) -> Result<u64, ShowError> {
    let mut list = List { screen, waiting: Vec::new(), layout: None, fault: None };
    let read = read_routes(body, &mut |vni, route, shape| list.take(row(vni, route, shape)));
    let is_enough = list.fault.is_some();
    if !is_enough && list.layout.is_none() {
        list.write_waiting()?;
    }
    match (list.fault, read) {
        (Some(Stop::Full), _) => Ok(ROWS_MEASURED as u64),
        (Some(Stop::Write(error)), _) => Err(error.into()),
        (None, Err(error)) => {
            // What came before stands above.
            list.screen.end()?;
            Err(AskError::of(url, error).into())
        }
        (None, Ok(told)) => {
            if told.unreadable > 0 {
                let entries = told.unreadable;
                list.screen
                    .note(&format!("left out, for they are no routes: {entries} entries"))?;
            }
            Ok(told.routes + told.unreadable)
        }
    }
}

/// Why no more is written.
enum Stop {
    /// The terminal is full.
    Full,
    Write(std::io::Error),
}

struct List<'a> {
    screen: &'a mut Screen,
    /// The first rows, until it is known how wide columns are.
    waiting: Vec<Vec<Cell>>,
    layout: Option<Layout>,
    fault: Option<Stop>,
}

impl List<'_> {
    fn take(&mut self, row: Vec<Cell>) -> std::io::Result<()> {
        let written = match &self.layout {
            Some(layout) => self.screen.line(&layout.line(&row)),
            None => {
                self.waiting.push(row);
                if self.waiting.len() < ROWS_MEASURED {
                    return Ok(());
                }
                self.write_waiting()
            }
        };
        let stop = match written {
            Ok(true) => return Ok(()),
            Ok(false) => Stop::Full,
            Err(error) => Stop::Write(error),
        };
        self.fault = Some(stop);
        Err(std::io::Error::other("no more is written"))
    }

    fn write_waiting(&mut self) -> std::io::Result<bool> {
        let Screen { width, has_colours, .. } = *self.screen;
        let layout = Layout::new(COLUMNS, &self.waiting, width, has_colours);
        let mut is_room = self.screen.line(&layout.heading())?;
        for row in self.waiting.drain(..) {
            is_room = is_room && self.screen.line(&layout.line(&row))?;
        }
        self.layout = Some(layout);
        Ok(is_room)
    }
}

fn row(vni: Vni, route: &Route, shape: Shape) -> Vec<Cell> {
    let hop = &route.next_hop;
    let is_told = shape == Shape::Full;
    let kind = match hop.kind {
        NextHopType::STANDARD => "STD".to_owned(),
        NextHopType::NAT => "NAT".to_owned(),
        NextHopType::LOAD_BALANCER_TARGET => "LB".to_owned(),
        NextHopType(other) => other.to_string(),
    };
    let ports = (hop.nat_port_from, hop.nat_port_to);
    let has_ports = ports != (0, 0) || hop.kind == NextHopType::NAT;
    vec![
        Cell::new(vni.to_string()),
        Cell::new(route.destination.to_string()),
        Cell::new(hop.address.to_string()),
        Cell::of(is_told.then_some(kind)),
        Cell::of((is_told && has_ports).then(|| format!("{}-{}", ports.0, ports.1))),
        Cell::of((hop.vni != Vni(0)).then_some(hop.vni)),
    ]
}
