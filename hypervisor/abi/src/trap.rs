//! Traps: vectors, `set_trap_table`, and the frames on the guest-kernel stack.

use crate::{numbers, record};

/// Bits of [`TrapInfo::flags`] that hold the gate's DPL: the least privileged ring that may `int n` it.
pub const TI_DPL_MASK: u8 = 3;
/// Bit of [`TrapInfo::flags`]: events are masked on entry.
pub const TI_MASK_EVENTS: u8 = 4;

record! {
    /// One trap handler. A list ends with an entry whose address is 0.
    pub struct TrapInfo: 16 {
        /// In: the vector.
        0 => pub vector: u8,
        /// In: DPL and [`TI_MASK_EVENTS`].
        1 => pub flags: u8,
        /// In: code selector; recorded, but 64-bit handlers are always entered with
        /// [`FLAT_RING3_CS64`](crate::selectors::FLAT_RING3_CS64).
        2 => pub cs: u16,
        /// In: va of the handler.
        8 => pub address: u64,
    }
}

/// The vector that 32-bit system calls use.
pub const VECTOR_INT80: u8 = 0x80;

numbers! {
    /// An exception vector of the processor.
    pub enum Vector: u8 {
        /// #DE: division by zero or overflow.
        DivideError = 0, "#DE",
        /// #DB: debug.
        Debug = 1, "#DB",
        /// Non-maskable interrupt.
        Nmi = 2, "NMI",
        /// #BP: `int3`.
        Breakpoint = 3, "#BP",
        /// #OF: `into`.
        Overflow = 4, "#OF",
        /// #BR: `bound`.
        BoundRange = 5, "#BR",
        /// #UD: invalid opcode.
        InvalidOpcode = 6, "#UD",
        /// #NM: the FPU is not available.
        DeviceNotAvailable = 7, "#NM",
        /// #DF: double fault.
        DoubleFault = 8, "#DF",
        /// #TS: invalid TSS.
        InvalidTss = 10, "#TS",
        /// #NP: segment not present.
        SegmentNotPresent = 11, "#NP",
        /// #SS: stack segment.
        StackSegment = 12, "#SS",
        /// #GP: general protection.
        GeneralProtection = 13, "#GP",
        /// #PF: page fault.
        PageFault = 14, "#PF",
        /// #MF: x87 error.
        X87 = 16, "#MF",
        /// #AC: alignment.
        AlignmentCheck = 17, "#AC",
        /// #MC: machine check.
        MachineCheck = 18, "#MC",
        /// #XM: SIMD error.
        Simd = 19, "#XM",
        /// #CP: control protection.
        ControlProtection = 21, "#CP",
    }
}

impl Vector {
    /// Whether the processor, and hence a bounce frame, has an error code for this vector.
    #[must_use]
    pub const fn has_error_code(self) -> bool {
        match self {
            Self::DoubleFault
            | Self::InvalidTss
            | Self::SegmentNotPresent
            | Self::StackSegment
            | Self::GeneralProtection
            | Self::PageFault
            | Self::AlignmentCheck
            | Self::ControlProtection => true,
            Self::DivideError
            | Self::Debug
            | Self::Nmi
            | Self::Breakpoint
            | Self::Overflow
            | Self::BoundRange
            | Self::InvalidOpcode
            | Self::DeviceNotAvailable
            | Self::X87
            | Self::MachineCheck
            | Self::Simd => false,
        }
    }
}

/// Page-fault error code: the entry was present.
pub const PF_PRESENT: u32 = 1 << 0;
/// Page-fault error code: the access was a write.
pub const PF_WRITE: u32 = 1 << 1;
/// Page-fault error code: the guest was in user mode (hardware always says so; corrected for the guest).
pub const PF_USER: u32 = 1 << 2;
/// Page-fault error code: a reserved bit was set. Never passed on to a guest.
pub const PF_RESERVED: u32 = 1 << 3;
/// Page-fault error code: an instruction fetch.
pub const PF_FETCH: u32 = 1 << 4;
/// Page-fault error code: a protection key.
pub const PF_KEY: u32 = 1 << 5;

/// The stack pointer is aligned down to this before a frame is stored.
pub const STACK_ALIGN: u64 = 16;

/// Where a frame's cs word holds the upcall mask that was in force before the trap.
pub const SAVED_MASK_SHIFT: u32 = 32;

