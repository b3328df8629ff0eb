//! Ways into the hypervisor that are no hypercalls, and where they lead a guest.

use crate::hypervisor::Cpu;
use crate::vcpu::Regs;
use bulkhead_abi::trap::Vector;

/// What became of a fault, or of another way into the hypervisor that is no hypercall.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fate {
    /// The hypervisor did it in the guest's place, and the guest goes on behind it.
    Resolved,
    /// The guest's kernel was told.
    Handed,
    /// The guest does the same again.
    Again,
    /// It was the end of the domain.
    Ended,
}

/// What became of the guest that `cpu` left with the registers `from`: the longest instruction has 15 bytes.
pub(super) fn fate(cpu: &Cpu, from: &Regs, to: &Regs) -> Fate {
    let Some(current) = cpu.current.as_ref() else {
        return Fate::Ended;
    };
    let ahead = to.rip.wrapping_sub(from.rip);
    if current.domain.lifecycle.lock().has_ended() {
        Fate::Ended
    } else if to == from {
        Fate::Again
    } else if (0..16).contains(&ahead) && to.rsp == from.rsp {
        Fate::Resolved
    } else {
        Fate::Handed
    }
}

/// What an exception is counted as.
pub(super) fn fault_name(vector: u8, is_from_program: bool) -> &'static str {
    match (Vector::from_raw(vector), is_from_program) {
        (Some(Vector::PageFault), false) => "kernel's page fault",
        (Some(Vector::PageFault), true) => "program's page fault",
        (Some(Vector::GeneralProtection), false) => "kernel's protection fault",
        (Some(Vector::GeneralProtection), true) => "program's protection fault",
        (Some(Vector::InvalidOpcode), false) => "kernel's invalid opcode",
        (Some(Vector::InvalidOpcode), true) => "program's invalid opcode",
        (Some(Vector::DeviceNotAvailable), false) => "kernel's use of the FPU",
        (Some(Vector::DeviceNotAvailable), true) => "program's use of the FPU",
        (_, false) => "kernel's other exception",
        (_, true) => "program's other exception",
    }
}
