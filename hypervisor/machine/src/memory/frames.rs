//! The frame allocator of the boot.
//!
//! It hands out frames of RAM for good: page tables, the heap, the frame table. What is left when the boot is
//! over becomes the machine's free memory ([`BootFrames::into_free`]), and this allocator is gone.

use core::ops::Range;

use bulkhead_machine::layout::{PAGE_SHIFT, PAGE_SIZE};
use bulkhead_machine::portable::memory_map::{MAX_RANGES, MemoryMap};
use bulkhead_machine::portable::ranges::{Full, Ranges};

use super::{direct, image};
use crate::boot::entry::{EARLY_LIMIT, EarlyTables};

/// The machine has no memory left for what the boot needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct OutOfMemory;

/// RAM that nobody uses yet.
#[derive(Debug)]
pub(crate) struct BootFrames {
    free: Ranges<MAX_RANGES>,
    /// One past the highest frame that can be reached now.
    limit: u64,
}

impl BootFrames {
    /// All RAM of `map` except low memory, the image, and `module` (in bytes). Only frames that the early tables
    /// show are handed out, until [`reach_all`](Self::reach_all).
    ///
    /// # Errors
    ///
    /// [`Full`] if RAM with these holes is in too many pieces.
    pub(crate) fn new(
        _early: &EarlyTables,
        map: &MemoryMap,
        module: Option<&Range<u64>>,
    ) -> Result<Self, Full> {
        let module = module.map_or(0..0, frames_of);
        let free = map.free_beside(&[image::boot_frames(), image::high_frames(), module])?;
        Ok(Self {
            free,
            limit: EARLY_LIMIT >> PAGE_SHIFT,
        })
    }

    /// From now on every frame can be handed out.
    ///
    /// # Safety
    ///
    /// The page tables in force must show all RAM in the direct map.
    pub(super) unsafe fn reach_all(&mut self) {
        self.limit = u64::MAX;
    }

    /// Takes one frame and fills it with zeros.
    pub(crate) fn take_zeroed(&mut self) -> Result<u64, OutOfMemory> {
        self.take_zeroed_run(1, 1)
    }

    /// Takes `count` adjacent frames, the first a multiple of `align`, and fills them with zeros.
    pub(crate) fn take_zeroed_run(&mut self, count: u64, align: u64) -> Result<u64, OutOfMemory> {
        let start = self.take_run(count, align)?;
        for frame in start..start.saturating_add(count) {
            // SAFETY: the frame is RAM that nobody used and that is ours since a moment ago; the direct map shows
            // it, because it is below `limit`.
            unsafe { direct(frame << PAGE_SHIFT).write_bytes(0, PAGE_SIZE) };
        }
        Ok(start)
    }

    /// Takes `count` adjacent frames, the first a multiple of `align`, with whatever they hold.
    pub(crate) fn take_run(&mut self, count: u64, align: u64) -> Result<u64, OutOfMemory> {
        self.free
            .take_highest(count, align, self.limit)
            .ok_or(OutOfMemory)
    }

    /// Ends the allocator: the ranges of frames that are left.
    pub(crate) fn into_free(self) -> Ranges<MAX_RANGES> {
        self.free
    }
}

/// The frames that hold the bytes `bytes`, in whole or in part.
pub(crate) fn frames_of(bytes: &Range<u64>) -> Range<u64> {
    bytes.start >> PAGE_SHIFT..bytes.end.div_ceil(PAGE_SIZE as u64)
}
