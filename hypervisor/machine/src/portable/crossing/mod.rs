//! The crossings between a guest's kernel and its programs that go by without Rust, as assembly, and what a kernel asks for whenever it goes on
//! with another thread.
//!
//! A program's SYSCALL, its page faults and the kernel's `iret` are most of what a busy guest is about, and then `stack_switch` and `set_segment_base`: four of the five
//! calls of a switch between threads. When nothing about one is unusual, the code here
//! does what [`bulkhead_core`] would: its model is `bounce`, `Regs::return_by` and the handlers of these calls, and the tests hold it against the model on the
//! host, for which the privileged instructions are parameters. Whatever is unusual is left to Rust, as if nothing had
//! happened: flags that no guest can have, no callback, a stack in the hypervisor's range or not mapped, an event to be delivered, an address that no CPU goes to, no
//! tables for programs.
//!
//! Nothing else is looked at on the way. That is enough: whoever wants this CPU to do something else, or raises an event for its
//! vCPU, interrupts it, and the interrupt is taken in the guest.

#[cfg(test)]
mod harness;
#[cfg(test)]
mod numbers;
#[cfg(test)]
mod tests;

use bulkhead_core::vcpu::{Context, offsets};

/// The code, as one `global_asm!`.
///
/// In, at `crossing_enter`: as SYSCALL leaves it (rcx rip, r11 flags, interrupts off), but for rsp, which points to the CPU's [`Regs`], where
/// the guest's is in its field already. Goes on at
///
/// - `crossing_slow`, for Rust: registers as at `crossing_enter`, but that rbx is saved;
/// - SYSRET;
/// - `crossing_iret`, with rsp at the five words of the frame: IRET.
///
/// In, at `crossing_page_fault`: as the CPU leaves it after a page fault in ring 3, but for rsp, which points to the CPU's [`Regs`], where its frame, error
/// code and vector are already. Goes on by SYSRET, or at `crossing_trap_slow`, as it came.
///
/// The first argument are lines that define the macros `load_root` (of a register), `swap_gs`, `allow_guest_memory`,
/// `forbid_guest_memory` (both keep all registers), `return_by_sysret`, `set_fs_base` (to rax; changes rcx and rdx) and `load_other_gs` (with the selector
/// in edi, which it changes; what the CPU refuses becomes null; it may push onto the word below the registers), `read_cr2` and `write_cr2` (of a
/// register). Then come operands: `CONTEXT`, `KEPT_RCX`, `KEPT_R11` are offsets from the
/// registers, of the pointer to the running [`Context`] and of two free words; `FRAMES` is where machine address 0 is shown.
///
/// Instructions that may fault on the guest's account lie from `crossing_call_start` to before `crossing_call_end`, to go on at
/// `crossing_call_fixup`, and from `crossing_return_start` to before `crossing_return_end`, to go on at `crossing_return_fixup`; likewise
/// `crossing_fault_start`, `crossing_fault_end` and `crossing_fault_fixup`.
///
/// [`Regs`]: bulkhead_core::vcpu::Regs
/// [`Context`]: bulkhead_core::vcpu::Context
#[macro_export]
macro_rules! crossing_code {
    ({ $($define:literal,)* } $($operands:tt)*) => {
        ::core::arch::global_asm!(
            ".text",
            $($define,)*
            // Goes elsewhere if not all of the bytes from `at` on are a guest's to have. Changes rax.
            ".macro check_guest_range at, size, elsewhere",
            "mov rax, \\at",
            "shr rax, 47",
            "jz 2f",
            "mov rax, {HYPERVISOR_END}",
            "cmp \\at, rax",
            "jb \\elsewhere",
            "cmp \\at, -\\size",
            "jae \\elsewhere",
            "2:",
            ".endm",
            // Goes elsewhere if no CPU has this address. Changes rdx.
            ".macro check_canonical address, elsewhere",
            "mov rdx, \\address",
            "shl rdx, 16",
            "sar rdx, 16",
            "cmp rdx, \\address",
            "jne \\elsewhere",
            ".endm",
            // Charges the time until now to an account. Changes rax and rdx.
            ".macro mark account",
            "rdtsc",
            "shl rdx, 32",
            "or rdx, rax",
            "mov rax, rdx",
            "sub rax, [rbx + {METER_SINCE}]",
            "jb 2f",
            "add [rbx + \\account], rax",
            "2:",
            "mov [rbx + {METER_SINCE}], rdx",
            ".endm",

            ".globl crossing_enter",
            "crossing_enter:",
            "mov [rsp + {RBX}], rbx",
            "mov rbx, [rsp + {CONTEXT}]",
            "cmp byte ptr [rbx + {MODE}], {KERNEL}",
            "je 20f",
            "test r11d, {IMPOSSIBLE}",
            "jnz crossing_slow",

            // A program's system call. rdx: the frame on the kernel's stack; rdi: the flags of vcpu_info.
            "mov [rsp + {RDI}], rdi",
            "mov [rsp + {RDX}], rdx",
            "mov [rsp + {RAX}], rax",
            "mov [rsp + {KEPT_RCX}], rcx",
            "mov rdx, [rbx + {KERNEL_SP}]",
            "and rdx, -16",
            "sub rdx, {FRAME_SIZE}",
            "check_guest_range rdx, {FRAME_SIZE}, 32f",
            "cmp qword ptr [rbx + {SYSCALL_CALLBACK}], 0",
            "je 32f",
            "mov rdi, {FRAMES}",
            "add rdi, [rbx + {INFO}]",
            "mov rax, [rbx + {KERNEL_ROOT}]",
            "load_root rax",
            "swap_gs",
            // Upcalls masked or not, and nothing else.
            "movzx eax, word ptr [rdi]",
            "test eax, {NOT_MASKED}",
            "jnz 31f",
            "allow_guest_memory",
            ".globl crossing_call_start",
            "crossing_call_start:",
            "mov [rdx + {FRAME_RIP}], rcx",
            "mov [rdx + {FRAME_RCX}], rcx",
            "mov [rdx + {FRAME_R11}], r11",
            // The interrupt flag is set, as always in ring 3, and the others that are not shown are clear. Bit 8 of rax says that events are
            // masked: twice that takes the flag away, and 24 bits further is its place in cs.
            "mov ecx, r11d",
            "sub ecx, eax",
            "sub ecx, eax",
            "mov [rdx + {FRAME_RFLAGS}], rcx",
            "shl rax, 24",
            "add rax, {CS64}",
            "mov [rdx + {FRAME_CS}], rax",
            "mov rax, [rsp + {RSP}]",
            "mov [rdx + {FRAME_RSP}], rax",
            "mov qword ptr [rdx + {FRAME_SS}], {SS64}",
            ".globl crossing_call_end",
            "crossing_call_end:",
            "forbid_guest_memory",
            "mov al, [rbx + {SYSCALL_MASKS}]",
            "or [rdi + 1], al",
            "mov byte ptr [rbx + {MODE}], {KERNEL}",
            "mov [rsp + {RSP}], rdx",
            "mark {METER_USER}",
            "and r11, {ENTERED}",
            "or r11, {ALWAYS}",
            "mov rcx, [rbx + {SYSCALL_CALLBACK}]",
            "mov rax, [rsp + {RAX}]",
            "mov rdx, [rsp + {RDX}]",
            "mov rdi, [rsp + {RDI}]",
            "mov rbx, [rsp + {RBX}]",
            "mov rsp, [rsp + {RSP}]",
            "return_by_sysret",

            ".globl crossing_call_fixup",
            "crossing_call_fixup:",
            "forbid_guest_memory",
            "31:",
            "mov rax, [rbx + {USER_ROOT}]",
            "load_root rax",
            "swap_gs",
            "32:",
            "mov rdi, [rsp + {RDI}]",
            "mov rdx, [rsp + {RDX}]",
            "mov rax, [rsp + {RAX}]",
            "mov rcx, [rsp + {KEPT_RCX}]",
            "jmp crossing_slow",

            // A hypercall. For `iret`, rdx: its frame; rdi: the flags of vcpu_info.
            "20:",
            "test r11d, {IMPOSSIBLE}",
            "jnz crossing_slow",
            "cmp rax, {IRET}",
            "jne 40f",
            "mov [rsp + {RDI}], rdi",
            "mov [rsp + {RDX}], rdx",
            "mov [rsp + {KEPT_RCX}], rcx",
            "mov [rsp + {KEPT_R11}], r11",
            "mov rdx, [rsp + {RSP}]",
            "check_guest_range rdx, {IRET_SIZE}, 22f",
            "mov rdi, {FRAMES}",
            "add rdi, [rbx + {INFO}]",
            "allow_guest_memory",
            // Everything is read before anything is changed that Rust would miss.
            ".globl crossing_return_start",
            "crossing_return_start:",
            "mov r11, [rdx + {IRET_RFLAGS}]",
            "mov rcx, [rdx + {IRET_RIP}]",
            "mov rax, rcx",
            "shl rax, 16",
            "sar rax, 16",
            "cmp rax, rcx",
            "jne 21f",
            // An event that is raised after this look interrupts this CPU.
            "bt r11d, {IF_BIT}",
            "jnc 23f",
            "cmp byte ptr [rdi], 0",
            "jne 21f",
            "23:",
            "mov [rsp + {RIP}], rcx",
            "mov [rsp + {RFLAGS}], r11",
            "mov rax, [rdx + {IRET_RAX}]",
            "mov [rsp + {RAX}], rax",
            "movzx eax, word ptr [rdx + {IRET_SS}]",
            "or eax, 3",
            "mov [rsp + {SS}], rax",
            "movzx eax, word ptr [rdx + {IRET_CS}]",
            "test dword ptr [rdx + {IRET_FLAGS}], {IN_SYSCALL}",
            "jnz 24f",
            "mov rcx, [rdx + {IRET_RCX}]",
            "mov r11, [rdx + {IRET_R11}]",
            "jmp 25f",
            "24:",
            "and r11d, {CHOSEN}",
            "or r11d, {ALWAYS}",
            "25:",
            "mov rdx, [rdx + {IRET_RSP}]",
            ".globl crossing_return_end",
            "crossing_return_end:",
            "forbid_guest_memory",
            // A program is of ring 3.
            "xor eax, 3",
            "test al, 3",
            "jnz 26f",
            "cmp qword ptr [rbx + {USER_ROOT}], 0",
            "je 22f",
            "26:",
            "bt dword ptr [rsp + {RFLAGS}], {IF_BIT}",
            "setnc byte ptr [rdi + 1]",
            "and qword ptr [rsp + {RFLAGS}], {CHOSEN}",
            "or qword ptr [rsp + {RFLAGS}], {ALWAYS}",
            "mov [rsp + {RSP}], rdx",
            "mov edi, eax",
            "or edi, 3",
            "mov [rsp + {CS}], rdi",
            "test al, 3",
            "jnz 27f",
            "mov rax, [rbx + {USER_ROOT}]",
            "load_root rax",
            "swap_gs",
            "mov byte ptr [rbx + {MODE}], {USER}",
            "mark {METER_KERNEL}",
            "27:",
            "mov rax, [rsp + {RAX}]",
            "mov rdx, [rsp + {RDX}]",
            "mov rdi, [rsp + {RDI}]",
            "mov rbx, [rsp + {RBX}]",
            "cmp rcx, [rsp + {RIP}]",
            "jne 28f",
            "cmp r11, [rsp + {RFLAGS}]",
            "jne 28f",
            // SYSRET would drop it.
            "test r11d, {RESUME}",
            "jnz 28f",
            "cmp word ptr [rsp + {CS}], {CS64}",
            "jne 28f",
            "cmp word ptr [rsp + {SS}], {SS64}",
            "jne 28f",
            "mov rsp, [rsp + {RSP}]",
            "return_by_sysret",
            "28:",
            "add rsp, {RIP}",
            "jmp crossing_iret",

            ".globl crossing_return_fixup",
            "crossing_return_fixup:",
            "21:",
            "forbid_guest_memory",
            "22:",
            "mov rdi, [rsp + {RDI}]",
            "mov rdx, [rsp + {RDX}]",
            "mov rcx, [rsp + {KEPT_RCX}]",
            "mov r11, [rsp + {KEPT_R11}]",
            "mov eax, {IRET}",
            "jmp crossing_slow",

            // What is asked for when a kernel goes on with another thread. All of it ends by SYSRET, so it must be able to.
            "40:",
            "cmp rax, {STACK_SWITCH}",
            "je 41f",
            "cmp rax, {SET_SEGMENT_BASE}",
            "jne crossing_slow",
            "41:",
            "test r11d, {RESUME}",
            "jnz crossing_slow",
            "mov [rsp + {RDX}], rdx",
            // A guest may have unmasked upcalls while one was pending, and relies on being told now: the first byte is not zero, and the second is.
            "mov rdx, {FRAMES}",
            "add rdx, [rbx + {INFO}]",
            "movzx edx, word ptr [rdx]",
            "sub edx, 1",
            "cmp edx, 0xff",
            "jb 43f",
            "check_canonical rcx, 43f",
            "cmp eax, {STACK_SWITCH}",
            "jne 44f",
            "check_canonical rsi, 43f",
            "mov edx, edi",
            "or edx, 3",
            "mov [rbx + {KERNEL_SS}], dx",
            "mov [rbx + {KERNEL_SP}], rsi",
            "42:",
            "xor eax, eax",
            "mov rdx, [rsp + {RDX}]",
            "mov rbx, [rsp + {RBX}]",
            "mov rsp, [rsp + {RSP}]",
            "return_by_sysret",
            "43:",
            "mov rdx, [rsp + {RDX}]",
            "jmp crossing_slow",
            "44:",
            "cmp edi, {SET_FS}",
            "je 45f",
            "cmp edi, {SET_OTHER_GS}",
            "jne 43b",
            // A selector of ring 3, or null.
            "mov [rsp + {RDI}], rdi",
            "mov edi, esi",
            "and edi, 0xfffc",
            "jz 46f",
            "or edi, 3",
            "46:",
            "load_other_gs",
            "mov rdi, [rsp + {RDI}]",
            "jmp 42b",
            "45:",
            "check_canonical rsi, 43b",
            "mov [rsp + {KEPT_RCX}], rcx",
            "mov rax, rsi",
            "set_fs_base",
            "mov rcx, [rsp + {KEPT_RCX}]",
            "jmp 42b",

            // A page fault of a program. rdx: the frame on the kernel's stack; rdi: the flags of vcpu_info.
            ".globl crossing_page_fault",
            "crossing_page_fault:",
            "mov [rsp + {RBX}], rbx",
            "mov rbx, [rsp + {CONTEXT}]",
            "cmp byte ptr [rbx + {MODE}], {KERNEL}",
            "je 53f",
            "test dword ptr [rsp + {RFLAGS}], {IMPOSSIBLE}",
            "jnz 53f",
            "mov [rsp + {RDI}], rdi",
            "mov [rsp + {RDX}], rdx",
            "mov [rsp + {RCX}], rcx",
            "mov [rsp + {RAX}], rax",
            "mov [rsp + {R11}], r11",
            "mov rdx, [rbx + {KERNEL_SP}]",
            "and rdx, -16",
            "sub rdx, {FAULT_SIZE}",
            "check_guest_range rdx, {FAULT_SIZE}, 52f",
            "mov rax, [rbx + {PAGE_FAULT_GATE}]",
            "shl rax, 16",
            "jz 52f",
            "mov rdi, {FRAMES}",
            "add rdi, [rbx + {INFO}]",
            "read_cr2 rax",
            "mov [rsp + {KEPT_R11}], rax",
            "mov rax, [rbx + {KERNEL_ROOT}]",
            "load_root rax",
            "swap_gs",
            "movzx eax, word ptr [rdi]",
            "test eax, {NOT_MASKED}",
            "jnz 51f",
            "allow_guest_memory",
            ".globl crossing_fault_start",
            "crossing_fault_start:",
            "mov [rdx + {FAULT_RCX}], rcx",
            "mov [rdx + {FAULT_R11}], r11",
            // As in a system call.
            "mov r11, [rsp + {RFLAGS}]",
            "mov ecx, r11d",
            "sub ecx, eax",
            "sub ecx, eax",
            "mov [rdx + {FAULT_RFLAGS}], rcx",
            "shl rax, 24",
            "movzx ecx, word ptr [rsp + {CS}]",
            "or ecx, 3",
            "or rax, rcx",
            "mov [rdx + {FAULT_CS}], rax",
            "mov eax, [rsp + {ERROR_CODE}]",
            "and eax, {TOLD_OF_FAULT}",
            "or eax, {BY_PROGRAM}",
            "mov [rdx + {FAULT_ERROR_CODE}], rax",
            "mov rax, [rsp + {RIP}]",
            "mov [rdx + {FAULT_RIP}], rax",
            "mov rax, [rsp + {RSP}]",
            "mov [rdx + {FAULT_RSP}], rax",
            "movzx eax, word ptr [rsp + {SS}]",
            "mov [rdx + {FAULT_SS}], rax",
            ".globl crossing_fault_end",
            "crossing_fault_end:",
            "forbid_guest_memory",
            "mov rax, [rsp + {KEPT_R11}]",
            "mov [rdi + {INFO_CR2}], rax",
            "mov rcx, [rbx + {PAGE_FAULT_GATE}]",
            "bt rcx, {GATE_MASKS_BIT}",
            "setc al",
            "or [rdi + 1], al",
            "shl rcx, 16",
            "sar rcx, 16",
            "mov byte ptr [rbx + {MODE}], {KERNEL}",
            "mov [rsp + {RSP}], rdx",
            "mark {METER_USER}",
            "and r11, {ENTERED}",
            "or r11, {ALWAYS}",
            "mov rax, [rsp + {RAX}]",
            "mov rdx, [rsp + {RDX}]",
            "mov rdi, [rsp + {RDI}]",
            "mov rbx, [rsp + {RBX}]",
            "mov rsp, [rsp + {RSP}]",
            "return_by_sysret",

            ".globl crossing_fault_fixup",
            "crossing_fault_fixup:",
            "forbid_guest_memory",
            "51:",
            "mov rax, [rsp + {KEPT_R11}]",
            "write_cr2 rax",
            "mov rax, [rbx + {USER_ROOT}]",
            "load_root rax",
            "swap_gs",
            "52:",
            "mov rdi, [rsp + {RDI}]",
            "mov rdx, [rsp + {RDX}]",
            "mov rcx, [rsp + {RCX}]",
            "mov rax, [rsp + {RAX}]",
            "mov r11, [rsp + {R11}]",
            "53:",
            "mov rbx, [rsp + {RBX}]",
            "jmp crossing_trap_slow",

            $($operands)*
            RBX = const ::core::mem::offset_of!(::bulkhead_core::vcpu::Regs, rbx),
            R11 = const ::core::mem::offset_of!(::bulkhead_core::vcpu::Regs, r11),
            RCX = const ::core::mem::offset_of!(::bulkhead_core::vcpu::Regs, rcx),
            ERROR_CODE = const ::core::mem::offset_of!(::bulkhead_core::vcpu::Regs, error_code),
            RAX = const ::core::mem::offset_of!(::bulkhead_core::vcpu::Regs, rax),
            RDX = const ::core::mem::offset_of!(::bulkhead_core::vcpu::Regs, rdx),
            RDI = const ::core::mem::offset_of!(::bulkhead_core::vcpu::Regs, rdi),
            RIP = const ::core::mem::offset_of!(::bulkhead_core::vcpu::Regs, rip),
            CS = const ::core::mem::offset_of!(::bulkhead_core::vcpu::Regs, cs),
            RFLAGS = const ::core::mem::offset_of!(::bulkhead_core::vcpu::Regs, rflags),
            RSP = const ::core::mem::offset_of!(::bulkhead_core::vcpu::Regs, rsp),
            SS = const ::core::mem::offset_of!(::bulkhead_core::vcpu::Regs, ss),
            MODE = const ::bulkhead_core::vcpu::offsets::MODE,
            KERNEL = const ::bulkhead_core::vcpu::offsets::KERNEL,
            USER = const ::bulkhead_core::vcpu::offsets::USER,
            KERNEL_ROOT = const ::bulkhead_core::vcpu::offsets::KERNEL_ROOT,
            USER_ROOT = const ::bulkhead_core::vcpu::offsets::USER_ROOT,
            KERNEL_SS = const ::bulkhead_core::vcpu::offsets::KERNEL_SS,
            KERNEL_SP = const ::bulkhead_core::vcpu::offsets::KERNEL_SP,
            SYSCALL_CALLBACK = const ::bulkhead_core::vcpu::offsets::SYSCALL_CALLBACK,
            SYSCALL_MASKS = const ::bulkhead_core::vcpu::offsets::SYSCALL_MASKS,
            INFO = const ::bulkhead_core::vcpu::offsets::INFO,
            METER_SINCE = const ::bulkhead_core::vcpu::offsets::METER_SINCE,
            METER_USER = const ::bulkhead_core::vcpu::offsets::METER_USER,
            METER_KERNEL = const ::bulkhead_core::vcpu::offsets::METER_KERNEL,
            FRAME_SIZE = const size_of::<::bulkhead_abi::trap::BounceFrame>(),
            FRAME_RCX = const ::core::mem::offset_of!(::bulkhead_abi::trap::BounceFrame, rcx),
            FRAME_R11 = const ::core::mem::offset_of!(::bulkhead_abi::trap::BounceFrame, r11),
            FRAME_RIP = const ::core::mem::offset_of!(::bulkhead_abi::trap::BounceFrame, rip),
            FRAME_CS = const ::core::mem::offset_of!(::bulkhead_abi::trap::BounceFrame, cs),
            FRAME_RFLAGS = const ::core::mem::offset_of!(::bulkhead_abi::trap::BounceFrame, rflags),
            FRAME_RSP = const ::core::mem::offset_of!(::bulkhead_abi::trap::BounceFrame, rsp),
            FRAME_SS = const ::core::mem::offset_of!(::bulkhead_abi::trap::BounceFrame, ss),
            PAGE_FAULT_GATE = const ::bulkhead_core::vcpu::offsets::PAGE_FAULT_GATE,
            GATE_MASKS_BIT = const ::bulkhead_core::vcpu::offsets::GATE_MASKS_BIT,
            INFO_CR2 = const ::bulkhead_abi::shared_info::offset::CR2,
            TOLD_OF_FAULT = const !(::bulkhead_abi::trap::PF_USER | ::bulkhead_abi::trap::PF_RESERVED),
            BY_PROGRAM = const ::bulkhead_abi::trap::PF_USER,
            FAULT_SIZE = const size_of::<::bulkhead_abi::trap::BounceFrameWithError>(),
            FAULT_RCX = const ::core::mem::offset_of!(::bulkhead_abi::trap::BounceFrameWithError, rcx),
            FAULT_R11 = const ::core::mem::offset_of!(::bulkhead_abi::trap::BounceFrameWithError, r11),
            FAULT_ERROR_CODE = const ::core::mem::offset_of!(::bulkhead_abi::trap::BounceFrameWithError, error_code),
            FAULT_RIP = const ::core::mem::offset_of!(::bulkhead_abi::trap::BounceFrameWithError, rip),
            FAULT_CS = const ::core::mem::offset_of!(::bulkhead_abi::trap::BounceFrameWithError, cs),
            FAULT_RFLAGS = const ::core::mem::offset_of!(::bulkhead_abi::trap::BounceFrameWithError, rflags),
            FAULT_RSP = const ::core::mem::offset_of!(::bulkhead_abi::trap::BounceFrameWithError, rsp),
            FAULT_SS = const ::core::mem::offset_of!(::bulkhead_abi::trap::BounceFrameWithError, ss),
            IRET_SIZE = const size_of::<::bulkhead_abi::trap::IretFrame>(),
            IRET_RAX = const ::core::mem::offset_of!(::bulkhead_abi::trap::IretFrame, rax),
            IRET_R11 = const ::core::mem::offset_of!(::bulkhead_abi::trap::IretFrame, r11),
            IRET_RCX = const ::core::mem::offset_of!(::bulkhead_abi::trap::IretFrame, rcx),
            IRET_FLAGS = const ::core::mem::offset_of!(::bulkhead_abi::trap::IretFrame, flags),
            IRET_RIP = const ::core::mem::offset_of!(::bulkhead_abi::trap::IretFrame, rip),
            IRET_CS = const ::core::mem::offset_of!(::bulkhead_abi::trap::IretFrame, cs),
            IRET_RFLAGS = const ::core::mem::offset_of!(::bulkhead_abi::trap::IretFrame, rflags),
            IRET_RSP = const ::core::mem::offset_of!(::bulkhead_abi::trap::IretFrame, rsp),
            IRET_SS = const ::core::mem::offset_of!(::bulkhead_abi::trap::IretFrame, ss),
            IN_SYSCALL = const ::bulkhead_abi::trap::VGCF_IN_SYSCALL,
            IRET = const ::bulkhead_abi::Hypercall::Iret.raw(),
            STACK_SWITCH = const ::bulkhead_abi::Hypercall::StackSwitch.raw(),
            SET_SEGMENT_BASE = const ::bulkhead_abi::Hypercall::SetSegmentBase.raw(),
            SET_FS = const ::bulkhead_abi::vcpu::SegmentBase::Fs.raw(),
            SET_OTHER_GS = const ::bulkhead_abi::vcpu::SegmentBase::GsUserSel.raw(),
            CS64 = const ::bulkhead_abi::selectors::FLAT_RING3_CS64,
            SS64 = const ::bulkhead_abi::selectors::FLAT_RING3_SS,
            HYPERVISOR_END = const ::bulkhead_abi::layout::HYPERVISOR.end,
            NOT_MASKED = const 0xffff & !$crate::portable::crossing::MASKED,
            IF_BIT = const ::bulkhead_core::vcpu::flags::IF.trailing_zeros(),
            RESUME = const ::bulkhead_core::vcpu::flags::RF,
            ENTERED = const $crate::portable::crossing::immediate(!::bulkhead_core::vcpu::flags::CLEARED),
            CHOSEN = const ::bulkhead_core::vcpu::flags::GUEST,
            IMPOSSIBLE = const ::bulkhead_core::vcpu::flags::IMPOSSIBLE,
            ALWAYS = const ::bulkhead_core::vcpu::flags::ALWAYS,
        );
    };
}

/// A [`Context`] as far as the code looks, with which nothing goes by without Rust: it takes every call for that of a program which has no
/// kernel.
#[derive(Debug)]
#[repr(C, align(64))]
struct Closed([u8; size_of::<Context>()]);

static CLOSED: Closed = {
    let mut bytes = [0; size_of::<Context>()];
    bytes[offsets::MODE] = offsets::USER;
    Closed(bytes)
};

/// What to give the code for a context, so that it does nothing by itself. It is not written to.
#[must_use]
pub fn closed() -> *mut Context {
    (&raw const CLOSED).cast::<Context>().cast_mut()
}

/// In the first word of `vcpu_info`: upcalls are masked, and none is pending.
pub const MASKED: u32 = 1 << 8;

/// The low half of a mask, as an instruction has it that extends its sign.
#[must_use]
#[expect(clippy::cast_possible_truncation, reason = "the low half is asked for")]
pub const fn immediate(mask: u64) -> i32 {
    mask as i32
}
