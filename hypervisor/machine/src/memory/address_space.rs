//! The final page tables of the hypervisor, and what the rest of the boot maps in them.
//!
//! [`Memory::build`] makes them under the early tables and moves to them; the token of the early tables is used
//! up by that. The resulting [`Memory`] lasts until the boot is over.

use core::ops::Range;

use bulkhead_machine::layout::{
    self, DIRECT_MAP, FIRST_SLOT, FRAME_RECORD_SIZE, FRAME_TABLE, LAST_SLOT, M2P_ENTRY_SIZE, M2P_RO, M2P_RW,
    PAGE_SHIFT, PAGE_SIZE, SLOT_SIZE, Stack,
};
use bulkhead_machine::portable::memory_map::{MAX_RANGES, MemoryMap};
use bulkhead_machine::portable::ranges::Ranges;
use x86_64::structures::paging::PageTableFlags as Flags;

use super::audit::{self, Violation};
use super::frames::{BootFrames, OutOfMemory, frames_of};
use super::page_table::{CODE, PageSize, READ_ONLY, READ_WRITE, Reach, Table, USER_READ_ONLY};
use super::{image, window};
use crate::BootError;
use crate::boot::entry::EarlyTables;
use crate::cpu::control::{self, Protections};

/// The hypervisor's address space, while the boot still adds to it.
#[derive(Debug)]
pub(crate) struct Memory {
    l4: Table,
    frames: BootFrames,
    map: MemoryMap,
}

impl Memory {
    /// Builds the final tables over the RAM of `map`, keeping `module` (bytes) read-only, and loads them.
    ///
    /// `huge_pages` tells whether the CPU has 1 GiB pages. `protections` proves that the CPU enforces what the
    /// tables say.
    ///
    /// # Errors
    ///
    /// [`BootError::OutOfMemory`] or [`BootError::TooManyRanges`].
    pub(crate) fn build(
        early: EarlyTables,
        _protections: &Protections,
        map: MemoryMap,
        module: Option<&Range<u64>>,
        huge_pages: bool,
    ) -> Result<Self, BootError> {
        let mut frames = BootFrames::new(&early, &map, module)?;
        let l4 = Table::new(&mut frames)?;
        // All sixteen slots get their table now: they are copied into every guest's L4, and must never change.
        for slot in FIRST_SLOT..=LAST_SLOT {
            let reach = if slot == layout::slot(M2P_RO) {
                Reach::Ring3
            } else {
                Reach::Ring0
            };
            l4.child(slot_base(slot), 4, reach, &mut frames)?;
        }
        map_direct(l4, &map, module, huge_pages, &mut frames)?;
        map_image(l4, &mut frames)?;
        window::reserve(l4, &mut frames)?;

        // SAFETY: the new tables show the code that runs, its data, and the boot stack (all part of the image)
        // at the same addresses as before, and all RAM in the direct map; nothing holds a pointer into the low
        // half, which goes away.
        unsafe { control::load_page_tables(l4.frame()) };
        early.end();
        // SAFETY: the tables just loaded show all RAM in the direct map.
        unsafe { frames.reach_all() };
        Ok(Self { l4, frames, map })
    }

    /// The frame number of the hypervisor's L4.
    pub(crate) fn l4(&self) -> u64 {
        self.l4.frame()
    }

    /// What of the machine is RAM.
    pub(crate) fn map(&self) -> &MemoryMap {
        &self.map
    }

    /// Takes a frame for good, filled with zeros: its number.
    pub(crate) fn take_zeroed(&mut self) -> Result<u64, OutOfMemory> {
        self.frames.take_zeroed()
    }

    /// Maps `bytes` of fresh, zeroed memory at `address`, with 2 MiB pages where they fit. Both are multiples of
    /// the page size.
    pub(crate) fn map_fresh(&mut self, address: u64, bytes: u64) -> Result<(), OutOfMemory> {
        self.map_fresh_as(&[(address, READ_WRITE)], bytes)
    }

    /// Maps the stacks of CPU `cpu`, leaving the guard pages out.
    pub(crate) fn map_stacks(&mut self, cpu: usize) -> Result<(), OutOfMemory> {
        for page in Stack::ALL.into_iter().flat_map(Stack::pages) {
            let address = layout::cpu_area(cpu).saturating_add(page << PAGE_SHIFT);
            self.map_fresh(address, PAGE_SIZE as u64)?;
        }
        Ok(())
    }

    /// Backs the machine-to-physical table and the frame table with zeroed memory, for every frame of RAM; what
    /// lies between ranges of RAM stays unmapped, as far as whole pages go.
    pub(crate) fn map_frame_tables(&mut self) -> Result<(), OutOfMemory> {
        for pages in table_pages(&self.map, M2P_ENTRY_SIZE) {
            let views = [
                (M2P_RW.saturating_add(pages.start << PAGE_SHIFT), READ_WRITE),
                (M2P_RO.saturating_add(pages.start << PAGE_SHIFT), USER_READ_ONLY),
            ];
            self.map_fresh_as(&views, byte_len(&pages))?;
        }
        for pages in table_pages(&self.map, FRAME_RECORD_SIZE) {
            self.map_fresh(
                FRAME_TABLE.saturating_add(pages.start << PAGE_SHIFT),
                byte_len(&pages),
            )?;
        }
        self.map_frame_table_holes()
    }

