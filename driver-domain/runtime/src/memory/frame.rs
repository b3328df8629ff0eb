//! Frame numbers and the linear mapping: which address shows which frame.
//!
//! The builder maps pseudo-physical frame n at [`VIRT_BASE`] + n pages, for as many frames as it needs; the
//! runtime maps the rest of the domain's memory by the same rule. So an address in the linear range and a
//! [`Pfn`] are two names for one thing, and pages that are neighbours in address are neighbours in pfn. Their
//! machine frames ([`Mfn`]) are not.

use core::ops::Range;

use bulkhead_abi::{
    layout::{PAGE_SHIFT, PAGE_SIZE},
    pte,
};

/// Address of pseudo-physical frame 0. The link script has the same constant.
pub const VIRT_BASE: usize = 0xffff_ffff_8000_0000;

/// Frames that the linear mapping has room for: the 1 GiB under one level-2 table.
pub const LINEAR_FRAMES: u64 = 1 << (30 - PAGE_SHIFT);

/// A pseudo-physical frame number: the domain's own, contiguous numbering of its memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Pfn(u64);

impl Pfn {
    /// Names frame `raw`, or returns `None` if the linear mapping cannot show it.
    #[must_use]
    pub const fn new(raw: u64) -> Option<Self> {
        if raw < LINEAR_FRAMES {
            Some(Self(raw))
        } else {
            None
        }
    }

    /// The frame that the linear mapping shows at `address`, or `None` if it shows none there.
    #[must_use]
    pub const fn at_address(address: usize) -> Option<Self> {
        match address.checked_sub(VIRT_BASE) {
            Some(offset) => Self::new((offset >> PAGE_SHIFT) as u64),
            None => None,
        }
    }

    /// The number.
    #[must_use]
    pub const fn raw(self) -> u64 {
        self.0
    }

    /// The number as an index into an array with an element for each frame.
    #[must_use]
    pub(crate) const fn index(self) -> usize {
        to_usize(self.0)
    }

    /// Where the linear mapping shows the frame.
    #[must_use]
    pub const fn address(self) -> usize {
        // Cannot overflow: `new` bounds the number, and VIRT_BASE leaves 2 GiB above itself.
        VIRT_BASE.wrapping_add(self.index() << PAGE_SHIFT)
    }

    /// The first frame that another level-1 table shows.
    pub(crate) const fn next_table(self) -> u64 {
        const LAST_INDEX: u64 = pte::ENTRIES as u64 - 1;
        // No overflow: `new` bounds the number.
        (self.0 | LAST_INDEX).wrapping_add(1)
    }

    /// The frames from `range.start` to before `range.end` that the linear mapping can show.
    pub(crate) fn range(range: Range<u64>) -> impl Iterator<Item = Self> {
        (range.start..range.end.min(LINEAR_FRAMES)).map(Self)
    }
}

/// A machine frame number: which frame of the host, as page tables and grants need it.
///
/// Only the p2m and the hypervisor say which machine frames are the domain's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Mfn(u64);

impl Mfn {
    /// One past the largest frame number that a page-table entry can hold (52-bit addresses).
    pub const LIMIT: u64 = 1 << (52 - PAGE_SHIFT);

    /// Names machine frame `raw`, or returns `None` if no page-table entry could hold it.
    #[must_use]
    pub const fn new(raw: u64) -> Option<Self> {
        if raw < Self::LIMIT { Some(Self(raw)) } else { None }
    }

    /// The frame that contains machine address `maddr`, if any can.
    #[must_use]
    pub const fn at_maddr(maddr: u64) -> Option<Self> {
        Self::new(maddr >> PAGE_SHIFT)
    }

    /// The frame that a present page-table entry points to.
    #[must_use]
    pub(crate) const fn in_entry(entry: u64) -> Self {
        Self((entry & pte::FRAME_MASK) >> PAGE_SHIFT)
    }

    /// The number.
    #[must_use]
    pub const fn raw(self) -> u64 {
        self.0
    }

    /// The machine address of the frame's first byte.
    #[must_use]
    pub const fn maddr(self) -> u64 {
        self.0 << PAGE_SHIFT
    }
}

/// A 64-bit number from the ABI as an address, index or size of this 64-bit machine.
#[expect(clippy::cast_possible_truncation, reason = "both have 64 bits, as is checked")]
pub(crate) const fn to_usize(number: u64) -> usize {
    const { assert!(usize::BITS == u64::BITS) };
    number as usize
}

/// Number of pages that `bytes` bytes need.
#[must_use]
pub(crate) const fn pages_for(bytes: usize) -> usize {
    bytes.div_ceil(PAGE_SIZE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_and_its_frame_name_each_other() {
        let pfn = Pfn::new(0x1234).unwrap();
        assert_eq!(pfn.address(), 0xffff_ffff_8123_4000);
        assert_eq!(Pfn::at_address(pfn.address()), Some(pfn));
        assert_eq!(Pfn::at_address(pfn.address() + 0xfff), Some(pfn));
    }

    #[test]
    fn addresses_outside_the_linear_mapping_name_no_frame() {
        assert_eq!(Pfn::at_address(VIRT_BASE - 1), None);
        assert_eq!(Pfn::at_address(VIRT_BASE + (1 << 30)), None);
        assert_eq!(Pfn::at_address(0), None);
        assert_eq!(Pfn::new(LINEAR_FRAMES), None);
    }

    #[test]
    fn an_entry_gives_back_its_frame_whatever_its_flags() {
        let mfn = Mfn::new(0xab_cdef).unwrap();
        assert_eq!(Mfn::in_entry(mfn.maddr() | 0x8010_0000_0000_0fff), mfn);
        assert_eq!(Mfn::new(Mfn::LIMIT), None);
    }

    #[test]
    fn pages_are_rounded_up() {
        assert_eq!([0, 1, 4096, 4097].map(pages_for), [0, 1, 1, 2]);
    }
}
