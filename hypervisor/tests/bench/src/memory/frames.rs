//! Frames and page tables of the benchmark's own.
//!
//! None is ever given back to the runtime: what became of its mapping is not the runtime's business.

use core::mem::ManuallyDrop;

use alloc::vec::Vec;
use bulkhead_abi::{
    mmu::{MmuUpdate, UVMF_INVLPG, UVMF_LOCAL},
    pte::{self, ENTRIES, ENTRY_SIZE},
};
use bulkhead_runtime::{
    Environment,
    memory::{Page, machine_frame},
    trap,
};

use super::calls::{self, mmu_update};

/// Flags of an entry that shows a page to be read and written.
pub(super) const WRITABLE: u64 = pte::PRESENT | pte::WRITABLE | pte::ACCESSED | pte::DIRTY;
/// Flags of an entry that shows a page to be read.
pub(super) const READ_ONLY: u64 = pte::PRESENT | pte::ACCESSED;
/// Flags of an entry that leads to another table.
pub(super) const TABLE: u64 = pte::PRESENT | pte::WRITABLE | pte::USER | pte::ACCESSED | pte::DIRTY;

/// One frame of this domain, with its page in the linear mapping.
#[derive(Debug)]
pub(super) struct Frame {
    page: ManuallyDrop<Page>,
    maddr: u64,
}

impl Frame {
    /// A frame of zeros, mapped writable in the linear mapping and nowhere else.
    pub(super) fn new() -> Self {
        let Some(page) = Page::zeroed() else {
            panic!("the domain has too little memory");
        };
        let Some(mfn) = page.mfn() else {
            panic!("a frame of this domain has no number");
        };
        Self {
            maddr: mfn.maddr(),
            page: ManuallyDrop::new(page),
        }
    }

    /// So many of them.
    pub(super) fn several(count: usize) -> Vec<Self> {
        (0..count).map(|_| Self::new()).collect()
    }

    /// A frame with these entries at its start, which cannot be written any more: it may become a page table.
    pub(super) fn table(entries: impl IntoIterator<Item = u64>) -> Self {
        let frame = Self::new();
        for (index, entry) in entries.into_iter().take(ENTRIES).enumerate() {
            let written = frame
                .page
                .write(index.wrapping_mul(ENTRY_SIZE), &entry.to_le_bytes());
            assert!(written.is_some(), "a table has room for its entries");
        }
        frame.remap(frame.entry(READ_ONLY));
        frame
    }

    /// Its machine frame number.
    pub(super) const fn mfn(&self) -> u64 {
        self.maddr >> pte::L1_SHIFT
    }

    /// Its page number.
    pub(super) fn pfn(&self) -> u64 {
        self.page.pfn().raw()
    }

    /// The entry that shows it with `flags`.
    pub(super) const fn entry(&self, flags: u64) -> u64 {
        self.maddr | flags
    }

    /// The machine address of word `index`.
    pub(super) const fn word_maddr(&self, index: usize) -> u64 {
        self.maddr
            .wrapping_add((index as u64).wrapping_mul(ENTRY_SIZE as u64))
    }

    /// The address of word `index`.
    pub(super) fn word_address(&self, index: usize) -> usize {
        self.page.address().wrapping_add(index.wrapping_mul(ENTRY_SIZE))
    }

    /// The machine address that the entry at `index` names; it must be present.
    #[track_caller]
    pub(super) fn target(&self, index: usize) -> u64 {
        let entry = trap::probe_read(self.word_address(index)).unwrap_or(0);
        assert!(entry & pte::PRESENT != 0, "entry {index} shows nothing");
        entry & pte::FRAME_MASK
    }

    /// Writes another entry for its page in the linear mapping.
    #[track_caller]
    pub(super) fn remap(&self, entry: u64) {
        let address = self.page.address() as u64;
        if let Err(error) = calls::update_va_mapping(address, entry, UVMF_INVLPG | UVMF_LOCAL) {
            panic!("a page cannot be mapped as {entry:#x}: {error}");
        }
    }
}

/// Pages at addresses of their own, shown by one level-1 table that can be read at its page, and written by hypercalls.
#[derive(Debug)]
pub(crate) struct Window {
    /// The level-1 table.
    pub(super) table: Frame,
}

/// The level-4 slot over the window: one that the runtime does not use.
const SLOT: usize = 300;

impl Window {
    /// Hangs an empty window into the running address space, once. `None` if its top is nowhere to be found.
    pub(crate) fn of(environment: &Environment) -> Option<Self> {
        Some(Self::open(machine_frame(environment.top_table()?)?.maddr()))
    }

    /// The same, where the level-4 table is at machine address `root`.
    fn open(root: u64) -> Self {
        let table = Frame::table([]);
        let level2 = Frame::table([table.entry(TABLE)]);
        let level3 = Frame::table([level2.entry(TABLE)]);
        let slot = root.wrapping_add((SLOT as u64).wrapping_mul(ENTRY_SIZE as u64));
        let update = MmuUpdate {
            ptr: slot,
            val: level3.entry(TABLE),
        };
        if let Err(error) = mmu_update(&[update]) {
            panic!("there is no window: {error}");
        }
        Self { table }
    }

    /// The address of page `index`.
    pub(crate) const fn address(index: usize) -> u64 {
        0xffff_0000_0000_0000 | (SLOT as u64) << pte::L4_SHIFT | (index as u64) << pte::L1_SHIFT
    }

    /// The update of the entry for page `index` to `entry`.
    pub(super) const fn update(&self, index: usize, entry: u64) -> MmuUpdate {
        MmuUpdate {
            ptr: self.table.word_maddr(index),
            val: entry,
        }
    }
}
