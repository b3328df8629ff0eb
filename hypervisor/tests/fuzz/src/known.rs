//! Streams with a known end: each trap by its name, from the kernel and from a program, and what its frame says, word by word.
//!
//! A check has the name of what is executed and of who does it. Source: the guest ABI's sections 6.2, 6.3 and 6.8; Intel SDM volume
//! 3A, chapter 6.

use alloc::format;

use bulkhead_abi::{
    Hypercall,
    layout::{HYPERVISOR, PAGE_SIZE},
    selectors::{FLAT_RING3_CS32, FLAT_RING3_CS64, FLAT_RING3_SS},
    trap::{PF_FETCH, PF_PRESENT, PF_USER, PF_WRITE, STACK_ALIGN, Vector},
};
use bulkhead_runtime::{println, report::Checks};

use crate::{
    calls::must,
    hypercalls::DONE,
    space::{CODE, Space},
    stream::{End, Mode, Registers, Runner, SYSCALL, Start},
};

/// How a stream ends, and where.
#[derive(Clone, Copy, Debug)]
enum Ends {
    /// By this vector without an error code, so many bytes into the code.
    By(u64, u64),
    /// By a fault of this vector with this error code, at the first instruction.
    Fault(Vector, u64),
    /// By any of these faults, with error code 0: CPUs, or the emulator, differ.
    AnyOf(&'static [Vector]),
    /// By a protection fault at an INT n that may not be: the error code names the vector. (The emulator's is off; hence two.)
    Forbidden(u64),
    /// By a page fault with this error code (but for the user bit), at this address.
    Page(u32, u64),
    /// By none: it goes through, and RAX has a value of which these bits are known.
    Through { mask: u64, rax: u64 },
}

use Ends::{AnyOf, By, Fault, Forbidden, Page, Through};

/// Goes through, and RAX does not matter.
const PASSES: Ends = Through { mask: 0, rax: 0 };
const PROTECTION: Ends = Fault(Vector::GeneralProtection, 0);
const INVALID: Ends = Fault(Vector::InvalidOpcode, 0);

/// A stream with a known end.
#[derive(Clone, Copy, Debug)]
struct Known {
    name: &'static str,
    code: &'static [u8],
    rax: u64,
    rcx: u64,
    kernel: Ends,
    user: Ends,
}

const fn known(name: &'static str, code: &'static [u8], kernel: Ends, user: Ends) -> Known {
    Known {
        name,
        code,
        rax: 0,
        rcx: 0,
        kernel,
        user,
    }
}

/// The same for both.
const fn both(name: &'static str, code: &'static [u8], ends: Ends) -> Known {
    known(name, code, ends, ends)
}

impl Known {
    const fn rax(self, rax: u64) -> Self {
        Self { rax, ..self }
    }

