//! Where the hypervisor enters the guest for an event: the shortest entry there can be.
//!
//! Delivery is masked while guest code runs; only `SCHEDOP_block` opens it, so an upcall can arrive nowhere but at
//! the end of that call. The hypervisor has masked delivery again on entry and has left the port bits as they are:
//! all that is to do is to go back, masked, and let [`wait`](super::wait) find the bits. Because nothing is unmasked
//! on the way, no second upcall can come between here and the interrupted code, and a plain `iretq` will do.

use core::arch::naked_asm;

use bulkhead_abi::selectors::FLAT_RING3_CS64;

/// The event callback.
///
/// In: a bounce frame without error code (rcx, r11, rip, cs, rflags, rsp, ss) on the interrupted stack, delivery
/// masked. Out: back to the interrupted code with all its registers, delivery still masked. The selector is put right
/// as for traps ([`crate::trap`]).
#[unsafe(naked)]
pub(super) unsafe extern "C" fn upcall() -> ! {
    naked_asm!(
        "pop rcx",
        "pop r11",
        "mov qword ptr [rsp + 8], {selector}",
        "iretq",
        selector = const FLAT_RING3_CS64,
    )
}
