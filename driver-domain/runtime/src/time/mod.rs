//! Time: the hypervisor's clock, the wall clock, and sleeping.
//!
//! System time counts nanoseconds since the hypervisor started, in steps of the TSC, and never goes back on a
//! vCPU.

mod record;
mod timer;

use core::{arch::x86_64::_rdtsc, time::Duration};

pub(crate) use self::record::{TimeRecord, WallClockRecord};
pub(crate) use self::timer::init;
pub use self::timer::{sleep, sleep_until, wait_for_until};
use crate::shared_info::SharedInfo;

/// A point in system time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Instant {
    ns: u64,
}

impl Instant {
    /// Now.
    #[must_use]
    pub fn now() -> Self {
        Self {
            ns: SharedInfo::get().time().now_ns(read_tsc),
        }
    }

    /// The instant `ns` nanoseconds after the hypervisor started.
    #[must_use]
    pub const fn from_ns(ns: u64) -> Self {
        Self { ns }
    }

    /// Nanoseconds since the hypervisor started.
    #[must_use]
    pub const fn as_ns(self) -> u64 {
        self.ns
    }

    /// The instant `duration` later, or the last instant there is.
    #[must_use]
    pub fn after(self, duration: Duration) -> Self {
        let ns = u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        Self {
            ns: self.ns.saturating_add(ns),
        }
    }

    /// Time from `earlier` to this instant; zero if `earlier` is later.
    #[must_use]
    pub const fn since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.ns.saturating_sub(earlier.ns))
    }
}

/// The wall clock: time since 1970-01-01 00:00 UTC.
#[must_use]
pub fn wall_clock() -> Duration {
    let at_start = SharedInfo::get().wall_clock().at_system_start();
    at_start.saturating_add(Duration::from_nanos(Instant::now().as_ns()))
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
