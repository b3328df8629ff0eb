//! The CPU itself: what it can do, how it is set up, and which one we are on.

pub(crate) mod control;
pub(crate) mod features;
pub(crate) mod stack;

use core::sync::atomic::{AtomicUsize, Ordering};

/// How many CPUs run. The boot CPU does.
static ONLINE: AtomicUsize = AtomicUsize::new(1);

/// How many CPUs run.
pub(crate) fn online() -> usize {
    // Relaxed: a CPU that is about to come is not counted on.
    ONLINE.load(Ordering::Relaxed)
}

/// Counts one more CPU; called by itself, when it can take an NMI.
#[expect(dead_code, reason = "the core schedules on one CPU so far")]
pub(crate) fn mark_online() {
    ONLINE.fetch_add(1, Ordering::Relaxed);
}
