//! Shows the ACPI reader physical memory, through the early page tables.

use core::marker::PhantomData;
use core::ptr::NonNull;

use ::acpi::{AcpiHandler, PhysicalMapping};
use bulkhead_machine::layout::PAGE_SIZE;

use crate::boot::entry::{EARLY_LIMIT, EarlyTables};
use crate::memory::direct;

/// Access to physical memory below [`EARLY_LIMIT`], while the early tables are borrowed.
#[derive(Clone, Debug)]
pub(super) struct EarlyHandler<'a>(PhantomData<&'a EarlyTables>);

impl<'a> EarlyHandler<'a> {
    pub(super) const fn new(_early: &'a EarlyTables) -> Self {
        Self(PhantomData)
    }
}

/// What the reader sees where the early tables show nothing: no table looks like that, so it is refused.
#[repr(C, align(4096))]
struct Blank([u8; PAGE_SIZE]);

static BLANK: Blank = Blank([0; PAGE_SIZE]);

impl AcpiHandler for EarlyHandler<'_> {
    unsafe fn map_physical_region<T>(&self, address: usize, size: usize) -> PhysicalMapping<Self, T> {
        const {
            assert!(
                size_of::<T>() <= PAGE_SIZE,
                "a table's head is larger than the blank page"
            )
        };
        let start = match bytes(address as u64, size.max(size_of::<T>())) {
            Some(bytes) => bytes.cast(),
            None => NonNull::from(&BLANK).cast(),
        };
        // SAFETY: `start` is mapped for the size asked for, or is a page that its first bytes unmask as no table.
        unsafe { PhysicalMapping::new(address, start, size, size, self.clone()) }
    }

    fn unmap_physical_region<T>(_region: &PhysicalMapping<Self, T>) {
        // The early tables stay.
    }
}

/// Where the early tables show `len` bytes from physical address `start` on, if they do.
pub(super) fn bytes(start: u64, len: usize) -> Option<NonNull<u8>> {
    let end = start.checked_add(len as u64)?;
    if end > EARLY_LIMIT {
        return None;
    }
    NonNull::new(direct(start))
}
