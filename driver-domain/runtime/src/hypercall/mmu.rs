//! Page-table hypercalls.

use bulkhead_abi::{
    DomId, Hypercall,
    errno::Failure,
    mmu::{MmuExt, MmuExtOp, MmuUpdate, UVMF_INVLPG, UVMF_LOCAL},
};

use super::raw::{call3, call4, input};
use crate::memory::Mfn;

/// Writes page-table entries, in order, until one is refused.
///
/// # Safety
///
/// No page that Rust uses may lose its frame or the rights that Rust needs on it, and no two writable
/// mappings of one frame may come to overlap what Rust takes for separate memory.
pub(crate) unsafe fn mmu_update(updates: &[MmuUpdate]) -> Result<(), Failure> {
    // SAFETY: the hypervisor reads the updates from a borrowed slice (their number fits the 31 bits that the
    // call has for it: they are in memory); done is not asked for. What the updates do is the caller's.
    unsafe {
        call4(
            Hypercall::MmuUpdate,
            input(updates),
            updates.len() as u64,
            0,
            u64::from(DomId::SELF.raw()),
        )
    }
    .map(|_| ())
}

/// Writes the level-1 entry of `address` and forgets what this vCPU has cached of it.
///
/// # Safety
///
/// As [`mmu_update`].
pub(crate) unsafe fn update_va_mapping(address: usize, entry: u64) -> Result<(), Failure> {
    // SAFETY: the call takes no memory; what the entry does is the caller's.
    unsafe {
        call3(
            Hypercall::UpdateVaMapping,
            address as u64,
            entry,
            UVMF_INVLPG | UVMF_LOCAL,
        )
    }
    .map(|_| ())
}

/// Forgets all translations that this vCPU has cached.
pub(crate) fn flush_local_tlb() -> Result<(), Failure> {
    // SAFETY: a flush changes no mapping.
    unsafe { extended(MmuExtOp::TlbFlushLocal, 0) }
}

/// Sets the level-4 table of this vCPU's programs, or takes it away.
pub(crate) fn set_user_root(root: Option<Mfn>) -> Result<(), Failure> {
    // SAFETY: the kernel's mappings stay as they are. A frame that Rust can write is refused.
    unsafe { extended(MmuExtOp::NewUserBaseptr, root.map_or(0, Mfn::raw)) }
}

/// Makes one request of `mmuext_op`.
///
/// # Safety
///
/// As [`mmu_update`].
unsafe fn extended(op: MmuExtOp, arg1: u64) -> Result<(), Failure> {
    let operation = MmuExt {
        cmd: op.raw(),
        arg1,
        arg2: 0,
    };
    // SAFETY: the hypervisor reads one record that is borrowed for the call; what it does is the caller's.
    unsafe {
        call4(
            Hypercall::MmuextOp,
            input(&operation),
            1,
            0,
            u64::from(DomId::SELF.raw()),
        )
    }
    .map(|_| ())
}
