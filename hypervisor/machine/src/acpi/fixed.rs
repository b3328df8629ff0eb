//! The FADT: the hardware that every ACPI machine has.
//!
//! Source: ACPI specification 6.5, sections 4.8 (registers) and 5.2.9 (FADT).

use ::acpi::address::{AddressSpace, GenericAddress};
use ::acpi::fadt::Fadt;
use ::acpi::{AcpiHandler, AcpiTables};
use bulkhead_machine::portable::assignable::Assignable;
use bulkhead_machine::portable::sleep_state::{SleepType, find_s5};

use super::handler;
use crate::boot::entry::EarlyTables;

/// Fixed hardware. I/O ports where nothing else is said.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Fixed {
    /// The power-management timer.
    pub(crate) pm_timer: Option<u16>,
    /// The power-management control registers, the first and the optional second.
    pub(crate) pm1_control: [Option<u16>; 2],
    /// The value that means "soft off" there.
    pub(crate) soft_off: Option<SleepType>,
    /// The port and the value that hand the power-management registers from firmware to us.
    pub(crate) enable: Option<(u16, u8)>,
    /// The reset register and the value that resets.
    pub(crate) reset: Option<(Register, u8)>,
    /// The interrupt line of power management, which stays masked.
    pub(crate) sci: Option<u16>,
    /// The index of the century register in the real-time clock.
    pub(crate) century: Option<u8>,
}

impl Fixed {
    /// Takes all of it out of what domains may own.
    pub(super) fn take_from(&self, left: &mut Assignable) {
        // The timer has four bytes, each control register two.
        let timer = self.pm_timer.map(|port| (port, 4));
        let control = self.pm1_control.into_iter().flatten().map(|port| (port, 2));
        let enable = self.enable.map(|(port, _)| (port, 1));
        for (port, count) in control.chain(timer).chain(enable) {
            left.take_ports(port, count);
        }
        match self.reset {
            Some((Register::Port(port), _)) => left.take_ports(port, 1),
            Some((Register::Memory(address), _)) => {
                left.take_bytes(address..address.saturating_add(1));
            }
            None => {}
        }
    }
}

/// A one-byte register.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Register {
    /// An I/O port.
    Port(u16),
    /// A physical address.
    Memory(u64),
}

/// Reads the FADT and, for the soft-off value, the DSDT.
pub(super) fn read<H: AcpiHandler>(early: &EarlyTables, tables: &AcpiTables<H>) -> Fixed {
    let Ok(fadt) = tables.find_table::<Fadt>() else {
        log::warn!("no FADT: the machine cannot power itself off");
        return Fixed::default();
    };
    let smi_port = u16::try_from(fadt.smi_cmd_port).ok().filter(|&port| port != 0);
    let flags = fadt.flags;
    Fixed {
        pm_timer: fadt.pm_timer_block().ok().flatten().and_then(port),
        pm1_control: [
            fadt.pm1a_control_block().ok().and_then(port),
            fadt.pm1b_control_block().ok().flatten().and_then(port),
        ],
        soft_off: soft_off(early, tables),
        enable: smi_port
            .map(|port| (port, fadt.acpi_enable))
            .filter(|&(_, value)| value != 0),
        reset: flags
            .supports_system_reset_via_fadt()
            .then(|| fadt.reset_register().ok().and_then(register))
            .flatten()
            .map(|register| (register, fadt.reset_value)),
        sci: Some(fadt.sci_interrupt),
        century: Some(fadt.century).filter(|&index| index != 0),
    }
}

/// Looks the soft-off value up in the DSDT's bytes.
fn soft_off<H: AcpiHandler>(_early: &EarlyTables, tables: &AcpiTables<H>) -> Option<SleepType> {
    let aml = tables.dsdt().ok()?;
    let len = usize::try_from(aml.length).ok()?;
    let start = handler::bytes(aml.address as u64, len)?;
    // SAFETY: the early tables, which we borrow, show these bytes; firmware's tables are written by nobody.
    find_s5(unsafe { core::slice::from_raw_parts(start.as_ptr(), len) })
}

/// The register, if it is an I/O port.
fn port(address: GenericAddress) -> Option<u16> {
    match register(address)? {
        Register::Port(port) => Some(port),
        Register::Memory(_) => None,
    }
}

fn register(address: GenericAddress) -> Option<Register> {
    if address.address == 0 {
        return None;
    }
    #[expect(
        clippy::wildcard_enum_match_arm,
        reason = "registers behind other buses are out of reach"
    )]
    match address.address_space {
        AddressSpace::SystemIo => u16::try_from(address.address).ok().map(Register::Port),
        AddressSpace::SystemMemory => Some(Register::Memory(address.address)),
        _ => None,
    }
}
