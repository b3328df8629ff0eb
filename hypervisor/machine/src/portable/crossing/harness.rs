//! Runs the code of the crossings on the host.

use core::arch::naked_asm;
use core::mem::offset_of;
use spin::Mutex;

use super::closed;
use crate::crossing_code;
use bulkhead_abi::selectors::{FLAT_RING3_CS64, FLAT_RING3_SS};
use bulkhead_core::vcpu::{Context, Regs};

/// How the code ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    Slow,
    Trap,
    Sysret,
    Iret,
}

/// What the code did.
#[derive(Debug)]
pub(super) struct Outcome {
    pub(super) end: End,
    /// The guest's registers then; its frame's, if it is about to go on.
    pub(super) after: Regs,
    /// The last root that was loaded.
    pub(super) root: u64,
    /// How often the bases of GS changed places.
    pub(super) swaps: u64,
    /// What FS's base was set to, and the selector that was loaded for the other GS.
    pub(super) fs_base: Option<u64>,
    pub(super) other_gs: Option<u64>,
    /// What CR2 is then.
    pub(super) cr2: u64,
}

/// What the code finds around the registers.
#[repr(C)]
struct Record {
    kept_rcx: u64,
    regs: Regs,
    kept_r11: u64,
    context: *mut Context,
}

/// What is noted while the code runs.
#[derive(Clone, Copy)]
#[repr(C)]
struct Notes {
    root: u64,
    swaps: u64,
    fs_base: u64,
    other_gs: u64,
    cr2: u64,
    /// Where the code is entered.
    entry: u64,
    /// How often guest memory was allowed and not forbidden again.
    allowed: u64,
    /// [`SLOW`], [`SYSRET`], [`IRET`] or [`TRAP`].
    end: u64,
    /// The registers at the end, in the order of [`Regs`], up to rdi.
    general: [u64; 15],
    rsp: u64,
    /// The host's stack pointer meanwhile.
    host_rsp: u64,
}

const SLOW: u64 = 1;
const SYSRET: u64 = 2;
const IRET: u64 = 3;
const TRAP: u64 = 4;

unsafe extern "C" {
    static crossing_enter: u8;
    static crossing_page_fault: u8;
}

/// Neither a canonical address nor a selector.
const UNSET: u64 = 1 << 63;

const NOTHING: Notes = Notes {
    root: 0,
    swaps: 0,
    fs_base: UNSET,
    other_gs: UNSET,
    cr2: 0,
    entry: 0,
    allowed: 0,
    end: 0,
    general: [0; 15],
    rsp: 0,
    host_rsp: 0,
};

static mut NOTES: Notes = NOTHING;

