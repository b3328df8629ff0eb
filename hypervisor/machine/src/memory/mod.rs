//! The hypervisor's own memory: its page tables, its heap, and the frames that boot hands out.
//!
//! - [`image`]: where the linker and the loader put us.
//! - [`frames`]: the allocator of the boot, over the memory map.
//! - [`page_table`]: tables and entries; the only place that writes them.
//! - [`address_space`]: builds the final tables and moves to them.
//! - [`window`]: what may be mapped after the boot (device registers, descriptor-table windows).
//! - [`heap`]: the global allocator.
//! - [`audit`]: checks the laws below on the tables as they are.
//!
//! Laws: a page is writable or executable, never both, and the direct map shows code and constants read-only;
//! everything is for ring 0 alone except the read-only machine-to-physical table; no entry is global; and
//! nothing of ours lies outside L4 slots 256 to 271.

pub(crate) mod address_space;
pub(crate) mod audit;
pub(crate) mod frames;
pub(crate) mod heap;
pub(crate) mod image;
pub(crate) mod page_table;
pub(crate) mod window;

use bulkhead_machine::layout::{DIRECT_MAP, DIRECT_MAP_SIZE, word};

pub(crate) use address_space::Memory;
pub(crate) use window::map_mmio;

/// Where the direct map shows the byte of RAM at physical address `phys`, which must be below
/// [`DIRECT_MAP_SIZE`] or the result points nowhere.
pub(crate) fn direct(phys: u64) -> *mut u8 {
    debug_assert!(phys < DIRECT_MAP_SIZE, "{phys:#x} is beyond the direct map");
    core::ptr::with_exposed_provenance_mut(word(DIRECT_MAP | phys))
}
