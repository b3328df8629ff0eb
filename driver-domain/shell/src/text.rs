//! Text of others, made harmless, and how wide text is on a terminal.

use alloc::string::String;
use alloc::vec::Vec;
use unicode_width::UnicodeWidthChar;

use crate::event;

/// How many columns `c` takes: 0, 1 or 2. Control characters take none, and nobody lets them through.
pub(crate) fn width(c: char) -> usize {
    c.width().unwrap_or(0)
}

/// How many columns `text` takes.
pub(crate) fn width_of(text: impl IntoIterator<Item = char>) -> usize {
    text.into_iter().map(width).fold(0, usize::saturating_add)
}

/// As much of `line` as fits into so many columns.
pub(crate) fn fitting(line: &str, columns: usize) -> String {
    let mut used = 0;
    let fits = |c: &char| {
        used = width(*c).saturating_add(used);
        used <= columns
    };
    line.chars().take_while(fits).collect()
}

/// Whether `c` may be printed: no control character, and none that changes the direction of the text around it, by which
/// a guest could make its line look like another's.
pub(crate) fn is_printable(c: char) -> bool {
    let is_bidi =
        matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    !c.is_control() && !is_bidi
}

/// `line` with nothing in it that would do more than print. One that could be taken for an event is moved by a space.
pub(crate) fn plain(line: &str) -> String {
    let mut plain: String = line.chars().filter(|&c| c == '\t' || is_printable(c)).collect();
    if plain.starts_with(event::PREFIX.trim_end()) {
        plain.insert(0, ' ');
    }
    plain
}

/// Appends `line` to `out` as one [`plain`] line of the terminal.
pub(crate) fn print_line(line: &str, out: &mut Vec<u8>) {
    out.extend_from_slice(plain(line).as_bytes());
    out.extend_from_slice(b"\r\n");
}

/// The longest line of a guest that is kept together, in bytes, as the hypervisor has it; a longer one is broken.
const MAX_LINE: usize = 240;

/// A guest's bytes on their way to be lines: without control characters and escape sequences.
#[derive(Debug, Default)]
pub(crate) struct Lines {
    text: Vec<u8>,
    filter: Filter,
}

/// Where in an escape sequence a guest's output is.
#[derive(Debug, Default)]
enum Filter {
    #[default]
    Ground,
    Escape,
    /// In a sequence of parameters, up to its final byte.
    Csi,
    /// In a string for the terminal, such as its title, up to BEL or the next ESC.
    Text,
}

impl Lines {
    /// Takes one byte; gives the line that it ends.
    pub(crate) fn push(&mut self, byte: u8) -> Option<String> {
        self.filter = match (&self.filter, byte) {
            (_, b'\n') => {
                self.filter = Filter::Ground;
                return Some(self.take());
            }
            (_, 0x1b) => Filter::Escape,
            (Filter::Escape, b'[') => Filter::Csi,
            (Filter::Escape, b']' | b'P' | b'X' | b'^' | b'_') => Filter::Text,
            // Those between may be followed by more, as in the choice of a character set.
            (Filter::Escape, b' '..=b'/') => Filter::Escape,
            (Filter::Csi, b' '..=b'?') => Filter::Csi,
            (Filter::Text, 0x07) => Filter::Ground,
            (Filter::Text, _) => Filter::Text,
            (Filter::Escape | Filter::Csi, _) => Filter::Ground,
            (Filter::Ground, b'\t' | b' '..=b'~' | 0x80..) => {
                let full = (self.text.len() >= MAX_LINE && !is_continuation(byte)).then(|| self.take());
                // Bytes that continue no character may come without end.
                if self.text.len() < MAX_LINE.saturating_add(3) {
                    self.text.push(byte);
                }
                return full;
            }
            (Filter::Ground, _) => Filter::Ground,
        };
        None
    }

    /// What there is of a line that has not ended.
    pub(crate) fn take(&mut self) -> String {
        String::from_utf8_lossy(&core::mem::take(&mut self.text)).into_owned()
    }
}

/// Whether `byte` is within a character of several bytes in UTF-8.
fn is_continuation(byte: u8) -> bool {
    byte & 0xc0 == 0x80
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(bytes: &[u8]) -> Vec<String> {
        let mut lines = Lines::default();
        bytes.iter().filter_map(|&byte| lines.push(byte)).collect()
    }

    fn printed(line: &str) -> String {
        let mut out = Vec::new();
        print_line(line, &mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn a_guests_line_comes_without_colours_titles_and_control_characters() {
        let text = b"\x1b]0;title\x07\x1b[0;32m  OK \x1b[0m\x1b(B st\x08arted\r\n\x1b[2\nnext\n";
        assert_eq!(lines(text), ["  OK  started", "", "next"]);
    }

    #[test]
    fn a_line_without_end_is_broken_between_characters() {
        let lines = lines(&"é".repeat(1000).into_bytes());
        assert_eq!(lines.len(), 8);
        assert!(
            lines
                .iter()
                .all(|line| line.len() <= MAX_LINE + 3 && !line.contains('\u{fffd}'))
        );
        let mut lines = Lines::default();
        assert!((0..5000).all(|_| lines.push(0x80).is_none()));
        assert!(
            lines.text.len() <= MAX_LINE + 3,
            "bytes that continue nothing are bounded"
        );
    }

    #[test]
    fn text_of_others_is_never_an_event_and_moves_nothing() {
        assert_eq!(printed("@bulkhead {}"), " @bulkhead {}\r\n");
        assert_eq!(printed("\x1b@bulkhead {}"), " @bulkhead {}\r\n");
        assert_eq!(printed("a\x1b[2Jb\u{202e}c\u{9b}\td"), "a[2Jbc\td\r\n");
    }
}
