//! The local APIC's timer, one shot at a time, in terms of the TSC.
//!
//! In TSC-deadline mode the deadline is the register's value. Otherwise a counter runs down at a rate that
//! [`calibrate`] measured once; it has 32 bits, so a far deadline fires early, and whoever set it finds nothing
//! due and sets it again.

use core::sync::atomic::{AtomicU64, Ordering};

use bulkhead_machine::portable::clock::agree;

use super::Vector;
use super::local::access;
use super::registers::{Access, Lvt, Register};
use crate::cpu::features::Features;
use crate::time::{ATTEMPTS, MEASUREMENTS_PER_SECOND, TscClock, beside_tsc, tsc};

/// Timer ticks per TSC tick, times 2^32. 0: not calibrated. [`DEADLINE_MODE`]: not needed.
static RATIO: AtomicU64 = AtomicU64::new(0);
/// The value of [`RATIO`] in TSC-deadline mode.
const DEADLINE_MODE: u64 = u64::MAX;

/// Finds out how to set the timer; call once, on the boot CPU, when its APIC is on. `None` if the timer stands
/// still.
pub(crate) fn calibrate(features: Features, clock: &TscClock) -> Option<()> {
    let access = access()?;
    // Relaxed: stored before any other CPU starts, and the same for all of them.
    if features.contains(Features::TSC_DEADLINE) {
        RATIO.store(DEADLINE_MODE, Ordering::Relaxed);
        log::debug!("APIC timer: TSC deadline");
        return Some(());
    }
    let hz = (0..ATTEMPTS).find_map(|_| measure_thrice(access, clock))?;
    log::debug!("APIC timer: {} kHz", hz / 1000);
    let ratio = (u128::from(hz) << 32).checked_div(u128::from(clock.hz))?;
    RATIO.store(
        u64::try_from(ratio).ok().filter(|&ratio| ratio != 0)?,
        Ordering::Relaxed,
    );
    Some(())
}

/// The timer's rate, by three measurements that agree.
fn measure_thrice(access: Access, clock: &TscClock) -> Option<u64> {
    let mut estimates = [0; 3];
    for estimate in &mut estimates {
        *estimate = measure_hz(access, clock)?;
    }
    agree(&mut estimates)
}

/// The timer's rate, by the TSC; `None` if it stands still.
fn measure_hz(access: Access, clock: &TscClock) -> Option<u64> {
    let count = || u64::from(access.read(Register::CurrentCount));
    // SAFETY: the timer's entry is masked, so that nothing comes of its running down.
    unsafe { access.write(Register::InitialCount, u32::MAX) };
    let (start, first) = beside_tsc(count);
    let wanted = clock.hz / MEASUREMENTS_PER_SECOND;
    while tsc().saturating_sub(start) < wanted {
        core::hint::spin_loop();
    }
    let (end, last) = beside_tsc(count);
    // SAFETY: stops the timer.
    unsafe { access.write(Register::InitialCount, 0) };
    let ticks = u128::from(first.checked_sub(last)?);
    let hz = ticks
        .checked_mul(u128::from(clock.hz))?
        .checked_div(u128::from(end.saturating_sub(start)))?;
    u64::try_from(hz).ok()
}

/// Lets this CPU's timer interrupt (vector [`Vector::Timer`]) come when the TSC reaches `deadline`, or at once if
/// it has. Replaces the deadline set before. It may come early, by a little or if the deadline is far.
pub(crate) fn set_timer(deadline: u64) {
    let Some(access) = access() else { return };
    match RATIO.load(Ordering::Relaxed) {
        DEADLINE_MODE => {
            // SAFETY: the CPU has the TSC-deadline timer, and the timer's vector has a handler.
            unsafe {
                access.write(
                    Register::LvtTimer,
                    Lvt::TSC_DEADLINE.bits() | Vector::Timer as u32,
                );
                // The write to the table must be done before the deadline is set (SDM 10.5.4.1).
                core::arch::x86_64::_mm_mfence();
                // 0 would stop the timer instead.
                Access::write_tsc_deadline(deadline.max(1));
            }
        }
        ratio => {
            let ticks = (u128::from(deadline.saturating_sub(tsc())).saturating_mul(u128::from(ratio))) >> 32;
            // 0 would stop the timer instead.
            let count = u32::try_from(ticks).unwrap_or(u32::MAX).max(1);
            // SAFETY: the timer's vector has a handler.
            unsafe {
                access.write(Register::LvtTimer, Vector::Timer as u32);
                access.write(Register::InitialCount, count);
            }
        }
    }
}

/// Stops this CPU's timer. An interrupt that is on its way already still comes.
pub(crate) fn stop_timer() {
    let Some(access) = access() else { return };
    // SAFETY: stops the timer; the deadline register exists in deadline mode.
    unsafe {
        if RATIO.load(Ordering::Relaxed) == DEADLINE_MODE {
            Access::write_tsc_deadline(0);
        } else {
            access.write(Register::InitialCount, 0);
        }
    }
}
