//! What the ACPI tables tell: CPUs, interrupt controllers, timers, and how to power off.
//!
//! Everything is read and copied under the early page tables, which show the tables wherever firmware put them;
//! after the boot nobody looks at the tables again. AML is not interpreted (the one value that we need from it is
//! looked up by [`sleep_state`](bulkhead_machine::portable::sleep_state)).

mod controllers;
mod fixed;
mod handler;
mod remapping;

use ::acpi::mcfg::Mcfg;
use ::acpi::{AcpiTables, HpetInfo};
use bulkhead_core::irq::Gsi;
use bulkhead_machine::layout::PAGE_SIZE;
use bulkhead_machine::portable::assignable::Assignable;
use bulkhead_machine::portable::memory_map::Survey;
use bulkhead_machine::portable::vtd::dmar::Dmar;
use heapless::Vec;

pub(crate) use controllers::{Controllers, MAX_CONTROLLERS};
pub(crate) use fixed::{Fixed, Register};

use crate::boot::entry::EarlyTables;

/// The ISA lines of what the hypervisor has for itself: the interval timer, the second 8259, its serial line, and the clock. Where the
/// timer does not arrive at input 0, the 8259s do.
const OWN_ISA_LINES: [u8; 4] = [0, 2, 4, 8];

/// Most PCI configuration regions that are kept.
const MAX_REGIONS: usize = 4;

/// The machine as the ACPI tables describe it. What a table would have told is empty if the table is missing.
#[derive(Clone, Debug, Default)]
pub(crate) struct AcpiInfo {
    /// CPUs and interrupt controllers.
    pub(crate) controllers: Controllers,
    /// Fixed hardware: the power-management timer, power off, reset.
    pub(crate) fixed: Fixed,
    /// The physical address of the HPET's registers.
    pub(crate) hpet: Option<u64>,
    /// Memory-mapped PCI configuration space.
    pub(crate) pci: Vec<PciRegion, MAX_REGIONS>,
    /// The units that remap DMA.
    pub(crate) remapping: Option<Dmar>,
}

impl AcpiInfo {
    /// What domains may own of devices, where `survey` is what firmware says of memory, and `lines` are the interrupt lines that there are:
    /// nothing of what stands here.
    pub(crate) fn leave_to_domains(&self, survey: &Survey, lines: impl Iterator<Item = Gsi>) -> Assignable {
        let bits = core::arch::x86_64::__cpuid(0x8000_0008).eax & 0xff;
        let mut left = Assignable::new(survey, bits);
        let apics = self.controllers.io_apics.iter().map(|apic| apic.address);
        for page in apics.chain(self.controllers.local_apic).chain(self.hpet) {
            left.take_bytes(page..page.saturating_add(PAGE_SIZE as u64));
        }
        for region in &self.pci {
            let bus = |n: u64| region.base.saturating_add(n << 20);
            let (first, last) = (u64::from(region.first_bus), u64::from(region.last_bus));
            left.take_bytes(bus(first)..bus(last.saturating_add(1)));
        }
        for unit in self.remapping.iter().flat_map(|dmar| &dmar.units) {
            left.take_bytes(unit.registers..unit.registers.saturating_add(unit.size));
        }
        self.fixed.take_from(&mut left);
        lines.for_each(|gsi| left.add_line(gsi));
        let wiring = &self.controllers.wiring;
        for gsi in OWN_ISA_LINES.map(|irq| wiring.of_isa(irq)) {
            left.take_line(gsi);
        }
        left.take_line(0);
        if let Some(sci) = self.fixed.sci {
            // Tables give it as an ISA line, if it is one's.
            left.take_line(sci.into());
            left.take_line(u8::try_from(sci).map_or(sci.into(), |irq| wiring.of_isa(irq)));
        }
        left
    }
}

/// Memory-mapped configuration space of a range of PCI buses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PciRegion {
    /// The PCI segment group.
    pub(crate) segment: u16,
    /// Its first bus.
    pub(crate) first_bus: u8,
    /// Its last bus.
    pub(crate) last_bus: u8,
    /// The physical address of bus 0, whether or not bus 0 is in the range: 1 MiB for each bus.
    pub(crate) base: u64,
}

/// Reads the tables that hang from the root pointer at physical address `rsdp`. Without a root pointer, or with
/// broken tables, the log says so and the result is empty: the machine runs with one CPU and slow timers.
pub(crate) fn read(early: &EarlyTables, rsdp: Option<u64>) -> AcpiInfo {
    let Some(rsdp) = rsdp.and_then(|address| usize::try_from(address).ok()) else {
        log::warn!("the boot loader passed no ACPI root pointer");
        return AcpiInfo::default();
    };
    // SAFETY: the boot loader promises a root pointer there, and the early tables are in force for as long as
    // the handler that `early` allows is used, which is in this function alone.
    let tables = match unsafe { AcpiTables::from_rsdp(handler::EarlyHandler::new(early), rsdp) } {
        Ok(tables) => tables,
        Err(error) => {
            log::warn!("the ACPI tables are unreadable: {error:?}");
            return AcpiInfo::default();
        }
    };
    let mut info = AcpiInfo {
        controllers: controllers::read(&tables),
        fixed: fixed::read(early, &tables),
        ..AcpiInfo::default()
    };
    info.hpet = HpetInfo::new(&tables).ok().map(|hpet| hpet.base_address as u64);
    if let Ok(mcfg) = tables.find_table::<Mcfg>() {
        for entry in mcfg.entries().iter().take(MAX_REGIONS) {
            let region = PciRegion {
                segment: entry.pci_segment_group,
                first_bus: entry.bus_number_start,
                last_bus: entry.bus_number_end,
                base: entry.base_address,
            };
            // No more than the list takes.
            let _ = info.pci.push(region);
        }
    }
    info.remapping = remapping::read(early, &tables);
    report(&info);
    info
}

fn report(info: &AcpiInfo) {
    let AcpiInfo {
        controllers,
        fixed,
        hpet,
        pci,
        remapping,
    } = info;
    log::info!(
        "ACPI: {} CPUs, {} I/O APICs",
        controllers.cpus.len(),
        controllers.io_apics.len()
    );
    if controllers.cpus_left_out > 0 {
        log::warn!(
            "{} CPUs are left out: the hypervisor drives no more",
            controllers.cpus_left_out
        );
    }
    for io_apic in &controllers.io_apics {
        log::debug!("  {io_apic:x?}");
    }
    for moved in controllers.wiring.overrides() {
        log::debug!("  {moved:?}");
    }
    log::debug!("  {fixed:x?}");
    log::debug!("  HPET {hpet:x?}, PCI {pci:x?}");
    for unit in remapping.iter().flat_map(|dmar| &dmar.units) {
        log::debug!("  DMA {unit:x?}");
    }
}
