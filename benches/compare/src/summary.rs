//! Medians and spread, and how they are written.
//!
//! Owns the arithmetic. Must never drop a value.

/// What is said of the values of one figure.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Summary {
    /// The value in the middle, or between the two in the middle.
    pub median: f64,
    /// The lowest value.
    pub lowest: f64,
    /// The highest value.
    pub highest: f64,
    /// How many there are.
    pub runs: usize,
}

impl Summary {
    /// Of these values; None if there are none.
    pub fn of(values: &[f64]) -> Option<Summary> {
        let mut sorted = values.to_vec();
        sorted.sort_by(f64::total_cmp);
        let (lowest, highest) = (*sorted.first()?, *sorted.last()?);
        let half = sorted.len() / 2;
        let median = if sorted.len() % 2 == 1 {
            sorted[half]
        } else {
            (sorted[half - 1] + sorted[half]) / 2.0
        };
        Some(Summary { median, lowest, highest, runs: sorted.len() })
    }

    /// The median with lowest and highest in brackets, and how many runs of `rounds` are missing.
    pub fn cell(&self, rounds: u32) -> String {
        let Summary { median, lowest, highest, runs } = *self;
        let missing = (rounds as usize).saturating_sub(runs);
        let failed = if missing > 0 { format!(" {missing} missing") } else { String::new() };
        format!("{} ({}-{}){failed}", short(median), short(lowest), short(highest))
    }
}

/// Three digits that count.
pub fn short(value: f64) -> String {
    let digits = match value.abs() {
        it if it >= 100.0 => 0,
        it if it >= 10.0 => 1,
        it if it >= 1.0 => 2,
        _ => 3,
    };
    format!("{value:.digits$}")
}

/// Rows of equally many cells, below each other: the first column to the left, the others to the right.
pub fn aligned(rows: &[Vec<String>]) -> String {
    let columns = rows.first().map_or(0, Vec::len);
    let width = |column: usize| rows.iter().map(|row| row[column].len()).max().unwrap_or_default();
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let mut text = String::new();
    for row in rows {
        for (column, (cell, &width)) in row.iter().zip(&widths).enumerate() {
            if column == 0 {
                text += &format!("{cell:width$}");
            } else {
                text += &format!("  {cell:>width$}");
            }
        }
        text += "\n";
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians() {
        assert_eq!(Summary::of(&[]), None);
        let of = |values: &[f64]| Summary::of(values).unwrap();
        let odd = Summary { median: 2.0, lowest: 1.0, highest: 9.0, runs: 3 };
        assert_eq!(of(&[9.0, 1.0, 2.0]), odd);
        assert_eq!(of(&[4.0, 1.0, 2.0, 9.0]).median, 3.0);
        assert_eq!(odd.cell(3), "2.00 (1.00-9.00)");
        assert_eq!(odd.cell(5), "2.00 (1.00-9.00) 2 missing");
    }

    #[test]
    fn columns_are_aligned() {
        let rows = [["a", "10"], ["bcd", "5"]].map(|row| row.map(str::to_owned).to_vec());
        assert_eq!(aligned(&rows), "a    10\nbcd   5\n");
        assert_eq!(aligned(&[]), "");
    }
}
