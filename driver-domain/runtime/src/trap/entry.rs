//! Where the hypervisor enters the guest for an exception, and the way back.
//!
//! The hypervisor puts a bounce frame on the current stack (a guest kernel has only one): rcx, r11, the error
//! code of vectors that have one, then rip, cs, rflags, rsp, ss. The stubs turn it into a [`TrapFrame`],
//! whatever the vector, and call [`dispatch`].
//!
//! The way back is a few moves, `popfq` and `ret`. The ABI has a hypercall for it, but that is for returns to
//! user mode and for returns that unmask events, which must happen in one step or an upcall nests. Neither
//! happens here: we return to the same ring, and event delivery is masked before and after (see
//! [`event`](crate::event)). Nor is `iretq` needed to change stacks: flags and rip are put right below the
//! interrupted stack pointer. They overwrite at most the frame's own rsp and ss, as the hypervisor aligns its
//! frame just below the interrupted stack, and nothing else lies there, because the target has no red zone.
//! (`iretq` would do as well on a real processor. QEMU 7.2 refuses it in ring 3 when SMAP is on.)

use core::{arch::naked_asm, mem::offset_of};

use bulkhead_abi::selectors::RPL_MASK;

use super::{dispatch, frame::TrapFrame};
use crate::user::crossing;

/// An entry point that the hypervisor jumps to.
pub(super) type Stub = unsafe extern "C" fn() -> !;

/// Takes the general registers from the stack as they lie in a [`TrapFrame`], all but rsp.
macro_rules! pop_general {
    () => {
        "pop r15; pop r14; pop r13; pop r12; pop rbp; pop rbx; pop r11; pop r10; pop r9; pop r8; pop rax; pop rcx; pop rdx; pop rsi; pop rdi"
    };
}
pub(crate) use pop_general;

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

/// Completes the [`TrapFrame`], calls [`dispatch`], and returns to what was interrupted; if that was a program, it has
/// [exited](crossing::exit).
///
/// In: vector, error code, rip, cs, rflags, rsp, ss on the stack, all other registers the interrupted code's;
/// rsp = 8 mod 16 (the hypervisor aligns its frame), so 15 registers later it is right for a call.
#[unsafe(naked)]
pub(crate) unsafe extern "C" fn common() -> ! {
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
        "test byte ptr [rsp + {cs}], {rpl}",
        "jnz {exit}",
        "cld",
        "mov rdi, rsp",
        "call {dispatch}",
        // Flags and rip for the last two instructions, and where they are for the one before.
        "mov rax, [rsp + {rsp}]",
        "sub rax, 16",
        "mov rcx, [rsp + {rflags}]",
        "mov rdx, [rsp + {rip}]",
        "mov [rax], rcx",
        "mov [rax + 8], rdx",
        "mov [rsp + {vector}], rax",
        pop_general!(),
        "pop rsp",
        "popfq",
        "ret",
        dispatch = sym dispatch,
        exit = sym crossing::exit,
        rpl = const RPL_MASK,
        cs = const offset_of!(TrapFrame, cs),
        vector = const offset_of!(TrapFrame, vector),
        rip = const offset_of!(TrapFrame, rip),
        rflags = const offset_of!(TrapFrame, rflags),
        rsp = const offset_of!(TrapFrame, rsp),
    )
}
