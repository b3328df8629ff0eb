//! What guests print, one whole line at a time, and marked with who says it.

use heapless::Vec;

/// The longest line that is kept together, in bytes; a longer one is broken.
const MAX_LINE: usize = 240;

/// What a domain has written of a line so far.
#[derive(Debug, Default)]
pub struct Line {
    text: Vec<u8, MAX_LINE>,
}

impl Line {
    /// An empty line.
    #[must_use]
    pub const fn new() -> Self {
        Self { text: Vec::new() }
    }

    /// Takes one byte. When that ends a line, `emit` is given the line.
    ///
    /// Control characters are left out, so that no guest can play with the operator's terminal.
    pub fn push(&mut self, byte: u8, mut emit: impl FnMut(&[u8])) {
        match byte {
            b'\n' => {
                emit(&self.text);
                self.text.clear();
            }
            b'\t' | b' '..=b'~' | 0x80.. => {
                if self.text.is_full() {
                    emit(&self.text);
                    self.text.clear();
                }
                // There is room: it was made just now.
                let _ = self.text.push(byte);
            }
            0..=0x1f | 0x7f => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(text: &[u8]) -> std::vec::Vec<std::string::String> {
        let mut line = Line::new();
        let mut out = std::vec::Vec::new();
        for &byte in text {
            line.push(byte, |text| {
                out.push(std::string::String::from_utf8_lossy(text).into_owned())
            });
        }
        out
    }

    #[test]
    fn a_line_is_emitted_when_it_ends() {
        assert_eq!(lines(b"one\r\ntwo\nthr"), ["one", "two"]);
    }

    #[test]
    fn escape_sequences_do_not_get_through() {
        assert_eq!(lines(b"\x1b[2Jhello\x07\n"), ["[2Jhello"]);
    }

    #[test]
    fn a_line_without_end_is_broken_and_nothing_is_lost() {
        let mut text = std::vec![b'x'; 1000];
        text.push(b'\n');
        let lines = lines(&text);
        assert_eq!(lines.len(), 5);
        assert_eq!(lines.concat().len(), 1000);
    }
}
