//! Frame numbers. A number names a frame; it proves nothing about who owns it.

use bulkhead_abi::layout::PAGE_SHIFT;
use core::fmt;

/// A machine frame number: which 4 KiB frame of host memory.
///
/// The number that real page tables hold. A guest's integer is an allegation until [`Mfn::new`] accepts it
/// and the frame table confirms an owner.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(transparent)]
pub struct Mfn(u64);

impl Mfn {
    /// One past the largest frame number that an x86-64 page table can name.
    ///
    /// Physical addresses have at most 52 bits (Intel SDM vol. 3A, section 4.1.4).
    pub const LIMIT: u64 = 1 << (52 - PAGE_SHIFT);

    /// Accepts `raw` as a frame number, or returns `None` if no page table could hold it.
    #[must_use]
    pub const fn new(raw: u64) -> Option<Self> {
        if raw < Self::LIMIT { Some(Self(raw)) } else { None }
    }

    /// The frame with the number `raw`, which is small enough for any page table.
    #[must_use]
    pub const fn from_u32(raw: u32) -> Self {
        Self(raw as u64)
    }

    /// The frame that holds the machine address `maddr` (bits above the 52nd do not count).
    #[must_use]
    pub const fn from_maddr(maddr: u64) -> Self {
        Self((maddr >> PAGE_SHIFT) & (Self::LIMIT - 1))
    }

    /// The number itself.
    #[must_use]
    pub const fn raw(self) -> u64 {
        self.0
    }

    /// The machine address of the frame's first byte.
    #[must_use]
    pub const fn maddr(self) -> u64 {
        self.0 << PAGE_SHIFT
    }

    /// The frame `count` further on, or `None` past the last one that a page table can name.
    #[must_use]
    pub const fn offset(self, count: u64) -> Option<Self> {
        match self.0.checked_add(count) {
            Some(raw) => Self::new(raw),
            None => None,
        }
    }
}

impl fmt::Debug for Mfn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "mfn {:#x}", self.0)
    }
}

/// A pseudo-physical frame number: a page in one domain's own contiguous numbering.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(transparent)]
pub struct Pfn(u64);

impl Pfn {
    /// Takes `raw` as a page number; any value is one.
    #[must_use]
    pub const fn new(raw: u64) -> Self {
        Self(raw)
    }

    /// The number itself.
    #[must_use]
    pub const fn raw(self) -> u64 {
        self.0
    }
}

impl fmt::Debug for Pfn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "pfn {:#x}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_frame_lies_beyond_what_a_page_table_can_name() {
        let last = Mfn::new(Mfn::LIMIT - 1).unwrap();
        assert_eq!(Mfn::new(Mfn::LIMIT), None);
        assert_eq!(
            (last.offset(0), last.offset(1), last.offset(u64::MAX)),
            (Some(last), None, None)
        );
        assert_eq!(Mfn::from_maddr(u64::MAX), last);
    }

    #[test]
    fn the_two_numberings_are_told_apart_in_logs() {
        let both = std::format!("{:?} {:?}", Mfn::from_maddr(0x1f_f000), Pfn::new(0x1ff));
        assert_eq!(both, "mfn 0x1ff pfn 0x1ff");
    }
}
