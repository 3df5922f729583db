//! Tables of text: columns in line, as wide as there is room.
//!
//! Owns widths and what is left out. Must never let a text of others reach a terminal as it is.

use unicode_width::{UnicodeWidthChar, UnicodeWidthStr};

use crate::ask::plain;

/// Between columns.
const GAP: &str = "  ";
/// Stands for nothing, so that each line has as many words.
const NOTHING: &str = "-";

/// A column.
pub(super) struct Column {
    pub(super) name: &'static str,
    /// Numbers stand at the right.
    pub(super) is_number: bool,
    /// Where there is no room the column with the highest rank goes first; 0 never goes.
    pub(super) rank: u8,
}

/// What a colour says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Colour {
    Good,
    Unsettled,
    Bad,
    Heading,
}

/// One field.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Cell {
    text: String,
    colour: Option<Colour>,
}

/// Which columns are shown, and how wide.
pub(super) struct Layout {
    columns: Vec<Shown>,
    line_width: Option<usize>,
    has_colours: bool,
}

struct Shown {
    /// Its place among all columns.
    at: usize,
    name: &'static str,
    is_number: bool,
    width: usize,
}

impl Colour {
    /// That of a session's state.
    pub(super) fn of_state(state: &str) -> Colour {
        match state {
            "established" | "synced" => Colour::Good,
            "closed" | "retry" | "unlinked" | "fenced" | "gone" | "stale" | "lost" => Colour::Bad,
            _ => Colour::Unsettled,
        }
    }
}

impl Cell {
    pub(super) fn new(text: impl AsRef<str>) -> Cell {
        let text = plain(text.as_ref());
        Cell { text: if text.is_empty() { NOTHING.to_owned() } else { text }, colour: None }
    }

    /// Nothing, where it is not known.
    pub(super) fn of<T: ToString>(value: Option<T>) -> Cell {
        Cell::new(value.map(|value| value.to_string()).unwrap_or_default())
    }

    pub(super) fn coloured(mut self, colour: Option<Colour>) -> Cell {
        self.colour = colour;
        self
    }
}

impl Layout {
    /// For these rows, and others like them; `line_width` is the terminal's, if it is one.
    pub(super) fn new(
        columns: &[Column],
        rows: &[Vec<Cell>],
        line_width: Option<usize>,
        has_colours: bool,
    ) -> Layout {
        let mut shown: Vec<Shown> = (columns.iter().enumerate())
            .map(|(at, column)| Shown {
                at,
                name: column.name,
                is_number: column.is_number,
                width: rows
                    .iter()
                    .map(|row| row[at].text.width())
                    .fold(column.name.len(), usize::max),
            })
            .collect();
        let whole = |shown: &[Shown]| {
            shown.iter().map(|column| column.width + GAP.len()).sum::<usize>() - GAP.len()
        };
        while line_width.is_some_and(|width| whole(&shown) > width) {
            let rank = |shown: &Shown| columns[shown.at].rank;
            let Some(least) = (0..shown.len()).max_by_key(|at| rank(&shown[*at])) else { break };
            if rank(&shown[least]) == 0 {
                break;
            }
            shown.remove(least);
        }
        Layout { columns: shown, line_width, has_colours }
    }

    /// The line above all.
    pub(super) fn heading(&self) -> String {
        let fields = self.columns.iter().map(|column| (column, column.name, Some(Colour::Heading)));
        self.join(fields)
    }

    /// One row.
    pub(super) fn line(&self, row: &[Cell]) -> String {
        let fields = self.columns.iter().map(|column| {
            let Cell { text, colour } = &row[column.at];
            (column, text.as_str(), *colour)
        });
        self.join(fields)
    }

