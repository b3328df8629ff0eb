//! What an exception interrupted.

use core::fmt;

use crate::memory::frame::to_usize;

/// The registers of interrupted code. Returning from the trap loads them again.
///
/// Safe code can read a frame but neither make nor copy one: putting another frame's registers into this one
/// would be a jump to anywhere.
#[derive(Debug)]
#[repr(C)]
pub struct TrapFrame {
    // In the order in which the entry stub pushed them, last first.
    pub(crate) r15: u64,
    pub(crate) r14: u64,
    pub(crate) r13: u64,
    pub(crate) r12: u64,
    pub(crate) rbp: u64,
    pub(crate) rbx: u64,
    pub(crate) r11: u64,
    pub(crate) r10: u64,
    pub(crate) r9: u64,
    pub(crate) r8: u64,
    pub(crate) rax: u64,
    pub(crate) rcx: u64,
    pub(crate) rdx: u64,
    pub(crate) rsi: u64,
    pub(crate) rdi: u64,
    pub(crate) vector: u64,
    pub(crate) error_code: u64,
    pub(crate) rip: u64,
    pub(crate) cs: u64,
    pub(crate) rflags: u64,
    pub(crate) rsp: u64,
    pub(crate) ss: u64,
}

impl TrapFrame {
    /// The vector's number.
    #[must_use]
    pub const fn vector(&self) -> u64 {
        self.vector
    }

    /// The error code; 0 for vectors that have none.
    #[must_use]
    pub const fn error_code(&self) -> u64 {
        self.error_code
    }

    /// Where the interrupted code goes on: at the instruction that faulted, or after the one that trapped.
    #[must_use]
    pub const fn rip(&self) -> u64 {
        self.rip
    }

    /// The frame pointer of the interrupted code.
    pub(super) const fn frame_pointer(&self) -> usize {
        to_usize(self.rbp)
    }

    /// Lets the interrupted code go on at `rip` with two result registers set, as if it had returned there.
    ///
    /// # Safety
    ///
    /// The code at `rip` must take over from the interrupted instruction, with its stack, and with any values
    /// in rax and rdx.
    pub(super) const unsafe fn resume_at(&mut self, rip: u64, rax: u64, rdx: u64) {
        self.rip = rip;
        self.rax = rax;
        self.rdx = rdx;
    }

    /// Lets the interrupted code go on without the trap flag: it single-steps no longer.
    pub const fn stop_stepping(&mut self) {
        self.rflags &= !(1 << 8);
    }

    /// Lets the interrupted code go on `length` bytes further.
    ///
    /// # Safety
    ///
    /// The instruction at [`rip`](Self::rip) must be `length` bytes long, and leaving it out must be as good
    /// as executing it to the code around it.
    pub const unsafe fn skip(&mut self, length: u64) {
        self.rip = self.rip.wrapping_add(length);
    }
}

/// The registers, four to a line.
impl fmt::Display for TrapFrame {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let registers = [
            [
                ("rax", self.rax),
                ("rbx", self.rbx),
                ("rcx", self.rcx),
                ("rdx", self.rdx),
            ],
            [
                ("rsi", self.rsi),
                ("rdi", self.rdi),
                ("rbp", self.rbp),
                ("rsp", self.rsp),
            ],
            [
                ("r8 ", self.r8),
                ("r9 ", self.r9),
                ("r10", self.r10),
                ("r11", self.r11),
            ],
            [
                ("r12", self.r12),
                ("r13", self.r13),
                ("r14", self.r14),
                ("r15", self.r15),
            ],
            [
                ("rip", self.rip),
                ("flg", self.rflags),
                ("cs ", self.cs),
                ("ss ", self.ss),
            ],
        ];
        for (index, line) in registers.iter().enumerate() {
            if index > 0 {
                f.write_str("\n")?;
            }
            for (name, value) in line {
                write!(f, " {name} {value:016x}")?;
            }
        }
        Ok(())
    }
}