crossing_code! {
    {
        ".macro load_root root",
        "mov [rip + {NOTES} + {NOTED_ROOT}], \\root",
        ".endm",
        ".macro swap_gs",
        "add qword ptr [rip + {NOTES} + {NOTED_SWAPS}], 1",
        ".endm",
        ".macro allow_guest_memory",
        "add qword ptr [rip + {NOTES} + {NOTED_ALLOWED}], 1",
        ".endm",
        ".macro forbid_guest_memory",
        "sub qword ptr [rip + {NOTES} + {NOTED_ALLOWED}], 1",
        ".endm",
        ".macro return_by_sysret",
        "mov qword ptr [rip + {NOTES} + {NOTED_END}], {SYSRET}",
        "jmp crossing_noted",
        ".endm",
        ".macro read_cr2 to",
        "mov \\to, [rip + {NOTES} + {NOTED_CR2}]",
        ".endm",
        ".macro write_cr2 from",
        "mov [rip + {NOTES} + {NOTED_CR2}], \\from",
        ".endm",
        ".macro set_fs_base",
        "mov [rip + {NOTES} + {NOTED_FS}], rax",
        "xor ecx, ecx",
        "xor edx, edx",
        ".endm",
        ".macro load_other_gs",
        "mov [rip + {NOTES} + {NOTED_GS}], rdi",
        "push rdi",
        "pop rdi",
        "xor edi, edi",
        ".endm",
        "crossing_iret:",
        "mov qword ptr [rip + {NOTES} + {NOTED_END}], {BY_IRET}",
        "jmp crossing_noted",
        "crossing_trap_slow:",
        "mov qword ptr [rip + {NOTES} + {NOTED_END}], {TRAP}",
        "jmp crossing_noted",
        "crossing_slow:",
        "mov qword ptr [rip + {NOTES} + {NOTED_END}], {SLOW}",
        // rsp may be the guest's.
        "crossing_noted:",
        "mov [rip + {NOTES} + {NOTED_RSP}], rsp",
        "lea rsp, [rip + {NOTES} + {NOTED_GENERAL} + 15 * 8]",
        "push rdi", "push rsi", "push rdx", "push rcx", "push rax", "push r8", "push r9", "push r10",
        "push r11", "push rbx", "push rbp", "push r12", "push r13", "push r14", "push r15",
        "mov rsp, [rip + {NOTES} + {NOTED_HOST}]",
        "pop r15", "pop r14", "pop r13", "pop r12", "pop rbp", "pop rbx",
        "ret",
    }
    NOTES = sym NOTES,
    NOTED_ROOT = const offset_of!(Notes, root),
    NOTED_SWAPS = const offset_of!(Notes, swaps),
    NOTED_FS = const offset_of!(Notes, fs_base),
    NOTED_GS = const offset_of!(Notes, other_gs),
    NOTED_CR2 = const offset_of!(Notes, cr2),
    NOTED_ALLOWED = const offset_of!(Notes, allowed),
    NOTED_END = const offset_of!(Notes, end),
    NOTED_GENERAL = const offset_of!(Notes, general),
    NOTED_RSP = const offset_of!(Notes, rsp),
    NOTED_HOST = const offset_of!(Notes, host_rsp),
    SLOW = const SLOW,
    SYSRET = const SYSRET,
    TRAP = const TRAP,
    BY_IRET = const IRET,
    CONTEXT = const offset_of!(Record, context) - offset_of!(Record, regs),
    KEPT_R11 = const offset_of!(Record, kept_r11) - offset_of!(Record, regs),
    KEPT_RCX = const -8,
    FRAMES = const 0,
}

const _: () = assert!(offset_of!(Record, regs) - offset_of!(Record, kept_rcx) == 8);

/// Enters the code where the notes say, with the registers at `regs`.
#[unsafe(naked)]
unsafe extern "C" fn enter(regs: *mut Regs) {
    naked_asm!(
        "push rbx", "push rbp", "push r12", "push r13", "push r14", "push r15",
        "mov [rip + {notes} + {host_rsp}], rsp",
        "mov rsp, rdi",
        "mov r15, [rsp + {r15}]", "mov r14, [rsp + {r14}]", "mov r13, [rsp + {r13}]", "mov r12, [rsp + {r12}]",
        "mov rbp, [rsp + {rbp}]", "mov rbx, [rsp + {rbx}]", "mov r10, [rsp + {r10}]", "mov r9, [rsp + {r9}]",
        "mov r8, [rsp + {r8}]", "mov rax, [rsp + {rax}]", "mov rdx, [rsp + {rdx}]", "mov rsi, [rsp + {rsi}]",
        "mov rdi, [rsp + {rdi}]", "mov rcx, [rsp + {rcx}]", "mov r11, [rsp + {r11}]",
        "jmp qword ptr [rip + {notes} + {entry}]",
        notes = sym NOTES,
        entry = const offset_of!(Notes, entry),
        host_rsp = const offset_of!(Notes, host_rsp),
        r15 = const offset_of!(Regs, r15),
        r14 = const offset_of!(Regs, r14),
        r13 = const offset_of!(Regs, r13),
        r12 = const offset_of!(Regs, r12),
        rbp = const offset_of!(Regs, rbp),
        rbx = const offset_of!(Regs, rbx),
        r10 = const offset_of!(Regs, r10),
        r9 = const offset_of!(Regs, r9),
        r8 = const offset_of!(Regs, r8),
        rax = const offset_of!(Regs, rax),
        rdx = const offset_of!(Regs, rdx),
        rsi = const offset_of!(Regs, rsi),
        rdi = const offset_of!(Regs, rdi),
        rcx = const offset_of!(Regs, rcx),
        r11 = const offset_of!(Regs, r11),
    )
}

