//! What registers hold when a stream begins: addresses of every kind, and numbers that instructions take as operands.

use bulkhead_abi::{
    layout::{HYPERVISOR, M2P},
    selectors::{FLAT_RING3_CS32, FLAT_RING3_CS64, FLAT_RING3_SS, HYPERVISOR_CS64, HYPERVISOR_DS},
};

use bulkhead_runtime::random::Random;

use crate::{
    space::{CODE, Space, WRITABLE},
    stream::{Mode, Registers, Start},
};

/// Addresses at edges.
const EDGES: [u64; 14] = [
    0,
    u64::MAX,
    u64::MAX - 7,
    1 << 47,
    (1 << 47) - 1,
    (1 << 47) - 8,
    (1 << 47) - 64,
    HYPERVISOR.start - 1,
    HYPERVISOR.start - 8,
    HYPERVISOR.start,
    HYPERVISOR.end - 1,
    HYPERVISOR.end,
    M2P.end,
    1 << 63,
];

/// Model-specific registers, and ports.
const NUMBERS: [u64; 24] = [
    0xc000_0080,
    0xc000_0081,
    0xc000_0082,
    0xc000_0100,
    0xc000_0101,
    0xc000_0102,
    0xc000_0103,
    0x10,
    0x1b,
    0x1d9,
    0x48,
    0x174,
    0x176,
    0x1a0,
    0x277,
    0x4000_0000,
    0x80,
    0xcf8,
    0xcfc,
    0x3f8,
    0xf4,
    0x64,
    0x60,
    0x2000,
];

/// Selectors of the hypervisor's, good and bad.
const SELECTORS: [u16; 9] = [
    0,
    3,
    FLAT_RING3_CS64,
    FLAT_RING3_CS32,
    FLAT_RING3_SS,
    HYPERVISOR_CS64,
    HYPERVISOR_DS,
    0xe040,
    0xffff,
];

/// A selector.
pub(crate) fn selector(random: &mut Random) -> u64 {
    match random.below(8) {
        0 => random.next() & 0xffff,
        // Of the local table.
        1 => random.below(8) << 3 | 7,
        2..=4 => u64::from(random.pick(&SELECTORS)),
        _ => random.below(crate::descriptors::ALL.len() as u64) << 3 | random.below(4),
    }
}

/// An address that a stream can write.
pub(crate) fn writable(random: &mut Random) -> u64 {
    Space::address(random.below(32).wrapping_add(6), random.next())
}

/// An address that a stream can read and, mostly, write.
pub(crate) fn mapped(random: &mut Random) -> u64 {
    match random.below(8) {
        0 => Space::table_word(random.below(512)),
        1 => CODE.wrapping_add(random.below(4096)),
        2 => Space::own_region(random.next()),
        3 => random.next() & ((1 << 47) - 1),
        4 => Space::address(random.next(), 0xfff),
        _ => writable(random),
    }
}

/// Anything.
pub(crate) fn any(random: &mut Random, space: &Space) -> u64 {
    match random.below(16) {
        0..=5 => mapped(random),
        6 => random.next(),
        7 => random.below(256),
        8 => random.next() & 0xffff_ffff,
        9 => random.pick(&EDGES),
        10 => random.pick(&EDGES).wrapping_sub(random.below(64)),
        11 => HYPERVISOR.start.wrapping_add(random.next() & 0x7ff_ffff_ffff),
        12 => M2P.start.wrapping_add(random.next() & 0xff_ffff),
        13 => random.pick(&NUMBERS),
        14 => selector(random),
        _ => entry(random, space),
    }
}

/// A page-table entry, often a good one.
pub(crate) fn entry(random: &mut Random, space: &Space) -> u64 {
    match random.below(8) {
        0 => 0,
        1 => random.next(),
        2 => space.table.entry(WRITABLE),
        3 => space.descriptors.entry(WRITABLE),
        4 => space.plain.entry(random.next() & 0xfff),
        5 => random.below(1 << 17) << 12 | WRITABLE,
        _ => space.plain.entry(WRITABLE),
    }
}

/// The registers of a stream that begins `offset` bytes into the code.
pub(crate) fn start(random: &mut Random, space: &Space, mode: Mode, offset: u64) -> Start {
    let mut value = || match mode {
        Mode::User => any(random, space),
        // A frame must find room on the stack, or the domain dies: what becomes the stack pointer mostly points to memory.
        Mode::Kernel if random.one_in(8) => any(random, space),
        Mode::Kernel => writable(random),
    };
    let mut registers = Registers {
        rax: value(),
        rbx: value(),
        rcx: value(),
        rdx: value(),
        rsi: value(),
        rdi: value(),
        rbp: value(),
        r8: value(),
        r9: value(),
        r10: value(),
        r11: value(),
        r12: value(),
        r13: value(),
        r14: value(),
        r15: value(),
        rip: CODE.wrapping_add(offset),
        cs: u64::from(FLAT_RING3_CS64),
        rflags: 0x202,
        rsp: value(),
        ss: u64::from(FLAT_RING3_SS),
    };
    let mut frame_flags = 0;
    // Arithmetic flags and direction in any way; the others seldom.
    registers.rflags |= random.next() & 0xcd5;
    if random.one_in(12) {
        // Single step, resume, alignment, identification.
        registers.rflags |= random.next() & 0x25_0100;
    }
    match mode {
        Mode::Kernel => {
            [registers.rsp, registers.rbp] = [writable(random), writable(random)];
            // No hypercall by chance: it might be one that is not to be made.
            if registers.rax < 64 {
                registers.rax = !registers.rax;
            }
        }
        Mode::User => {
            if random.one_in(8) {
                registers.cs = selector(random) | 3;
            }
            if random.one_in(8) {
                registers.ss = selector(random);
            }
            if random.one_in(32) {
                registers.rflags = random.next() | 0x200;
            }
            if random.one_in(32) {
                registers.rip = any(random, space);
            }
            frame_flags = random.next() & 0x1ff;
        }
    }
    Start {
        registers,
        frame_flags,
    }
}
