//! `show summary` and one peer: names and figures, one a line.
//!
//! Owns their order, and the units that names tell. Whatever a node tells is shown, also what this program has never
//! heard of. Must never be deeper than an answer.

use serde_json::{Map, Value};
use unicode_width::UnicodeWidthStr;

use super::screen::Screen;
use super::table::{Cell, Colour, Column, Layout};
use super::{ShowError, units};

/// What comes first in a summary; anything else follows.
const SUMMARY: &[&str] = &[
    "version",
    "uptime_s",
    "peers/established",
    "peers/slow",
    "routes",
    "vnis",
    "pending_bytes",
    "fabric",
    "memory",
    "propagation_us",
    "since_start/updates_received",
    "since_start/updates_sent",
];
/// What is left out of a summary where it says nothing: pacing that never was, servers that only a client has, memory
/// that nobody watches, a fabric that it does not belong to.
const SILENT: &[&str] = &["fabric", "memory", "pacing", "servers"];
/// The same of a peer.
const PEER: &[&str] = &["address", "id", "state", "class", "direction", "established_for_s"];
/// The same of a fabric.
const FABRIC: &[&str] = &["fabric", "name", "state", "trouble", "server", "stream"];
/// Columns of a pipe that a list is broken at.
const PIPE_WIDTH: usize = 100;
/// The least room for a list.
const LIST_WIDTH_MIN: usize = 20;

const COLUMNS: &[Column] = &[
    Column { name: "", is_number: false, rank: 0 },
    Column { name: "", is_number: false, rank: 0 },
];

/// The node in figures.
pub(super) fn summary(told: &Map<String, Value>, screen: &mut Screen) -> Result<(), ShowError> {
    let mut told = told.clone();
    told.retain(|name, value| !SILENT.contains(&name.as_str()) || !says_nothing(value));
    write(&told, SUMMARY, screen)
}

/// A node's part in its fabric.
pub(super) fn fabric(told: &Map<String, Value>, screen: &mut Screen) -> Result<(), ShowError> {
    let mut told = told.clone();
    // What is none is not told: no trouble, no twin.
    told.retain(|_, value| !value.is_null());
    write(&told, FABRIC, screen)
}

/// One connection.
pub(super) fn peer(told: &Value, screen: &mut Screen) -> Result<(), ShowError> {
    let empty = Map::new();
    write(told.as_object().unwrap_or(&empty), PEER, screen)
}

fn write(told: &Map<String, Value>, first: &[&str], screen: &mut Screen) -> Result<(), ShowError> {
    let mut facts = Vec::new();
    for (name, value) in told {
        collect(name, value, &mut facts);
    }
    let is_of = |path: &str, it: &str| {
        path.strip_prefix(it).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    };
    let rank = |path: &str| first.iter().position(|it| is_of(path, it)).unwrap_or(first.len());
    facts.sort_by_key(|fact| rank(&fact.path));
    let label_width = facts.iter().map(|fact| fact.label.width()).max().unwrap_or(0);
    let room = screen.width.unwrap_or(PIPE_WIDTH).saturating_sub(label_width + 2);
    let number_width =
        facts.iter().filter(|fact| fact.is_number).map(|fact| fact.text.width()).max().unwrap_or(0);
    let mut rows = Vec::new();
    for fact in facts {
        let mut label = fact.label;
        let text = match fact.is_number {
            true => format!("{:>number_width$}", fact.text),
            false => fact.text,
        };
        for line in broken(&text, room.max(LIST_WIDTH_MIN)) {
            rows.push(vec![
                blank(&std::mem::take(&mut label)),
                Cell::new(line).coloured(fact.colour),
            ]);
        }
    }
    let layout = Layout::new(COLUMNS, &rows, screen.width, screen.has_colours);
    for row in &rows {
        if !screen.line(&layout.line(row))? {
            break;
        }
    }
    Ok(())
}

/// Null, 0, or nothing but those.
fn says_nothing(value: &Value) -> bool {
    match value {
        Value::Object(map) => map.values().all(says_nothing),
        value => value.is_null() || value.as_u64() == Some(0),
    }
}

