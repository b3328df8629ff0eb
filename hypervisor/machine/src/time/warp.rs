//! Whether all CPUs' time-stamp counters show the same.
//!
//! As each CPU starts, it and the boot CPU read their counters in turn, under a lock that both pass on as fast as they can. If one
//! ever reads less than the other did before it, the counters are apart, and guests are told not to compare them.

use core::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

use bulkhead_machine::portable::command_line::Choice;
use spin::Mutex;

use super::tsc;
use crate::cpu::features::Features;

/// How often each of two CPUs reads its counter.
const READINGS: u32 = 5_000;

/// What was read last, on either CPU.
static LAST: Mutex<u64> = Mutex::new(0);

/// By how much a counter was behind, at most.
static WORST: AtomicU64 = AtomicU64::new(0);

/// The CPU whose turn it is to be compared with the boot CPU; the number of the last that was ready, and of the last that was done.
static TURN: AtomicUsize = AtomicUsize::new(0);
static DONE: AtomicUsize = AtomicUsize::new(0);

static STABLE: AtomicBool = AtomicBool::new(false);

/// Reads the counter again and again, and notes how far it was behind the other CPU's.
fn compare() {
    for _ in 0..READINGS {
        let mut last = LAST.lock();
        let now = tsc();
        let behind = last.saturating_sub(now);
        *last = now;
        drop(last);
        // Relaxed: read when both are done, which DONE orders.
        WORST.fetch_max(behind, Ordering::Relaxed);
    }
}

/// The boot CPU's part: compares its counter with that of `cpu`, which calls [`join`].
pub(crate) fn check(cpu: usize) {
    TURN.store(cpu, Ordering::Release);
    compare();
    while DONE.load(Ordering::Acquire) != cpu {
        core::hint::spin_loop();
    }
}

/// The part of CPU `cpu`, which has just started.
pub(crate) fn join(cpu: usize) {
    while TURN.load(Ordering::Acquire) != cpu {
        core::hint::spin_loop();
    }
    compare();
    DONE.store(cpu, Ordering::Release);
}

/// Judges, when all CPUs were compared: guests may read their counter alone if it has one pace and shows the same everywhere.
pub(crate) fn judge(features: Features, choice: Choice) {
    let worst = WORST.load(Ordering::Relaxed);
    if worst != 0 {
        log::warn!("the CPUs' time-stamp counters are up to {worst} ticks apart");
    }
    // The emulator's counter is its clock, whatever its CPUID says.
    let has_one_pace = features.intersects(Features::INVARIANT_TSC.union(Features::EMULATED_TCG));
    let is_stable = match choice {
        Choice::On => true,
        Choice::Off => false,
        Choice::Auto => has_one_pace && worst == 0,
    };
    log::info!(
        "the time-stamp counter is {}",
        if is_stable {
            "stable"
        } else {
            "not taken to be stable"
        }
    );
    STABLE.store(is_stable, Ordering::Relaxed);
}

/// What [`judge`] found.
pub(crate) fn is_stable() -> bool {
    STABLE.load(Ordering::Relaxed)
}