/// The cs word of a bounce frame: the selector, and the upcall mask from before the trap in bit 32.
#[must_use]
#[inline]
pub const fn frame_cs(selector: u16, was_masked: bool) -> u64 {
    selector as u64 | (was_masked as u64) << SAVED_MASK_SHIFT
}

record! {
    /// What the guest kernel finds on its stack at a trap without error code, at a syscall, and at an
    /// event upcall. All fields are written by the hypervisor.
    pub struct BounceFrame: 56 {
        /// rcx, of which nothing is left in its register.
        0 => pub rcx: u64,
        /// r11, likewise.
        8 => pub r11: u64,
        /// Where the guest was.
        16 => pub rip: u64,
        /// [`frame_cs`]; RPL 0 if the guest kernel was interrupted.
        24 => pub cs: u64,
        /// Flags; bit 9 (IF) is the inverse of the saved upcall mask.
        32 => pub rflags: u64,
        /// Stack pointer.
        40 => pub rsp: u64,
        /// Stack selector.
        48 => pub ss: u64,
    }
}

record! {
    /// As [`BounceFrame`], for a vector with an error code.
    pub struct BounceFrameWithError: 64 {
        /// rcx, of which nothing is left in its register.
        0 => pub rcx: u64,
        /// r11, likewise.
        8 => pub r11: u64,
        /// The error code, zero-extended.
        16 => pub error_code: u64,
        /// Where the guest was.
        24 => pub rip: u64,
        /// [`frame_cs`]; RPL 0 if the guest kernel was interrupted.
        32 => pub cs: u64,
        /// Flags; bit 9 (IF) is the inverse of the saved upcall mask.
        40 => pub rflags: u64,
        /// Stack pointer.
        48 => pub rsp: u64,
        /// Stack selector.
        56 => pub ss: u64,
    }
}

record! {
    /// What the failsafe callback finds on its stack: segment registers could not be loaded, and hold null now. The
    /// others hold what is said here.
    pub struct FailsafeFrame: 88 {
        /// rcx.
        0 => pub rcx: u64,
        /// r11.
        8 => pub r11: u64,
        /// The ds that was to be loaded.
        16 => pub ds: u64,
        /// The es that was to be loaded.
        24 => pub es: u64,
        /// The fs that was to be loaded.
        32 => pub fs: u64,
        /// The gs that was to be loaded.
        40 => pub gs: u64,
        /// Where the guest was.
        48 => pub rip: u64,
        /// [`frame_cs`].
        56 => pub cs: u64,
        /// Flags.
        64 => pub rflags: u64,
        /// Stack pointer.
        72 => pub rsp: u64,
        /// Stack selector.
        80 => pub ss: u64,
    }
}

/// Flag of [`IretFrame`]: rcx and r11 are not restored from the frame; they hold rip and rflags, as
/// SYSRET leaves them.
pub const VGCF_IN_SYSCALL: u64 = 0x100;

record! {
    /// What rsp points to at the iret hypercall. All fields are **In**.
    pub struct IretFrame: 72 {
        /// rax.
        0 => pub rax: u64,
        /// r11.
        8 => pub r11: u64,
        /// rcx.
        16 => pub rcx: u64,
        /// [`VGCF_IN_SYSCALL`] or 0.
        24 => pub flags: u64,
        /// Where to go.
        32 => pub rip: u64,
        /// Code selector; RPL 3 means guest user mode.
        40 => pub cs: u64,
        /// Flags; bit 9 (IF) becomes the inverse of the upcall mask.
        48 => pub rflags: u64,
        /// Stack pointer.
        56 => pub rsp: u64,
        /// Stack selector.
        64 => pub ss: u64,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn vectors_with_an_error_code_are_those_of_the_processor() {
        let with_code: std::vec::Vec<u8> = Vector::ALL
            .iter()
            .filter(|vector| vector.has_error_code())
            .map(|vector| vector.raw())
            .collect();
        assert_eq!(with_code, [8, 10, 11, 12, 13, 14, 17, 21]);
    }

    #[test]
    fn the_cs_word_carries_the_saved_mask_in_bit_32() {
        assert_eq!(frame_cs(0xe033, false), 0xe033);
        assert_eq!(frame_cs(0xe030, true), 0x1_0000_e030);
    }
}
