//! Reading the time records while the hypervisor may be rewriting them.
//!
//! Both have a version: odd while a write is under way, and another even number after it. A reader takes a
//! copy between two looks at the version and starts over if they differ or are odd. No copy is ever a
//! mixture.

use core::{
    sync::atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering, fence},
    time::Duration,
};

use bulkhead_abi::shared_info::VcpuTimeInfo;

/// A vCPU's time; all fields are written by the hypervisor.
#[derive(Clone, Copy, Debug)]
pub(crate) struct TimeRecord<'a> {
    pub(crate) version: &'a AtomicU32,
    pub(crate) tsc_timestamp: &'a AtomicU64,
    pub(crate) system_time_ns: &'a AtomicU64,
    pub(crate) tsc_to_system_mul: &'a AtomicU32,
    /// Holds an `i8`.
    pub(crate) tsc_shift: &'a AtomicU8,
}

impl TimeRecord<'_> {
    /// System time, for the value of `read_tsc` at the time of a consistent copy.
    pub(crate) fn now_ns(self, read_tsc: impl Fn() -> u64) -> u64 {
        let (record, tsc) = consistent(self.version, || {
            let record = VcpuTimeInfo {
                tsc_timestamp: self.tsc_timestamp.load(Ordering::Relaxed),
                system_time_ns: self.system_time_ns.load(Ordering::Relaxed),
                tsc_to_system_mul: self.tsc_to_system_mul.load(Ordering::Relaxed),
                tsc_shift: self.tsc_shift.load(Ordering::Relaxed).cast_signed(),
                ..VcpuTimeInfo::default()
            };
            // Inside: a vCPU that moves to another CPU between copy and TSC would mix two CPUs' counters.
            (record, read_tsc())
        });
        record.system_time_ns_at(tsc)
    }
}

/// The wall clock when system time was 0; all fields are written by the hypervisor.
#[derive(Clone, Copy, Debug)]
pub(crate) struct WallClockRecord<'a> {
    pub(crate) version: &'a AtomicU32,
    pub(crate) seconds_low: &'a AtomicU32,
    pub(crate) seconds_high: &'a AtomicU32,
    pub(crate) nanoseconds: &'a AtomicU32,
}

impl WallClockRecord<'_> {
    /// Time since 1970 when system time was 0.
    pub(crate) fn at_system_start(self) -> Duration {
        consistent(self.version, || {
            let low = u64::from(self.seconds_low.load(Ordering::Relaxed));
            let high = u64::from(self.seconds_high.load(Ordering::Relaxed));
            let nanoseconds = u64::from(self.nanoseconds.load(Ordering::Relaxed));
            Duration::from_secs(high << 32 | low).saturating_add(Duration::from_nanos(nanoseconds))
        })
    }
}

/// What `copy` returns when no write overlapped it.
fn consistent<T>(version: &AtomicU32, copy: impl Fn() -> T) -> T {
    loop {
        // Acquire: the copy is not taken before this look. It pairs with the barrier that the writer has
        // between its fields and the even version.
        let before = version.load(Ordering::Acquire);
        let value = copy();
        // The copy is complete before the second look; pairs with the barrier after the writer's odd version.
        fence(Ordering::Acquire);
        if before.is_multiple_of(2) && version.load(Ordering::Relaxed) == before {
            return value;
        }
        core::hint::spin_loop();
    }
}

#[cfg(test)]
mod tests {
    use core::cell::Cell;

    use bulkhead_abi::shared_info::TscScale;

    use super::*;

    struct Page {
        version: AtomicU32,
        tsc_timestamp: AtomicU64,
        system_time_ns: AtomicU64,
        mul: AtomicU32,
        shift: AtomicU8,
    }

    impl Page {
        fn new(hz: u64) -> Self {
            let scale = TscScale::from_hz(hz).unwrap();
            Self {
                version: AtomicU32::new(2),
                tsc_timestamp: AtomicU64::new(1_000),
                system_time_ns: AtomicU64::new(5_000_000),
                mul: AtomicU32::new(scale.mul),
                shift: AtomicU8::new(scale.shift.cast_unsigned()),
            }
        }

        fn record(&self) -> TimeRecord<'_> {
            TimeRecord {
                version: &self.version,
                tsc_timestamp: &self.tsc_timestamp,
                system_time_ns: &self.system_time_ns,
                tsc_to_system_mul: &self.mul,
                tsc_shift: &self.shift,
            }
        }
    }

    #[test]
    fn time_is_that_of_the_record_plus_the_ticks_since() {
        let page = Page::new(4_000_000_000);
        assert_eq!(page.record().now_ns(|| 1_000), 5_000_000);
        assert_eq!(page.record().now_ns(|| 1_000 + 4_000_000), 6_000_000);
    }

    #[test]
    fn a_record_that_changes_while_it_is_copied_is_copied_again() {
        let page = Page::new(1_000_000_000);
        let reads = Cell::new(0);
        let time = page.record().now_ns(|| {
            reads.set(reads.get() + 1);
            if reads.get() == 1 {
                page.version.store(4, Ordering::SeqCst);
                page.system_time_ns.store(7_000_000, Ordering::SeqCst);
            }
            1_000
        });
        assert_eq!((time, reads.get()), (7_000_000, 2));
    }

    #[test]
    fn a_record_under_change_is_waited_for() {
        let page = Page::new(1_000_000_000);
        page.version.store(3, Ordering::SeqCst);
        let reads = Cell::new(0);
        page.record().now_ns(|| {
            reads.set(reads.get() + 1);
            if reads.get() == 5 {
                page.version.store(4, Ordering::SeqCst);
            }
            1_000
        });
        assert_eq!(reads.get(), 6);
    }

    #[test]
    fn the_wall_clock_has_64_bits_of_seconds() {
        let [version, low, high, nanoseconds] = [2, 7, 1, 500].map(AtomicU32::new);
        let record = WallClockRecord {
            version: &version,
            seconds_low: &low,
            seconds_high: &high,
            nanoseconds: &nanoseconds,
        };
        assert_eq!(record.at_system_start(), Duration::new((1 << 32) + 7, 500));
    }
}
