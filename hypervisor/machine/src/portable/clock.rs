//! Arithmetic of the time-stamp counter (TSC): its rate, and nanoseconds from its ticks.
//!
//! The scale is the one that the guest ABI publishes to guests (multiplier and shift), so that hypervisor and
//! guests compute the same nanosecond from the same tick.

/// Nanoseconds in a second.
pub const NS_PER_SECOND: u64 = 1_000_000_000;

/// The slowest counter that we believe in, in Hz.
const SLOWEST_HZ: u64 = 10_000_000;
/// The fastest counter that we believe in, in Hz.
const FASTEST_HZ: u64 = 20_000_000_000;

/// How to turn ticks into nanoseconds: shift, then multiply by `mul / 2^32`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TscScale {
    /// Numerator over 2^32, after the shift.
    pub mul: u32,
    /// Shift to the left (to the right if negative) before the multiplication.
    pub shift: i8,
}

impl TscScale {
    /// The scale of a counter of `hz` ticks per second, or `None` if no counter runs at that rate.
    ///
    /// The shift brings the rate into (10^9, 2 * 10^9], so that the multiplier uses all its bits.
    #[must_use]
    pub fn from_hz(hz: u64) -> Option<Self> {
        if !is_plausible(hz) {
            return None;
        }
        let mut shift = 0_i8;
        let mut scaled = hz;
        while scaled > NS_PER_SECOND.checked_mul(2)? {
            scaled >>= 1;
            shift = shift.checked_sub(1)?;
        }
        while scaled <= NS_PER_SECOND {
            scaled <<= 1;
            shift = shift.checked_add(1)?;
        }
        // The exact multiplier, computed before the right shifts above lost any bit.
        let numerator = u128::from(NS_PER_SECOND) << 32;
        let numerator = if shift < 0 {
            numerator << shift.unsigned_abs()
        } else {
            numerator >> shift.unsigned_abs()
        };
        let mul = u32::try_from(numerator.checked_div(u128::from(hz))?).ok()?;
        Some(Self { mul, shift })
    }

    /// The nanoseconds in `ticks`, rounded down; saturates after some 584 years.
    #[must_use]
    pub fn to_ns(self, ticks: u64) -> u64 {
        let ticks = u128::from(ticks);
        let shifted = if self.shift < 0 {
            ticks >> self.shift.unsigned_abs()
        } else {
            ticks << self.shift.unsigned_abs()
        };
        // At most 2^(64 + 7) * 2^32: far from the end of 128 bits.
        u64::try_from(shifted.saturating_mul(u128::from(self.mul)) >> 32).unwrap_or(u64::MAX)
    }

    /// The ticks that last at least `ns` nanoseconds; saturates.
    #[must_use]
    pub fn to_ticks(self, ns: u64) -> u64 {
        let scaled = (u128::from(ns) << 32).div_ceil(u128::from(self.mul.max(1)));
        let ticks = if self.shift < 0 {
            scaled << self.shift.unsigned_abs()
        } else {
            scaled.div_ceil(1_u128 << self.shift.unsigned_abs())
        };
        u64::try_from(ticks).unwrap_or(u64::MAX)
    }
}

/// Whether a TSC may run at `hz`: from slow emulators to twice the fastest part sold.
#[must_use]
pub fn is_plausible(hz: u64) -> bool {
    (SLOWEST_HZ..=FASTEST_HZ).contains(&hz)
}

/// Two simultaneous readings, some time apart, of the TSC and of a counter whose rate is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Measurement {
    /// How far the TSC went.
    pub tsc_ticks: u64,
    /// How far the other counter went.
    pub reference_ticks: u64,
    /// The other counter's rate in Hz.
    pub reference_hz: u64,
}

impl Measurement {
    /// The TSC's rate in Hz, or `None` if the numbers make no sense.
    #[must_use]
    pub fn tsc_hz(self) -> Option<u64> {
        let hz = u128::from(self.tsc_ticks)
            .checked_mul(u128::from(self.reference_hz))?
            .checked_div(u128::from(self.reference_ticks))?;
        u64::try_from(hz).ok().filter(|&hz| is_plausible(hz))
    }
}

