//! `sysctl`: the control domain assigns parts of devices to domains. See [`crate::devices`].

use super::{Answer, Call, domains};
use crate::devices::{Assigned, Resource};
use crate::frames::Mfn;
use crate::irq::Gsi;
use crate::machine::Machine;
use crate::pci::{FunctionId, Reset};
use bulkhead_abi::Errno;
use bulkhead_abi::control::{
    ASSIGN_FRAMES, ASSIGN_LINES, ASSIGN_PCI, ASSIGN_PORTS, AssignDevice, RESET_FUNCTION, RESET_NOT,
};

pub(super) fn assign<M: Machine>(call: &mut Call<'_, M>) -> Answer {
    let at = call.arg::<1>();
    let mut record: AssignDevice = call.read(at)?;
    let AssignDevice {
        domain,
        kind,
        first,
        count,
        reset,
    } = record;
    // While it is visited it does not lose what it owns.
    let visit = domains::visit_other(call, domain)?;
    if count == 0 || reset != 0 {
        return Err(Errno::Inval);
    }
    let (what, limit) = match kind {
        ASSIGN_PORTS => (Resource::Ports, 1 << 16),
        ASSIGN_FRAMES => (Resource::Frames, Mfn::LIMIT),
        ASSIGN_LINES => (Resource::Lines, Gsi::LIMIT.into()),
        ASSIGN_PCI if count == 1 => {
            // Tried first: what is assigned stays so.
            call.write(at, &record)?;
            let id = FunctionId::new(u16::try_from(first).map_err(|_| Errno::Inval)?);
            record.reset = match call.hv.assign_function(visit.domain(), id) {
                Ok(Reset::Not) => RESET_NOT,
                Ok(Reset::FunctionLevel) => RESET_FUNCTION,
                Err(Errno::Restart) if let Some(until) = call.hv.reset_until(|one| one.id() == id) => {
                    return call.restart_at(until);
                }
                Err(error) => return Err(error),
            };
            call.write(at, &record)?;
            return Ok(0);
        }
        _ => return Err(Errno::Inval),
    };
    let end = first.checked_add(count).filter(|&end| end <= limit);
    let last = end.and_then(|end| end.checked_sub(1)).ok_or(Errno::Inval)?;
    call.hv.assign(Assigned {
        owner: visit.domain().id,
        what,
        range: first..=last,
    })?;
    Ok(0)
}
