//! From bytes of a terminal to keys.
//!
//! Whatever a terminal sends that is no key known here, its answers to questions of guests among it, is passed over as a
//! whole. A sequence that breaks off or has no end swallows no more than itself: the control character or the character
//! beyond ASCII that breaks it counts, and after a bound it is given up.

/// Something the operator pressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Key {
    /// A character to be inserted: printable.
    Char(char),
    Enter,
    Tab,
    Backspace,
    Delete,
    Left,
    Right,
    WordLeft,
    WordRight,
    Home,
    End,
    Up,
    Down,
    KillToEnd,
    KillToStart,
    /// Ctrl-W: what stands between white space.
    KillWord,
    /// Alt-Backspace: letters and digits.
    KillWordLeft,
    /// Alt-D: letters and digits.
    KillWordRight,
    Yank,
    Search,
    Cancel,
    Clear,
    Interrupt,
    /// Ctrl-D: deletes, or ends an empty line.
    DeleteOrEnd,
}

/// The longest sequence of parameters that is waited for.
const MAX_CSI: u8 = 64;
/// The longest string for the terminal that is waited for.
const MAX_TEXT: u8 = 255;

#[derive(Clone, Copy, Debug, Default)]
enum State {
    #[default]
    Ground,
    /// After ESC.
    Escape,
    /// After ESC [.
    Csi(Csi),
    /// After ESC O: one byte follows.
    Ss3,
    /// In a string that ends with BEL or ESC \: how many bytes of it there were.
    Text(u8),
}

#[derive(Clone, Copy, Debug, Default)]
struct Csi {
    len: u8,
    params: [u16; 2],
    /// Which parameter is being read.
    index: usize,
    /// There is something in it that no key has.
    is_foreign: bool,
}

/// Reads keys from bytes.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Decoder {
    state: State,
    /// The bytes so far of a character of several bytes.
    utf8: [u8; 4],
    utf8_len: usize,
    after_cr: bool,
}

impl Decoder {
    /// Whether the next byte begins something new.
    pub(crate) fn is_idle(&self) -> bool {
        matches!(self.state, State::Ground) && self.utf8_len == 0
    }

    /// Takes one byte; gives the key that it completes.
    pub(crate) fn push(&mut self, byte: u8) -> Option<Key> {
        let after_cr = core::mem::replace(&mut self.after_cr, byte == b'\r');
        if byte < 0x80 {
            self.utf8_len = 0;
        }
        if byte == 0x1b {
            self.state = State::Escape;
            return None;
        }
        match self.state {
            State::Ground => {}
            // What breaks a sequence counts itself, but for CAN and SUB, which are made for it.
            _ if !(b' '..0x80).contains(&byte) => match (core::mem::take(&mut self.state), byte) {
                (State::Text(_), 0x07) | (_, 0x18 | 0x1a) => return None,
                (State::Escape, 0x08) => return Some(Key::KillWordLeft),
                _ => {}
            },
            State::Escape => {
                self.state = State::Ground;
                return self.escaped(byte);
            }
            State::Csi(csi) => return self.csi(csi, byte),
            State::Ss3 => {
                self.state = State::Ground;
                // Of the keypad. After ESC [ it would be a mouse.
                return if byte == b'M' {
                    Some(Key::Enter)
                } else {
                    cursor_key(byte)
                };
            }
            State::Text(len) => {
                self.state = len
                    .checked_add(1)
                    .filter(|&len| len < MAX_TEXT)
                    .map_or(State::Ground, State::Text);
                return None;
            }
        }
        if byte >= 0x80 {
            return self.utf8(byte);
        }
        let key = match byte {
            0x01 => Key::Home,
            0x02 => Key::Left,
            0x03 => Key::Interrupt,
            0x04 => Key::DeleteOrEnd,
            0x05 => Key::End,
            0x06 => Key::Right,
            0x07 => Key::Cancel,
            0x08 | 0x7f => Key::Backspace,
            b'\t' => Key::Tab,
            b'\n' if after_cr => return None,
            b'\n' | b'\r' => Key::Enter,
            0x0b => Key::KillToEnd,
            0x0c => Key::Clear,
            0x0e => Key::Down,
            0x10 => Key::Up,
            0x12 => Key::Search,
            0x15 => Key::KillToStart,
            0x17 => Key::KillWord,
            0x19 => Key::Yank,
            b' '..=b'~' => Key::Char(char::from(byte)),
            _ => return None,
        };
        Some(key)
    }

    /// The second byte after ESC: with a letter, that is Alt.
    fn escaped(&mut self, byte: u8) -> Option<Key> {
        match byte {
            b'[' => self.state = State::Csi(Csi::default()),
            b'O' => self.state = State::Ss3,
            b']' | b'P' | b'X' | b'^' | b'_' => self.state = State::Text(0),
            b'b' | b'B' => return Some(Key::WordLeft),
            b'f' | b'F' => return Some(Key::WordRight),
            b'd' | b'D' => return Some(Key::KillWordRight),
            0x7f => return Some(Key::KillWordLeft),
            _ => {}
        }
        None
    }

