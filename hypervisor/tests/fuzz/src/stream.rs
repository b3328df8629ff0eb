//! A stream of instructions: how it begins, how it ends, and the way there and back.
//!
//! A stream runs with all registers as [`Start`] has them, in the guest's kernel or as a program of it, until something
//! brings the hypervisor to enter the kernel: an exception, a system call, an event. Nothing of the stream is kept but
//! what the hypervisor says about it, [`End`]: the kernel goes on with its own stack and registers, wherever the stream's
//! stack pointer was.
//!
//! A kernel has one stack for everything, in this ABI, and so a stream that runs in the kernel and spoils its stack
//! pointer ends the domain. A program cannot.

use core::{
    arch::{global_asm, naked_asm},
    cell::UnsafeCell,
    mem::{MaybeUninit, offset_of},
};

use bulkhead_abi::{Hypercall, selectors::RPL_MASK};

/// The registers of a stream. In an [`End`], as the frame has them; in particular `cs` has the upcall mask in its upper half.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub(crate) struct Registers {
    pub(crate) rax: u64,
    pub(crate) rbx: u64,
    pub(crate) rcx: u64,
    pub(crate) rdx: u64,
    pub(crate) rsi: u64,
    pub(crate) rdi: u64,
    pub(crate) rbp: u64,
    pub(crate) r8: u64,
    pub(crate) r9: u64,
    pub(crate) r10: u64,
    pub(crate) r11: u64,
    pub(crate) r12: u64,
    pub(crate) r13: u64,
    pub(crate) r14: u64,
    pub(crate) r15: u64,
    pub(crate) rip: u64,
    pub(crate) cs: u64,
    pub(crate) rflags: u64,
    pub(crate) rsp: u64,
    pub(crate) ss: u64,
}

/// What a stream begins with.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub(crate) struct Start {
    pub(crate) registers: Registers,
    /// For a program: the flags of the frame by which it is entered.
    pub(crate) frame_flags: u64,
}

/// What the hypervisor said when it entered the kernel.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub(crate) struct End {
    /// The vector, or one of [`UPCALL`], [`SYSCALL`], [`FAILSAFE`].
    pub(crate) vector: u64,
    /// The error code, if the vector has one.
    pub(crate) error_code: u64,
    /// Where the stream was.
    pub(crate) registers: Registers,
    /// What the kernel found.
    pub(crate) entry: Entry,
}

/// The kernel's registers at its entry.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub(crate) struct Entry {
    /// The stack pointer: where the frame begins.
    pub(crate) rsp: u64,
    pub(crate) rflags: u64,
}

/// The first number that is no vector: an event came.
pub(crate) const UPCALL: u64 = 256;
/// A program called its kernel.
pub(crate) const SYSCALL: u64 = 257;
/// A segment register could not be loaded.
pub(crate) const FAILSAFE: u64 = 258;
/// How many ways to end there are.
pub(crate) const ENDS: usize = 259;

/// What the two ways exchange.
#[repr(C)]
struct Exchange {
    start: Start,
    end: End,
    /// The kernel's stack pointer, while a stream runs.
    kernel_sp: u64,
    /// Whether a stream runs: an entry meanwhile is its end.
    is_running: u64,
}

struct Shared(UnsafeCell<MaybeUninit<Exchange>>);

// SAFETY: there is one vCPU, and nothing interrupts `run`, the only user, but what ends a stream.
unsafe impl Sync for Shared {}

static EXCHANGE: Shared = Shared(UnsafeCell::new(MaybeUninit::zeroed()));

/// Where a stream runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    /// In the guest's kernel: instructions that ring 3 may not execute are emulated, SYSCALL is a hypercall.
    Kernel,
    /// As a program of the guest's: in tables of its own, with nothing in them that the kernel needs.
    User,
}

/// The right to run streams.
#[derive(Debug)]
pub(crate) struct Runner(());

impl Runner {
    /// For a guest whose entry points are those of [`entry_point`].
    ///
    /// # Safety
    ///
    /// They must be so, and there must be one runner only.
    pub(crate) const unsafe fn new() -> Self {
        Self(())
    }

    /// Runs a stream to its end.
    ///
    /// # Safety
    ///
    /// A stream does what its instructions say: nothing that Rust relies on may be in its reach, as far as that can be had.
    /// (What runs in the kernel may reach all of it by chance. Then the domain dies, or says nonsense.)
    pub(crate) unsafe fn run(&mut self, mode: Mode, start: Start) -> End {
        const RPL: u64 = RPL_MASK as u64;
        let exchange = EXCHANGE.0.get().cast::<Exchange>();
        let cs = match mode {
            Mode::Kernel => start.registers.cs & !RPL,
            Mode::User => start.registers.cs | RPL,
        };
        // SAFETY: there is one runner, borrowed exclusively, and zeros are as good as any numbers. The function keeps what a C
        // function must.
        unsafe {
            (*exchange).start = start;
            (*exchange).start.registers.cs = cs;
            run();
            (*exchange).end
        }
    }
}