    /// Shows one page of zeros wherever the frame table has nothing else below the last frame: a guest may name any
    /// number, and the record of what is no RAM says that nobody owns it.
    fn map_frame_table_holes(&mut self) -> Result<(), OutOfMemory> {
        let zeros = self.frames.take_zeroed()?;
        let mut next = 0;
        for pages in table_pages(&self.map, FRAME_RECORD_SIZE).iter().cloned() {
            for page in next..pages.start {
                let address = FRAME_TABLE.saturating_add(page << PAGE_SHIFT);
                self.l4
                    .map(address, zeros, PageSize::Small, READ_ONLY, &mut self.frames)?;
            }
            next = pages.end;
        }
        Ok(())
    }

    /// Checks the laws of the page tables; returns how many leaf entries there are.
    ///
    /// # Errors
    ///
    /// The first entry that breaks a law.
    pub(crate) fn audit(&self) -> Result<u64, Violation> {
        audit::check(self.l4)
    }

    /// Ends the boot's allocations: the frames that nobody uses, as ranges.
    pub(crate) fn into_free(self) -> Ranges<MAX_RANGES> {
        self.frames.into_free()
    }

    /// Maps fresh, zeroed memory at each of `views` (address and rights); all show the same frames.
    fn map_fresh_as(&mut self, views: &[(u64, Flags)], bytes: u64) -> Result<(), OutOfMemory> {
        let large = PageSize::Large.frames();
        let pages = bytes >> PAGE_SHIFT;
        let mut done = 0;
        while done < pages {
            let at = |base: u64| base.saturating_add(done << PAGE_SHIFT);
            let fits = pages.saturating_sub(done) >= large
                && views
                    .iter()
                    .all(|&(base, _)| (at(base) >> PAGE_SHIFT).is_multiple_of(large));
            // Memory may be too scattered for a large page that would fit.
            let run = if fits {
                self.frames.take_zeroed_run(large, large).ok()
            } else {
                None
            };
            let (frame, size) = match run {
                Some(frame) => (frame, PageSize::Large),
                None => (self.frames.take_zeroed()?, PageSize::Small),
            };
            for &(base, rights) in views {
                self.l4.map(at(base), frame, size, rights, &mut self.frames)?;
            }
            done = done.saturating_add(size.frames());
        }
        Ok(())
    }
}

/// Shows all RAM, and the module wherever it is, at [`DIRECT_MAP`]. Code, constants and module are read-only.
fn map_direct(
    l4: Table,
    map: &MemoryMap,
    module: Option<&Range<u64>>,
    huge_pages: bool,
    frames: &mut BootFrames,
) -> Result<(), BootError> {
    let mut shown = map.to_ranges();
    let mut read_only = Ranges::<4>::new();
    read_only.insert(image::frames(&image::text()))?;
    read_only.insert(image::frames(&image::rodata()))?;
    if let Some(module) = module {
        shown.insert(frames_of(module))?;
        read_only.insert(frames_of(module))?;
    }
    for range in shown.iter() {
        let mut frame = range.start;
        while frame < range.end {
            let (size, rights) = direct_leaf(frame, range.end, &read_only, huge_pages);
            l4.map(DIRECT_MAP | frame << PAGE_SHIFT, frame, size, rights, frames)?;
            frame = frame.saturating_add(size.frames());
        }
    }
    Ok(())
}

/// The largest page that starts at `frame`, ends by `end`, and has the same rights all over.
fn direct_leaf(frame: u64, end: u64, read_only: &Ranges<4>, huge_pages: bool) -> (PageSize, Flags) {
    let rights = |pages: &Range<u64>| {
        if read_only.contains(pages) {
            return Some(READ_ONLY);
        }
        let touched = read_only
            .iter()
            .any(|range| range.start < pages.end && pages.start < range.end);
        (!touched).then_some(READ_WRITE)
    };
    let sizes = if huge_pages {
        [PageSize::Huge, PageSize::Large].as_slice()
    } else {
        &[PageSize::Large]
    };
    for &size in sizes {
        let pages = frame..frame.saturating_add(size.frames());
        if frame.is_multiple_of(size.frames())
            && pages.end <= end
            && let Some(rights) = rights(&pages)
        {
            return (size, rights);
        }
    }
    // A single frame is inside a read-only range or outside, never both.
    let pages = frame..frame.saturating_add(1);
    (PageSize::Small, rights(&pages).unwrap_or(READ_ONLY))
}

/// Maps the image where it is linked, each segment with its own rights.
fn map_image(l4: Table, frames: &mut BootFrames) -> Result<(), OutOfMemory> {
    for (segment, rights) in [
        (image::text(), CODE),
        (image::rodata(), READ_ONLY),
        (image::data(), READ_WRITE),
    ] {
        for address in segment.step_by(PAGE_SIZE) {
            let frame = image::physical(address) >> PAGE_SHIFT;
            l4.map(address, frame, PageSize::Small, rights, frames)?;
        }
    }
    Ok(())
}

/// The pages of a table with one record of `record` bytes per frame that hold the records of RAM.
fn table_pages(map: &MemoryMap, record: u64) -> Ranges<MAX_RANGES> {
    let mut pages = Ranges::new();
    for range in map.ram() {
        let bytes = range.start.saturating_mul(record)..range.end.saturating_mul(record);
        // No more ranges than the map has, so there is room.
        let _ = pages.insert(frames_of(&bytes));
    }
    pages
}

fn byte_len(pages: &Range<u64>) -> u64 {
    pages.end.saturating_sub(pages.start) << PAGE_SHIFT
}

/// The lowest address of an L4 slot of the upper half.
const fn slot_base(slot: usize) -> u64 {
    (slot as u64).wrapping_mul(SLOT_SIZE) | 0xffff_0000_0000_0000
}
