//! The frames that nobody uses.

use core::ops::Range;

use spin::Mutex;

use super::{
    bitmap::FrameMap,
    frame::{Mfn, Pfn, pages_for, to_usize},
    p2m,
};

static FRAMES: Mutex<FrameMap> = Mutex::new(FrameMap::empty());

/// Starts with the frames in `low` and `high`; the map itself takes the first frames of `high`.
///
/// # Safety
///
/// The frames must be mapped as data for the life of the guest and be nobody's.
pub(super) unsafe fn init([low, high]: [Range<u64>; 2]) {
    let words = FrameMap::words_for(to_usize(high.end));
    let map_end = high
        .start
        .saturating_add(pages_for(words.saturating_mul(size_of::<u64>())) as u64);
    let Some(map) = Pfn::new(high.start).filter(|_| map_end <= high.end) else {
        panic!("no memory for the frame map");
    };
    let map = core::ptr::with_exposed_provenance_mut::<u64>(map.address());
    // SAFETY: the pages from `map` to `map_end` hold `words` words; they are nobody's, and from now on the
    // map's alone. Any bits are a u64, and the map clears them first.
    let map = unsafe { core::slice::from_raw_parts_mut(map, words) };
    let mut frames = FrameMap::new(map);
    frames.release(to_usize(low.start)..to_usize(low.end));
    frames.release(to_usize(map_end)..to_usize(high.end));
    *FRAMES.lock() = frames;
}

/// Takes `count` neighbouring frames, which are mapped writable and hold anything.
pub(super) fn take(count: usize) -> Option<Pfn> {
    let first = FRAMES.lock().take_run(count)?;
    Pfn::new(first as u64)
}

/// Takes `count` frames as [`take`] does, whose machine frames are neighbours too. Memory of a kept extent is made of such runs.
pub(super) fn take_contiguous(count: usize) -> Option<Pfn> {
    let machine_frame = |frame: usize| p2m::machine_frame(Pfn::new(frame as u64)?).map(Mfn::raw);
    let continues = |frame: usize| {
        let before = frame.checked_sub(1).and_then(machine_frame);
        before.is_some_and(|before| machine_frame(frame) == before.checked_add(1))
    };
    let first = FRAMES.lock().take_run_if(count, continues)?;
    Pfn::new(first as u64)
}

/// Gives back one frame that was taken.
pub(super) fn release(pfn: Pfn) {
    FRAMES.lock().release(pfn.index()..pfn.index().saturating_add(1));
}

/// Number of free frames.
pub(super) fn free() -> usize {
    FRAMES.lock().free()
}
