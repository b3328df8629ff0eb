//! The FPU: loading, saving, and keeping it from whoever has no state in it.
//!
//! CR0.TS stands whenever the FPU is nobody's, and all its registers are as after a reset then. The hypervisor is compiled to use
//! none of them. Source: Intel SDM volume 3A, section 2.5 (CR0.TS) and chapter 14.

use core::arch::asm;

use bulkhead_core::vcpu::FpuState;
use x86_64::registers::control::{Cr0, Cr0Flags};

/// What the registers are reset to.
static RESET: FpuState = FpuState::at_start();

/// Keeps the FPU from whoever runs, or no longer.
pub(crate) fn withhold(withheld: bool) {
    if withheld {
        // SAFETY: the next use traps; the hypervisor makes none.
        unsafe { Cr0::update(|cr0| cr0.insert(Cr0Flags::TASK_SWITCHED)) };
    } else {
        // SAFETY: ends that. Registers belong to whoever runs, or are as after a reset.
        unsafe { asm!("clts", options(nomem, nostack, preserves_flags)) };
    }
}

/// Makes the FPU nobody's, whatever the firmware left in it. SSE is enabled.
pub(crate) fn reset() {
    withhold(false);
    restore(&RESET);
    withhold(true);
}

/// Loads `state` and lets whoever runs use the FPU.
pub(crate) fn load(state: &FpuState) {
    withhold(false);
    restore(state);
}

/// Saves the registers to `state`, resets them, and keeps the FPU from whoever runs next.
pub(crate) fn save(state: &mut FpuState) {
    withhold(false);
    // SAFETY: the area has 512 bytes at a multiple of 16, and is ours.
    unsafe { asm!("fxsave64 [{}]", in(reg) state.as_mut_ptr(), options(nostack, preserves_flags)) };
    restore(&RESET);
    withhold(true);
}

fn restore(state: &FpuState) {
    // FXRSTOR leaves the addresses of the last x87 instruction in place on some CPUs if no exception is pending; FNINIT
    // clears them.
    // SAFETY: the area has 512 bytes at a multiple of 16; they are a start value or were saved by FXSAVE, so MXCSR has no bits
    // that fault. The compiler uses none of the registers: the target has no floating point.
    unsafe {
        asm!("fninit", "fxrstor64 [{}]", in(reg) state.as_ptr(), options(readonly, nostack, preserves_flags));
    }
}
