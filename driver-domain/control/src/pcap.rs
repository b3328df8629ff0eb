//! Captures: a driver's stream of packets, and the file that is made of it.
//!
//! The format is that of libpcap's savefiles, little-endian (the pcap specification, draft-ietf-opsawg-pcap). The stream is a driver's, and may be anything: what
//! is written again has been read first, packet by packet.

use alloc::{string::String, vec::Vec};

/// The longest copy of a packet in bytes.
const MAX_CAPTURED: u32 = 0xffff;

const MICROSECONDS: u32 = 0xa1b2_c3d4;
const NANOSECONDS: u32 = 0xa1b2_3c4d;
const ETHERNET: u32 = 1;
const HEADER: usize = 24;
const RECORD: usize = 16;

/// A packet of a capture.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Packet {
    /// When it was seen, in nanoseconds.
    pub at_ns: u64,
    /// How long it was, in bytes.
    pub length: u32,
    /// Its beginning.
    pub bytes: Vec<u8>,
}

/// What makes a stream no capture.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoCapture;

/// Reads a stream that comes in pieces.
#[derive(Debug, Default)]
pub struct Reader {
    waiting: Vec<u8>,
    /// The nanoseconds of the unit in which a packet's time has its fraction; known when the stream's beginning is.
    unit: Option<u32>,
}

impl Reader {
    /// Takes more of the stream.
    pub fn push(&mut self, bytes: &[u8]) {
        self.waiting.extend_from_slice(bytes);
    }

    /// The next packet, if all of it has come.
    ///
    /// # Errors
    ///
    /// [`NoCapture`]: nothing more can be read.
    pub fn packet(&mut self) -> Result<Option<Packet>, NoCapture> {
        let unit = match self.unit {
            Some(unit) => unit,
            None => {
                let Some(header) = self.waiting.first_chunk::<HEADER>() else {
                    return Ok(None);
                };
                let unit = match word(header, 0) {
                    MICROSECONDS => 1000,
                    NANOSECONDS => 1,
                    _ => return Err(NoCapture),
                };
                if word(header, 20) & 0xffff != ETHERNET {
                    return Err(NoCapture);
                }
                self.waiting.drain(..HEADER);
                *self.unit.insert(unit)
            }
        };
        let Some(record) = self.waiting.first_chunk::<RECORD>() else {
            return Ok(None);
        };
        let [seconds, fraction, captured, length] = [0, 4, 8, 12].map(|at| word(record, at));
        if captured > MAX_CAPTURED
            || captured > length
            || u64::from(fraction).saturating_mul(unit.into()) >= 1_000_000_000
        {
            return Err(NoCapture);
        }
        let end = RECORD.saturating_add(usize::try_from(captured).unwrap_or(usize::MAX));
        let Some(bytes) = self.waiting.get(RECORD..end) else {
            return Ok(None);
        };
        let whole = u64::from(seconds).saturating_mul(1_000_000_000);
        let packet = Packet {
            at_ns: whole.saturating_add(u64::from(fraction).saturating_mul(unit.into())),
            length,
            bytes: bytes.to_vec(),
        };
        self.waiting.drain(..end);
        Ok(Some(packet))
    }
}

/// The number at `at`.
fn word<const N: usize>(bytes: &[u8; N], at: usize) -> u32 {
    let found = bytes.get(at..).and_then(|bytes| bytes.first_chunk());
    found.copied().map_or(0, u32::from_le_bytes)
}

/// The beginning of a file.
#[must_use]
pub fn header() -> Vec<u8> {
    let mut header = Vec::with_capacity(HEADER);
    let words = [NANOSECONDS, 2 | 4 << 16, 0, 0, MAX_CAPTURED, ETHERNET];
    header.extend(words.into_iter().flat_map(u32::to_le_bytes));
    header
}

impl Packet {
    /// The packet in a file.
    #[must_use]
    pub fn record(&self) -> Vec<u8> {
        const SECOND: u64 = 1_000_000_000;
        let short = |number: u64| u32::try_from(number).unwrap_or(u32::MAX);
        let captured = u32::try_from(self.bytes.len()).unwrap_or(u32::MAX);
        let words = [
            short(self.at_ns / SECOND),
            short(self.at_ns % SECOND),
            captured,
            self.length,
        ];
        let mut record: Vec<u8> = words.into_iter().flat_map(u32::to_le_bytes).collect();
        record.extend_from_slice(&self.bytes);
        record
    }
}

