//! Arithmetic of the time-stamp counter (TSC): its rate, and ticks from nanoseconds.
//!
//! The way from ticks to nanoseconds is the guest ABI's ([`TscScale`]), so that hypervisor and guests compute the
//! same nanosecond from the same tick; here is the way back, for deadlines.

use bulkhead_abi::shared_info::TscScale;

/// Nanoseconds in a second.
pub const NS_PER_SECOND: u64 = 1_000_000_000;

/// The slowest counter that we believe in, in Hz.
const SLOWEST_HZ: u64 = 10_000_000;
/// The fastest counter that we believe in, in Hz.
const FASTEST_HZ: u64 = 20_000_000_000;

/// The ticks that last at least `ns` nanoseconds on a counter of this scale; saturates.
#[must_use]
pub fn ticks(scale: TscScale, ns: u64) -> u64 {
    let scaled = (u128::from(ns) << 32).div_ceil(u128::from(scale.mul.max(1)));
    let distance = u32::from(scale.shift.unsigned_abs());
    let ticks = if scale.shift < 0 {
        scaled.checked_shl(distance)
    } else {
        scaled.checked_shr(distance)
    };
    // What a right shift cuts off is less than a tick.
    let ticks = ticks.unwrap_or(0).saturating_add(1);
    u64::try_from(ticks).unwrap_or(u64::MAX)
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
    fn ticks_for_a_deadline_are_enough_and_hardly_more() {
        for hz in [
            10_000_000,
            1_000_000_000,
            1_000_000_001,
            2_000_000_000,
            2_300_000_000,
            5_123_456_789,
        ] {
            let scale = TscScale::from_hz(hz).unwrap();
            for ns in [0, 1, 999, 1_000_000, 123_456_789_012] {
                let reached = scale.ns(ticks(scale, ns));
                let tick_ns = NS_PER_SECOND / hz + 1;
                assert!(reached >= ns, "{hz} Hz, {ns} ns: too early at {reached}");
                assert!(
                    reached <= ns + 2 * tick_ns + 1,
                    "{hz} Hz, {ns} ns: too late at {reached}"
                );
            }
        }
    }

    #[test]
    fn a_deadline_at_the_end_of_time_is_the_last_tick() {
        let scale = TscScale::from_hz(20_000_000_000).unwrap();
        assert_eq!(ticks(scale, u64::MAX), u64::MAX);
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
