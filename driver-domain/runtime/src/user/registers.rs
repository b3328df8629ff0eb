//! A program's registers.

use bulkhead_abi::selectors::{FLAT_RING3_CS64, FLAT_RING3_SS, RPL_MASK};

use super::Program;
use crate::trap::TrapFrame;

/// The registers of a program: any values.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[expect(missing_docs, reason = "the fields are the processor's registers")]
pub struct Registers {
    pub rax: u64,
    pub rbx: u64,
    pub rcx: u64,
    pub rdx: u64,
    pub rsi: u64,
    pub rdi: u64,
    pub rbp: u64,
    pub rsp: u64,
    pub r8: u64,
    pub r9: u64,
    pub r10: u64,
    pub r11: u64,
    pub r12: u64,
    pub r13: u64,
    pub r14: u64,
    pub r15: u64,
    pub rip: u64,
    pub rflags: u64,
    pub cs: u64,
    pub ss: u64,
}

impl Registers {
    /// The interrupt flag: whether events may interrupt the program.
    pub const IF: u64 = 1 << 9;

    /// At the start of the program's code, with its stack, and events kept out.
    #[must_use]
    pub fn at_start() -> Self {
        Self {
            rip: Program::CODE,
            rsp: Program::STACK,
            rflags: 2,
            cs: u64::from(FLAT_RING3_CS64),
            ss: u64::from(FLAT_RING3_SS),
            ..Self::default()
        }
    }

    /// The frame by which a program is entered with these registers.
    pub(super) const fn to_frame(self) -> TrapFrame {
        TrapFrame {
            r15: self.r15,
            r14: self.r14,
            r13: self.r13,
            r12: self.r12,
            rbp: self.rbp,
            rbx: self.rbx,
            r11: self.r11,
            r10: self.r10,
            r9: self.r9,
            r8: self.r8,
            rax: self.rax,
            rcx: self.rcx,
            rdx: self.rdx,
            rsi: self.rsi,
            rdi: self.rdi,
            vector: 0,
            error_code: 0,
            rip: self.rip,
            // Anything less would be a return to the kernel, by a frame that anybody may have filled.
            cs: self.cs | RPL_MASK as u64,
            rflags: self.rflags,
            rsp: self.rsp,
            ss: self.ss,
        }
    }

    /// The registers in the frame with which a program exits.
    pub(super) const fn of_frame(frame: &TrapFrame) -> Self {
        Self {
            rax: frame.rax,
            rbx: frame.rbx,
            rcx: frame.rcx,
            rdx: frame.rdx,
            rsi: frame.rsi,
            rdi: frame.rdi,
            rbp: frame.rbp,
            rsp: frame.rsp,
            r8: frame.r8,
            r9: frame.r9,
            r10: frame.r10,
            r11: frame.r11,
            r12: frame.r12,
            r13: frame.r13,
            r14: frame.r14,
            r15: frame.r15,
            rip: frame.rip,
            rflags: frame.rflags,
            // Above the selector stands whether events were masked.
            cs: frame.cs & 0xffff,
            ss: frame.ss,
        }
    }
}