/// Bytes on their way to be lines of base64 (RFC 4648), as uudecode reads them.
#[derive(Debug, Default)]
pub struct Base64 {
    waiting: Vec<u8>,
}

impl Base64 {
    /// The bytes of a line: 60 characters.
    const LINE: usize = 45;

    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

    /// Takes more bytes, and returns the lines that are full.
    pub fn push(&mut self, bytes: &[u8]) -> Vec<String> {
        self.waiting.extend_from_slice(bytes);
        let whole = self.waiting.len().saturating_sub(self.waiting.len() % Self::LINE);
        let full: Vec<u8> = self.waiting.drain(..whole).collect();
        full.chunks(Self::LINE).map(Self::line).collect()
    }

    /// The last line, if it is not empty.
    pub fn rest(&mut self) -> Option<String> {
        let rest = core::mem::take(&mut self.waiting);
        (!rest.is_empty()).then(|| Self::line(&rest))
    }

    fn line(bytes: &[u8]) -> String {
        let mut line = String::new();
        for group in bytes.chunks(3) {
            let mut number = [0; 4];
            let places = number.iter_mut().skip(1);
            places.zip(group).for_each(|(place, byte)| *place = *byte);
            let number = u32::from_be_bytes(number);
            for (n, shift) in [18, 12, 6, 0].into_iter().enumerate() {
                let digit = usize::try_from(number >> shift & 63).unwrap_or(0);
                let digit = Self::DIGITS.get(digit).copied().filter(|_| n <= group.len());
                line.push(digit.unwrap_or(b'=').into());
            }
        }
        line
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packets() -> [Packet; 2] {
        [
            Packet {
                at_ns: 1_500_000_001,
                length: 60,
                bytes: (0..60).collect(),
            },
            Packet {
                at_ns: 2_000_000_000,
                length: 1514,
                bytes: vec![7; 96],
            },
        ]
    }

    fn file() -> Vec<u8> {
        let mut file = header();
        packets().iter().for_each(|packet| file.extend(packet.record()));
        file
    }

    fn read(stream: &[u8], size: usize) -> Result<Vec<Packet>, NoCapture> {
        let mut reader = Reader::default();
        let mut found = Vec::new();
        for piece in stream.chunks(size) {
            reader.push(piece);
            while let Some(packet) = reader.packet()? {
                found.push(packet);
            }
        }
        Ok(found)
    }

    #[test]
    fn what_is_written_is_read_wherever_it_is_cut() {
        for size in 1..file().len() {
            assert_eq!(read(&file(), size), Ok(packets().to_vec()), "{size}");
        }
    }

    #[test]
    fn times_may_be_in_microseconds() {
        let mut file = file();
        file[..4].copy_from_slice(&MICROSECONDS.to_le_bytes());
        file[HEADER + 4..HEADER + 8].copy_from_slice(&999_999_u32.to_le_bytes());
        assert_eq!(read(&file, 100).unwrap()[0].at_ns, 1_999_999_000);
        file[HEADER + 4..HEADER + 8].copy_from_slice(&1_000_000_u32.to_le_bytes());
        assert_eq!(read(&file, 100), Err(NoCapture));
    }

    #[test]
    fn a_stream_that_makes_no_sense_ends() {
        for (at, bytes) in [
            (0, [0; 4]),
            (20, [2, 0, 0, 0]),
            (HEADER + 8, [0, 0, 1, 0]),
            (HEADER + 12, [59, 0, 0, 0]),
            (HEADER + 4, [0xff; 4]),
        ] {
            let mut file = file();
            file[at..at + 4].copy_from_slice(&bytes);
            assert_eq!(read(&file, 1000), Err(NoCapture), "{at}");
        }
    }

    #[test]
    fn base64_is_as_the_rfc_has_it() {
        let encode = |text: &str| {
            let mut encoder = Base64::default();
            assert_eq!(encoder.push(text.as_bytes()), [""; 0]);
            encoder.rest().unwrap_or_default()
        };
        for (text, wanted) in [
            ("", ""),
            ("f", "Zg=="),
            ("fo", "Zm8="),
            ("foo", "Zm9v"),
            ("foob", "Zm9vYg=="),
            ("fooba", "Zm9vYmE="),
            ("foobar", "Zm9vYmFy"),
        ] {
            assert_eq!(encode(text), wanted, "{text}");
        }
        let mut encoder = Base64::default();
        let lines = encoder.push(&[0xff; 100]);
        assert_eq!(lines, vec!["/".repeat(60); 2]);
        assert_eq!(encoder.rest().as_deref(), Some("/////////////w=="));
    }
}
