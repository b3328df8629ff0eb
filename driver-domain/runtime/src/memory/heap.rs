//! The heap: `talc` over runs of frames, which it takes as it grows. Large allocations may be [`borrowed`] instead.

use core::{
    alloc::{GlobalAlloc, Layout},
    sync::atomic::{AtomicUsize, Ordering},
};

use bulkhead_abi::layout::PAGE_SIZE;
use spin::Mutex;
use talc::{
    DefaultBinning,
    base::{Talc, binning::Binning},
    source::Source,
};

use super::{borrowed, frame::pages_for, frames};

/// The heap grows by this much, or by what one allocation needs.
const GROWTH: usize = 256 * 1024;

/// Bytes that the heap has taken.
static SIZE: AtomicUsize = AtomicUsize::new(0);

/// Size of the heap in bytes, used and not.
pub(super) fn size() -> usize {
    SIZE.load(Ordering::Relaxed)
}

/// Where the heap gets more memory: the free frames.
#[derive(Debug)]
struct FreeFrames;

// SAFETY: `acquire` touches the frame map only, which allocates nothing.
unsafe impl Source for FreeFrames {
    fn acquire<B: Binning>(heap: &mut Talc<Self, B>, layout: Layout) -> Result<(), ()> {
        // Room for the allocation, its alignment, and what the allocator keeps beside it and at the ends.
        let needed = layout
            .size()
            .saturating_add(layout.align())
            .saturating_add(PAGE_SIZE);
        if let Some((start, size)) = borrowed::growth(needed) {
            // SAFETY: the pages are new, mapped writable at neighbouring addresses, and are the heap's for ever.
            unsafe { heap.claim(start, size) }.ok_or(())?;
            SIZE.fetch_add(size, Ordering::Relaxed);
            return Ok(());
        }
        // If memory is too scattered for a whole step, the least will do.
        let (count, first) = [needed.max(GROWTH), needed]
            .into_iter()
            .map(pages_for)
            .find_map(|count| Some((count, frames::take(count)?)))
            .ok_or(())?;
        let size = count.saturating_mul(PAGE_SIZE);
        let start = core::ptr::with_exposed_provenance_mut::<u8>(first.address());
        // SAFETY: the frames were free, are mapped writable at neighbouring addresses, and are the heap's for
        // ever.
        unsafe { heap.claim(start, size) }.ok_or(())?;
        SIZE.fetch_add(size, Ordering::Relaxed);
        Ok(())
    }
}

/// The guest's allocator.
struct Heap(Mutex<Talc<FreeFrames, DefaultBinning>>);

#[cfg_attr(target_os = "none", global_allocator)]
static HEAP: Heap = Heap(Mutex::new(Talc::new(FreeFrames)));

// SAFETY: `Talc` is an allocator in the sense of the trait; the lock gives it to one caller at a time.
unsafe impl GlobalAlloc for Heap {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if let Some(block) = borrowed::take(layout) {
            return block;
        }
        // SAFETY: the caller's layout has a size, as the trait demands.
        let block = unsafe { self.0.lock().allocate(layout) };
        match block {
            Some(block) => block.as_ptr(),
            None => {
                report_exhaustion(layout);
                core::ptr::null_mut()
            }
        }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // New frames are zero.
        if let Some(block) = borrowed::take(layout) {
            return block;
        }
        // SAFETY: the caller's layout has a size, as the trait demands.
        let block = unsafe { self.alloc(layout) };
        if !block.is_null() {
            // SAFETY: the block is new and has so many bytes.
            unsafe { block.write_bytes(0, layout.size()) };
        }
        block
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        if borrowed::contains(block) {
            // SAFETY: only `take` gives such blocks.
            return unsafe { borrowed::give_back(block, layout) };
        }
        // SAFETY: the caller got `block` from `alloc` with this layout, and so from `allocate`.
        unsafe { self.0.lock().deallocate(block, layout) }
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        if borrowed::fits(block, layout, new_size) {
            return block;
        }
        let is_ours = !borrowed::contains(block);
        // SAFETY: as in `dealloc`; the caller's new size is not zero.
        if is_ours && unsafe { self.0.lock().try_realloc_in_place(block, layout, new_size) } {
            return block;
        }
        // SAFETY: the trait demands that `new_size`, rounded up to the alignment, is no larger than
        // isize::MAX.
        let new_layout = unsafe { Layout::from_size_align_unchecked(new_size, layout.align()) };
        // SAFETY: the layout has a size.
        let new_block = unsafe { self.alloc(new_layout) };
        if !new_block.is_null() {
            // SAFETY: both blocks are live and apart, and each has at least the smaller size; then the old
            // one is given back.
            unsafe {
                new_block.copy_from_nonoverlapping(block, layout.size().min(new_size));
                self.dealloc(block, layout);
            }
        }
        new_block
    }
}

/// Tells why an allocation failed. What becomes of the guest is the caller's decision, most often a panic.
fn report_exhaustion(layout: Layout) {
    crate::println!(
        "out of memory: {} bytes wanted, {} KiB of frames free, heap {} KiB",
        layout.size(),
        frames::free().saturating_mul(PAGE_SIZE) / 1024,
        size() / 1024,
    );
}
