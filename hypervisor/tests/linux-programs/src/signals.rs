//! Signals: what their handlers are told, where they run, and how what they interrupted goes on.

use std::arch::asm;
use std::ffi::{c_int, c_void};
use std::sync::atomic::{AtomicI32, AtomicI64, AtomicUsize, Ordering::Relaxed};

use anyhow::{Result, ensure};
use libc::siginfo_t;

use crate::Check;
use crate::sys::{Ended, PAGE, Pages, done, exit, handle, in_child, interrupted, raise};

pub(crate) const CHECKS: &[Check] = &[
    ("signal-tells-what-is-not-mapped", tells_what_is_not_mapped),
    ("signal-tells-what-is-forbidden", tells_what_is_forbidden),
    (
        "signal-tells-what-cannot-be-executed",
        tells_what_cannot_be_executed,
    ),
    ("signal-of-division", of_division),
    ("signal-of-x87", of_x87),
    ("signal-of-unknown-instruction", of_unknown_instruction),
    ("signal-of-breakpoint", of_breakpoint),
    ("signal-of-trap-flag", of_trap_flag),
    ("signal-of-privileged-instruction", of_privileged_instruction),
    ("signal-of-address-that-is-none", of_address_that_is_none),
    ("signal-beyond-end-of-file", beyond_end_of_file),
    ("signal-on-other-stack", on_other_stack),
    ("signal-of-full-stack", of_full_stack),
    ("signals-nest", nest),
    ("signals-wait-while-blocked", wait_while_blocked),
    ("signals-of-timers", of_timers),
    ("signal-ends-its-process-alone", ends_its_process_alone),
];

/// What the last handler was told.
static CODE: AtomicI32 = AtomicI32::new(0);
static ADDRESS: AtomicUsize = AtomicUsize::new(0);
/// The processor's error code, and where it was.
static ERROR: AtomicI64 = AtomicI64::new(0);
static PLACE: AtomicI64 = AtomicI64::new(0);
static COUNT: AtomicI32 = AtomicI32::new(0);

/// What signals say of their cause. Source: Linux' `asm-generic/siginfo.h`.
const SEGV_MAPERR: c_int = 1;
const SEGV_ACCERR: c_int = 2;
const FPE_INTDIV: c_int = 1;
const FPE_FLTDIV: c_int = 3;
const ILL_ILLOPN: c_int = 2;

/// Bits of a page fault's error code.
const IS_PRESENT: i64 = 1;
const IS_WRITE: i64 = 2;
const IS_USER: i64 = 4;
const IS_FETCH: i64 = 16;

/// Remembers what it is told.
///
/// # Safety
///
/// The arguments must be a handler's.
unsafe fn remember(info: *mut siginfo_t, context: *mut c_void) {
    // SAFETY: the caller promises.
    unsafe {
        CODE.store((*info).si_code, Relaxed);
        ADDRESS.store((*info).si_addr().addr(), Relaxed);
        ERROR.store(*interrupted(context, libc::REG_ERR), Relaxed);
        PLACE.store(*interrupted(context, libc::REG_RIP), Relaxed);
    }
    COUNT.fetch_add(1, Relaxed);
}

/// Makes a page where there was none, or one that can be used: what was interrupted is done again.
extern "C" fn mends_page(_: c_int, info: *mut siginfo_t, context: *mut c_void) {
    const ALL: c_int = libc::PROT_READ | libc::PROT_WRITE | libc::PROT_EXEC;
    // SAFETY: the arguments are a handler's; the page is one of the check's.
    unsafe {
        remember(info, context);
        let page = (*info).si_addr().map_addr(|address| address & !(PAGE - 1));
        if (*info).si_code == SEGV_MAPERR {
            let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED;
            libc::mmap(page, PAGE, ALL, flags, -1, 0);
        } else {
            libc::mprotect(page, PAGE, ALL);
        }
    }
}

