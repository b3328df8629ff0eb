//! What has been seen, and what must not be.

use bulkhead_abi::{
    selectors::RPL_MASK,
    trap::{PF_RESERVED, PF_USER, Vector},
};
use bulkhead_runtime::println;

use crate::stream::{ENDS, End, FAILSAFE, Mode, Registers, SYSCALL, UPCALL};

/// Flags of the CPU's that no guest may see set.
const NEVER: u64 = 3 << 12 | 1 << 17 | 0xffff_ffff << 32;
/// Flags that are always set while a guest runs and has masked no events.
const ALWAYS: u64 = 1 << 9 | 1 << 1;

/// Vectors that programs may raise by an instruction.
pub(crate) const OPEN: core::ops::RangeInclusive<u8> = 0x80..=0xff;
/// Vectors that the kernel may raise by an instruction, and programs may not.
pub(crate) const KERNELS: core::ops::RangeInclusive<u8> = 0x40..=0x7f;

/// Counts of ends.
#[derive(Debug)]
pub(crate) struct Tally {
    ends: [u64; ENDS],
    streams: u64,
    in_kernel: u64,
    hypercalls: u64,
    refused: u64,
}

impl Tally {
    /// Nothing yet.
    pub(crate) const fn new() -> Self {
        Self {
            ends: [0; ENDS],
            streams: 0,
            in_kernel: 0,
            hypercalls: 0,
            refused: 0,
        }
    }

    /// How many streams have come to an end.
    pub(crate) const fn streams(&self) -> u64 {
        self.streams
    }

    /// Counts the end of a stream.
    pub(crate) fn count(&mut self, mode: Mode, end: &End) {
        self.streams = self.streams.wrapping_add(1);
        self.in_kernel = self.in_kernel.wrapping_add(u64::from(mode == Mode::Kernel));
        let index = usize::try_from(end.vector).unwrap_or(usize::MAX);
        if let Some(count) = self.ends.get_mut(index) {
            *count = count.wrapping_add(1);
        }
    }

    /// Counts a hypercall, and whether it was refused.
    pub(crate) const fn count_hypercall(&mut self, result: u64) {
        self.hypercalls = self.hypercalls.wrapping_add(1);
        if result.cast_signed() < 0 {
            self.refused = self.refused.wrapping_add(1);
        }
    }

    /// How many streams ended by `vector`.
    pub(crate) fn of(&self, vector: u64) -> u64 {
        let index = usize::try_from(vector).unwrap_or(usize::MAX);
        self.ends.get(index).copied().unwrap_or(0)
    }

    /// Says it all.
    pub(crate) fn print(&self) {
        println!(
            "fuzz: {} streams, {} in the kernel, {} hypercalls ({} refused), {} events, {} system calls, {} failsafe callbacks",
            self.streams,
            self.in_kernel,
            self.hypercalls,
            self.refused,
            self.of(UPCALL),
            self.of(SYSCALL),
            self.of(FAILSAFE),
        );
        for vector in Vector::ALL {
            let count = self.of(vector.raw().into());
            if count != 0 {
                println!("fuzz: {count} times {vector}");
            }
        }
        let by_software: u64 = self.ends.iter().take(256).skip(32).sum();
        println!("fuzz: {by_software} software interrupts");
    }
}

/// What is wrong with an end, if something is.
pub(crate) fn complaint(mode: Mode, end: &End) -> Option<&'static str> {
    let Registers { cs, rflags, ss, .. } = end.registers;
    let privilege = cs & u64::from(RPL_MASK);
    let is_shown_as = match mode {
        Mode::Kernel => privilege == 0,
        Mode::User => privilege == 3,
    };
    if !is_shown_as {
        return Some("its mode is shown wrongly");
    }
    if cs >> 16 != 0 || ss >> 16 != 0 {
        return Some("a selector's word has something else in it, or events were masked");
    }
    if rflags & NEVER != 0 || rflags & ALWAYS != ALWAYS {
        return Some("its flags are shown wrongly");
    }
    let vector = u8::try_from(end.vector).ok();
    match vector.and_then(Vector::from_raw) {
        Some(Vector::PageFault) => {
            let code = end.error_code;
            let is_user = code & u64::from(PF_USER) != 0;
            if code & u64::from(PF_RESERVED) != 0 {
                Some("a reserved bit is told")
            } else if is_user != (mode == Mode::User) {
                Some("a page fault's mode is told wrongly")
            } else {
                None
            }
        }
        // A kernel sends itself one by a hypercall.
        Some(Vector::Nmi) if mode == Mode::Kernel => None,
        Some(Vector::DoubleFault | Vector::MachineCheck | Vector::Nmi) => Some("no guest can raise this"),
        Some(_) => None,
        None => match vector {
            Some(vector) if OPEN.contains(&vector) => None,
            Some(vector) if KERNELS.contains(&vector) && mode == Mode::Kernel => None,
            Some(_) => Some("a vector was reached by an instruction that may not"),
            None if end.vector == SYSCALL && mode == Mode::Kernel => Some("a hypercall became a system call"),
            None => None,
        },
    }
}
