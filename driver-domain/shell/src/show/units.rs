//! Numbers as people read them, without floating point.

use alloc::{format, string::String};

/// Bytes with the largest unit that leaves at least one of it, and a tenth if that is not exact: `32M`, `1.5G`.
pub(super) fn size(bytes: u64) -> String {
    let (shift, unit) = match bytes {
        0..0x10_0000 => (10, "K"),
        0x10_0000..0x4000_0000 => (20, "M"),
        _ => (30, "G"),
    };
    let whole = bytes.wrapping_shr(shift);
    let rest = bytes.wrapping_sub(whole.wrapping_shl(shift));
    // Rounded down: nothing is shown as more than it is, or as 1024.0.
    let tenths = rest.saturating_mul(10).wrapping_shr(shift);
    if rest == 0 {
        format!("{whole}{unit}")
    } else {
        format!("{whole}.{tenths}{unit}")
    }
}

/// Bytes a second as a configuration has it: bits, with the largest unit that is exact.
pub(super) fn rate(bytes: u64) -> String {
    let bits = bytes.saturating_mul(8);
    match bits {
        _ if bits.is_multiple_of(1_000_000_000) => format!("{}G", bits / 1_000_000_000),
        _ if bits.is_multiple_of(1_000_000) => format!("{}M", bits / 1_000_000),
        _ if bits.is_multiple_of(1000) => format!("{}k", bits / 1000),
        _ => format!("{bits}"),
    }
}

/// A time in seconds with a tenth.
pub(super) fn seconds(ns: u64) -> String {
    format!("{}.{}", ns / 1_000_000_000, ns / 100_000_000 % 10)
}

/// A time as it may be typed: the largest unit that is exact.
pub(super) fn exact_time(ns: u32) -> String {
    match ns {
        0 => String::from("0"),
        _ if ns.is_multiple_of(1_000_000_000) => format!("{}s", ns / 1_000_000_000),
        _ if ns.is_multiple_of(1_000_000) => format!("{}ms", ns / 1_000_000),
        _ if ns.is_multiple_of(1000) => format!("{}us", ns / 1000),
        _ => format!("{ns}ns"),
    }
}

/// Days, hours, minutes and seconds.
pub(super) fn age(ns: u64) -> String {
    let seconds = ns / 1_000_000_000;
    let (days, hours, minutes) = (seconds / 86_400, seconds / 3600 % 24, seconds / 60 % 60);
    let clock = format!("{hours:02}:{minutes:02}:{:02}", seconds % 60);
    if days == 0 {
        clock
    } else {
        format!("{days}d {clock}")
    }
}

/// Thousandths as per cent with a tenth.
pub(super) fn percent(permille: u32) -> String {
    format!("{}.{}", permille / 10, permille % 10)
}

/// Bytes as text in which each byte can be told: what is not printable in UTF-8 as `\xNN`, a backslash twice.
#[must_use]
pub fn escaped(bytes: &[u8]) -> String {
    let mut text = String::new();
    for chunk in bytes.utf8_chunks() {
        for c in chunk.valid().chars() {
            match c {
                '\\' => text.push_str("\\\\"),
                _ if crate::text::is_printable(c) => text.push(c),
                _ => c
                    .encode_utf8(&mut [0; 4])
                    .bytes()
                    .for_each(|byte| text.push_str(&format!("\\x{byte:02x}"))),
            }
        }
        chunk
            .invalid()
            .iter()
            .for_each(|byte| text.push_str(&format!("\\x{byte:02x}")));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_times_are_short_and_never_more_than_they_are() {
        for (bytes, text) in [
            (0, "0K"),
            (4096, "4K"),
            (32 << 20, "32M"),
            ((32 << 20) - 4096, "31.9M"),
            ((1 << 30) - 1, "1023.9M"),
            (3 << 29, "1.5G"),
            (u64::MAX, "17179869183.9G"),
        ] {
            assert_eq!(size(bytes), text);
        }
        for (bytes, text) in [
            (1_250_000, "10M"),
            (187_500, "1500k"),
            (125_000_000, "1G"),
            (1, "8"),
        ] {
            assert_eq!(rate(bytes), text);
        }
        assert_eq!(seconds(12_399_999_999), "12.3");
        assert_eq!(age(90_061_000_000_000), "1d 01:01:01");
        assert_eq!(age(61_000_000_000), "00:01:01");
        assert_eq!(percent(1234), "123.4");
        for (ns, text) in [
            (0, "0"),
            (2_000_000, "2ms"),
            (1_500_000, "1500us"),
            (4_000_000_000, "4s"),
            (7, "7ns"),
        ] {
            assert_eq!(exact_time(ns), text);
        }
    }

    #[test]
    fn any_bytes_are_text() {
        assert_eq!(escaped(b"a\\b\x00\xff\n"), "a\\\\b\\x00\\xff\\x0a");
        assert_eq!(escaped("é\u{202e}".as_bytes()), "é\\xe2\\x80\\xae");
    }
}
