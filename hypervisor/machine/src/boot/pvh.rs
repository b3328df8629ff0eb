//! Reads the start-info record of the PVH boot protocol.
//!
//! Everything is copied here and now: the record and what it points to may lie in memory that we allocate from
//! a few steps later. The boot loader is trusted (it loaded us), but addresses that the early tables do not
//! show are refused all the same. Nothing need be aligned: the firmware of QEMU's microvm has the list of modules
//! on its stack, at a multiple of 4.
//!
//! Source: Xen's `public/arch-x86/hvm/start_info.h`.

use core::fmt::Write as _;
use core::slice;

use bulkhead_machine::layout::word;
use bulkhead_machine::portable::firmware::{COMMAND_LINE_SIZE, FirmwareInfo};
use bulkhead_machine::portable::memory_map::Kind;
use pvh::start_info::{MemmapTableEntry, MemmapType, ModlistEntry, START_MAGIC_VALUE, StartInfo};

use super::entry::EarlyTables;
use crate::BootError;

/// Copies the boot loader's records.
///
/// # Errors
///
/// [`BootError::NoBootRecord`] if there is no such record at `start_info`, or it points to where no memory is shown,
/// and [`BootError::Archive`] if a module is at no range of addresses.
pub(super) fn read(early: &EarlyTables, start_info: u32) -> Result<FirmwareInfo, BootError> {
    let record: StartInfo = copy(early, start_info.into(), 0)?;
    if record.magic != START_MAGIC_VALUE {
        return Err(BootError::NoBootRecord);
    }
    let mut info = FirmwareInfo::default();
    info.rsdp = Some(record.rsdp_paddr).filter(|&address| address != 0);
    // It is shorter than what there is room for.
    let _ = info.loader.write_str("PVH");

    // Version 0 ends before the memory map.
    let ranges = if record.version == 0 {
        0
    } else {
        record.memmap_entries
    };
    for index in 0..ranges {
        let entry: MemmapTableEntry = copy(early, record.memmap_paddr, index)?;
        let kind = if entry.ty() == MemmapType::Ram {
            Kind::Ram
        } else {
            Kind::Other
        };
        info.note_memory(entry.addr, entry.size, kind);
    }
    for index in 0..record.nr_modules {
        let module: ModlistEntry = copy(early, record.modlist_paddr, index)?;
        info.note_module(module.paddr, module.size)?;
    }
    if record.cmdline_paddr != 0 {
        info.note_command_line(text(early, record.cmdline_paddr));
    }
    Ok(info)
}

/// A record of the start-of-day ABI: whatever bytes it has in memory, they make a value.
trait Record: Copy {}

impl Record for StartInfo {}
impl Record for ModlistEntry {}
impl Record for MemmapTableEntry {}

/// Copies record number `index` of the array at physical address `array`.
fn copy<T: Record>(early: &EarlyTables, array: u64, index: u32) -> Result<T, BootError> {
    let size = size_of::<T>() as u64;
    let start = u64::from(index)
        .checked_mul(size)
        .and_then(|offset| array.checked_add(offset));
    let shown = start.and_then(|start| early.show(start, size));
    let bytes = shown.ok_or(BootError::NoBootRecord)?;
    // SAFETY: the early tables show as many bytes as the record has; it has no alignment to keep here, and
    // every bit pattern is one (`Record`).
    Ok(unsafe { bytes.cast::<T>().read_unaligned() })
}

/// The bytes from physical address `start` up to the first zero, or one more than there is room for.
fn text(early: &EarlyTables, start: u64) -> &[u8] {
    let bytes = (0..=COMMAND_LINE_SIZE as u64).map_while(|offset| {
        let byte = early.show(start.checked_add(offset)?, 1)?;
        // SAFETY: the early tables show this byte.
        Some(unsafe { byte.read() }).filter(|&byte| byte != 0)
    });
    let len = bytes.count() as u64;
    match early.show(start, len) {
        // SAFETY: the early tables show these bytes for as long as they are in force, and nobody writes them: the
        // loader is gone, and nothing is allocated yet.
        Some(bytes) => unsafe { slice::from_raw_parts(bytes.as_ptr(), word(len)) },
        None => &[],
    }
}