fn told(code: c_int, address: *mut u8, error: i64) -> Result<()> {
    let (found, at, why) = (CODE.load(Relaxed), ADDRESS.load(Relaxed), ERROR.load(Relaxed));
    ensure!(COUNT.swap(0, Relaxed) == 1, "not one signal");
    ensure!(
        found == code && at == address.addr() && why == error,
        "code {found} for {code}, address {at:#x} for {address:p}, error {why:#x} for {error:#x}"
    );
    Ok(())
}

fn tells_what_is_not_mapped() -> Result<()> {
    handle(libc::SIGSEGV, 0, mends_page)?;
    let pages = Pages::new(3)?;
    for (error, page) in [(0, 1), (IS_WRITE, 2)] {
        pages.unmap(page, 1)?;
        let offset = page * PAGE + 0x123;
        if error == 0 {
            ensure!(pages.get(offset) == 0);
        } else {
            pages.set(offset, 1);
            ensure!(pages.get(offset) == 1);
        }
        told(SEGV_MAPERR, pages.at(offset), error | IS_USER)?;
    }
    Ok(())
}

fn tells_what_is_forbidden() -> Result<()> {
    handle(libc::SIGSEGV, 0, mends_page)?;
    let pages = Pages::new(3)?;
    pages.mark(7);
    pages.protect(0, 1, libc::PROT_READ)?;
    pages.set(8, 1);
    told(SEGV_ACCERR, pages.at(8), IS_USER | IS_WRITE | IS_PRESENT)?;
    pages.protect(1, 1, libc::PROT_NONE)?;
    pages.get(PAGE + 8);
    // Linux keeps such a page in a form that the processor takes for none.
    told(SEGV_ACCERR, pages.at(PAGE + 8), IS_USER)?;
    ensure!(pages.is_marked(7));
    Ok(())
}

fn tells_what_cannot_be_executed() -> Result<()> {
    const RETURN: u8 = 0xc3;
    handle(libc::SIGSEGV, 0, mends_page)?;
    let pages = Pages::new(1)?;
    pages.set(16, RETURN);
    // SAFETY: what stands there returns, once it may be executed.
    unsafe { asm!("call {}", in(reg) pages.at(16), clobber_abi("C")) };
    told(SEGV_ACCERR, pages.at(16), IS_USER | IS_FETCH | IS_PRESENT)
}

/// Gives the division a divisor.
extern "C" fn mends_divisor(_: c_int, info: *mut siginfo_t, context: *mut c_void) {
    // SAFETY: the arguments are a handler's.
    unsafe {
        remember(info, context);
        *interrupted(context, libc::REG_RCX) = 5;
    }
}

fn of_division() -> Result<()> {
    handle(libc::SIGFPE, 0, mends_divisor)?;
    let (quotient, place): (u32, usize);
    // SAFETY: the handler makes the divisor one that can be used.
    unsafe {
        asm!(
            "lea {place}, [rip + 2f]", "2: div ecx",
            place = out(reg) place, inout("eax") 35 => quotient, inout("edx") 0 => _, inout("ecx") 0 => _,
            options(nostack)
        );
    }
    ensure!(quotient == 7, "35 / 5 = {quotient}");
    ensure!(CODE.load(Relaxed) == FPE_INTDIV, "code {}", CODE.load(Relaxed));
    ensure!(ADDRESS.load(Relaxed) == place, "elsewhere");
    Ok(())
}

/// Forbids the exceptions of the x87 again.
extern "C" fn masks_x87(_: c_int, info: *mut siginfo_t, context: *mut c_void) {
    const ALL_MASKED: u16 = 0x37f;
    // SAFETY: the arguments are a handler's, and there is x87 state: it was just used.
    unsafe {
        remember(info, context);
        let state = (*context.cast::<libc::ucontext_t>()).uc_mcontext.fpregs;
        (*state).cwd = ALL_MASKED;
        (*state).swd = 0;
    }
}

