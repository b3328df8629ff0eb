//! Frames that this domain gives back to the machine.

use bulkhead_abi::{
    DomId, Hypercall,
    memory::{MemoryOp, MemoryReservation},
};

use super::raw::{call2, input};

/// Gives frames of this domain's, by their machine numbers, back to the machine. Those that the hypervisor does not take are told in the log.
///
/// # Safety
///
/// The frames are mapped nowhere, and nobody counts on them.
pub(crate) unsafe fn release(frames: &[u64]) {
    if frames.is_empty() {
        return;
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
    if released != Ok(frames.len() as u64) {
        log::error!(
            "of {} frames given back the machine took {released:?}",
            frames.len()
        );
    }
}
