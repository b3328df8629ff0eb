//! The first instructions of a guest.

use core::arch::naked_asm;

use super::begin;

/// Where the hypervisor starts vCPU 0; the ENTRY note names it.
///
/// In: `rsi` = address of the start_info page, `rsp` = top of the builder's one-page boot stack, event
/// delivery masked, no trap table, zeroed bss. Out: [`begin`]`(start_info, boot_stack_top)` on the
/// image's own stack, with a zero frame pointer to end every backtrace.
#[unsafe(naked)]
#[unsafe(no_mangle)]
pub(super) unsafe extern "C" fn _start() -> ! {
    naked_asm!(
        "cld",
        "mov rdi, rsi",
        "mov rsi, rsp",
        "lea rsp, [rip + {stack_top}]",
        "xor ebp, ebp",
        "call {begin}",
        "ud2",
        stack_top = sym crate::memory::image::__stack_top,
        begin = sym begin,
    )
}
