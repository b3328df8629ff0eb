//! Devices, confined by VT-d: each function reaches what the tree of the domain that owns it says ([`bulkhead_core::dma`]), and raises the interrupts that
//! it was given; nothing else. `docs/iommu.md` tells what that is worth.
//!
//! Key type: [`Iommu`], all remapping units as one. [`start()`] turns them on during the boot, with every function blocked. The core makes
//! the trees, gives functions to them ([`Iommu::attach`]), and has the units forget what it has changed ([`Iommu::flush`]).
//!
//! - [`start`](mod@start): turning the units on.
//! - [`tenants`]: which domain's tree which function walks.
//! - [`interrupts`]: which device raises which vector.
//! - [`faults`]: what devices tried in vain.
//! - [`unit`](mod@unit): one unit: what it is told, and what it says.
//! - [`registers`]: its registers.
//! - [`tables`]: how tables in memory are written.
//!
//! All units share one root table, because each function is behind one unit only. Buses without functions share a context table, in which everything is blocked.
//!
//! A unit that does not do what it is told within its time is broken, and what it lets devices do is anyone's guess: the machine stops.
//!
//! # Locks
//!
//! The lock of faults comes first, then that of tenants, which is that of all tables but one, then that of a unit's queue; the lock of interrupts
//! comes before that of a queue. Waiting for a unit is bounded, and is done with the queue's lock held; [`Iommu::flush`] does it without the lock of tenants.

mod faults;
pub(crate) mod interrupts;
mod registers;
mod start;
mod tables;
mod tenants;
mod unit;

use core::sync::atomic::{AtomicU64, Ordering};

use bulkhead_core::frames::Mfn;
use bulkhead_machine::portable::vtd::capabilities::Depth;
use bulkhead_machine::portable::vtd::dmar::{Dmar, MAX_UNITS};
use heapless::Vec;
use spin::{Mutex, Once};

pub(crate) use self::faults::of as faults_of;
pub(crate) use self::start::start;

use self::interrupts::Interrupts;
use self::tables::Writer;
use self::tenants::Tenants;
use self::unit::Unit;
use crate::time;

/// All remapping units of the machine.
#[derive(Debug)]
pub(crate) struct Iommu {
    dmar: Dmar,
    /// In the order of the table.
    units: Vec<Unit, MAX_UNITS>,
    /// How deep every tree is.
    depth: Depth,
    /// How tables are written.
    writer: Writer,
    /// Whether a unit may remember that something is not there.
    remembers_absence: bool,
    root: Mfn,
    /// The context table of buses that have none of their own.
    blocked: Mfn,
    tenants: Mutex<Tenants>,
    /// The table of interrupts, if they are remapped.
    interrupts: Option<Interrupts>,
}

static IOMMU: Once<Iommu> = Once::new();

/// When to look for faults again that were left in the units; none were, if it is `u64::MAX`.
static LATE: AtomicU64 = AtomicU64::new(u64::MAX);

/// The IOMMU, if DMA is confined.
#[inline]
pub(crate) fn get() -> Option<&'static Iommu> {
    IOMMU.get()
}

/// A unit has interrupted: takes what it reports.
pub(crate) fn take_faults() {
    if let Some(iommu) = get() {
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

impl Iommu {
    /// How many levels trees have.
    pub(crate) const fn levels(&self) -> u8 {
        self.depth.levels()
    }

    /// Whether an entry that allows nothing may be remembered.
    pub(crate) const fn remembers_absence(&self) -> bool {
        self.remembers_absence
    }

    /// Whether interrupts are remapped.
    pub(crate) const fn confines_interrupts(&self) -> bool {
        self.interrupts.is_some()
    }

    /// Entry `index` of a table of a tree has been written: units see it.
    #[inline]
    pub(crate) fn publish(&self, table: Mfn, index: usize) {
        self.writer.publish(table, index);
    }
}
