//! Frames given back to the machine, and frames taken from it: what a balloon driver does.

use alloc::vec::Vec;
use bulkhead_abi::memory::MemoryOp;
use bulkhead_abi::pte::L1_SHIFT;

use super::calls::reserve;
use super::frames::{Frame, WRITABLE};
use super::must;
use crate::measure::{Half, measure_turns};

/// Frames in a batch.
const BATCH: usize = 64;
/// Batches, and single frames, in a run.
const TURNS: u64 = 50;

/// Measures both, of one frame and of a batch.
pub(super) fn measure_all() {
    measure_of(["decrease-reservation", "populate-physmap"], 1);
    measure_of(["decrease-reservation-of-64", "populate-physmap-of-64"], BATCH);
}

fn measure_of([decrease, populate]: [&str; 2], count: usize) {
    let frames = Frame::several(count);
    // A frame that is mapped somewhere cannot be given back.
    frames.iter().for_each(|frame| frame.remap(0));
    let pfns: Vec<u64> = frames.iter().map(Frame::pfn).collect();
    let list = core::cell::RefCell::new(frames.iter().map(Frame::mfn).collect::<Vec<u64>>());
    measure_turns(
        TURNS,
        count as u64,
        Half {
            name: decrease,
            operation: || {
                let mut list = list.borrow_mut();
                let done = must(reserve(MemoryOp::DecreaseReservation, &mut list));
                assert_eq!(done, count as u64, "not all frames were taken");
                list.copy_from_slice(&pfns);
            },
        },
        Half {
            name: populate,
            operation: || {
                let done = must(reserve(MemoryOp::PopulatePhysmap, &mut list.borrow_mut()));
                assert_eq!(done, count as u64, "not all frames were given");
            },
        },
    );
    // The frames that came last are the domain's: its pages show them again.
    for (frame, mfn) in frames.iter().zip(list.into_inner()) {
        frame.remap(mfn << L1_SHIFT | WRITABLE);
    }
}
