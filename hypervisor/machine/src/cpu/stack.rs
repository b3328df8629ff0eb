//! Which CPU we are on, told by its stack, and the move to a CPU's own stack.

use core::arch::{asm, naked_asm};

use bulkhead_machine::layout::{Stack, cpu_of_stack};

/// Bytes at the top of a CPU's main stack that its own record takes.
pub(crate) const CPU_INFO_SIZE: u64 = 1024;

/// The number of the CPU that runs this code. During the boot, on the boot stack, that is 0.
pub(crate) fn this_cpu() -> usize {
    let rsp: u64;
    // SAFETY: reads a register.
    unsafe { asm!("mov {}, rsp", out(reg) rsp, options(nomem, nostack, preserves_flags)) };
    cpu_of_stack(rsp).unwrap_or(0)
}

/// The frame pointer of the caller, for a backtrace.
#[inline(always)]
pub(crate) fn frame_pointer() -> u64 {
    let rbp: u64;
    // SAFETY: reads a register.
    unsafe { asm!("mov {}, rbp", out(reg) rbp, options(nomem, nostack, preserves_flags)) };
    rbp
}

/// Leaves the current stack for good and calls `run(argument)` on the main stack of CPU `cpu`.
///
/// # Safety
///
/// The stack must be mapped and unused, and nothing may be left on the old stack that has to be dropped.
/// `argument` must be what `run` wants.
pub(crate) unsafe fn enter_main_stack(
    cpu: usize,
    run: unsafe extern "C" fn(*mut ()) -> !,
    argument: *mut (),
) -> ! {
    let top = Stack::Main.top(cpu).saturating_sub(CPU_INFO_SIZE);
    // SAFETY: as the caller promises; the top is 16-byte aligned.
    unsafe { switch(argument, run, top) }
}

/// In: rdi an argument, rsi a function that never returns, rdx a stack.
#[unsafe(naked)]
unsafe extern "C" fn switch(argument: *mut (), run: unsafe extern "C" fn(*mut ()) -> !, stack: u64) -> ! {
    naked_asm!(
        "mov rsp, rdx",
        "xor ebp, ebp", // Ends the chain of frame pointers.
        "call rsi",
        "ud2",
    )
}
