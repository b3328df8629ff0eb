//! The first instructions: from 32-bit protected mode without paging to [`boot_main`](crate::boot_main).
//!
//! A loader jumps to `boot_pvh` (named by the image's PVH note) or to `boot_multiboot2` (the ELF entry point) with
//! flat segments, paging off, and the physical address of its record in EBX. EAX tells a Multiboot2 loader; in
//! a PVH start it is not looked at, because loaders differ in what it holds. Nothing else is taken for granted:
//! both protocols leave most of CR0, CR4 and EFER undefined, so they get the values of a CPU that comes out of
//! reset, with 64-bit mode on top, and firmware's choices (five-level paging among them) end here.
//!
//! Sources: Xen's `docs/misc/pvh` and Multiboot2 specification 2.0, section 3.3 (machine state).
//!
//! The early page tables are data of the image; nothing has to be filled in. They show the first four gigabytes
//! of physical memory three times, all of it writable and executable: at address 0 (the stub runs there), at
//! [`DIRECT_MAP`](layout::DIRECT_MAP) (where Rust finds it), and its first gigabyte at [`TEXT`](layout::TEXT)
//! (where the image is linked). They last until [`memory`](crate::memory) loads the final tables, and serve
//! again for the first instructions of each further CPU.

use core::arch::global_asm;
use core::mem::size_of;
use core::ptr::NonNull;

use bulkhead_machine::layout;

use crate::memory::direct;

/// One past the highest physical address that the early tables show.
pub(crate) const EARLY_LIMIT: u64 = 4 << 30;

/// Proof that the early page tables are in force: every physical address below [`EARLY_LIMIT`] can be read and
/// written through the direct map, and nobody else runs.
#[derive(Debug)]
pub(crate) struct EarlyTables(());

impl EarlyTables {
    /// # Safety
    ///
    /// Only [`boot_main`](crate::boot_main) may call this, once, before anything replaces the tables that the
    /// entry stub loaded.
    pub(crate) const unsafe fn assume() -> Self {
        Self(())
    }

    /// Where the early tables show the `len` bytes from physical address `start` on; `None` if not all of them are below
    /// [`EARLY_LIMIT`]. What is there is another question: RAM, device registers, or nothing.
    pub(crate) fn show(&self, start: u64, len: u64) -> Option<NonNull<u8>> {
        let end = start.checked_add(len)?;
        if end > EARLY_LIMIT {
            return None;
        }
        NonNull::new(direct(start))
    }

    /// Gives the proof up: other tables are in force.
    pub(crate) fn end(self) {}
}

const BOOT_STACK_SIZE: usize = 256 << 10;

/// The stack of the boot CPU until it moves to its own.
#[repr(C, align(4096))]
struct BootStack([u8; BOOT_STACK_SIZE]);

static mut BOOT_STACK: BootStack = BootStack([0; BOOT_STACK_SIZE]);

/// The addresses of the boot stack, for a backtrace.
pub(crate) fn boot_stack() -> core::ops::Range<u64> {
    let start = (&raw const BOOT_STACK).addr() as u64;
    start..start.saturating_add(size_of::<BootStack>() as u64)
}

unsafe extern "C" {
    /// The entry point of a PVH loader, in 32-bit code at a low address: never called from here.
    fn boot_pvh() -> !;
}

pvh::xen_elfnote_phys32_entry!(boot_pvh);

/// What `boot_pvh` tells [`boot_main`](crate::boot_main) as the protocol. Multiboot2 loaders have their own magic in EAX.
pub(super) const PVH: u32 = pvh::start_info::START_MAGIC_VALUE;

/// Page-table entry: present and writable.
const TABLE: u64 = 0x3;
/// The same, for a 2 MiB page.
const LARGE: u64 = 0x83;
/// CR4: physical address extension, which 64-bit mode requires.
pub(crate) const CR4_PAE: u32 = 1 << 5;
/// The extended-feature MSR.
pub(crate) const MSR_EFER: u32 = 0xc000_0080;
/// EFER: 64-bit mode enable.
pub(crate) const EFER_LME: u32 = 1 << 8;
/// CR0: paging, and write protection that holds in ring 0 too.
pub(crate) const CR0_PG_WP: u32 = 1 << 31 | 1 << 16;
/// CR0 of a CPU after reset (extension type), but with caches on, and in protected mode.
const CR0_PE_ET: u32 = 1 << 4 | 1 << 0;
/// CPUID 0x8000_0001 EDX: bit number of "64-bit mode".
const CPUID_LONG_MODE_BIT: u32 = 29;

