//! Frames to do anything with: page tables, descriptor pages, victims.
//!
//! A frame is never given back to the runtime. Whatever a check did to it, or failed to undo, nobody else meets it.

use core::mem::ManuallyDrop;

use bulkhead_abi::{
    Hypercall,
    mmu::{UVMF_INVLPG, UVMF_LOCAL},
    pte,
};
use bulkhead_runtime::{
    memory::Page,
    trap::{probe_read, probe_write},
};

use crate::calls::{Answer, call};

/// Flags of an entry that shows a page to be read and written.
pub(crate) const WRITABLE: u64 = pte::PRESENT | pte::WRITABLE | pte::ACCESSED | pte::DIRTY;
/// Flags of an entry that shows a page to be read.
pub(crate) const READ_ONLY: u64 = pte::PRESENT | pte::ACCESSED;
/// Flags of an entry that leads to another table.
pub(crate) const TABLE: u64 = pte::PRESENT | pte::WRITABLE | pte::USER | pte::ACCESSED | pte::DIRTY;

/// One frame of this domain, with its page in the linear mapping.
#[derive(Debug)]
pub(crate) struct Frame {
    page: ManuallyDrop<Page>,
    maddr: u64,
}

impl Frame {
    /// A frame of zeros, mapped writable and nowhere else.
    pub(crate) fn new() -> Self {
        let Some(page) = Page::zeroed() else {
            panic!("out of frames");
        };
        let Some(mfn) = page.mfn() else {
            panic!("a frame of this domain has no number");
        };
        Self {
            maddr: mfn.maddr(),
            page: ManuallyDrop::new(page),
        }
    }

    /// A frame that cannot be written any more, with these entries at its start.
    pub(crate) fn table(entries: &[u64]) -> Self {
        let frame = Self::new();
        for (index, &entry) in entries.iter().enumerate() {
            frame.set(index, entry);
        }
        frame.protect();
        frame
    }

    /// The machine address of its first byte.
    pub(crate) const fn maddr(&self) -> u64 {
        self.maddr
    }

    /// Its machine frame number.
    pub(crate) const fn mfn(&self) -> u64 {
        self.maddr >> 12
    }

    /// Its page number.
    pub(crate) fn pfn(&self) -> u64 {
        self.page.pfn().raw()
    }

    /// The machine address of word `index`.
    pub(crate) const fn word_maddr(&self, index: usize) -> u64 {
        self.maddr.wrapping_add((index as u64).wrapping_mul(8))
    }

    /// The entry that shows it with `flags`.
    pub(crate) const fn entry(&self, flags: u64) -> u64 {
        self.maddr | flags
    }

    /// Where its page is.
    pub(crate) fn address(&self) -> u64 {
        self.page.address() as u64
    }

    /// The word at `index`. Zero if it cannot be read, which is reported.
    pub(crate) fn get(&self, index: usize) -> u64 {
        match probe_read(self.page.address().wrapping_add(index.wrapping_mul(8))) {
            Ok(word) => word,
            Err(fault) => panic!("a frame of the probe's cannot be read: {fault:?}"),
        }
    }

    /// Writes the word at `index`, through the page.
    pub(crate) fn set(&self, index: usize, value: u64) {
        if !self.try_set(index, value) {
            panic!("a frame of the probe's cannot be written");
        }
    }

    /// Writes the word at `index` if the page can be written, and says whether.
    pub(crate) fn try_set(&self, index: usize, value: u64) -> bool {
        // SAFETY: the page is the probe's, and Rust holds no reference to what is in it.
        unsafe { probe_write(self.page.address().wrapping_add(index.wrapping_mul(8)), value) }.is_ok()
    }

    /// Shows the page with `flags` instead.
    pub(crate) fn remap(&self, flags: u64) -> Answer {
        show(self.address(), self.entry(flags))
    }

    /// Takes the right to write away.
    pub(crate) fn protect(&self) {
        if let Err(error) = self.remap(READ_ONLY) {
            panic!("a page cannot be made read-only: {error}");
        }
    }
}

/// Writes the level-1 entry of the page at `address`.
pub(crate) fn show(address: u64, entry: u64) -> Answer {
    call(
        Hypercall::UpdateVaMapping,
        [address, entry, UVMF_INVLPG | UVMF_LOCAL],
    )
}