    fn join<'a>(
        &self,
        fields: impl Iterator<Item = (&'a Shown, &'a str, Option<Colour>)>,
    ) -> String {
        let (mut line, mut left) = (String::new(), self.line_width.unwrap_or(usize::MAX));
        let last = self.columns.last().map(|column| column.at);
        for (column, text, colour) in fields {
            let pad = " ".repeat(column.width.saturating_sub(text.width()));
            // Nothing behind the last field.
            let behind = if Some(column.at) == last { "" } else { &pad };
            let (before, behind) = if column.is_number { (&*pad, "") } else { ("", behind) };
            let gap = if line.is_empty() { "" } else { GAP };
            line.push_str(&cut(&format!("{gap}{before}"), &mut left));
            let text = cut(text, &mut left);
            match colour.filter(|_| self.has_colours) {
                Some(colour) => line.push_str(&painted(&text, colour)),
                None => line.push_str(&text),
            }
            line.push_str(&cut(behind, &mut left));
        }
        line
    }
}

/// A text in a colour.
pub(super) fn painted(text: &str, colour: Colour) -> String {
    let code = match colour {
        Colour::Good => 32,
        Colour::Unsettled => 33,
        Colour::Bad => 31,
        Colour::Heading => 1,
    };
    format!("\x1b[{code}m{text}\x1b[0m")
}

/// As much of a text as fits; the end of what does not is a mark. What is left afterwards is 0 then.
pub(super) fn cut(text: &str, left: &mut usize) -> String {
    let width = text.width();
    if width <= *left {
        *left -= width;
        return text.to_owned();
    }
    let mut room = std::mem::take(left);
    if room == 0 {
        return String::new();
    }
    room -= 1;
    let mut kept = String::new();
    for c in text.chars() {
        let width = c.width().unwrap_or(0);
        if width > room {
            break;
        }
        room -= width;
        kept.push(c);
    }
    kept.push('…');
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    const COLUMNS: [Column; 3] = [
        Column { name: "NAME", is_number: false, rank: 0 },
        Column { name: "N", is_number: true, rank: 2 },
        Column { name: "STATE", is_number: false, rank: 1 },
    ];

    fn rows() -> Vec<Vec<Cell>> {
        [["網網", "7", "up"], ["e\u{301}a", "1234", ""], ["\x1b[2J", "", "down"]]
            .map(|row| row.map(Cell::new).to_vec())
            .to_vec()
    }

    fn table(width: Option<usize>) -> Vec<String> {
        let rows = rows();
        let layout = Layout::new(&COLUMNS, &rows, width, false);
        std::iter::once(layout.heading()).chain(rows.iter().map(|row| layout.line(row))).collect()
    }

    #[test]
    fn columns_stand_in_line_whatever_letters_are_wide() {
        let expected = [
            "NAME     N  STATE",
            "網網     7  up",
            "e\u{301}a    1234  -",
            "\u{fffd}[2J     -  down",
        ];
        assert_eq!(table(None), expected);
        assert_eq!(table(Some(17)), expected);
    }

    #[test]
    fn where_there_is_no_room_the_least_important_goes() {
        assert_eq!(table(Some(16))[..2], ["NAME  STATE", "網網  up"]);
        assert_eq!(table(Some(10))[..2], ["NAME", "網網"]);
        assert_eq!(table(Some(3))[..2], ["NA…", "網…"]);
        for width in 0..30 {
            for line in table(Some(width)) {
                assert!(line.width() <= width, "{width}: {line:?}");
            }
        }
    }

    #[test]
    fn longer_rows_than_were_known_are_cut_on_a_terminal_only() {
        let row = ["a long name indeed", "1", "up"].map(Cell::new);
        let layout = Layout::new(&COLUMNS, &rows(), Some(20), false);
        assert_eq!(layout.line(&row), "a long name indeed …");
        let layout = Layout::new(&COLUMNS, &rows(), None, false);
        assert_eq!(layout.line(&row), "a long name indeed     1  up");
    }

    #[test]
    fn colours_take_no_room() {
        let cell = Cell::new("up").coloured(Some(Colour::Good));
        let rows = vec![vec![Cell::new("a"), Cell::new("1"), cell]];
        let line = |colours| Layout::new(&COLUMNS, &rows, Some(14), colours).line(&rows[0]);
        assert_eq!(line(false), "a     1  up");
        assert_eq!(line(true), "a     1  \x1b[32mup\x1b[0m");
    }
}
