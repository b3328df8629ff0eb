//! `sysctl`: the control domain assigns parts of devices to domains. See [`crate::devices`].

use super::{Answer, Call, domains};
use crate::devices::{Assigned, Resource};
use crate::frames::Mfn;
use crate::irq::Gsi;
use crate::machine::Machine;
use bulkhead_abi::Errno;
use bulkhead_abi::control::{ASSIGN_FRAMES, ASSIGN_LINES, ASSIGN_PORTS, AssignDevice};

pub(super) fn assign<M: Machine>(call: &mut Call<'_, M>) -> Answer {
    let AssignDevice {
        domain,
        kind,
        first,
        count,
        reserved,
    } = call.read(call.arg::<1>())?;
    // While it is visited it does not lose what it owns.
    let visit = domains::visit_other(call, domain)?;
    let (what, limit) = match kind {
        ASSIGN_PORTS => (Resource::Ports, 1 << 16),
        ASSIGN_FRAMES => (Resource::Frames, Mfn::LIMIT),
        ASSIGN_LINES => (Resource::Lines, Gsi::LIMIT.into()),
        _ => return Err(Errno::Inval),
    };
    let end = first.checked_add(count).filter(|&end| end <= limit);
    let last = end.and_then(|end| end.checked_sub(1)).ok_or(Errno::Inval)?;
    if count == 0 || reserved != 0 {
        return Err(Errno::Inval);
    }
    call.hv.assign(Assigned {
        owner: visit.domain().id,
        what,
        range: first..=last,
    })?;
    Ok(0)
}