    const fn rcx(self, rcx: u64) -> Self {
        Self { rcx, ..self }
    }
}

/// Words for instructions to load: at the start of the plain page.
const WORDS: u64 = 8 << 12;
/// An x87 control word that lets all errors through, and what is far jumped to: ring 0's code.
const WORD_VALUES: [u64; 2] = [0x0340, 0xe008_0000_1000];

/// Pages of the space, by their place in it.
const TABLE_PAGE: u64 = 2 << 12;
const HOLE: u64 = 3 << 12;
const PLAIN: u64 = 9 << 12;

const KNOWN: &[Known] = &[
    both("divide", &[0xf7, 0xf1], By(0, 0)),
    both("divide-overflow", &[0xf6, 0xf1], By(0, 0))
        .rax(0x1000)
        .rcx(1),
    both("int3", &[0xcc], By(3, 1)),
    both("int-3", &[0xcd, 3], By(3, 2)),
    both("int-4", &[0xcd, 4], By(4, 2)),
    both("into-in-64-bit-code", &[0xce], INVALID),
    both("ud2", &[0x0f, 0x0b], INVALID),
    both("mov-to-cs", &[0x8e, 0xc8], INVALID),
    // x87: the error of a division comes with the next waiting instruction.
    both(
        "x87-error",
        &[0xdb, 0xe3, 0xd9, 0x28, 0xd9, 0xe8, 0xd9, 0xee, 0xde, 0xf9, 0x9b],
        By(16, 10),
    )
    .rax(WORDS),
    // Segments: of the guest's own table one that is not present; ring 0's; none; a stack's.
    both(
        "load-of-an-absent-segment",
        &[0x8e, 0xd8],
        Fault(Vector::SegmentNotPresent, 0x60),
    )
    .rax(0x63),
    both(
        "load-of-an-absent-stack-segment",
        &[0x8e, 0xd0],
        Fault(Vector::StackSegment, 0x60),
    )
    .rax(0x63),
    both(
        "load-of-ring-0-data",
        &[0x8e, 0xd8],
        Fault(Vector::GeneralProtection, 0xe010),
    )
    .rax(0xe010),
    both(
        "load-of-ring-0-code",
        &[0x8e, 0xd8],
        Fault(Vector::GeneralProtection, 0xe008),
    )
    .rax(0xe008),
    both(
        "load-of-the-task-segment",
        &[0x8e, 0xd8],
        Fault(Vector::GeneralProtection, 0xe040),
    )
    .rax(0xe040),
    both(
        "load-beyond-the-table",
        &[0x8e, 0xd8],
        Fault(Vector::GeneralProtection, 0xfff8),
    )
    .rax(0xfffb),
    both("load-of-a-null-stack-segment", &[0x8e, 0xd0], PROTECTION).rax(3),
    both(
        "far-jump-to-ring-0",
        &[0xff, 0x28],
        Fault(Vector::GeneralProtection, 0xe008),
    )
    .rax(WORDS + 8),
    // Memory.
    both("read-of-a-hole", &[0x8b, 0x00], Page(0, HOLE + 8)).rax(HOLE + 8),
    both("write-to-a-hole", &[0x89, 0x00], Page(PF_WRITE, HOLE)).rax(HOLE),
    both(
        "write-to-a-read-only-page",
        &[0x89, 0x00],
        Page(PF_WRITE | PF_PRESENT, CODE + 16),
    )
    .rax(CODE + 16),
    both(
        "write-of-a-bad-entry-to-a-table",
        &[0x89, 0x08],
        Page(PF_WRITE | PF_PRESENT, TABLE_PAGE + 8),
    )
    .rax(TABLE_PAGE + 8)
    .rcx(0xffff_f067),
    both("read-of-a-table", &[0x8b, 0x00], PASSES).rax(TABLE_PAGE),
    both(
        "execution-of-data",
        &[0xff, 0xe0],
        Page(PF_FETCH | PF_PRESENT, PLAIN),
    )
    .rax(PLAIN),
    both("execution-of-a-hole", &[0xff, 0xe0], Page(PF_FETCH, HOLE)).rax(HOLE),
    both(
        "read-of-the-hypervisor",
        &[0x8b, 0x00],
        Page(PF_PRESENT, 0xffff_82d0_8020_0000),
    )
    .rax(0xffff_82d0_8020_0000),
    both(
        "write-to-the-hypervisors-table-of-frames",
        &[0x89, 0x00],
        Page(PF_WRITE | PF_PRESENT, HYPERVISOR.start),
    )
    .rax(HYPERVISOR.start),
    both("read-of-what-is-not-canonical", &[0x8b, 0x00], PROTECTION).rax(1 << 47),
    both("write-of-what-is-not-canonical", &[0x89, 0x00], PROTECTION).rax(0xffff_7fff_ffff_fff8),
    // Software interrupts: vectors 0x20 on are nobody's, 0x40 on the kernel's, 0x80 on everybody's.
    both("int-of-nobodys", &[0xcd, 0x20], Forbidden(0x20)),
    known("int-of-the-kernels", &[0xcd, 0x40], By(0x40, 2), Forbidden(0x40)),
    both("int-0x80", &[0xcd, 0x80], By(0x80, 2)),
    both("int-0xff", &[0xcd, 0xff], By(0xff, 2)),
    both("int-of-an-exception-with-error-code", &[0xcd, 14], Forbidden(14)),
    both("int-of-the-nmi", &[0xcd, 2], Forbidden(2)),
    both("int-of-the-double-fault", &[0xcd, 8], Forbidden(8)),
    both("int-of-the-machine-check", &[0xcd, 18], Forbidden(18)),
    // Ways in and out.
    known(
        "syscall",
        &[0x0f, 0x05],
        Through {
            mask: u64::MAX,
            rax: (-38_i64).cast_unsigned(),
        },
        By(SYSCALL, 2),
    )
    .rax(63),
    both("sysret", &[0x0f, 0x07], PROTECTION),
    both(
        "sysenter",
        &[0x0f, 0x34],
        AnyOf(&[Vector::GeneralProtection, Vector::InvalidOpcode]),
    ),
    both(
        "sysexit",
        &[0x0f, 0x35],
        AnyOf(&[Vector::GeneralProtection, Vector::InvalidOpcode]),
    ),
    both("hlt", &[0xf4], PROTECTION),
    both("swapgs", &[0x0f, 0x01, 0xf8], PROTECTION),
    // What nobody does in a guest's place.
    both("lgdt", &[0x0f, 0x01, 0x10], PROTECTION).rax(WORDS),
    both("lidt", &[0x0f, 0x01, 0x18], PROTECTION).rax(WORDS),
    both("lldt", &[0x0f, 0x00, 0xd0], PROTECTION),
    both("ltr", &[0x0f, 0x00, 0xd8], PROTECTION),
    both("invlpg", &[0x0f, 0x01, 0x38], PROTECTION).rax(WORDS),
    both("mov-from-cr8", &[0x44, 0x0f, 0x20, 0xc0], PROTECTION),
    both("mov-to-cr3", &[0x0f, 0x22, 0xd8], PROTECTION).rax(0x1000),
    both("rdpmc", &[0x0f, 0x33], PROTECTION),
    both("wrmsr-of-none", &[0x0f, 0x30], PROTECTION).rcx(0x1234_5678),
    both("rdmsr-of-none", &[0x0f, 0x32], PROTECTION).rcx(0x1234_5678),
    // What is done in a kernel's place, and in no program's.
    known("clts", &[0x0f, 0x06], PASSES, PROTECTION),
    known("wbinvd", &[0x0f, 0x09], PASSES, PROTECTION),
    known(
        "mov-from-cr0",
        &[0x0f, 0x20, 0xc0],
        Through {
            mask: 0xffff_ffff,
            rax: 0x8005_0033,
        },
        PROTECTION,
    ),
    known(
        "mov-from-cr4",
        &[0x0f, 0x20, 0xe0],
        Through {
            mask: 0x20,
            rax: 0x20,
        },
        PROTECTION,
    ),
    known(
        "rdmsr-of-efer",
        &[0x0f, 0x32],
        Through {
            mask: 0x501,
            rax: 0x501,
        },
        PROTECTION,
    )
    .rcx(0xc000_0080),
    // What is everybody's.
    both("rdtsc", &[0x0f, 0x31], PASSES),
    both("cpuid", &[0x0f, 0xa2], PASSES),
    both(
        "cpuid-of-the-hypervisor",
        &[0x0f, 0x0b, 0x78, 0x65, 0x6e, 0x0f, 0xa2, 0x89, 0xd8],
        Through {
            mask: 0xffff_ffff,
            rax: 0x566e_6558,
        },
    )
    .rax(0x4000_0000),
];

/// Makes all checks.
pub(crate) fn check(space: &Space, runner: &mut Runner, checks: &mut Checks) {
    let mut bench = Bench {
        space,
        runner,
        checks,
    };
    for known in KNOWN {
        for mode in [Mode::Kernel, Mode::User] {
            bench.check(known, mode, |_| {});
        }
    }
    bench.special();
}

/// Single-steps over a store that meets a breakpoint, which is one debug exception for two reasons; under QEMU it is two at once, of which no
/// stack can hold both frames, and the domain ends.
pub(crate) fn step_over_breakpoint(space: &Space, runner: &mut Runner, checks: &mut Checks) {
    // DR7: the first is enabled, for stores of four bytes.
    const STORES: u64 = 1 | 1 << 16 | 3 << 18;
    must(Hypercall::SetDebugreg, [0, PLAIN]);
    must(Hypercall::SetDebugreg, [7, STORES]);
    let mut bench = Bench {
        space,
        runner,
        checks,
    };
    let store = both("store-that-is-watched", &[0x89, 0x00], By(1, 2)).rax(PLAIN);
    for mode in [Mode::User, Mode::Kernel] {
        bench.check(&store, mode, |_| {});
    }
    let both_reasons = both("step-over-a-store-that-is-watched", &[0x89, 0x00], By(1, 2)).rax(PLAIN);
    for mode in [Mode::User, Mode::Kernel] {
        bench.check(&both_reasons, mode, |registers| registers.rflags |= TF);
    }
}

/// What checks are made with.
struct Bench<'a> {
    space: &'a Space,
    runner: &'a mut Runner,
    checks: &'a mut Checks,
}

