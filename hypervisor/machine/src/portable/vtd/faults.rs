//! What a unit reports of DMA that it blocked, and how much of that is worth hearing: a device may go wrong without end, as fast as it can.
//!
//! Two limits keep that cheap. Of one function only the first faults are heard ([`Attention`]); after that the unit is told not to report
//! it. And of all together only so many in a time ([`Pace`]), because some faults cannot be turned off for one function alone.
//!
//! Source: the specification, sections 7.1.3 (reasons) and 11.4.14 (fault recording registers).

use core::fmt;

use heapless::LinearMap;

use super::Function;

/// The high word of a fault record: the record holds a fault. Writing it empties the record.
pub const FAULT: u64 = 1 << 63;
/// The high word of a fault record: the function wanted to read.
const READ: u64 = 1 << 62;

/// Something that a function was not allowed to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fault {
    /// Who did it. What is behind an old PCI bridge goes by the bridge's number.
    pub function: Function,
    /// The page that it wanted to access; for an interrupt, the index that it gave, in the upper 16 bits.
    pub address: u64,
    /// Whether it wanted to write.
    pub is_write: bool,
    /// Why it could not.
    pub reason: Reason,
}

impl Fault {
    /// What a record says, if it holds a fault.
    #[must_use]
    #[expect(clippy::cast_possible_truncation, reason = "the fields have so many bits")]
    pub const fn of_record([low, high]: [u64; 2]) -> Option<Self> {
        if high & FAULT == 0 {
            return None;
        }
        Some(Self {
            function: Function::new(high as u16),
            address: low & !0xfff,
            is_write: high & READ == 0,
            reason: Reason((high >> 32) as u8),
        })
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            function,
            address,
            reason,
            ..
        } = self;
        let access = if self.is_write { "write to" } else { "read from" };
        if reason.is_of_interrupt() {
            return write!(
                f,
                "{function}: an interrupt is blocked, index {:#x}: {reason}",
                address >> 48
            );
        }
        write!(f, "{function}: a {access} {address:#x} is blocked: {reason}")
    }
}

/// Why something was blocked: the number that the specification gives it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reason(pub u8);

impl Reason {
    /// Whether it was an interrupt that was blocked.
    #[must_use]
    pub const fn is_of_interrupt(self) -> bool {
        self.0 >= 0x20 && self.0 < 0x30
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.0 {
            0x01 | 0x02 => "it belongs to no domain",
            0x04 => "the address is beyond what is translated",
            0x05 => "its domain may not write there",
            0x06 => "its domain may not read there",
            0x0d => "it claims to have translated the address itself",
            0x22 => "there is no such interrupt",
            0x25 => "it is not in the form that is remapped",
            0x26 => "the interrupt is another function's",
            other => return write!(f, "reason {other:#x}"),
        })
    }
}

/// How many faults of a function are heard.
const PER_FUNCTION: u32 = 8;
/// How many functions' faults are counted.
const FUNCTIONS: usize = 32;

/// Which faults have been heard, for each function.
#[derive(Debug, Default)]
pub struct Attention(LinearMap<Function, u32, FUNCTIONS>);

/// What to do with a fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hearing {
    /// Tell it.
    Tell,
    /// Tell it, and let the unit report no more of this function.
    TellLast,
    /// It is one too many. It was on its way when the function was silenced, or is of a kind that cannot be turned off.
    Ignore,
}

impl Attention {
    /// Counts a fault of `function`.
    pub fn hear(&mut self, function: Function) -> Hearing {
        let count = match self.0.get_mut(&function) {
            Some(count) => count,
            None => match self.0.insert(function, 0) {
                Ok(_) => return self.hear(function),
                // More functions go wrong than are counted: one fault each is enough.
                Err(_) => return Hearing::TellLast,
            },
        };
        *count = count.saturating_add(1);
        match (*count).cmp(&PER_FUNCTION) {
            core::cmp::Ordering::Less => Hearing::Tell,
            core::cmp::Ordering::Equal => Hearing::TellLast,
            core::cmp::Ordering::Greater => Hearing::Ignore,
        }
    }

