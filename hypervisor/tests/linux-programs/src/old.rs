//! Programs of 32 bits, and the ways into the kernel that they have.

use std::arch::{asm, global_asm};
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::ExitStatusExt as _;
use std::process::{Command, ExitStatus};

use anyhow::{Context as _, Result, ensure};

use crate::Check;

pub(crate) const CHECKS: &[Check] = &[
    ("32-bit-call-of-64-bit-program", call_of_64_bit_program),
    ("32-bit-program-runs", program_runs),
    ("32-bit-program-calls-by-its-page", program_calls_by_its_page),
    ("32-bit-program-forks", program_forks),
    ("32-bit-program-has-a-segment", program_has_a_segment),
    ("32-bit-program-handles-a-signal", program_handles_a_signal),
    ("32-bit-program-faults", program_faults),
    ("32-bit-programs-by-hundreds", by_hundreds),
];

/// The number of `getpid` for 32-bit programs.
const GETPID: u32 = 20;

fn call_of_64_bit_program() -> Result<()> {
    for _ in 0..100 {
        let found: u64;
        // SAFETY: touches nothing; the kernel clears some registers.
        unsafe {
            asm!("int 0x80", inout("rax") u64::from(GETPID) => found, out("r8") _, out("r9") _, out("r10") _, out("r11") _);
        }
        ensure!(found == u64::from(std::process::id()), "{found}");
    }
    Ok(())
}

// Programs that can stand at any address. Each ends by `exit` (1) with what it is to say.
global_asm!(
    ".code32",
    // Who it is, by the kernel's and by the processor's own account: 64-bit code would read `inc eax` as a prefix.
    "old_runs:",
    "mov eax, 20",
    "int 0x80",
    "test eax, eax",
    "jle 9f",
    "xor eax, eax",
    ".byte 0x40",
    "nop",
    "lea ebx, [eax + 41]",
    "mov eax, 1",
    "int 0x80",
    "9: hlt",
    "old_runs_end:",
    // The page that the kernel gives it (auxiliary vector, 32) has the processor's fastest way.
    "old_page:",
    "mov edi, esp",
    "mov ecx, [edi]",
    "lea edi, [edi + 4 * ecx + 8]",
    "2: mov eax, [edi]",
    "add edi, 4",
    "test eax, eax",
    "jnz 2b",
    "3: mov eax, [edi]",
    "test eax, eax",
    "jz 9f",
    "cmp eax, 32",
    "je 4f",
    "add edi, 8",
    "jmp 3b",
    "4: mov esi, [edi + 4]",
    "mov eax, 20",
    "int 0x80",
    "mov edi, eax",
    "mov ebp, 300",
    "5: mov eax, 20",
    "call esi",
    "cmp eax, edi",
    "jne 9f",
    "dec ebp",
    "jnz 5b",
    "mov ebx, 43",
    "mov eax, 1",
    "call esi",
    "9: hlt",
    "old_page_end:",
    // `fork` (2), `waitpid` (7): a child that exits with 44.
    "old_forks:",
    "mov eax, 2",
    "int 0x80",
    "test eax, eax",
    "jz 2f",
    "push 0",
    "mov ebx, eax",
    "mov ecx, esp",
    "xor edx, edx",
    "mov eax, 7",
    "int 0x80",
    "pop ebx",
    "shr ebx, 8",
    "mov eax, 1",
    "int 0x80",
    "2: mov ebx, 44",
    "mov eax, 1",
    "int 0x80",
    "old_forks_end:",
    // `set_thread_area` (243) describes a segment over the stack, and `sched_yield` (158) lets others run.
    "old_segment:",
    "push 45",
    "mov esi, esp",
    "push 0x51",
    "push 0xfffff",
    "push esi",
    "push -1",
    "mov ebx, esp",
    "mov eax, 243",
    "int 0x80",
    "test eax, eax",
    "jnz 9f",
    "mov eax, [esp]",
    "lea eax, [8 * eax + 3]",
    "mov fs, eax",
    "mov edi, 300",
    "2: mov eax, 158",
    "int 0x80",
    "cmp dword ptr fs:[0], 45",
    "jne 9f",
    "dec edi",
    "jnz 2b",
    "mov ebx, fs:[0]",
    "mov eax, 1",
    "int 0x80",
    "9: hlt",
    "old_segment_end:",
    // `signal` (48) for SIGUSR1 (10), `kill` (37) of itself: the handler, which stands behind the first call, writes to the stack of what it interrupts.
    "old_signal:",
    "call 2f",
    "mov dword ptr [ebp], 46",
    "ret",
    "2: pop ecx",
    "mov ebx, 10",
    "mov eax, 48",
    "int 0x80",
    "push 1",
    "mov ebp, esp",
    "mov eax, 20",
    "int 0x80",
    "mov ebx, eax",
    "mov ecx, 10",
    "mov eax, 37",
    "int 0x80",
    "pop ebx",
    "mov eax, 1",
    "int 0x80",
    "old_signal_end:",
    "old_faults:",
    "mov eax, [16]",
    "mov ebx, 1",
    "mov eax, 1",
    "int 0x80",
    "old_faults_end:",
    ".code64",
);

