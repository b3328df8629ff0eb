//! Ranges of addresses.

use bulkhead_abi::layout;
use core::ops::Range;

/// Whether a guest can have all `len` bytes (not zero) from `va` on mapped: they wrap around nowhere, and none of them is the hypervisor's or
/// at an address that no CPU accepts.
pub(crate) fn is_guests(va: u64, len: u64) -> bool {
    let last = va.saturating_add(len.saturating_sub(1));
    layout::is_guest_range(va, len) && layout::is_canonical(va) && layout::is_canonical(last)
}

/// Whether two ranges, neither of them empty, have something in common.
pub(crate) fn overlap(one: &Range<u64>, other: &Range<u64>) -> bool {
    one.start < other.end && other.start < one.end
}
