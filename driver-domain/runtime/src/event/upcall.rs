//! Where the hypervisor enters the guest for an event: the shortest entry there can be.
//!
//! Delivery is masked while guest code runs; only `SCHEDOP_block` opens it, so an upcall can arrive nowhere
//! but at the end of that call, and in a program, which [exits](crate::user) then. The hypervisor has masked delivery again on entry and has left the port bits
//! as they are: all that is to do is to go back, masked, and let [`dispatch`](super::dispatch) find the bits. Because
//! nothing is unmasked on the way, no second upcall can come between here and the interrupted code, and no
//! hypercall is needed.

use core::{arch::naked_asm, mem::offset_of};

use bulkhead_abi::{selectors::RPL_MASK, trap::BounceFrame};

use crate::{trap, user::crossing};

/// The event callback.
///
/// In: a [`BounceFrame`] on the interrupted stack, delivery masked. Out: back to the interrupted code with
/// all its registers, delivery still masked. The way back is that of traps ([`crate::trap`]): flags and rip
/// below the interrupted stack pointer, where they overwrite no more than the frame's own rsp and ss.
#[unsafe(naked)]
pub(super) unsafe extern "C" fn upcall() -> ! {
    naked_asm!(
        "test byte ptr [rsp + {cs}], {rpl}",
        "jnz 2f",
        // Free to use: the frame has their values.
        "mov r11, [rsp + {rsp}]",
        "sub r11, 16",
        "mov rcx, [rsp + {rip}]",
        "mov [r11 + 8], rcx",
        "mov rcx, [rsp + {rflags}]",
        "mov [r11], rcx",
        "mov [rsp + {rip}], r11",
        "pop rcx",
        "pop r11",
        "pop rsp",
        "popfq",
        "ret",
        "2:",
        "pop rcx",
        "pop r11",
        "push 0",
        "push {event}",
        "jmp {common}",
        common = sym trap::common,
        event = const crossing::EVENT,
        rpl = const RPL_MASK,
        cs = const offset_of!(BounceFrame, cs),
        rip = const offset_of!(BounceFrame, rip),
        rflags = const offset_of!(BounceFrame, rflags),
        rsp = const offset_of!(BounceFrame, rsp),
    )
}

const _: () = assert!(
    offset_of!(BounceFrame, rip) == 16,
    "rip follows the two registers that are popped"
);