/// A label, which may be empty: a list goes on.
fn blank(label: &str) -> Cell {
    Cell::new(if label.is_empty() { " " } else { label })
}

struct Fact {
    path: String,
    label: String,
    text: String,
    is_number: bool,
    colour: Option<Colour>,
}

/// Whatever lies below a name.
fn collect(path: &str, value: &Value, facts: &mut Vec<Fact>) {
    if let Value::Object(map) = value {
        for (name, value) in map {
            collect(&format!("{path}/{name}"), value, facts);
        }
        return;
    }
    let (label, unit) = label_of(path);
    let text = match (value.as_u64(), value) {
        (Some(number), _) => unit(number),
        (None, Value::Null) => String::new(),
        (None, Value::String(text)) => text.clone(),
        (None, Value::Array(values)) => list(values),
        (None, other) => other.to_string(),
    };
    let is_state = path == "state";
    facts.push(Fact {
        path: path.to_owned(),
        label,
        is_number: value.is_number(),
        colour: is_state.then(|| Colour::of_state(&text)),
        text,
    });
}

fn list(values: &[Value]) -> String {
    let texts = values.iter().map(|value| match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    });
    texts.collect::<Vec<_>>().join(", ")
}

/// A name as it is read, and how its figure is written.
fn label_of(path: &str) -> (String, fn(u64) -> String) {
    let plain: fn(u64) -> String = |number| number.to_string();
    let (group, name) = path.rsplit_once('/').unwrap_or(("", path));
    let (path, unit) = if group.ends_with("_us") && name != "samples" {
        (path.replace("_us/", "/"), units::micros as fn(u64) -> String)
    } else if group.ends_with("_us") {
        (path.replace("_us/", "/"), plain)
    } else if path.contains("bytes") {
        (path.to_owned(), units::bytes as fn(u64) -> String)
    } else if let Some(bare) = path.strip_suffix("_for_s") {
        (format!("{bare}_for"), units::seconds as fn(u64) -> String)
    } else if let Some(bare) = path.strip_suffix("_s") {
        (bare.to_owned(), units::seconds as fn(u64) -> String)
    } else {
        (path.to_owned(), plain)
    };
    (path.replace(['_', '/'], " "), unit)
}

/// A list in lines of so many columns.
fn broken(text: &str, width: usize) -> Vec<String> {
    if text.width() <= width || !text.contains(", ") {
        return vec![text.to_owned()];
    }
    let mut lines = vec![String::new()];
    for part in text.split_inclusive(", ") {
        let line = lines.last_mut().expect("there is always one");
        if !line.is_empty() && line.width() + part.trim_end().width() > width {
            lines.push(part.to_owned());
        } else {
            line.push_str(part);
        }
    }
    lines.into_iter().map(|line| line.trim_end().to_owned()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_tell_units() {
        let shown = |path: &str, number| {
            let (label, unit) = label_of(path);
            format!("{label}: {}", unit(number))
        };
        for (path, number, text) in [
            ("uptime_s", 3_661, "uptime: 1h01m"),
            ("established_for_s", 5, "established for: 5s"),
            ("pending_bytes", 2_048, "pending bytes: 2.0KiB"),
            ("memory_bytes/logs", 5, "memory bytes logs: 5B"),
            ("since_start/bytes_sent", 1_024, "since start bytes sent: 1.0KiB"),
            ("propagation_us/p99", 1_500, "propagation p99: 1.5ms"),
            ("propagation_us/samples", 1_500, "propagation samples: 1500"),
            ("peers/established", 7, "peers established: 7"),
        ] {
            assert_eq!(shown(path, number), text);
        }
    }

    #[test]
    fn long_lists_are_broken() {
        assert_eq!(broken("1, 22, 333", 6), ["1, 22,", "333"]);
        assert_eq!(broken("1, 22, 333", 10), ["1, 22, 333"]);
        assert_eq!(broken("no list at all", 5), ["no list at all"]);
        assert_eq!(broken("12345, 1", 3), ["12345,", "1"]);
    }
}
