//! From the kernel to a program and back: where its exits arrive.
//!
//! A program's exits arrive on a stack of its own, the [`Area`], whose top the hypervisor is told. Traps, system calls and events
//! all become a [`TrapFrame`] there ([`crate::trap`] has the first stubs), and end in [`exit`], which returns to the
//! kernel's stack where [`cross`] left it. So the frame is both: the registers of the last exit, and those to go on with.

use core::{arch::naked_asm, mem::offset_of};

use bulkhead_abi::Hypercall;

use super::Registers;
use crate::trap::{self, TrapFrame};

/// What stands for a vector in the frame of a system call.
pub(super) const SYSTEM_CALL: u64 = 0x100;
/// What stands for a vector in the frame of an event.
pub(crate) const EVENT: u64 = 0x101;
/// What stands for a vector in the frame of a system call of 32-bit code.
pub(super) const COMPAT_CALL: u64 = 0x102;
/// What stands for a vector in the frame of a SYSENTER.
pub(super) const SYSENTER: u64 = 0x103;

/// The stack on which a program's exits arrive: no more than a frame.
#[derive(Debug)]
#[repr(C, align(16))]
pub(super) struct Area {
    /// The registers. The stack begins at its end.
    pub(super) frame: TrapFrame,
    /// The kernel's stack pointer, while the program runs.
    kernel_rsp: u64,
}

const _: () = assert!(
    size_of::<TrapFrame>().is_multiple_of(16),
    "the hypervisor aligns the stack before it writes a frame"
);

impl Area {
    /// One that no program has left yet.
    pub(super) fn new() -> Self {
        Self {
            frame: Registers::default().to_frame(),
            kernel_rsp: 0,
        }
    }

    /// Where the stack begins.
    pub(super) fn stack(area: *mut Self) -> u64 {
        area.expose_provenance().wrapping_add(size_of::<TrapFrame>()) as u64
    }
}

/// Lets a program go on with the registers in `area`, and returns when it exits: they are there again.
///
/// # Safety
///
/// The hypervisor must have been told of this vCPU: the area's stack, tables for programs, and [`system_call`]. The frame's cs must
/// be a program's.
#[unsafe(naked)]
pub(super) unsafe extern "C" fn cross(area: *mut Area) {
    naked_asm!(
        "push rbx",
        "push rbp",
        "push r12",
        "push r13",
        "push r14",
        "push r15",
        "mov [rdi + {kernel_rsp}], rsp",
        "mov rsp, rdi",
        trap::pop_general!(),
        // Vector and error code make room for what the hypercall wants below rip: rax, r11, rcx, and no flags.
        "mov qword ptr [rsp + 8], 0",
        "mov [rsp], rcx",
        "push r11",
        "push rax",
        "mov eax, {iret}",
        "syscall",
        "ud2",
        kernel_rsp = const offset_of!(Area, kernel_rsp),
        iret = const Hypercall::Iret.raw(),
    )
}

/// Where a system call enters the kernel.
///
/// In: rcx, r11, then rip, cs, rflags, rsp, ss on the area's stack.
macro_rules! call_entry {
    ($(#[$doc:meta])* $name:ident, $vector:ident) => {
        $(#[$doc])*
        #[unsafe(naked)]
        pub(super) unsafe extern "C" fn $name() -> ! {
            naked_asm!(
                "pop rcx",
                "pop r11",
                "push 0",
                "push {vector}",
                "jmp {common}",
                vector = const $vector,
                common = sym trap::common,
            )
        }
    };
}

call_entry!(
    /// Where SYSCALL in a program enters the kernel.
    system_call, SYSTEM_CALL
);
call_entry!(
    /// Where SYSCALL in 32-bit code does.
    compat_call, COMPAT_CALL
);
call_entry!(
    /// Where SYSENTER does.
    sysenter, SYSENTER
);

/// The end of a program's exit, which came through one of the stubs: the return of [`cross`].
///
/// In: rsp at the area's frame, which is complete.
#[unsafe(naked)]
pub(crate) unsafe extern "C" fn exit() -> ! {
    naked_asm!(
        "mov rsp, [rsp + {kernel_rsp}]",
        "cld",
        "pop r15",
        "pop r14",
        "pop r13",
        "pop r12",
        "pop rbp",
        "pop rbx",
        "ret",
        kernel_rsp = const offset_of!(Area, kernel_rsp),
    )
}
