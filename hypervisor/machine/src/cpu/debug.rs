//! The debug registers. Source: Intel SDM volume 3B, section 18.2.
//!
//! The hypervisor has no breakpoints of its own. Those of a guest lie on addresses of its own, and are armed while it runs.

use core::arch::asm;

use bulkhead_core::vcpu::Breakpoints;

/// DR7 without breakpoints.
const DISARMED: u64 = 0x400;
/// DR6 without a reason.
const NO_REASON: u64 = 0xffff_0ff0;

/// Takes away whatever the firmware left.
pub(crate) fn reset() {
    set_breakpoints(None);
    let _ = take_status();
}

/// Arms `breakpoints`, or none.
pub(crate) fn set_breakpoints(breakpoints: Option<&Breakpoints>) {
    // Disarmed first: an old choice of what to watch for must not meet a new address.
    // SAFETY: nothing is watched from here on.
    unsafe { asm!("mov dr7, {}", in(reg) DISARMED, options(nomem, nostack, preserves_flags)) };
    let Some(&Breakpoints { addresses, control }) = breakpoints else {
        return;
    };
    let [first, second, third, fourth] = addresses;
    // SAFETY: the addresses are a guest's and the choices such as a CPU takes, both by the core's contract. If the hypervisor
    // touches what is watched, for the guest, it takes an exception that changes nothing.
    unsafe {
        asm!(
            "mov dr0, {}", "mov dr1, {}", "mov dr2, {}", "mov dr3, {}", "mov dr7, {}",
            in(reg) first, in(reg) second, in(reg) third, in(reg) fourth, in(reg) control,
            options(nomem, nostack, preserves_flags)
        );
    }
}

/// Why there were debug exceptions since this was last asked: bits of DR6, which are cleared.
pub(crate) fn take_status() -> u64 {
    let status: u64;
    // SAFETY: DR6 says what happened, and makes nothing happen.
    unsafe {
        asm!(
            "mov {}, dr6", "mov dr6, {}", out(reg) status, in(reg) NO_REASON,
            options(nomem, nostack, preserves_flags)
        );
    }
    status
}
