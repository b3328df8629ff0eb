//! Why a domain's devices may reach one frame.

use crate::grants::Rights;

/// How many mappings for reading there are, in bits 0-30, and for writing, in bits 31-61; and in bits 62 and 63 whether the frame's owner has pinned it to be read, or
/// to be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Counts(u64);

impl Counts {
    const READER: u64 = 1;
    const WRITER: u64 = 1 << 31;
    /// The largest number of either.
    const FULL: u64 = (1 << 31) - 1;
    const PINNED_READ: u64 = 1 << 62;
    const PINNED_WRITE: u64 = 1 << 63;

    /// Takes the word as it stands in a frame of counts.
    pub(crate) const fn from_bits(bits: u64) -> Self {
        Self(bits)
    }

    /// The word as it stands in a frame of counts.
    pub(super) const fn bits(self) -> u64 {
        self.0
    }

    /// How many mappings of this kind there are.
    pub(crate) const fn mappings(self, rights: Rights) -> u64 {
        match rights {
            Rights::ReadOnly => self.0 & Self::FULL,
            Rights::ReadWrite => self.0 >> 31 & Self::FULL,
        }
    }

    /// What the owner has pinned the frame for, if it has.
    pub(crate) const fn pin(self) -> Option<Rights> {
        if self.0 & Self::PINNED_WRITE != 0 {
            Some(Rights::ReadWrite)
        } else if self.0 & Self::PINNED_READ != 0 {
            Some(Rights::ReadOnly)
        } else {
            None
        }
    }

    /// What devices may do with the frame, if anything.
    pub(crate) const fn reach(self) -> Option<Rights> {
        if self.0 & Self::PINNED_WRITE != 0 || self.mappings(Rights::ReadWrite) != 0 {
            Some(Rights::ReadWrite)
        } else if self.0 != 0 {
            Some(Rights::ReadOnly)
        } else {
            None
        }
    }

    const fn one(rights: Rights) -> u64 {
        match rights {
            Rights::ReadOnly => Self::READER,
            Rights::ReadWrite => Self::WRITER,
        }
    }

    /// One mapping more. `None` if there are as many as can be counted.
    pub(super) fn add(self, rights: Rights) -> Option<Self> {
        if self.mappings(rights) == Self::FULL {
            return None;
        }
        if self.mappings(rights) != 0 && mutant!(ReachCountedOnce) {
            return Some(self);
        }
        Some(Self(self.0.wrapping_add(Self::one(rights))))
    }

    /// One mapping less. `None` if there is none: a bug in the hypervisor.
    pub(super) const fn remove(self, rights: Rights) -> Option<Self> {
        if self.mappings(rights) == 0 {
            return None;
        }
        Some(Self(self.0.wrapping_sub(Self::one(rights))))
    }

    /// With a pin. `None` if there is one.
    pub(super) fn with_pin(self, rights: Rights) -> Option<Self> {
        let bit = match rights {
            Rights::ReadOnly => Self::PINNED_READ,
            Rights::ReadWrite => Self::PINNED_WRITE,
        };
        (self.pin().is_none() || mutant!(DmaPinnedTwice)).then_some(Self(self.0 | bit))
    }

    /// Without the pin; and what that was for. `None` if there is none.
    pub(super) fn without_pin(self) -> Option<(Self, Rights)> {
        let rights = self.pin()?;
        Some((Self(self.0 & !(Self::PINNED_READ | Self::PINNED_WRITE)), rights))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Rights::{ReadOnly, ReadWrite};

    #[test]
    fn devices_may_do_what_the_strongest_of_all_reasons_allows() {
        let none = Counts::from_bits(0);
        assert_eq!(none.reach(), None);
        let read = none.add(ReadOnly).unwrap();
        assert_eq!(read.reach(), Some(ReadOnly));
        let written = read.add(ReadWrite).unwrap().add(ReadWrite).unwrap();
        assert_eq!((written.mappings(ReadOnly), written.mappings(ReadWrite)), (1, 2));
        assert_eq!(written.reach(), Some(ReadWrite));
        let read = written.remove(ReadWrite).and_then(|one| one.remove(ReadWrite));
        assert_eq!(read.and_then(Counts::reach), Some(ReadOnly));
        assert_eq!(read.and_then(|read| read.remove(ReadOnly)), Some(none));
        let pinned = none.with_pin(ReadOnly).unwrap();
        assert_eq!((pinned.pin(), pinned.reach()), (Some(ReadOnly), Some(ReadOnly)));
        assert_eq!(none.with_pin(ReadWrite).and_then(Counts::reach), Some(ReadWrite));
    }

    #[test]
    fn a_frame_is_pinned_once_and_what_there_is_not_is_not_taken_away() {
        let none = Counts::from_bits(0);
        for rights in [ReadOnly, ReadWrite] {
            let pinned = none.with_pin(rights).unwrap();
            assert_eq!(pinned.with_pin(ReadOnly), None);
            assert_eq!(pinned.with_pin(ReadWrite), None);
            assert_eq!(pinned.without_pin(), Some((none, rights)));
            assert_eq!(none.remove(rights), None);
        }
        assert_eq!(none.without_pin(), None);
    }

    #[test]
    fn there_is_an_end_to_what_can_be_counted() {
        let full = Counts::from_bits((1 << 62) - 1);
        for rights in [ReadOnly, ReadWrite] {
            assert_eq!(full.add(rights), None);
            let less = full.remove(rights).unwrap();
            assert_eq!(less.mappings(rights), Counts::FULL - 1);
            assert_eq!(less.add(rights), Some(full));
        }
    }
}
