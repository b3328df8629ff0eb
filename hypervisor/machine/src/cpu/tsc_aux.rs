//! What RDTSCP and RDPID tell besides the time: a register of the vCPU that runs. Source: Intel SDM volume 3B, section 18.17.2.

use core::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use bulkhead_abi::msr;
use bulkhead_machine::layout::MAX_CPUS;
use x86_64::registers::model_specific::Msr;

use super::features::Features;
use super::stack::this_cpu;

/// Whether the CPUs have it.
static IS_THERE: AtomicBool = AtomicBool::new(false);

/// What each CPU has there.
static VALUES: [AtomicU32; MAX_CPUS] = [const { AtomicU32::new(0) }; MAX_CPUS];

/// Whether the CPUs have it.
pub(crate) fn is_there() -> bool {
    // Relaxed: written before this CPU has guests.
    IS_THERE.load(Ordering::Relaxed)
}

/// Takes away whatever the firmware left.
pub(crate) fn reset(features: Features) {
    let is_there = features.contains(Features::TSC_AUX);
    IS_THERE.store(is_there, Ordering::Relaxed);
    if is_there {
        write(0);
    }
}

/// Sets it on this CPU.
pub(crate) fn set(value: u32) {
    let Some(known) = VALUES.get(this_cpu()) else {
        return;
    };
    // Relaxed: nobody but this CPU looks. It is slow to write, and most guests leave it alone.
    if is_there() && known.load(Ordering::Relaxed) != value {
        known.store(value, Ordering::Relaxed);
        write(value);
    }
}

fn write(value: u32) {
    // SAFETY: a CPU with RDTSCP or RDPID has the register, and takes 32 bits. The hypervisor does not read it.
    unsafe { Msr::new(msr::TSC_AUX).write(value.into()) };
}
