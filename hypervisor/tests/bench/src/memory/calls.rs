//! Hypercalls that change mappings, and the one `unsafe` block behind all of them.
//!
//! **Soundness.** Which of these calls are harmless no type can say. The rule that every caller in [`super`] keeps instead, and
//! that a reader of it has to check: a call changes nothing but
//!
//! - records that are passed for the purpose, exclusively borrowed where the call writes them;
//! - [tables](super::frames) of the benchmark's own, of which Rust holds no reference;
//! - mappings of its frames, at addresses where Rust keeps nothing;
//! - the table that the domain runs on, to one that shows the same wherever Rust keeps something.

use bulkhead_abi::{
    DomId, Errno, Hypercall,
    errno::Failure,
    memory::{MemoryOp, MemoryReservation},
    mmu::{MmuExt, MmuExtOp, MmuUpdate, UVMF_NONE, VmAssistOp, VmAssistType},
    multicall::MulticallEntry,
};
use bulkhead_runtime::hypervisor::raw_call;

/// What a hypercall answers.
pub(crate) type Answer = Result<u64, Failure>;

const SELF: u64 = DomId::SELF.raw() as u64;

#[inline]
fn call(number: Hypercall, arguments: [u64; 5]) -> Answer {
    // SAFETY: the rule of the module, which all callers keep.
    Errno::from_register(unsafe { raw_call(number.raw(), arguments) })
}

/// The address that an argument carries for memory that the hypervisor reads.
fn input<T: ?Sized>(record: &T) -> u64 {
    core::ptr::from_ref(record).cast::<u8>().expose_provenance() as u64
}

/// The address that an argument carries for memory that the hypervisor writes.
fn in_out<T: ?Sized>(record: &mut T) -> u64 {
    core::ptr::from_mut(record).cast::<u8>().expose_provenance() as u64
}

/// Writes page-table entries, in order.
#[inline]
pub(super) fn mmu_update(updates: &[MmuUpdate]) -> Answer {
    call(
        Hypercall::MmuUpdate,
        [input(updates), updates.len() as u64, 0, SELF, 0],
    )
}

/// An element of a multicall that writes one page-table entry.
pub(super) fn mmu_update_element(update: &MmuUpdate) -> MulticallEntry {
    MulticallEntry {
        op: Hypercall::MmuUpdate.raw(),
        result: -1,
        args: [input(update), 1, 0, SELF, 0, 0],
    }
}

/// An element of a multicall that writes the level-1 entry of the page at `address`, and flushes nothing.
pub(super) fn update_va_mapping_element(address: u64, entry: u64) -> MulticallEntry {
    MulticallEntry {
        op: Hypercall::UpdateVaMapping.raw(),
        result: -1,
        args: [address, entry, UVMF_NONE, 0, 0, 0],
    }
}

/// Makes a list of calls.
#[inline]
pub(crate) fn multicall(list: &mut [MulticallEntry]) -> Answer {
    call(Hypercall::Multicall, [in_out(list), list.len() as u64, 0, 0, 0])
}

/// Writes the level-1 entry of the page at `address`; `flush` is a combination of `UVMF_*`.
#[inline]
pub(super) fn update_va_mapping(address: u64, entry: u64, flush: u64) -> Answer {
    call(Hypercall::UpdateVaMapping, [address, entry, flush, 0, 0])
}

/// Makes one request of `mmuext_op`, about the table in frame `mfn`.
#[inline]
pub(super) fn extended(op: MmuExtOp, mfn: u64) -> Answer {
    let request = MmuExt {
        cmd: op.raw(),
        arg1: mfn,
        arg2: 0,
    };
    call(Hypercall::MmuextOp, [input(&request), 1, 0, SELF, 0])
}

/// Gives frames back, or takes frames. `list` has the machine frames, or the page numbers which are overwritten with
/// machine frames; answers how many were done.
#[inline]
pub(super) fn reserve(op: MemoryOp, list: &mut [u64]) -> Answer {
    let reservation = MemoryReservation {
        extent_start: in_out(list),
        nr_extents: list.len() as u64,
        extent_order: 0,
        mem_flags: 0,
        domid: DomId::SELF,
    };
    call(
        Hypercall::MemoryOp,
        [u64::from(op.raw()), input(&reservation), 0, 0, 0],
    )
}

/// Asks that stores into level-1 tables be emulated.
pub(super) fn enable_writable_tables() -> Answer {
    call(
        Hypercall::VmAssist,
        [
            u64::from(VmAssistOp::Enable.raw()),
            u64::from(VmAssistType::WritablePagetables.raw()),
            0,
            0,
            0,
        ],
    )
}
