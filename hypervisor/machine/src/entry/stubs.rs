//! The first and last instructions of the hypervisor.
//!
//! Every way in ends with the interrupted registers as a [`Regs`] on the stack and interrupts off:
//!
//! - from a guest, by interrupt or exception: the CPU starts to push at the end of [`CpuInfo`]'s `regs`, so that the
//!   frame *is* that field. Of a page fault, [`crossing`](super::crossing) sees first whether it is a program's and goes by without Rust;
//! - from a guest, by SYSCALL: the CPU changes no stack. Each CPU has a stub of its own, which knows its record's address. Here
//!   [`crossing`](super::crossing) comes first: what goes by without Rust has only some of the registers saved;
//! - from a guest, by SYSCALL in 32-bit code (where AMD's CPUs have that) or by SYSENTER (where Intel's do): likewise, by stubs of their
//!   own, and always on to Rust;
//! - from a guest, on an interrupt stack (NMI, debug, machine check): the frame is copied to the field first, because what
//!   follows may switch guests;
//! - from the hypervisor itself: the frame is where its stack was.
//!
//! The way out restores them and leaves by SYSRET if that gives the same, else by IRET.
//!
//! [`CpuInfo`]: super::info::CpuInfo

use core::arch::global_asm;
use core::mem::offset_of;

use bulkhead_abi::selectors;
use bulkhead_abi::trap::Vector;
use bulkhead_core::vcpu::{Regs, flags};
use bulkhead_machine::layout::{MAX_CPUS, STACK_STRIDE, STACKS};

use super::dispatch;
use super::guest_memory::SMAP;
use super::info::ENTRY_OFFSET;

unsafe extern "C" {
    /// The stubs of all 256 vectors, each of [`VECTOR_STUB_SIZE`] bytes.
    static vector_stubs: [u8; 256 * VECTOR_STUB_SIZE];
    /// The SYSCALL stubs of all CPUs, each of [`SYSCALL_STUB_SIZE`] bytes.
    static syscall_stubs: [u8; MAX_CPUS * SYSCALL_STUB_SIZE];
    /// The stubs of all CPUs for SYSCALL in 32-bit code, as long.
    static compat_stubs: [u8; MAX_CPUS * SYSCALL_STUB_SIZE];
    /// Where SYSENTER goes. Its stack pointer must be this CPU's record's registers.
    static sysenter_entry: u8;
    /// The IRET that returns to a guest; it faults if the guest's selectors are bad.
    static guest_iret: u8;
    /// Restores the registers at the address in rdi, which must be the CPU record's, and returns to the guest.
    fn enter_guest(regs: *const Regs) -> !;
}

const VECTOR_STUB_SIZE: usize = 16;
const SYSCALL_STUB_SIZE: usize = 32;

/// Where the CPU goes for `vector`, which must be below 256.
pub(super) fn vector_stub(vector: usize) -> u64 {
    let base = (&raw const vector_stubs).addr();
    base.wrapping_add(vector.wrapping_mul(VECTOR_STUB_SIZE)) as u64
}

/// Whether `rip` is the first instruction after a debug exception.
pub(super) fn is_debug_entry(rip: u64) -> bool {
    rip == vector_stub(1)
}

/// Where SYSCALL goes on CPU `cpu`, which must be below [`MAX_CPUS`].
pub(super) fn syscall_stub(cpu: usize) -> u64 {
    let base = (&raw const syscall_stubs).addr();
    base.wrapping_add(cpu.wrapping_mul(SYSCALL_STUB_SIZE)) as u64
}

/// Where SYSCALL in 32-bit code goes on CPU `cpu`, which must be below [`MAX_CPUS`].
pub(super) fn compat_stub(cpu: usize) -> u64 {
    let base = (&raw const compat_stubs).addr();
    base.wrapping_add(cpu.wrapping_mul(SYSCALL_STUB_SIZE)) as u64
}

/// Where SYSENTER goes, and with which stack pointer on CPU `cpu`.
pub(super) fn sysenter_target(cpu: usize) -> (u64, u64) {
    let entry = (&raw const sysenter_entry).addr() as u64;
    let regs = (cpu as u64).wrapping_mul(STACK_STRIDE).wrapping_add(SYSCALL_REGS);
    (entry, regs)
}

/// Whether `rip` is the instruction that returns to a guest.
pub(super) fn is_guest_iret(rip: u64) -> bool {
    rip == (&raw const guest_iret).addr() as u64
}

