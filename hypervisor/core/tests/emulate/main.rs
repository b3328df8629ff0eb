//! The emulator: what it makes of privileged instructions, what it refuses, and that no bytes confuse it.
//!
//! What page-table writes do to memory, registers and flags is compared with the CPU in `emulate_native`.
#![cfg(not(loom))]
#![expect(
    clippy::unwrap_used,
    clippy::arithmetic_side_effects,
    reason = "a test fails by panicking"
)]

mod addresses;
mod any_bytes;
mod fetch;
mod privileged;
mod refusals;
mod stepping;

use bulkhead_core::emulate::table_write::{Faulted, TableWrite};
use bulkhead_core::emulate::{Code, Refused, SegmentBases};
use bulkhead_core::vcpu::Regs;

/// Where the guest's code lies.
const RIP: u64 = 0xffff_ffff_8100_0000;

/// Registers that all have another value.
fn regs() -> Regs {
    Regs {
        r15: 0xf0f1_f2f3_f4f5_f6f7,
        r14: 0xe0e1_e2e3_e4e5_e6e7,
        r13: 0xd0d1_d2d3_d4d5_d6d7,
        r12: 0xc0c1_c2c3_c4c5_c6c7,
        rbp: 0x5051_5253_5455_5657,
        rbx: 0x3031_3233_3435_3637,
        r11: 0xb0b1_b2b3_b4b5_b6b7,
        r10: 0xa0a1_a2a3_a4a5_a6a7,
        r9: 0x9091_9293_9495_9697,
        r8: 0x8081_8283_8485_8687,
        rax: 0x0001_0203_0405_0607,
        rcx: 0x1011_1213_1415_1617,
        rdx: 0x2021_2223_2425_2627,
        rsi: 0x6061_6263_6465_6667,
        rdi: 0x7071_7273_7475_7670,
        rip: RIP,
        rflags: 0x1_0202,
        ..Regs::default()
    }
}

/// Explains a write of `bytes` to `fault`, with [`regs`].
fn faulted(bytes: &[u8], fault: u64) -> Result<Faulted, Refused> {
    Faulted::decode(&Code::new(RIP, bytes), &regs(), SegmentBases::default, fault)
}

/// The same for an instruction that is no copy.
fn write(bytes: &[u8], fault: u64) -> Result<TableWrite, Refused> {
    faulted(bytes, fault).map(|faulted| match faulted {
        Faulted::Write(write) => write,
        Faulted::Copy(copy) => panic!("{copy:?}"),
    })
}
