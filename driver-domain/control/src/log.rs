//! What a guest has printed: the end of it.

use alloc::{collections::VecDeque, vec::Vec};

/// How much is kept, in bytes.
const KEPT: usize = 16 * 1024;

/// The last of what a guest has printed.
#[derive(Debug, Default)]
pub struct Log {
    bytes: VecDeque<u8>,
}

impl Log {
    /// Adds `text`; the oldest makes room.
    pub fn push(&mut self, text: &[u8]) {
        let text = text.get(text.len().saturating_sub(KEPT)..).unwrap_or(text);
        let excess = self.bytes.len().saturating_add(text.len()).saturating_sub(KEPT);
        self.bytes.drain(..excess);
        self.bytes.extend(text);
    }

    /// All that is kept, in whole lines: of a line whose beginning is gone nothing is shown.
    #[must_use]
    pub fn text(&self) -> Vec<u8> {
        let whole = if self.bytes.len() < KEPT {
            0
        } else {
            let end = self.bytes.iter().position(|&byte| byte == b'\n');
            end.map_or(0, |end| end.saturating_add(1))
        };
        self.bytes.iter().skip(whole).copied().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_short_text_is_kept_whole() {
        let mut log = Log::default();
        log.push(b"one\ntw");
        log.push(b"o");
        assert_eq!(log.text(), b"one\ntwo");
    }

    #[test]
    fn of_a_long_text_the_last_whole_lines_are_kept() {
        let mut log = Log::default();
        for n in 0..10_000 {
            log.push(std::format!("line {n}\n").as_bytes());
        }
        let text = String::from_utf8(log.text()).unwrap();
        assert!(text.len() <= KEPT && text.len() > KEPT - 20);
        assert!(text.starts_with("line ") && text.ends_with("line 9999\n"));
    }

    #[test]
    fn one_piece_that_is_too_long_leaves_its_end() {
        let mut log = Log::default();
        log.push(b"before\n");
        let mut long = std::vec![b'x'; KEPT * 2];
        long.extend(b"\nend\n");
        log.push(&long);
        assert_eq!(log.text(), b"end\n");
    }
}
