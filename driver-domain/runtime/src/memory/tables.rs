//! The page tables of the linear mapping, as far as the runtime touches them: one level-2 table and its
//! level-1 tables.
//!
//! Tables are read in place, through the linear mapping, and written by hypercalls only: a frame that is a
//! page table has no writable mapping anywhere. The builder's tables are found by following the real entries
//! down from the top one.

use core::sync::atomic::{AtomicU64, Ordering};

use bulkhead_abi::{
    errno::Failure,
    layout::PAGE_SIZE,
    mmu::MmuUpdate,
    pte::{self, ENTRIES, ENTRY_SIZE, L3_SHIFT, L4_SHIFT},
};

use super::{
    frame::{Mfn, Pfn, VIRT_BASE},
    p2m,
    rights::Rights,
};
use crate::hypercall;

/// A page table that the linear mapping shows.
#[derive(Clone, Copy, Debug)]
struct Table {
    mfn: Mfn,
    entries: &'static [AtomicU64; ENTRIES],
}

impl Table {
    /// The table in frame `pfn`.
    ///
    /// # Safety
    ///
    /// The frame must be a page table in use, in the linear mapping, for the life of the guest.
    unsafe fn at(pfn: Pfn) -> Option<Self> {
        let entries = core::ptr::with_exposed_provenance::<[AtomicU64; ENTRIES]>(pfn.address());
        // SAFETY: the frame is mapped read-only for ever and only the processor (accessed and dirty bits) and
        // the hypervisor write it; relaxed atomic loads, which is all that is done, are allowed on such
        // memory.
        let entries = unsafe { &*entries };
        Some(Self {
            mfn: p2m::machine_frame(pfn)?,
            entries,
        })
    }

    fn entry(&self, index: usize) -> u64 {
        self.entries
            .get(index)
            .map_or(0, |entry| entry.load(Ordering::Relaxed))
    }

    /// The table that entry `index` points to.
    fn child(&self, index: usize) -> Option<Self> {
        let entry = self.entry(index);
        if entry & pte::PRESENT == 0 {
            return None;
        }
        let pfn = p2m::pseudo_physical_frame(Mfn::in_entry(entry))?;
        // SAFETY: a present entry of a table in use points to a table in use. The runtime never takes a table
        // out of use.
        unsafe { Self::at(pfn) }
    }

    /// Fills the frame `table` with `entries`, and lets entry `index` lead to it.
    ///
    /// # Safety
    ///
    /// The frame `table` must be mapped writable and be nobody's; it is the tables' from now on. Under entry `index` nothing may be mapped
    /// that Rust relies on, and what will be must not overlap what Rust takes for separate memory.
    unsafe fn hang(&self, index: usize, table: Pfn, entries: &[u64; ENTRIES]) -> Result<(), Failure> {
        let page = core::ptr::with_exposed_provenance_mut::<[u64; ENTRIES]>(table.address());
        // SAFETY: the frame is mapped writable and the caller gives it to us.
        unsafe { page.write_volatile(*entries) };
        let Some(mfn) = p2m::machine_frame(table) else {
            return Ok(());
        };
        // SAFETY: the page loses its writability, and nobody but the tables will use it.
        unsafe { hypercall::update_va_mapping(table.address(), Rights::ReadOnly.entry(mfn.maddr())) }?;
        let update = MmuUpdate {
            ptr: self.entry_maddr(index),
            val: mfn.maddr() | pte::PRESENT | pte::WRITABLE | pte::USER | pte::ACCESSED | pte::DIRTY,
        };
        // The entry itself gives the frame its type; a pin would only be a second reference that nobody
        // drops.
        // SAFETY: the caller's promise.
        unsafe { hypercall::mmu_update(&[update]) }
    }

    /// Machine address of entry `index`.
    const fn entry_maddr(&self, index: usize) -> u64 {
        self.mfn
            .maddr()
            .wrapping_add(index.wrapping_mul(ENTRY_SIZE) as u64)
    }
}

/// Index of the entry for `address` in a table whose entries cover 1 << `shift` bytes.
const fn index(address: usize, shift: u32) -> usize {
    (address >> shift) % ENTRIES
}

/// The level-2 table under which the linear mapping lies.
#[derive(Clone, Copy, Debug)]
pub(super) struct LinearTables {
    level2: Table,
}

