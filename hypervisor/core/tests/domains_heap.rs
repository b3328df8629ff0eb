//! A domain for whose records the hypervisor's heap has no room leaves nothing behind, whichever allocation it is that fails.
#![cfg(not(loom))]

use bulkhead_core::EndPolicy;
use bulkhead_core::domains::Domain;
use bulkhead_core::domains::builder::BuildError;
use bulkhead_core::testing::{GuestSpec, SimConfig, TestKernel, World};
use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

/// The system's allocator, with a fuse.
struct Fused;

thread_local! {
    /// How many more allocations of this thread succeed; no limit if `None`.
    static FUSE: Cell<Option<u32>> = const { Cell::new(None) };
}

/// What an `Arc` of a domain takes: it has two counters beside its contents.
const ARC: usize = size_of::<Domain>() + 16;

impl Fused {
    /// Whether the next allocation, of `size` bytes, is to fail.
    fn is_blown(size: usize) -> bool {
        // An `Arc` cannot be allocated fallibly by the standard library of today: this one allocation is let through.
        if size == ARC {
            return false;
        }
        FUSE.with(|fuse| {
            let left = fuse.get();
            fuse.set(left.map(|left| left.saturating_sub(1)));
            left == Some(0)
        })
    }
}

// SAFETY: every request is passed on to the system's allocator, or answered with null, which says that there is no memory.
unsafe impl GlobalAlloc for Fused {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if Self::is_blown(layout.size()) {
            return core::ptr::null_mut();
        }
        // SAFETY: the caller keeps the contract of `alloc`, which is the system allocator's too.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        // SAFETY: `at` came from `alloc` or `realloc`, and thus from the system's allocator with this layout.
        unsafe { System.dealloc(at, layout) }
    }

    unsafe fn realloc(&self, at: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        if Self::is_blown(size) {
            return core::ptr::null_mut();
        }
        // SAFETY: as for `alloc` and `dealloc`.
        unsafe { System.realloc(at, layout, size) }
    }
}

#[global_allocator]
static HEAP: Fused = Fused;

#[test]
fn a_domain_for_whose_records_there_is_no_heap_leaves_nothing_behind() {
    let guest = GuestSpec {
        kernel: TestKernel::like_linux().build(),
        ramdisk: Some(vec![1; 5000]),
        pages: 1100,
        vcpus: 32,
        ..GuestSpec::default()
    };
    let world = World::new(SimConfig::default(), EndPolicy::LastDomain);
    let free = world.hv().memory().free_frames();
    for allocations in 0.. {
        assert!(allocations < 100, "it should succeed sooner or later");
        FUSE.set(Some(allocations));
        let made = world.create(1, &guest);
        FUSE.set(None);
        world.invariants();
        if made.is_ok() {
            assert!(
                allocations >= 4,
                "the records of a domain are several allocations"
            );
            break;
        }
        assert_eq!(made, Err(BuildError::NoHeap), "after {allocations} allocations");
        assert_eq!(world.hv().memory().free_frames(), free);
        assert_eq!(world.enter(0), None);
    }
    assert_eq!(world.enter(0), Some((1, 0)));
    world.invariants();
}

#[test]
fn a_hypervisor_without_heap_is_not_made() {
    let config = SimConfig::default();
    let memory = bulkhead_core::testing::Sim::new(config);
    FUSE.set(Some(0));
    let hv = bulkhead_core::Hypervisor::new(memory, 1, EndPolicy::LastDomain);
    FUSE.set(None);
    assert!(hv.is_none());
}
