//! Numbers that no hypercall has.

use alloc::vec::Vec;

use bulkhead_abi::{DomId, Errno, Hypercall, mmu::MmuExt};

use crate::{
    calls::{Answer, call, call_number, input, refusal},
    probe::Probe,
};

/// Call numbers that the ABI leaves free, or that only look like others if half of the register is looked at.
const FREE: &[u64] = &[
    11,
    43,
    47,
    49,
    63,
    65,
    255,
    256,
    4096,
    1 << 32 | Hypercall::XenVersion.raw(),
    1 << 63 | Hypercall::XenVersion.raw(),
    0x8000_0000,
    u64::MAX,
];

/// Calls with sub-operations, and one that each does not have.
const GROUPS: &[(Hypercall, u64)] = &[
    (Hypercall::XenVersion, 99),
    (Hypercall::ConsoleIo, 99),
    (Hypercall::VcpuOp, 99),
    (Hypercall::SchedOp, 99),
    (Hypercall::PhysdevOp, 99),
    (Hypercall::CallbackOp, 99),
    (Hypercall::EventChannelOp, 99),
    (Hypercall::GrantTableOp, 99),
    (Hypercall::GrantTableOp, 9),
    (Hypercall::MemoryOp, 63),
    (Hypercall::SchedOpCompat, 99),
    (Hypercall::NmiOp, 99),
];

pub(crate) fn check(probe: &mut Probe) {
    let numbers = FREE.iter().map(|&number| (number, call_number::<0>(number, [])));
    probe.law("unknown-calls-are-ENOSYS", served(numbers));
    let groups = GROUPS
        .iter()
        .map(|&(group, op)| (group.raw(), call(group, [op, 0, 0])));
    probe.law("unknown-operations-are-ENOSYS", served(groups));
    let element = MmuExt {
        cmd: 99,
        arg1: 0,
        arg2: 0,
    };
    let own = u64::from(DomId::SELF.raw());
    probe.refused(
        "mmuext_op",
        Errno::NoSys,
        call(Hypercall::MmuextOp, [input(&element), 1, 0, own]),
    );
}

/// Those of the calls that were not answered with `ENOSYS`.
fn served(calls: impl Iterator<Item = (u64, Answer)>) -> Result<(), Vec<(u64, Answer)>> {
    let wrong: Vec<_> = calls
        .filter(|(_, answer)| *answer != refusal(Errno::NoSys))
        .collect();
    if wrong.is_empty() { Ok(()) } else { Err(wrong) }
}