/// The best of several estimates in Hz: the median, which one disturbed measurement cannot move far.
///
/// Sorts `estimates`. `None` if there is none, or if the two nearest to the median differ from it by more than
/// one part in 64: then the reference itself is not steady.
#[must_use]
pub fn agree(estimates: &mut [u64]) -> Option<u64> {
    estimates.sort_unstable();
    let middle = estimates.len() / 2;
    let median = *estimates.get(middle)?;
    let tolerance = median >> 6;
    let near = estimates
        .iter()
        .filter(|&&hz| hz.abs_diff(median) <= tolerance)
        .count();
    (near > middle).then_some(median)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_scale_of_a_known_machine_is_the_one_that_guests_see_there() {
        // A 2.3 GHz counter under another hypervisor with this ABI showed these two numbers.
        let scale = TscScale::from_hz(2_300_000_000).unwrap();
        assert_eq!(scale.shift, -1);
        assert!(scale.mul.abs_diff(0xde9b_d37a) < 4, "{:#x}", scale.mul);
    }

    #[test]
    fn a_second_of_ticks_is_a_second() {
        for hz in [
            10_000_000,
            999_999_999,
            1_000_000_000,
            1_000_000_001,
            2_000_000_000,
            2_400_000_001,
            20_000_000_000,
        ] {
            let scale = TscScale::from_hz(hz).unwrap();
            let ns = scale.to_ns(hz);
            assert!(ns.abs_diff(NS_PER_SECOND) <= 4, "{hz} Hz gave {ns} ns");
        }
    }

    #[test]
    fn ticks_for_a_deadline_are_never_too_few() {
        for hz in [10_000_000, 1_000_000_000, 2_300_000_000, 5_123_456_789] {
            let scale = TscScale::from_hz(hz).unwrap();
            for ns in [0, 1, 999, 1_000_000, 123_456_789_012] {
                assert!(
                    scale.to_ns(scale.to_ticks(ns)) >= ns.saturating_sub(1),
                    "{hz} Hz, {ns} ns"
                );
            }
        }
    }

    #[test]
    fn time_does_not_wrap_at_the_end_of_the_counter() {
        let scale = TscScale::from_hz(10_000_000).unwrap();
        assert_eq!(scale.to_ns(u64::MAX), u64::MAX);
        assert_eq!(
            TscScale::from_hz(20_000_000_000).unwrap().to_ticks(u64::MAX),
            u64::MAX
        );
    }

    #[test]
    fn rates_that_no_machine_has_are_refused() {
        assert_eq!(TscScale::from_hz(0), None);
        assert_eq!(TscScale::from_hz(u64::MAX), None);
    }

    #[test]
    fn a_measurement_gives_the_rate() {
        let measured = Measurement {
            tsc_ticks: 24_000_000,
            reference_ticks: 35_795,
            reference_hz: 3_579_545,
        };
        assert!(measured.tsc_hz().unwrap().abs_diff(2_400_000_000) < 100_000);
    }

    #[test]
    fn a_reference_that_stands_still_gives_no_rate() {
        let stuck = Measurement {
            tsc_ticks: 24_000_000,
            reference_ticks: 0,
            reference_hz: 3_579_545,
        };
        assert_eq!(stuck.tsc_hz(), None);
    }

    #[test]
    fn one_disturbed_estimate_does_not_count() {
        assert_eq!(
            agree(&mut [2_400_000_000, 9_000_000_000, 2_400_100_000]),
            Some(2_400_100_000)
        );
    }

    #[test]
    fn estimates_that_disagree_are_refused() {
        assert_eq!(agree(&mut [1_000_000_000, 2_000_000_000, 3_000_000_000]), None);
        assert_eq!(agree(&mut []), None);
    }
}
