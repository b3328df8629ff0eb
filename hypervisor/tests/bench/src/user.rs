//! Crossings between a program and its kernel: a system call and a page fault, to the shortest kernel there can be and back.
//!
//! The kernel here is an entry point of a few instructions that returns at once. Each crossing is measured whole and
//! [by parts](crate::split).

use core::{arch::naked_asm, mem::offset_of};

use bulkhead_abi::{
    Hypercall,
    callback::{CallbackOp, CallbackRegister, CallbackType},
    selectors::FLAT_RING3_CS64,
    trap::{BounceFrame, TI_MASK_EVENTS, TrapInfo, Vector},
};
use bulkhead_runtime::{
    hypervisor::raw_call,
    user::{Code, Program, Registers},
    user_code,
};

use crate::split::{self, Parts};

/// Crossings in one run of the program.
const CROSSINGS: u64 = 1000;

/// Of the program's instructions one crosses and two make the loop; [`null_call`] has eight. Between stamps are three and four.
const SYSTEM_CALL: Parts = Parts {
    kernel: 8,
    program: 3,
    between: 3 + 4,
};

/// The same, but [`null_fault`] has nine.
const PAGE_FAULT: Parts = Parts {
    kernel: 9,
    ..SYSTEM_CALL
};

/// Measures them all. Faults and system calls are the shortest kernel's from then on.
pub(super) fn measure_all() {
    let name = "guest-system-call";
    let mut program = load(user_code!("2: syscall", "dec ebx", "jnz 2b", "ud2"));
    enter_at(null_call);
    split::whole(name, CROSSINGS, 1, |count| _ = run(&mut program, count));
    let mut program = load(user_code!(
        "2: rdtsc",
        "mov r12d, eax",
        "syscall",
        "rdtsc",
        "sub eax, r12d",
        "add r14, rax",
        "dec ebx",
        "jnz 2b",
        "ud2"
    ));
    enter_at(stamped_call);
    split::parts(name, CROSSINGS, 1, SYSTEM_CALL, |count| run(&mut program, count));

    let name = "user-page-fault";
    let mut program = load(user_code!("2: mov al, [0]", "dec ebx", "jnz 2b", "ud2"));
    fault_at(null_fault);
    split::whole(name, CROSSINGS, 1, |count| _ = run(&mut program, count));
    let mut program = load(user_code!(
        "2: rdtsc",
        "mov r12d, eax",
        "mov al, [0]",
        "rdtsc",
        "sub eax, r12d",
        "add r14, rax",
        "dec ebx",
        "jnz 2b",
        "ud2"
    ));
    fault_at(stamped_fault);
    split::parts(name, CROSSINGS, 1, PAGE_FAULT, |count| run(&mut program, count));
}

/// Bytes of the instruction that faults.
const FAULTING: u32 = 7;

pub(super) fn load(code: Code<'static>) -> Program {
    match Program::load(code) {
        Ok(program) => program,
        Err(error) => panic!("a program cannot be loaded: {error:?}"),
    }
}

/// Lets a program make so many crossings; returns what it added up in r14.
fn run(program: &mut Program, crossings: u64) -> u64 {
    let mut registers = Registers {
        rbx: crossings,
        ..Registers::at_start()
    };
    let exit = program.run(&mut registers);
    let is_done = exit.is_exception(Vector::InvalidOpcode) && registers.rbx == 0;
    assert!(is_done, "the program ended by {exit:?}: {registers:?}");
    registers.r14
}

/// Lets system calls enter the kernel at `entry`.
fn enter_at(entry: unsafe extern "C" fn() -> !) {
    let record = CallbackRegister {
        callback_type: CallbackType::Syscall.raw(),
        flags: 0,
        address: entry as *const () as u64,
    };
    must(
        Hypercall::CallbackOp,
        [u64::from(CallbackOp::Register.raw()), address(&record)],
    );
}

/// Lets page faults enter the kernel at `entry`.
fn fault_at(entry: unsafe extern "C" fn() -> !) {
    let gate = TrapInfo {
        vector: Vector::PageFault.raw(),
        flags: TI_MASK_EVENTS,
        cs: FLAT_RING3_CS64,
        address: entry as *const () as u64,
    };
    must(
        Hypercall::SetTrapTable,
        [address(&[gate, TrapInfo::default()]), 0],
    );
}

pub(super) fn address<T>(record: &T) -> u64 {
    core::ptr::from_ref(record).expose_provenance() as u64
}

pub(super) fn must(call: Hypercall, [a, b]: [u64; 2]) {
    // SAFETY: the two callers register an entry point of this module, for programs of this module: none faults that Rust
    // has a stake in, and the kernel itself touches nothing that is not there. The record is borrowed for the call.
    let answer = unsafe { raw_call(call.raw(), [a, b, 0, 0, 0]) };
    assert_eq!(answer, 0, "an entry point was refused");
}

/// Where the frame has what the entry points below change, after rcx and r11.
const RIP: usize = offset_of!(BounceFrame, rip) - 16;

/// System calls: back at once.
#[unsafe(naked)]
unsafe extern "C" fn null_call() -> ! {
    naked_asm!(
        "pop rcx",
        "pop r11",
        "push 0",
        "push rcx",
        "push r11",
        "push rax",
        "mov eax, {iret}",
        "syscall",
        iret = const Hypercall::Iret.raw(),
    )
}

/// The same with stamps: the program's is in r12, the sum in r14.
#[unsafe(naked)]
unsafe extern "C" fn stamped_call() -> ! {
    naked_asm!(
        "rdtsc",
        "sub eax, r12d",
        "add r14, rax",
        "pop rcx",
        "pop r11",
        "push 0",
        "push rcx",
        "push r11",
        "push rax",
        "rdtsc",
        "mov r12d, eax",
        "mov eax, {iret}",
        "syscall",
        iret = const Hypercall::Iret.raw(),
    )
}

/// Page faults: back at once, after the instruction.
#[unsafe(naked)]
unsafe extern "C" fn null_fault() -> ! {
    naked_asm!(
        "pop rcx",
        "pop r11",
        // The error code gives its place to the return's flags, of which there are none.
        "mov qword ptr [rsp], 0",
        "add qword ptr [rsp + 8 + {rip}], {faulting}",
        "push rcx",
        "push r11",
        "push rax",
        "mov eax, {iret}",
        "syscall",
        rip = const RIP,
        faulting = const FAULTING,
        iret = const Hypercall::Iret.raw(),
    )
}

/// The same with stamps.
#[unsafe(naked)]
unsafe extern "C" fn stamped_fault() -> ! {
    naked_asm!(
        "rdtsc",
        "sub eax, r12d",
        "add r14, rax",
        "pop rcx",
        "pop r11",
        "mov qword ptr [rsp], 0",
        "add qword ptr [rsp + 8 + {rip}], {faulting}",
        "push rcx",
        "push r11",
        "push rax",
        "rdtsc",
        "mov r12d, eax",
        "mov eax, {iret}",
        "syscall",
        rip = const RIP,
        faulting = const FAULTING,
        iret = const Hypercall::Iret.raw(),
    )
}
