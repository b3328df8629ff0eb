//! Instructions that fault, and what the guest hopes that the hypervisor does about it: stores into page tables, and what only
//! ring 0 may execute.

use super::tables::Mind;
use crate::frames::Kind;
use crate::testing::{Act, Choices, Fate};
use crate::traps::Exception;
use alloc::vec::Vec;
use bulkhead_abi::msr;
use bulkhead_abi::trap::{PF_PRESENT, PF_USER, PF_WRITE, Vector};

/// Stores of RAX or by RSI to where RDI points, as kernels write page-table entries.
const STORES: &[(&str, &[u8])] = &[
    ("store: mov", &[0x48, 0x89, 0x07]),
    ("store: xchg", &[0x48, 0x87, 0x07]),
    ("store: mov of 32 bits", &[0x89, 0x07]),
    ("store: lock cmpxchg", &[0xf0, 0x48, 0x0f, 0xb1, 0x0f]),
    ("store: or", &[0x48, 0x09, 0x07]),
    ("store: and", &[0x48, 0x21, 0x07]),
    ("store: lock btr", &[0xf0, 0x48, 0x0f, 0xba, 0x37, 0x01]),
    ("store: lock bts", &[0xf0, 0x48, 0x0f, 0xba, 0x2f, 0x01]),
    ("store: xadd", &[0x48, 0x0f, 0xc1, 0x07]),
    ("store: stosq", &[0x48, 0xab]),
    ("store: movsq", &[0x48, 0xa5]),
    ("store: mov of 8 bits", &[0x88, 0x07]),
];

/// What ring 3 may not execute.
#[derive(Clone, Copy)]
struct Privileged {
    name: &'static str,
    code: &'static [u8],
    /// Values of RAX and RCX with which there is more to it; mostly one of these is taken, if there are any.
    values: &'static [u64],
    /// What becomes of it when all is well.
    best: Fate,
}

const fn privileged(
    name: &'static str,
    code: &'static [u8],
    values: &'static [u64],
    best: Fate,
) -> Privileged {
    Privileged {
        name,
        code,
        values,
        best,
    }
}

const MSRS: &[u64] = &[
    msr::TSC_AUX as u64,
    msr::FS_BASE as u64,
    msr::GS_BASE as u64,
    msr::KERNEL_GS_BASE as u64,
    msr::EFER as u64,
    msr::APIC_BASE as u64,
    msr::HWCR as u64,
];

/// The one of them that goes with its vCPU and is nothing else is written often: it takes two vCPUs, and switches between them.
const WRITTEN: &[u64] = &[
    msr::TSC_AUX as u64,
    msr::TSC_AUX as u64,
    msr::TSC_AUX as u64,
    msr::TSC_AUX as u64,
    msr::FS_BASE as u64,
    msr::GS_BASE as u64,
    msr::KERNEL_GS_BASE as u64,
    msr::EFER as u64,
];

/// CR0 as a guest has it, and with the flag that its FPU is somebody else's.
const CR0S: &[u64] = &[0x8005_0033, 0x8005_003b];

