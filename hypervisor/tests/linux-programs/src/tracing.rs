//! What debuggers do: one process looks into another, changes it, and stops it where it likes.

use std::arch::global_asm;
use std::ffi::{c_long, c_void};
use std::mem::offset_of;
use std::ptr;
use std::sync::atomic::{
    AtomicU64,
    Ordering::{Release, SeqCst},
};

use anyhow::{Result, ensure};
use libc::{pid_t, user, user_fpregs_struct, user_regs_struct};

use crate::Check;
use crate::sys::{Ended, errno, fork, raise, wait};

pub(crate) const CHECKS: &[Check] = &[
    ("trace-peeks-and-pokes", peeks_and_pokes),
    ("trace-steps", steps),
    ("trace-stops-at-breakpoints", stops_at_breakpoints),
    ("trace-stops-at-system-calls", stops_at_system_calls),
    ("trace-watches-data", watches_data),
    ("trace-watches-code", watches_code),
    ("trace-changes-vector-registers", changes_vector_registers),
    ("trace-sees-faults-first", sees_faults_first),
];

/// How often the loop below goes round.
const ROUNDS: i64 = 50;

global_asm!(
    ".globl traced_loop, traced_loop_end",
    "traced_loop:",
    "mov ecx, {rounds}",
    "xor eax, eax",
    "2: add eax, 2",
    "dec ecx",
    "jnz 2b",
    "traced_loop_end:",
    "ret",
    rounds = const ROUNDS,
);

unsafe extern "C" {
    safe fn traced_loop() -> i32;
    safe fn traced_loop_end();
}

static WORD: AtomicU64 = AtomicU64::new(0x1122_3344_5566_7788);

/// A process that is traced: it ends if its tracer does.
#[derive(Debug)]
struct Traced(pid_t);

impl Traced {
    /// Stopped, before it does `work`.
    fn new(work: impl FnOnce() -> i32) -> Result<Self> {
        let child = fork(|| {
            // SAFETY: touches nothing.
            unsafe { libc::ptrace(libc::PTRACE_TRACEME, 0, 0, 0) };
            let _ = raise(libc::SIGSTOP);
            work()
        })?;
        let traced = Self(child);
        traced.stops_by(libc::SIGSTOP)?;
        Ok(traced)
    }

    fn request(&self, request: u32, address: usize, data: usize) -> Result<c_long> {
        // SAFETY: what is written here is what the request of a caller below names.
        let answer =
            unsafe { libc::ptrace(request, self.0, ptr::without_provenance::<c_void>(address), data) };
        ensure!(
            answer != -1 || request == libc::PTRACE_PEEKTEXT,
            "request {request}: errno {}",
            errno()
        );
        Ok(answer)
    }

    fn stops_by(&self, signal: i32) -> Result<()> {
        let ended = wait(self.0)?;
        ensure!(ended == Ended::Stopped(signal), "{ended:?}");
        Ok(())
    }

    fn registers(&self) -> Result<user_regs_struct> {
        // SAFETY: plain numbers.
        let mut registers: user_regs_struct = unsafe { std::mem::zeroed() };
        self.request(libc::PTRACE_GETREGS, 0, (&raw mut registers).addr())?;
        Ok(registers)
    }

    fn set_registers(&self, registers: &user_regs_struct) -> Result<()> {
        self.request(libc::PTRACE_SETREGS, 0, ptr::from_ref(registers).addr())
            .map(drop)
    }

    fn peek(&self, address: usize) -> Result<c_long> {
        self.request(libc::PTRACE_PEEKTEXT, address, 0)
    }

    fn poke(&self, address: usize, word: c_long) -> Result<()> {
        let word = usize::try_from(word.cast_unsigned())?;
        self.request(libc::PTRACE_POKETEXT, address, word).map(drop)
    }

    fn goes_on(&self, request: u32) -> Result<()> {
        self.request(request, 0, 0).map(drop)
    }