fn of_x87() -> Result<()> {
    const DIVISION_BY_ZERO_UNMASKED: u16 = 0x37b;
    handle(libc::SIGFPE, 0, masks_x87)?;
    let (control, mut found) = (DIVISION_BY_ZERO_UNMASKED, 0_u16);
    // SAFETY: the x87 is left empty, and as it was at the start, by the handler.
    unsafe {
        asm!(
            "fninit", "fldcw [{control}]", "fld1", "fldz", "fdivp st(1), st", "fwait", "fnstcw [{found}]", "fninit",
            control = in(reg) &raw const control, found = in(reg) &raw mut found, options(nostack)
        );
    }
    ensure!(COUNT.load(Relaxed) == 1, "{} signals", COUNT.load(Relaxed));
    ensure!(found == 0x37f, "the handler changed nothing");
    ensure!(CODE.load(Relaxed) == FPE_FLTDIV, "code {}", CODE.load(Relaxed));
    Ok(())
}

/// Goes on behind an instruction of two bytes.
extern "C" fn skips_two(_: c_int, info: *mut siginfo_t, context: *mut c_void) {
    // SAFETY: the arguments are a handler's.
    unsafe {
        remember(info, context);
        *interrupted(context, libc::REG_RIP) += 2;
    }
}

fn of_unknown_instruction() -> Result<()> {
    handle(libc::SIGILL, 0, skips_two)?;
    let place: usize;
    // SAFETY: the handler skips it.
    unsafe { asm!("lea {place}, [rip + 2f]", "2: ud2", place = out(reg) place) };
    ensure!(COUNT.load(Relaxed) == 1 && ADDRESS.load(Relaxed) == place);
    ensure!(CODE.load(Relaxed) == ILL_ILLOPN, "code {}", CODE.load(Relaxed));
    Ok(())
}

/// Only remembers.
extern "C" fn remembers(_: c_int, info: *mut siginfo_t, context: *mut c_void) {
    // SAFETY: the arguments are a handler's.
    unsafe { remember(info, context) };
}

fn of_breakpoint() -> Result<()> {
    handle(libc::SIGTRAP, 0, remembers)?;
    let place: i64;
    // SAFETY: the handler returns behind it.
    unsafe { asm!("lea {place}, [rip + 2f]", "int3", "2:", place = out(reg) place) };
    ensure!(COUNT.load(Relaxed) == 1 && PLACE.load(Relaxed) == place);
    Ok(())
}

fn of_trap_flag() -> Result<()> {
    handle(libc::SIGTRAP, 0, remembers)?;
    let place: i64;
    // SAFETY: the handler returns; the flags and the stack are as they were at the end.
    unsafe {
        asm!(
            "lea {place}, [rip + 2f]", "lea rsp, [rsp - 128]",
            "pushfq", "or qword ptr [rsp], 0x100", "popfq", "nop", "2:",
            "pushfq", "and qword ptr [rsp], ~0x100", "popfq", "lea rsp, [rsp + 128]",
            place = out(reg) place
        );
    }
    // One after each of `nop`, `pushfq`, and `and`; and one after `popfq`, which ends it.
    ensure!(COUNT.load(Relaxed) == 4, "{} signals", COUNT.load(Relaxed));
    ensure!(
        CODE.load(Relaxed) == libc::TRAP_TRACE,
        "code {}",
        CODE.load(Relaxed)
    );
    ensure!(place != 0);
    Ok(())
}

/// Runs `work` as a program, which is to end by a signal.
fn is_killed(signal: c_int, work: fn()) -> Result<()> {
    let ended = in_child(|| {
        work();
        0
    })?;
    ensure!(ended == Ended::Killed(signal), "{ended:?}");
    Ok(())
}

fn of_privileged_instruction() -> Result<()> {
    // SAFETY: each ends its process; if it does not, the check has failed.
    is_killed(libc::SIGSEGV, || unsafe { asm!("hlt") })?;
    // SAFETY: as above.
    is_killed(libc::SIGSEGV, || unsafe { asm!("cli") })?;
    // SAFETY: as above.
    is_killed(libc::SIGSEGV, || unsafe { asm!("mov rax, cr3", out("rax") _) })?;
    // SAFETY: as above.
    is_killed(libc::SIGSEGV, || unsafe {
        asm!("rdmsr", in("ecx") 0x10, out("eax") _, out("edx") _)
    })?;
    // SAFETY: as above.
    is_killed(libc::SIGSEGV, || unsafe { asm!("int 0x50") })?;
    // SAFETY: as above. What programs of a kernel could ask the hypervisor for.
    is_killed(libc::SIGSEGV, || unsafe { asm!("int 0x82") })
}

