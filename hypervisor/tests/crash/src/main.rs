//! A guest that dies in the way that its command line names, and nobody else with it.
//!
//! Whoever runs it expects a report on the console, a domain that has crashed, and all other domains alive.
//! Most ways are reported by the guest itself. `stack-overflow` leaves it no stack to do so, and a return from a handler that
//! cannot be made leaves it nowhere to do so: these are the hypervisor's to report.

#![no_std]
#![no_main]

extern crate alloc;

use alloc::vec::Vec;
use core::{arch::asm, hint::black_box};

use bulkhead_abi::{
    Hypercall,
    layout::HYPERVISOR,
    selectors::{FLAT_RING3_CS64, FLAT_RING3_SS},
    trap::IretFrame,
};
use bulkhead_runtime::{
    CommandLine, Environment, ShutdownReason, println,
    user::{Code, Exit, Program, Registers},
};

bulkhead_runtime::entry!(main);

/// The ways to die, by the word that chooses them.
const WAYS: [(&str, fn()); 12] = [
    ("null", null),
    ("privileged", privileged),
    ("write-code", write_code),
    ("execute-data", execute_data),
    ("stack-overflow", stack_overflow),
    ("out-of-memory", out_of_memory),
    ("panic", panic),
    ("no-frame", return_by_no_frame),
    ("frame-of-the-hypervisor", return_by_the_hypervisors_memory),
    ("return-to-nowhere", return_to_nowhere),
    ("return-to-no-program", return_to_no_program),
    ("fault-of-a-program", fault_of_a_program),
];

fn main(environment: &Environment) -> ShutdownReason {
    let Some((name, die)) = chosen(environment.command_line()) else {
        println!("CHECK crash FAILED: the command line names no way to die");
        return ShutdownReason::Poweroff;
    };
    println!("dying by {name}");
    die();
    println!("CHECK crash FAILED: survived {name}");
    ShutdownReason::Poweroff
}

fn chosen(command_line: CommandLine<'_>) -> Option<(&'static str, fn())> {
    WAYS.into_iter().find(|(name, _)| command_line.has(name))
}

fn null() {
    // SAFETY: reads where nothing is mapped, which ends the domain; if it does not, the value is not used.
    unsafe {
        asm!("mov {value}, [{address}]", address = in(reg) 0_u64, value = lateout(reg) _, options(nostack))
    };
}

fn privileged() {
    // SAFETY: a ring-3 program may not write CR8, so this ends the domain; if it does not, no interrupt is
    // held off.
    unsafe { asm!("mov cr8, {priority}", priority = in(reg) 0_u64, options(nostack)) };
}

fn write_code() {
    let code = write_code as *const () as usize;
    // SAFETY: code is read-only, so this ends the domain; if it does not, it writes back what it has just
    // read.
    unsafe { asm!("lock add qword ptr [{code}], 0", code = in(reg) code, options(nostack)) };
}

fn execute_data() {
    /// RET, in a static of its own.
    static DATA: [u8; 1] = [0xc3];
    // SAFETY: data is not executable, so this ends the domain; if it does not, the call returns at once.
    unsafe { asm!("call {data}", data = in(reg) DATA.as_ptr()) };
}

fn stack_overflow() {
    println!("{} frames deep", descend(0));
}

/// Calls itself without end. The result depends on the inner call, so that it cannot become a loop.
#[expect(unconditional_recursion, reason = "that is the point")]
fn descend(depth: u64) -> u64 {
    let frame = black_box([depth; 16]);
    let [first, ..] = frame;
    black_box(descend(black_box(first.wrapping_add(1)))).wrapping_add(black_box(first))
}

fn out_of_memory() {
    let mut hoard = Vec::new();
    loop {
        hoard.push(Vec::<u8>::with_capacity(1 << 20));
    }
}

fn panic() {
    panic!("as the command line asked");
}

/// Returns from a handler by the frame at `frame`.
fn return_by(frame: u64) -> ! {
    // SAFETY: the stack is left for good: the hypervisor ends the domain, or goes where the frame says, and the frames here say
    // nowhere.
    unsafe {
        asm!(
            "mov rsp, {frame}",
            "syscall",
            "ud2",
            frame = in(reg) frame,
            in("rax") Hypercall::Iret.raw(),
            options(noreturn)
        )
    }
}

/// By no memory at all.
fn return_by_no_frame() {
    return_by(8)
}

/// By memory of which the last word is the hypervisor's.
fn return_by_the_hypervisors_memory() {
    return_by(HYPERVISOR.start.wrapping_sub(64))
}

/// To where no processor goes.
fn return_to_nowhere() {
    let frame = IretFrame {
        rip: 1 << 47,
        cs: u64::from(FLAT_RING3_CS64 & !3),
        ..IretFrame::default()
    };
    return_by((&raw const frame).expose_provenance() as u64)
}

/// To a program, for which there are no page tables.
fn return_to_no_program() {
    let frame = IretFrame {
        cs: FLAT_RING3_CS64.into(),
        ..IretFrame::default()
    };
    return_by((&raw const frame).expose_provenance() as u64)
}

/// By a page fault of a program, of which the kernel cannot be told: its stack is nowhere.
fn fault_of_a_program() {
    /// SYSCALL.
    const CALL: Code<'static> = Code::new(&[0x0f, 0x05]);
    let Ok(mut program) = Program::load(CALL) else {
        return println!("there is no program");
    };
    let exit = program.run(&mut Registers::at_start());
    if exit != Exit::SystemCall {
        return println!("the program does not begin: {exit:?}");
    }
    let answer: u64;
    // SAFETY: the kernel's stack for programs is used by the next exit of one, which is the last that happens here.
    unsafe {
        asm!(
            "syscall",
            inlateout("rax") Hypercall::StackSwitch.raw() => answer,
            in("rdi") u64::from(FLAT_RING3_SS),
            in("rsi") 0x1000_u64,
            lateout("rcx") _,
            lateout("r11") _,
            options(nostack)
        )
    };
    if answer != 0 {
        return println!("the stack is refused");
    }
    let frame = IretFrame {
        rip: 8,
        cs: FLAT_RING3_CS64.into(),
        ss: FLAT_RING3_SS.into(),
        ..IretFrame::default()
    };
    return_by((&raw const frame).expose_provenance() as u64)
}
