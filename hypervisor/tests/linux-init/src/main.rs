//! The first process of a Linux guest: tries what needs programs of a guest to work, says so in the kernel's log, and
//! powers off.
//!
//! - Processes come and go, each with memory of its own: page tables are made, copied on write, and taken down.
//! - SSE registers survive that other processes use theirs.
//! - Every CPU of the guest runs processes, several at the same time.
//! - A fault reaches the process as a signal, and ends it alone.
//! - A segment of its own, described in its local table, goes with its process.
//! - Sleep ends in time: timers and events interrupt programs and idling alike.

#![no_std]
#![no_main]

mod system;

use core::arch::asm;
use system::{Ended, describe_local_segment, exit, fork, log, power_off, sleep_ms, wait, yield_now};

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
    if every_cpu_runs_processes() {
        log("init: every-cpu-runs-processes ok\n");
    }
    if a_fault_ends_its_process() {
        log("init: a-fault-ends-its-process-alone ok\n");
    }
    if local_segments_are_apart() {
        log("init: processes-have-local-segments-of-their-own ok\n");
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

/// Each of several processes has a segment of its own over a word of its own, at the same selector.
fn local_segments_are_apart() -> bool {
    for number in 1..=PROCESSES {
        if fork() == 0 {
            exit(if finds_its_segment(number) { number } else { 0 });
        }
    }
    (1..=PROCESSES).all(|_| matches!(wait(), Ended::Exited(1..=PROCESSES)))
}

/// Describes a segment over `number`, lets the others do the same, and looks through it.
fn finds_its_segment(number: u8) -> bool {
    // As many words as processes, so that bases differ too.
    static WORDS: [u32; 1 + PROCESSES as usize] = [0, 1, 2, 3, 4, 5, 6, 7, 8];
    const FIRST_LOCAL: u32 = 7;
    let Some(word) = WORDS.get(usize::from(number)) else {
        return false;
    };
    if !describe_local_segment(word) {
        return false;
    }
    let mut found = 0_u32;
    for _ in 0..YIELDS {
        yield_now();
        // SAFETY: the segment shows the word, and FS is used for nothing else.
        unsafe {
            asm!(
                "mov fs, {selector:e}", "mov {found:e}, fs:[0]",
                selector = in(reg) FIRST_LOCAL, found = out(reg) found, options(nostack, readonly)
            );
        }
        if found != u32::from(number) {
            return false;
        }
    }
    true
}

/// Has a process on each CPU, all at the same time, that has a child there besides: page tables come and go on all of them.
fn every_cpu_runs_processes() -> bool {
    let cpus = system::affinity();
    let there = || (0..u64::BITS).filter(|&cpu| cpus & 1 << cpu != 0);
    for cpu in there() {
        if fork() == 0 {
            exit(if works_on(cpu) { 1 } else { 0 });
        }
    }
    there().all(|_| wait() == Ended::Exited(1))
}

/// Runs on `cpu`, and says so in the kernel's log.
fn works_on(cpu: u32) -> bool {
    const DIGITS: &[u8; 10] = b"0123456789";
    let mut line = *b"init: process on CPU ?\n";
    if let (Some(digit), Some(place)) = (DIGITS.get(cpu as usize), line.get_mut(21)) {
        *place = *digit;
    }
    if !system::run_on(cpu) {
        return false;
    }
    for _ in 0..PROCESSES {
        if fork() == 0 {
            exit(if stays_itself(1) { 1 } else { 0 });
        }
        if wait() != Ended::Exited(1) {
            return false;
        }
    }
    log(core::str::from_utf8(&line).unwrap_or_default());
    true
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
