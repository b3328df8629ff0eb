//! The MADT: CPUs, I/O APICs, and where the old interrupt lines arrive.
//!
//! Source: ACPI specification 6.5, section 5.2.12.

use ::acpi::madt::{Madt, MadtEntry};
use ::acpi::{AcpiHandler, AcpiTables};
use bulkhead_core::irq::{Polarity, Trigger};
use bulkhead_machine::layout::MAX_CPUS;
use bulkhead_machine::portable::lines::{MAX_OVERRIDES, Override, Wiring};
use heapless::Vec;

/// Most I/O APICs that are kept.
pub(crate) const MAX_CONTROLLERS: usize = 16;
/// A CPU entry's flag: the CPU can be started.
const ENABLED: u32 = 1 << 0;
/// The APIC id that means "no CPU" in the MADT's short entries.
const NO_APIC: u8 = 0xff;

/// CPUs and interrupt controllers.
#[derive(Clone, Debug, Default)]
pub(crate) struct Controllers {
    /// The local APIC id of each CPU that can be started, in the table's order.
    pub(crate) cpus: Vec<u32, MAX_CPUS>,
    /// How many more there are.
    pub(crate) cpus_left_out: usize,
    /// The physical address of every CPU's local APIC.
    pub(crate) local_apic: Option<u64>,
    /// The I/O APICs.
    pub(crate) io_apics: Vec<IoApic, MAX_CONTROLLERS>,
    /// How interrupt lines are wired.
    pub(crate) wiring: Wiring,
}

/// One I/O APIC.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct IoApic {
    /// Its APIC id.
    pub(crate) id: u8,
    /// The physical address of its registers.
    pub(crate) address: u64,
    /// The global number of its first input.
    pub(crate) first_gsi: u32,
}

/// Reads the MADT; what it does not tell stays empty.
pub(super) fn read<H: AcpiHandler>(tables: &AcpiTables<H>) -> Controllers {
    let mut found = Controllers::default();
    let Ok(madt) = tables.find_table::<Madt>() else {
        log::warn!("no MADT: the machine runs with one CPU");
        return found;
    };
    let madt = madt.get();
    found.local_apic = Some(u64::from(madt.local_apic_address));
    for entry in madt.entries() {
        #[expect(
            clippy::wildcard_enum_match_arm,
            reason = "the table lists much that we have no use for"
        )]
        match entry {
            MadtEntry::LocalApic(cpu) if cpu.flags & ENABLED != 0 && cpu.apic_id != NO_APIC => {
                found.add_cpu(u32::from(cpu.apic_id));
            }
            MadtEntry::LocalX2Apic(cpu) if cpu.flags & ENABLED != 0 => found.add_cpu(cpu.x2apic_id),
            MadtEntry::LocalApicAddressOverride(entry) => found.local_apic = Some(entry.local_apic_address),
            MadtEntry::IoApic(entry) => {
                let io_apic = IoApic {
                    id: entry.io_apic_id,
                    address: u64::from(entry.io_apic_address),
                    first_gsi: entry.global_system_interrupt_base,
                };
                if found.io_apics.push(io_apic).is_err() {
                    log::warn!("an I/O APIC is left out: there are more than {MAX_CONTROLLERS}");
                }
            }
            MadtEntry::InterruptSourceOverride(entry) => {
                let moved = Override {
                    irq: entry.irq,
                    gsi: entry.global_system_interrupt,
                    polarity: if entry.flags & POLARITY == ACTIVE_LOW {
                        Polarity::Low
                    } else {
                        Polarity::High
                    },
                    trigger: if entry.flags & TRIGGER == LEVEL {
                        Trigger::Level
                    } else {
                        Trigger::Edge
                    },
                };
                if !found.wiring.note(moved) {
                    log::warn!("an interrupt override is left out: there are more than {MAX_OVERRIDES}");
                }
            }
            _ => {}
        }
    }
    found
}

/// Override flags: the two bits of the polarity, and "active low".
const POLARITY: u16 = 0b0011;
const ACTIVE_LOW: u16 = 0b0011;
/// Override flags: the two bits of the trigger mode, and "level".
const TRIGGER: u16 = 0b1100;
const LEVEL: u16 = 0b1100;

impl Controllers {
    /// Adds a CPU. Firmware may list one twice, in the short and in the long form.
    fn add_cpu(&mut self, apic_id: u32) {
        if !self.cpus.contains(&apic_id) && self.cpus.push(apic_id).is_err() {
            self.cpus_left_out = self.cpus_left_out.saturating_add(1);
        }
    }
}
