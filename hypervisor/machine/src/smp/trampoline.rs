//! The page below 1 MiB in which a CPU starts, and its way from real mode to [`arrive`](super::arrive).
//!
//! The code is copied to a page of low memory; what depends on the page's address is patched into the copy. A CPU
//! enters it in real mode with CS:IP = page * 256 : 0, and leaves it for the early page tables' view of the image.

use core::arch::{global_asm, naked_asm};
use core::mem::offset_of;
use core::sync::atomic::{AtomicU64, Ordering};

use bulkhead_machine::layout::{PAGE_SHIFT, PAGE_SIZE};
use bulkhead_machine::portable::memory_map::MemoryMap;

use crate::boot::entry::{CR0_PG_WP, CR4_PAE, EFER_LME, MSR_EFER};
use crate::memory::direct;

/// EFER: page-table entries may forbid execution. The final page tables do.
const EFER_NXE: u32 = 1 << 11;
/// CR0: protected mode.
const CR0_PE: u32 = 1 << 0;
/// CR0: caches off, as they are after a reset.
const CR0_CD_NW: u32 = 1 << 30 | 1 << 29;

unsafe extern "C" {
    static trampoline_start: u8;
    static trampoline_64: u8;
    static trampoline_gdt: u8;
    static trampoline_gdt_base: u8;
    static trampoline_far: u8;
    static trampoline_end: u8;
}

global_asm!(
    ".section .rodata.trampoline, \"a\", @progbits",
    ".balign 16",
    ".globl trampoline_start, trampoline_64, trampoline_gdt, trampoline_gdt_base, trampoline_far, trampoline_end",
    // In: real mode, cs the page. Uses every register. All data is reached through ds = cs.
    ".code16",
    "trampoline_start:",
    "cli",
    "cld",
    "mov ax, cs",
    "mov ds, ax",
    // The assembler takes no difference of labels as an address: lgdt [trampoline_gdt_pointer].
    ".byte 0x0f, 0x01, 0x16",
    ".word trampoline_gdt_pointer - trampoline_start",
    "mov eax, cr4",
    "or eax, {PAE}",
    "mov cr4, eax",
    "mov eax, offset boot_l4",
    "mov cr3, eax",
    "mov ecx, {EFER}",
    "rdmsr",
    "or eax, {LME_NXE}",
    "wrmsr",
    "mov eax, cr0",
    "and eax, {NOT_CD_NW}",
    "or eax, {PE_PG_WP}",
    "mov cr0, eax",
    // Far, through memory, 32-bit offset and selector: jmp fword ptr [trampoline_far].
    ".byte 0x66, 0xff, 0x2e",
    ".word trampoline_far - trampoline_start",

    ".code64",
    "trampoline_64:",
    "xor eax, eax",
    "mov ss, eax",
    "mov ds, eax",
    "mov es, eax",
    "mov fs, eax",
    "mov gs, eax",
    "movabs rax, offset {leave}",
    "jmp rax",

    ".balign 8",
    // Flat segments: 64-bit code and data.
    "trampoline_gdt:",
    ".quad 0",
    ".quad 0x00af9b000000ffff",
    ".quad 0x00cf93000000ffff",
    "trampoline_gdt_pointer:",
    ".word trampoline_gdt_pointer - trampoline_gdt - 1",
    "trampoline_gdt_base:",
    ".long 0", // Patched: where trampoline_gdt is.
    "trampoline_far:",
    ".long 0", // Patched: where trampoline_64 is.
    ".word 8",
    "trampoline_end:",
    ".text",
    PAE = const CR4_PAE,
    EFER = const MSR_EFER,
    LME_NXE = const EFER_LME | EFER_NXE,
    NOT_CD_NW = const !CR0_CD_NW,
    PE_PG_WP = const CR0_PE | CR0_PG_WP,
    leave = sym leave,
);

/// What the starting CPU takes with it. One CPU starts at a time.
#[derive(Debug)]
#[repr(C)]
pub(super) struct Start {
    cr3: AtomicU64,
    stack: AtomicU64,
}

pub(super) static START: Start = Start {
    cr3: AtomicU64::new(0),
    stack: AtomicU64::new(0),
};

impl Start {
    /// Sets what the next CPU gets: the page tables whose L4 is in frame `l4`, and the top of its stack, 16-byte
    /// aligned.
    pub(super) fn prepare(&self, l4: u64, stack: u64) {
        // Relaxed: sending the start-up message is a serialising write, and comes later.
        self.cr3.store(l4 << PAGE_SHIFT, Ordering::Relaxed);
        self.stack.store(stack, Ordering::Relaxed);
    }
}

/// From the early page tables to the final ones.
///
/// In: 64-bit mode, early page tables, no stack. Out: [`arrive`](super::arrive) on the stack of [`START`].
#[unsafe(naked)]
unsafe extern "C" fn leave() -> ! {
    naked_asm!(
        "lgdt [rip + early_gdt_pointer]",
        "mov rax, [rip + {start} + {cr3}]",
        "mov cr3, rax",
        "mov rsp, [rip + {start} + {stack}]",
        "xor ebp, ebp", // Ends the chain of frame pointers.
        "call {arrive}",
        "ud2",
        start = sym START,
        cr3 = const offset_of!(Start, cr3),
        stack = const offset_of!(Start, stack),
        arrive = sym super::arrive,
    )
}

/// The copy in low memory.
#[derive(Debug)]
pub(super) struct Trampoline {
    page: u8,
}

/// The first frame that is not below 640 KiB, where the memory map of a PC may end.
const CONVENTIONAL_END: u64 = 0xa0;

impl Trampoline {
    /// Copies the code to the highest page of conventional memory. `None` if there is none.
    pub(super) fn install(map: &MemoryMap) -> Option<Self> {
        let last = map.ram().rfind(|range| range.start < CONVENTIONAL_END)?;
        // Page 0 has the real-mode interrupt vectors.
        let frame = last
            .end
            .min(CONVENTIONAL_END)
            .checked_sub(1)
            .filter(|&frame| frame > 0)?;
        let page = u8::try_from(frame).ok()?;
        let base = u32::from(page) << PAGE_SHIFT;

        let offset = |symbol: *const u8| symbol.addr().wrapping_sub((&raw const trampoline_start).addr());
        let len = offset(&raw const trampoline_end);
        assert!(len <= PAGE_SIZE, "the trampoline outgrew its page");
        let copy = direct(u64::from(base));
        let patches = [
            (&raw const trampoline_gdt_base, &raw const trampoline_gdt),
            (&raw const trampoline_far, &raw const trampoline_64),
        ];
        // SAFETY: the page is RAM below 1 MiB, which the boot keeps out of all use, and the direct map shows it;
        // the code and both patches lie inside it.
        unsafe {
            copy.copy_from_nonoverlapping(&raw const trampoline_start, len);
            for (place, target) in patches {
                let address = base.wrapping_add(u32::try_from(offset(target)).ok()?);
                copy.add(offset(place)).cast::<u32>().write_unaligned(address);
            }
        }
        Some(Self { page })
    }

    /// The page's number, for the start-up message.
    pub(super) const fn page(&self) -> u8 {
        self.page
    }
}
