//! `vcpu_op` and `set_timer_op`: what a guest does with its processors.

use super::{Answer, Call};
use crate::ids::VcpuId;
use crate::machine::Machine;
use crate::time::Purpose;
use crate::vcpu::Vcpu;
use bulkhead_abi::Errno;
use bulkhead_abi::vcpu::{MIN_PERIODIC_TIMER_NS, SINGLESHOT_FUTURE, SetPeriodicTimer, SetSingleshotTimer};
use core::num::NonZeroU64;

/// A deadline further away than this is taken for a mistake of the guest's clock, and comes early instead of never.
const IMPLAUSIBLE_NS: u64 = 1 << 50;

/// What such a deadline is shortened to.
const SHORT_NS: u64 = 100_000_000;

/// Lets a vCPU run that has a state.
pub(super) fn up<M: Machine>(call: &mut Call<'_, M>) -> Answer {
    let vcpu = named(call)?;
    let started = call.hv.bring_up(call.domain(), vcpu);
    started.map(|()| 0).map_err(|_| Errno::Inval)
}

/// Takes a vCPU down, the caller perhaps: then it goes on here when it is brought up again.
pub(super) fn down<M: Machine>(call: &mut Call<'_, M>) -> Answer {
    let vcpu = named(call)?;
    call.hv.take_down(call.domain(), vcpu);
    Ok(0)
}

pub(super) fn is_up<M: Machine>(call: &mut Call<'_, M>) -> Answer {
    Ok(u64::from(named(call)?.is_up()))
}

/// How the vCPU has spent its time.
pub(super) fn get_runstate_info<M: Machine>(call: &mut Call<'_, M>) -> Answer {
    let vcpu = named(call)?;
    let info = vcpu.history.lock().info(call.hv.machine().now());
    call.write(call.arg::<2>(), &info)?;
    Ok(0)
}

/// Lets the vCPU have a timer interrupt again and again. It begins with none.
pub(super) fn set_periodic_timer<M: Machine>(call: &mut Call<'_, M>) -> Answer {
    let vcpu = named(call)?;
    let SetPeriodicTimer { period_ns } = call.read(call.arg::<2>())?;
    let period = NonZeroU64::new(period_ns)
        .filter(|_| (MIN_PERIODIC_TIMER_NS..=IMPLAUSIBLE_NS).contains(&period_ns))
        .ok_or(Errno::Inval)?;
    call.hv.set_period(call.domain(), call.vcpu()?, vcpu, period);
    Ok(0)
}

pub(super) fn stop_periodic_timer<M: Machine>(call: &mut Call<'_, M>) -> Answer {
    call.hv.stop_period(call.domain(), named(call)?);
    Ok(0)
}

/// Sends the vCPU a non-maskable interrupt.
pub(super) fn send_nmi<M: Machine>(call: &mut Call<'_, M>) -> Answer {
    call.hv.send_nmi(call.domain(), named(call)?);
    Ok(0)
}

/// Which physical CPU a vCPU is bound to for good: none is, as whoever controls the machine may move any.
pub(super) fn get_physid<M: Machine>(call: &mut Call<'_, M>) -> Answer {
    named(call)?;
    Err(Errno::Inval)
}

pub(super) fn set_singleshot_timer<M: Machine>(call: &mut Call<'_, M>) -> Answer {
    let vcpu = own(call)?;
    let timer: SetSingleshotTimer = call.read(call.arg::<2>())?;
    if timer.flags & SINGLESHOT_FUTURE != 0 && timer.timeout_abs_ns < call.hv.machine().now() {
        return Err(Errno::Time);
    }
    call.hv
        .set_deadline(call.domain(), vcpu, Purpose::Timer, timer.timeout_abs_ns);
    Ok(0)
}

pub(super) fn stop_singleshot_timer<M: Machine>(call: &mut Call<'_, M>) -> Answer {
    let vcpu = own(call)?;
    call.hv.cancel_deadline(call.domain(), vcpu, Purpose::Timer);
    Ok(0)
}

pub(super) fn set_timer_op<M: Machine>(call: &mut Call<'_, M>) -> Answer {
    let (domain, vcpu) = (call.domain(), call.vcpu()?);
    match call.arg::<0>() {
        0 => call.hv.cancel_deadline(domain, vcpu, Purpose::Timer),
        at => {
            let now = call.hv.machine().now();
            let is_implausible = at.saturating_sub(now) > IMPLAUSIBLE_NS;
            let at = if is_implausible {
                now.saturating_add(SHORT_NS)
            } else {
                at
            };
            call.hv.set_deadline(domain, vcpu, Purpose::Timer, at);
        }
    }
    Ok(0)
}

/// The vCPU that argument 1 names.
pub(super) fn named<'a, M: Machine>(call: &'a Call<'_, M>) -> Result<&'a Vcpu, Errno> {
    call.domain()
        .vcpu(VcpuId::new(call.arg32::<1>()))
        .ok_or(Errno::NoEnt)
}

/// The same, where it must be the caller itself.
fn own<'a, M: Machine>(call: &'a Call<'_, M>) -> Result<&'a Vcpu, Errno> {
    let vcpu = named(call)?;
    if vcpu.id == call.current.vcpu {
        Ok(vcpu)
    } else {
        Err(Errno::Inval)
    }
}
