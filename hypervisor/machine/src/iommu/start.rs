//! Turning the units on, with everything blocked.

use core::fmt;

use bulkhead_core::frames::Mfn;
use bulkhead_core::pci::FunctionId;
use bulkhead_machine::layout::PAGE_SHIFT;
use bulkhead_machine::portable::command_line::Choice;
use bulkhead_machine::portable::vtd::capabilities::Depth;
use bulkhead_machine::portable::vtd::dmar::Dmar;
use bulkhead_machine::portable::vtd::entries;
use heapless::Vec;
use spin::Mutex;

use super::interrupts::Interrupts;
use super::tables::Writer;
use super::tenants::Tenants;
use super::unit::{Unfit, Unit};
use super::{IOMMU, Iommu};
use crate::acpi::{AcpiInfo, Controllers};
use crate::apic::{self, Vector};
use crate::cpu::features::Features;
use crate::memory::Memory;
use crate::memory::frames::OutOfMemory;
use crate::pci;

/// Turns DMA remapping on, with all devices blocked, if the machine has it and `choice` allows it. The log says what came of it.
///
/// The boot calls it once, when the clock and the local APIC work.
///
/// # Errors
///
/// [`OutOfMemory`].
pub(crate) fn start(
    acpi: &AcpiInfo,
    features: Features,
    choice: Choice,
    memory: &mut Memory,
) -> Result<(), OutOfMemory> {
    let started = match (choice, &acpi.remapping) {
        (Choice::Off, _) => Err(Unusable::Unwanted),
        (Choice::On | Choice::Auto, None) => Err(Unusable::Missing),
        (Choice::On | Choice::Auto, Some(dmar)) => Iommu::start(dmar, memory)?,
    };
    match started {
        Ok(mut iommu) => {
            iommu.confine_interrupts(&acpi.controllers, features, memory)?;
            let iommu = IOMMU.call_once(|| iommu);
            iommu.report();
            if let Some(apic_id) = apic::id() {
                for unit in iommu.units.iter().filter(|unit| unit.segment == 0) {
                    unit.interrupt(apic_id, Vector::DmaFault as u8);
                }
            }
        }
        Err(why) => {
            log::warn!("DMA is not confined: {why}");
            log::warn!("who has a device reaches all memory by it, and can forge any interrupt vector");
        }
    }
    Ok(())
}

/// Why there is no IOMMU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Unusable {
    /// The command line says so.
    Unwanted,
    /// No table tells of one.
    Missing,
    /// A unit, by the address of its registers, is of no use.
    Unit(u64, Unfit),
    /// The units have no depth of tables in common.
    Depths,
    /// Devices do not reach all memory.
    Reach,
}

impl fmt::Display for Unusable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unwanted => f.write_str("the command line says iommu=off"),
            Self::Missing => f.write_str("firmware's tables tell of no IOMMU that can be used"),
            Self::Unit(address, why) => write!(f, "the IOMMU at {address:#x} cannot be used: {why}"),
            Self::Depths => f.write_str("the IOMMUs have no depth of tables (39 or 48 bits) in common"),
            Self::Reach => f.write_str("devices do not reach all memory by addresses that can be translated"),
        }
    }
}

