//! Registers: each process and thread finds in them what it put there, whoever ran in between.

use std::arch::{asm, is_x86_feature_detected};
use std::ffi::{c_int, c_void};
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::thread;

use anyhow::{Result, ensure};
use libc::siginfo_t;

use crate::Check;
use crate::signals::interrupt_often;
use crate::sys::{Ended, cpus, fork, run_on, wait};

pub(crate) const CHECKS: &[Check] = &[
    ("registers-of-sse-go-with-processes", sse),
    ("registers-of-avx-go-with-processes", avx),
    ("registers-of-x87-go-with-processes", x87),
    ("registers-of-threads", of_threads),
    ("registers-go-from-cpu-to-cpu", from_cpu_to_cpu),
    ("registers-outlive-signals", outlive_signals),
    ("registers-outlive-fork", outlive_fork),
    ("registers-of-all-kinds-outlive-interrupts", outlive_interrupts),
];

/// How often a process lets others run.
const SWITCHES: u32 = 1000;

/// Sixteen registers of up to 32 bytes.
type Vectors = [[u8; 32]; 16];

/// Different in every byte of every register, and for every `salt`.
fn pattern(salt: u8) -> Vectors {
    let mut next = u32::from(salt).wrapping_mul(2_654_435_761);
    let mut vectors = Vectors::default();
    for byte in vectors.as_flattened_mut() {
        next = next.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        *byte = next.to_le_bytes()[3];
    }
    vectors
}

/// Loads all registers of a kind, does `between` so often, and stores them. What it does finds the vectors of the answer in `r9`, which it may write to. System
/// call 24 is `sched_yield`.
macro_rules! hold {
    ($mov:literal, $register:literal, $end:literal, $between:expr, $vectors:expr, $times:expr) => {{
        let (from, mut to): (&Vectors, Vectors) = ($vectors, Vectors::default());
        // SAFETY: the arrays have room for all registers; `between` is a system call that touches nothing else, or nothing at all.
        unsafe {
            asm!(
                concat!($mov, " ", $register, "0, [r8]"), concat!($mov, " ", $register, "1, [r8 + 32]"),
                concat!($mov, " ", $register, "2, [r8 + 64]"), concat!($mov, " ", $register, "3, [r8 + 96]"),
                concat!($mov, " ", $register, "4, [r8 + 128]"), concat!($mov, " ", $register, "5, [r8 + 160]"),
                concat!($mov, " ", $register, "6, [r8 + 192]"), concat!($mov, " ", $register, "7, [r8 + 224]"),
                concat!($mov, " ", $register, "8, [r8 + 256]"), concat!($mov, " ", $register, "9, [r8 + 288]"),
                concat!($mov, " ", $register, "10, [r8 + 320]"), concat!($mov, " ", $register, "11, [r8 + 352]"),
                concat!($mov, " ", $register, "12, [r8 + 384]"), concat!($mov, " ", $register, "13, [r8 + 416]"),
                concat!($mov, " ", $register, "14, [r8 + 448]"), concat!($mov, " ", $register, "15, [r8 + 480]"),
                "2:", $between, "dec r10d", "jnz 2b",
                concat!($mov, " [r9], ", $register, "0"), concat!($mov, " [r9 + 32], ", $register, "1"),
                concat!($mov, " [r9 + 64], ", $register, "2"), concat!($mov, " [r9 + 96], ", $register, "3"),
                concat!($mov, " [r9 + 128], ", $register, "4"), concat!($mov, " [r9 + 160], ", $register, "5"),
                concat!($mov, " [r9 + 192], ", $register, "6"), concat!($mov, " [r9 + 224], ", $register, "7"),
                concat!($mov, " [r9 + 256], ", $register, "8"), concat!($mov, " [r9 + 288], ", $register, "9"),
                concat!($mov, " [r9 + 320], ", $register, "10"), concat!($mov, " [r9 + 352], ", $register, "11"),
                concat!($mov, " [r9 + 384], ", $register, "12"), concat!($mov, " [r9 + 416], ", $register, "13"),
                concat!($mov, " [r9 + 448], ", $register, "14"), concat!($mov, " [r9 + 480], ", $register, "15"),
                $end,
                in("r8") from, in("r9") &raw mut to, inout("r10d") $times => _,
                out("rax") _, out("rcx") _, out("r11") _, out("rdx") _, out("rsi") _, out("rdi") _,
                out("xmm0") _, out("xmm1") _, out("xmm2") _, out("xmm3") _, out("xmm4") _, out("xmm5") _,
                out("xmm6") _, out("xmm7") _, out("xmm8") _, out("xmm9") _, out("xmm10") _, out("xmm11") _,
                out("xmm12") _, out("xmm13") _, out("xmm14") _, out("xmm15") _,
            );
        }
        to
    }};
}

/// What SSE has of them.
fn lower_halves(vectors: &Vectors) -> [&[u8]; 16] {
    std::array::from_fn(|register| &vectors[register][..16])
}