/// The bytes between two labels of the above.
macro_rules! code {
    ($from:literal, $to:literal) => {{
        let (from, to): (*const u8, *const u8);
        // SAFETY: takes two addresses; what is between them is code, which does not change.
        unsafe {
            asm!(
                concat!("lea {}, [rip + ", $from, "]"), concat!("lea {}, [rip + ", $to, "]"),
                out(reg) from, out(reg) to, options(nomem, nostack)
            );
            std::slice::from_raw_parts(from, to.addr() - from.addr())
        }
    }};
}

/// A program of 32 bits: an ELF file with one segment, headers included, that starts with this code.
fn program(code: &[u8]) -> Vec<u8> {
    const BASE: u32 = 0x0804_8000;
    const HEADERS: u32 = 52 + 32;
    let size = HEADERS + u32::try_from(code.len()).unwrap();
    let mut file = b"\x7fELF\x01\x01\x01\0\0\0\0\0\0\0\0\0".to_vec();
    let halves = |words: &[u16]| {
        words
            .iter()
            .flat_map(|word| word.to_le_bytes())
            .collect::<Vec<u8>>()
    };
    let words = |words: &[u32]| {
        words
            .iter()
            .flat_map(|word| word.to_le_bytes())
            .collect::<Vec<u8>>()
    };
    // An executable for the 386.
    file.extend(halves(&[2, 3]));
    file.extend(words(&[1, BASE + HEADERS, 52, 0, 0]));
    file.extend(halves(&[52, 32, 1, 0, 0, 0]));
    // To be loaded, read and executed.
    file.extend(words(&[1, 0, BASE, BASE, size, size, 5, 4096]));
    file.extend(code);
    file
}

/// Runs a program of this code.
fn run(code: &[u8]) -> Result<ExitStatus> {
    let path = format!("/tmp/old.{}", std::process::id());
    fs::write(&path, program(code))?;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755))?;
    let status = Command::new(&path).status().context("it cannot be executed")?;
    fs::remove_file(path)?;
    Ok(status)
}

fn exits(code: &[u8], status: i32) -> Result<()> {
    let found = run(code)?;
    ensure!(found.code() == Some(status), "{found:?}");
    Ok(())
}

fn program_runs() -> Result<()> {
    exits(code!("old_runs", "old_runs_end"), 42)
}

fn program_calls_by_its_page() -> Result<()> {
    exits(code!("old_page", "old_page_end"), 43)
}

fn program_forks() -> Result<()> {
    exits(code!("old_forks", "old_forks_end"), 44)
}

fn program_has_a_segment() -> Result<()> {
    exits(code!("old_segment", "old_segment_end"), 45)
}

fn program_handles_a_signal() -> Result<()> {
    exits(code!("old_signal", "old_signal_end"), 46)
}

fn program_faults() -> Result<()> {
    let found = run(code!("old_faults", "old_faults_end"))?;
    ensure!(found.signal() == Some(libc::SIGSEGV), "{found:?}");
    Ok(())
}

fn by_hundreds() -> Result<()> {
    for _ in 0..100 {
        program_runs()?;
    }
    Ok(())
}
