//! `sysctl`: what only the control domain may ask.

use super::{Answer, Call, devices, domains, extents, initialise, machine};
use crate::domains::Domain;
use crate::machine::Machine;
use crate::sched::{CpuSet, Share, Warp, Weight};
use crate::vcpu::Spent;
use bulkhead_abi::control::{CONTROL_VERSION, ControlOp, DomainTimes, Schedule};
use bulkhead_abi::{Errno, Record};

/// Lets only the control domain pass.
pub(super) fn control<M: Machine>(call: &mut Call<'_, M>) -> Answer {
    if !call.domain().is_control() {
        return Err(Errno::Perm);
    }
    match ControlOp::from_raw(call.arg32::<0>()).ok_or(Errno::NoSys)? {
        ControlOp::Version => Ok(u64::from(CONTROL_VERSION)),
        ControlOp::DomainTimes => domain_times(call),
        ControlOp::ReadTrace => machine::read_trace(call),
        ControlOp::GetSchedule => get_schedule(call),
        ControlOp::SetSchedule => set_schedule(call),
        ControlOp::DomainInfo => domains::info(call),
        ControlOp::CreateDomain => domains::create(call),
        ControlOp::UnpauseDomain => domains::unpause(call),
        ControlOp::PauseDomain => domains::pause(call),
        ControlOp::DestroyDomain => domains::destroy(call),
        ControlOp::SetLimit => domains::set_limit(call),
        ControlOp::CopyMemory => domains::copy(call),
        ControlOp::SetVcpu => initialise::set_vcpu(call),
        ControlOp::GetVcpu => initialise::get_vcpu(call),
        ControlOp::AssignDevice => devices::assign(call),
        ControlOp::KeepExtent => extents::keep(call),
        ControlOp::ReleaseExtent => extents::release(call),
        ControlOp::MachineInfo => machine::info(call),
        ControlOp::ReadFile => machine::read_file(call),
        ControlOp::ReadLog => machine::read_log(call),
        ControlOp::FunctionFaults => machine::function_faults(call),
    }
}

/// Where the time of a domain went, in nanoseconds.
pub(super) fn spent_ns<M: Machine>(call: &Call<'_, M>, domain: &Domain) -> Spent {
    let scale = call.hv.machine().tsc_scale();
    domain.spent().map(|ticks| scale.ns(ticks))
}

fn domain_times<M: Machine>(call: &Call<'_, M>) -> Answer {
    let at = call.arg::<1>();
    let DomainTimes { domain, .. } = call.read(at)?;
    let found = call.hv.domains.get(domain).ok_or(Errno::Srch)?;
    let [user_ns, kernel_ns, hypervisor_ns] = spent_ns(call, &found);
    let times = DomainTimes {
        domain,
        user_ns,
        kernel_ns,
        hypervisor_ns,
    };
    call.write(at, &times)?;
    Ok(0)
}

fn get_schedule<M: Machine>(call: &Call<'_, M>) -> Answer {
    let at = call.arg::<1>();
    let Schedule { domain, .. } = call.read(at)?;
    let found = call.hv.domains.get(domain).ok_or(Errno::Srch)?;
    let Share {
        weight,
        warp,
        affinity,
    } = *found.share.lock();
    let schedule = Schedule {
        domain,
        weight: weight.raw(),
        warp_ns: warp.by_ns,
        warp_limit_ns: warp.limit_ns.unwrap_or(0),
        unwarp_ns: warp.unwarp_ns,
        cpus: affinity.bits(),
        ..Schedule::ZERO
    };
    call.write(at, &schedule)?;
    Ok(0)
}

fn set_schedule<M: Machine>(call: &Call<'_, M>) -> Answer {
    let schedule: Schedule = call.read(call.arg::<1>())?;
    let domain = call.hv.domains.get(schedule.domain).ok_or(Errno::Srch)?;
    let share = Share {
        weight: Weight::new(schedule.weight).ok_or(Errno::Inval)?,
        warp: Warp {
            by_ns: schedule.warp_ns,
            limit_ns: (schedule.warp_limit_ns != 0).then_some(schedule.warp_limit_ns),
            unwarp_ns: schedule.unwarp_ns,
        },
        affinity: CpuSet::from_bits(schedule.cpus),
    };
    if schedule.reserved != [0; 2] || !call.hv.has_cpu_in(share.affinity) {
        return Err(Errno::Inval);
    }
    call.hv.set_share(&domain, share);
    Ok(0)
}