/// Goes to the stream by the hypercall `iret`, which lets events in.
#[unsafe(naked)]
unsafe extern "C" fn run() {
    naked_asm!(
        "push rbx", "push rbp", "push r12", "push r13", "push r14", "push r15",
        "lea rdi, [rip + {exchange}]",
        "mov [rdi + {kernel_sp}], rsp",
        "mov qword ptr [rdi + {is_running}], 1",
        "push [rdi + {ss}]",
        "push [rdi + {rsp}]",
        "push [rdi + {rflags}]",
        "push [rdi + {cs}]",
        "push [rdi + {rip}]",
        "push [rdi + {frame_flags}]",
        "push [rdi + {rcx}]",
        "push [rdi + {r11}]",
        "push [rdi + {rax}]",
        "mov rbx, [rdi + {rbx}]", "mov rdx, [rdi + {rdx}]",
        "mov rsi, [rdi + {rsi}]", "mov rbp, [rdi + {rbp}]",
        "mov r8, [rdi + {r8}]", "mov r9, [rdi + {r9}]", "mov r10, [rdi + {r10}]",
        "mov r12, [rdi + {r12}]", "mov r13, [rdi + {r13}]", "mov r14, [rdi + {r14}]", "mov r15, [rdi + {r15}]",
        "mov rdi, [rdi + {rdi}]",
        "mov eax, {iret}",
        "syscall",
        "ud2",
        exchange = sym EXCHANGE,
        kernel_sp = const offset_of!(Exchange, kernel_sp),
        is_running = const offset_of!(Exchange, is_running),
        iret = const Hypercall::Iret.raw(),
        rax = const offset_of!(Exchange, start.registers.rax),
        rbx = const offset_of!(Exchange, start.registers.rbx),
        rcx = const offset_of!(Exchange, start.registers.rcx),
        rdx = const offset_of!(Exchange, start.registers.rdx),
        rsi = const offset_of!(Exchange, start.registers.rsi),
        rdi = const offset_of!(Exchange, start.registers.rdi),
        rbp = const offset_of!(Exchange, start.registers.rbp),
        r8 = const offset_of!(Exchange, start.registers.r8),
        r9 = const offset_of!(Exchange, start.registers.r9),
        r10 = const offset_of!(Exchange, start.registers.r10),
        r11 = const offset_of!(Exchange, start.registers.r11),
        r12 = const offset_of!(Exchange, start.registers.r12),
        r13 = const offset_of!(Exchange, start.registers.r13),
        r14 = const offset_of!(Exchange, start.registers.r14),
        r15 = const offset_of!(Exchange, start.registers.r15),
        rip = const offset_of!(Exchange, start.registers.rip),
        cs = const offset_of!(Exchange, start.registers.cs),
        rflags = const offset_of!(Exchange, start.registers.rflags),
        rsp = const offset_of!(Exchange, start.registers.rsp),
        ss = const offset_of!(Exchange, start.registers.ss),
        frame_flags = const offset_of!(Exchange, start.frame_flags),
    )
}

unsafe extern "C" {
    /// The entry points by number, each of [`ENTRY_SIZE`] bytes.
    static fuzz_entries: [u8; ENDS * ENTRY_SIZE];
}

const ENTRY_SIZE: usize = 16;

/// Vectors with an error code, as bits.
const WITH_ERROR_CODE: u32 = 1 << 8 | 0x1f << 10 | 1 << 17 | 1 << 21;

/// Bytes of a frame before rip: rcx and r11, and for the failsafe callback four selectors.
const TO_RIP: u32 = 16;
const TO_RIP_FAILSAFE: u32 = 48;

/// The address of the entry point number `end`.
pub(crate) fn entry_point(end: usize) -> u64 {
    let base = (&raw const fuzz_entries).addr();
    base.wrapping_add(end.wrapping_mul(ENTRY_SIZE)) as u64
}

