//! The DMAR: the units that remap DMA.
//!
//! Source: Intel, "Virtualization Technology for Directed I/O", chapter 8. The bytes are read by
//! [`portable::vtd::dmar`](bulkhead_machine::portable::vtd::dmar); here they are found, and the bridges on the way asked.

use ::acpi::sdt::{SdtHeader, Signature};
use ::acpi::{AcpiHandler, AcpiTable, AcpiTables};
use bulkhead_core::pci::FunctionId;
use bulkhead_machine::portable::vtd::dmar::{Buses, Dmar};
use x86_64::instructions::port::Port;

use super::handler;
use crate::boot::entry::EarlyTables;

/// The head of the table, which is all that the reader of tables has to know.
#[repr(C)]
struct Table {
    header: SdtHeader,
}

// SAFETY: every table begins with such a header, and this one has the signature below.
unsafe impl AcpiTable for Table {
    const SIGNATURE: Signature = Signature::DMAR;

    fn header(&self) -> &SdtHeader {
        &self.header
    }
}

/// Reads the DMAR. `None` if there is none, or it is broken, which the log says.
pub(super) fn read<H: AcpiHandler>(_early: &EarlyTables, tables: &AcpiTables<H>) -> Option<Dmar> {
    let found = tables.find_table::<Table>().ok()?;
    let length = found.header.length;
    let start = handler::bytes(found.physical_start() as u64, usize::try_from(length).ok()?)?;
    // SAFETY: the early tables, which we borrow, show these bytes; firmware's tables are written by nobody.
    let bytes = unsafe { core::slice::from_raw_parts(start.as_ptr(), usize::try_from(length).ok()?) };
    match Dmar::parse(bytes, buses) {
        Ok(dmar) => Some(dmar),
        Err(broken) => {
            log::error!("{broken}: it is not used");
            None
        }
    }
}

/// Configuration space: the register that holds the kind of header, in its third byte.
const HEADER: u8 = 0x0c;
/// Configuration space of a bridge: the register with its bus numbers.
const BUS_NUMBERS: u8 = 0x18;

/// The buses below a function, if it is a bridge.
fn buses(function: FunctionId) -> Option<Buses> {
    const BRIDGE: u8 = 1;
    const KIND: u8 = 0x7f;
    let [_, _, header, _] = read_configuration(function, HEADER).to_le_bytes();
    // No function answers with ones.
    if header & KIND != BRIDGE {
        return None;
    }
    let [_, first, last, _] = read_configuration(function, BUS_NUMBERS).to_le_bytes();
    Some(Buses { first, last })
}

/// Reads a register of a function's configuration space, at an offset that is a multiple of 4.
fn read_configuration(function: FunctionId, offset: u8) -> u32 {
    const ENABLE: u32 = 1 << 31;
    let address = ENABLE | u32::from(function.raw()) << 8 | u32::from(offset);
    // SAFETY: the two registers of the host bridge, which nobody else uses during the boot; reading these registers changes nothing.
    unsafe {
        Port::new(0xcf8).write(address);
        Port::new(0xcfc).read()
    }
}
