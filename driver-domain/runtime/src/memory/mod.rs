//! Memory: all of the domain's frames mapped, no page writable and executable, a heap and whole frames to
//! take.
//!
//! The builder maps only as much as it needs itself, everything writable and executable. At start the runtime
//!
//! 1. finds the end of that mapping in the page tables and takes rights away page by page;
//! 2. maps the rest of the domain's memory behind it, linearly ([`frame`]), making page tables from what is
//!    free;
//! 3. gives all frames that nobody uses to the frame map, from which the heap and [`Page`]s come.
//!
//! Frames up to the end of the builder's boot stack stay as they are: low memory is free, then come the
//! image, the p2m list, start_info and the builder's page tables. Domains get no more than 1 GiB this way;
//! the rest is left alone, and the console is told.
//!
//! What others grant is mapped elsewhere: in the [`window`].
//!
//! Lock order: balloon, heap, window, frames.

mod balloon;
mod batch;
mod bitmap;
mod borrowed;
mod contiguous;
pub mod frame;
mod frames;
mod heap;
pub(crate) mod image;
pub(crate) mod own;
mod p2m;
mod page;
mod rights;
mod tables;
mod view;
pub(crate) mod window;

use core::ops::Range;

use bulkhead_abi::{errno::Failure, layout::PAGE_SIZE, pte, start_info::StartInfo};

pub use self::{
    balloon::balloon,
    borrowed::borrow,
    contiguous::Contiguous,
    frame::{Mfn, Pfn, VIRT_BASE},
    own::OwnPage,
    p2m::{machine_frame, pseudo_physical_frame},
    page::Page,
};
use self::{batch::Batch, frame::to_usize, image::Image, rights::Layout, tables::LinearTables};
pub(crate) use self::{frame::LINEAR_FRAMES, page::Hidden, rights::Rights, view::View};
use crate::hypercall;

/// How much memory there is, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Usage {
    /// The domain's memory.
    pub total: u64,
    /// Frames that are neither in use nor part of the heap.
    pub free: u64,
    /// The heap, used and not.
    pub heap: u64,
}

/// The domain's memory as it is now.
#[must_use]
pub fn usage() -> Usage {
    Usage {
        total: p2m::frames().saturating_mul(PAGE_SIZE) as u64,
        free: frames::free().saturating_mul(PAGE_SIZE) as u64,
        heap: heap::size() as u64,
    }
}

/// Takes the domain's memory into use. After this there is a heap.
pub(crate) fn init(start: &StartInfo, boot_stack_top: usize) {
    let listed = start.nr_pages.min(LINEAR_FRAMES);
    // SAFETY: start_info says that the list is there, in the initial mapping; it is left out of what `frames`
    // gets.
    unsafe { p2m::init(to_usize(start.mfn_list), to_usize(listed)) };
    // A new domain has all its frames; should the list have a hole, memory ends there.
    let hole = Pfn::range(0..listed).find(|pfn| p2m::machine_frame(*pfn).is_none());
    let total = hole.map_or(listed, Pfn::raw);
    let Some((layout, first_free)) = layout(start, boot_stack_top) else {
        panic!("the builder did not put image and page tables into the linear mapping");
    };
    // SAFETY: start_info names the level-4 table in use.
    let Some(tables) = (unsafe { LinearTables::find(layout.tables.start) }) else {
        panic!("the page tables of the linear mapping cannot be found");
    };
    let mapped = Pfn::range(first_free..total).find(|pfn| tables.entry(*pfn) & pte::PRESENT == 0);
    let mapped = mapped.map_or(total, Pfn::raw);
    if let Err(error) = confine(&layout, &tables, mapped) {
        panic!("the initial mapping's rights cannot be changed: {error}");
    }
    let free = match extend(&tables, first_free..mapped, total) {
        Ok(free) => free,
        Err(error) => panic!("memory cannot be mapped: {error}"),
    };
    // SAFETY: what lies below the image and after the boot stack is mapped as data and nobody's.
    unsafe { frames::init([0..layout.image.whole.start.raw(), free]) };
    // SAFETY: start_info names the level-4 table in use.
    unsafe { window::init(layout.tables.start) };
    if start.nr_pages > total {
        crate::println!(
            "{} pages of {} cannot be mapped and are not used",
            start.nr_pages.saturating_sub(total),
            start.nr_pages
        );
    }
}

/// Takes `pages` pages for a stack, with a page below that is not mapped any more. Returns the stack's lowest address.
pub(crate) fn take_stack(pages: usize) -> Option<usize> {
    let guard = frames::take(pages.checked_add(1)?)?;
    // SAFETY: the page was free, and is nobody's from now on.
    unsafe { hypercall::update_va_mapping(guard.address(), Rights::None.entry(0)) }.ok()?;
    Some(guard.address().saturating_add(PAGE_SIZE))
}

/// Who uses what in the initial mapping, and the first frame after it all.
fn layout(start: &StartInfo, boot_stack_top: usize) -> Option<(Layout, u64)> {
    let first_table = Pfn::at_address(to_usize(start.pt_base))?;
    let last_table = Pfn::new(first_table.raw().checked_add(start.nr_pt_frames)?)?;
    let boot_stack_end = Pfn::at_address(boot_stack_top)?;
    let layout = Layout {
        image: Image::running()?,
        tables: first_table..last_table,
    };
    let first_free = layout.image.whole.end.max(last_table).max(boot_stack_end);
    Some((layout, first_free.raw()))
}

/// Gives each page of the initial mapping, up to frame `mapped`, the rights that its use needs and no more.
fn confine(layout: &Layout, tables: &LinearTables, mapped: u64) -> Result<(), Failure> {
    let mut batch = Batch::new();
    for pfn in Pfn::range(0..mapped) {
        let (Some(rights), Some(mfn)) = (layout.rights(pfn), p2m::machine_frame(pfn)) else {
            continue;
        };
        let Some(maddr) = tables.entry_maddr(pfn) else {
            continue;
        };
        // SAFETY: the page keeps showing its frame and keeps the rights that its use needs; the guard page,
        // which loses all, is no object's.
        unsafe { batch.push(maddr, rights.entry(mfn.maddr())) }?;
    }
    batch.flush()?;
    hypercall::flush_local_tlb()
}

/// Maps all frames from `free.end` to before `total`, taking page tables from the frames `free`, which are
/// mapped; returns the frames that are mapped and free then.
fn extend(tables: &LinearTables, free: Range<u64>, total: u64) -> Result<Range<u64>, Failure> {
    let Range {
        start: mut next,
        end: mut mapped,
    } = free;
    let mut batch = Batch::new();
    while let Some(first) = Pfn::new(mapped).filter(|first| first.raw() < total) {
        let end = first.next_table().min(total);
        if tables.has_table(first) {
            for pfn in Pfn::range(mapped..end) {
                let (Some(maddr), Some(mfn)) = (tables.entry_maddr(pfn), p2m::machine_frame(pfn)) else {
                    continue;
                };
                // SAFETY: shows a frame of the domain where nothing was mapped.
                unsafe { batch.push(maddr, Rights::Data.entry(mfn.maddr())) }?;
            }
            batch.flush()?;
        } else {
            let Some(table) = Pfn::new(next).filter(|table| table.raw() < mapped) else {
                break;
            };
            next = next.saturating_add(1);
            // SAFETY: `table` is one of the free frames, and nothing was mapped from `first` on.
            unsafe { tables.add_table(table, first, end) }?;
        }
        mapped = end;
    }
    Ok(next..mapped)
}
