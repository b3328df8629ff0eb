//! Segment selectors that every guest finds in its GDT, and the descriptors behind them.
//!
//! Pages 0 to 13 of a vCPU's 16-page GDT window are the guest's, the last two the hypervisor's. The
//! selectors are hard-coded in guests; their order (32-bit code, data, 64-bit code) is what SYSRET needs.

/// First GDT entry that belongs to the hypervisor.
pub const FIRST_RESERVED_GDT_ENTRY: u16 = 0x1c00;
/// Frames that a guest may supply for its GDT.
pub const GUEST_GDT_FRAMES: usize = 14;
/// Descriptors in a page.
pub const DESCRIPTORS_PER_PAGE: usize = 512;
/// Entries that a guest's GDT may have.
pub const MAX_GDT_ENTRIES: u32 = 7168;
/// Entries that a guest's LDT may have.
pub const MAX_LDT_ENTRIES: u32 = 8192;

/// The requested privilege level in a selector.
pub const RPL_MASK: u16 = 3;

/// Hypervisor 64-bit code, ring 0.
pub const HYPERVISOR_CS64: u16 = 0xe008;
/// Hypervisor data, ring 0.
pub const HYPERVISOR_DS: u16 = 0xe010;
/// 32-bit guest user code.
pub const FLAT_RING3_CS32: u16 = 0xe023;
/// Guest stacks, kernel and user.
pub const FLAT_RING3_SS: u16 = 0xe02b;
/// 64-bit guest code, kernel and user.
pub const FLAT_RING3_CS64: u16 = 0xe033;
/// The flat 64-bit data selector is the null selector.
pub const FLAT_RING3_DS64: u16 = 0;

/// Guest-kernel code as a bounce frame reports it: [`FLAT_RING3_CS64`] with RPL 0, so that the guest
/// sees that its kernel was interrupted.
pub const INTERRUPTED_KERNEL_CS: u16 = FLAT_RING3_CS64 & !RPL_MASK;

/// Descriptor behind [`FLAT_RING3_CS32`].
pub const FLAT_RING3_CS32_DESCRIPTOR: u64 = 0x00cf_fb00_0000_ffff;
/// Descriptor behind [`FLAT_RING3_SS`].
pub const FLAT_RING3_SS_DESCRIPTOR: u64 = 0x00cf_f300_0000_ffff;
/// Descriptor behind [`FLAT_RING3_CS64`].
pub const FLAT_RING3_CS64_DESCRIPTOR: u64 = 0x00af_fb00_0000_ffff;

const _: () = assert!(HYPERVISOR_CS64 >> 3 == FIRST_RESERVED_GDT_ENTRY + 1);
const _: () = assert!(MAX_GDT_ENTRIES as usize == GUEST_GDT_FRAMES * DESCRIPTORS_PER_PAGE);
// SYSRET takes SS from the slot after 32-bit code and 64-bit code from the slot after that.
const _: () = assert!(FLAT_RING3_SS == FLAT_RING3_CS32 + 8 && FLAT_RING3_CS64 == FLAT_RING3_CS32 + 16);
