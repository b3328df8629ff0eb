//! From TSC ticks to nanoseconds, in the arithmetic that every guest uses.

/// Nanoseconds in a second.
const NS_PER_S: u64 = 1_000_000_000;

/// Scales `delta` ticks to nanoseconds: shifts left by `shift` (right, if negative), multiplies by
/// `mul` / 2^32. Rounds down; wraps as the guests' own arithmetic does.
#[must_use]
#[inline]
pub const fn scale_delta(delta: u64, mul: u32, shift: i8) -> u64 {
    let distance = shift.unsigned_abs() as u32;
    let shifted = if shift < 0 {
        delta.checked_shr(distance)
    } else {
        delta.checked_shl(distance)
    };
    let shifted = match shifted {
        Some(shifted) => shifted,
        None => 0,
    };
    // 64 by 32 bits make at most 96.
    let product = (shifted as u128).wrapping_mul(mul as u128);
    truncate(product >> 32)
}

/// The low 64 bits.
#[expect(
    clippy::cast_possible_truncation,
    reason = "the low half is what is asked for"
)]
const fn truncate(value: u128) -> u64 {
    value as u64
}

/// How TSC ticks become nanoseconds: the two numbers that guests are told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TscScale {
    /// Multiplier, in units of 2^-32.
    pub mul: u32,
    /// Shift before the multiplication; negative shifts right.
    pub shift: i8,
}

impl TscScale {
    /// How many thousand times a second the TSC ticks, rounded down; the most that there can be, if it is more.
    #[must_use]
    pub const fn khz(self) -> u32 {
        const NS_PER_MS: u64 = 1_000_000;
        // 2^52 at most, before the shift.
        let unshifted = match (NS_PER_MS << 32).checked_div(self.mul as u64) {
            Some(khz) => khz as u128,
            None => return u32::MAX,
        };
        let distance = self.shift.unsigned_abs() as u32;
        let khz = if self.shift < 0 {
            unshifted.checked_shl(distance)
        } else {
            unshifted.checked_shr(distance)
        };
        match khz {
            Some(khz) if khz <= u32::MAX as u128 => {
                let [b0, b1, b2, b3, ..] = khz.to_le_bytes();
                u32::from_le_bytes([b0, b1, b2, b3])
            }
            _ => u32::MAX,
        }
    }

    /// The scale of a TSC that ticks `hz` times a second, or `None` for 0.
    ///
    /// The shift brings the frequency into (10^9, 2 * 10^9], which keeps all 32 bits of the multiplier
    /// in use.
    #[must_use]
    pub const fn from_hz(hz: u64) -> Option<Self> {
        if hz == 0 {
            return None;
        }
        // One side of hz * 2^shift : 10^9 is scaled, so that nothing is lost to rounding.
        let mut scaled_hz = hz as u128;
        let mut unit = NS_PER_S as u128;
        let mut shift: i8 = 0;
        while scaled_hz > unit << 1 {
            unit <<= 1;
            shift = shift.wrapping_sub(1);
        }
        while scaled_hz <= unit {
            scaled_hz <<= 1;
            shift = shift.wrapping_add(1);
        }
        // unit < scaled_hz, so that the quotient is below 2^32.
        match (unit << 32).checked_div(scaled_hz) {
            Some(mul) => {
                let [b0, b1, b2, b3, ..] = mul.to_le_bytes();
                Some(Self {
                    mul: u32::from_le_bytes([b0, b1, b2, b3]),
                    shift,
                })
            }
            None => None,
        }
    }

    /// Nanoseconds in `delta` ticks.
    #[must_use]
    #[inline]
    pub const fn ns(self, delta: u64) -> u64 {
        scale_delta(delta, self.mul, self.shift)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rate_is_told_to_a_thousandth_of_a_second() {
        for khz in [1000, 999_999, 1_000_000, 2_596_120, 3_700_001, 4_000_000] {
            let told = TscScale::from_hz(u64::from(khz) * 1000).unwrap().khz();
            assert!(told.abs_diff(khz) <= 1, "{khz}: {told}");
        }
        let largest = TscScale { mul: 1, shift: -128 };
        assert_eq!(largest.khz(), u32::MAX);
        assert_eq!(TscScale { mul: 0, shift: 0 }.khz(), u32::MAX);
        assert_eq!(TscScale { mul: 1, shift: 127 }.khz(), 0);
    }

    #[test]
    fn the_measured_scale_of_a_2_3_ghz_clock_is_reproduced() {
        assert_eq!(
            TscScale::from_hz(2_300_000_000),
            Some(TscScale {
                mul: 0xde9b_d37a,
                shift: -1
            })
        );
    }

    #[test]
    fn a_clock_of_exactly_1_ghz_is_shifted_once() {
        assert_eq!(
            TscScale::from_hz(1_000_000_000),
            Some(TscScale {
                mul: 0x8000_0000,
                shift: 1
            })
        );
    }

    #[test]
    fn a_clock_of_exactly_2_ghz_is_not_shifted() {
        assert_eq!(
            TscScale::from_hz(2_000_000_000),
            Some(TscScale {
                mul: 0x8000_0000,
                shift: 0
            })
        );
    }

    #[test]
    fn no_clock_has_no_scale() {
        assert_eq!(TscScale::from_hz(0), None);
    }

    #[test]
    fn a_seconds_worth_of_ticks_is_a_second() {
        for hz in [
            1,
            1_000,
            32_768,
            999_999_999,
            1_000_000_001,
            2_300_000_000,
            3_500_000_001,
            10_000_000_000,
        ] {
            let ns = TscScale::from_hz(hz).unwrap().ns(hz);
            let error = NS_PER_S.abs_diff(ns);
            assert!(error <= 2, "{hz} Hz: {ns} ns");
        }
    }

    #[test]
    fn a_year_of_ticks_does_not_overflow() {
        let seconds = 365 * 24 * 3600;
        let ns = TscScale::from_hz(2_300_000_000)
            .unwrap()
            .ns(2_300_000_000 * seconds);
        assert!((seconds * NS_PER_S).abs_diff(ns) < 10_000_000);
    }

    #[test]
    fn the_highest_frequency_still_has_a_scale() {
        let scale = TscScale::from_hz(u64::MAX).unwrap();
        assert!(NS_PER_S.abs_diff(scale.ns(u64::MAX)) <= 2);
    }

    #[test]
    fn a_shift_by_more_than_the_word_leaves_nothing() {
        assert_eq!(scale_delta(u64::MAX, u32::MAX, 64), 0);
        assert_eq!(scale_delta(u64::MAX, u32::MAX, -128), 0);
    }
}
