//! The second word of a frame record: what the frame is used as, how often, and how far it is validated.

use super::FULL;
use core::fmt;

/// What a frame may be used as, while its type count is above zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// Nothing in particular: mapped read-only at most.
    None = 0,
    /// A validated level 1 page table.
    L1 = 1,
    /// A validated level 2 page table.
    L2 = 2,
    /// A validated level 3 page table.
    L3 = 3,
    /// A validated level 4 page table.
    L4 = 4,
    /// A validated page of segment descriptors.
    Segments = 5,
    /// Writable by its owner.
    Writable = 6,
}

impl Kind {
    /// Whether a frame's contents are checked before it may be used as this, and unpicked after.
    #[must_use]
    pub const fn is_validated(self) -> bool {
        match self {
            Self::L1 | Self::L2 | Self::L3 | Self::L4 | Self::Segments => true,
            Self::None | Self::Writable => false,
        }
    }

    /// Whether this is a page table of some level.
    #[must_use]
    pub const fn is_table(self) -> bool {
        match self {
            Self::L1 | Self::L2 | Self::L3 | Self::L4 => true,
            Self::None | Self::Segments | Self::Writable => false,
        }
    }
}

/// Why a frame cannot be used as asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TypeError {
    /// The number names no RAM that the frame table knows.
    NoFrame,
    /// It is in use as something else.
    InUse(Kind),
    /// Another CPU is validating or unpicking it at this moment; trying again will help.
    Busy,
    /// It is left half validated, or half unpicked, as this: it must be unpicked before it can be anything else.
    Partial(Kind),
    /// It has as many uses as can be counted.
    Overflow,
}

/// The second word: what the frame is used as, and how often.
///
/// The count is in bits 0-31, the kind in 32-34, flags above, what is done in 40-49 and its flag in 50.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(transparent)]
pub struct TypeWord(u64);

/// What [`TypeWord::get`] asks of its caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use = "a frame that is left to be validated stays locked"]
pub struct TypeGet {
    /// The caller holds the frame's contents and must now validate them and then finish or abandon.
    pub must_validate: bool,
    /// How many entries need not be validated again.
    pub resume_at: u16,
    /// It was left half done, and kept a reference to itself, which is the caller's to put.
    pub was_partial: bool,
    /// It was something else before: translations to it as such may linger in TLBs and must be flushed before the contents are
    /// read or believed.
    pub is_retyped: bool,
}

impl TypeGet {
    /// Nothing.
    pub const DONE: Self = Self {
        must_validate: false,
        resume_at: 0,
        was_partial: false,
        is_retyped: false,
    };
}

/// What [`TypeWord::put`] asks of its caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use = "a frame that is left to be unpicked stays locked"]
pub enum TypePut {
    /// Nothing more to do.
    Done,
    /// That was the last use of a validated frame, of this kind: the caller holds its contents, must drop what they refer to, and then
    /// finish.
    Unpick(Kind),
}

impl TypeWord {
    const KIND: u64 = 0x7 << 32;
    const VALIDATED: u64 = 1 << 35;
    const PINNED: u64 = 1 << 36;
    const AWAITS_LAST: u64 = 1 << 50;

    /// Never used since it was allocated.
    pub const UNUSED: Self = Self(0);

    /// Takes the word as it stands in a record.
    pub(crate) const fn from_bits(bits: u64) -> Self {
        Self(bits)
    }

    /// The word as it stands in a record.
    pub(crate) const fn bits(self) -> u64 {
        self.0
    }

    /// A word with this kind and this count, and no more.
    const fn new(kind: Kind, count: u32) -> Self {
        Self((kind as u64) << 32 | count as u64)
    }

    /// How many uses as its kind there are. The kind may change only at zero.
    #[must_use]
    #[expect(clippy::cast_possible_truncation, reason = "the count is the lower half")]
    pub const fn count(self) -> u32 {
        self.0 as u32
    }

    /// What it is used as, or, at zero, what it was last used as: some TLB may still know it so.
    #[must_use]
    pub const fn kind(self) -> Kind {
        match (self.0 & Self::KIND) >> 32 {
            1 => Kind::L1,
            2 => Kind::L2,
            3 => Kind::L3,
            4 => Kind::L4,
            5 => Kind::Segments,
            6 => Kind::Writable,
            _ => Kind::None,
        }
    }

    /// What it is used as at this moment.
    #[must_use]
    pub const fn in_use_as(self) -> Kind {
        if self.count() == 0 {
            Kind::None
        } else {
            self.kind()
        }
    }

    /// Whether the contents have been checked. Between zero and checked, and between the last use and unpicked, the count is one and
    /// this is false: that state is the lock on the frame's contents.
    #[must_use]
    pub const fn is_validated(self) -> bool {
        self.0 & Self::VALIDATED != 0
    }

    /// Whether one of the uses is a pin, which its owner can ask for once.
    #[must_use]
    pub const fn is_pinned(self) -> bool {
        self.0 & Self::PINNED != 0
    }

    /// With a count of zero: how many of its first entries still hold what they refer to, because validating or unpicking the frame was
    /// left for later. Such a frame keeps a reference to itself.
    #[must_use]
    #[expect(clippy::cast_possible_truncation, reason = "it is cut out at its width")]
    pub const fn done(self) -> u16 {
        (self.0 >> 40) as u16 & 0x3ff
    }

    /// With [`TypeWord::done`]: whether the last of those entries holds nothing any more, and leads to a table that was left half done in
    /// its turn. That one is seen to the end first: a table is unpicked when all below it is.
    #[must_use]
    pub const fn awaits_last(self) -> bool {
        self.0 & Self::AWAITS_LAST != 0
    }

