//! `extension_op`: frames of its own that a domain lets its devices reach. See [`crate::dma`].
//!
//! The record says what is left to be done, and is written back after each go.

use super::{Answer, Call};
use crate::frames::Mfn;
use crate::grants::Rights;
use crate::machine::Machine;
use crate::paging::Work;
use bulkhead_abi::Errno;
use bulkhead_abi::extension::{DMA_LIST, DMA_READ_ONLY, DmaRange};

/// What pinning or unpinning a frame is worth, in entries looked at.
const FRAME_WORTH: u32 = 4;

/// How many frames are unpinned with one flush.
const BATCH: usize = 32;

/// Reads the caller's record, which may have these flags, and sees to it that how far the call comes can be told.
fn begin<M: Machine>(call: &Call<'_, M>, at: u64, flags: u32) -> Result<DmaRange, Errno> {
    let range: DmaRange = call.read(at)?;
    if range.flags & !flags != 0 || range.reserved != 0 {
        return Err(Errno::Inval);
    }
    // Before there is anything to tell of: that it can be told is seen to by telling it.
    call.write(at, &range)?;
    Ok(range)
}

/// The first frame that is left to be done.
fn first<M: Machine>(call: &Call<'_, M>, range: &DmaRange) -> Result<Mfn, Errno> {
    let number = match range.flags & DMA_LIST {
        0 => range.first,
        _ => call.read(range.first)?,
    };
    Mfn::new(number).ok_or(Errno::Inval)
}

/// One frame less is left to be done.
const fn advance(range: &mut DmaRange) {
    let step = match range.flags & DMA_LIST {
        0 => 1,
        _ => size_of::<u64>() as u64,
    };
    range.first = range.first.wrapping_add(step);
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
    let mut range = begin(call, at, DMA_READ_ONLY | DMA_LIST)?;
    let rights = match range.flags & DMA_READ_ONLY {
        0 => Rights::ReadWrite,
        _ => Rights::ReadOnly,
    };
    let mut work = Work::portion();
    let mut result = Ok(());
    while range.count != 0 && result.is_ok() && !work.is_over() {
        let memory = &call.hv.memory;
        result = first(call, &range)
            .and_then(|frame| memory.pin_for_devices(call.domain(), frame, rights, &mut work));
        if result.is_ok() {
            advance(&mut range);
        }
        work.spend(FRAME_WORTH);
    }
    end(call, at, &range, result)
}

pub(super) fn unpin<M: Machine>(call: &mut Call<'_, M>) -> Answer {
    let at = call.arg::<1>();
    let mut range = begin(call, at, DMA_LIST)?;
    let memory = &call.hv.memory;
    let mut batch = heapless::Vec::<(Mfn, Rights), BATCH>::new();
    let mut must_flush = false;
    let mut result = Ok(());
    while range.count != 0 && result.is_ok() && !batch.is_full() {
        let unpinned = first(call, &range).and_then(|frame| {
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
