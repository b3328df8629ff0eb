//! `sched_op` and the vCPU's timers.

use bulkhead_abi::{
    Hypercall,
    errno::Failure,
    sched::{Poll, SchedOp, Shutdown, ShutdownReason},
    vcpu::{SetSingleshotTimer, VcpuOp},
};

use super::raw::{Answer, call2, call3, input};
use crate::time::Instant;

/// The vCPU that has the timer of the [executor](crate::executor).
const VCPU: u64 = 0;

/// Unmasks event delivery and sleeps until an event can be delivered, in one step.
pub(crate) fn block() {
    // SAFETY: takes no argument. The upcall that may come out of it preserves all registers and memory.
    let _: Answer = unsafe { call2(Hypercall::SchedOp, u64::from(SchedOp::Block.raw()), 0) };
}

/// Sleeps until `port`, which may be masked, is pending, another event can be delivered, or `ns` nanoseconds have passed.
pub(crate) fn poll(port: u32, ns: u64) {
    let ports = [port];
    let record = Poll {
        ports: input(&ports),
        nr_ports: 1,
        timeout_abs_ns: Instant::now().as_nanos().saturating_add(ns),
    };
    // SAFETY: the hypervisor reads the record and the list, both borrowed for the call.
    let _: Answer = unsafe { call2(Hypercall::SchedOp, u64::from(SchedOp::Poll.raw()), input(&record)) };
}

/// Lets another vCPU run on this CPU, if one wants to.
#[inline]
pub(crate) fn yield_cpu() {
    // SAFETY: takes no argument.
    let _: Answer = unsafe { call2(Hypercall::SchedOp, u64::from(SchedOp::Yield.raw()), 0) };
}

/// Ends the domain.
pub(crate) fn shutdown(reason: ShutdownReason) -> ! {
    let record = Shutdown { reason: reason.raw() };
    loop {
        // SAFETY: the record is borrowed for the call. It does not return, except from a suspension, which
        // the loop turns into another attempt to stop.
        let _: Answer = unsafe {
            call2(
                Hypercall::SchedOp,
                u64::from(SchedOp::Shutdown.raw()),
                input(&record),
            )
        };
    }
}

/// Stops the tick that a new vCPU may have.
pub(crate) fn stop_periodic_timer() -> Result<(), Failure> {
    // SAFETY: takes no memory.
    unsafe {
        call3(
            Hypercall::VcpuOp,
            u64::from(VcpuOp::StopPeriodicTimer.raw()),
            VCPU,
            0,
        )
    }
    .map(|_| ())
}

/// Raises the timer interrupt at system time `deadline_ns`, once, instead of at any earlier set time. A time
/// in the past is now.
pub(crate) fn set_singleshot_timer(deadline_ns: u64) -> Result<(), Failure> {
    let record = SetSingleshotTimer {
        timeout_abs_ns: deadline_ns,
        flags: 0,
    };
    // SAFETY: the record is the operation's own, borrowed for the call.
    unsafe {
        call3(
            Hypercall::VcpuOp,
            u64::from(VcpuOp::SetSingleshotTimer.raw()),
            VCPU,
            input(&record),
        )
    }
    .map(|_| ())
}

/// Whether the vCPU with this number runs; an error if there is none.
pub(crate) fn is_vcpu_up(vcpu: u64) -> Result<bool, Failure> {
    // SAFETY: takes no memory.
    unsafe { call3(Hypercall::VcpuOp, u64::from(VcpuOp::IsUp.raw()), vcpu, 0) }.map(|up| up != 0)
}
