//! Goals about what only the control domain may ask: everybody else is refused.

use super::{FRESH, NOBODY, TOO_LARGE, bytes};
use crate::frames::Mfn;
use crate::hypercalls::table::Row;
use crate::pci::FunctionId;
use crate::testing::functions::{PORTS, RICH};
use crate::testing::hostile::calls::{call, call_with};
use crate::testing::hostile::functions;
use crate::testing::{Act, Choices, Sim, World};
use alloc::collections::VecDeque;
use bulkhead_abi::control::{
    ASSIGN_FRAMES, ASSIGN_LINES, ASSIGN_PCI, ASSIGN_PORTS, AssignDevice, COPY_FROM, COPY_TO, COPY_ZEROS,
    ControlOp, CopyMemory, CreateDomain, ExtentRef, KeepExtent, ReadFile, ReadLog, Schedule, SetLimit,
    VcpuState,
};
use bulkhead_abi::{DomId, Errno, Hypercall};

/// A call of the control domain's, or of somebody who is not. `others` are frames of other guests, `devices` of devices.
pub(super) fn control_goal(
    row: &Row,
    error: Option<Errno>,
    (others, devices): (&[(u16, Mfn)], &[Mfn]),
    at: u64,
    choices: &mut Choices,
) -> VecDeque<Act> {
    let op = row.op.and_then(|(_, number)| ControlOp::from_raw(number));
    let life = ControlOp::CreateDomain.raw()..=ControlOp::ReleaseExtent.raw();
    let is_life = op.is_some_and(|op| life.contains(&op.raw()));
    let whom = match error {
        Some(Errno::Srch) => NOBODY,
        // Domain 0 may not do it to itself.
        Some(Errno::Inval | Errno::Exist) if is_life && choices.chance(50) => 0,
        // The guests are to live on.
        _ if is_life => FRESH + u16::try_from(choices.below(3)).unwrap(),
        _ => u16::try_from(choices.below(3)).unwrap(),
    };
    let whom = DomId::new(whom);
    let default = if error == Some(Errno::NoSys) {
        TOO_LARGE
    } else {
        ControlOp::Version.raw()
    };
    let op = row.op.map_or(default, |(_, number)| number);
    let record = match ControlOp::from_raw(op) {
        Some(ControlOp::ReadTrace) if error == Some(Errno::NoEnt) => TOO_LARGE.to_le_bytes().to_vec(),
        Some(ControlOp::FunctionFaults) if error == Some(Errno::NoEnt) => TOO_LARGE.to_le_bytes().to_vec(),
        Some(ControlOp::ReadFile) => bytes(&ReadFile {
            index: if error == Some(Errno::NoEnt) { TOO_LARGE } else { 1 },
            // The record itself is written over.
            count: choices.one_of(&[0, 4]),
            buffer: at,
            ..ReadFile::default()
        }),
        Some(ControlOp::ReadLog) => bytes(&ReadLog {
            count: choices.one_of(&[0, 4]),
            buffer: at,
            ..ReadLog::default()
        }),
        Some(ControlOp::SetSchedule) => bytes(&Schedule {
            domain: whom,
            weight: if error == Some(Errno::Inval) { 0 } else { 256 },
            cpus: choices.one_of(&[1, 3, u64::MAX]),
            ..Schedule::default()
        }),
        Some(ControlOp::CreateDomain) => {
            let weight = if error == Some(Errno::Inval) { 0 } else { 256 };
            bytes(&CreateDomain {
                extent: if error == Some(Errno::NoEnt) { 9 } else { 0 },
                ..made(whom, weight)
            })
        }
        Some(ControlOp::KeepExtent) => bytes(&KeepExtent {
            extent: if error == Some(Errno::Inval) { 0 } else { 3 },
            order: if error == Some(Errno::NoMem) { 12 } else { 0 },
            ..KeepExtent::default()
        }),
        Some(ControlOp::ReleaseExtent) => bytes(&ExtentRef {
            extent: match error {
                Some(Errno::NoEnt) => 9,
                Some(Errno::Busy) => 1,
                _ => 3,
            },
            reserved: u32::from(error == Some(Errno::Inval)),
        }),
        Some(ControlOp::SetLimit) => bytes(&SetLimit {
            domain: whom,
            limit: choices.one_of(&[4, 1000, 2000]),
        }),
        Some(ControlOp::CopyMemory) => {
            let (id, frame) = choices.one_of(others);
            let direction = choices.one_of(&[COPY_FROM, COPY_TO, COPY_ZEROS]);
            bytes(&CopyMemory {
                domain: if error.is_none() { DomId::new(id) } else { whom },
                direction,
                offset: 64,
                // What is written could be an event that nobody told the guest of.
                len: if direction == COPY_FROM { 64 } else { 0 },
                frame: frame.raw(),
                buffer: at,
            })
        }
        Some(ControlOp::AssignDevice) => {
            let (kind, first) = match error {
                Some(Errno::Inval) => (9, 0),
                // RAM, and the hypervisor's own ports.
                Some(Errno::Acces) => {
                    choices.one_of(&[(ASSIGN_FRAMES, 300), (ASSIGN_PORTS, 0x20), (ASSIGN_LINES, 4)])
                }
                _ => assignable(devices, choices),
            };
            bytes(&AssignDevice {
                domain: whom,
                kind,
                first,
                count: 1 + choices.below(2),
                ..AssignDevice::default()
            })
        }
        Some(ControlOp::GetVcpu) => {
            // The second vCPU of a guest may be down, and the first is up.
            let (domain, vcpu) = match error {
                Some(Errno::NoEnt) => (whom, TOO_LARGE),
                Some(Errno::Busy) => (DomId::new(choices.one_of(&[1, 2])), 0),
                Some(Errno::Inval) => (DomId::new(0), 0),
                Some(_) => (whom, 0),
                None => (DomId::new(choices.one_of(&[1, 2])), 1),
            };
            bytes(&VcpuState {
                domain,
                vcpu,
                context: at.wrapping_add(64),
            })
        }
        Some(ControlOp::SetVcpu) => bytes(&VcpuState {
            // That of a guest has a state.
            domain: if error == Some(Errno::Exist) {
                DomId::new(1)
            } else {
                whom
            },
            vcpu: if error == Some(Errno::NoEnt) { TOO_LARGE } else { 0 },
            context: at,
        }),
        _ => {
            let mut record = whom.raw().to_le_bytes().to_vec();
            record.resize(112, 0);
            record
        }
    };
    let act = call_with(Hypercall::Sysctl, &[u64::from(op), at], record);
    let is_first = row.op == Some((ControlOp::CreateDomain.name(), ControlOp::CreateDomain.raw()));
    if !is_life || is_first || error == Some(Errno::Srch) {
        return VecDeque::from([act]);
    }
    // What is done to a domain is done to one that is there.
    VecDeque::from([create(whom), act])
}

