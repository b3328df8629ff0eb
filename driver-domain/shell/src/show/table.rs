//! Text tables: a header line, columns two spaces apart, numbers to the right.

use alloc::{string::String, vec::Vec};

use crate::text::{is_printable, width_of};

/// To which side of its column text goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Side {
    Left,
    Right,
}

/// A column: what it is called, to which side its text goes, and what it says of a row.
pub(super) type Column<T> = (&'static str, Side, fn(&T) -> String);

/// A table with a line for each of `rows`.
pub(super) fn table<T>(rows: &[T], columns: &[Column<T>]) -> String {
    let heads: Vec<_> = columns.iter().map(|&(name, side, _)| (name, side)).collect();
    let mut table = Table::new(&heads);
    for row in rows {
        table.row(columns.iter().map(|(_, _, cell)| cell(row)));
    }
    table.text()
}

/// Rows of cells below a header.
#[derive(Debug)]
pub(super) struct Table {
    sides: Vec<Side>,
    rows: Vec<Vec<String>>,
}

impl Table {
    /// A table with these columns.
    pub(super) fn new(columns: &[(&str, Side)]) -> Self {
        Self {
            sides: columns.iter().map(|(_, side)| *side).collect(),
            rows: alloc::vec![columns.iter().map(|(name, _)| String::from(*name)).collect()],
        }
    }

    /// Adds a row. Cells are one line each: what would do more than print is left out.
    pub(super) fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        let plain = |cell: String| cell.chars().filter(|&c| is_printable(c)).collect();
        self.rows.push(cells.into_iter().map(plain).collect());
    }

    /// The table as lines.
    pub(super) fn text(&self) -> String {
        let cell_width = |cell: &String| width_of(cell.chars());
        let widest = |n| {
            self.rows
                .iter()
                .filter_map(|row| row.get(n))
                .map(cell_width)
                .max()
                .unwrap_or(0)
        };
        let widths: Vec<usize> = (0..self.sides.len()).map(widest).collect();
        let mut text = String::new();
        for row in &self.rows {
            let mut line = String::new();
            for ((cell, side), width) in row.iter().zip(&self.sides).zip(&widths) {
                if !line.is_empty() {
                    line.push_str("  ");
                }
                let gap = core::iter::repeat_n(' ', width.saturating_sub(cell_width(cell)));
                match side {
                    Side::Left => {
                        line.push_str(cell);
                        line.extend(gap);
                    }
                    Side::Right => {
                        line.extend(gap);
                        line.push_str(cell);
                    }
                }
            }
            text.push_str(line.trim_end());
            text.push('\n');
        }
        text
    }
}
