//! From the boot loader's hand-over to the first Rust function, and what the loader said.
//!
//! [`entry`] is the assembly that gets a 32-bit CPU without paging to 64-bit Rust at its link address, with the
//! early page tables, and the headers by which loaders know us; [`pvh`] and [`multiboot2`] read the records of
//! the two boot protocols. Both make the same [`FirmwareInfo`] of them.

pub(crate) mod entry;
mod multiboot2;
mod pvh;

use bulkhead_machine::portable::firmware::FirmwareInfo;

use self::entry::EarlyTables;
use crate::BootError;

/// Copies the boot loader's records. `protocol` and `record` are what the entry stub passed on: a magic number of the
/// boot protocol, and the physical address of the loader's record.
///
/// # Errors
///
/// [`BootError::UnknownLoader`] or [`BootError::NoBootRecord`] if nobody that we know has loaded us, and
/// [`BootError::Archive`] if the loader's numbers for a module make no sense.
pub(crate) fn read(early: &EarlyTables, protocol: u32, record: u32) -> Result<FirmwareInfo, BootError> {
    match protocol {
        entry::PVH => pvh::read(early, record),
        multiboot2::MAGIC => multiboot2::read(early, record),
        other => Err(BootError::UnknownLoader(other)),
    }
}
