//! The rest of what a kernel has for programs: clocks, filters of system calls, segments, ports, counters.

use std::arch::asm;
use std::ffi::{c_int, c_void};
use std::sync::atomic::{AtomicI32, Ordering::Relaxed};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use libc::{siginfo_t, sock_filter, sock_fprog};

use crate::Check;
use crate::sys::{Ended, done, errno, fork, handle, in_child, wait, yield_now};
use crate::threads::now;

pub(crate) const CHECKS: &[Check] = &[
    ("clock-of-programs-agrees-with-kernels", clocks_agree),
    ("clock-of-programs-needs-no-system-call", clock_needs_no_call),
    ("clock-sleeps-as-long-as-told", sleeps),
    ("seccomp-refuses", seccomp_refuses),
    ("seccomp-kills", seccomp_kills),
    ("seccomp-traps", seccomp_traps),
    ("ports-are-refused", ports_are_refused),
    ("segments-of-local-tables", local_segments),
    ("segments-by-arch-prctl", segments_by_arch_prctl),
    ("counter-of-the-processor-counts", counter_counts),
    ("cpuid-tells-what-there-is", cpuid_tells),
    ("system-page-of-old-is-emulated", page_of_old),
];

/// A clock by a system call.
fn now_by_call(clock: libc::clockid_t) -> i64 {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: writes the time.
    unsafe { libc::syscall(libc::SYS_clock_gettime, clock, &raw mut time) };
    time.tv_sec * 1_000_000_000 + time.tv_nsec
}

fn clocks_agree() -> Result<()> {
    for clock in [libc::CLOCK_MONOTONIC, libc::CLOCK_REALTIME, libc::CLOCK_BOOTTIME] {
        for _ in 0..2000 {
            let (before, here, after) = (now_by_call(clock), now(clock), now_by_call(clock));
            ensure!(
                before <= here && here <= after,
                "clock {clock}: {before}, {here}, {after}"
            );
        }
    }
    Ok(())
}

/// Has the kernel answer `action` to one system call.
fn filter(call: i64, action: u32) -> Result<()> {
    const LOAD: u16 = 0x20;
    const IF_EQUAL: u16 = 0x15;
    const RETURN: u16 = 0x06;
    let step = |code, jt, jf, k| sock_filter { code, jt, jf, k };
    // Of `struct seccomp_data` the first word is the number.
    let mut steps = [
        step(LOAD, 0, 0, 0),
        step(IF_EQUAL, 0, 1, u32::try_from(call)?),
        step(RETURN, 0, 0, action),
        step(RETURN, 0, 0, libc::SECCOMP_RET_ALLOW),
    ];
    let program = sock_fprog {
        len: 4,
        filter: steps.as_mut_ptr(),
    };
    // SAFETY: reads the program.
    unsafe {
        done(
            libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0),
            "PR_SET_NO_NEW_PRIVS",
        )?;
        done(
            libc::prctl(
                libc::PR_SET_SECCOMP,
                libc::SECCOMP_MODE_FILTER,
                &raw const program,
            ),
            "PR_SET_SECCOMP",
        )?;
    }
    Ok(())
}

fn clock_needs_no_call() -> Result<()> {
    filter(libc::SYS_clock_gettime, libc::SECCOMP_RET_KILL_PROCESS)?;
    let mut last = 0;
    for _ in 0..10_000 {
        let here = now(libc::CLOCK_MONOTONIC);
        ensure!(here >= last);
        last = here;
    }
    ensure!(last > 0);
    Ok(())
}

fn sleeps() -> Result<()> {
    for ms in [1, 10, 50] {
        let (begun, told) = (Instant::now(), Duration::from_millis(ms));
        std::thread::sleep(told);
        let took = begun.elapsed();
        ensure!(
            took >= told && took < told + Duration::from_secs(2),
            "{took:?} for {told:?}"
        );
    }
    Ok(())
}

fn seccomp_refuses() -> Result<()> {
    filter(
        libc::SYS_getppid,
        libc::SECCOMP_RET_ERRNO | libc::EXDEV.cast_unsigned(),
    )?;
    // SAFETY: touches nothing.
    let answer = unsafe { libc::syscall(libc::SYS_getppid) };
    ensure!(answer == -1 && errno() == libc::EXDEV);
    Ok(())
}

fn seccomp_kills() -> Result<()> {
    let ended = in_child(|| {
        filter(libc::SYS_getppid, libc::SECCOMP_RET_KILL_PROCESS).unwrap();
        // SAFETY: touches nothing.
        unsafe { libc::syscall(libc::SYS_getppid) };
        0
    })?;
    ensure!(ended == Ended::Killed(libc::SIGSYS), "{ended:?}");
    Ok(())
}