global_asm!(
    ".text",
    ".balign {ENTRY_SIZE}",
    ".globl fuzz_entries",
    "fuzz_entries:",
    ".set end, 0",
    ".rept {ENDS}",
    ".balign {ENTRY_SIZE}",
    "mov dword ptr [rip + {exchange} + {vector}], end",
    "jmp fuzz_end",
    ".set end, end + 1",
    ".endr",
    ".balign {ENTRY_SIZE}",

    // In: a frame at rsp, wherever that is, and the stream's registers.
    "fuzz_end:",
    "mov [rip + {exchange} + {rdi}], rdi",
    "lea rdi, [rip + {exchange}]",
    "pushfq",
    "pop [rdi + {entry_rflags}]",
    "mov [rdi + {entry_rsp}], rsp",
    "cld",
    "mov [rdi + {rax}], rax", "mov [rdi + {rbx}], rbx", "mov [rdi + {rdx}], rdx", "mov [rdi + {rsi}], rsi",
    "mov [rdi + {rbp}], rbp", "mov [rdi + {r8}], r8", "mov [rdi + {r9}], r9", "mov [rdi + {r10}], r10",
    "mov [rdi + {r12}], r12", "mov [rdi + {r13}], r13", "mov [rdi + {r14}], r14", "mov [rdi + {r15}], r15",
    "mov rax, [rsp]", "mov [rdi + {rcx}], rax", "mov rax, [rsp + 8]", "mov [rdi + {r11}], rax",
    "mov ecx, dword ptr [rdi + {vector}]",
    "lea rsi, [rsp + {TO_RIP}]",
    "xor edx, edx",
    "cmp ecx, {FAILSAFE}",
    "jne 2f",
    "lea rsi, [rsp + {TO_RIP_FAILSAFE}]",
    "2:",
    "cmp ecx, 32",
    "jae 3f",
    "mov eax, {WITH_ERROR_CODE}",
    "bt eax, ecx",
    "jnc 3f",
    "mov rdx, [rsi]",
    "add rsi, 8",
    "3:",
    "mov [rdi + {error_code}], rdx",
    "mov rax, [rsi]",
    "mov [rdi + {rip}], rax",
    "mov rax, [rsi + 8]",
    "mov [rdi + {cs}], rax",
    "mov rax, [rsi + 16]",
    "mov [rdi + {rflags}], rax",
    "mov rax, [rsi + 24]",
    "mov [rdi + {rsp}], rax",
    "mov rax, [rsi + 32]",
    "mov [rdi + {ss}], rax",
    "cmp qword ptr [rdi + {is_running}], 0",
    "je 4f",
    "mov qword ptr [rdi + {is_running}], 0",
    "mov rsp, [rdi + {kernel_sp}]",
    "pop r15", "pop r14", "pop r13", "pop r12", "pop rbp", "pop rbx",
    "ret",
    // Not a stream's end: the guest itself did something wrong.
    "4:",
    "lea rdi, [rdi + {end}]",
    "and rsp, -16",
    "xor ebp, ebp",
    "call {astray}",
    "ud2",
    exchange = sym EXCHANGE,
    ENTRY_SIZE = const ENTRY_SIZE,
    ENDS = const ENDS,
    FAILSAFE = const FAILSAFE,
    WITH_ERROR_CODE = const WITH_ERROR_CODE,
    TO_RIP = const TO_RIP,
    TO_RIP_FAILSAFE = const TO_RIP_FAILSAFE,
    end = const offset_of!(Exchange, end),
    vector = const offset_of!(Exchange, end.vector),
    entry_rsp = const offset_of!(Exchange, end.entry.rsp),
    entry_rflags = const offset_of!(Exchange, end.entry.rflags),
    error_code = const offset_of!(Exchange, end.error_code),
    rip = const offset_of!(Exchange, end.registers.rip),
    cs = const offset_of!(Exchange, end.registers.cs),
    rflags = const offset_of!(Exchange, end.registers.rflags),
    rsp = const offset_of!(Exchange, end.registers.rsp),
    ss = const offset_of!(Exchange, end.registers.ss),
    rax = const offset_of!(Exchange, end.registers.rax),
    rbx = const offset_of!(Exchange, end.registers.rbx),
    rcx = const offset_of!(Exchange, end.registers.rcx),
    rdx = const offset_of!(Exchange, end.registers.rdx),
    rsi = const offset_of!(Exchange, end.registers.rsi),
    rdi = const offset_of!(Exchange, end.registers.rdi),
    rbp = const offset_of!(Exchange, end.registers.rbp),
    r8 = const offset_of!(Exchange, end.registers.r8),
    r9 = const offset_of!(Exchange, end.registers.r9),
    r10 = const offset_of!(Exchange, end.registers.r10),
    r11 = const offset_of!(Exchange, end.registers.r11),
    r12 = const offset_of!(Exchange, end.registers.r12),
    r13 = const offset_of!(Exchange, end.registers.r13),
    r14 = const offset_of!(Exchange, end.registers.r14),
    r15 = const offset_of!(Exchange, end.registers.r15),
    is_running = const offset_of!(Exchange, is_running),
    kernel_sp = const offset_of!(Exchange, kernel_sp),
    astray = sym astray,
);

/// The guest's own code faulted.
extern "C" fn astray(end: &End) -> ! {
    panic!("the fuzz guest itself faulted: {end:x?}")
}
