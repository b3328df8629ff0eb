//! A guest that dies in the way that its command line names, and nobody else with it.
//!
//! Whoever runs it expects a report on the console, a domain that has crashed, and all other domains alive.
//! All ways but one are reported by the guest itself; `stack-overflow` leaves it no stack to do so and is the
//! hypervisor's to report.

#![no_std]
#![no_main]

extern crate alloc;

use alloc::vec::Vec;
use core::{arch::asm, hint::black_box};

use bulkhead_runtime::{CommandLine, Environment, ShutdownReason, println};

bulkhead_runtime::entry!(main);

/// The ways to die, by the word that chooses them.
const WAYS: [(&str, fn()); 7] = [
    ("null", null),
    ("privileged", privileged),
    ("write-code", write_code),
    ("execute-data", execute_data),
    ("stack-overflow", stack_overflow),
    ("out-of-memory", out_of_memory),
    ("panic", panic),
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
