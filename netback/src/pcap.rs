//! Captures as files of libpcap: a header, and then records.
//!
//! Source: the Internet-Draft "PCAP Capture File Format", with times in nanoseconds, numbers in little-endian order.

/// The most bytes of a frame that a capture keeps.
pub const MAX_SNAP: usize = 256;

/// A frame that was captured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Captured {
    /// When, in nanoseconds, by the clock of rounds.
    pub at: u64,
    /// Whether it came from the port; else it went there.
    pub is_from: bool,
    /// How long it is.
    pub length: u32,
    bytes: [u8; MAX_SNAP],
    kept: u16,
}

impl Captured {
    /// A frame of `length` bytes, with as many of `bytes` as are kept.
    #[must_use]
    pub fn new(at: u64, is_from: bool, length: u32, bytes: &[u8]) -> Self {
        let mut captured = Self {
            at,
            is_from,
            length,
            bytes: [0; MAX_SNAP],
            kept: 0,
        };
        for (place, byte) in captured.bytes.iter_mut().zip(bytes) {
            *place = *byte;
            captured.kept = captured.kept.saturating_add(1);
        }
        captured
    }

    /// Its beginning, as far as it was kept.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        self.bytes.get(..self.kept.into()).unwrap_or_default()
    }
}

/// The header of a file of Ethernet frames of which at most `snap` bytes are kept.
#[must_use]
pub fn header(snap: u32) -> [u8; 24] {
    let words = [0xa1b2_3c4d_u32, 4 << 16 | 2, 0, 0, snap, 1];
    let mut bytes = [0; 24];
    for (place, word) in bytes.chunks_exact_mut(4).zip(words) {
        place.copy_from_slice(&word.to_le_bytes());
    }
    bytes
}

/// The header of a frame's record, after which its [bytes](Captured::bytes) come. `epoch` is the time of day, in nanoseconds since 1970, when the clock
/// of rounds was at zero.
#[must_use]
pub fn record(captured: &Captured, epoch: u64) -> [u8; 16] {
    let at = captured.at.saturating_add(epoch);
    let low = |number: u64| u32::try_from(number).unwrap_or(u32::MAX);
    let words = [
        low(at / 1_000_000_000),
        low(at % 1_000_000_000),
        captured.kept.into(),
        captured.length,
    ];
    let mut bytes = [0; 16];
    for (place, word) in bytes.chunks_exact_mut(4).zip(words) {
        place.copy_from_slice(&word.to_le_bytes());
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_as_its_readers_expect_it() {
        assert_eq!(
            header(256),
            [
                0x4d, 0x3c, 0xb2, 0xa1, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 1, 0, 0, 0
            ]
        );
        let captured = Captured::new(2_000_000_005, true, 1514, &[7; 300]);
        assert_eq!(
            record(&captured, 1_000_000_000),
            [3, 0, 0, 0, 5, 0, 0, 0, 0, 1, 0, 0, 0xea, 5, 0, 0]
        );
        assert_eq!(captured.bytes(), [7; MAX_SNAP]);
        assert_eq!(Captured::new(0, true, 3, &[1, 2, 3]).bytes(), [1, 2, 3]);
    }
}
