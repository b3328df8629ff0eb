//! Virtual time: how a vCPU's time is divided between running, waiting for a CPU, and sleeping.

use bulkhead_abi::errno::Failure;
pub use bulkhead_abi::vcpu::{Runstate, RunstateInfo};

use crate::hypercall;

/// What vCPU `vcpu` of this domain does, since when in system time, and for how many nanoseconds it has done each thing in
/// all, this one up to now. The totals add up to the vCPU's age; what other domains took of its time is in the second.
///
/// # Errors
///
/// `ENOENT` if the domain has no such vCPU.
pub fn runstate(vcpu: u32) -> Result<RunstateInfo, Failure> {
    hypercall::runstate(vcpu)
}