static TRAPPED: AtomicI32 = AtomicI32::new(0);

/// Remembers which call it was.
extern "C" fn sees_call(_: c_int, info: *mut siginfo_t, context: *mut c_void) {
    // SAFETY: the arguments are a handler's: behind three numbers and an address there is the system call's number.
    unsafe {
        TRAPPED.store(info.cast::<c_int>().add(6).read(), Relaxed);
        *crate::sys::interrupted(context, libc::REG_RAX) = 77;
    }
}

fn seccomp_traps() -> Result<()> {
    handle(libc::SIGSYS, 0, sees_call)?;
    filter(libc::SYS_getppid, libc::SECCOMP_RET_TRAP)?;
    // SAFETY: touches nothing.
    let answer = unsafe { libc::syscall(libc::SYS_getppid) };
    ensure!(
        i64::from(TRAPPED.load(Relaxed)) == libc::SYS_getppid,
        "call {}",
        TRAPPED.load(Relaxed)
    );
    ensure!(answer == 77);
    Ok(())
}

/// Programs have no ports unless their kernel gives them some, and then there is nothing behind those: they are not the guest's.
fn ports_are_refused() -> Result<()> {
    const NOTHING: i32 = 0xff;
    let reads = |port: u16, is_given: bool| {
        in_child(|| {
            let read: u8;
            // SAFETY: the kernel checks.
            unsafe {
                if is_given {
                    libc::ioperm(port.into(), 1, 1);
                    libc::syscall(libc::SYS_iopl, 3);
                }
                asm!("in al, dx", in("dx") port, out("al") read);
            }
            read.into()
        })
    };
    // The delay port, the first serial port, and one of PCI's configuration space.
    for port in [0x80, 0x3f8, 0xcfb] {
        let ended = reads(port, false)?;
        ensure!(ended == Ended::Killed(libc::SIGSEGV), "port {port:#x}: {ended:?}");
        let ended = reads(port, true)?;
        ensure!(
            matches!(ended, Ended::Killed(libc::SIGSEGV) | Ended::Exited(NOTHING)),
            "port {port:#x}, given: {ended:?}"
        );
    }
    Ok(())
}

/// A page that a 32-bit address reaches.
fn low_page() -> Result<*mut u32> {
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_32BIT;
    // SAFETY: the kernel finds a free place.
    let page = unsafe {
        libc::mmap(
            std::ptr::null_mut(),
            4096,
            libc::PROT_READ | libc::PROT_WRITE,
            flags,
            -1,
            0,
        )
    };
    ensure!(page != libc::MAP_FAILED, "mmap: errno {}", errno());
    Ok(page.cast())
}

/// Describes a segment over a word in the local table, and looks through it for a while.
fn finds_its_segment(word: u32) -> Result<()> {
    const ENTRY: u32 = 3;
    const SELECTOR: u32 = ENTRY << 3 | 7;
    // A 32-bit segment that may be used: see `struct user_desc`.
    const FLAGS: u32 = 1 | 1 << 6;
    let page = low_page()?;
    let description = [ENTRY, u32::try_from(page.addr())?, 3, FLAGS];
    // SAFETY: the page is this check's, and the call reads the description.
    let answer = unsafe {
        page.write(word);
        libc::syscall(
            libc::SYS_modify_ldt,
            0x11,
            &raw const description,
            size_of_val(&description),
        )
    };
    ensure!(answer == 0, "modify_ldt: errno {}", errno());
    for _ in 0..100 {
        let (found, limit): (u32, u32);
        // SAFETY: the segment shows the word, and GS is used for nothing else.
        unsafe {
            asm!("mov gs, {selector:e}", selector = in(reg) SELECTOR, options(nostack, nomem));
            yield_now();
            asm!(
                "mov {found:e}, gs:[0]", "lsl {limit:e}, {selector:e}",
                selector = in(reg) SELECTOR, found = out(reg) found, limit = out(reg) limit, options(nostack, readonly)
            );
        }
        ensure!(found == word && limit == 3, "{found} for {word}, limit {limit}");
    }
    Ok(())
}

/// Each of several processes has a segment over a word of its own, at the same selector.
fn local_segments() -> Result<()> {
    let children: Vec<_> = (10..15)
        .map(|word| {
            fork(move || match finds_its_segment(word) {
                Ok(()) => 0,
                Err(error) => {
                    println!("programs: {error:#}");
                    1
                }
            })
        })
        .collect::<Result<_>>()?;
    for child in children {
        ensure!(wait(child)? == Ended::Exited(0));
    }
    Ok(())
}