const PRIVILEGED: &[Privileged] = &[
    privileged("mov from cr0", &[0x0f, 0x20, 0xc0], &[], Fate::Resolved),
    privileged("mov to cr0", &[0x0f, 0x22, 0xc0], CR0S, Fate::Resolved),
    privileged("mov from cr2", &[0x0f, 0x20, 0xd0], &[], Fate::Resolved),
    privileged("mov to cr2", &[0x0f, 0x22, 0xd0], &[], Fate::Resolved),
    privileged("mov from cr3", &[0x0f, 0x20, 0xd8], &[], Fate::Resolved),
    privileged("mov to cr3", &[0x0f, 0x22, 0xd8], &[], Fate::Handed),
    privileged("mov from cr4", &[0x0f, 0x20, 0xe0], &[], Fate::Resolved),
    privileged("mov to cr4", &[0x0f, 0x22, 0xe0], &[], Fate::Resolved),
    privileged("mov from dr7", &[0x0f, 0x21, 0xf8], &[], Fate::Resolved),
    privileged("mov to dr7", &[0x0f, 0x23, 0xf8], &[0x400, 0x401], Fate::Resolved),
    privileged("clts", &[0x0f, 0x06], &[], Fate::Resolved),
    privileged("wbinvd", &[0x0f, 0x09], &[], Fate::Resolved),
    privileged("rdmsr", &[0x0f, 0x32], MSRS, Fate::Resolved),
    privileged("wrmsr", &[0x0f, 0x30], WRITTEN, Fate::Resolved),
    privileged("rdtsc", &[0x0f, 0x31], &[], Fate::Resolved),
    privileged("rdtscp", &[0x0f, 0x01, 0xf9], &[], Fate::Resolved),
    privileged("cpuid", &[0x0f, 0xa2], &[0, 1, 7, 0x4000_0000], Fate::Resolved),
    privileged("xsetbv", &[0x0f, 0x01, 0xd1], &[], Fate::Handed),
    privileged("in al, 0x60", &[0xe4, 0x60], &[], Fate::Resolved),
    privileged("out dx, eax", &[0xef], &[], Fate::Resolved),
    privileged("rep insb", &[0xf3, 0x6c], &[0, 1], Fate::Resolved),
    privileged("rep outsb", &[0xf3, 0x6e], &[0, 1], Fate::Resolved),
    privileged("cli", &[0xfa], &[], Fate::Resolved),
    privileged("sti", &[0xfb], &[], Fate::Resolved),
    privileged("hlt", &[0xf4], &[], Fate::Handed),
    privileged("invlpg", &[0x0f, 0x01, 0x3f], &[], Fate::Handed),
    privileged("lgdt", &[0x0f, 0x01, 0x17], &[], Fate::Handed),
    privileged("int 0x80", &[0xcd, 0x80], &[], Fate::Handed),
    privileged("int 13", &[0xcd, 0x0d], &[], Fate::Handed),
];

/// The hypervisor's CPUID, which raises another exception than all others.
const FORCED_CPUID: (&str, &[u8]) = ("forced cpuid", &[0x0f, 0x0b, b'x', b'e', b'n', 0x0f, 0xa2]);

/// Every instruction that is tried, with what becomes of it when all is well.
pub(super) fn all() -> impl Iterator<Item = (&'static str, Fate)> {
    let stores = STORES.iter().map(|&(name, _)| (name, Fate::Resolved));
    let privileged = PRIVILEGED.iter().map(|one| (one.name, one.best));
    stores.chain(privileged).chain([(FORCED_CPUID.0, Fate::Resolved)])
}

/// Writes to a port.
pub(super) fn out(port: u16, value: u32) -> Act {
    Act::Instruction {
        name: "out dx, eax",
        code: [0xef].to_vec(),
        value: u64::from(port) << 32 | u64::from(value),
        pointers: [0; 2],
        raises: Exception {
            vector: Vector::GeneralProtection.raw(),
            error_code: 0,
            address: 0,
        },
    }
}

/// Something that only the hypervisor may do.
pub(super) fn forbidden(choices: &mut Choices) -> Act {
    let mut raises = Exception {
        vector: Vector::GeneralProtection.raw(),
        error_code: 0,
        address: 0,
    };
    let any = choices.any() >> choices.below(64);
    let (name, code, values) = if choices.chance(5) {
        raises.vector = Vector::InvalidOpcode.raw();
        (FORCED_CPUID.0, FORCED_CPUID.1, &[][..])
    } else {
        let Privileged {
            name, code, values, ..
        } = choices.one_of(PRIVILEGED);
        (name, code, values)
    };
    let value = if values.is_empty() || choices.chance(20) {
        any
    } else {
        choices.one_of(values)
    };
    Act::Instruction {
        name,
        code: code.to_vec(),
        value,
        pointers: [choices.any(), choices.any()],
        raises,
    }
}

impl Mind<'_> {
    /// Stores into a table that is mapped read-only, and takes the fault for it.
    pub(super) fn store(&self, choices: &mut Choices) -> Act {
        let all = self.guest.play.iter().chain(&self.guest.tables);
        let level1: Vec<_> = all
            .copied()
            .filter(|&(_, mfn)| self.kind(mfn) == Kind::L1)
            .collect();
        let (va, table) = if level1.is_empty() || choices.chance(5) {
            self.play(choices)
        } else {
            choices.one_of(&level1)
        };
        let place = va + (self.slot(table, choices) << 3);
        let user = if choices.chance(50) { PF_USER } else { 0 };
        let (name, code) = choices.one_of(STORES);
        Act::Instruction {
            name,
            code: code.to_vec(),
            value: self.entry(Kind::L1, choices),
            pointers: [place, self.play(choices).0],
            raises: Exception {
                vector: Vector::PageFault.raw(),
                error_code: PF_PRESENT | PF_WRITE | user,
                address: place,
            },
        }
    }
}
