//! Reads the start-info record of the PVH boot protocol.
//!
//! Everything is copied here and now: the record and what it points to may lie in memory that we allocate from
//! a few steps later. The boot loader is trusted (it loaded us), but addresses that the early tables do not
//! show are refused all the same.

use core::alloc::Layout;
use core::ptr;

use bulkhead_machine::layout::{DIRECT_MAP, word};
use bulkhead_machine::portable::memory_map::{Entry, Kind};
use pvh::start_info::MemmapType;
use pvh::start_info::reader::{MemMap, StartInfoReader};

use super::entry::{EARLY_LIMIT, EarlyTables};
use super::firmware::FirmwareInfo;
use crate::BootError;

/// Copies the boot loader's records.
///
/// # Errors
///
/// [`BootError::NoStartInfo`] if there is no such record at `start_info`, and [`BootError::TooManyRanges`] if the
/// memory map does not fit.
pub(crate) fn read(_early: &EarlyTables, start_info: u32) -> Result<FirmwareInfo, BootError> {
    // SAFETY: the early tables are in force (we hold their token), so `EarlyMap` gives readable pointers for
    // as long as the reader lives; the loader promises that the record at `start_info`, whose magic number is
    // checked, has valid addresses.
    let reader = unsafe { StartInfoReader::from_paddr(start_info, EarlyMap) };
    let reader = reader.ok_or(BootError::NoStartInfo)?;
    let raw = reader.raw();
    let mut info = FirmwareInfo {
        modules: raw.nr_modules,
        rsdp: Some(raw.rsdp_paddr).filter(|&address| address != 0),
        ..FirmwareInfo::default()
    };

    for entry in reader.memmap() {
        let kind = if entry.ty() == MemmapType::Ram {
            Kind::Ram
        } else {
            Kind::Other
        };
        let entry = Entry {
            start: entry.addr,
            len: entry.size,
            kind,
        };
        info.memory.push(entry).map_err(|_| BootError::TooManyRanges)?;
    }
    if let Some(module) = reader.modlist().next() {
        let module = module.raw();
        info.module = Some(module.paddr..module.paddr.saturating_add(module.size));
    }
    if let Some(line) = reader.cmdline() {
        match line.to_str() {
            Ok(text) => {
                info.command_line_cut = text
                    .chars()
                    .any(|character| info.command_line.push(character).is_err());
            }
            Err(_) => info.command_line_cut = true,
        }
    }
    Ok(info)
}

/// Physical memory as the early tables show it.
struct EarlyMap;

impl MemMap for EarlyMap {
    fn ptr(&self, paddr: usize, layout: Layout) -> *const u8 {
        let end = paddr.checked_add(layout.size());
        let shown = end.is_some_and(|end| end as u64 <= EARLY_LIMIT);
        if !shown || !paddr.is_multiple_of(layout.align()) {
            return ptr::null();
        }
        ptr::with_exposed_provenance(word(DIRECT_MAP | paddr as u64))
    }
}
