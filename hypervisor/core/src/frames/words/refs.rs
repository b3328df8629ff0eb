//! The first word of a frame record: who owns the frame, and how many reasons there are to keep it.

use super::FULL;
use bulkhead_abi::DomId;
use core::fmt;

/// Why a frame cannot be referenced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RefError {
    /// The number names no RAM that the frame table knows.
    NoFrame,
    /// It belongs to somebody else, or to nobody.
    NotOwner,
    /// It has as many references as can be counted.
    Overflow,
}

/// The first word: references in bits 0-31, the owner in 32-47, flags above.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(transparent)]
pub struct RefWord(u64);

impl RefWord {
    const ALLOCATED: u64 = 1 << 48;
    const HYPERVISORS: u64 = 1 << 49;

    /// The owner of a free frame, of one that is no RAM, and of one that outlives its domain. No domain can have this id.
    pub const NOBODY: DomId = DomId::new(0xffff);

    /// A frame that belongs to nobody.
    pub const FREE: Self = Self((Self::NOBODY.raw() as u64) << 32);

    /// A frame of the hypervisor's own: held once, and nobody's that could refer to it.
    pub const OWN: Self = Self(Self::FREE.0 | 1);

    /// A frame of `owner`'s with `count` references, the base reference among them.
    #[must_use]
    pub const fn allocated(owner: DomId, count: u32, is_hypervisors: bool) -> Self {
        let flags = Self::ALLOCATED | if is_hypervisors { Self::HYPERVISORS } else { 0 };
        Self(count as u64 | (owner.raw() as u64) << 32 | flags)
    }

    /// Takes the word as it stands in a record.
    pub(crate) const fn from_bits(bits: u64) -> Self {
        Self(bits)
    }

    /// The word as it stands in a record.
    pub(crate) const fn bits(self) -> u64 {
        self.0
    }

    /// Reasons to keep the frame; zero means free.
    #[must_use]
    #[expect(clippy::cast_possible_truncation, reason = "the count is the lower half")]
    pub const fn count(self) -> u32 {
        self.0 as u32
    }

    /// Whom it belongs to; [`RefWord::NOBODY`] if it is free.
    #[must_use]
    #[expect(
        clippy::cast_possible_truncation,
        reason = "the owner is cut out at its width"
    )]
    pub const fn owner(self) -> DomId {
        DomId::new((self.0 >> 32) as u16)
    }

    /// Whether the count includes the base reference that stands for "allocated to its owner".
    #[must_use]
    pub const fn is_allocated(self) -> bool {
        self.0 & Self::ALLOCATED != 0
    }

    /// Whether the hypervisor keeps it for its owner's use (shared info, grant table): it does not count as the domain's memory.
    #[must_use]
    pub const fn is_hypervisors(self) -> bool {
        self.0 & Self::HYPERVISORS != 0
    }

    /// Takes one more reference, on behalf of `owner`.
    ///
    /// # Errors
    ///
    /// [`RefError::NotOwner`] if the frame is not `owner`'s; [`RefError::Overflow`] at the counter's end.
    #[inline]
    pub fn get(self, owner: DomId) -> Result<Self, RefError> {
        if self.count() == 0 || self.owner() != owner && !mutant!(AnyoneMayRefer) {
            return Err(RefError::NotOwner);
        }
        if self.count() >= FULL {
            return Err(RefError::Overflow);
        }
        Ok(Self(self.0.wrapping_add(1)))
    }

    /// Takes one more reference on behalf of a frame that is left half done: its reference to itself. It always can: a frame
    /// has at most one of these at a time, and the last count is kept for it.
    #[must_use]
    pub const fn keep(self) -> Self {
        debug_assert!(self.count() != 0 && self.count() <= FULL, "held by its caller");
        Self(self.0.wrapping_add(1))
    }

    /// Takes the frame from `owner`, if nothing but the base reference keeps it.
    ///
    /// # Errors
    ///
    /// [`RefError::NotOwner`] if it is not `owner`'s to give, or something refers to it.
    pub fn take_idle(self, owner: DomId) -> Result<Self, RefError> {
        let is_idle = (self.count() == 1 || mutant!(TakenWhileReferred))
            && self.is_allocated()
            && !self.is_hypervisors();
        if is_idle && self.owner() == owner {
            Ok(Self::FREE)
        } else {
            Err(RefError::NotOwner)
        }
    }

    /// Gives the base reference back and takes the frame from its owner, whoever refers to it: what others still hold is nobody's, and
    /// comes free when they let it go. `None` if there is no base reference: a bug in the hypervisor.
    #[must_use]
    pub const fn disown(self) -> Option<Self> {
        if self.count() == 0 || !self.is_allocated() {
            return None;
        }
        Some(Self(Self::FREE.0 | self.count().wrapping_sub(1) as u64))
    }

    /// Gives one reference back, or returns `None` if there is none: a bug in the hypervisor.
    #[must_use]
    #[inline]
    pub const fn put(self) -> Option<Self> {
        if self.count() == 0 {
            return None;
        }
        Some(Self(self.0.wrapping_sub(1)))
    }
}

impl fmt::Debug for RefWord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RefWord")
            .field("count", &self.count())
            .field("owner", &self.owner())
            .field("is_allocated", &self.is_allocated())
            .field("is_hypervisors", &self.is_hypervisors())
            .finish()
    }
}