fn of_address_that_is_none() -> Result<()> {
    const NOT_CANONICAL: u64 = 0x8000_0000_0000;
    const KERNEL: u64 = 0xffff_ffff_8100_0000;
    const HYPERVISOR: u64 = 0xffff_8700_0000_0000;
    // SAFETY: ends its process.
    is_killed(libc::SIGSEGV, || unsafe {
        asm!("mov al, [{}]", in(reg) NOT_CANONICAL, out("al") _)
    })?;
    // SAFETY: as above.
    is_killed(libc::SIGSEGV, || unsafe {
        asm!("mov al, [{}]", in(reg) KERNEL, out("al") _)
    })?;
    // SAFETY: as above.
    is_killed(libc::SIGSEGV, || unsafe {
        asm!("mov al, [{}]", in(reg) HYPERVISOR, out("al") _)
    })?;
    // SAFETY: as above.
    is_killed(libc::SIGSEGV, || unsafe { asm!("jmp {}", in(reg) HYPERVISOR) })?;
    // SAFETY: as above.
    is_killed(libc::SIGSEGV, || unsafe { asm!("jmp {}", in(reg) KERNEL) })?;
    // With such a stack: another exception, which not every kernel tells by the same signal.
    let ended = in_child(|| {
        // SAFETY: ends its process.
        unsafe { asm!("mov rsp, {}", "push rax", in(reg) NOT_CANONICAL) };
        0
    })?;
    ensure!(
        matches!(ended, Ended::Killed(libc::SIGBUS | libc::SIGSEGV)),
        "{ended:?}"
    );
    Ok(())
}

fn beyond_end_of_file() -> Result<()> {
    is_killed(libc::SIGBUS, || {
        // SAFETY: the name ends with a zero.
        let file = unsafe { libc::memfd_create(c"short".as_ptr(), 0) };
        // SAFETY: the file is this process's.
        unsafe { libc::ftruncate(file, 4096) };
        let pages = Pages::map(2, libc::PROT_READ, libc::MAP_SHARED, file).unwrap();
        pages.get(0);
        pages.get(PAGE);
    })
}

/// Has handlers with `SA_ONSTACK` run on these pages.
fn give_other_stack(pages: &Pages, count: usize) -> Result<()> {
    let stack = libc::stack_t {
        ss_sp: pages.start().cast(),
        ss_flags: 0,
        ss_size: count * PAGE,
    };
    // SAFETY: the pages stay.
    done(
        unsafe { libc::sigaltstack(&raw const stack, std::ptr::null_mut()) },
        "sigaltstack",
    )
    .map(drop)
}

/// Tells where its stack is.
extern "C" fn tells_stack(_: c_int, _: *mut siginfo_t, _: *mut c_void) {
    let here = 0_u8;
    ADDRESS.store((&raw const here).addr(), Relaxed);
}

fn on_other_stack() -> Result<()> {
    const COUNT: usize = 16;
    let pages = Pages::new(COUNT)?;
    let is_there =
        || (pages.start().addr()..pages.start().addr() + COUNT * PAGE).contains(&ADDRESS.load(Relaxed));
    give_other_stack(&pages, COUNT)?;
    handle(libc::SIGUSR1, libc::SA_ONSTACK, tells_stack)?;
    raise(libc::SIGUSR1)?;
    ensure!(is_there(), "with SA_ONSTACK");
    handle(libc::SIGUSR1, 0, tells_stack)?;
    raise(libc::SIGUSR1)?;
    ensure!(!is_there(), "without SA_ONSTACK");
    Ok(())
}

extern "C" fn exits_seven(_: c_int, info: *mut siginfo_t, _: *mut c_void) {
    // SAFETY: the arguments are a handler's.
    exit(if unsafe { (*info).si_code } == SEGV_MAPERR {
        7
    } else {
        8
    });
}

