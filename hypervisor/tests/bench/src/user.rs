//! Crossings between a program and its kernel: a system call and a page fault, to the shortest kernel there can be and back.
//!
//! The kernel here is an entry point of a few instructions that returns at once. A figure is measured twice: whole, and by stamps.
//! Then both sides read the time-stamp counter before they leave and after they are entered, and what lies between is the
//! hypervisor's: the figure `-in-hypervisor`, with seven instructions of the guest's in it.

use core::{arch::naked_asm, mem::offset_of};

use bulkhead_abi::{
    Hypercall,
    callback::{CallbackOp, CallbackRegister, CallbackType},
    multicall::MulticallEntry,
    selectors::FLAT_RING3_CS64,
    trap::{BounceFrame, TI_MASK_EVENTS, TrapInfo, Vector},
};
use bulkhead_runtime::{
    event::{self, Port},
    hypervisor::raw_call,
    println,
    user::{Code, Exit, Program, Registers},
    user_code,
};

use crate::measure::{RUNS, measure, measure_batch};
use crate::memory::calls::multicall;

/// Crossings in one run of the program.
const CROSSINGS: u64 = 1000;
/// Runs of the program that are measured as one.
const BATCH: u64 = 2;

/// Measures them all. Faults and system calls are the shortest kernel's from then on.
pub(super) fn measure_all() {
    upcall();
    multicall_of_null_calls();

    whole(
        "guest-system-call",
        || enter_at(null_call),
        user_code!("2: syscall", "dec ebx", "jnz 2b", "ud2"),
    );
    stamped(
        "guest-system-call-in-hypervisor",
        || enter_at(stamped_call),
        user_code!(
            "2: rdtsc",
            "mov r12d, eax",
            "syscall",
            "rdtsc",
            "sub eax, r12d",
            "add r14, rax",
            "dec ebx",
            "jnz 2b",
            "ud2"
        ),
    );

    whole(
        "user-page-fault",
        || fault_at(null_fault),
        user_code!("2: mov al, [0]", "dec ebx", "jnz 2b", "ud2"),
    );
    stamped(
        "user-page-fault-in-hypervisor",
        || fault_at(stamped_fault),
        user_code!(
            "2: rdtsc",
            "mov r12d, eax",
            "mov al, [0]",
            "rdtsc",
            "sub eax, r12d",
            "add r14, rax",
            "dec ebx",
            "jnz 2b",
            "ud2"
        ),
    );
}

/// Bytes of the instruction that faults.
const FAULTING: u32 = 7;

/// An event to oneself that is delivered to a program, and takes it to its kernel.
fn upcall() {
    let mut program = load(user_code!("2: jmp 2b"));
    let Ok(port) = Port::bind_ipi() else {
        panic!("there is no port");
    };
    let mut exits = 0_u64;
    measure("upcall", || {
        let mut registers = Registers::at_start();
        registers.rflags |= Registers::IF;
        let is_sent = port.notify().is_ok();
        let is_told = program.run(&mut registers) == Exit::Event;
        exits = exits.wrapping_add(u64::from(is_sent && is_told));
        event::dispatch();
    });
    assert_eq!(exits, crate::measure::CALLS, "an event did not reach the program");
}

/// Eight hypercalls that do nothing, in one.
fn multicall_of_null_calls() {
    let null = MulticallEntry {
        op: Hypercall::XenVersion.raw(),
        result: -1,
        args: [0; 6],
    };
    let mut list = [null; 8];
    measure("multicall-8", || {
        let answer = multicall(&mut list);
        assert!(answer.is_ok(), "a multicall was refused: {answer:?}");
    });
    assert!(
        list.iter().all(|element| element.result > 0),
        "an element was refused"
    );
}

fn load(code: Code<'static>) -> Program {
    match Program::load(code) {
        Ok(program) => program,
        Err(error) => panic!("a program cannot be loaded: {error:?}"),
    }
}

/// Lets a program make [`CROSSINGS`] crossings; returns what it added up in r14.
fn run(program: &mut Program) -> u64 {
    let mut registers = Registers {
        rbx: CROSSINGS,
        ..Registers::at_start()
    };
    let exit = program.run(&mut registers);
    let is_done = exit.is_exception(Vector::InvalidOpcode) && registers.rbx == 0;
    assert!(is_done, "the program ended by {exit:?}: {registers:?}");
    registers.r14
}

fn whole(name: &str, be_entered: impl FnOnce(), code: Code<'static>) {
    let mut program = load(code);
    be_entered();
    measure_batch(name, BATCH, CROSSINGS, || {
        run(&mut program);
    });
}

fn stamped(name: &str, be_entered: impl FnOnce(), code: Code<'static>) {
    let mut program = load(code);
    be_entered();
    let best = (0..=RUNS).map(|_| run(&mut program)).min().unwrap_or(0);
    println!("BENCH {name} {} cycles", best.checked_div(CROSSINGS).unwrap_or(0));
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

fn address<T>(record: &T) -> u64 {
    core::ptr::from_ref(record).expose_provenance() as u64
}

fn must(call: Hypercall, [a, b]: [u64; 2]) {
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
