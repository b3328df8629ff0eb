//! Captures of packets: the classic pcap format, with microseconds, of Ethernet.
//!
//! Source: the Internet draft `draft-ietf-opsawg-pcap`.

use anyhow::{Context, Result, ensure};

/// A packet that was captured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Packet {
    /// When, in microseconds.
    pub(crate) micros: u64,
    /// How long it was.
    pub(crate) length: u32,
    /// As much of it as was kept.
    pub(crate) bytes: Vec<u8>,
}

/// Reads a capture.
///
/// # Errors
///
/// If it is none, or not whole.
pub(crate) fn read(bytes: &[u8]) -> Result<Vec<Packet>> {
    const MICROSECONDS: u32 = 0xa1b2_c3d4;
    const NANOSECONDS: u32 = 0xa1b2_3c4d;
    const ETHERNET: u32 = 1;
    let mut rest = bytes;
    let mut word = || -> Result<u32> {
        let (word, behind) = rest.split_first_chunk().context("the capture ends too early")?;
        rest = behind;
        Ok(u32::from_le_bytes(*word))
    };
    let header = [word()?, word()?, word()?, word()?, word()?, word()?];
    let [magic, version, _, _, snap, link] = header;
    // How many of the units in which a time has its fraction are a microsecond.
    let unit = match magic {
        MICROSECONDS => 1,
        NANOSECONDS => 1000,
        _ => anyhow::bail!("it is no capture: {magic:#x}"),
    };
    ensure!(version == 0x0004_0002, "its version is {version:#x}");
    ensure!(link == ETHERNET, "it is not of Ethernet, but of {link}");
    let mut packets = Vec::new();
    while !rest.is_empty() {
        let mut word = || -> Result<u32> {
            let (word, behind) = rest
                .split_first_chunk()
                .context("a packet's header is not whole")?;
            rest = behind;
            Ok(u32::from_le_bytes(*word))
        };
        let (seconds, fraction, kept, length) = (word()?, word()?, word()?, word()?);
        let micros = fraction.checked_div(unit).unwrap_or_default();
        ensure!(
            kept <= snap && kept <= length && micros < 1_000_000,
            "packet {} makes no sense",
            packets.len()
        );
        let (bytes, behind) = rest
            .split_at_checked(usize::try_from(kept)?)
            .context("the last packet is not whole")?;
        rest = behind;
        packets.push(Packet {
            micros: u64::from(seconds)
                .saturating_mul(1_000_000)
                .saturating_add(micros.into()),
            length,
            bytes: bytes.to_vec(),
        });
    }
    Ok(packets)
}

/// What stands in base64 between lines `begin-base64 MODE NAME` and `====`, as `uudecode` reads it.
///
/// # Errors
///
/// If it does not, or is not whole.
pub(crate) fn uudecode<'a>(lines: impl IntoIterator<Item = &'a str>) -> Result<Vec<u8>> {
    let mut lines = lines
        .into_iter()
        .skip_while(|line| !line.starts_with("begin-base64 "));
    lines.next().context("nothing begins")?;
    let mut bytes = Vec::new();
    for line in lines {
        if line.trim() == "====" {
            return Ok(bytes);
        }
        let digits: Vec<u8> = line.trim().bytes().collect();
        for group in digits.chunks(4) {
            let mut word = 0_u32;
            for digit in group {
                word = word << 6
                    | u32::from(value(*digit).with_context(|| format!("this is no base64: {line}"))?);
            }
            ensure!(group.len() == 4, "this is no base64: {line}");
            let fill = group.iter().filter(|digit| **digit == b'=').count();
            let [_, whole @ ..] = word.to_be_bytes();
            bytes.extend(whole.iter().take(whole.len().saturating_sub(fill)));
        }
    }
    anyhow::bail!("it does not end")
}

/// What a digit stands for (RFC 4648, section 4).
fn value(digit: u8) -> Option<u8> {
    const DIGITS: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    if digit == b'=' {
        return Some(0);
    }
    let place = DIGITS.iter().position(|known| *known == digit)?;
    u8::try_from(place).ok()
}

#[cfg(test)]
#[expect(
    clippy::arithmetic_side_effects,
    reason = "the numbers are the test's own, and small"
)]
mod tests {
    use super::*;

    fn capture(packets: &[&[u8]]) -> Vec<u8> {
        let words = |words: &[u32]| {
            words
                .iter()
                .flat_map(|word| word.to_le_bytes())
                .collect::<Vec<u8>>()
        };
        let mut bytes = words(&[0xa1b2_c3d4, 0x0004_0002, 0, 0, 64, 1]);
        for packet in packets {
            let kept = u32::try_from(packet.len()).unwrap();
            bytes.extend(words(&[2, 3, kept, kept + 10]));
            bytes.extend(*packet);
        }
        bytes
    }

    #[test]
    fn packets_are_read_with_their_times_and_lengths() {
        let packet = Packet {
            micros: 2_000_003,
            length: 12,
            bytes: vec![1, 2],
        };
        assert_eq!(read(&capture(&[&[1, 2]])).unwrap(), [packet]);
        assert_eq!(read(&capture(&[])).unwrap(), []);
    }

    #[test]
    fn what_is_no_whole_capture_is_refused() {
        let whole = capture(&[&[1, 2]]);
        for length in (0..whole.len()).filter(|length| *length != 24) {
            assert!(read(&whole[..length]).is_err(), "{length}");
        }
        assert!(read(&capture(&[&[0; 65]])).is_err(), "longer than is kept");
    }

    #[test]
    fn text_is_decoded_as_uudecode_does() {
        let text = "noise\nbegin-base64 644 web.pcap\nAAECAwQ=\n/+8=\n====\nnoise";
        assert_eq!(uudecode(text.lines()).unwrap(), [0, 1, 2, 3, 4, 0xff, 0xef]);
        assert!(uudecode("begin-base64 644 x\nAA".lines()).is_err());
        assert!(
            uudecode("begin-base64 644 x\nAAAA\n".lines()).is_err(),
            "it does not end"
        );
    }
}