/// A stack pointer that is aligned to nothing.
const STACK: u64 = (20 << 12) + 0x78d;
/// The interrupt flag, in a frame: events are not masked.
const IF: u64 = 1 << 9;
/// Single step.
const TF: u64 = 1 << 8;
/// After a fault, CPUs set it and the emulator does not.
const RF: u64 = 1 << 16;
/// Flags that no kernel is entered with: trap, nested task, resume, virtual 8086, alignment check.
const NOT_AT_ENTRY: u64 = TF | 1 << 14 | RF | 1 << 17 | 1 << 18;

impl Bench<'_> {
    /// What a table cannot say.
    fn special(&mut self) {
        let nop = both("single-step", &[0x90], By(1, 1));
        let fninit = both("fpu-of-somebody-else", &[0xdb, 0xe3], By(7, 0));
        let masked = both("fault-with-events-masked", &[0x0f, 0x0b], INVALID);
        let bound = both("bound-in-32-bit-code", &[0x62, 0x00], By(5, 0))
            .rax(WORDS)
            .rcx(0);
        let into = both("into-in-32-bit-code", &[0xce], By(4, 1));
        let aligned = both("fault-on-an-aligned-stack", &[0x0f, 0x0b], INVALID);
        let flags = both("fault-with-all-flags", &[0x0f, 0x0b], INVALID);
        for mode in [Mode::Kernel, Mode::User] {
            self.check(&nop, mode, |registers| registers.rflags |= TF);
            must(Hypercall::FpuTaskswitch, [1]);
            self.check(&fninit, mode, |_| {});
            // It was told, and so it is no longer somebody else's.
            let again = both("fpu-again", &[0xdb, 0xe3], PASSES);
            self.check(&again, mode, |_| {});
            self.check(&masked, mode, |registers| registers.rflags &= !IF);
            self.check(&bound, mode, |registers| registers.cs = FLAT_RING3_CS32.into());
            self.check(&into, mode, |registers| {
                registers.cs = FLAT_RING3_CS32.into();
                registers.rflags |= 1 << 11;
            });
            self.check(&aligned, mode, |registers| registers.rsp &= !0xf);
            // Arithmetic, direction, alignment, identification.
            self.check(&flags, mode, |registers| registers.rflags |= 0x24_0cd5);
        }
        // Only a program can be sent where no CPU goes: a kernel that goes there ends its domain.
        let nowhere = both("start-at-no-address", &[], PROTECTION);
        self.check(&nowhere, Mode::User, |registers| registers.rip = 1 << 47);
        let ring_0 = both("start-in-ring-0s-segment", &[], PROTECTION);
        self.check(&ring_0, Mode::User, |registers| registers.cs = 0xe008);
        let no_stack = both("fault-without-a-stack", &[0x0f, 0x0b], INVALID);
        for rsp in [0, 1 << 47, HYPERVISOR.start, u64::MAX] {
            self.check(&no_stack, Mode::User, |registers| registers.rsp = rsp);
        }
    }

    fn check(&mut self, known: &Known, mode: Mode, change: impl FnOnce(&mut Registers)) {
        let mut page = [DONE; PAGE_SIZE];
        // INT n: whatever follows the code ends the stream.
        let through = [known.code, &[0xcd, DONE]];
        for (place, byte) in page.iter_mut().zip(through.iter().copied().flatten()) {
            *place = *byte;
        }
        self.space.write_code(&page);
        let mut words = WORD_VALUES.into_iter();
        self.space.plain.fill(|| words.next().unwrap_or(0));
        let mut registers = Registers {
            rax: known.rax,
            rbx: 0xb,
            rcx: known.rcx,
            rsi: 0x51,
            rdi: 0xd1,
            rbp: 0xb9,
            r8: 8,
            r9: 9,
            r10: 10,
            r11: 11,
            r12: 12,
            r13: 13,
            r14: 14,
            r15: 15,
            rip: CODE,
            cs: FLAT_RING3_CS64.into(),
            rflags: 2 | IF,
            rsp: STACK,
            ss: FLAT_RING3_SS.into(),
            ..Registers::default()
        };
        change(&mut registers);
        let start = Start {
            registers,
            frame_flags: 0,
        };
        // SAFETY: the code is one of those above, which touch nothing but the space's pages.
        let end = unsafe { self.runner.run(mode, start) };
        let ends = match mode {
            Mode::Kernel => known.kernel,
            Mode::User => known.user,
        };
        let by = match mode {
            Mode::Kernel => "kernel",
            Mode::User => "program",
        };
        let wrong = is_wrong(ends, mode, &registers, &end, known.code.len() as u64)
            .or_else(|| wrong_entry(mode, &registers, &end, self.space));
        let result = match wrong {
            None => Ok(()),
            Some(why) => {
                println!("fuzz: {end:x?}");
                Err(why)
            }
        };
        self.checks.report(&format!("{}-by-{by}", known.name), result);
    }
}

