//! The CPU itself: what it can do, how it is set up, and which one we are on.

pub(crate) mod control;
pub(crate) mod debug;
pub(crate) mod features;
pub(crate) mod fpu;
pub(crate) mod stack;
pub(crate) mod tsc_aux;

use core::sync::atomic::{AtomicU32, AtomicUsize, Ordering};

use bulkhead_machine::layout::MAX_CPUS;

use crate::apic;
use crate::cpu::stack::this_cpu;

/// How many CPUs run. The boot CPU does.
static ONLINE: AtomicUsize = AtomicUsize::new(1);

/// The APIC id of each CPU that runs, by its number.
static APIC_IDS: [AtomicU32; MAX_CPUS] = [const { AtomicU32::new(0) }; MAX_CPUS];

/// How many CPUs run.
pub(crate) fn online() -> usize {
    // Relaxed: a CPU that is about to come is not counted on.
    ONLINE.load(Ordering::Relaxed)
}

/// Counts one more CPU; called by itself, when it can take an NMI.
pub(crate) fn mark_online() {
    ONLINE.fetch_add(1, Ordering::Relaxed);
}

/// Notes where interrupts for this CPU go. Each CPU calls it, before it has guests.
pub(crate) fn note_apic_id() {
    if let (Some(place), Some(id)) = (APIC_IDS.get(this_cpu()), apic::id()) {
        place.store(id, Ordering::Release);
    }
}

/// Where interrupts for CPU `cpu`, which runs, go.
pub(crate) fn apic_id(cpu: usize) -> u32 {
    APIC_IDS.get(cpu).map_or(0, |id| id.load(Ordering::Acquire))
}
