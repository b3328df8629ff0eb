//! Operands: random, with a taste for the edges.

use super::native::FLAGS;
use bulkhead_core::vcpu::Regs;

/// A generator of random numbers (SplitMix64); the same numbers in each run.
pub(crate) struct Random(u64);

impl Random {
    /// Seeds it from a name.
    pub(crate) fn new(name: &str) -> Self {
        Self(name.bytes().fold(0xcbf2_9ce4_8422_2325, |seed, byte| {
            (seed ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3)
        }))
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ mixed >> 31
    }

    pub(crate) fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }

    pub(crate) fn coin(&mut self) -> bool {
        self.next() & 1 == 0
    }

    /// A value: half the time one near which carries, signs and overflows change.
    pub(crate) fn value(&mut self) -> u64 {
        if self.coin() {
            return self.next();
        }
        let edges: [u64; 18] = [
            0,
            1,
            !0,
            0x7f7f_7f7f_7f7f_7f7f,
            0x8080_8080_8080_8080,
            0x7fff_ffff_ffff_ffff,
            0x8000_0000_0000_0000,
            0x7fff_7fff_7fff_7fff,
            0x8000_8000_8000_8000,
            0x8000_0000_8000_0000,
            0x7fff_ffff_7fff_ffff,
            0x0f0f_0f0f_0f0f_0f0f,
            // The immediates of the forms.
            0x7f,
            0x1234,
            0x1234_5678,
            0x8123_4567,
            0u64.wrapping_sub(3),
            0u64.wrapping_sub(0x1234_5678),
        ];
        let edge = edges[usize::try_from(self.below(edges.len() as u64)).unwrap()];
        let nudge = self.below(3);
        edge.wrapping_add(nudge).wrapping_sub(1)
    }

    /// Registers and flags. DF is clear.
    pub(crate) fn regs(&mut self) -> Regs {
        Regs {
            r15: self.value(),
            r14: self.value(),
            r13: self.value(),
            r12: self.value(),
            rbp: self.value(),
            rbx: self.value(),
            r11: self.value(),
            r10: self.value(),
            r9: self.value(),
            r8: self.value(),
            rax: self.value(),
            rcx: self.value(),
            rdx: self.value(),
            rsi: self.value(),
            rdi: self.value(),
            // Bit 1 always reads one, and interrupts are on.
            rflags: self.next() & FLAGS & !super::native::DF | 1 << 9 | 1 << 1,
            ..Regs::default()
        }
    }
}
