//! The first process of a Linux guest: tries what needs programs of a guest to work, says so in the kernel's log, and
//! powers off.
//!
//! - Processes come and go, each with memory of its own: page tables are made, copied on write, and taken down.
//! - SSE registers survive that other processes use theirs.
//! - A fault reaches the process as a signal, and ends it alone.
//! - Sleep ends in time: timers and events interrupt programs and idling alike.

#![no_std]
#![no_main]

mod system;

use core::arch::asm;
use system::{Ended, exit, fork, log, power_off, sleep_ms, wait, yield_now};

/// How many processes run at the same time.
const PROCESSES: u8 = 8;

/// How often each lets the others run.
const YIELDS: u32 = 50;

/// Pages that each process writes.
const PAGES: usize = 32;

/// Memory that all processes have from their parent, each as its own.
static mut MEMORY: [[u8; 4096]; PAGES] = [[0; 4096]; PAGES];

/// Where the kernel starts the process.
#[unsafe(no_mangle)]
extern "C" fn _start() -> ! {
    // Whether the stack is aligned as for a call matters to nothing here: there are no vector instructions.
    system::open_log();
    log("init: hello from user space\n");
    if processes_are_apart() {
        log("init: processes-have-memory-and-registers-of-their-own ok\n");
    }
    if a_fault_ends_its_process() {
        log("init: a-fault-ends-its-process-alone ok\n");
    }
    sleep_ms(50);
    log("init: slept\n");
    power_off()
}

fn processes_are_apart() -> bool {
    for number in 1..=PROCESSES {
        if fork() == 0 {
            exit(if stays_itself(number) { number } else { 0 });
        }
    }
    (1..=PROCESSES).all(|_| matches!(wait(), Ended::Exited(1..=PROCESSES)))
}

/// Fills memory and a register with `number`, lets the others do the same, and looks whether it is still there.
fn stays_itself(number: u8) -> bool {
    let pattern = u64::from_ne_bytes([number; 8]);
    let memory = &raw mut MEMORY;
    // SAFETY: the process has one thread, and this is its only reference to the memory.
    let memory = unsafe { &mut *memory };
    memory.as_flattened_mut().fill(number);
    // SAFETY: the compiler uses no vector registers: the target has no floating point.
    unsafe { asm!("movq xmm7, {}", in(reg) pattern, options(nomem, nostack, preserves_flags)) };
    for _ in 0..YIELDS {
        yield_now();
    }
    let found: u64;
    // SAFETY: as above.
    unsafe { asm!("movq {}, xmm7", out(reg) found, options(nomem, nostack, preserves_flags)) };
    found == pattern && memory.as_flattened().iter().all(|byte| *byte == number)
}

fn a_fault_ends_its_process() -> bool {
    const SIGSEGV: u8 = 11;
    if fork() == 0 {
        // SAFETY: writes to address 8, where nothing is mapped: the process ends here.
        unsafe { asm!("mov qword ptr [{}], 0", in(reg) 8_u64) };
        exit(0);
    }
    wait() == Ended::Killed(SIGSEGV)
}

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    log("init: panicked\n");
    exit(255)
}
