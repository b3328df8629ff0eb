//! `extension_op`: frames of its own that a domain lets its devices reach. See [`crate::dma`].
//!
//! The record says what is left to be done, and is written back after each go.

use super::{Answer, Call};
use crate::frames::Mfn;
use crate::grants::Rights;
use crate::machine::Machine;
use crate::paging::Work;
use bulkhead_abi::Errno;
use bulkhead_abi::extension::{DMA_READ_ONLY, DmaRange};

/// What pinning or unpinning a frame is worth, in entries looked at.
const FRAME_WORTH: u32 = 4;

/// How many frames are unpinned with one flush.
const BATCH: usize = 32;

/// The first frame that is left to be done.
fn first(range: &DmaRange) -> Result<Mfn, Errno> {
    Mfn::new(range.first).ok_or(Errno::Inval)
}

/// One frame less is left to be done.
const fn advance(range: &mut DmaRange) {
    range.first = range.first.wrapping_add(1);
    range.count = range.count.saturating_sub(1);
}

/// Ends a go that has come so far, and may have come to an error.
fn end<M: Machine>(call: &Call<'_, M>, at: u64, range: &DmaRange, result: Result<(), Errno>) -> Answer {
    call.write(at, range)?;
    match result {
        Ok(()) if range.count == 0 => Ok(0),
        Ok(()) => Call::<M>::restart(),
        Err(error) => Err(error),
    }
}

pub(super) fn pin<M: Machine>(call: &mut Call<'_, M>) -> Answer {
    let at = call.arg::<1>();
    let mut range: DmaRange = call.read(at)?;
    let rights = match range.flags {
        0 => Rights::ReadWrite,
        DMA_READ_ONLY => Rights::ReadOnly,
        _ => return Err(Errno::Inval),
    };
    if range.reserved != 0 {
        return Err(Errno::Inval);
    }
    // Before there is anything to tell of: that it can be told is seen to by telling it.
    call.write(at, &range)?;
    let mut work = Work::portion();
    let mut result = Ok(());
    while range.count != 0 && result.is_ok() && !work.is_over() {
        let memory = &call.hv.memory;
        result =
            first(&range).and_then(|frame| memory.pin_for_devices(call.domain(), frame, rights, &mut work));
        if result.is_ok() {
            advance(&mut range);
        }
        work.spend(FRAME_WORTH);
    }
    end(call, at, &range, result)
}

pub(super) fn unpin<M: Machine>(call: &mut Call<'_, M>) -> Answer {
    let at = call.arg::<1>();
    let mut range: DmaRange = call.read(at)?;
    if range.flags != 0 || range.reserved != 0 {
        return Err(Errno::Inval);
    }
    call.write(at, &range)?;
    let memory = &call.hv.memory;
    let mut batch = heapless::Vec::<(Mfn, Rights), BATCH>::new();
    let mut must_flush = false;
    let mut result = Ok(());
    while range.count != 0 && result.is_ok() && !batch.is_full() {
        let unpinned = first(&range).and_then(|frame| {
            let (rights, is_stale) = memory.begin_unpin(call.domain(), frame)?;
            must_flush |= is_stale;
            // There is room: it was not full.
            let _ = batch.push((frame, rights));
            Ok(())
        });
        result = unpinned;
        if result.is_ok() {
            advance(&mut range);
        }
    }
    if must_flush && !mutant!(UnpinnedWithoutDmaFlush) {
        call.hv.machine().flush_dma(call.domain().id);
    }
    for (frame, rights) in batch {
        memory.let_go(frame, rights, &mut Work::portion());
    }
    end(call, at, &range, result)
}
