//! Virtual time and weights: [`VirtualTime`], [`Weight`].
//!
//! A vCPU of weight *w* that runs for one nanosecond advances by 2³²/*w* units. The numbers have 128 bits: at the
//! fastest, weight 1, they last 2⁹⁶ nanoseconds, which is longer than anyone will look. With 64 bits a queue would
//! have to renumber its vCPUs, and one that sleeps for a year would wake on the wrong side of the wrap.

use core::num::NonZeroU16;

/// The bits of virtual time below one nanosecond of a vCPU of weight 1.
const FRACTION_BITS: u32 = 32;
/// Units that a vCPU of weight 1 advances in one nanosecond.
const UNITS_PER_NS: u64 = 1 << FRACTION_BITS;

/// A vCPU's claim on the CPU, relative to others': 1 to 65535.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Weight(NonZeroU16);

impl Weight {
    /// What a vCPU has unless told otherwise: 256.
    pub const DEFAULT: Self = match Self::new(256) {
        Some(weight) => weight,
        None => Self(NonZeroU16::MIN),
    };

    /// A weight; `None` for 0.
    #[must_use]
    pub const fn new(raw: u16) -> Option<Self> {
        match NonZeroU16::new(raw) {
            Some(raw) => Some(Self(raw)),
            None => None,
        }
    }

    /// The number.
    #[must_use]
    pub const fn raw(self) -> u16 {
        self.0.get()
    }

    /// How far a vCPU of this weight advances.
    ///
    /// Rounded up, by less than 2 parts in 100 000: nobody gains by being charged often.
    pub(super) const fn pace(self) -> Pace {
        Pace(UNITS_PER_NS.div_ceil(self.0.get() as u64))
    }
}

/// Units of virtual time per nanosecond of real time; from 65538 to 2³².
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Pace(u64);

impl Pace {
    /// The virtual time that passes in `ns` nanoseconds at this pace.
    pub(super) fn span(self, ns: u64) -> Span {
        // The product of two numbers of 64 bits has no more than 128.
        Span(u128::from(self.0).wrapping_mul(u128::from(ns)))
    }

    /// The nanoseconds until `span` has passed, rounded up. One that would take centuries is cut short.
    pub(super) fn ns(self, span: Span) -> u64 {
        u64::try_from(span.0).unwrap_or(u64::MAX).div_ceil(self.0.max(1))
    }
}

/// A length of virtual time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Span(u128);

impl Span {
    pub(super) const ZERO: Self = Self(0);
}

/// A point in virtual time. Those of different queues may be compared as far as the queues keep up with each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct VirtualTime(u128);

impl VirtualTime {
    /// Before everything.
    pub const MIN: Self = Self(0);
    /// After everything.
    pub const MAX: Self = Self(u128::MAX);
    /// Where queues start: so far from zero that no warp reaches below it.
    pub(super) const ORIGIN: Self = Self(1 << 100);

    /// The point `span` later.
    pub(super) const fn after(self, span: Span) -> Self {
        Self(self.0.saturating_add(span.0))
    }

    /// The point `span` earlier.
    pub(super) const fn before(self, span: Span) -> Self {
        Self(self.0.saturating_sub(span.0))
    }

    /// How much later this is than `earlier`; nothing if it is not.
    pub(super) const fn since(self, earlier: Self) -> Span {
        Span(self.0.saturating_sub(earlier.0))
    }

    /// Drops the fraction, in order to fit one word: units of a nanosecond at weight 1, counted from the origin.
    pub(super) fn to_coarse(self) -> u64 {
        let units = self.since(Self::ORIGIN).0 >> FRACTION_BITS;
        u64::try_from(units).unwrap_or(u64::MAX)
    }

    /// The point of which [`Self::to_coarse`] gave `coarse`, less the fraction.
    pub(super) fn from_coarse(coarse: u64) -> Self {
        Self::ORIGIN.after(Pace(UNITS_PER_NS).span(coarse))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CENTURY_NS: u64 = 100 * 366 * 86_400 * 1_000_000_000;

    #[test]
    fn virtual_time_passes_in_inverse_proportion_to_the_weight() {
        let light = Weight::new(100).unwrap().pace().span(1_000_000).0;
        let heavy = Weight::new(300).unwrap().pace().span(1_000_000).0;
        assert!(light.abs_diff(3 * heavy) * 50_000 < light);
    }

    #[test]
    fn a_century_at_the_fastest_pace_neither_overflows_nor_loses_a_nanosecond() {
        let pace = Weight::new(1).unwrap().pace();
        let then = VirtualTime::ORIGIN.after(pace.span(CENTURY_NS));
        let later = then.after(pace.span(1));
        assert_eq!(pace.ns(later.since(then)), 1);
        assert_eq!(then.since(VirtualTime::ORIGIN), pace.span(CENTURY_NS));
    }

    #[test]
    fn the_coarse_form_of_a_century_fits_and_is_off_by_less_than_a_unit() {
        let pace = Weight::new(7).unwrap().pace();
        let time = VirtualTime::ORIGIN.after(pace.span(CENTURY_NS));
        let coarse = VirtualTime::from_coarse(time.to_coarse());
        assert!(coarse <= time && time.since(coarse) < Span(u128::from(UNITS_PER_NS)));
    }

    #[test]
    fn the_time_for_a_span_is_rounded_up() {
        let pace = Weight::DEFAULT.pace();
        assert_eq!(pace.ns(pace.span(12_345)), 12_345);
        assert_eq!(pace.ns(Span(pace.span(12_345).0 + 1)), 12_346);
        assert_eq!(pace.ns(Span::ZERO), 0);
    }
}
