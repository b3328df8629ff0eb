//! The few system calls of Linux that the process makes. Source: Linux' table of system calls for x86-64.

use core::arch::asm;
use core::sync::atomic::{AtomicU64, Ordering};

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ended {
    /// By itself, with this status.
    Exited(u8),
    /// By this signal.
    Killed(u8),
}

const WRITE: u64 = 1;
const OPEN: u64 = 2;
const SCHED_YIELD: u64 = 24;
const NANOSLEEP: u64 = 35;
const FORK: u64 = 57;
const EXIT: u64 = 60;
const WAIT4: u64 = 61;
const MKDIR: u64 = 83;
const MKNOD: u64 = 133;
const MODIFY_LDT: u64 = 154;
const REBOOT: u64 = 169;
const SCHED_SETAFFINITY: u64 = 203;
const SCHED_GETAFFINITY: u64 = 204;
const GETCPU: u64 = 309;

/// Makes a system call.
///
/// # Safety
///
/// What the call reads or writes by pointer must be there for it.
unsafe fn call(number: u64, args: [u64; 4]) -> u64 {
    let [rdi, rsi, rdx, r10] = args;
    let answer;
    // SAFETY: the kernel keeps all registers but these; memory is as the caller promises.
    unsafe {
        asm!(
            "syscall",
            inlateout("rax") number => answer,
            in("rdi") rdi, in("rsi") rsi, in("rdx") rdx, in("r10") r10,
            lateout("rcx") _, lateout("r11") _,
            options(nostack)
        );
    }
    answer
}

/// The file that the kernel's log is written by.
static LOG: AtomicU64 = AtomicU64::new(0);

/// Opens the kernel's log, for which there is no file yet.
pub(crate) fn open_log() {
    const CHARACTER_DEVICE: u64 = 0o020_600;
    const KMSG: u64 = 1 << 8 | 11;
    const WRITE_ONLY: u64 = 1;
    let path = c"/dev/kmsg".as_ptr().addr() as u64;
    // SAFETY: the paths are ended by zero bytes.
    let file = unsafe {
        call(MKDIR, [c"/dev".as_ptr().addr() as u64, 0o755, 0, 0]);
        call(MKNOD, [path, CHARACTER_DEVICE, KMSG, 0]);
        call(OPEN, [path, WRITE_ONLY, 0, 0])
    };
    LOG.store(file, Ordering::Relaxed);
}

/// Writes to the kernel's log. Each call makes a record of its own. Unless the kernel's command line has `printk.devkmsg=on`, what two processes write
/// at the same time is left out: the kernel takes it for a flood.
pub(crate) fn log(text: &str) {
    let file = LOG.load(Ordering::Relaxed);
    // SAFETY: reads the text.
    unsafe { call(WRITE, [file, text.as_ptr().addr() as u64, text.len() as u64, 0]) };
}

/// Makes a process like this one. Zero in the new one.
pub(crate) fn fork() -> u64 {
    // SAFETY: the new process has memory of its own.
    unsafe { call(FORK, [0; 4]) }
}

/// Ends this process.
pub(crate) fn exit(status: u8) -> ! {
    loop {
        // SAFETY: does not return.
        unsafe { call(EXIT, [u64::from(status), 0, 0, 0]) };
    }
}

/// Waits for a child to end.
pub(crate) fn wait() -> Ended {
    const ANY: u64 = u64::MAX;
    let mut status = 0_u32;
    // SAFETY: writes the status.
    unsafe { call(WAIT4, [ANY, (&raw mut status).addr() as u64, 0, 0]) };
    let [signal, code, ..] = status.to_le_bytes();
    match signal & 0x7f {
        0 => Ended::Exited(code),
        signal => Ended::Killed(signal),
    }
}

/// Makes local descriptor 0 a segment of 32 bits over `word`. Says whether the kernel did.
pub(crate) fn describe_local_segment(word: &'static u32) -> bool {
    const WRITE: u64 = 1;
    // A 32-bit segment that may be used: see `struct user_desc`.
    const FLAGS: u32 = 1 | 1 << 6;
    let Ok(base) = u32::try_from(core::ptr::from_ref(word).addr()) else {
        return false;
    };
    let description = [0_u32, base, 3, FLAGS];
    let address = description.as_ptr().expose_provenance() as u64;
    // SAFETY: reads the description.
    unsafe { call(MODIFY_LDT, [WRITE, address, size_of_val(&description) as u64, 0]) == 0 }
}

/// Lets another process run.
pub(crate) fn yield_now() {
    // SAFETY: touches nothing.
    unsafe { call(SCHED_YIELD, [0; 4]) };
}

/// The first 64 CPUs on which the process may run, a bit each.
pub(crate) fn affinity() -> u64 {
    // Debian's kernel is made for 8192 CPUs, and wants room for that many.
    let mut cpus = [0_u64; 128];
    let size = size_of_val(&cpus) as u64;
    // SAFETY: writes as much as it is told that there is room for.
    unsafe { call(SCHED_GETAFFINITY, [0, size, (&raw mut cpus).addr() as u64, 0]) };
    let [first, ..] = cpus;
    first
}

/// Lets the process run on one CPU alone from now on. Says whether that is so.
pub(crate) fn run_on(cpu: u32) -> bool {
    let cpus = 1_u64.checked_shl(cpu).unwrap_or(0);
    let mut now = u32::MAX;
    // SAFETY: reads the set, and writes the number of a CPU.
    unsafe {
        call(SCHED_SETAFFINITY, [0, 8, (&raw const cpus).addr() as u64, 0]);
        call(GETCPU, [(&raw mut now).addr() as u64, 0, 0, 0]);
    }
    now == cpu
}

/// Sleeps.
pub(crate) fn sleep_ms(ms: u32) {
    let time = [0_u64, u64::from(ms).wrapping_mul(1_000_000)];
    // SAFETY: reads the time.
    unsafe { call(NANOSLEEP, [time.as_ptr().addr() as u64, 0, 0, 0]) };
}

/// Ends the machine.
pub(crate) fn power_off() -> ! {
    const MAGIC: [u64; 2] = [0xfee1_dead, 0x2812_1969];
    const POWER_OFF: u64 = 0x4321_fedc;
    let [first, second] = MAGIC;
    // SAFETY: does not return, or changes nothing.
    unsafe { call(REBOOT, [first, second, POWER_OFF, 0]) };
    exit(1)
}