/// There is one set of notes.
static TURN: Mutex<()> = Mutex::new(());

/// Lets the code serve a SYSCALL with `regs` and `context`, whose addresses must be the test's own.
pub(super) fn run(regs: &Regs, context: &mut Context) -> Outcome {
    call(regs, context)
}

/// Lets the code serve a SYSCALL when nothing may go by without Rust.
pub(super) fn run_closed(regs: &Regs) -> Outcome {
    call(regs, closed())
}

/// Lets the code take a page fault at the address `cr2` with `regs` and `context`, as [`run`] does.
pub(super) fn fault(regs: &Regs, cr2: u64, context: &mut Context) -> Outcome {
    run_at(&raw const crossing_page_fault, regs, cr2, context)
}

/// Lets the code take a page fault when nothing may go by without Rust.
pub(super) fn fault_closed(regs: &Regs, cr2: u64) -> Outcome {
    run_at(&raw const crossing_page_fault, regs, cr2, closed())
}

/// As SYSCALL does: with rip in rcx and the flags in r11.
fn call(regs: &Regs, context: *mut Context) -> Outcome {
    let called = Regs {
        rcx: regs.rip,
        r11: regs.rflags,
        ..*regs
    };
    run_at(&raw const crossing_enter, &called, 0, context)
}

fn run_at(entry: *const u8, regs: &Regs, cr2: u64, context: *mut Context) -> Outcome {
    let _turn = TURN.lock();
    let mut record = Record {
        kept_rcx: 0,
        regs: *regs,
        kept_r11: 0,
        context,
    };
    // SAFETY: it is this test's turn to use the notes; record and context outlive the call, and the stacks that they name are the
    // test's, or such that the code must not touch them. It ends in the harness, which gives the host its registers back.
    let notes = unsafe {
        NOTES = Notes {
            cr2,
            entry: entry.addr() as u64,
            ..NOTHING
        };
        enter(&raw mut record.regs);
        NOTES
    };
    assert_eq!(notes.allowed, 0, "guest memory stays allowed");
    let [
        r15,
        r14,
        r13,
        r12,
        rbp,
        rbx,
        r11,
        r10,
        r9,
        r8,
        rax,
        rcx,
        rdx,
        rsi,
        rdi,
    ] = notes.general;
    let general = Regs {
        r15,
        r14,
        r13,
        r12,
        rbp,
        rbx,
        r11,
        r10,
        r9,
        r8,
        rax,
        rcx,
        rdx,
        rsi,
        rdi,
        ..*regs
    };
    let (end, after) = match notes.end {
        SLOW => {
            assert_eq!(notes.rsp, (&raw const record.regs).addr() as u64);
            let Regs { rbx, rsp, .. } = record.regs;
            (End::Slow, Regs { rbx, rsp, ..general })
        }
        TRAP => {
            assert_eq!(notes.rsp, (&raw const record.regs).addr() as u64);
            (End::Trap, general)
        }
        SYSRET => (
            End::Sysret,
            flat(Regs {
                rip: rcx,
                rflags: r11,
                rsp: notes.rsp,
                ..general
            }),
        ),
        IRET => {
            assert_eq!(notes.rsp, (&raw const record.regs.rip).addr() as u64);
            let Regs {
                rip,
                cs,
                rflags,
                rsp,
                ss,
                ..
            } = record.regs;
            (
                End::Iret,
                Regs {
                    rip,
                    cs,
                    rflags,
                    rsp,
                    ss,
                    ..general
                },
            )
        }
        other => panic!("the code ended by {other}"),
    };
    Outcome {
        end,
        after,
        root: notes.root,
        swaps: notes.swaps,
        fs_base: Some(notes.fs_base).filter(|base| *base != UNSET),
        cr2: notes.cr2,
        other_gs: Some(notes.other_gs).filter(|selector| *selector != UNSET),
    }
}

/// With the selectors that SYSCALL and SYSRET imply.
pub(super) fn flat(regs: Regs) -> Regs {
    Regs {
        cs: u64::from(FLAT_RING3_CS64),
        ss: u64::from(FLAT_RING3_SS),
        ..regs
    }
}
