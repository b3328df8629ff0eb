//! Copies to and from guest memory, by guest addresses: they may fault, and then say so.

use core::arch::global_asm;
use core::sync::atomic::{AtomicBool, Ordering};

unsafe extern "C" {
    /// Copies `len` bytes. Returns 0, or 1 if an access faulted.
    fn guest_copy(to: *mut u8, from: *const u8, len: usize) -> u64;
    /// Where an instruction of [`guest_copy`] goes on after a fault.
    static guest_copy_fixup: u8;
    /// One past the last instruction of [`guest_copy`] that may fault.
    static guest_copy_end: u8;
}

global_asm!(
    // In: rdi to, rsi from, rdx length. Words first, then what is left. Only rax, rcx and these change.
    ".text",
    ".globl guest_copy",
    "guest_copy:",
    "mov rcx, rdx",
    "and edx, 7",
    "shr rcx, 3",
    "jz 3f",
    "2:",
    "mov rax, [rsi]",
    "mov [rdi], rax",
    "add rsi, 8",
    "add rdi, 8",
    "dec rcx",
    "jnz 2b",
    "3:",
    "test edx, edx",
    "jz 5f",
    "4:",
    "mov al, [rsi]",
    "mov [rdi], al",
    "inc rsi",
    "inc rdi",
    "dec edx",
    "jnz 4b",
    "5:",
    "xor eax, eax",
    "ret",
    ".globl guest_copy_end",
    "guest_copy_end:",
    ".globl guest_copy_fixup",
    "guest_copy_fixup:",
    "mov eax, 1",
    "ret",
);

/// Whether ring 0 must say so before it touches guest memory.
static SMAP: AtomicBool = AtomicBool::new(false);

/// SMAP is in force on all CPUs.
pub(crate) fn use_smap() {
    // Relaxed: set once, while one CPU runs.
    SMAP.store(true, Ordering::Relaxed);
}

/// If `rip` may fault on a guest's account: where it goes on.
pub(super) fn fixup(rip: u64) -> Option<u64> {
    let start = guest_copy as *const () as usize as u64;
    let end = (&raw const guest_copy_end).addr() as u64;
    (start..end).contains(&rip).then(|| (&raw const guest_copy_fixup).addr() as u64)
}

/// An access faulted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Fault;

/// Copies from guest address `from`.
///
/// # Errors
///
/// [`Fault`] if not all could be read.
///
/// # Safety
///
/// The range must touch nothing of the hypervisor's.
pub(crate) unsafe fn read(from: u64, into: &mut [u8]) -> Result<(), Fault> {
    let guest = core::ptr::with_exposed_provenance(bulkhead_machine::layout::word(from));
    // SAFETY: `into` is ours; the guest's range is not, by the caller's promise, and may fault: every instruction that
    // touches it has a fixup. It is read as plain bytes by assembly, so that a guest which writes meanwhile races with no
    // Rust access.
    unsafe { copy(into.as_mut_ptr(), guest, into.len()) }
}

/// Copies to guest address `to`.
///
/// # Errors
///
/// [`Fault`] if not all could be written.
///
/// # Safety
///
/// The range must touch nothing of the hypervisor's.
pub(crate) unsafe fn write(to: u64, from: &[u8]) -> Result<(), Fault> {
    let guest = core::ptr::with_exposed_provenance_mut(bulkhead_machine::layout::word(to));
    // SAFETY: as in `read`.
    unsafe { copy(guest, from.as_ptr(), from.len()) }
}

/// # Safety
///
/// One range must be ours, the other a guest's.
unsafe fn copy(to: *mut u8, from: *const u8, len: usize) -> Result<(), Fault> {
    let smap = SMAP.load(Ordering::Relaxed);
    if smap {
        // SAFETY: the CPU has SMAP, so it has this instruction, which allows what the next line does.
        unsafe { core::arch::asm!("stac", options(nomem, nostack)) };
    }
    // SAFETY: as the caller promises; faults go to the fixup.
    let faulted = unsafe { guest_copy(to, from, len) };
    if smap {
        // SAFETY: as above.
        unsafe { core::arch::asm!("clac", options(nomem, nostack)) };
    }
    if faulted == 0 { Ok(()) } else { Err(Fault) }
}
