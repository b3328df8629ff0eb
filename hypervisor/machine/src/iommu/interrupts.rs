//! Interrupts of devices, confined: a device raises the vectors that it was given, and no others.
//!
//! All units share one table of 256 entries. The entries of lines and of messages have the numbers of their vectors.

use core::fmt;

use bulkhead_core::frames::Mfn;
use bulkhead_core::irq::Trigger;
use bulkhead_core::pci::FunctionId;
use bulkhead_machine::portable::vtd::dmar::Dmar;
use bulkhead_machine::portable::vtd::interrupts::{self, ApicIds};
use bulkhead_machine::portable::vtd::invalidation;
use spin::Mutex;

use super::unit::{Unanswered, Unit};
use super::{IOMMU, Iommu};
use crate::acpi::Controllers;
use crate::cpu::features::Features;

/// The table, in which entries are changed one at a time.
#[derive(Debug)]
pub(super) struct Interrupts {
    table: Mutex<Mfn>,
    ids: ApicIds,
}

/// Why interrupts are not remapped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Obstacle {
    /// Firmware says that it cannot be done.
    Forbidden,
    /// A unit cannot do it.
    Unable,
    /// There are several PCI segments: whose interrupt it is cannot be told.
    Segments,
    /// No unit is told to be before the I/O APIC with this id.
    IoApic(u8),
    /// A unit does not do it.
    Unanswered,
}

impl fmt::Display for Obstacle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Forbidden => f.write_str("firmware's tables do not allow it"),
            Self::Unable => f.write_str("an IOMMU cannot do it"),
            Self::Segments => f.write_str("the machine has several PCI segments"),
            Self::IoApic(id) => write!(f, "the DMAR table does not know I/O APIC {id}"),
            Self::Unanswered => f.write_str("an IOMMU does not do what it is told"),
        }
    }
}

impl From<Unanswered> for Obstacle {
    fn from(_: Unanswered) -> Self {
        Self::Unanswered
    }
}

impl Interrupts {
    /// Has all units remap interrupts by the table in `frame`, which is all zeros: no device interrupts then. Every line is masked.
    pub(super) fn start(
        dmar: &Dmar,
        units: &[Unit],
        controllers: &Controllers,
        features: Features,
        frame: Mfn,
    ) -> Result<Self, Obstacle> {
        if !dmar.remaps_interrupts {
            return Err(Obstacle::Forbidden);
        }
        if units.iter().any(|unit| unit.segment != 0) {
            return Err(Obstacle::Segments);
        }
        if !units.iter().all(|unit| unit.capabilities.remaps_interrupts()) {
            return Err(Obstacle::Unable);
        }
        for io_apic in &controllers.io_apics {
            dmar.io_apic(io_apic.id).ok_or(Obstacle::IoApic(io_apic.id))?;
        }
        let is_wide = features.contains(Features::X2APIC)
            && units.iter().all(|unit| unit.capabilities.has_wide_apic_ids());
        let ids = if is_wide { ApicIds::Wide } else { ApicIds::Narrow };
        for unit in units {
            // SAFETY: the frame is the table's for good, and its entries are written by `set_interrupt` alone.
            if let Err(unanswered) = unsafe { unit.remap_interrupts(interrupts::table(frame, ids)) } {
                for unit in units {
                    // One that goes on blocks what is not remapped: those devices do not interrupt.
                    let _ = unit.pass_interrupts();
                }
                return Err(unanswered.into());
            }
        }
        Ok(Self {
            table: Mutex::new(frame),
            ids,
        })
    }
}

impl Iommu {
    /// Replaces an entry, and has all units forget what it was.
    fn set_interrupt(&self, table: &Mutex<Mfn>, index: u8, entry: [u64; 2]) {
        let table = table.lock();
        self.writer.set_entry(*table, index, entry);
        for unit in &self.units {
            unit.forget([invalidation::interrupt(index)]);
        }
    }
}

/// The IOMMU and its table, if interrupts are remapped.
fn remapping() -> Option<(&'static Iommu, &'static Interrupts)> {
    let iommu = IOMMU.get()?;
    Some((iommu, iommu.interrupts.as_ref()?))
}

/// Lets interrupts of the I/O APIC with this id that name the entry `index` raise `vector` on the CPU with the APIC id `to`. Says whether
/// they have to name an entry: if not, there is none.
pub(crate) fn remap_line(io_apic: u8, index: u8, trigger: Trigger, vector: u8, to: u32) -> bool {
    let Some((iommu, Interrupts { table, ids })) = remapping() else {
        return false;
    };
    // All I/O APICs were looked for at the start.
    let Some((_, source)) = iommu.dmar.io_apic(io_apic) else {
        return false;
    };
    let entry = interrupts::entry(source, trigger, vector, to, *ids);
    iommu.set_interrupt(table, index, entry);
    true
}

/// The message, address and data, by which `function` raises `vector` on the CPU with the APIC id `to`: the entry `index` is for this alone from now
/// on. A later call with the same index changes where the same message leads, at once. `None` where interrupts are not remapped.
pub(crate) fn route_message(index: u8, function: FunctionId, vector: u8, to: u32) -> Option<(u64, u32)> {
    let (iommu, Interrupts { table, ids }) = remapping()?;
    let entry = interrupts::entry(function, Trigger::Edge, vector, to, *ids);
    iommu.set_interrupt(table, index, entry);
    Some(interrupts::message(index))
}

/// Lets the message that names the entry `index` raise nothing any more. When this returns, what was on its way has arrived at its CPU. Where
/// interrupts are not remapped nothing happens.
pub(crate) fn block_message(index: u8) {
    if let Some((iommu, Interrupts { table, .. })) = remapping() {
        iommu.set_interrupt(table, index, interrupts::ABSENT);
    }
}