    /// With [`TypeWord::done`]: how many entries hold what they refer to.
    #[must_use]
    pub const fn held(self) -> u16 {
        self.done().saturating_sub(self.awaits_last() as u16)
    }

    /// Whether the frame is left half done.
    #[must_use]
    pub const fn is_partial(self) -> bool {
        self.done() != 0
    }

    /// Whether it is of this kind, as [`TypeWord::kind`] says.
    const fn is_kind(self, kind: Kind) -> bool {
        self.0 & Self::KIND == Self::new(kind, 0).0
    }

    /// Takes one more use as `want`, if no more than that is to be done: the way that most go.
    #[must_use]
    #[inline]
    pub fn get_at_once(self, want: Kind) -> Option<Self> {
        if self.count() == 0 {
            let is_fresh = self == Self::UNUSED || self == Self::new(want, 0);
            return (is_fresh && !want.is_validated())
                .then_some(Self(Self::new(want, 1).0 | Self::VALIDATED));
        }
        let is_it = self.is_kind(want) || mutant!(TwoTypesAtOnce);
        (is_it && self.is_validated() && self.count() < FULL).then_some(Self(self.0.wrapping_add(1)))
    }

    /// Takes one more use as `want`.
    ///
    /// # Errors
    ///
    /// [`TypeError::Partial`] if it was left half done as something else; [`TypeError::InUse`] if it is in use as something else, [`TypeError::Busy`] while another CPU holds its
    /// contents, [`TypeError::Overflow`] at the counter's end.
    pub fn get(self, want: Kind) -> Result<(Self, TypeGet), TypeError> {
        if let Some(next) = self.get_at_once(want) {
            return Ok((next, TypeGet::DONE));
        }
        if self.count() != 0 {
            return Err(if !self.is_kind(want) {
                TypeError::InUse(self.kind())
            } else if self.is_validated() {
                TypeError::Overflow
            } else {
                TypeError::Busy
            });
        }
        if self.is_partial() && !self.is_kind(want) {
            return Err(TypeError::Partial(self.kind()));
        }
        let must_validate = want.is_validated();
        let flags = if must_validate { 0 } else { Self::VALIDATED };
        let get = TypeGet {
            must_validate,
            resume_at: self.held(),
            was_partial: self.is_partial(),
            is_retyped: !self.is_kind(want) && !self.is_kind(Kind::None),
        };
        Ok((Self(Self::new(want, 1).0 | flags), get))
    }

    /// Takes one more use of whatever validated table this is now.
    ///
    /// # Errors
    ///
    /// [`TypeError::InUse`] if it is no validated table (with what it is), and as [`TypeWord::get`].
    #[inline]
    pub fn get_table(self) -> Result<Self, TypeError> {
        let kind = self.in_use_as();
        if !kind.is_table() {
            return Err(TypeError::InUse(kind));
        }
        match self.get_at_once(kind) {
            Some(next) => Ok(next),
            None => self.get(kind).map(|(next, _)| next),
        }
    }

    /// The contents have been checked: others may use the frame too.
    #[must_use]
    pub const fn finish_validation(self) -> Self {
        Self(self.0 | Self::VALIDATED)
    }

    /// The frame is left half done: its first `done` entries hold what they refer to, but for the last if what is below that is awaited.
    #[must_use]
    pub const fn suspend(self, done: u16, awaits_last: bool) -> Self {
        let awaits_last = if awaits_last { Self::AWAITS_LAST } else { 0 };
        Self(self.release().0 | (done as u64) << 40 | awaits_last)
    }

    /// Takes hold of a frame that was left half done, to unpick what is done of it.
    ///
    /// # Errors
    ///
    /// [`TypeError::Busy`] if it is not left half done (any more).
    pub const fn resume_unpicking(self) -> Result<Self, TypeError> {
        if self.count() != 0 || !self.is_partial() {
            return Err(TypeError::Busy);
        }
        Ok(Self::new(self.kind(), 1))
    }

    /// The contents were refused, or have been unpicked: the frame is unused again.
    ///
    /// The kind is kept: a page-walk cache may still hold the frame as a table.
    #[must_use]
    pub const fn release(self) -> Self {
        Self(self.0 & Self::KIND)
    }

    /// Marks one of its uses as its owner's pin, or returns `None` if one is that already.
    #[must_use]
    pub fn pin(self) -> Option<Self> {
        (!self.is_pinned() || mutant!(PinnedTwice)).then_some(Self(self.0 | Self::PINNED))
    }

    /// Takes the pin off, leaving the use behind it, or returns `None` if it is not pinned.
    #[must_use]
    pub fn unpin(self) -> Option<Self> {
        self.is_pinned().then_some(Self(self.0 & !Self::PINNED))
    }

    /// Gives one use back, or returns `None` if there is none to give: a bug in the hypervisor.
    #[must_use]
    #[inline]
    pub fn put(self) -> Option<(Self, TypePut)> {
        match self.count() {
            0 => None,
            1 if self.kind().is_validated() && !mutant!(LostUnpick) => {
                Some((Self(self.0 & !Self::VALIDATED), TypePut::Unpick(self.kind())))
            }
            1 => Some((self.release(), TypePut::Done)),
            _ => Some((Self(self.0.wrapping_sub(1)), TypePut::Done)),
        }
    }
}

impl fmt::Debug for TypeWord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TypeWord")
            .field("count", &self.count())
            .field("kind", &self.kind())
            .field("is_validated", &self.is_validated())
            .field("is_pinned", &self.is_pinned())
            .field("done", &self.done())
            .field("awaits_last", &self.awaits_last())
            .finish()
    }
}
