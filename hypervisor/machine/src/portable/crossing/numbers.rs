//! Numbers to test with: the same for the same seed.

use bulkhead_core::vcpu::{Regs, flags};

use super::harness::flat;

/// A stream of numbers (SplitMix64).
pub(super) struct Numbers(u64);

impl Numbers {
    pub(super) const fn from_seed(seed: u64) -> Self {
        Self(seed)
    }

    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }

    pub(super) fn below(&mut self, limit: u64) -> u64 {
        self.next().checked_rem(limit).unwrap()
    }

    pub(super) fn one_of<T: Copy>(&mut self, choices: &[T]) -> T {
        let index = self.below(choices.len() as u64);
        choices[usize::try_from(index).unwrap()]
    }

    /// An address near every edge that there is.
    pub(super) fn address(&mut self) -> u64 {
        let edges = [
            0,
            0x40_1000,
            1 << 47,
            0xffff_8000_0000_0000,
            0xffff_8800_0000_0000,
            0xffff_ffff_8100_0000,
            u64::MAX,
            self.0,
        ];
        self.one_of(&edges)
            .wrapping_add(self.below(256))
            .wrapping_sub(128)
    }

    /// Any registers, with the selectors that SYSCALL implies. Most have flags that a guest can have.
    pub(super) fn regs(&mut self) -> Regs {
        let kept = self.one_of(&[
            u64::MAX,
            !flags::IMPOSSIBLE,
            !flags::IMPOSSIBLE,
            !flags::IMPOSSIBLE,
        ]);
        let mut next = || self.next();
        flat(Regs {
            r15: next(),
            r14: next(),
            r13: next(),
            r12: next(),
            rbp: next(),
            rbx: next(),
            r11: next(),
            r10: next(),
            r9: next(),
            r8: next(),
            rax: next(),
            rcx: next(),
            rdx: next(),
            rsi: next(),
            rdi: next(),
            rip: next(),
            rflags: next() & kept | flags::ALWAYS,
            rsp: next(),
            ..Regs::default()
        })
    }
}
