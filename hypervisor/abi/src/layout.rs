//! The virtual address space: pages, canonical addresses, and the hypervisor's range in it.

use core::ops::{Range, RangeInclusive};

/// log2 of the page size.
pub const PAGE_SHIFT: u32 = 12;
/// Bytes in a page, and in a frame.
pub const PAGE_SIZE: usize = 1 << PAGE_SHIFT;
/// The bits of an address below its page.
pub const PAGE_OFFSET_MASK: u64 = (1 << PAGE_SHIFT) - 1;

/// Virtual addresses that belong to the hypervisor in every address space.
pub const HYPERVISOR: Range<u64> = 0xffff_8000_0000_0000..0xffff_8800_0000_0000;

/// Level-4 slots that belong to the hypervisor; a guest may not install entries there.
pub const HYPERVISOR_L4_SLOTS: RangeInclusive<usize> = 256..=271;

/// The window of the machine-to-phys array (M2P): u64 PFNs indexed by MFN, readable by guest kernels.
///
/// Some guests compile these two constants in, so they can never move.
pub const M2P: Range<u64> = 0xffff_8000_0000_0000..0xffff_8040_0000_0000;

/// The largest MFN that the M2P window has room for.
pub const M2P_MAX_MFN: u64 = (M2P.end - M2P.start) / 8 - 1;

/// M2P entry of a frame that has no PFN.
pub const INVALID_M2P_ENTRY: u64 = !0;
/// M2P entry of a frame shared between domains.
pub const SHARED_M2P_ENTRY: u64 = !1;

/// Whether `va` lies in the hypervisor's range.
#[must_use]
#[inline]
pub const fn is_hypervisor(va: u64) -> bool {
    va >= HYPERVISOR.start && va < HYPERVISOR.end
}

/// Whether a 48-bit processor accepts `va`: bits 63 to 47 all equal.
#[must_use]
#[inline]
pub const fn is_canonical(va: u64) -> bool {
    let top = va >> 47;
    top == 0 || top == 0x1_ffff
}

/// Whether the `len` bytes from `va` are all outside the hypervisor's range and do not wrap.
///
/// Says nothing about canonical addresses or mappings: a copy through them may still fault.
#[must_use]
#[inline]
pub const fn is_guest_range(va: u64, len: u64) -> bool {
    match va.checked_add(len) {
        Some(end) => end <= HYPERVISOR.start || va >= HYPERVISOR.end,
        None => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hypervisor_has_exactly_its_l4_slots() {
        let slot = |va: u64| usize::try_from((va >> 39) & 511).unwrap();
        assert_eq!(slot(HYPERVISOR.start), *HYPERVISOR_L4_SLOTS.start());
        assert_eq!(slot(HYPERVISOR.end - 1), *HYPERVISOR_L4_SLOTS.end());
        assert_eq!(slot(HYPERVISOR.end), *HYPERVISOR_L4_SLOTS.end() + 1);
    }

    #[test]
    fn the_ends_of_the_hypervisor_range_are_exact() {
        assert!(!is_hypervisor(0xffff_7fff_ffff_ffff));
        assert!(is_hypervisor(0xffff_8000_0000_0000));
        assert!(is_hypervisor(0xffff_87ff_ffff_ffff));
        assert!(!is_hypervisor(0xffff_8800_0000_0000));
    }

    #[test]
    fn canonical_addresses_have_equal_top_bits() {
        assert!(is_canonical(0x0000_7fff_ffff_ffff));
        assert!(!is_canonical(0x0000_8000_0000_0000));
        assert!(!is_canonical(0xffff_7fff_ffff_ffff));
        assert!(is_canonical(0xffff_8000_0000_0000));
    }

    #[test]
    fn a_guest_range_neither_touches_the_hypervisor_nor_wraps() {
        assert!(is_guest_range(0xffff_7fff_ffff_fff8, 8));
        assert!(!is_guest_range(0xffff_7fff_ffff_fff8, 9));
        assert!(!is_guest_range(0, u64::MAX));
        assert!(!is_guest_range(0xffff_87ff_ffff_ffff, 1));
        assert!(is_guest_range(0xffff_8800_0000_0000, 8));
        assert!(!is_guest_range(u64::MAX - 7, 16));
    }

    #[test]
    fn the_m2p_window_holds_the_frames_that_guests_are_told() {
        assert_eq!(M2P_MAX_MFN, 0x7_ffff_ffff);
    }
}
