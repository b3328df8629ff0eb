//! The registers of an interrupted guest, in the ABI's order.

use bulkhead_abi::selectors;
use bulkhead_abi::trap::{IretFrame, VGCF_IN_SYSCALL};
use core::fmt;

/// A guest's general registers and where it was, as the entry code saves them on the CPU's stack.
///
/// The order is that of the ABI's `cpu_user_regs` as far as it goes; the entry assembly takes its offsets from here.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
#[expect(missing_docs, reason = "the fields are the CPU's registers")]
pub struct Regs {
    pub r15: u64,
    pub r14: u64,
    pub r13: u64,
    pub r12: u64,
    pub rbp: u64,
    pub rbx: u64,
    pub r11: u64,
    pub r10: u64,
    pub r9: u64,
    pub r8: u64,
    pub rax: u64,
    pub rcx: u64,
    pub rdx: u64,
    pub rsi: u64,
    pub rdi: u64,
    /// The error code of an exception; nothing otherwise.
    pub error_code: u32,
    /// The vector that was taken; [`Regs::HYPERCALL`] for a SYSCALL.
    pub entry_vector: u32,
    pub rip: u64,
    pub cs: u64,
    pub rflags: u64,
    pub rsp: u64,
    pub ss: u64,
}

const _: () = assert!(size_of::<Regs>() == 168);

impl Regs {
    /// What stands in [`Regs::entry_vector`] after a SYSCALL: no vector has this number.
    pub const HYPERCALL: u32 = 0x100;

    /// Whether the flags are such as no guest's can be: with rights over ports, or in virtual 8086 mode, which 64-bit CPUs do not have.
    ///
    /// Under QEMU (7.2 and later), an IRET of 32 bits in ring 3 loads a stack's flags with the VM bit, and with them any code selector,
    /// ring 0's too. An entry must not believe such a frame.
    #[must_use]
    #[inline]
    pub const fn is_impossible(&self) -> bool {
        self.rflags & flags::IMPOSSIBLE != 0
    }

    /// Takes all privilege away: selectors are forced to ring 3, and of the flags stay only those that are a guest's to choose.
    pub(crate) fn confine(&mut self) {
        self.cs = self.cs & 0xffff | 3;
        let allowed = if mutant!(FlagsAsAsked) {
            u64::MAX
        } else {
            flags::GUEST
        };
        self.rflags = self.rflags & allowed | flags::ALWAYS;
        self.ss = self.ss & 0xffff | 3;
    }

    /// Goes on in the guest's kernel at `entry`, with its stack at `sp`, where a frame has what must not be lost.
    #[inline]
    pub fn enter(&mut self, entry: u64, sp: u64) {
        self.rip = entry;
        self.cs = u64::from(selectors::FLAT_RING3_CS64);
        self.rflags = self.rflags & !flags::CLEARED | flags::ALWAYS;
        self.rsp = sp;
        self.ss = u64::from(selectors::FLAT_RING3_SS);
        // What SYSRET leaves there, which is the quick way in. The handler pops the guest's from the frame.
        self.rcx = self.rip;
        self.r11 = self.rflags;
    }

    /// Goes on where a frame of a guest kernel's says, [without privilege](Regs::confine).
    pub fn return_by(&mut self, frame: &IretFrame) {
        self.rip = frame.rip;
        self.cs = frame.cs;
        self.rflags = frame.rflags;
        self.rsp = frame.rsp;
        self.ss = frame.ss;
        self.rax = frame.rax;
        self.confine();
        // As SYSRET leaves them, or as the frame has them.
        (self.rcx, self.r11) = if frame.flags & VGCF_IN_SYSCALL == 0 {
            (frame.rcx, frame.r11)
        } else {
            (self.rip, self.rflags)
        };
    }
}

/// The flag register's bits that the hypervisor deals in (Intel SDM vol. 1, section 3.4.3).
pub mod flags {
    /// Single step.
    pub const TF: u64 = 1 << 8;
    /// Interrupts are taken. In hardware always set while a guest runs.
    pub const IF: u64 = 1 << 9;
    /// I/O privilege level.
    pub const IOPL: u64 = 3 << 12;
    /// Nested task.
    pub const NT: u64 = 1 << 14;
    /// Resume: no breakpoint at the next instruction.
    pub const RF: u64 = 1 << 16;
    /// Virtual 8086 mode.
    pub const VM: u64 = 1 << 17;
    /// Alignment check.
    pub const AC: u64 = 1 << 18;
    /// What a guest may choose: the arithmetic flags, TF, DF, AC, RF, ID.
    pub const GUEST: u64 = 0xcd5 | TF | RF | AC | 1 << 21;
    /// The bit that always reads one.
    pub const FIXED: u64 = 1 << 1;
    /// What is set while a guest runs, whatever it chooses.
    pub const ALWAYS: u64 = IF | FIXED;
    /// What a guest's kernel is shown of those that it interrupts, as they are. The interrupt flag says instead whether events were masked.
    pub const VISIBLE: u64 = 0xffff_ffff & !(IOPL | IF);
    /// What no guest's can be: see [`Regs::is_impossible`](super::Regs::is_impossible).
    pub const IMPOSSIBLE: u64 = VM | IOPL;
    /// What is cleared when a guest's kernel is entered.
    pub const CLEARED: u64 = AC | VM | RF | NT | TF;
}

impl Regs {
    /// The registers in rows, as they are shown to people.
    pub fn rows(&self) -> impl Iterator<Item = impl fmt::Display> {
        let Self {
            rip,
            cs,
            rflags,
            rsp,
            ss,
            ..
        } = *self;
        [
            [("rip", rip), ("rsp", rsp), ("cs ", cs), ("ss ", ss)],
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
                ("flg", rflags),
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
        ]
        .into_iter()
        .map(Row)
    }
}

/// Four registers with their names.
struct Row([(&'static str, u64); 4]);

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self([(a, av), (b, bv), (c, cv), (d, dv)]) = self;
        write!(f, "{a} {av:016x}  {b} {bv:016x}  {c} {cv:016x}  {d} {dv:016x}")
    }
}
