//! A set of physical CPUs, as operators write it: `0,2-3`.

use alloc::string::String;
use core::{fmt, str::FromStr};
use serde::{Serialize, Serializer};

/// A set of physical CPUs, a bit each, as in the hypervisor's records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cpus(pub u64);

impl Cpus {
    /// Every CPU that there is.
    pub const ALL: Self = Self(u64::MAX);

    /// The CPUs that may run what may run on `self`, of a machine with `count`.
    #[must_use]
    pub fn of(self, count: u32) -> Self {
        Self(
            self.0
                & 1u64
                    .checked_shl(count)
                    .map_or(u64::MAX, |bit| bit.wrapping_sub(1)),
        )
    }

    fn has(self, cpu: u32) -> bool {
        1u64.checked_shl(cpu).is_some_and(|bit| self.0 & bit != 0)
    }
}

/// What was to be a set of CPUs is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoCpus;

impl FromStr for Cpus {
    type Err = NoCpus;

    /// Reads `all`, or numbers below 64 and ranges of them, with commas between.
    fn from_str(text: &str) -> Result<Self, NoCpus> {
        if text == "all" {
            return Ok(Self::ALL);
        }
        let mut set = 0;
        for part in text.split(',') {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            let number = |text: &str| text.parse::<u32>().ok().filter(|&cpu| cpu < 64).ok_or(NoCpus);
            let (first, last) = (number(first)?, number(last)?);
            if first > last {
                return Err(NoCpus);
            }
            set |= (first..=last).fold(0, |set, cpu| set | 1u64.wrapping_shl(cpu));
        }
        Ok(Self(set))
    }
}

impl fmt::Display for Cpus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            0 => return f.write_str("none"),
            u64::MAX => return f.write_str("all"),
            _ => {}
        }
        let mut text = String::new();
        let mut cpu = 0;
        while cpu < 64 {
            if !self.has(cpu) {
                cpu = cpu.saturating_add(1);
                continue;
            }
            let mut last = cpu;
            while self.has(last.saturating_add(1)) {
                last = last.saturating_add(1);
            }
            let comma = if text.is_empty() { "" } else { "," };
            if last == cpu {
                text.push_str(&alloc::format!("{comma}{cpu}"));
            } else {
                text.push_str(&alloc::format!("{comma}{cpu}-{last}"));
            }
            cpu = last.saturating_add(1);
        }
        f.pad(&text)
    }
}

impl Serialize for Cpus {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn sets_of_cpus_are_read_as_operators_write_them() {
        assert_eq!("0,2-3".parse(), Ok(Cpus(0b1101)));
        assert_eq!("63".parse(), Ok(Cpus(1 << 63)));
        for wrong in ["", "64", "3-2", "1,", "a", "1-", "-1", "0-64"] {
            assert_eq!(wrong.parse::<Cpus>(), Err(NoCpus), "{wrong}");
        }
        assert_eq!(Cpus::ALL.of(2), Cpus(3));
        assert_eq!(Cpus::ALL.of(64), Cpus::ALL);
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_again(bits in 1u64..) {
            prop_assert_eq!(std::format!("{}", Cpus(bits)).parse(), Ok(Cpus(bits)));
        }
    }
}