/// Keeps all SSE registers for a while.
fn keeps_sse(salt: u8) -> bool {
    let vectors = pattern(salt);
    let found = hold!("movups", "xmm", "", "mov eax, 24; syscall", &vectors, SWITCHES);
    lower_halves(&found) == lower_halves(&vectors)
}

/// Keeps all AVX registers for a while.
fn keeps_avx(salt: u8) -> bool {
    let vectors = pattern(salt);
    hold!(
        "vmovdqu",
        "ymm",
        "vzeroupper",
        "mov eax, 24; syscall",
        &vectors,
        SWITCHES
    ) == vectors
}

/// Keeps the stack of the x87, its control word and MXCSR for a while.
fn keeps_x87(salt: u8) -> bool {
    let rounding = u16::from(salt % 4);
    let (control, mxcsr) = (0x37f | rounding << 10, 0x1f80 | u32::from(rounding) << 13);
    let numbers = [1, 2, 3, 4, 5, 6, 7, 8].map(|number: i64| number << (salt % 40) | i64::from(salt));
    let (mut found, mut control_found, mut mxcsr_found) = ([0_i64; 8], 0_u16, 0_u32);
    // SAFETY: the x87 and MXCSR are left as programs have them; the arrays have room.
    unsafe {
        asm!(
            "fninit", "fldcw [{control}]", "ldmxcsr [{mxcsr}]",
            "fild qword ptr [r8 + 56]", "fild qword ptr [r8 + 48]", "fild qword ptr [r8 + 40]", "fild qword ptr [r8 + 32]",
            "fild qword ptr [r8 + 24]", "fild qword ptr [r8 + 16]", "fild qword ptr [r8 + 8]", "fild qword ptr [r8]",
            "2:", "mov eax, 24; syscall", "dec r10d", "jnz 2b",
            "fistp qword ptr [r9]", "fistp qword ptr [r9 + 8]", "fistp qword ptr [r9 + 16]", "fistp qword ptr [r9 + 24]",
            "fistp qword ptr [r9 + 32]", "fistp qword ptr [r9 + 40]", "fistp qword ptr [r9 + 48]", "fistp qword ptr [r9 + 56]",
            "fnstcw [{control_found}]", "stmxcsr [{mxcsr_found}]", "fninit", "ldmxcsr [{usual}]",
            in("r8") &numbers, in("r9") &raw mut found, inout("r10d") SWITCHES => _,
            control = in(reg) &control, mxcsr = in(reg) &mxcsr, usual = in(reg) &0x1f80_u32,
            control_found = in(reg) &raw mut control_found, mxcsr_found = in(reg) &raw mut mxcsr_found,
            out("rax") _, out("rcx") _, out("r11") _,
        );
    }
    found == numbers && control_found & 0xf3f == control & 0xf3f && mxcsr_found == mxcsr
}

/// Several processes on one CPU keep registers of their own.
fn apart(keeps: fn(u8) -> bool) -> Result<()> {
    apart_anywhere(|salt| {
        run_on(0).unwrap();
        keeps(salt)
    })
}

/// The same, on whatever CPUs.
fn apart_anywhere(keeps: impl Fn(u8) -> bool) -> Result<()> {
    let children: Vec<_> = (1..=4)
        .map(|salt| fork(|| i32::from(!keeps(salt))))
        .collect::<Result<_>>()?;
    for child in children {
        let ended = wait(child)?;
        ensure!(ended == Ended::Exited(0), "{ended:?}");
    }
    Ok(())
}

fn sse() -> Result<()> {
    apart(keeps_sse)
}

fn avx() -> Result<()> {
    if is_x86_feature_detected!("avx") {
        println!("programs: there is AVX");
        apart(keeps_avx)?;
        // Beside those that use the lower half.
        return apart(|salt| {
            if salt % 2 == 0 {
                keeps_sse(salt)
            } else {
                keeps_avx(salt)
            }
        });
    }
    Ok(())
}

fn x87() -> Result<()> {
    apart(keeps_x87)
}

fn of_threads() -> Result<()> {
    let threads: Vec<_> = (1..=4)
        .map(|salt| {
            thread::spawn(move || {
                run_on(0).unwrap();
                keeps_sse(salt) && keeps_x87(salt)
            })
        })
        .collect();
    for thread in threads {
        ensure!(thread.join().ok() == Some(true));
    }
    Ok(())
}

/// Moves to the other of two CPUs, by `sched_setaffinity`: the set of them is made where the answer will be.
macro_rules! to_the_other_cpu {
    () => {
        "mov eax, r10d; and eax, 1; inc eax; mov [r9], rax; mov eax, 203; xor edi, edi; mov esi, 8; mov rdx, r9; syscall"
    };
}

