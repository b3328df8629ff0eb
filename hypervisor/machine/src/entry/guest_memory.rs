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
    "lea rsi, [rsi + 8 * rcx]",
    "lea rdi, [rdi + 8 * rcx]",
    "neg rcx",
    "2:",
    "mov rax, [rsi + 8 * rcx]",
    "mov [rdi + 8 * rcx], rax",
    "inc rcx",
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

unsafe extern "C" {
    /// Loads the four data segment registers. Returns 0, or 1 if one could not be loaded and is null now.
    fn load_guest_selectors(ds: u64, es: u64, fs: u64, gs: u64) -> u64;
    /// The instructions of it that may fault, and where each goes on.
    static load_ds: u8;
    static load_es: u8;
    static load_fs: u8;
    static load_gs: u8;
    static load_ds_fixup: u8;
    static load_es_fixup: u8;
    static load_fs_fixup: u8;
    static load_gs_fixup: u8;
}

global_asm!(
    // In: edi, esi, edx, ecx the selectors. Null ones are not loaded twice: they are common, and loading is slow.
    ".text",
    ".globl load_guest_selectors",
    "load_guest_selectors:",
    "xor eax, eax",
    ".irp segment, ds, es, fs, gs",
    ".globl load_\\segment",
    ".globl load_\\segment\\()_fixup",
    ".ifc \\segment, ds",
    "mov r8d, edi",
    ".endif",
    ".ifc \\segment, es",
    "mov r8d, esi",
    ".endif",
    ".ifc \\segment, fs",
    "mov r8d, edx",
    ".endif",
    ".ifc \\segment, gs",
    "mov r8d, ecx",
    ".endif",
    "load_\\segment:",
    "mov \\segment, r8d",
    ".endr",
    "ret",
    ".irp segment, ds, es, fs, gs",
    "load_\\segment\\()_fixup:",
    "mov eax, 1",
    "xor r8d, r8d",
    "jmp load_\\segment",
    ".endr",
);

unsafe extern "C" {
    /// Loads GS, with its base in the other place.
    fn load_guest_gs(selector: u64);
    /// The instruction of it that may fault, and where it goes on.
    static load_other_gs: u8;
    static load_other_gs_fixup: u8;
}

global_asm!(
    // In: edi the selector.
    ".text",
    ".globl load_guest_gs",
    ".globl load_other_gs",
    ".globl load_other_gs_fixup",
    "load_guest_gs:",
    "swapgs",
    "load_other_gs:",
    "mov gs, edi",
    "swapgs",
    "ret",
    "load_other_gs_fixup:",
    "xor edi, edi",
    "jmp load_other_gs",
);

/// Loads `selector` into GS, and its segment's base in the place of the one that is not in force. One that the CPU refuses becomes null.
pub(crate) fn load_other(selector: u16) {
    // SAFETY: GS means nothing in ring 0, and neither of its bases; the load has a fixup if it faults. What interrupts this in between
    // does not look at them.
    unsafe { load_guest_gs(selector.into()) };
}

/// Loads the data segment registers of a guest. One that the CPU refuses becomes null. Says whether all were loaded.
///
/// # Safety
///
/// The segment bases are lost and must be loaded anew.
pub(crate) unsafe fn load_selectors(ds: u16, es: u16, fs: u16, gs: u16) -> bool {
    // SAFETY: data segments mean nothing in ring 0; each load that faults has a fixup.
    unsafe { load_guest_selectors(ds.into(), es.into(), fs.into(), gs.into()) == 0 }
}

/// Whether ring 0 must say so before it touches guest memory.
pub(super) static SMAP: AtomicBool = AtomicBool::new(false);

/// SMAP is in force on all CPUs.
pub(crate) fn use_smap() {
    // Relaxed: set once, while one CPU runs.
    SMAP.store(true, Ordering::Relaxed);
}

/// If `rip` may fault on a guest's account: where it goes on.
pub(super) fn fixup(rip: u64) -> Option<u64> {
    let start = guest_copy as *const () as usize as u64;
    let end = (&raw const guest_copy_end).addr() as u64;
    if (start..end).contains(&rip) {
        return Some((&raw const guest_copy_fixup).addr() as u64);
    }
    let loads = [
        (&raw const load_ds, &raw const load_ds_fixup),
        (&raw const load_es, &raw const load_es_fixup),
        (&raw const load_fs, &raw const load_fs_fixup),
        (&raw const load_gs, &raw const load_gs_fixup),
        (&raw const load_other_gs, &raw const load_other_gs_fixup),
    ];
    loads
        .into_iter()
        .find(|(load, _)| load.addr() as u64 == rip)
        .map(|(_, fixup)| fixup.addr() as u64)
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
