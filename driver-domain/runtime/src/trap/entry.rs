//! Where the hypervisor enters the guest for an exception, and the way back.
//!
//! The hypervisor puts a bounce frame on the current stack (a guest kernel has only one): rcx, r11, the error
//! code of vectors that have one, then rip, cs, rflags, rsp, ss. The stubs turn it into a [`TrapFrame`], whatever
//! the vector, and call [`dispatch`].
//!
//! The way back is a plain `iretq`, though the ABI has a hypercall for it. That call exists for returns to user
//! mode and for returns that unmask events, which must happen in one step or an upcall nests. Neither happens
//! here: we return to the same ring, and event delivery is masked before and after (see
//! [`event`](crate::event)). The frame's cs says "kernel" by RPL 0, which the processor does not accept from ring 3,
//! so the real selector is put back.

use core::arch::naked_asm;

use bulkhead_abi::selectors::FLAT_RING3_CS64;

use super::{dispatch, frame::TrapFrame};

/// An entry point that the hypervisor jumps to.
pub(super) type Stub = unsafe extern "C" fn() -> !;

/// Entry for a vector without an error code; a zero takes its place.
#[unsafe(naked)]
pub(super) unsafe extern "C" fn stub<const VECTOR: u8>() -> ! {
    naked_asm!(
        "pop rcx",
        "pop r11",
        "push 0",
        "push {vector}",
        "jmp {common}",
        vector = const VECTOR,
        common = sym common,
    )
}

/// Entry for a vector with an error code.
#[unsafe(naked)]
pub(super) unsafe extern "C" fn stub_with_error_code<const VECTOR: u8>() -> ! {
    naked_asm!(
        "pop rcx",
        "pop r11",
        "push {vector}",
        "jmp {common}",
        vector = const VECTOR,
        common = sym common,
    )
}

/// Completes the [`TrapFrame`], calls [`dispatch`], and returns to what was interrupted.
///
/// In: vector, error code, rip, cs, rflags, rsp, ss on the stack, all other registers the interrupted code's;
/// rsp = 8 mod 16 (the hypervisor aligns its frame), so 15 registers later it is right for a call.
#[unsafe(naked)]
unsafe extern "C" fn common() -> ! {
    naked_asm!(
        "push rdi",
        "push rsi",
        "push rdx",
        "push rcx",
        "push rax",
        "push r8",
        "push r9",
        "push r10",
        "push r11",
        "push rbx",
        "push rbp",
        "push r12",
        "push r13",
        "push r14",
        "push r15",
        "cld",
        "mov rdi, rsp",
        "call {dispatch}",
        "pop r15",
        "pop r14",
        "pop r13",
        "pop r12",
        "pop rbp",
        "pop rbx",
        "pop r11",
        "pop r10",
        "pop r9",
        "pop r8",
        "pop rax",
        "pop rcx",
        "pop rdx",
        "pop rsi",
        "pop rdi",
        "add rsp, {rip} - {vector}",
        "mov qword ptr [rsp + {cs} - {rip}], {selector}",
        "iretq",
        dispatch = sym dispatch,
        vector = const core::mem::offset_of!(TrapFrame, vector),
        rip = const core::mem::offset_of!(TrapFrame, rip),
        cs = const core::mem::offset_of!(TrapFrame, cs),
        selector = const FLAT_RING3_CS64,
    )
}