global_asm!(
    // The early page tables.
    ".section .boot.tables, \"aw\", @progbits",
    ".balign 4096",
    ".globl boot_l4",
    "boot_l4:",
    ".quad boot_l3_low + {TABLE}",
    ".fill {TEXT_SLOT} - 1, 8, 0",
    ".quad boot_l3_text + {TABLE}",
    ".fill {DIRECT_SLOT} - {TEXT_SLOT} - 1, 8, 0",
    ".quad boot_l3_low + {TABLE}",
    ".fill 512 - {DIRECT_SLOT} - 1, 8, 0",
    "boot_l3_low:",
    ".quad boot_l2 + 0x0000 + {TABLE}",
    ".quad boot_l2 + 0x1000 + {TABLE}",
    ".quad boot_l2 + 0x2000 + {TABLE}",
    ".quad boot_l2 + 0x3000 + {TABLE}",
    ".fill 508, 8, 0",
    "boot_l3_text:",
    ".fill {TEXT_GIB}, 8, 0",
    ".quad boot_l2 + {TABLE}",
    ".fill 511 - {TEXT_GIB}, 8, 0",
    "boot_l2:",
    ".set page, 0",
    ".rept 2048",
    ".quad (page << 21) + {LARGE}",
    ".set page, page + 1",
    ".endr",

    // Flat segments: 64-bit code and data, marked as accessed already so that the CPU writes nothing.
    "boot_gdt:",
    ".quad 0",
    ".quad 0x00af9b000000ffff",
    ".quad 0x00cf93000000ffff",
    "boot_gdt_end:",
    "boot_gdt_low:",
    ".word boot_gdt_end - boot_gdt - 1",
    ".long boot_gdt",
    "boot_not_64_bit_text:",
    ".asciz \"(bh) ERROR boot: this CPU has no 64-bit mode\\r\\n\"",
    ".balign 16",
    ".fill 4, 4, 0",
    "boot_stack_32:",

    // The same segments where the final tables show them too, until the CPU gets its real descriptor table.
    ".section .rodata.boot_gdt, \"a\", @progbits",
    ".balign 8",
    "early_gdt:",
    ".quad 0",
    ".quad 0x00af9b000000ffff",
    ".quad 0x00cf93000000ffff",
    ".globl early_gdt_pointer",
    "early_gdt_pointer:",
    ".word early_gdt_pointer - early_gdt - 1",
    ".quad early_gdt",

    // In: ebx the loader's record, and in eax what tells the loader; each register else is anything.
    ".section .boot.text, \"ax\", @progbits",
    ".code32",
    ".globl boot_pvh, boot_multiboot2",
    "boot_pvh:",
    "mov eax, {PVH}",
    "boot_multiboot2:",
    "cli",
    "cld",
    "mov esp, offset boot_stack_32",
    "mov edi, eax",                        // CPUID overwrites eax to edx.
    "mov ebp, ebx",
    "mov eax, 0x80000000",
    "cpuid",
    "cmp eax, 0x80000001",
    "jb boot_not_64_bit",
    "mov eax, 0x80000001",
    "cpuid",
    "bt edx, {LONG_MODE_BIT}",
    "jnc boot_not_64_bit",
    "mov eax, offset boot_l4",
    "mov cr3, eax",
    "mov eax, {PAE}",
    "mov cr4, eax",
    "mov ecx, {EFER}",
    "mov eax, {LME}",
    "xor edx, edx",
    "wrmsr",
    "mov eax, {CR0}",
    "mov cr0, eax",
    "lgdt [boot_gdt_low]",
    "push 8",
    "mov eax, offset boot_64",
    "push eax",
    "retf",

    "boot_not_64_bit:",
    "mov esi, offset boot_not_64_bit_text",
    "mov edx, 0x3f8",
    "2:",
    "lodsb",
    "out dx, al",
    "test al, al",
    "jnz 2b",
    "3:",
    "hlt",
    "jmp 3b",

    // The last identity-mapped instructions; the rest runs at the link address.
    ".code64",
    "boot_64:",
    "xor eax, eax",
    "mov ss, eax",
    "mov ds, eax",
    "mov es, eax",
    "mov fs, eax",
    "mov gs, eax",
    "movabs rax, offset early_gdt_pointer",
    "lgdt [rax]",
    "movabs rsp, offset {stack} + {STACK_SIZE}",
    "mov esi, ebp",
    "xor ebp, ebp",                        // Ends the chain of frame pointers.
    "movabs rax, offset {main}",
    "call rax",
    "ud2",
    ".text",
    TABLE = const TABLE,
    LARGE = const LARGE,
    TEXT_SLOT = const layout::slot(layout::TEXT),
    DIRECT_SLOT = const layout::slot(layout::DIRECT_MAP),
    TEXT_GIB = const (layout::TEXT >> 30) & 511,
    LONG_MODE_BIT = const CPUID_LONG_MODE_BIT,
    PAE = const CR4_PAE,
    EFER = const MSR_EFER,
    LME = const EFER_LME,
    CR0 = const CR0_PE_ET | CR0_PG_WP,
    PVH = const PVH,
    stack = sym BOOT_STACK,
    STACK_SIZE = const BOOT_STACK_SIZE,
    main = sym crate::boot_main,
);
