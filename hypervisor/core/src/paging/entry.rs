//! Page-table entries as guests may write them: which bits, and what is made of them.
//!
//! Guest kernels run in ring 3, so every entry that leads anywhere must be accessible to users of the CPU; a
//! marker bit tells the guest's own kernel pages apart. Source: the guest ABI's section 3.3.

use super::PagingError;
use crate::frames::{Kind, Mfn};
use bulkhead_abi::pte;

/// The level of a page table: what the entries in it lead to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// Entries map pages.
    L1 = 1,
    /// Entries lead to level 1 tables.
    L2 = 2,
    /// Entries lead to level 2 tables.
    L3 = 3,
    /// Entries lead to level 3 tables.
    L4 = 4,
}

impl Level {
    /// The level of tables of `kind`, if it is one.
    #[must_use]
    pub const fn of(kind: Kind) -> Option<Self> {
        match kind {
            Kind::L1 => Some(Self::L1),
            Kind::L2 => Some(Self::L2),
            Kind::L3 => Some(Self::L3),
            Kind::L4 => Some(Self::L4),
            Kind::None | Kind::Segments | Kind::Writable => None,
        }
    }

    /// The type of a table of this level.
    #[must_use]
    pub const fn kind(self) -> Kind {
        match self {
            Self::L1 => Kind::L1,
            Self::L2 => Kind::L2,
            Self::L3 => Kind::L3,
            Self::L4 => Kind::L4,
        }
    }

    /// The type of the tables that this level's entries lead to; level 1 leads to pages.
    #[must_use]
    pub const fn child(self) -> Option<Kind> {
        match self {
            Self::L1 => None,
            Self::L2 => Some(Kind::L1),
            Self::L3 => Some(Kind::L2),
            Self::L4 => Some(Kind::L3),
        }
    }

    /// How far an address is shifted to give the index of the entry that it goes through.
    #[must_use]
    pub const fn shift(self) -> u32 {
        match self {
            Self::L1 => 12,
            Self::L2 => 21,
            Self::L3 => 30,
            Self::L4 => 39,
        }
    }

    /// Which entry of a table of this level `va` goes through.
    #[must_use]
    pub const fn index(self, va: u64) -> usize {
        (va >> self.shift() & 0x1ff) as usize
    }
}

/// Whether an entry leads anywhere.
#[must_use]
pub const fn is_present(entry: u64) -> bool {
    entry & pte::PRESENT != 0
}

/// Whether an entry lets what it leads to be written.
#[must_use]
pub const fn is_writable(entry: u64) -> bool {
    entry & pte::WRITABLE != 0
}

/// The frame that a present entry leads to.
#[must_use]
pub const fn frame(entry: u64) -> Mfn {
    Mfn::from_maddr(entry & pte::FRAME_MASK)
}

/// What stands in the table when a guest writes `entry` at `level`. An entry that is not present stands as written.
///
/// # Errors
///
/// [`PagingError::Flags`] with the bits that may not be set: superpages, cacheability.
pub const fn adjust(level: Level, entry: u64) -> Result<u64, PagingError> {
    if !is_present(entry) {
        return Ok(entry);
    }
    let allowed = match level {
        Level::L1 => pte::L1_ALLOWED | pte::FRAME_MASK,
        Level::L2 | Level::L3 | Level::L4 => pte::UPPER_ALLOWED | pte::FRAME_MASK,
    };
    if entry & !allowed != 0 {
        return Err(PagingError::Flags(entry & !allowed));
    }
    Ok(match level {
        Level::L1 => pte::adjust_l1(entry),
        Level::L2 | Level::L3 => entry | pte::USER,
        Level::L4 => entry | pte::USER | pte::ACCESSED,
    })
}

/// Whether `old` may become `new` (already adjusted) as far as references go: same frame, same right to write.
#[must_use]
pub fn is_harmless_change(old: u64, new: u64) -> bool {
    let mut overlooked = pte::FASTPATH;
    if mutant!(FastPathMayWrite) {
        overlooked |= pte::WRITABLE;
    }
    if mutant!(FastPathMayMove) {
        overlooked |= pte::FRAME_MASK;
    }
    is_present(old) && is_present(new) && (old ^ new) & !overlooked == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    const FRAME: u64 = 0x1234_5000;

    #[test]
    fn a_kernel_page_becomes_accessible_and_keeps_its_mark() {
        let entry = adjust(Level::L1, FRAME | pte::PRESENT | pte::WRITABLE).unwrap();
        assert_eq!(
            entry,
            FRAME | pte::PRESENT | pte::WRITABLE | pte::USER | pte::GUEST_KERNEL
        );
        assert_eq!(
            adjust(Level::L1, entry),
            Ok(entry),
            "what a guest reads it may write back"
        );
    }

    #[test]
    fn a_user_page_becomes_global() {
        let entry = adjust(Level::L1, FRAME | pte::PRESENT | pte::USER).unwrap();
        assert_eq!(entry, FRAME | pte::PRESENT | pte::USER | pte::GLOBAL);
    }

    #[test]
    fn no_superpage_and_no_cacheability_bit_is_accepted() {
        let present = FRAME | pte::PRESENT;
        assert_eq!(
            adjust(Level::L2, present | pte::PAGE_SIZE_BIT),
            Err(PagingError::Flags(pte::PAGE_SIZE_BIT))
        );
        assert_eq!(
            adjust(Level::L3, present | pte::PAGE_SIZE_BIT),
            Err(PagingError::Flags(pte::PAGE_SIZE_BIT))
        );
        assert_eq!(
            adjust(Level::L4, present | pte::GLOBAL),
            Err(PagingError::Flags(pte::GLOBAL))
        );
        assert_eq!(
            adjust(Level::L1, present | pte::CACHE_DISABLE),
            Err(PagingError::Flags(pte::CACHE_DISABLE))
        );
        assert_eq!(
            adjust(Level::L1, present | pte::PAT),
            Err(PagingError::Flags(pte::PAT))
        );
    }

    #[test]
    fn an_entry_that_is_not_present_stands_as_written() {
        assert_eq!(
            adjust(Level::L1, 0xdead_beef_0000_00fe),
            Ok(0xdead_beef_0000_00fe)
        );
    }

    #[test]
    fn gaining_the_right_to_write_is_never_harmless() {
        let old = adjust(Level::L1, FRAME | pte::PRESENT).unwrap();
        assert!(!is_harmless_change(old, old | pte::WRITABLE));
        assert!(!is_harmless_change(old | pte::WRITABLE, old));
        assert!(!is_harmless_change(old, old + 0x1000));
        assert!(!is_harmless_change(0, old));
        assert!(is_harmless_change(
            old,
            old | pte::NO_EXECUTE | pte::ACCESSED | pte::DIRTY
        ));
    }
}
