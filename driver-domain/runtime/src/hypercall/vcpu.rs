//! `vcpu_op`, as far as it is not about timers.

use bulkhead_abi::{
    Hypercall, Record,
    errno::Failure,
    vcpu::{RunstateInfo, VcpuGuestContext, VcpuOp},
};

use super::raw::{call3, in_out, input};

/// What a vCPU of this domain does, and how it has spent its time.
pub(crate) fn runstate(vcpu: u32) -> Result<RunstateInfo, Failure> {
    let mut record = RunstateInfo::ZERO;
    // SAFETY: the hypervisor writes the operation's own record, which is borrowed for the call.
    unsafe {
        call3(
            Hypercall::VcpuOp,
            u64::from(VcpuOp::GetRunstateInfo.raw()),
            u64::from(vcpu),
            in_out(&mut record),
        )
    }
    .map(|_| record)
}

/// Gives a vCPU that never ran its first state.
///
/// # Safety
///
/// With that state the vCPU must run code, on a stack and on tables, as Rust expects it of another thread; what the state names as
/// entry points must be ones.
pub(crate) unsafe fn initialise_vcpu(vcpu: u32, context: &VcpuGuestContext) -> Result<(), Failure> {
    // SAFETY: the record is the operation's own, borrowed for the call. What the vCPU does is the caller's affair.
    unsafe {
        call3(
            Hypercall::VcpuOp,
            u64::from(VcpuOp::Initialise.raw()),
            u64::from(vcpu),
            input(context),
        )
    }
    .map(|_| ())
}

/// Lets a vCPU run that has a state.
pub(crate) fn vcpu_up(vcpu: u32) -> Result<(), Failure> {
    // SAFETY: takes no memory. What the vCPU does was answered for when it got its state.
    unsafe { call3(Hypercall::VcpuOp, u64::from(VcpuOp::Up.raw()), u64::from(vcpu), 0) }.map(|_| ())
}

/// Takes a vCPU down.
pub(crate) fn vcpu_down(vcpu: u32) -> Result<(), Failure> {
    // SAFETY: takes no memory.
    unsafe {
        call3(
            Hypercall::VcpuOp,
            u64::from(VcpuOp::Down.raw()),
            u64::from(vcpu),
            0,
        )
    }
    .map(|_| ())
}
