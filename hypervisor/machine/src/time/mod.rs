//! Time: the TSC's rate, nanoseconds since boot, and the date.
//!
//! [`TscClock`] is the hypervisor's clock; it starts at 0 when [`start`] runs. [`calibrate`] finds the TSC's rate
//! with the best reference that the machine has; [`date`] reads the real-time clock once.

pub(crate) mod date;
mod reference;
pub(crate) mod warp;

use bulkhead_abi::shared_info::TscScale;
use bulkhead_machine::portable::clock::{Measurement, agree, is_plausible, ticks};
use raw_cpuid::CpuId;
use spin::Once;

use self::reference::{Hpet, Pit, PmTimer, Reference};
use crate::acpi::AcpiInfo;

/// The TSC as a clock: nanoseconds since the boot.
#[derive(Clone, Copy, Debug)]
pub(crate) struct TscClock {
    /// Ticks per second.
    pub(crate) hz: u64,
    /// How ticks become nanoseconds; guests get the same numbers.
    pub(crate) scale: TscScale,
    /// The TSC when the clock showed 0.
    pub(crate) start: u64,
    /// Ticks per nanosecond, times 2^32.
    ticks_per_ns: u64,
}

static CLOCK: Once<TscClock> = Once::new();

/// Starts the clock, once the TSC's rate is known. `None` if it cannot be found.
pub(crate) fn start(acpi: &AcpiInfo) -> Option<TscClock> {
    let hz = calibrate(acpi)?;
    let scale = TscScale::from_hz(hz)?;
    Some(*CLOCK.call_once(|| TscClock {
        hz,
        scale,
        start: tsc(),
        ticks_per_ns: ticks(scale, 1 << 32),
    }))
}

/// Nanoseconds since the boot; 0 before the clock runs.
pub(crate) fn now_ns() -> u64 {
    ns_at(tsc())
}

/// Nanoseconds since the boot when the TSC showed `tsc`; 0 if the clock did not run yet.
pub(crate) fn ns_at(tsc: u64) -> u64 {
    CLOCK.get().map_or(0, |clock| clock.ns_at(tsc))
}

impl TscClock {
    /// Nanoseconds since the boot when the TSC showed `tsc`; 0 if that was before.
    pub(crate) fn ns_at(&self, tsc: u64) -> u64 {
        self.scale.ns(tsc.saturating_sub(self.start))
    }

    /// The TSC's value at the earliest tick that is at or after `ns` nanoseconds since the boot.
    pub(crate) fn tsc_at(&self, ns: u64) -> u64 {
        // By a product: a division of this width is a long function. Its error is less than a part in 2^32, and one tick.
        let ticks = u128::from(ns).wrapping_mul(u128::from(self.ticks_per_ns)) >> 32;
        let ticks = u64::try_from(ticks).unwrap_or(u64::MAX);
        self.start.saturating_add(ticks).saturating_add(2)
    }
}

/// The time-stamp counter. It may be read ahead of what the program does; two reads in a row never go back.
#[inline]
pub(crate) fn tsc() -> u64 {
    // SAFETY: reads a counter.
    unsafe { core::arch::x86_64::_rdtsc() }
}

/// How long one measurement takes: a 200th of a second. Ours are off by a microsecond at worst, so that the rate
/// is good to 200 in a million, and three of them agree or are not believed.
pub(crate) const MEASUREMENTS_PER_SECOND: u64 = 200;
/// How often three measurements are made until they agree.
pub(crate) const ATTEMPTS: usize = 4;

/// The TSC's rate in Hz: as the CPU tells it, or measured against the best other clock.
fn calibrate(acpi: &AcpiInfo) -> Option<u64> {
    if let Some(hz) = told_by_cpu() {
        log::info!("TSC: {} kHz, as the CPU tells", hz / 1000);
        return Some(hz);
    }
    let measured = acpi
        .hpet
        .and_then(Hpet::open)
        .and_then(|mut hpet| measure(&mut hpet))
        .or_else(|| measure(&mut PmTimer::new(acpi.fixed.pm_timer?)))
        .or_else(|| measure(&mut Pit::start()));
    if measured.is_none() {
        log::error!("the TSC's rate cannot be found: no clock of the machine is steady");
    }
    measured
}

/// CPUID leaf 0x15: the crystal's rate times a ratio. Leaf 0x16 gives the nominal rate, which is too far off.
fn told_by_cpu() -> Option<u64> {
    let hz = CpuId::new().get_tsc_info()?.tsc_frequency()?;
    is_plausible(hz).then_some(hz)
}

/// Measures the TSC against `reference`, again if a busy host disturbed it.
fn measure(reference: &mut impl Reference) -> Option<u64> {
    (0..ATTEMPTS).find_map(|_| measure_thrice(reference))
}

/// Measures the TSC three times; `None` if the results disagree.
fn measure_thrice(reference: &mut impl Reference) -> Option<u64> {
    let mut estimates = [0; 3];
    for estimate in &mut estimates {
        *estimate = measure_once(reference)?.tsc_hz()?;
    }
    let hz = agree(&mut estimates);
    match hz {
        Some(hz) => log::info!("TSC: {} kHz, measured with the {}", hz / 1000, reference.name()),
        None => log::warn!(
            "TSC: measurements with the {} disagree: {estimates:?}",
            reference.name()
        ),
    }
    hz
}

fn measure_once(reference: &mut impl Reference) -> Option<Measurement> {
    let reference_hz = reference.hz();
    let wanted = reference_hz / MEASUREMENTS_PER_SECOND;
    let (first_tsc, first) = beside_tsc(|| reference.read());
    // A counter that stands still must not stop the boot: some seconds on any machine.
    for _ in 0..10_000_000_u32 {
        if reference.since(first) >= wanted {
            let (last_tsc, last) = beside_tsc(|| reference.read());
            return Some(Measurement {
                tsc_ticks: last_tsc.checked_sub(first_tsc)?,
                reference_ticks: reference.between(first, last),
                reference_hz,
            });
        }
        core::hint::spin_loop();
    }
    None
}

/// Reads another counter and the TSC at one time, as nearly as it goes: the tightest of a few tries. Returns the
/// TSC's value first.
pub(crate) fn beside_tsc(mut read: impl FnMut() -> u64) -> (u64, u64) {
    let mut best = (0, 0);
    let mut tightest = u64::MAX;
    for _ in 0..5 {
        let before = tsc();
        let value = read();
        let after = tsc();
        let gap = after.saturating_sub(before);
        if gap < tightest {
            tightest = gap;
            best = (before.midpoint(after), value);
        }
    }
    best
}