/// Starts the guest whose registers are in this CPU's record.
///
/// # Safety
///
/// `regs` must be the field of the running CPU's record, and hold a guest's registers; nothing on the stack is needed
/// any more.
pub(super) unsafe fn start_guest(regs: *const Regs) -> ! {
    // SAFETY: as the caller promises.
    unsafe { enter_guest(regs) }
}

/// What the guest ABI has for the code selector of a program that executed SYSENTER: null, of ring 3.
const LOST_CS: u16 = 3;

/// The registers in the record of CPU 0, where its SYSCALL stub keeps them.
const SYSCALL_REGS: u64 = STACKS + ENTRY_OFFSET - size_of::<Regs>() as u64;

global_asm!(
    ".text",
    // Saves the general registers; error code and vector are on the stack already. Flags that a program has chosen are in force: strings are to go
    // upwards, and guest memory is closed.
    ".macro save_registers",
    "push rdi", "push rsi", "push rdx", "push rcx", "push rax", "push r8", "push r9", "push r10", "push r11",
    "push rbx", "push rbp", "push r12", "push r13", "push r14", "push r15",
    "cld",
    "cmp byte ptr [rip + {SMAP}], 0",
    "je 9f",
    "clac",
    "9:",
    ".endm",
    ".macro restore_registers_but_rcx_r11",
    "mov r15, [rsp + {R15}]", "mov r14, [rsp + {R14}]", "mov r13, [rsp + {R13}]", "mov r12, [rsp + {R12}]",
    "mov rbp, [rsp + {RBP}]", "mov rbx, [rsp + {RBX}]", "mov r10, [rsp + {R10}]", "mov r9, [rsp + {R9}]",
    "mov r8, [rsp + {R8}]", "mov rax, [rsp + {RAX}]", "mov rdx, [rsp + {RDX}]", "mov rsi, [rsp + {RSI}]",
    "mov rdi, [rsp + {RDI}]",
    ".endm",

    // As save_registers, in their place at rsp, but for rbx.
    ".macro store_registers_but_rbx",
    "mov [rsp + {RDI}], rdi", "mov [rsp + {RSI}], rsi", "mov [rsp + {RDX}], rdx", "mov [rsp + {RCX}], rcx",
    "mov [rsp + {RAX}], rax", "mov [rsp + {R8}], r8", "mov [rsp + {R9}], r9", "mov [rsp + {R10}], r10",
    "mov [rsp + {R11}], r11", "mov [rsp + {RBP}], rbp", "mov [rsp + {R12}], r12", "mov [rsp + {R13}], r13",
    "mov [rsp + {R14}], r14", "mov [rsp + {R15}], r15",
    ".endm",

    // One stub for each vector. The CPU pushed an error code of 8 bytes, whose upper half is free, or none.
    ".balign 16",
    ".globl vector_stubs",
    "vector_stubs:",
    ".set vector, 0",
    ".rept 256",
    ".balign {VECTOR_STUB_SIZE}",
    ".if vector == 8 || (vector >= 10 && vector <= 14) || vector == 17 || vector == 21",
    ".else",
    "push 0",
    ".endif",
    "mov dword ptr [rsp + 4], vector",
    ".if vector == 1 || vector == 2 || vector == 8 || vector == 18",
    "jmp enter_on_interrupt_stack",
    ".elseif vector == {PAGE_FAULT}",
    "jmp enter_by_page_fault",
    ".else",
    "jmp enter_by_vector",
    ".endif",
    ".set vector, vector + 1",
    ".endr",
    ".balign {VECTOR_STUB_SIZE}",

    // In: the frame down to error code and vector. What goes by without Rust needs no other registers saved.
    "enter_by_page_fault:",
    "test byte ptr [rsp + {CS} - {ERROR_CODE}], 3",
    "jz enter_by_vector",
    "sub rsp, {ERROR_CODE}",
    "jmp crossing_page_fault",
    ".globl crossing_trap_slow",
    "crossing_trap_slow:",
    "add rsp, {ERROR_CODE}",

    // In: the frame down to error code and vector.
    "enter_by_vector:",
    "save_registers",
    "test byte ptr [rsp + {CS}], 3",
    "jz 3f",
    "2:",
    "xor ebp, ebp",                        // A backtrace ends here, not in the guest.
    "sub rsp, 8",
    "call {guest_trap}",
    "add rsp, 8",
    "jmp leave",

    // From the hypervisor. Out: rax says whose registers to go on with, these or those of a guest.
    "3:",
    "mov rdi, rsp",
    "sub rsp, 8",
    "call {hypervisor_trap}",
    "mov rsp, rax",
    "test byte ptr [rsp + {CS}], 3",
    "jnz leave",
    "restore_registers_but_rcx_r11",
    "mov rcx, [rsp + {RCX}]",
    "mov r11, [rsp + {R11}]",
    "add rsp, {RIP}",
    "iretq",

    // As above, on an interrupt stack.
    "enter_on_interrupt_stack:",
    "save_registers",
    "test byte ptr [rsp + {CS}], 3",
    "jz 3b",
    // Move the frame to the CPU's record, and go on on the main stack.
    "mov rsi, rsp",
    "mov rdi, rsp",
    "or rdi, {STACK_STRIDE} - 1",
    "sub rdi, {STACK_STRIDE} - 1 - {ENTRY_OFFSET} + {REGS_SIZE}",
    "mov rsp, rdi",
    "mov ecx, {REGS_SIZE} / 8",
    "rep movsq",
    "jmp 2b",

    // One stub for each CPU. In: rcx guest rip, r11 guest rflags, rsp the guest's. Nothing may be pushed before the
    // second instruction.
    ".balign {SYSCALL_STUB_SIZE}",
    ".globl syscall_stubs",
    "syscall_stubs:",
    ".set cpu, 0",
    ".rept {MAX_CPUS}",
    ".balign {SYSCALL_STUB_SIZE}",
    "mov [rip + syscall_regs + {RSP} + cpu * {STACK_STRIDE}], rsp",
    "lea rsp, [rip + syscall_regs + cpu * {STACK_STRIDE}]",
    "jmp crossing_enter",
    ".set cpu, cpu + 1",
    ".endr",
    ".balign {SYSCALL_STUB_SIZE}",

    // The same for SYSCALL in 32-bit code.
    ".globl compat_stubs",
    "compat_stubs:",
    ".set cpu, 0",
    ".rept {MAX_CPUS}",
    ".balign {SYSCALL_STUB_SIZE}",
    "mov [rip + syscall_regs + {RSP} + cpu * {STACK_STRIDE}], rsp",
    "lea rsp, [rip + syscall_regs + cpu * {STACK_STRIDE}]",
    "jmp compat_enter",
    ".set cpu, cpu + 1",
    ".endr",
    ".balign {SYSCALL_STUB_SIZE}",

    // In: as the stubs leave it. Which segment the code was in, the CPU has not kept: the flat one stands for it.
    "compat_enter:",
    "store_registers_but_rbx",
    "mov [rsp + {RBX}], rbx",
    "mov qword ptr [rsp + {SS}], {GUEST_SS}",
    "mov [rsp + {RFLAGS}], r11",
    "mov qword ptr [rsp + {CS}], {GUEST_CS32}",
    "mov [rsp + {RIP}], rcx",
    "mov dword ptr [rsp + {ERROR_CODE}], 0",
    "mov dword ptr [rsp + {VECTOR}], {HYPERCALL}",
    "xor ebp, ebp",
    "sub rsp, 8",
    "call {guest_compat_call}",
    "add rsp, 8",
    "jmp leave",

    // In: rsp at the record's registers, and the flags of ring 3 but for IF, VM and RF (Intel SDM volume 2B, SYSENTER). All else is lost.
    ".globl sysenter_entry",
    "sysenter_entry:",
    "store_registers_but_rbx",
    "mov [rsp + {RBX}], rbx",
    // Below the registers is a word of the crossings', which none of them uses now.
    "pushfq",
    "pop rax",
    // NT would make the return fault, DF and AC are not for us, and TF has made each instruction until here trap once.
    "push {FIXED_FLAGS}",
    "popfq",
    "or eax, {INTERRUPT_FLAG}",
    "mov [rsp + {RFLAGS}], rax",
    "mov qword ptr [rsp + {SS}], {GUEST_SS}",
    "mov qword ptr [rsp + {CS}], {LOST_CS}",
    "mov qword ptr [rsp + {RIP}], 0",
    "mov qword ptr [rsp + {RSP}], 0",
    "mov dword ptr [rsp + {ERROR_CODE}], 0",
    "mov dword ptr [rsp + {VECTOR}], {HYPERCALL}",
    "xor ebp, ebp",
    "sub rsp, 8",
    "call {guest_sysenter}",
    "add rsp, 8",
    "jmp leave",

    // What does not go by without Rust. rsp points to the record's registers; rbx is saved.
    ".globl crossing_slow",
    "crossing_slow:",
    "mov qword ptr [rsp + {SS}], {GUEST_SS}",
    "mov [rsp + {RFLAGS}], r11",
    "mov qword ptr [rsp + {CS}], {GUEST_CS}",
    "mov [rsp + {RIP}], rcx",
    "mov dword ptr [rsp + {ERROR_CODE}], 0",
    "mov dword ptr [rsp + {VECTOR}], {HYPERCALL}",
    "store_registers_but_rbx",
    "xor ebp, ebp",
    "sub rsp, 8",
    "call {guest_hypercall}",
    "add rsp, 8",

    // In: rsp at the guest's registers. SYSRET leaves rip in rcx and rflags in r11, which is what a guest finds after
    // a hypercall; for anything else the registers differ. It drops RF. Its rip must be canonical, or it would fault in ring 0.
    "leave:",
    "mov rcx, [rsp + {RIP}]",
    "mov r11, [rsp + {RFLAGS}]",
    "cmp rcx, [rsp + {RCX}]",
    "jne 4f",
    "cmp r11, [rsp + {R11}]",
    "jne 4f",
    "test r11d, {RESUME_FLAG}",
    "jnz 4f",
    "cmp word ptr [rsp + {CS}], {GUEST_CS}",
    "jne 4f",
    "cmp word ptr [rsp + {SS}], {GUEST_SS}",
    "jne 4f",
    "mov rax, rcx",
    "shl rax, 16",
    "sar rax, 16",
    "cmp rax, rcx",
    "jne 4f",
    "restore_registers_but_rcx_r11",
    "mov rsp, [rsp + {RSP}]",
    "sysretq",
    "4:",
    "restore_registers_but_rcx_r11",
    "mov rcx, [rsp + {RCX}]",
    "mov r11, [rsp + {R11}]",
    "add rsp, {RIP}",
    ".globl guest_iret",
    ".globl crossing_iret",
    "guest_iret:",
    "crossing_iret:",
    "iretq",

    ".globl enter_guest",
    "enter_guest:",
    "mov rsp, rdi",
    "jmp leave",

    ".set syscall_regs, {SYSCALL_REGS}",
    VECTOR_STUB_SIZE = const VECTOR_STUB_SIZE,
    SYSCALL_STUB_SIZE = const SYSCALL_STUB_SIZE,
    MAX_CPUS = const MAX_CPUS,
    STACK_STRIDE = const STACK_STRIDE,
    ENTRY_OFFSET = const ENTRY_OFFSET,
    SYSCALL_REGS = const SYSCALL_REGS,
    SMAP = sym SMAP,
    PAGE_FAULT = const Vector::PageFault.raw(),
    ERROR_CODE = const offset_of!(Regs, error_code),
    VECTOR = const offset_of!(Regs, entry_vector),
    REGS_SIZE = const size_of::<Regs>(),
    HYPERCALL = const Regs::HYPERCALL,
    GUEST_CS = const selectors::FLAT_RING3_CS64,
    GUEST_CS32 = const selectors::FLAT_RING3_CS32,
    LOST_CS = const LOST_CS,
    FIXED_FLAGS = const flags::FIXED,
    RESUME_FLAG = const flags::RF,
    INTERRUPT_FLAG = const flags::IF,
    GUEST_SS = const selectors::FLAT_RING3_SS,
    R15 = const offset_of!(Regs, r15),
    R14 = const offset_of!(Regs, r14),
    R13 = const offset_of!(Regs, r13),
    R12 = const offset_of!(Regs, r12),
    RBP = const offset_of!(Regs, rbp),
    RBX = const offset_of!(Regs, rbx),
    R11 = const offset_of!(Regs, r11),
    R10 = const offset_of!(Regs, r10),
    R9 = const offset_of!(Regs, r9),
    R8 = const offset_of!(Regs, r8),
    RAX = const offset_of!(Regs, rax),
    RCX = const offset_of!(Regs, rcx),
    RDX = const offset_of!(Regs, rdx),
    RSI = const offset_of!(Regs, rsi),
    RDI = const offset_of!(Regs, rdi),
    RIP = const offset_of!(Regs, rip),
    CS = const offset_of!(Regs, cs),
    RFLAGS = const offset_of!(Regs, rflags),
    RSP = const offset_of!(Regs, rsp),
    SS = const offset_of!(Regs, ss),
    guest_trap = sym dispatch::guest_trap,
    guest_hypercall = sym dispatch::guest_hypercall,
    guest_compat_call = sym dispatch::guest_compat_call,
    guest_sysenter = sym dispatch::guest_sysenter,
    hypervisor_trap = sym dispatch::hypervisor_trap,
);