/// Uses up the stack.
fn recurse(depth: u64) -> u64 {
    let block = std::hint::black_box([depth; 512]);
    if depth == u64::MAX {
        0
    } else {
        recurse(depth + 1) + block[1]
    }
}

fn of_full_stack() -> Result<()> {
    let ended = in_child(|| {
        let pages = Pages::new(16).unwrap();
        give_other_stack(&pages, 16).unwrap();
        handle(libc::SIGSEGV, libc::SA_ONSTACK, exits_seven).unwrap();
        i32::from(recurse(0) == 1)
    })?;
    // The address may lie in the gap below the stack, which is not mapped.
    ensure!(ended == Ended::Exited(7), "{ended:?}");
    Ok(())
}

/// Goes deeper, by signals of its own.
extern "C" fn goes_deeper(signal: c_int, _: *mut siginfo_t, _: *mut c_void) {
    if COUNT.fetch_add(1, Relaxed) < 49 {
        let _ = raise(signal);
    }
    CODE.fetch_add(1, Relaxed);
}

fn nest() -> Result<()> {
    handle(libc::SIGUSR1, libc::SA_NODEFER, goes_deeper)?;
    raise(libc::SIGUSR1)?;
    let found = (COUNT.load(Relaxed), CODE.load(Relaxed));
    ensure!(found == (50, 50), "{found:?}");
    Ok(())
}

/// Remembers the values that come with signals, as digits.
extern "C" fn appends_value(_: c_int, info: *mut siginfo_t, _: *mut c_void) {
    // SAFETY: the arguments are a handler's.
    let value = unsafe { (*info).si_value() }.sival_ptr.addr();
    ADDRESS.store(ADDRESS.load(Relaxed) * 10 + value, Relaxed);
}

fn wait_while_blocked() -> Result<()> {
    let signal = libc::SIGRTMIN();
    handle(signal, 0, appends_value)?;
    // SAFETY: sets of signals, and values that nobody takes for addresses.
    unsafe {
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigaddset(&raw mut set, signal);
        done(
            libc::sigprocmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut()),
            "sigprocmask",
        )?;
        for value in [3, 1, 4, 1, 5] {
            let value = libc::sigval {
                sival_ptr: std::ptr::without_provenance_mut(value),
            };
            done(libc::sigqueue(libc::getpid(), signal, value), "sigqueue")?;
        }
        ensure!(ADDRESS.load(Relaxed) == 0, "one came through");
        done(
            libc::sigprocmask(libc::SIG_UNBLOCK, &raw const set, std::ptr::null_mut()),
            "sigprocmask",
        )?;
    }
    ensure!(ADDRESS.load(Relaxed) == 31415, "{}", ADDRESS.load(Relaxed));
    Ok(())
}

extern "C" fn counts(_: c_int, _: *mut siginfo_t, _: *mut c_void) {
    COUNT.fetch_add(1, Relaxed);
}

/// Has `handler` called every few milliseconds of the process's time.
pub(crate) fn interrupt_often(handler: crate::sys::Handler) -> Result<()> {
    handle(libc::SIGVTALRM, libc::SA_RESTART, handler)?;
    let often = libc::timeval {
        tv_sec: 0,
        tv_usec: 4000,
    };
    let timer = libc::itimerval {
        it_interval: often,
        it_value: often,
    };
    // SAFETY: reads the times.
    done(
        unsafe { libc::setitimer(libc::ITIMER_VIRTUAL, &raw const timer, std::ptr::null_mut()) },
        "setitimer",
    )
    .map(drop)
}

fn of_timers() -> Result<()> {
    interrupt_often(counts)?;
    while COUNT.load(Relaxed) < 20 {
        std::hint::spin_loop();
    }
    Ok(())
}

fn ends_its_process_alone() -> Result<()> {
    for signal in [libc::SIGSEGV, libc::SIGKILL, libc::SIGTERM, libc::SIGABRT] {
        let ended = in_child(|| {
            let _ = raise(signal);
            0
        })?;
        ensure!(ended == Ended::Killed(signal), "{ended:?}");
    }
    Ok(())
}
