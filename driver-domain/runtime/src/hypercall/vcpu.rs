//! `vcpu_op`, as far as it is not about timers.

use bulkhead_abi::{
    Hypercall, Record,
    errno::Failure,
    vcpu::{RunstateInfo, VcpuOp},
};

use super::raw::{call3, in_out};

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