/// Several processes, all of which change CPUs all the time.
fn from_cpu_to_cpu() -> Result<()> {
    const MOVES: u32 = 100;
    // The last move is to the second, if there is one.
    let last = i32::from(cpus() > 1);
    apart_anywhere(|salt| {
        let vectors = pattern(salt);
        let found = if is_x86_feature_detected!("avx") {
            hold!(
                "vmovdqu",
                "ymm",
                "vzeroupper",
                to_the_other_cpu!(),
                &vectors,
                MOVES
            )
        } else {
            hold!("movups", "xmm", "", to_the_other_cpu!(), &vectors, MOVES)
        };
        // SAFETY: touches nothing.
        let cpu = unsafe { libc::sched_getcpu() };
        cpu == last
            && if is_x86_feature_detected!("avx") {
                found == vectors
            } else {
                lower_halves(&found) == lower_halves(&vectors)
            }
    })
}

static SIGNALS: AtomicU32 = AtomicU32::new(0);

/// Uses what it may use.
extern "C" fn uses_registers(_: c_int, _: *mut siginfo_t, _: *mut c_void) {
    let vectors = pattern(99);
    if is_x86_feature_detected!("avx") {
        let found = hold!("vmovdqu", "ymm", "", "mov eax, 24; syscall", &vectors, 1_u32);
        assert!(found == vectors);
    } else {
        let found = hold!("movups", "xmm", "", "mov eax, 24; syscall", &vectors, 1_u32);
        assert!(lower_halves(&found) == lower_halves(&vectors));
    }
    SIGNALS.fetch_add(1, Relaxed);
}

fn outlive_signals() -> Result<()> {
    interrupt_often(uses_registers)?;
    let mut round = 0;
    while SIGNALS.load(Relaxed) < 20 {
        round += 1;
        let vectors = pattern(round);
        let found = hold!("movups", "xmm", "", "", &vectors, 2_000_000_u32);
        ensure!(lower_halves(&found) == lower_halves(&vectors));
        if is_x86_feature_detected!("avx") {
            ensure!(hold!("vmovdqu", "ymm", "vzeroupper", "", &vectors, 2_000_000_u32) == vectors);
        }
        ensure!(round < 200, "{} signals", SIGNALS.load(Relaxed));
    }
    Ok(())
}

/// A child begins with what its parent had in them.
fn outlive_fork() -> Result<()> {
    let vectors = pattern(5);
    let mut status = 0_u32;
    // The parent's own registers are looked at by the macro; `fork`'s number, and a child that ends with what it has.
    let found = hold!(
        "movups",
        "xmm",
        "",
        "mov eax, 57; syscall; test eax, eax; jnz 3f; movd edi, xmm6; movzx edi, dil; mov eax, 60; syscall; 3:",
        &vectors,
        1_u32
    );
    ensure!(lower_halves(&found) == lower_halves(&vectors));
    // SAFETY: writes the status.
    ensure!(unsafe { libc::wait((&raw mut status).cast()) } > 0);
    ensure!(status == u32::from(vectors[6][0]) << 8, "{status:#x}");
    Ok(())
}

/// All registers of a program, and its flags, while others are given the CPU at any time.
fn outlive_interrupts() -> Result<()> {
    apart(|salt| {
        let value = u64::from(salt) * 0x0101_0101_0101_0101;
        (0..20).all(|_| {
            let wrong: u64;
            // SAFETY: registers are saved on the stack below what the compiler may have put there; the direction flag is cleared again.
            unsafe {
                asm!(
                    "lea rsp, [rsp - 128]", "push rbx", "push rbp",
                    "mov rbx, rax", "mov rcx, rax", "mov rdx, rax", "mov rsi, rax", "mov rdi, rax", "mov rbp, rax",
                    "mov r8, rax", "mov r9, rax", "mov r10, rax", "mov r11, rax", "mov r12, rax", "mov r13, rax", "mov r14, rax",
                    "mov r15d, 1000000", "std",
                    "2:", "dec r15d", "jnz 2b",
                    "pushfq", "cld", "pop r15", "and r15, 0x400", "xor r15, 0x400",
                    "xor rbx, rax", "or r15, rbx", "xor rcx, rax", "or r15, rcx", "xor rdx, rax", "or r15, rdx",
                    "xor rsi, rax", "or r15, rsi", "xor rdi, rax", "or r15, rdi", "xor rbp, rax", "or r15, rbp",
                    "xor r8, rax", "or r15, r8", "xor r9, rax", "or r15, r9", "xor r10, rax", "or r15, r10",
                    "xor r11, rax", "or r15, r11", "xor r12, rax", "or r15, r12", "xor r13, rax", "or r15, r13",
                    "xor r14, rax", "or r15, r14",
                    "pop rbp", "pop rbx", "lea rsp, [rsp + 128]",
                    inout("rax") value => _, out("rcx") _, out("rdx") _, out("rsi") _, out("rdi") _,
                    out("r8") _, out("r9") _, out("r10") _, out("r11") _, out("r12") _, out("r13") _, out("r14") _, out("r15") wrong,
                );
            }
            wrong == 0
        })
    })
}
