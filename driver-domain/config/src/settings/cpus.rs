//! Lists of physical CPUs.

use super::{Setting, Should, decimal, should};
use crate::value::Value;
use core::fmt;

/// The most physical CPUs that the hypervisor uses; they are numbered from 0.
pub const MAX_CPUS: u32 = 64;

/// The CPUs of a list such as `0,2-3`, a bit each; CPU 0 is the lowest.
#[must_use]
pub fn parse_cpus(list: &str) -> Option<u64> {
    let mut bits = 0;
    for part in list.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last) = (decimal(first.trim())?, decimal(last.trim())?);
        if first > last || last >= u64::from(MAX_CPUS) {
            return None;
        }
        // Neither shift is by more than 63.
        bits |= (u64::MAX << first) & (u64::MAX >> 63_u64.checked_sub(last)?);
    }
    Some(bits)
}

/// Physical CPUs, at least one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Cpus(u64);

impl Cpus {
    /// All that the machine has, however many these are.
    pub const ALL: Self = Self(u64::MAX);

    /// Those whose bits are set; CPU 0 is the lowest.
    #[must_use]
    pub const fn from_bits(bits: u64) -> Option<Self> {
        if bits == 0 { None } else { Some(Self(bits)) }
    }

    /// A bit for each; CPU 0 is the lowest.
    #[must_use]
    pub const fn bits(self) -> u64 {
        self.0
    }

    /// Those that a machine with `count` CPUs has, if it has any of them.
    #[must_use]
    pub fn of(self, count: u32) -> Option<Self> {
        let beyond = u64::MAX.checked_shl(count).unwrap_or(0);
        Self::from_bits(self.0 & !beyond)
    }

    /// The highest number among them.
    #[must_use]
    pub const fn last(self) -> u32 {
        self.0.ilog2()
    }
}

/// All.
impl Default for Cpus {
    fn default() -> Self {
        Self::ALL
    }
}

impl Setting for Cpus {
    fn read(value: &Value<'_>) -> Result<Self, Should> {
        let list = value.text();
        if list == Some("all") {
            return Ok(Self::ALL);
        }
        match list.and_then(parse_cpus).and_then(Self::from_bits) {
            Some(cpus) => Ok(cpus),
            None => should("be \"all\", or CPUs from 0 to 63 such as \"0,2-3\""),
        }
    }
}

/// As a list with the longest ranges, or `all`.
impl fmt::Display for Cpus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if *self == Self::ALL {
            return f.write_str("all");
        }
        let has = |cpu: u32| self.0.checked_shr(cpu).is_some_and(|rest| rest & 1 != 0);
        let mut comma = "";
        for first in (0..MAX_CPUS).filter(|&cpu| has(cpu) && !cpu.checked_sub(1).is_some_and(has)) {
            write!(f, "{comma}{first}")?;
            comma = ",";
            let last = (first..MAX_CPUS)
                .take_while(|&cpu| has(cpu))
                .last()
                .unwrap_or(first);
            if last > first {
                write!(f, "-{last}")?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_list_of_cpus_has_numbers_and_ranges() {
        assert_eq!(parse_cpus("0,2-3"), Some(0b1101));
        assert_eq!(parse_cpus("63"), Some(1 << 63));
        assert_eq!(parse_cpus("0-63"), Some(u64::MAX));
        assert_eq!(parse_cpus("2, 2, 1 - 2"), Some(0b110));
        for none in [
            "",
            ",",
            "0,",
            "1-",
            "-1",
            "3-1",
            "64",
            "0-64",
            "+1",
            "a",
            "1-2-3",
            "99999999999999999999",
        ] {
            assert_eq!(parse_cpus(none), None, "{none}");
        }
    }

    #[test]
    fn a_machine_has_those_below_its_count() {
        assert_eq!(Cpus::ALL.of(2), Some(Cpus(0b11)));
        assert_eq!(Cpus(0b1101).of(3), Some(Cpus(0b101)));
        assert_eq!(Cpus(0b1100).of(2), None);
        assert_eq!(Cpus::ALL.of(0), None);
        for count in [64, 65] {
            assert_eq!(Cpus::ALL.of(count), Some(Cpus::ALL));
        }
    }

    #[test]
    fn cpus_are_shown_in_ranges() {
        for list in ["0", "63", "0,2-3", "0-62", "1,3,5-7,63", "all"] {
            assert_eq!(Cpus::parse(list).unwrap().to_string(), list);
        }
        assert_eq!(Cpus::parse("0-63").unwrap(), Cpus::ALL);
        assert_eq!(Cpus::parse("3,1,2").unwrap().last(), 3);
    }

    proptest! {
        #[test]
        fn cpus_that_are_shown_are_read_again(bits in 1_u64..) {
            prop_assert_eq!(Cpus::parse(&Cpus(bits).to_string()), Ok(Cpus(bits)));
        }
    }
}
