//! Values that operators write: sizes, times, shares.

const KIB: u64 = 1 << 10;

/// Reads a size in bytes: a whole number with K, M or G, of whole 4 KiB pages and at least one.
pub(super) fn size(text: &str) -> Option<u64> {
    let (number, unit) = split_unit(text);
    let unit = match unit {
        "K" | "k" => KIB,
        "M" | "m" => KIB.pow(2),
        "G" | "g" => KIB.pow(3),
        _ => return None,
    };
    let bytes = number?.checked_mul(unit)?;
    (bytes > 0 && bytes.is_multiple_of(4096)).then_some(bytes)
}

/// Reads a time in nanoseconds below four seconds: 0, or a whole number with ns, us, ms or s.
pub(super) fn time(text: &str) -> Option<u32> {
    let (number, unit) = split_unit(text);
    let unit = match unit {
        "" if text == "0" => 1,
        "ns" => 1,
        "us" => 1000,
        "ms" => 1_000_000,
        "s" => 1_000_000_000,
        _ => return None,
    };
    number?.checked_mul(unit)?.try_into().ok()
}

fn split_unit(text: &str) -> (Option<u64>, &str) {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at_checked(digits).unwrap_or((text, ""));
    (number.parse().ok(), unit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_whole_pages_with_a_unit() {
        assert_eq!(size("64M"), Some(64 << 20));
        assert_eq!(size("8K"), Some(8192));
        assert_eq!(size("2g"), Some(2 << 30));
        for wrong in [
            "",
            "64",
            "M",
            "0M",
            "6K",
            "1.5G",
            "-1M",
            "64MB",
            "99999999999999999999G",
            "17179869184G",
        ] {
            assert_eq!(size(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn times_have_a_unit() {
        assert_eq!(time("0"), Some(0));
        assert_eq!(time("500us"), Some(500_000));
        assert_eq!(time("4s"), Some(4_000_000_000));
        for wrong in ["", "5", "5s5", "us", "5 ms", "5000ms"] {
            assert_eq!(time(wrong), None, "{wrong}");
        }
    }
}
