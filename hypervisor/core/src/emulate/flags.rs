//! The flag register: what arithmetic does to it (Intel SDM vol. 1, section 3.4.3, and vol. 2 for each instruction).

use super::register::Width;

/// Carry.
pub(super) const CF: u64 = 1 << 0;
/// Even parity of the low byte.
pub(super) const PF: u64 = 1 << 2;
/// Carry out of bit 3.
pub(super) const AF: u64 = 1 << 4;
/// Zero.
pub(super) const ZF: u64 = 1 << 6;
/// Sign.
pub(super) const SF: u64 = 1 << 7;
/// Single step.
pub(super) const TF: u64 = 1 << 8;
/// Direction of string instructions: down if set.
pub(super) const DF: u64 = 1 << 10;
/// Signed overflow.
pub(super) const OF: u64 = 1 << 11;
/// Resume: no breakpoint at the next instruction.
pub(super) const RF: u64 = 1 << 16;

const ARITHMETIC: u64 = CF | PF | AF | ZF | SF | OF;

/// What an instruction does to the flags.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct FlagChange {
    /// The flags that it writes.
    pub(super) written: u64,
    /// Those of them that it sets.
    pub(super) set: u64,
}

impl FlagChange {
    /// No flag is touched.
    pub(super) const NONE: Self = Self { written: 0, set: 0 };

    /// Writes the one flag `flag`.
    pub(super) const fn one(flag: u64, is_set: bool) -> Self {
        Self {
            written: flag,
            set: if is_set { flag } else { 0 },
        }
    }

    /// The same without a change to `flag`.
    pub(super) const fn except(self, flag: u64) -> Self {
        Self {
            written: self.written & !flag,
            set: self.set & !flag,
        }
    }

    /// The flag register after the change.
    pub(super) const fn apply(self, rflags: u64) -> u64 {
        rflags & !self.written | self.set
    }
}

/// `a + b`.
pub(super) const fn add(a: u64, b: u64, width: Width) -> (u64, FlagChange) {
    let sum = a.wrapping_add(b) & width.mask();
    // A bit carries if both summands have it, or if one has it and the sum has lost it.
    let carries = a & b | (a | b) & !sum;
    (sum, arithmetic(a, b, sum, carries, (a ^ sum) & (b ^ sum), width))
}

/// `a - b`.
pub(super) const fn sub(a: u64, b: u64, width: Width) -> (u64, FlagChange) {
    let difference = a.wrapping_sub(b) & width.mask();
    let borrows = !a & b | !(a ^ b) & difference;
    let overflows = (a ^ b) & (a ^ difference);
    (
        difference,
        arithmetic(a, b, difference, borrows, overflows, width),
    )
}

/// The flags after a bitwise instruction that came to `result`. AF is undefined after one; the CPUs that we know clear it.
pub(super) const fn logic(result: u64, width: Width) -> FlagChange {
    FlagChange {
        written: ARITHMETIC,
        set: of_result(result, width),
    }
}

const fn arithmetic(a: u64, b: u64, result: u64, carries: u64, overflows: u64, width: Width) -> FlagChange {
    let mut set = of_result(result, width);
    if carries & width.sign() != 0 {
        set |= CF;
    }
    if overflows & width.sign() != 0 {
        set |= OF;
    }
    // The carry into bit 4 is what its sum differs by from that of the summands' bits alone; AF is bit 4 too.
    set |= (a ^ b ^ result) & AF;
    FlagChange {
        written: ARITHMETIC,
        set,
    }
}

/// SF, ZF and PF of a result.
const fn of_result(result: u64, width: Width) -> u64 {
    let mut set = 0;
    if result & width.sign() != 0 {
        set |= SF;
    }
    if result == 0 {
        set |= ZF;
    }
    if (result & 0xff).count_ones() & 1 == 0 {
        set |= PF;
    }
    set
}
