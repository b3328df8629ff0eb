//! `grant_table_op`, each operation with a list of records.

use bulkhead_abi::{
    DomId, Hypercall, Record,
    errno::Failure,
    grant::{Flip, GrantCopy, GrantStatus, GrantTableOp, MapGrantRef, QuerySize, SetupTable, UnmapGrantRef},
};

use super::raw::{call3, in_out};

/// Works off a list of the operation's records, each of which is given its outcome.
///
/// # Safety
///
/// The caller answers for what the records say, as for [`call3`].
unsafe fn operate<T: Record>(op: GrantTableOp, list: &mut [T]) -> Result<(), Failure> {
    if list.is_empty() {
        return Ok(());
    }
    // SAFETY: the list is borrowed for the call, and has as many records as it says (which fit the call's 32 bits: they are in memory).
    // What they say is the caller's.
    unsafe {
        call3(
            Hypercall::GrantTableOp,
            u64::from(op.raw()),
            in_out(list),
            list.len() as u64,
        )
    }
    .map(|_| ())
}

/// How many frames this domain's table may have.
pub(crate) fn table_limit() -> Result<u32, Failure> {
    let mut record = QuerySize {
        dom: DomId::SELF,
        ..QuerySize::ZERO
    };
    // SAFETY: the operation takes no other memory.
    unsafe { operate(GrantTableOp::QuerySize, core::slice::from_mut(&mut record)) }?;
    Ok(record.max_nr_frames)
}

/// Gives this domain's table as many frames as `frames` has room for, and fills in their numbers.
pub(crate) fn setup_table(frames: &mut [u64]) -> Result<Option<GrantStatus>, Failure> {
    let mut record = SetupTable {
        dom: DomId::SELF,
        nr_frames: u32::try_from(frames.len()).unwrap_or(u32::MAX),
        frame_list: in_out(frames),
        ..SetupTable::ZERO
    };
    // SAFETY: the hypervisor writes as many numbers as it is told there is room for, into a slice that is borrowed for the call.
    unsafe { operate(GrantTableOp::SetupTable, core::slice::from_mut(&mut record)) }?;
    Ok(GrantStatus::from_raw(record.status))
}

/// Maps grants.
///
/// # Safety
///
/// Where a grant is to be mapped in our page tables nothing may be mapped that Rust relies on.
pub(crate) unsafe fn map(list: &mut [MapGrantRef]) -> Result<(), Failure> {
    // SAFETY: the caller's promise.
    unsafe { operate(GrantTableOp::MapGrantRef, list) }
}

/// Unmaps grants.
///
/// # Safety
///
/// Nobody may rely on these mappings any more.
pub(crate) unsafe fn unmap(list: &mut [UnmapGrantRef]) -> Result<(), Failure> {
    // SAFETY: the caller's promise.
    unsafe { operate(GrantTableOp::UnmapGrantRef, list) }
}

/// Copies between frames.
///
/// # Safety
///
/// Frames of our own that are written must be borrowed exclusively for the call, as far as they are written; those that are read, shared.
pub(crate) unsafe fn copy(list: &mut [GrantCopy]) -> Result<(), Failure> {
    // SAFETY: the caller's promise.
    unsafe { operate(GrantTableOp::Copy, list) }
}

/// Exchanges frames of our own for those that other domains offer.
///
/// # Safety
///
/// Nobody may rely on what the frames hold, nor on their being the domain's.
pub(crate) unsafe fn flip(list: &mut [Flip]) -> Result<(), Failure> {
    // SAFETY: the caller's promise; a frame that is mapped anywhere is refused.
    unsafe { operate(GrantTableOp::Flip, list) }
}
