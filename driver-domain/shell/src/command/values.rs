//! Times, as operators write them.

/// Reads a time in nanoseconds below four seconds: 0, or a whole number with ns, us, ms or s.
pub(super) fn time(text: &str) -> Option<u32> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at_checked(digits)?;
    let unit = match unit {
        "" if text == "0" => 1,
        "ns" => 1,
        "us" => 1000,
        "ms" => 1_000_000,
        "s" => 1_000_000_000,
        _ => return None,
    };
    number.parse::<u64>().ok()?.checked_mul(unit)?.try_into().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

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
