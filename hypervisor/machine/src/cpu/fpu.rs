//! The FPU: loading, saving, and keeping it from whoever has no state in it.
//!
//! CR0.TS stands whenever the FPU is nobody's, and all its registers are as after a reset then. The hypervisor is compiled to use
//! none of them. Where there is XSAVE, XCR0 is what the guest that runs has enabled; to load and save, all parts that are kept are
//! enabled. Source: Intel SDM volume 3A, section 2.5 (CR0.TS) and chapter 14; volume 1, chapter 13.

use core::arch::asm;
use core::sync::atomic::{AtomicU64, Ordering};

use bulkhead_core::policy::xstate;
use bulkhead_core::vcpu::FpuState;
use x86_64::registers::control::{Cr0, Cr0Flags};

/// What the registers are reset to.
static RESET: FpuState = FpuState::at_start();

/// The parts of the state that are kept: the same on all CPUs. Zero where there is no XSAVE.
static KEPT: AtomicU64 = AtomicU64::new(0);

/// The parts of the state that are kept.
pub(crate) fn kept() -> u64 {
    // Relaxed: written before this CPU has guests.
    KEPT.load(Ordering::Relaxed)
}

/// Enables parts of the state for ring 3. Without XSAVE there is nothing to choose.
pub(crate) fn set_xcr0(xcr0: u64) {
    if kept() != 0 {
        // SAFETY: the core's contract is that the CPU takes the value; the hypervisor uses none of the registers.
        unsafe { write_xcr0(xcr0) };
    }
}

/// # Safety
///
/// The CPU must have XSAVE, and take the value.
unsafe fn write_xcr0(xcr0: u64) {
    let [low, high] = halves(xcr0);
    // SAFETY: as the caller promises.
    unsafe {
        asm!("xsetbv", in("ecx") 0, in("eax") low, in("edx") high, options(nomem, nostack, preserves_flags))
    };
}

/// # Safety
///
/// The CPU must have XSAVE.
unsafe fn read_xcr0() -> u64 {
    let (low, high): (u32, u32);
    // SAFETY: as the caller promises; reads a register.
    unsafe {
        asm!("xgetbv", in("ecx") 0, out("eax") low, out("edx") high, options(nomem, nostack, preserves_flags));
    }
    u64::from(high) << 32 | u64::from(low)
}

#[expect(clippy::cast_possible_truncation, reason = "the low half is asked for")]
const fn halves(word: u64) -> [u32; 2] {
    [word as u32, (word >> 32) as u32]
}

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

/// Makes the FPU nobody's, whatever the firmware left in it. SSE is enabled, and XSAVE where the processor has it.
pub(crate) fn reset() {
    let kept = xstate::kept(|leaf, subleaf| {
        let answer = core::arch::x86_64::__cpuid_count(leaf, subleaf);
        [answer.eax, answer.ebx, answer.ecx, answer.edx]
    });
    KEPT.store(kept, Ordering::Relaxed);
    set_xcr0(xstate::X87);
    withhold(false);
    with_all_parts(|kept| restore(&RESET, kept));
    withhold(true);
}

/// Loads `state` and lets whoever runs use the FPU.
pub(crate) fn load(state: &FpuState) {
    withhold(false);
    with_all_parts(|kept| restore(state, kept));
}

/// Saves the registers to `state`, resets them, and keeps the FPU from whoever runs next.
pub(crate) fn save(state: &mut FpuState) {
    withhold(false);
    with_all_parts(|kept| {
        store(state, kept);
        restore(&RESET, kept);
    });
    withhold(true);
}

/// Enables all parts that are kept for as long as `act` runs, which is told which these are.
fn with_all_parts(act: impl FnOnce(u64)) {
    let kept = kept();
    if kept == 0 {
        return act(0);
    }
    // SAFETY: the CPU has XSAVE.
    let before = unsafe { read_xcr0() };
    // It is slow to write, and most guests enable all.
    if before != kept {
        set_xcr0(kept);
    }
    act(kept);
    if before != kept {
        set_xcr0(before);
    }
}

fn store(state: &mut FpuState, kept: u64) {
    let area = state.as_mut_ptr();
    if kept == 0 {
        // SAFETY: the area has more than 512 bytes at a multiple of 64, and is ours.
        unsafe { asm!("fxsave64 [{}]", in(reg) area, options(nostack, preserves_flags)) };
        return;
    }
    let [low, high] = halves(kept);
    // SAFETY: the area has room, at a multiple of 64, for all parts that are kept, and is ours.
    unsafe {
        asm!("xsave64 [{}]", in(reg) area, in("eax") low, in("edx") high, options(nostack, preserves_flags))
    };
}

fn restore(state: &FpuState, kept: u64) {
    let area = state.as_ptr();
    // These leave the addresses of the last x87 instruction in place on some CPUs if no exception is pending; FNINIT clears them.
    // SAFETY: the area is as in `store`. Its bytes are a start value, were checked as a guest gave them, or were saved by the
    // counterpart of the instruction: MXCSR has no bits that fault, and the header names parts that are kept alone. The compiler
    // uses none of the registers: the target has no floating point.
    unsafe {
        asm!("fninit", options(nomem, nostack, preserves_flags));
        if kept == 0 {
            asm!("fxrstor64 [{}]", in(reg) area, options(readonly, nostack, preserves_flags));
        } else {
            let [low, high] = halves(kept);
            asm!(
                "xrstor64 [{}]", in(reg) area, in("eax") low, in("edx") high,
                options(readonly, nostack, preserves_flags)
            );
        }
    }
}