/// Assigns a frame of a device to a guest.
pub(in crate::testing::hostile) fn assign_frame(frame: Mfn, owner: u16) -> Act {
    assign_range(AssignDevice {
        domain: DomId::new(owner),
        kind: ASSIGN_FRAMES,
        first: frame.raw(),
        count: 1,
        ..AssignDevice::default()
    })
}

/// Assigns an interrupt line to a guest.
pub(in crate::testing::hostile) fn assign_line(line: u64, owner: u16) -> Act {
    assign_range(AssignDevice {
        domain: DomId::new(owner),
        kind: ASSIGN_LINES,
        first: line,
        count: 1,
        ..AssignDevice::default()
    })
}

/// Assigns a function to a guest.
pub(in crate::testing::hostile) fn assign_function(function: FunctionId, owner: u16) -> Act {
    assign_range(AssignDevice {
        domain: DomId::new(owner),
        kind: ASSIGN_PCI,
        first: function.raw().into(),
        count: 1,
        ..AssignDevice::default()
    })
}

/// Assigns a function to a guest, or to a domain that is soon no more, and is there when a reset is over.
pub(super) fn live_with_function(choices: &mut Choices) -> VecDeque<Act> {
    let is_in_parts = choices.chance(20);
    let function = if is_in_parts {
        RICH
    } else {
        functions::any(choices)
    };
    let owner = choices.one_of(&[1, 1, 2, FRESH, FRESH]);
    let assign = assign_function(function, owner);
    // It sleeps while there is a reset, and goes on then.
    let mut plan = VecDeque::from([assign.clone(), assign]);
    if is_in_parts {
        // One of them is already somebody's.
        plan.push_front(assign_port(PORTS.into(), FRESH));
        plan.push_front(create(DomId::new(FRESH)));
    } else if owner == FRESH {
        let destroy = || {
            let args = [u64::from(ControlOp::DestroyDomain.raw()), World::SCRATCH];
            call(Hypercall::Sysctl, &args, &[FRESH.into()])
        };
        plan.push_front(create(DomId::new(FRESH)));
        plan.extend([destroy(), destroy()]);
    }
    plan
}

/// Assigns a port to a domain.
pub(super) fn assign_port(port: u64, owner: u16) -> Act {
    assign_range(AssignDevice {
        domain: DomId::new(owner),
        kind: ASSIGN_PORTS,
        first: port,
        count: 1,
        ..AssignDevice::default()
    })
}

/// Assigns a part of a device to a guest, or to a domain that is soon no more.
pub(super) fn assign(devices: &[Mfn], choices: &mut Choices) -> Act {
    let (kind, first) = assignable(devices, choices);
    assign_range(AssignDevice {
        domain: DomId::new(choices.one_of(&[1, 2, FRESH])),
        kind,
        first,
        count: 1 + choices.below(2),
        ..AssignDevice::default()
    })
}

fn assign_range(record: AssignDevice) -> Act {
    let args = [u64::from(ControlOp::AssignDevice.raw()), World::SCRATCH];
    call_with(Hypercall::Sysctl, &args, bytes(&record))
}

/// A port, a frame, a line or a function that may be assigned.
fn assignable(devices: &[Mfn], choices: &mut Choices) -> (u16, u64) {
    let device = choices.one_of(devices).raw();
    let function = u64::from(functions::any(choices).raw());
    choices.one_of(&[
        (ASSIGN_FRAMES, device),
        (ASSIGN_FRAMES, device),
        (ASSIGN_PCI, function),
        (ASSIGN_PORTS, 0x60 + device % 16),
        (ASSIGN_LINES, Sim::LINES.start + device % 8),
    ])
}

/// Makes a domain.
pub(super) fn create(domain: DomId) -> Act {
    create_from(domain, 0)
}

/// Makes a domain that has its memory from an extent.
pub(super) fn create_from(domain: DomId, extent: u32) -> Act {
    let record = CreateDomain {
        extent,
        ..made(domain, 256)
    };
    let args = [u64::from(ControlOp::CreateDomain.raw()), World::SCRATCH];
    call_with(Hypercall::Sysctl, &args, bytes(&record))
}

/// A domain that is to be made.
fn made(domain: DomId, weight: u16) -> CreateDomain {
    CreateDomain {
        domain,
        weight,
        vcpus: 1,
        limit: 4,
        cpus: u64::MAX,
        ..CreateDomain::default()
    }
}