    /// Lets it run until it has come to `address`, by a breakpoint.
    fn runs_to(&self, address: usize) -> Result<()> {
        const BREAKPOINT: c_long = 0xcc;
        let there = self.peek(address)?;
        self.poke(address, there & !0xff | BREAKPOINT)?;
        self.goes_on(libc::PTRACE_CONT)?;
        self.stops_by(libc::SIGTRAP)?;
        let mut registers = self.registers()?;
        ensure!(registers.rip == address as u64 + 1, "at {:#x}", registers.rip);
        registers.rip -= 1;
        self.set_registers(&registers)?;
        self.poke(address, there)
    }

    /// Sets a debug register.
    fn debug_register(&self, number: usize, value: usize) -> Result<()> {
        let offset = offset_of!(user, u_debugreg) + 8 * number;
        self.request(libc::PTRACE_POKEUSER, offset, value).map(drop)
    }

    fn status(&self) -> Result<c_long> {
        self.request(libc::PTRACE_PEEKUSER, offset_of!(user, u_debugreg) + 8 * 6, 0)
    }

    fn exits_with(&self, status: i32) -> Result<()> {
        self.goes_on(libc::PTRACE_CONT)?;
        let ended = wait(self.0)?;
        ensure!(ended == Ended::Exited(status), "{ended:?}");
        Ok(())
    }
}

fn peeks_and_pokes() -> Result<()> {
    let traced = Traced::new(|| if WORD.load(SeqCst) == 5 { 5 } else { 1 })?;
    let address = WORD.as_ptr().addr();
    ensure!(traced.peek(address)? == 0x1122_3344_5566_7788);
    traced.poke(address, 5)?;
    ensure!(traced.peek(address)? == 5);
    ensure!(
        WORD.load(SeqCst) == 0x1122_3344_5566_7788,
        "the tracer's own has changed"
    );
    traced.exits_with(5)
}

fn steps() -> Result<()> {
    let traced = Traced::new(traced_loop_status)?;
    traced.runs_to(traced_loop as *const () as usize)?;
    let mut count = 0;
    while traced.registers()?.rip != traced_loop_end as *const () as usize as u64 {
        traced.goes_on(libc::PTRACE_SINGLESTEP)?;
        traced.stops_by(libc::SIGTRAP)?;
        count += 1;
        ensure!(count < 1000, "it never gets there");
    }
    ensure!(count == 2 + 3 * ROUNDS, "{count} steps");
    traced.exits_with(100)
}

fn traced_loop_status() -> i32 {
    traced_loop()
}

fn stops_at_breakpoints() -> Result<()> {
    let traced = Traced::new(|| traced_loop() - traced_loop() + 3)?;
    for _ in 0..2 {
        traced.runs_to(traced_loop as *const () as usize)?;
        traced.runs_to(traced_loop_end as *const () as usize)?;
        ensure!(traced.registers()?.rax == 100);
    }
    traced.exits_with(3)
}

fn stops_at_system_calls() -> Result<()> {
    let traced = Traced::new(|| {
        // SAFETY: touches nothing.
        let found = unsafe { libc::syscall(libc::SYS_getppid) };
        if found == 4242 { 4 } else { 1 }
    })?;
    traced.request(
        libc::PTRACE_SETOPTIONS,
        0,
        usize::try_from(libc::PTRACE_O_TRACESYSGOOD)?,
    )?;
    for _ in 0..100 {
        traced.goes_on(libc::PTRACE_SYSCALL)?;
        traced.stops_by(libc::SIGTRAP | 0x80)?;
        if i64::try_from(traced.registers()?.orig_rax)? == libc::SYS_getppid {
            break;
        }
    }
    traced.goes_on(libc::PTRACE_SYSCALL)?;
    traced.stops_by(libc::SIGTRAP | 0x80)?;
    let mut registers = traced.registers()?;
    ensure!(
        registers.rax == u64::from(std::process::id()),
        "answer {}",
        registers.rax
    );
    registers.rax = 4242;
    traced.set_registers(&registers)?;
    traced.exits_with(4)
}

