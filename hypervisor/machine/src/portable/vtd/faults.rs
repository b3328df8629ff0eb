//! What a unit reports of DMA that it blocked, whose it was, and how much of that is worth hearing: a device may go wrong without end, as fast as it can.
//!
//! Every fault is counted for its function ([`Ledger`]), but only the first ones are told of. Two limits keep that cheap. Of a function that has too many in
//! a short time the unit is told to report no more. And of all together only so many are taken in a time ([`Pace`]), because some faults cannot
//! be turned off for one function alone.
//!
//! Source: the specification, sections 7.1.3 (reasons) and 11.4.14 (fault recording registers).

use core::cmp::Ordering;
use core::fmt;

use bulkhead_abi::DomId;
use bulkhead_core::pci::{FunctionId, MAX_FUNCTIONS};
use heapless::LinearMap;

/// The high word of a fault record: the record holds a fault. Writing it empties the record.
pub const FAULT: u64 = 1 << 63;
/// The high word of a fault record: the function wanted to read.
const READ: u64 = 1 << 62;

/// Something that a function was not allowed to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fault {
    /// Who did it. What is behind an old PCI bridge goes by the bridge's number.
    pub function: FunctionId,
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
            function: FunctionId::new(high as u16),
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

/// How many faults of a function are told of, from one assignment to the next. Those after them are counted.
const TOLD: u64 = 8;
/// How many faults of a function there may be in [`SPAN_NS`]; one that has more is silenced.
const PER_SPAN: u32 = 64;
/// Nanoseconds in which so many are borne.
const SPAN_NS: u64 = 1_000_000_000;
/// How many functions' faults are counted: all that can be assigned, and as many more.
const ACCOUNTS: usize = 2 * MAX_FUNCTIONS;

/// What is known of one function's faults since it was assigned last.
#[derive(Clone, Copy, Debug, Default)]
pub struct Account {
    /// Whose it is, or was last.
    pub domain: Option<DomId>,
    /// How many faults there were.
    pub count: u64,
    /// The last one.
    pub last: Option<Fault>,
    /// Whether the unit reports no more of it.
    pub is_silenced: bool,
    /// When a span ends, and how many faults there were in it.
    span_end_ns: u64,
    in_span: u32,
}

/// The faults of all functions, by whose they were.
#[derive(Debug, Default)]
pub struct Ledger(LinearMap<FunctionId, Account, ACCOUNTS>);

/// What to do with a fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hearing {
    /// Tell it.
    Tell,
    /// Tell it, and that those after it are counted only.
    TellLast,
    /// Say nothing: it has been counted.
    Count,
    /// Tell it, and let the unit report no more of this function.
    Silence,
}

impl Ledger {
    /// Nothing has happened.
    #[must_use]
    pub const fn new() -> Self {
        Self(LinearMap::new())
    }

    /// `function` begins anew, as `domain`'s.
    pub fn open(&mut self, function: FunctionId, domain: DomId) {
        if self.0.len() == ACCOUNTS && !self.0.contains_key(&function) {
            // Fewer than there is room for can be somebody's.
            let nobodys = self.0.iter().find(|(_, account)| account.domain.is_none());
            if let Some(nobodys) = nobodys.map(|(&function, _)| function) {
                self.0.remove(&nobodys);
            }
        }
        let account = Account {
            domain: Some(domain),
            ..Account::default()
        };
        let _ = self.0.insert(function, account);
    }

    /// Counts a fault that was heard at `now_ns`. Returns whose function it was, and what to do.
    pub fn enter(&mut self, fault: Fault, now_ns: u64) -> (Option<DomId>, Hearing) {
        if !self.0.contains_key(&fault.function) {
            let _ = self.0.insert(fault.function, Account::default());
        }
        match self.0.get_mut(&fault.function) {
            Some(account) => (account.domain, account.enter(fault, now_ns)),
            // More functions go wrong than are counted, and this is nobody's: one fault of each is enough.
            None => (None, Hearing::Silence),
        }
    }

