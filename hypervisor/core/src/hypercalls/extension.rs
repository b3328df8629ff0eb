//! `extension_op`: what a guest can have beside the ABI.

use super::{Answer, Call};
use crate::machine::Machine;
use crate::vcpu::gates::Gate;
use bulkhead_abi::Errno;
use bulkhead_abi::extension::{DIRECT_GATES, DMA_PINS, GRANT_FLIP, VCPU_COSTS, VIRTUAL_ALARM, VcpuCosts};

pub(super) fn features<M: Machine>(call: &mut Call<'_, M>) -> Answer {
    let gates = if call.hv.machine().has_direct_gates() {
        DIRECT_GATES
    } else {
        0
    };
    Ok(gates | VIRTUAL_ALARM | GRANT_FLIP | DMA_PINS | VCPU_COSTS)
}

pub(super) fn set_direct_gate<M: Machine>(call: &mut Call<'_, M>) -> Answer {
    if !call.hv.machine().has_direct_gates() {
        return Err(Errno::OpNotSupp);
    }
    let vector = u8::try_from(call.arg::<1>()).map_err(|_| Errno::Inval)?;
    let gate = match call.arg::<2>() {
        0 => None,
        address => Some(Gate::new(address).map_err(|_| Errno::Inval)?),
    };
    let gates = &mut call.current.context.gates;
    gates.set(vector, gate).map_err(|_| Errno::Inval)?;
    call.hv.machine().load_gates(gates);
    Ok(0)
}

pub(super) fn set_virtual_alarm<M: Machine>(call: &mut Call<'_, M>) -> Answer {
    let at = call.arg::<1>();
    call.hv.set_virtual_alarm(call.current, (at != 0).then_some(at));
    Ok(0)
}

pub(super) fn vcpu_costs<M: Machine>(call: &mut Call<'_, M>) -> Answer {
    let machine = call.hv.machine();
    let meter = &mut call.current.context.meter;
    meter.stop(machine.ticks());
    let flushes = meter.flushes(machine.full_flushes());
    let [user_ns, kernel_ns, hypervisor_ns] = meter.spent().map(|ticks| machine.tsc_scale().ns(ticks));
    let costs = VcpuCosts {
        user_ns,
        kernel_ns,
        hypervisor_ns,
        flushes,
    };
    call.write(call.arg::<1>(), &costs)?;
    Ok(0)
}
