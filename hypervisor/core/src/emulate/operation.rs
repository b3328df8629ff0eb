//! What an instruction makes of its operand in memory, in one step: a function from the old value to the new one, with
//! what else the instruction writes.

use super::flags::{self, CF, FlagChange, ZF};
use super::register::{EdxEax, Gpr, Width};
use crate::vcpu::Regs;

/// A change to an operand in memory. The values of its other operands were taken from the registers at decoding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Operation {
    /// MOV, MOVNTI, STOS, MOVS: becomes this.
    Store(u64),
    /// XCHG: becomes `source`; what it was goes to `register`.
    Exchange { source: u64, register: Gpr },
    /// ADD.
    Add(u64),
    /// XADD: as ADD; what it was goes to `register`.
    ExchangeAdd { source: u64, register: Gpr },
    /// SUB.
    Subtract(u64),
    /// INC.
    Increment,
    /// DEC.
    Decrement,
    /// NEG.
    Negate,
    /// NOT.
    Not,
    /// AND.
    And(u64),
    /// OR.
    Or(u64),
    /// XOR.
    Xor(u64),
    /// BTS, BTR, BTC: one bit.
    Bit { action: BitAction, bit: u32 },
    /// CMPXCHG: becomes `replacement` if it is `expected`; if not, what it is goes to the accumulator.
    CompareExchange { expected: u64, replacement: u64 },
    /// CMPXCHG8B: the same with EDX:EAX, and no flag but ZF.
    CompareExchangePair { expected: u64, replacement: u64 },
}

/// What becomes of a bit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum BitAction {
    Set,
    Reset,
    Complement,
}

/// What an operation comes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Outcome {
    /// The operand's new value.
    pub(super) new: u64,
    flags: FlagChange,
    load: Load,
}

/// A value that goes to registers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Load {
    Nothing,
    Register(Gpr, u64),
    Pair(u64),
}

impl Operation {
    /// What it makes of `old`, an operand of `width`, with all bits above zero.
    pub(super) const fn run(self, old: u64, width: Width) -> Outcome {
        match self {
            Self::Store(value) => Outcome::quiet(value),
            Self::Exchange { source, register } => Outcome::quiet(source).loading(register, old),
            Self::Add(value) => Outcome::of(flags::add(old, value, width)),
            Self::ExchangeAdd { source, register } => {
                Outcome::of(flags::add(old, source, width)).loading(register, old)
            }
            Self::Subtract(value) => Outcome::of(flags::sub(old, value, width)),
            Self::Increment => Outcome::of(flags::add(old, 1, width)).keeping(CF),
            Self::Decrement => Outcome::of(flags::sub(old, 1, width)).keeping(CF),
            Self::Negate => Outcome::of(flags::sub(0, old, width)),
            Self::Not => Outcome::quiet(!old & width.mask()),
            Self::And(value) => Outcome::logic(old & value, width),
            Self::Or(value) => Outcome::logic(old | value, width),
            Self::Xor(value) => Outcome::logic(old ^ value, width),
            Self::Bit { action, bit } => {
                let mask = 1u64.wrapping_shl(bit);
                let new = match action {
                    BitAction::Set => old | mask,
                    BitAction::Reset => old & !mask,
                    BitAction::Complement => old ^ mask,
                };
                // The other arithmetic flags are undefined, or stay; here all stay.
                Outcome::of((new, FlagChange::one(CF, old & mask != 0)))
            }
            Self::CompareExchange {
                expected,
                replacement,
            } => {
                let (difference, flags) = flags::sub(expected, old, width);
                if difference == 0 {
                    Outcome::of((replacement, flags))
                } else {
                    Outcome::of((old, flags)).loading(Gpr::accumulator(width), old)
                }
            }
            Self::CompareExchangePair {
                expected,
                replacement,
            } => {
                if expected == old {
                    Outcome::of((replacement, FlagChange::one(ZF, true)))
                } else {
                    Outcome {
                        new: old,
                        flags: FlagChange::one(ZF, false),
                        load: Load::Pair(old),
                    }
                }
            }
        }
    }
}

impl Outcome {
    const fn of((new, flags): (u64, FlagChange)) -> Self {
        Self {
            new,
            flags,
            load: Load::Nothing,
        }
    }

    const fn quiet(new: u64) -> Self {
        Self::of((new, FlagChange::NONE))
    }

    const fn logic(new: u64, width: Width) -> Self {
        Self::of((new, flags::logic(new, width)))
    }

    const fn keeping(mut self, flag: u64) -> Self {
        self.flags = self.flags.except(flag);
        self
    }

    const fn loading(mut self, register: Gpr, value: u64) -> Self {
        self.load = Load::Register(register, value);
        self
    }

    /// Writes the registers and the flags.
    pub(super) const fn write_back(self, regs: &mut Regs) {
        match self.load {
            Load::Nothing => {}
            Load::Register(register, value) => register.store(regs, value),
            Load::Pair(value) => EdxEax.store(regs, value),
        }
        regs.rflags = self.flags.apply(regs.rflags);
    }
}
