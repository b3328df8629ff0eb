//! `sched_op`: yielding, blocking, polling, ending.

use super::{Answer, Call};
use crate::events::Port;
use crate::machine::Machine;
use crate::schedule::Rest;
use bulkhead_abi::Errno;
use bulkhead_abi::sched::{MAX_POLL_PORTS, Poll, Shutdown, ShutdownReason};
use heapless::Vec;

/// The most ports that one poll may name.
const POLLED: usize = MAX_POLL_PORTS as usize;

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
