//! The one row of the terminal that the line being edited is shown in.
//!
//! A line that is longer than the row is scrolled sideways, with `<` and `>` where there is more of it: the row's width
//! need not be known exactly (a wider terminal shows less than it could), nothing ever wraps, and so the row is found and
//! cleared again whatever the terminal makes of wide characters.

use alloc::vec::Vec;

use super::line::Line;
use crate::text::{width, width_of};

/// Erases the row and goes to its start.
const ERASE: &[u8] = b"\x1b[2K\r";

/// What the terminal shows in the row of the cursor.
#[derive(Debug, Default)]
pub(crate) struct Screen {
    shown: Vec<char>,
    /// The cursor's column.
    column: usize,
}

impl Screen {
    /// Clears the row.
    pub(crate) fn hide(&mut self, out: &mut Vec<u8>) {
        if !self.shown.is_empty() {
            self.forget();
            out.extend_from_slice(ERASE);
        }
    }

    /// Clears whatever the row shows, known or not.
    pub(crate) fn erase(&mut self, out: &mut Vec<u8>) {
        self.forget();
        out.extend_from_slice(ERASE);
    }

    /// The cursor is at the start of an empty row.
    pub(crate) fn forget(&mut self) {
        *self = Self::default();
    }

    /// Makes the row show `row`, with the cursor in `column`, by printing no more than what differs.
    pub(crate) fn show(&mut self, row: Vec<char>, column: usize, out: &mut Vec<u8>) {
        let mut same = row
            .iter()
            .zip(&self.shown)
            .take_while(|(new, old)| new == old)
            .count();
        // An accent belongs to the character before it.
        let is_accent = |c: Option<&char>| c.is_some_and(|&c| width(c) == 0);
        while same > 0 && (is_accent(row.get(same)) || is_accent(self.shown.get(same))) {
            same = same.saturating_sub(1);
        }
        if same < row.len().max(self.shown.len()) {
            let (kept, fresh) = row.split_at_checked(same).unwrap_or((&row, &[]));
            self.go(width_of(kept.iter().copied()), out);
            for c in fresh {
                out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
            }
            self.column = width_of(row.iter().copied());
            if width_of(self.shown.iter().copied()) > self.column {
                out.extend_from_slice(b"\x1b[K");
            }
            self.shown = row;
        }
        self.go(column, out);
    }

    fn go(&mut self, column: usize, out: &mut Vec<u8>) {
        let by = self.column.abs_diff(column);
        match (by, column < self.column) {
            (0, _) => {}
            _ if column == 0 => out.push(b'\r'),
            (1, true) => out.push(0x08),
            (_, true) => out.extend_from_slice(alloc::format!("\x1b[{by}D").as_bytes()),
            (_, false) => out.extend_from_slice(alloc::format!("\x1b[{by}C").as_bytes()),
        }
        self.column = column;
    }
}

/// Chooses which part of `line` is shown in `room` columns and the one beyond, where nothing is printed but the cursor may
/// stand. `first` is the first character shown: it stays as it is as long as the cursor is seen. Returns what is shown, and
/// the cursor's column in it.
pub(crate) fn window(line: &Line, room: usize, first: &mut usize) -> (Vec<char>, usize) {
    let chars = line.chars();
    let columns = |from: usize, to: usize| width_of(chars.get(from..to).unwrap_or_default().iter().copied());
    if columns(0, chars.len()) <= room {
        *first = 0;
        return (chars.to_vec(), columns(0, line.cursor()));
    }
    // Besides what stands before the cursor there must be room for `<`, the character under the cursor, and `>`.
    let fits = |first: usize, room: usize| columns(first, line.cursor()).saturating_add(4) <= room;
    if line.cursor() < *first || (*first > 0 && line.cursor() == *first) || !fits(*first, room) {
        *first = line.cursor();
        while *first > 0 && fits(first.saturating_sub(1), (room / 2).saturating_add(4)) {
            *first = first.saturating_sub(1);
        }
    }
    let mut row = Vec::new();
    let mut used = 0usize;
    if *first > 0 {
        row.push('<');
        used = 1;
    }
    let before = used.saturating_add(columns(*first, line.cursor()));
    let rest = chars.get(*first..).unwrap_or_default();
    let is_whole = used.saturating_add(columns(*first, chars.len())) <= room;
    for &c in rest {
        let next = used.saturating_add(width(c));
        if next > room.saturating_sub(usize::from(!is_whole)) {
            break;
        }
        row.push(c);
        used = next;
    }
    if !is_whole {
        row.push('>');
    }
    (row, before)
}