    /// What is known of a function.
    #[must_use]
    pub fn get(&self, function: FunctionId) -> Account {
        self.0.get(&function).copied().unwrap_or_default()
    }
}

impl Account {
    fn enter(&mut self, fault: Fault, now_ns: u64) -> Hearing {
        (self.count, self.last) = (self.count.saturating_add(1), Some(fault));
        if now_ns >= self.span_end_ns {
            (self.span_end_ns, self.in_span) = (now_ns.saturating_add(SPAN_NS), 0);
        }
        self.in_span = self.in_span.saturating_add(1);
        if self.in_span > PER_SPAN && !self.is_silenced {
            self.is_silenced = true;
            return Hearing::Silence;
        }
        match self.count.cmp(&TOLD) {
            Ordering::Less => Hearing::Tell,
            Ordering::Equal => Hearing::TellLast,
            Ordering::Greater => Hearing::Count,
        }
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
    /// Nothing has been taken.
    #[must_use]
    pub const fn new() -> Self {
        Self { end_ns: 0, left: 0 }
    }

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

    const NIC: FunctionId = FunctionId::at(0, 3, 0);

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

    const DRIVER: DomId = DomId::new(3);

    fn fault(function: FunctionId) -> Fault {
        Fault {
            function,
            address: 0x1000,
            is_write: true,
            reason: Reason(5),
        }
    }

    #[test]
    fn each_fault_is_counted_for_the_domain_whose_function_it_was_and_few_are_told_of() {
        let mut ledger = Ledger::default();
        ledger.open(NIC, DRIVER);
        let mut heard = std::vec::Vec::new();
        for n in 0..1000 {
            let (domain, hearing) = ledger.enter(fault(NIC), n * 100_000_000);
            assert_eq!(domain, Some(DRIVER));
            heard.push(hearing);
        }
        let (told, counted) = heard.split_at(8);
        assert_eq!(
            told,
            [[Hearing::Tell; 7].as_slice(), &[Hearing::TellLast]].concat()
        );
        assert!(counted.iter().all(|&hearing| hearing == Hearing::Count));
        let account = ledger.get(NIC);
        assert_eq!((account.count, account.is_silenced), (1000, false));
        assert_eq!(account.last, Some(fault(NIC)));
        ledger.open(NIC, DomId::new(4));
        assert_eq!(ledger.get(NIC).count, 0);
        assert_eq!(ledger.enter(fault(NIC), 0), (Some(DomId::new(4)), Hearing::Tell));
    }

    #[test]
    fn a_function_that_goes_wrong_too_often_is_silenced_once() {
        let mut ledger = Ledger::default();
        ledger.open(NIC, DRIVER);
        for n in 0..PER_SPAN {
            assert_ne!(ledger.enter(fault(NIC), n.into()).1, Hearing::Silence);
        }
        assert_eq!(ledger.enter(fault(NIC), SPAN_NS - 1).1, Hearing::Silence);
        assert_eq!(ledger.enter(fault(NIC), SPAN_NS - 1).1, Hearing::Count);
        assert!(ledger.get(NIC).is_silenced);
        let other = FunctionId::at(0, 4, 0);
        assert_eq!(ledger.enter(fault(other), 0), (None, Hearing::Tell));
        ledger.open(NIC, DRIVER);
        assert_eq!(ledger.enter(fault(NIC), SPAN_NS - 1).1, Hearing::Tell);
    }

    #[test]
    fn functions_that_are_nobodys_take_no_account_from_one_that_is_assigned() {
        let mut ledger = Ledger::default();
        for n in 0..ACCOUNTS {
            let n = u16::try_from(n).unwrap();
            assert_eq!(ledger.enter(fault(FunctionId::new(n)), 0), (None, Hearing::Tell));
        }
        let late = FunctionId::at(0xff, 0, 0);
        assert_eq!(ledger.enter(fault(late), 0), (None, Hearing::Silence));
        ledger.open(late, DRIVER);
        assert_eq!(ledger.enter(fault(late), 0), (Some(DRIVER), Hearing::Tell));
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
