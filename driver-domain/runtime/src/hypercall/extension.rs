//! `extension_op`: Bulkhead's own calls for any guest.

use bulkhead_abi::{
    Hypercall, Record,
    errno::Failure,
    extension::{DMA_LIST, DmaRange, ExtensionOp, VcpuCosts},
};

use super::raw::{Answer, call1, call2, call3, in_out, input};

/// Which extensions there are, a bit each.
pub(crate) fn features() -> Answer {
    // SAFETY: the operation takes no memory.
    unsafe { call1(Hypercall::ExtensionOp, u64::from(ExtensionOp::Features.raw())) }
}

/// What this vCPU has cost.
pub(crate) fn vcpu_costs() -> Result<VcpuCosts, Failure> {
    let mut record = VcpuCosts::ZERO;
    // SAFETY: the hypervisor writes the operation's own record, which is borrowed for the call.
    unsafe {
        call2(
            Hypercall::ExtensionOp,
            u64::from(ExtensionOp::VcpuCosts.raw()),
            in_out(&mut record),
        )
    }
    .map(|_| record)
}

/// Sets the direct gate of a vector, or takes it away (address 0).
///
/// # Safety
///
/// `address` must be 0 or an entry point that takes the processor's frame and returns to the interrupted code with all registers as the
/// code there expects.
pub(crate) unsafe fn set_direct_gate(vector: u8, address: u64) -> Result<(), Failure> {
    // SAFETY: the operation takes no memory; the entry point is the caller's.
    unsafe {
        call3(
            Hypercall::ExtensionOp,
            u64::from(ExtensionOp::SetDirectGate.raw()),
            u64::from(vector),
            address,
        )
    }
    .map(|_| ())
}

/// Sets the alarm on this vCPU's virtual time, or takes it back (0).
pub(crate) fn set_virtual_alarm(at_ns: u64) -> Result<(), Failure> {
    // SAFETY: the operation takes no memory.
    unsafe {
        call2(
            Hypercall::ExtensionOp,
            u64::from(ExtensionOp::SetVirtualAlarm.raw()),
            at_ns,
        )
    }
    .map(|_| ())
}

/// Pins frames for devices, or unpins them. The range says afterwards what is left to be done. Its list, if it has one, is memory that the hypervisor only reads.
pub(crate) fn dma_pins(op: ExtensionOp, range: &mut DmaRange) -> Result<(), Failure> {
    // SAFETY: the record is borrowed for the call. No mapping changes; what devices do with the frames is told them by others.
    unsafe { call2(Hypercall::ExtensionOp, u64::from(op.raw()), in_out(range)) }.map(|_| ())
}

/// As [`dma_pins`], of frames in a list. Returns how many are done.
pub(crate) fn dma_pins_of(op: ExtensionOp, frames: &[u64]) -> (Result<(), Failure>, usize) {
    let mut range = DmaRange {
        first: input(frames),
        count: frames.len() as u64,
        flags: DMA_LIST,
        reserved: 0,
    };
    let result = dma_pins(op, &mut range);
    let left = usize::try_from(range.count).unwrap_or(usize::MAX);
    (result, frames.len().saturating_sub(left))
}
