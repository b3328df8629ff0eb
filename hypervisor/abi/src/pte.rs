//! Page-table entries: bits, levels, and the flags that a guest may use.
//!
//! Guests write real page-table entries. Because guest kernels run in ring 3, the hypervisor adjusts
//! each present entry, and marks guest-kernel pages by [`GUEST_KERNEL`], which guests see and write back.

use crate::layout::PAGE_SHIFT;

/// Entries in a table, at every level.
pub const ENTRIES: usize = 512;
/// Bytes of an entry.
pub const ENTRY_SIZE: usize = 8;

/// The entry maps something.
pub const PRESENT: u64 = 1 << 0;
/// Writes are allowed.
pub const WRITABLE: u64 = 1 << 1;
/// Ring 3 may use it.
pub const USER: u64 = 1 << 2;
/// Write-through.
pub const WRITE_THROUGH: u64 = 1 << 3;
/// Cache disabled.
pub const CACHE_DISABLE: u64 = 1 << 4;
/// Hardware has used the entry.
pub const ACCESSED: u64 = 1 << 5;
/// Hardware has written through the entry.
pub const DIRTY: u64 = 1 << 6;
/// Page attribute table bit, in level 1.
pub const PAT: u64 = 1 << 7;
/// Superpage, in levels 2 and 3; never allowed to a PV guest.
pub const PAGE_SIZE_BIT: u64 = 1 << 7;
/// The translation survives a change of CR3.
pub const GLOBAL: u64 = 1 << 8;
/// Bits 9 to 11: the guest's.
pub const AVAILABLE_LOW: u64 = 0x7 << 9;
/// Bits 52 to 62: the guest's, but for [`GUEST_KERNEL`] in level 1.
pub const AVAILABLE_HIGH: u64 = 0x7ff << 52;
/// Bit 52: the page is for the guest kernel, not for guest user mode.
pub const GUEST_KERNEL: u64 = 1 << 52;
/// No instructions may be fetched.
pub const NO_EXECUTE: u64 = 1 << 63;

/// The frame number's place.
pub const FRAME_MASK: u64 = 0x000f_ffff_ffff_f000;

/// The three bits that choose a memory type; allowed only to a domain with device access.
pub const CACHE_MASK: u64 = WRITE_THROUGH | CACHE_DISABLE | PAT;

/// Flags that a guest may set in a present level-1 entry (without device access).
pub const L1_ALLOWED: u64 =
    PRESENT | WRITABLE | USER | ACCESSED | DIRTY | GLOBAL | AVAILABLE_LOW | AVAILABLE_HIGH | NO_EXECUTE;
/// Flags that a guest may set in a present entry of levels 2 to 4.
pub const UPPER_ALLOWED: u64 = L1_ALLOWED & !GLOBAL;

/// Flags that may change without validating the entry again. Writability is not one of them.
pub const FASTPATH: u64 = NO_EXECUTE | AVAILABLE_LOW | AVAILABLE_HIGH | GLOBAL | ACCESSED | DIRTY | USER;

/// log2 of the bytes that a level-1 entry maps.
pub const L1_SHIFT: u32 = PAGE_SHIFT;
/// log2 of the bytes that a level-2 entry maps.
pub const L2_SHIFT: u32 = 21;
/// log2 of the bytes that a level-3 entry maps.
pub const L3_SHIFT: u32 = 30;
/// log2 of the bytes that a level-4 entry maps.
pub const L4_SHIFT: u32 = 39;

/// The adjusted flags of a present level-1 entry: guest-kernel pages get [`USER`] and
/// [`GUEST_KERNEL`], user pages [`USER`] and [`GLOBAL`].
///
/// Whether hardware ever sees the global bit is the paging code's decision.
#[must_use]
#[inline]
pub const fn adjust_l1(entry: u64) -> u64 {
    let marked = if entry & USER == 0 {
        entry | USER | GUEST_KERNEL
    } else {
        entry
    };
    if marked & GUEST_KERNEL == 0 {
        marked | GLOBAL
    } else {
        marked
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bits_of_an_entry_do_not_overlap_and_leave_none_over() {
        let bits = [
            PRESENT,
            WRITABLE,
            USER,
            WRITE_THROUGH,
            CACHE_DISABLE,
            ACCESSED,
            DIRTY,
            PAT,
            GLOBAL,
            AVAILABLE_LOW,
            FRAME_MASK,
            AVAILABLE_HIGH,
            NO_EXECUTE,
        ];
        assert_eq!(bits.iter().fold(0, |all, bit| all | bit), u64::MAX);
        assert_eq!(bits.iter().map(|bit| bit.count_ones()).sum::<u32>(), 64);
    }

    #[test]
    fn a_kernel_page_is_marked_and_not_global() {
        assert_eq!(adjust_l1(0x1234_5063), 0x0010_0000_1234_5067);
    }

    #[test]
    fn a_kernel_page_that_was_read_back_keeps_its_mark() {
        let entry = adjust_l1(0x1234_5063);
        assert_eq!(adjust_l1(entry), entry);
    }

    #[test]
    fn a_user_page_becomes_global() {
        assert_eq!(adjust_l1(0x1234_5067), 0x1234_5167);
    }

    #[test]
    fn the_fast_path_never_widens_a_mapping() {
        assert_eq!(FASTPATH & (WRITABLE | PRESENT | FRAME_MASK | CACHE_MASK), 0);
    }
}
