//! The parts of the address space whose leaf entries change after the boot: device registers, and the windows
//! that show a guest's descriptor tables.
//!
//! Their tables are all made at boot ([`reserve`]), so that mapping needs no memory and cannot fail halfway.
//! Lock order: the window's lock is a leaf.

use core::ptr::NonNull;
use core::sync::atomic::{AtomicU64, Ordering};

use bulkhead_machine::layout::{
    GDT_WINDOW_SIZE, GDT_WINDOWS, MAX_CPUS, MMIO, MMIO_SIZE, PAGE_SHIFT, PAGE_SIZE, word,
};
use spin::{Mutex, Once};

use super::frames::{BootFrames, OutOfMemory, frames_of};
use super::page_table::{DEVICE, Reach, Table, leaf};

/// Bytes that one L1 table covers.
const L1_SPAN: u64 = 2 << 20;
/// L1 tables of the descriptor-table windows.
const GDT_TABLES: usize = word((MAX_CPUS as u64 * 2 * GDT_WINDOW_SIZE).div_ceil(L1_SPAN));
/// L1 tables of the device window.
const MMIO_TABLES: usize = word(MMIO_SIZE / L1_SPAN);

/// L1 entries for the two windows of one CPU: first the GDT's, then the LDT's.
pub(crate) const GDT_ENTRIES: usize = word(2 * GDT_WINDOW_SIZE) >> PAGE_SHIFT;

static TABLES: Once<Tables> = Once::new();

struct Tables {
    gdt: [Table; GDT_TABLES],
    mmio: [Table; MMIO_TABLES],
}

/// The first page of the device window that maps nothing yet.
static NEXT_MMIO_PAGE: Mutex<u64> = Mutex::new(0);

/// The device window has no room for so many pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct WindowFull;

/// Makes the tables of both windows, below `l4`.
pub(super) fn reserve(l4: Table, frames: &mut BootFrames) -> Result<(), OutOfMemory> {
    let gdt = tables(l4, GDT_WINDOWS, frames)?;
    let mmio = tables(l4, MMIO, frames)?;
    TABLES.call_once(|| Tables { gdt, mmio });
    Ok(())
}

/// The L1 tables from `base` on.
fn tables<const N: usize>(l4: Table, base: u64, frames: &mut BootFrames) -> Result<[Table; N], OutOfMemory> {
    let mut made = [l4; N];
    for (table, address) in made.iter_mut().zip((base..).step_by(word(L1_SPAN))) {
        let l3 = l4.child(address, 4, Reach::Ring0, frames)?;
        let l2 = l3.child(address, 3, Reach::Ring0, frames)?;
        *table = l2.child(address, 2, Reach::Ring0, frames)?;
    }
    Ok(made)
}

/// Maps `bytes` bytes of device registers from physical address `phys` on, uncached, for good, and returns
/// where. `phys` need not be page-aligned. Nothing is said of who else may use the device.
///
/// # Errors
///
/// [`WindowFull`] if there is no room (or the boot has not come so far yet); nothing is mapped then.
pub(crate) fn map_mmio(phys: u64, bytes: u64) -> Result<NonNull<u8>, WindowFull> {
    let tables = TABLES.get().ok_or(WindowFull)?;
    let frames = frames_of(&(phys..phys.checked_add(bytes).ok_or(WindowFull)?));
    let mut next = NEXT_MMIO_PAGE.lock();
    let first = *next;
    let end = first.saturating_add(frames.end.saturating_sub(frames.start));
    if end > MMIO_SIZE >> PAGE_SHIFT {
        return Err(WindowFull);
    }
    for (page, frame) in (first..end).zip(frames) {
        let entry = tables
            .mmio
            .get(word(page >> 9))
            .and_then(|table| table.entries().get(word(page & 511)));
        // The entry was not present, so no TLB holds it: nothing to flush.
        entry
            .ok_or(WindowFull)?
            .store(leaf(frame, DEVICE), Ordering::Relaxed);
    }
    *next = end;
    let address = MMIO.saturating_add(first << PAGE_SHIFT) | (phys & (PAGE_SIZE as u64).wrapping_sub(1));
    NonNull::new(core::ptr::with_exposed_provenance_mut(word(address))).ok_or(WindowFull)
}

/// The L1 entries of the two descriptor-table windows of CPU `cpu`, which alone may change them and must flush
/// its TLB after that. `None` if there is no such CPU or the tables are not made yet.
pub(crate) fn gdt_window(cpu: usize) -> Option<&'static [AtomicU64]> {
    let first = cpu.checked_mul(GDT_ENTRIES)?;
    let table = TABLES.get()?.gdt.get(first >> 9)?;
    table.entries().get(first & 511..)?.get(..GDT_ENTRIES)
}