/// What is wrong with how and where a stream ended.
fn is_wrong(ends: Ends, mode: Mode, start: &Registers, end: &End, len: u64) -> Option<&'static str> {
    let vector = |vector: Vector| u64::from(vector.raw());
    let at = |offset: u64| start.rip.wrapping_add(offset);
    let (is_vector, is_code, rip) = match ends {
        By(vector, offset) => (end.vector == vector, end.error_code == 0, at(offset)),
        Fault(fault, code) => (end.vector == vector(fault), end.error_code == code, at(0)),
        AnyOf(faults) => (
            faults.iter().any(|fault| end.vector == vector(*fault)),
            end.error_code == 0,
            at(0),
        ),
        Forbidden(number) => {
            let code = number << 3 | 2;
            (
                end.vector == vector(Vector::GeneralProtection),
                [code, number << 4 | 2].contains(&end.error_code),
                at(0),
            )
        }
        Page(code, address) => {
            let user = if mode == Mode::User { PF_USER } else { 0 };
            let is_fetch = code & PF_FETCH != 0;
            (
                end.vector == vector(Vector::PageFault),
                end.error_code == u64::from(code | user),
                if is_fetch { address } else { at(0) },
            )
        }
        Through { mask, rax } => (
            end.vector == u64::from(DONE),
            end.registers.rax & mask == rax,
            at(len.wrapping_add(2)),
        ),
    };
    if !is_vector {
        Some("another end")
    } else if !is_code {
        Some("another error code or result")
    } else if end.registers.rip != rip {
        Some("another place")
    } else {
        None
    }
}