/// Each of several processes and threads has words of its own behind GS, wherever they are.
fn segments_by_arch_prctl() -> Result<()> {
    const SET_GS: c_int = 0x1001;
    const GET_FS: c_int = 0x1003;
    const GET_GS: c_int = 0x1004;
    let keeps = |salt: u64| -> Result<()> {
        let words = Box::new([salt, salt * 3]);
        let (mut base, mut thread) = (0_u64, 0_u64);
        // SAFETY: GS is used for nothing else, and shows the words.
        unsafe {
            ensure!(
                libc::syscall(libc::SYS_arch_prctl, SET_GS, &raw const *words) == 0,
                "errno {}",
                errno()
            );
            for _ in 0..100 {
                yield_now();
                let (first, second): (u64, u64);
                asm!("mov {}, gs:[0]", "mov {}, gs:[8]", out(reg) first, out(reg) second, options(nostack, readonly));
                ensure!(
                    first == salt && second == salt * 3,
                    "{first}, {second} for {salt}"
                );
            }
            libc::syscall(libc::SYS_arch_prctl, GET_GS, &raw mut base);
            libc::syscall(libc::SYS_arch_prctl, GET_FS, &raw mut thread);
        }
        ensure!(base == (&raw const *words).addr() as u64);
        // The first word of a thread's control block is its own address.
        let own: u64;
        // SAFETY: that is where the C library keeps it.
        unsafe { asm!("mov {}, fs:[0]", out(reg) own, options(nostack, readonly)) };
        ensure!(own == thread);
        Ok(())
    };
    let children: Vec<_> = (1..4)
        .map(|salt| {
            fork(move || {
                let threads = [1, 2].map(|more| std::thread::spawn(move || keeps(salt * 10 + more).is_ok()));
                let own = keeps(salt * 10).is_ok();
                i32::from(
                    !threads
                        .into_iter()
                        .all(|thread| thread.join().is_ok_and(|kept| kept) && own),
                )
            })
        })
        .collect::<Result<_>>()?;
    for child in children {
        ensure!(wait(child)? == Ended::Exited(0));
    }
    Ok(())
}

/// The processor's time stamp.
fn counter() -> u64 {
    // SAFETY: reads a counter.
    unsafe { std::arch::x86_64::_rdtsc() }
}

fn counter_counts() -> Result<()> {
    let begun = counter();
    std::thread::sleep(Duration::from_millis(5));
    let (first, second) = (counter(), counter());
    ensure!(begun < first && first <= second, "{begun}, {first}, {second}");
    // A CPU of today's does more than a million steps in five milliseconds.
    ensure!(first - begun > 1_000_000, "{} in 5 ms", first - begun);
    Ok(())
}

fn cpuid_tells() -> Result<()> {
    let leaf = std::arch::x86_64::__cpuid(0);
    ensure!(leaf.eax >= 1, "no leaves");
    let maker: Vec<u8> = [leaf.ebx, leaf.edx, leaf.ecx]
        .iter()
        .flat_map(|word| word.to_le_bytes())
        .collect();
    let told = std::fs::read_to_string("/proc/cpuinfo").context("/proc/cpuinfo")?;
    let maker = String::from_utf8(maker)?;
    ensure!(told.contains(&maker), "the kernel does not know of {maker}");
    let features = std::arch::x86_64::__cpuid(1);
    // SSE2, without which there is no 64-bit program.
    ensure!(features.edx & 1 << 26 != 0);
    // AVX that is enabled has state that is saved.
    if features.ecx & 1 << 27 != 0 {
        let saved: u32;
        // SAFETY: OSXSAVE says that it is there.
        unsafe { asm!("xgetbv", in("ecx") 0, out("eax") saved, out("edx") _, options(nomem, nostack)) };
        ensure!(saved & 3 == 3, "state {saved:#x}");
    }
    Ok(())
}

/// `time` at its fixed address of old, which programs may execute and not read: `vsyscall=xonly` on the kernel's command line.
fn page_of_old() -> Result<()> {
    const TIME: usize = 0xffff_ffff_ff60_0400;
    let seconds: i64;
    // SAFETY: a function of the kernel's that writes nothing when it is given no place.
    unsafe { asm!("call {}", in(reg) TIME, in("rdi") 0, lateout("rax") seconds, clobber_abi("C")) };
    let here = now_by_call(libc::CLOCK_REALTIME) / 1_000_000_000;
    ensure!((here - seconds).abs() <= 1, "{seconds} for {here}");
    let ended = in_child(|| {
        // SAFETY: ends its process.
        unsafe { std::ptr::without_provenance::<u8>(TIME).read_volatile() };
        0
    })?;
    ensure!(ended == Ended::Killed(libc::SIGSEGV), "{ended:?}");
    Ok(())
}
