//! `sched_op`: yielding, blocking, polling, ending; and `sched_op_compat`, the old form of some of it.

use super::{Answer, Call, domains};
use crate::events::Port;
use crate::ids::CpuId;
use crate::machine::Machine;
use crate::sched::CpuSet;
use crate::schedule::{Rest, WatchdogError};
use bulkhead_abi::Errno;
use bulkhead_abi::sched::{
    MAX_POLL_PORTS, PinOverride, Poll, RemoteShutdown, Shutdown, ShutdownReason, Watchdog,
};
use core::num::NonZeroU32;
use heapless::Vec;

/// The most ports that one poll may name.
const POLLED: usize = MAX_POLL_PORTS as usize;

impl From<WatchdogError> for Errno {
    fn from(error: WatchdogError) -> Self {
        match error {
            WatchdogError::Missing => Self::Inval,
            WatchdogError::TooMany => Self::NoSpc,
        }
    }
}

pub(super) fn yield_now<M: Machine>(call: &mut Call<'_, M>) -> Answer {
    call.current.rest = Some(Rest::Yield);
    Ok(0)
}

pub(super) fn block<M: Machine>(call: &mut Call<'_, M>) -> Answer {
    let vcpu = call.vcpu()?;
    call.hv.with_info(vcpu, |info| info.unmask_upcalls());
    call.hv.block(call.current);
    Ok(0)
}

pub(super) fn shutdown<M: Machine>(call: &mut Call<'_, M>) -> Answer {
    let reason = reason(call)?;
    call.hv.end(call.current, reason);
    Ok(0)
}

/// The old form: the argument is the reason.
pub(super) fn shutdown_by_argument<M: Machine>(call: &mut Call<'_, M>) -> Answer {
    let reason = ShutdownReason::from_raw(call.arg32::<1>()).ok_or(Errno::Inval)?;
    call.hv.end(call.current, reason);
    Ok(0)
}

/// The control domain ends another.
pub(super) fn remote_shutdown<M: Machine>(call: &mut Call<'_, M>) -> Answer {
    if !call.domain().is_control() {
        return Err(Errno::Perm);
    }
    let RemoteShutdown { domain, reason } = call.read(call.arg::<1>())?;
    let reason = ShutdownReason::from_raw(reason).ok_or(Errno::Inval)?;
    // As a visitor: were it destroyed meanwhile, the rest would be done to a successor with its number.
    let visit = domains::visit_other(call, domain)?;
    call.hv.shut_down(visit.domain(), reason);
    Ok(0)
}

/// Makes, winds up or takes away a watchdog of the caller's. One that is made must have a time: without, there is nothing to take away.
pub(super) fn watchdog<M: Machine>(call: &mut Call<'_, M>) -> Answer {
    let Watchdog { id, timeout_s } = call.read(call.arg::<1>())?;
    let timeout = NonZeroU32::new(timeout_s);
    let made = call.hv.set_watchdog(call.domain(), call.vcpu()?, id, timeout)?;
    Ok(made.into())
}

/// Keeps the calling vCPU of the control domain on one CPU, or no longer.
pub(super) fn pin_override<M: Machine>(call: &mut Call<'_, M>) -> Answer {
    if !call.domain().is_control() {
        return Err(Errno::Perm);
    }
    let PinOverride { pcpu } = call.read(call.arg::<1>())?;
    let cpu = u32::try_from(pcpu).ok().map(CpuId::new);
    let vcpu = call.vcpu()?;
    if cpu.is_some_and(|cpu| !call.hv.has_cpu_in(CpuSet::only(cpu))) {
        return Err(Errno::Inval);
    }
    match (vcpu.pin(), cpu) {
        (Some(_), Some(_)) => return Err(Errno::Busy),
        (None, None) => return Err(Errno::Inval),
        (Some(_), None) | (None, Some(_)) => call.hv.pin(call.domain(), vcpu, cpu),
    }
    Ok(0)
}

/// The domain only says why it will end; it goes on.
pub(super) fn shutdown_code<M: Machine>(call: &mut Call<'_, M>) -> Answer {
    let reason = reason(call)?;
    log::info!(
        "domain {} ({}) is about to end: {reason}",
        call.domain().id.raw(),
        call.domain().name
    );
    Ok(0)
}

fn reason<M: Machine>(call: &Call<'_, M>) -> Result<ShutdownReason, Errno> {
    let Shutdown { reason } = call.read(call.arg::<1>())?;
    ShutdownReason::from_raw(reason).ok_or(Errno::Inval)
}

pub(super) fn poll<M: Machine>(call: &mut Call<'_, M>) -> Answer {
    let Poll {
        ports,
        nr_ports,
        timeout_abs_ns,
    } = call.read(call.arg::<1>())?;
    if nr_ports > MAX_POLL_PORTS {
        return Err(Errno::Inval);
    }
    let mut polled = Vec::<Port, POLLED>::new();
    for n in 0..u64::from(nr_ports) {
        let port = call.read::<u32>(ports.wrapping_add(n.wrapping_mul(4)))?;
        // There is room for as many as were let through.
        let _ = polled.push(Port::new(port)?);
    }
    let timeout = (timeout_abs_ns != 0).then_some(timeout_abs_ns);
    call.hv.poll(call.current, &polled, timeout);
    Ok(0)
}