impl LinearTables {
    /// Follows the builder's tables from the level-4 table in frame `top` to the one that covers
    /// [`VIRT_BASE`].
    ///
    /// # Safety
    ///
    /// `top` must be the level-4 table in use.
    pub(super) unsafe fn find(top: Pfn) -> Option<Self> {
        // SAFETY: the caller's promise, and the builder puts all tables in the initial mapping.
        let level4 = unsafe { Table::at(top) }?;
        let level3 = level4.child(index(VIRT_BASE, L4_SHIFT))?;
        let level2 = level3.child(index(VIRT_BASE, L3_SHIFT))?;
        Some(Self { level2 })
    }

    /// The level-1 table for `pfn`, if there is one.
    fn level1(&self, pfn: Pfn) -> Option<Table> {
        self.level2.child(pfn.index() / ENTRIES)
    }

    /// Whether the page of `pfn` has its level-1 table.
    pub(super) fn has_table(&self, pfn: Pfn) -> bool {
        self.level2.entry(pfn.index() / ENTRIES) & pte::PRESENT != 0
    }

    /// The level-1 entry for `pfn`; 0 if there is no table.
    pub(super) fn entry(&self, pfn: Pfn) -> u64 {
        self.level1(pfn)
            .map_or(0, |table| table.entry(pfn.index() % ENTRIES))
    }

    /// Machine address of the level-1 entry for `pfn`, if there is a table.
    pub(super) fn entry_maddr(&self, pfn: Pfn) -> Option<u64> {
        self.level1(pfn)
            .map(|table| table.entry_maddr(pfn.index() % ENTRIES))
    }

    /// Makes frame `table` the level-1 table that shows `first` and the up to 511 frames after it, as data,
    /// as far as the domain has memory there (before `end`).
    ///
    /// # Safety
    ///
    /// The frame `table` must be mapped writable and be nobody's; it is the tables' from now on. Nothing may
    /// be mapped at the addresses of the frames that it will show.
    pub(super) unsafe fn add_table(&self, table: Pfn, first: Pfn, end: u64) -> Result<(), Failure> {
        let mut entries = [0_u64; ENTRIES];
        for (entry, pfn) in entries.iter_mut().zip(Pfn::range(first.raw()..end)) {
            *entry = p2m::machine_frame(pfn).map_or(0, |mfn| Rights::Data.entry(mfn.maddr()));
        }
        // SAFETY: the caller gives us the frame. Addresses that showed nothing show frames of the domain that no other mapping shows.
        unsafe { self.level2.hang(first.index() / ENTRIES, table, &entries) }
    }
}

/// The level-2 table under which the [window](super::window) lies.
#[derive(Clone, Copy, Debug)]
pub(super) struct WindowTables {
    level2: Table,
}

impl WindowTables {
    /// Makes frame `level2` the level-2 table for the addresses from `base` on, a multiple of 1 GiB, in the address space of the
    /// level-4 table in frame `top`. `None` if there is one, or the hypervisor refuses it.
    ///
    /// # Safety
    ///
    /// `top` must be the level-4 table in use, and the frame `level2` as in [`LinearTables::add_table`].
    pub(super) unsafe fn make(top: Pfn, base: usize, level2: Pfn) -> Option<Self> {
        // SAFETY: the caller's promise, and the builder puts all tables in the initial mapping.
        let level3 = unsafe { Table::at(top) }?.child(index(base, L4_SHIFT))?;
        let place = index(base, L3_SHIFT);
        if level3.entry(place) != 0 {
            return None;
        }
        // SAFETY: the caller gives us the frame, and a table without entries shows nothing.
        unsafe { level3.hang(place, level2, &[0; ENTRIES]) }.ok()?;
        // SAFETY: it is a page table in use now, for good.
        let level2 = unsafe { Table::at(level2) }?;
        Some(Self { level2 })
    }

    /// Makes frame `table` the level-1 table at `place`, with nothing in it.
    ///
    /// # Safety
    ///
    /// The frame as in [`LinearTables::add_table`]; there must be no table at that place.
    pub(super) unsafe fn add_table(&self, table: Pfn, place: usize) -> Result<(), Failure> {
        // SAFETY: the caller gives us the frame, and a table without entries shows nothing.
        unsafe { self.level2.hang(place, table, &[0; ENTRIES]) }
    }

    /// The frame that page `index` shows.
    pub(super) fn shown(&self, index: usize) -> Option<Mfn> {
        let entry = self.level2.child(index / ENTRIES)?.entry(index % ENTRIES);
        (entry & pte::PRESENT != 0).then(|| Mfn::in_entry(entry))
    }
}

const _: () = assert!(ENTRIES * ENTRY_SIZE == PAGE_SIZE, "a table fills its frame");
const _: () = assert!(
    VIRT_BASE.is_multiple_of(1 << L3_SHIFT),
    "pfn / 512 is the index in the level-2 table"
);