    /// `function` begins anew.
    pub fn forgive(&mut self, function: Function) {
        self.0.remove(&function);
    }
}

/// How many faults are taken from the units in [`PERIOD_NS`].
const PER_PERIOD: u32 = 16;
/// Nanoseconds in which so many are.
const PERIOD_NS: u64 = 100_000_000;

/// How fast faults are taken from the units. What is not taken stays there, and interrupts nobody.
#[derive(Debug, Default)]
pub struct Pace {
    /// When the period ends.
    end_ns: u64,
    /// How many may still be taken in it.
    left: u32,
}

impl Pace {
    /// Whether one more may be taken at `now_ns`.
    ///
    /// # Errors
    ///
    /// When it may be.
    pub fn step(&mut self, now_ns: u64) -> Result<(), u64> {
        if now_ns >= self.end_ns {
            self.end_ns = now_ns.saturating_add(PERIOD_NS);
            self.left = PER_PERIOD;
        }
        self.left = self.left.checked_sub(1).ok_or(self.end_ns)?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    extern crate std;

    use super::*;

    const NIC: Function = Function::at(0, 3, 0);

    #[test]
    fn a_record_is_read_as_the_specification_has_it() {
        let record = [0xdead_b123, FAULT | 0x06_0000_0018 | READ];
        let fault = Fault::of_record(record).unwrap();
        assert_eq!(
            fault,
            Fault {
                function: NIC,
                address: 0xdead_b000,
                is_write: false,
                reason: Reason(6),
            }
        );
        assert_eq!(
            std::format!("{fault}"),
            "00:03.0: a read from 0xdeadb000 is blocked: its domain may not read there"
        );
        let [low, high] = record;
        assert_eq!(Fault::of_record([low, high & !FAULT]), None);
        assert!(Fault::of_record([low, high & !READ]).unwrap().is_write);
    }

    #[test]
    fn a_blocked_interrupt_is_told_by_its_index() {
        let fault = Fault::of_record([0x2a << 48, FAULT | 0x22_0000_0018]).unwrap();
        assert_eq!(
            std::format!("{fault}"),
            "00:03.0: an interrupt is blocked, index 0x2a: there is no such interrupt"
        );
    }

    #[test]
    fn a_function_that_goes_on_is_silenced() {
        let mut attention = Attention::default();
        for _ in 1..PER_FUNCTION {
            assert_eq!(attention.hear(NIC), Hearing::Tell);
        }
        assert_eq!(attention.hear(NIC), Hearing::TellLast);
        assert_eq!(attention.hear(NIC), Hearing::Ignore);
        assert_eq!(attention.hear(Function::at(0, 4, 0)), Hearing::Tell);
        attention.forgive(NIC);
        assert_eq!(attention.hear(NIC), Hearing::Tell);
    }

    #[test]
    fn with_too_many_functions_each_is_heard_once() {
        let mut attention = Attention::default();
        for bus in 0..FUNCTIONS {
            let bus = u8::try_from(bus).unwrap();
            assert_eq!(attention.hear(Function::at(bus, 0, 0)), Hearing::Tell);
        }
        assert_eq!(attention.hear(Function::at(0xff, 0, 0)), Hearing::TellLast);
        // Those that were there first are counted on.
        assert_eq!(attention.hear(Function::at(0, 0, 0)), Hearing::Tell);
    }

    #[test]
    fn the_rest_waits_for_the_next_period() {
        let mut pace = Pace::default();
        for _ in 0..PER_PERIOD {
            assert_eq!(pace.step(5), Ok(()));
        }
        assert_eq!(pace.step(6), Err(5 + PERIOD_NS));
        assert_eq!(pace.step(5 + PERIOD_NS), Ok(()));
    }
}
