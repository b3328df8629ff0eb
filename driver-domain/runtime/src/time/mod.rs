//! Time: the hypervisor's clock, the wall clock, and waiting.
//!
//! System time counts nanoseconds since the hypervisor started, in steps of the TSC, and never goes back on a
//! vCPU. It is what [`Instant`] is about: one tick is one nanosecond. Waiting is done with [`Timer`],
//! [`Ticker`] and [`with_timeout`], all of them embassy-time's, which this module gives a clock and a list of
//! sleepers.

mod alarm;
mod queue;
mod record;
mod runstate;
mod timer;

use core::arch::x86_64::_rdtsc;

pub use embassy_time::{Duration, Instant, Ticker, TimeoutError, Timer, with_deadline, with_timeout};

pub use self::runstate::{Runstate, RunstateInfo, runstate};
pub(crate) use self::{
    record::{TimeRecord, WallClockRecord},
    timer::{arm_timer, init, wake_sleepers},
};
use crate::shared_info::SharedInfo;

/// The wall clock: time since 1970-01-01 00:00 UTC.
#[must_use]
pub fn wall_clock() -> core::time::Duration {
    let at_start = SharedInfo::get().wall_clock().at_system_start();
    at_start.saturating_add(core::time::Duration::from_nanos(system_time_ns()))
}

/// The processor's time-stamp counter, read after everything before it.
#[must_use]
pub fn read_tsc() -> u64 {
    // SAFETY: every x86-64 processor has both instructions, and the ABI lets guests use RDTSC. LFENCE keeps
    // the read from being executed early.
    unsafe {
        core::arch::x86_64::_mm_lfence();
        _rdtsc()
    }
}

/// System time now. Zero before shared_info is mapped.
fn system_time_ns() -> u64 {
    SharedInfo::get().time().now_ns(read_tsc)
}
