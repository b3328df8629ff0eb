//! Moving a guest past an instruction that was emulated.

use super::flags;
use super::memory::AddressSize;
use super::register::{Gpr, Width};
use crate::vcpu::Regs;

/// What the caller owes the guest after an instruction was emulated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum After {
    /// Nothing: it goes on.
    Nothing,
    /// It single-steps: a debug exception (#DB, with DR6.BS set) is due.
    SingleStep,
}

/// How an instruction ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Retirement {
    /// Where the next instruction is.
    pub(super) next_rip: u64,
    /// What an iteration of a string instruction does to its pointers and its count.
    pub(super) string: Option<Iteration>,
}

/// One iteration of a string instruction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Iteration {
    /// The size of its elements.
    pub(super) element: Width,
    /// The size of its pointers and its count.
    pub(super) size: AddressSize,
    /// Whether RSI moves.
    pub(super) has_source: bool,
    /// Whether RDI moves.
    pub(super) has_destination: bool,
    /// Whether RCX counts.
    pub(super) is_repeated: bool,
}

impl Retirement {
    /// Whether the instruction ends without having done anything: it is repeated, and the count is zero.
    pub(super) fn is_over(&self, regs: &Regs) -> bool {
        self.string.is_some_and(|iteration| iteration.is_over(regs))
    }

    /// Moves `regs` past the instruction, or past this iteration of it.
    ///
    /// A single step is due after each iteration, as on the CPU.
    pub(super) fn retire(self, regs: &mut Regs) -> After {
        let is_done = self.string.is_none_or(|iteration| iteration.retire(regs));
        if is_done {
            regs.rip = self.next_rip;
            // While it is set a breakpoint on this instruction does not strike again; it is the next one's turn now.
            regs.rflags &= !flags::RF;
        }
        if regs.rflags & flags::TF == 0 {
            After::Nothing
        } else {
            After::SingleStep
        }
    }
}

impl Iteration {
    /// Whether no iteration is left.
    const fn is_over(&self, regs: &Regs) -> bool {
        self.is_repeated && self.size.truncate(Gpr::RCX.load(regs)) == 0
    }

    /// Moves pointers and count; returns whether that was the last iteration.
    fn retire(self, regs: &mut Regs) -> bool {
        if self.is_over(regs) {
            return true;
        }
        let stride = i64::from(self.element.bytes());
        let is_down = regs.rflags & flags::DF != 0;
        let stride = if is_down { stride.wrapping_neg() } else { stride };
        let moved = [(self.has_source, Gpr::RSI), (self.has_destination, Gpr::RDI)];
        for (_, pointer) in moved.into_iter().filter(|(moves, _)| *moves) {
            self.step(regs, pointer, stride);
        }
        if self.is_repeated {
            self.step(regs, Gpr::RCX, -1);
        }
        !self.is_repeated || self.is_over(regs)
    }

    /// Adds to a pointer or the count. Of 32 bits, the upper half becomes zero.
    fn step(&self, regs: &mut Regs, register: Gpr, by: i64) {
        let value = register.load(regs).wrapping_add_signed(by);
        register.store(regs, self.size.truncate(value));
    }
}
