//! Devices, confined by VT-d: each function reaches the memory of the domain that owns it, as far as the core maps it, and raises the interrupts that
//! it was given; nothing else. `docs/iommu.md` tells what that is worth.
//!
//! Key type: [`Iommu`], all remapping units as one. [`start()`] turns them on during the boot, with every function blocked. The core makes
//! a space for a domain ([`Iommu::create_space`]), maps frames there, and gives functions to it ([`Iommu::attach`]).
//!
//! - [`start`](mod@start): turning the units on.
//! - [`spaces`]: what the core asks for.
//! - [`interrupts`]: which device raises which vector.
//! - [`faults`]: what devices tried in vain.
//! - [`unit`](mod@unit): one unit: what it is told, and what it says.
//! - [`registers`]: its registers.
//! - [`tables`]: how tables in memory are written.
//!
//! All units share one root table, because each function is behind one unit only. A bus none of whose functions was ever attached shares a
//! context table with all others like it, in which everything is blocked.
//!
//! # Locks
//!
//! The lock of faults comes first, then that of spaces, which is that of all tables but one, then that of a unit's queue; the lock of interrupts
//! comes before that of a queue. The caller's frame allocator is called with the lock of spaces held: who calls in here holds no lock of the
//! allocator. Waiting for a unit is bounded, and is done with the queue's lock held; [`Iommu::flush`] does it without the lock of spaces.

mod faults;
pub(crate) mod interrupts;
mod registers;
mod spaces;
mod start;
mod tables;
mod unit;

use core::sync::atomic::{AtomicU64, Ordering};

use bulkhead_core::frames::Mfn;
use bulkhead_machine::portable::vtd::capabilities::Depth;
use bulkhead_machine::portable::vtd::dmar::{Dmar, MAX_UNITS};
use heapless::Vec;
use spin::{Mutex, Once};

pub(crate) use self::start::start;

use self::faults::Faults;
use self::interrupts::Interrupts;
use self::spaces::{MAX_SPACES, Tenant};
use self::tables::Writer;
use self::unit::Unit;
use crate::time;

/// All remapping units of the machine.
#[derive(Debug)]
pub(crate) struct Iommu {
    dmar: Dmar,
    /// In the order of the table.
    units: Vec<Unit, MAX_UNITS>,
    /// How deep every space is.
    depth: Depth,
    /// How tables are written.
    writer: Writer,
    /// Whether a unit may remember that something is not there.
    remembers_absence: bool,
    root: Mfn,
    /// The context table of buses that have none of their own.
    blocked: Mfn,
    /// How many spaces there can be.
    max_spaces: usize,
    spaces: Mutex<[Option<Tenant>; MAX_SPACES]>,
    faults: Mutex<Faults>,
    /// The table of interrupts, if they are remapped.
    interrupts: Option<Interrupts>,
}

static IOMMU: Once<Iommu> = Once::new();

/// When to look for faults again that were left in the units; none were, if it is `u64::MAX`.
static LATE: AtomicU64 = AtomicU64::new(u64::MAX);

/// The IOMMU, if DMA is confined.
#[expect(dead_code, reason = "for the core, when domains own devices")]
pub(crate) fn get() -> Option<&'static Iommu> {
    IOMMU.get()
}

/// A unit has interrupted: takes what it reports.
pub(crate) fn take_faults() {
    if let Some(iommu) = IOMMU.get() {
        iommu.hear_faults();
    }
}

/// Takes what was left in the units because it was too much, if it is time. A timer's interrupt is the occasion.
#[inline]
pub(crate) fn take_late_faults() {
    // Relaxed: another CPU that looks as well finds nothing.
    let late = LATE.load(Ordering::Relaxed);
    if late != u64::MAX && time::now_ns() >= late {
        take_faults();
    }
}
