//! The end of a text without end: its bytes are numbered, and the oldest make room for new ones.

/// The last `N` bytes.
#[derive(Debug)]
pub struct TextRing<const N: usize> {
    /// Byte number `n` is at `n % N`.
    bytes: [u8; N],
    /// The number of the next byte.
    end: u64,
}

impl<const N: usize> Default for TextRing<N> {
    fn default() -> Self {
        Self::new()
    }
}

impl<const N: usize> TextRing<N> {
    /// An empty text.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            bytes: [0; N],
            end: 0,
        }
    }

    /// Adds `text`.
    pub fn push(&mut self, text: &[u8]) {
        for &byte in text {
            if let Some(place) = self.bytes.get_mut(Self::place(self.end)) {
                *place = byte;
            }
            self.end = self.end.wrapping_add(1);
        }
    }

    /// Copies into `text` from byte `from` on, or from the oldest that is left: how many bytes, the number after the last, and the number
    /// of the next that will be added.
    pub fn read(&self, from: u64, text: &mut [u8]) -> (usize, u64, u64) {
        let mut next = from.clamp(self.end.saturating_sub(N as u64), self.end);
        let mut count = 0_usize;
        for to in text {
            if next == self.end {
                break;
            }
            *to = self.bytes.get(Self::place(next)).copied().unwrap_or(0);
            (next, count) = (next.wrapping_add(1), count.saturating_add(1));
        }
        (count, next, self.end)
    }

    fn place(number: u64) -> usize {
        usize::try_from(number.checked_rem(N as u64).unwrap_or(0)).unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;
    use std::vec::Vec;

    fn read(ring: &TextRing<8>, from: u64, room: usize) -> (Vec<u8>, u64, u64) {
        let mut text = std::vec![0; room];
        let (count, next, end) = ring.read(from, &mut text);
        text.truncate(count);
        (text, next, end)
    }

    #[test]
    fn what_was_added_is_read_in_parts() {
        let mut ring = TextRing::new();
        assert_eq!(read(&ring, 0, 8), (b"".to_vec(), 0, 0));
        ring.push(b"hello");
        assert_eq!(read(&ring, 0, 3), (b"hel".to_vec(), 3, 5));
        assert_eq!(read(&ring, 3, 3), (b"lo".to_vec(), 5, 5));
        assert_eq!(read(&ring, 5, 3), (b"".to_vec(), 5, 5));
    }

    #[test]
    fn the_oldest_is_forgotten_and_passed_over() {
        let mut ring = TextRing::new();
        ring.push(b"0123456789ab");
        assert_eq!(read(&ring, 0, 99), (b"456789ab".to_vec(), 12, 12));
        assert_eq!(read(&ring, 6, 2), (b"67".to_vec(), 8, 12));
    }

    #[test]
    fn who_is_ahead_is_brought_back() {
        let mut ring = TextRing::new();
        ring.push(b"abc");
        assert_eq!(read(&ring, 99, 4), (b"".to_vec(), 3, 3));
    }
}