    fn csi(&mut self, mut csi: Csi, byte: u8) -> Option<Key> {
        self.state = State::Ground;
        match byte {
            b'@'..=b'~' => {
                let is_word = matches!(csi.params, [1, 3 | 5]);
                return match byte {
                    _ if csi.is_foreign => None,
                    b'C' if is_word => Some(Key::WordRight),
                    b'D' if is_word => Some(Key::WordLeft),
                    b'~' => match csi.params {
                        [1 | 7, _] => Some(Key::Home),
                        [3, _] => Some(Key::Delete),
                        [4 | 8, _] => Some(Key::End),
                        _ => None,
                    },
                    _ => cursor_key(byte),
                };
            }
            b'0'..=b'9' => {
                if let Some(param) = csi.params.get_mut(csi.index) {
                    let digit = u16::from(byte.wrapping_sub(b'0'));
                    *param = param.saturating_mul(10).saturating_add(digit);
                }
            }
            b';' => csi.index = csi.index.saturating_add(1),
            _ => csi.is_foreign = true,
        }
        csi.len = csi.len.saturating_add(1);
        if csi.len < MAX_CSI {
            self.state = State::Csi(csi);
        }
        None
    }

    /// Collects a character of several bytes. Bytes that are none are left out.
    fn utf8(&mut self, byte: u8) -> Option<Key> {
        if byte & 0xc0 != 0x80 {
            self.utf8_len = 0;
        } else if self.utf8_len == 0 {
            return None;
        }
        let slot = self.utf8.get_mut(self.utf8_len)?;
        *slot = byte;
        self.utf8_len = self.utf8_len.saturating_add(1);
        match core::str::from_utf8(self.utf8.get(..self.utf8_len)?) {
            Ok(text) => {
                self.utf8_len = 0;
                text.chars()
                    .next()
                    .filter(|&c| crate::text::is_printable(c))
                    .map(Key::Char)
            }
            Err(error) => {
                if error.error_len().is_some() {
                    self.utf8_len = 0;
                }
                None
            }
        }
    }
}

/// The key of a final byte, the same after ESC [ and ESC O.
fn cursor_key(byte: u8) -> Option<Key> {
    match byte {
        b'A' => Some(Key::Up),
        b'B' => Some(Key::Down),
        b'C' => Some(Key::Right),
        b'D' => Some(Key::Left),
        b'F' => Some(Key::End),
        b'H' => Some(Key::Home),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(bytes: &[u8]) -> Vec<Key> {
        let mut decoder = Decoder::default();
        bytes.iter().filter_map(|&byte| decoder.push(byte)).collect()
    }

    fn chars(text: &str) -> Vec<Key> {
        text.chars().map(Key::Char).collect()
    }

    #[test]
    fn keys_of_vt100_and_xterm_are_known() {
        for (bytes, key) in [
            ("\x1b[A", Key::Up),
            ("\x1bOB", Key::Down),
            ("\x1b[1;5D", Key::WordLeft),
            ("\x1b[1;3C", Key::WordRight),
            ("\x1b[H", Key::Home),
            ("\x1b[4~", Key::End),
            ("\x1b[3~", Key::Delete),
            ("\x1bb", Key::WordLeft),
            ("\x1b\x7f", Key::KillWordLeft),
            ("\x1b\x08", Key::KillWordLeft),
            ("\x12", Key::Search),
            ("\x1bOM", Key::Enter),
        ] {
            assert_eq!(keys(bytes.as_bytes()), [key], "{bytes:?}");
        }
    }

    #[test]
    fn answers_of_a_terminal_are_no_keys() {
        for answer in [
            "\x1b[24;80R",
            "\x1b[?1;2c",
            "\x1b[>41;354;0c",
            "\x1b]11;rgb:0000/0000/0000\x07",
            "\x1b]11;rgb:0000/0000/0000\x1b\\",
            "\x1bP1$r0m\x1b\\",
            "\x1b[200~",
            "\x1b[<0;10;10M",
            "\x1b[32;10;10M",
        ] {
            let text = format!("a{answer}b");
            assert_eq!(keys(text.as_bytes()), chars("ab"), "{answer:?}");
        }
    }

    #[test]
    fn a_broken_sequence_swallows_nothing_but_itself() {
        assert_eq!(keys(b"\x1b[1\rx"), [Key::Enter, Key::Char('x')]);
        assert_eq!(keys("\x1b[é".as_bytes()), chars("é"));
        assert_eq!(keys(b"\x1b\x1b\x1b[A"), [Key::Up]);
        assert_eq!(keys(b"\x1b[12\x18x"), chars("x"));
        let endless = [&b"\x1b]"[..], &[b'y'; 1000]].concat();
        assert_eq!(keys(&endless).len(), 1000 - usize::from(MAX_TEXT));
        let endless = [&b"\x1b["[..], &[b'1'; 1000]].concat();
        assert_eq!(keys(&endless).len(), 1000 - usize::from(MAX_CSI));
    }

    #[test]
    fn bytes_that_are_no_utf8_are_left_out() {
        assert_eq!(keys("añ€😀".as_bytes()), chars("añ€😀"));
        assert_eq!(keys(b"\xe2\x82a\xff\xc3\xc3\xb1\x80\xed\xa0\x80b"), chars("añb"));
        assert_eq!(keys("\u{85}\u{202e}".as_bytes()), []);
    }

    #[test]
    fn each_end_of_line_is_one_enter() {
        assert_eq!(keys(b"\r\n\n\r\r\n"), [Key::Enter; 4]);
    }
}
