//! Memory that the control domain borrows from the machine. Each large allocation has frames of its own, which go back when it
//! is freed: so a control domain of 32 MiB unpacks a kernel of 64. And the heap grows by what is borrowed when the domain's own memory is
//! nearly gone: so guests that fill their quotas of xenstore do not end it.

use core::{
    alloc::Layout,
    sync::atomic::{AtomicBool, Ordering},
};

use bulkhead_abi::{DomId, layout::PAGE_SIZE};

use super::{
    frame::{LINEAR_FRAMES, pages_for},
    frames,
    rights::Rights,
    window::{self, Run, Use},
};
use crate::hypercall::{self, memory::release_all};

/// The size from which an allocation is large, in bytes.
const LARGE: usize = 1 << 20;

/// How many free frames of its own the domain keeps while it can borrow: page tables for what is borrowed are of them.
const RESERVE: usize = 256;

/// How many frames a hypercall takes or gives.
const BATCH: usize = 128;

static IS_ALLOWED: AtomicBool = AtomicBool::new(false);

/// From now on, large allocations are of memory that the machine has free. The control domain alone may do so: nobody else may set his own
/// limit.
///
/// # Errors
///
/// `EPERM` for everyone else.
pub fn borrow() -> Result<(), bulkhead_abi::errno::Failure> {
    hypercall::domains::set_limit(DomId::SELF, hypercall::control::machine_info()?.ram)?;
    Run::allow();
    IS_ALLOWED.store(true, Ordering::Relaxed);
    Ok(())
}

/// Borrows memory for the heap to grow by, for good, if the domain has little of its own left: at least `size` bytes. Returns where it begins, and
/// how much it is.
pub(super) fn growth(size: usize) -> Option<(*mut u8, usize)> {
    if frames::free() >= RESERVE || !IS_ALLOWED.load(Ordering::Relaxed) {
        return None;
    }
    let pages = pages_for(size.max(LARGE));
    // What is got and is not enough is lost, and so little memory is left then that it does not matter.
    let start = pages_of(Use::Heap, pages)?;
    Some((start, pages.saturating_mul(PAGE_SIZE)))
}

/// Borrows memory for a large allocation; `None` if it is none, or there is no memory.
pub(super) fn take(layout: Layout) -> Option<*mut u8> {
    if layout.size() < LARGE || layout.align() > PAGE_SIZE || !IS_ALLOWED.load(Ordering::Relaxed) {
        return None;
    }
    pages_of(Use::Block, pages_for(layout.size()))
}

/// Borrows so many pages.
fn pages_of(what_for: Use, pages: usize) -> Option<*mut u8> {
    // Others are not to find the machine's memory gone, if only for a moment.
    let free = hypercall::control::machine_info().map_or(0, |machine| machine.free);
    if free < pages as u64 {
        return None;
    }
    let run = Run::take(what_for, pages)?;
    let address = run.address();
    if fill(&run) {
        return Some(core::ptr::with_exposed_provenance_mut(address));
    }
    empty(run);
    None
}

/// Whether a block that was allocated is one that [`take`] gave.
pub(super) fn contains(block: *mut u8) -> bool {
    Run::at(block.addr(), 1).is_some()
}

/// Whether a block that was allocated for `layout` has room for `size` bytes and not a page more.
pub(super) fn fits(block: *mut u8, layout: Layout, size: usize) -> bool {
    contains(block) && size >= LARGE && pages_for(size) == pages_for(layout.size())
}

/// Gives a block back.
///
/// # Safety
///
/// [`take`] returned it for this layout, and nobody uses it any more.
pub(super) unsafe fn give_back(block: *mut u8, layout: Layout) {
    if let Some(run) = Run::at(block.addr(), pages_for(layout.size())) {
        empty(run);
    }
}

/// Gets frames for a run, and maps them. Says whether there were enough.
fn fill(run: &Run) -> bool {
    let mut pages = run.pages();
    loop {
        let mut frames = [0; BATCH];
        // Numbers that no page of the linear mapping has.
        let mut count = 0_usize;
        for (frame, page) in frames.iter_mut().zip(pages.clone()) {
            *frame = LINEAR_FRAMES.saturating_add(page as u64);
            count = count.saturating_add(1);
        }
        let frames = frames.get_mut(..count).unwrap_or_default();
        if frames.is_empty() {
            return true;
        }
        let got = hypercall::domains::populate(DomId::SELF, frames, 0).unwrap_or(0);
        let got = usize::try_from(got).unwrap_or(0);
        for (n, &mut frame) in frames.iter_mut().take(got).enumerate() {
            let Some(page) = pages.next() else { break };
            let maddr = frame << PAGE_SIZE.trailing_zeros();
            // SAFETY: the frame is new and shown nowhere else, and at the page nothing is mapped.
            let mapped =
                unsafe { hypercall::update_va_mapping(window::address(page), Rights::Data.entry(maddr)) };
            if mapped.is_err() {
                // What is not mapped is not found again.
                let rest = frames.get(n..got).unwrap_or_default();
                // SAFETY: these frames are mapped nowhere.
                unsafe { release_all(rest) };
                return false;
            }
        }
        if got < count {
            return false;
        }
    }
}

/// Gives the frames of a run back, and the run.
fn empty(run: Run) {
    let mut frames = heapless::Vec::<u64, BATCH>::new();
    let mut is_empty = true;
    let flush = |frames: &mut heapless::Vec<u64, BATCH>| {
        // SAFETY: they were unmapped just now, and nobody uses what was there.
        unsafe { release_all(frames) };
        frames.clear();
    };
    for page in run.pages() {
        let Some(mfn) = window::shown(page) else { continue };
        // SAFETY: nobody uses the memory that was shown here.
        if unsafe { hypercall::update_va_mapping(window::address(page), 0) }.is_err() {
            log::error!("borrowed page {page} stays");
            is_empty = false;
            continue;
        }
        if frames.is_full() {
            flush(&mut frames);
        }
        // There is room.
        let _ = frames.push(mfn.raw());
    }
    flush(&mut frames);
    if is_empty {
        run.release();
    }
}
