//! For tests: a terminal that does what the sequences sent to it say, and shows what the operator would see.

#![expect(clippy::arithmetic_side_effects, reason = "a test fails by panicking")]

use crate::text::width;

/// A terminal of so many columns and of as many rows as are printed.
#[derive(Debug)]
pub(crate) struct Terminal {
    columns: usize,
    /// Cells with what is in them; the second of a wide character is `None`.
    rows: Vec<Vec<Option<String>>>,
    row: usize,
    column: usize,
    /// A character was printed in the last column: the next goes to the next row.
    is_full: bool,
    /// Characters went on in the next row by themselves.
    pub(crate) wraps: usize,
    pub(crate) bells: usize,
}

impl Terminal {
    pub(crate) fn new(columns: usize) -> Self {
        Self {
            columns,
            rows: vec![Vec::new()],
            row: 0,
            column: 0,
            is_full: false,
            wraps: 0,
            bells: 0,
        }
    }

    /// Does what `bytes` say: whole sequences of UTF-8.
    pub(crate) fn write(&mut self, bytes: &[u8]) {
        let text = str::from_utf8(bytes).expect("the shell sends UTF-8");
        let mut chars = text.chars();
        while let Some(c) = chars.next() {
            match c {
                '\x1b' => match chars.next() {
                    Some('[') => {
                        let mut params = String::new();
                        let last = loop {
                            match chars.next().expect("sequences are whole") {
                                c @ '@'..='~' => break c,
                                c => params.push(c),
                            }
                        };
                        self.csi(&params, last);
                    }
                    Some('(') => {
                        chars.next();
                    }
                    other => panic!("unknown sequence ESC {other:?}"),
                },
                '\r' => self.go(self.row, 0),
                '\n' => {
                    self.go(self.row + 1, self.column);
                }
                '\x08' => self.go(self.row, self.column.saturating_sub(1)),
                '\x07' => self.bells += 1,
                '\x0f' | '\x18' => {}
                c => {
                    assert!(!c.is_control(), "{c:?} is printed");
                    self.print(c);
                }
            }
        }
    }

    fn go(&mut self, row: usize, column: usize) {
        self.is_full = false;
        self.row = row;
        self.column = column.min(self.columns - 1);
        while self.rows.len() <= row {
            self.rows.push(Vec::new());
        }
    }

    fn csi(&mut self, params: &str, last: char) {
        let number = params.parse().unwrap_or(1);
        match last {
            'C' => self.go(self.row, self.column + number),
            'D' => self.go(self.row, self.column.saturating_sub(number)),
            'H' => self.go(0, 0),
            'K' if params == "2" => self.rows[self.row].clear(),
            'K' => self.rows[self.row].truncate(self.column),
            'J' if params == "2" => self.rows.iter_mut().for_each(Vec::clear),
            'J' => {
                self.rows[self.row].truncate(self.column);
                self.rows.truncate(self.row + 1);
            }
            'h' | 'l' | 'm' | 'p' => {}
            _ => panic!("unknown sequence CSI {params} {last}"),
        }
    }

    fn print(&mut self, c: char) {
        let wide = width(c);
        if wide == 0 {
            let cells = &mut self.rows[self.row];
            let before = cells.iter_mut().take(self.column).rev().flatten().next();
            before.expect("an accent has a character before it").push(c);
            return;
        }
        if self.is_full || self.column + wide > self.columns {
            self.wraps += 1;
            self.go(self.row + 1, 0);
        }
        let cells = &mut self.rows[self.row];
        while cells.len() < self.column + wide {
            cells.push(Some(" ".into()));
        }
        cells[self.column] = Some(c.into());
        if wide == 2 {
            cells[self.column + 1] = None;
        }
        self.column += wide;
        if self.column == self.columns {
            self.column -= 1;
            self.is_full = true;
        }
    }

    /// What stands in row `n`.
    fn text_of(&self, n: usize) -> String {
        self.rows[n].iter().flatten().map(String::as_str).collect()
    }

    /// What stands in the row of the cursor.
    pub(crate) fn current(&self) -> String {
        self.text_of(self.row)
    }

    /// What stands in the row of the cursor, before and from the cursor on.
    pub(crate) fn around_cursor(&self) -> (String, String) {
        let cells = &self.rows[self.row];
        let (before, after) = cells.split_at(self.column.min(cells.len()));
        let text = |cells: &[Option<String>]| cells.iter().flatten().map(String::as_str).collect();
        (text(before), text(after))
    }

    /// The rows up to that of the cursor.
    pub(crate) fn lines(&self) -> Vec<String> {
        (0..=self.row)
            .map(|n| self.text_of(n).trim_end().into())
            .collect()
    }

    /// The cursor's row.
    pub(crate) fn row(&self) -> usize {
        self.row
    }
}