/// What stands in debug register 7 for register 0, used by this process alone.
const USED: usize = 1;
const ON_WRITE: usize = 1 << 16;
const EIGHT_BYTES: usize = 2 << 18;

fn watches_data() -> Result<()> {
    static OTHER: AtomicU64 = AtomicU64::new(0);
    // By plain stores: of exchanges, which `SeqCst` makes of them, QEMU 7.2 with several CPUs misses one of some thousand, without a hypervisor too.
    let traced = Traced::new(|| {
        OTHER.store(1, Release);
        WORD.store(2, Release);
        OTHER.store(3, Release);
        WORD.store(4, Release);
        6
    })?;
    let address = WORD.as_ptr().addr();
    traced.debug_register(0, address)?;
    traced.debug_register(7, USED | ON_WRITE | EIGHT_BYTES)?;
    for value in [2, 4] {
        traced.goes_on(libc::PTRACE_CONT)?;
        traced.stops_by(libc::SIGTRAP)?;
        let found = (traced.peek(address)?, traced.peek((&raw const OTHER).addr())?);
        let status = traced.status()?;
        ensure!(
            found == (value, value - 1),
            "{found:?} at {value}, status {status:#x}"
        );
        ensure!(status & 0xf == 1, "status {status:#x}");
    }
    traced.exits_with(6)
}

fn watches_code() -> Result<()> {
    let traced = Traced::new(|| {
        // Others' turns in between: the registers go with the process.
        for _ in 0..10 {
            crate::sys::yield_now();
        }
        traced_loop() - traced_loop() + 8
    })?;
    let place = traced_loop_end as *const () as usize;
    traced.debug_register(1, place)?;
    traced.debug_register(7, USED << 2)?;
    for _ in 0..2 {
        traced.goes_on(libc::PTRACE_CONT)?;
        traced.stops_by(libc::SIGTRAP)?;
        ensure!(traced.registers()?.rip == place as u64);
        ensure!(traced.status()? & 0xf == 2, "status {:#x}", traced.status()?);
    }
    // This process has none of it.
    traced_loop();
    traced.exits_with(8)
}

global_asm!(
    ".globl traced_vector, traced_vector_read",
    "traced_vector:",
    "mov eax, 7",
    "movd xmm9, eax",
    "traced_vector_read:",
    "movd eax, xmm9",
    "ret",
);

unsafe extern "C" {
    safe fn traced_vector() -> i32;
    safe fn traced_vector_read();
}

fn changes_vector_registers() -> Result<()> {
    let traced = Traced::new(|| traced_vector())?;
    traced.runs_to(traced_vector_read as *const () as usize)?;
    // SAFETY: plain numbers.
    let mut registers: user_fpregs_struct = unsafe { std::mem::zeroed() };
    traced.request(libc::PTRACE_GETFPREGS, 0, (&raw mut registers).addr())?;
    ensure!(
        registers.xmm_space[9 * 4] == 7,
        "found {}",
        registers.xmm_space[9 * 4]
    );
    registers.xmm_space[9 * 4] = 77;
    traced.request(libc::PTRACE_SETFPREGS, 0, (&raw const registers).addr())?;
    traced.exits_with(77)
}

fn sees_faults_first() -> Result<()> {
    let traced = Traced::new(|| {
        // SAFETY: nothing is there: the process gets a signal, and would end by it.
        unsafe { ptr::without_provenance::<u8>(16).read_volatile() };
        1
    })?;
    traced.goes_on(libc::PTRACE_CONT)?;
    traced.stops_by(libc::SIGSEGV)?;
    // SAFETY: plain numbers.
    let mut info: libc::siginfo_t = unsafe { std::mem::zeroed() };
    traced.request(libc::PTRACE_GETSIGINFO, 0, (&raw mut info).addr())?;
    // SAFETY: a fault's.
    ensure!(unsafe { info.si_addr() }.addr() == 16);
    traced.request(libc::PTRACE_KILL, 0, 0)?;
    let ended = wait(traced.0)?;
    ensure!(ended == Ended::Killed(libc::SIGKILL), "{ended:?}");
    Ok(())
}