/// What is wrong with the frame, or with the registers that the kernel was entered with.
fn wrong_entry(mode: Mode, start: &Registers, end: &End, space: &Space) -> Option<&'static str> {
    let Registers {
        cs, rflags, rsp, ss, ..
    } = end.registers;
    let was_masked = start.rflags & IF == 0;
    let privilege = match mode {
        Mode::Kernel => 0,
        Mode::User => 3,
    };
    let shown_cs = start.cs & !3 | privilege | u64::from(was_masked) << 32;
    // The arithmetic flags are the code's affair.
    let flags_kept = 0x24_0400 | TF | IF;
    let has_code = u8::try_from(end.vector)
        .ok()
        .and_then(Vector::from_raw)
        .is_some_and(Vector::has_error_code);
    let frame_len = if has_code { 64 } else { 56 };
    let top = match mode {
        Mode::Kernel => start.rsp,
        Mode::User => space.kernel_sp(),
    };
    let entry = &end.entry;
    if cs != shown_cs {
        Some("another cs, or another mask")
    } else if ss != start.ss {
        Some("another ss")
    } else if rsp != start.rsp {
        Some("another rsp")
    } else if (rflags ^ start.rflags) & flags_kept != 0 || rflags & !RF & !0x24_0fd7 & !IF != 0 {
        Some("other flags")
    } else if entry.rsp != (top & STACK_ALIGN.wrapping_neg()).wrapping_sub(frame_len) {
        Some("a frame elsewhere")
    } else if entry.rflags & NOT_AT_ENTRY != 0 || entry.rflags & IF == 0 {
        Some("entered with other flags")
    } else if end.vector == SYSCALL && (end.registers.rcx, end.registers.r11) != (end.registers.rip, rflags) {
        Some("not what SYSCALL leaves")
    } else if has_code && (end.registers.rcx, end.registers.r11) != (start.rcx, start.r11) {
        Some("other registers in the frame")
    } else {
        kept(start, &end.registers)
    }
}

/// Whether registers that no stream here uses were kept.
fn kept(start: &Registers, end: &Registers) -> Option<&'static str> {
    let of = |registers: &Registers| {
        let Registers {
            rsi,
            rdi,
            rbp,
            r8,
            r9,
            r10,
            r12,
            r13,
            r14,
            r15,
            ..
        } = *registers;
        [rsi, rdi, rbp, r8, r9, r10, r12, r13, r14, r15]
    };
    (of(start) != of(end)).then_some("a register was not kept")
}
