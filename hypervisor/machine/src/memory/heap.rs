//! The global heap: a fixed share of memory, and a little for each CPU, claimed once.
//!
//! It holds what the hypervisor keeps per domain, vCPU and device. It does not grow, so that no guest can make
//! the hypervisor eat the machine; when it is full, allocation fails and the request that wanted it is refused.
//!
//! The lock is a leaf. Interrupts are off in the hypervisor; handlers of NMI and machine check must not allocate.

use core::alloc::{GlobalAlloc, Layout};

use bulkhead_machine::layout::{HEAP, PAGE_SHIFT, word};
use spin::Mutex;
use talc::DefaultBinning;
use talc::base::Talc;
use talc::source::Manual;

use super::Memory;
use super::frames::OutOfMemory;

/// One part in so many of all RAM becomes the heap.
const SHARE: u64 = 64;
const SMALLEST: u64 = 4 << 20;
const LARGEST: u64 = 256 << 20;
/// On top of that, what each CPU takes before it runs any guest: its trace ring, and as much again.
const PER_CPU: u64 = 256 << 10;

#[global_allocator]
static GLOBAL: Heap = Heap(Mutex::new(Talc::new(Manual)));

struct Heap(Mutex<Talc<Manual, DefaultBinning>>);

/// Backs the heap with memory for a machine of `cpus` CPUs and opens it; returns its size in bytes. Until then every
/// allocation fails.
pub(crate) fn init(memory: &mut Memory, cpus: usize) -> Result<u64, OutOfMemory> {
    let ram = memory.map().frames() << PAGE_SHIFT;
    let own = (cpus as u64).saturating_mul(PER_CPU);
    // Whole 2 MiB pages.
    let size = (ram / SHARE)
        .clamp(SMALLEST, LARGEST)
        .saturating_add(own)
        .next_multiple_of(2 << 20);
    memory.map_fresh(HEAP, size)?;
    let base = core::ptr::with_exposed_provenance_mut(word(HEAP));
    // SAFETY: these pages were mapped a line above, writable, for good, and nothing else points to them.
    let claimed = unsafe { GLOBAL.0.lock().claim(base, word(size)) };
    claimed.map(|_| size).ok_or(OutOfMemory)
}

/// How many bytes of the heap are in use, with what managing them takes.
pub(crate) fn used() -> u64 {
    let heap = GLOBAL.0.lock();
    let counters = heap.counters();
    counters.claimed_bytes.saturating_sub(counters.available_bytes) as u64
}

// SAFETY: `Talc` gives out disjoint blocks of memory that it alone manages, under the lock.
unsafe impl GlobalAlloc for Heap {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller promises a layout of non-zero size, which is all that `allocate` asks.
        let block = unsafe { self.0.lock().allocate(layout) };
        block.map_or(core::ptr::null_mut(), |block| block.as_ptr())
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        // SAFETY: the caller promises that `block` came from here with this layout and is not used any more.
        unsafe { self.0.lock().deallocate(block, layout) }
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        // SAFETY: the caller promises that `block` came from here with this layout, and a non-zero new size.
        if unsafe { self.0.lock().try_realloc_in_place(block, layout, new_size) } {
            return block;
        }
        let Ok(new_layout) = Layout::from_size_align(new_size, layout.align()) else {
            return core::ptr::null_mut();
        };
        // SAFETY: the size is not zero, as the caller promises.
        let moved = unsafe { self.alloc(new_layout) };
        if !moved.is_null() {
            // SAFETY: both blocks are live, disjoint, and at least as long as the smaller of the two sizes; after
            // the copy nobody uses the old one.
            unsafe {
                moved.copy_from_nonoverlapping(block, layout.size().min(new_size));
                self.dealloc(block, layout);
            }
        }
        moved
    }
}