impl Iommu {
    /// Makes the tables and turns all units on. If one cannot be, none is.
    fn start(dmar: &Dmar, memory: &mut Memory) -> Result<Result<Self, Unusable>, OutOfMemory> {
        let limit = memory.map().frame_limit();
        let mut take = || memory.take_zeroed().map(|raw| Mfn::from_maddr(raw << PAGE_SHIFT));
        let mut units = Vec::new();
        for described in &dmar.units {
            match Unit::open(described, take()?, take()?) {
                // There is as much room as the table's reader has.
                Ok(unit) => drop(units.push(unit)),
                Err(why) => return Ok(Err(Unusable::Unit(described.registers, why))),
            }
        }
        let (depth, reach) = match common_depth(&units, limit) {
            Some(found) => found,
            None => return Ok(Err(Unusable::Depths)),
        };
        if limit << PAGE_SHIFT > 1 << reach.min(dmar.address_bits) {
            return Ok(Err(Unusable::Reach));
        }
        let all = |what: fn(&Unit) -> bool| units.iter().all(what);
        let writer = Writer {
            is_coherent: all(|unit| unit.capabilities.is_coherent()),
        };
        let remembers_absence = !all(|unit| !unit.capabilities.remembers_absence());
        let tags = units.iter().map(|unit| unit.capabilities.domains()).min();

        let (root, blocked, elsewhere) = (take()?, take()?, take()?);
        for table in [root, blocked, elsewhere] {
            writer.publish_all(table);
        }
        for bus in 0..=u8::MAX {
            let mut table = blocked;
            if has_functions(bus) {
                table = take()?;
                writer.publish_all(table);
            }
            let [to_table, _] = entries::root(table);
            writer.set_root(root, bus, to_table);
        }
        for (number, (unit, described)) in units.iter().zip(&dmar.units).enumerate() {
            // Functions of other segments have the same numbers, and nobody owns them: their root table is empty.
            let root = if unit.segment == 0 { root } else { elsewhere };
            // SAFETY: both tables were made above, the frames are not used for anything else, and everything is blocked there; what is
            // attached later hangs from tables of ours or the core's.
            if let Err(why) = unsafe { unit.start(root) } {
                for unit in units.iter().take(number.saturating_add(1)) {
                    // What is off stays off. One that cannot be turned off blocks everything.
                    let _ = unit.stop();
                }
                return Ok(Err(Unusable::Unit(described.registers, why.into())));
            }
        }
        Ok(Ok(Self {
            dmar: dmar.clone(),
            units,
            depth,
            writer,
            remembers_absence,
            root,
            blocked,
            tenants: Mutex::new(Tenants::new(tags.unwrap_or(0))),
            interrupts: None,
        }))
    }

    /// Has interrupts remapped as well, if that can be done. The log says what came of it.
    fn confine_interrupts(
        &mut self,
        controllers: &Controllers,
        features: Features,
        memory: &mut Memory,
    ) -> Result<(), OutOfMemory> {
        let frame = Mfn::from_maddr(memory.take_zeroed()? << PAGE_SHIFT);
        self.writer.publish_all(frame);
        match Interrupts::start(&self.dmar, &self.units, controllers, features, frame) {
            Ok(interrupts) => {
                self.interrupts = Some(interrupts);
                log::info!("interrupts of devices are confined: each raises the vectors that it was given");
            }
            Err(why) => {
                log::warn!("interrupts of devices are not confined, and each can forge any vector: {why}");
            }
        }
        Ok(())
    }

    fn report(&self) {
        log::info!(
            "DMA is confined: each device reaches what its domain owns and is granted (IOMMUs: {}, of {} bits)",
            self.units.len(),
            self.depth.address_bits()
        );
        for reserved in &self.dmar.reserved {
            log::warn!(
                "{} may not be assigned: firmware wants it to reach {:#x}..={:#x}, which is blocked",
                reserved.place,
                reserved.first,
                reserved.last
            );
        }
    }
}

/// Whether there is anything on a bus of the first segment.
fn has_functions(bus: u8) -> bool {
    const NOBODY: u32 = 0xffff;
    (0..32).any(|device| pci::config_read(FunctionId::at(bus, device, 0), 0) & NOBODY != NOBODY)
}

/// The depth of tables that all units have: the shallower one that reaches all RAM below the frame `limit`, or the deepest. And how many bits
/// addresses have then.
fn common_depth(units: &[Unit], limit: u64) -> Option<(Depth, u32)> {
    let width = units.iter().map(|unit| unit.capabilities.address_bits()).min()?;
    let mut common = Depth::ALL
        .into_iter()
        .filter(|&depth| units.iter().all(|unit| unit.capabilities.has_depth(depth)))
        .map(|depth| (depth, depth.address_bits().min(width)));
    let reaches = |&(_, bits): &(Depth, u32)| limit << PAGE_SHIFT <= 1 << bits;
    common.clone().find(reaches).or_else(|| common.next_back())
}
