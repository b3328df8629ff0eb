//! Frames that this domain gives back to the machine.

use bulkhead_abi::{
    DomId, Hypercall,
    memory::{MemoryOp, MemoryReservation},
};

use super::raw::{call2, input};

/// Gives frames of this domain's, by their machine numbers, back to the machine. Returns how many went, from the first on, before one was
/// refused.
///
/// # Safety
///
/// The frames are mapped nowhere, and nobody counts on them.
pub(crate) unsafe fn release(frames: &[u64]) -> usize {
    if frames.is_empty() {
        return 0;
    }
    let reservation = MemoryReservation {
        extent_start: input(frames),
        nr_extents: frames.len() as u64,
        extent_order: 0,
        mem_flags: 0,
        domid: DomId::SELF,
    };
    // SAFETY: the hypervisor reads the reservation and the list, both borrowed for the call. That the frames go is the caller's doing.
    let released = unsafe {
        call2(
            Hypercall::MemoryOp,
            u64::from(MemoryOp::DecreaseReservation.raw()),
            input(&reservation),
        )
    };
    usize::try_from(released.unwrap_or(0)).unwrap_or(0)
}

/// Gives all of them back that the machine takes; of those that it refuses, which stay this domain's, the log tells.
///
/// # Safety
///
/// As [`release`].
pub(crate) unsafe fn release_all(frames: &[u64]) {
    let mut rest = frames;
    while !rest.is_empty() {
        // SAFETY: the caller's promise.
        let released = unsafe { release(rest) };
        rest = rest.get(released..).unwrap_or_default();
        if let Some((refused, others)) = rest.split_first() {
            log::error!("the machine does not take frame {refused:#x} back");
            rest = others;
        }
    }
}
