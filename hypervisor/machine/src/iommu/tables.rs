//! The memory of tables that units read.

use core::arch::asm;
use core::sync::atomic::{AtomicU64, Ordering};

use bulkhead_core::frames::Mfn;
use bulkhead_machine::portable::vtd::entries::WORDS;

use crate::hw::frame_words;

/// How tables are written.
#[derive(Clone, Copy, Debug)]
pub(super) struct Writer {
    /// Whether every unit sees what is in the caches of CPUs. Where one does not, what it is to see is written back.
    pub(super) is_coherent: bool,
}

impl Writer {
    fn load(self, table: Mfn, index: usize) -> u64 {
        word(table, index).map_or(0, |word| word.load(Ordering::Relaxed))
    }

    fn store(self, table: Mfn, index: usize, entry: u64) {
        if let Some(word) = word(table, index) {
            // Release: a table is filled before an entry leads to it.
            word.store(entry, Ordering::Release);
            self.write_back(word);
        }
    }

    /// Lets units see the eight words around one, which has been written by others.
    #[inline]
    pub(super) fn publish(self, table: Mfn, index: usize) {
        if let Some(word) = word(table, index) {
            self.write_back(word);
        }
    }

    /// Lets units see a table that was filled with zeros.
    pub(super) fn publish_all(self, table: Mfn) {
        // A cache line has eight words.
        frame_words(table.raw())
            .iter()
            .step_by(8)
            .for_each(|word| self.write_back(word));
    }

    /// An entry of two words in any table.
    pub(super) fn entry(self, table: Mfn, number: u8) -> [u64; WORDS] {
        let first = place(number);
        [self.load(table, first), self.load(table, first.saturating_add(1))]
    }

    /// Replaces it. One that is present is changed in its low word alone, or made absent first: a unit may
    /// read the two one after the other.
    pub(super) fn set_entry(self, table: Mfn, number: u8, [low, high]: [u64; WORDS]) {
        let first = place(number);
        let second = first.saturating_add(1);
        if self.load(table, second) != high {
            self.store(table, first, 0);
            self.store(table, second, high);
        }
        self.store(table, first, low);
    }

    /// The low word of the root table's entry of a bus. The high one stays zero.
    pub(super) fn root(self, table: Mfn, bus: u8) -> u64 {
        self.load(table, place(bus))
    }

    /// Replaces it.
    pub(super) fn set_root(self, table: Mfn, bus: u8, low: u64) {
        self.store(table, place(bus), low);
    }

    fn write_back(self, word: &AtomicU64) {
        if !self.is_coherent {
            // SAFETY: writes a cache line back, and leaves memory as the program sees it. CLFLUSH is in order with the stores before it
            // to the same line, and every 64-bit CPU has it.
            unsafe { asm!("clflush [{}]", in(reg) word.as_ptr(), options(nostack, preserves_flags)) };
        }
    }
}

/// Where a table of entries with two words has one.
fn place(number: u8) -> usize {
    usize::from(number).saturating_mul(WORDS)
}

fn word(table: Mfn, index: usize) -> Option<&'static AtomicU64> {
    frame_words(table.raw()).get(index)
}
