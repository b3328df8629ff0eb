//! The two words of a frame record, decoded, and every transition that they may make.
//!
//! These are pure functions: [`super::FrameTable`] runs them inside its compare-exchange loops, and the
//! tests run them by themselves. The rules are those of the guest ABI's section 4.

use bulkhead_abi::DomId;

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
    const fn from_bits(bits: u64) -> Self {
        match bits & 0x7 {
            1 => Self::L1,
            2 => Self::L2,
            3 => Self::L3,
            4 => Self::L4,
            5 => Self::Segments,
            6 => Self::Writable,
            _ => Self::None,
        }
    }

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

/// The first word: references and owner.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RefWord {
    /// Reasons to keep the frame; zero means free.
    pub count: u32,
    /// Whom it belongs to; [`RefWord::NOBODY`] if it is free.
    pub owner: DomId,
    /// Whether `count` includes the base reference that stands for "allocated to its owner".
    pub is_allocated: bool,
    /// Whether the hypervisor keeps it for its owner's use (shared info, grant table): it does not count as the
    /// domain's memory.
    pub is_hypervisors: bool,
}

impl RefWord {
    /// The owner of a free frame, and of one that is no RAM. No domain can have this id.
    pub const NOBODY: DomId = DomId::new(0xffff);

    /// A frame that belongs to nobody.
    pub const FREE: Self = Self {
        count: 0,
        owner: Self::NOBODY,
        is_allocated: false,
        is_hypervisors: false,
    };

    /// Packs the word: count in bits 0-31, owner in 32-47, flags above.
    #[must_use]
    pub const fn pack(self) -> u64 {
        (self.count as u64)
            | (self.owner.raw() as u64) << 32
            | (self.is_allocated as u64) << 48
            | (self.is_hypervisors as u64) << 49
    }

    /// Reads a packed word.
    #[must_use]
    #[expect(
        clippy::cast_possible_truncation,
        reason = "each field is cut out at its width"
    )]
    pub const fn unpack(word: u64) -> Self {
        Self {
            count: word as u32,
            owner: DomId::new((word >> 32) as u16),
            is_allocated: word & 1 << 48 != 0,
            is_hypervisors: word & 1 << 49 != 0,
        }
    }

    /// Takes one more reference, on behalf of `owner`.
    ///
    /// # Errors
    ///
    /// [`RefError::NotOwner`] if the frame is not `owner`'s; [`RefError::Overflow`] at the counter's end.
    pub fn get(self, owner: DomId) -> Result<Self, RefError> {
        if self.count == 0 || self.owner != owner && !mutant!(AnyoneMayRefer) {
            return Err(RefError::NotOwner);
        }
        // The last value stays unused, so that a count which can be seen to be full is one that is full.
        let count = self
            .count
            .checked_add(1)
            .filter(|&c| c != u32::MAX)
            .ok_or(RefError::Overflow)?;
        Ok(Self { count, ..self })
    }

    /// Takes the frame from `owner`, if nothing but the base reference keeps it.
    ///
    /// # Errors
    ///
    /// [`RefError::NotOwner`] if it is not `owner`'s to give, or something refers to it.
    pub fn take_idle(self, owner: DomId) -> Result<Self, RefError> {
        let is_idle =
            (self.count == 1 || mutant!(TakenWhileReferred)) && self.is_allocated && !self.is_hypervisors;
        if is_idle && self.owner == owner {
            Ok(Self::FREE)
        } else {
            Err(RefError::NotOwner)
        }
    }

    /// Gives one reference back, or returns `None` if there is none: a bug in the hypervisor.
    #[must_use]
    pub fn put(self) -> Option<Self> {
        Some(Self {
            count: self.count.checked_sub(1)?,
            ..self
        })
    }
}

/// The second word: what the frame is used as, and how often.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TypeWord {
    /// How many uses as `kind` there are. The kind may change only at zero.
    pub count: u32,
    /// What it is used as, or, at zero, what it was last used as: some TLB may still know it so.
    pub kind: Kind,
    /// Whether the contents have been checked. Between zero and checked, and between the last use and unpicked,
    /// the count is one and this is false: that state is the lock on the frame's contents.
    pub is_validated: bool,
    /// Whether one of the uses is a pin, which its owner can ask for once.
    pub is_pinned: bool,
    /// With `count` zero: how many of its first entries still hold what they refer to, because validating or unpicking
    /// the frame was left for later. Such a frame keeps a reference to itself.
    pub done: u16,
    /// With `done`: whether the last of those entries holds nothing any more, and leads to a table that was left half done in its turn.
    /// That one is seen to the end first: a table is unpicked when all below it is.
    pub awaits_last: bool,
}

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
    /// What the frame was before, if that was something else: translations to it as such may linger in TLBs
    /// and must be flushed before the contents are read or believed.
    pub retyped_from: Option<Kind>,
}

/// What [`TypeWord::put`] asks of its caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use = "a frame that is left to be unpicked stays locked"]
pub enum TypePut {
    /// Nothing more to do.
    Done,
    /// That was the last use of a validated frame: the caller holds its contents, must drop what they refer to, and then
    /// finish.
    Unpick,
}

impl TypeWord {
    /// Never used since it was allocated.
    pub const UNUSED: Self = Self {
        count: 0,
        kind: Kind::None,
        is_validated: false,
        is_pinned: false,
        done: 0,
        awaits_last: false,
    };

    /// Packs the word: count in bits 0-31, kind in 32-34, flags above, what is done in 40-49 and its flag in 50.
    #[must_use]
    pub const fn pack(self) -> u64 {
        (self.count as u64)
            | (self.kind as u64) << 32
            | (self.is_validated as u64) << 35
            | (self.is_pinned as u64) << 36
            | (self.done as u64) << 40
            | (self.awaits_last as u64) << 50
    }

    /// Reads a packed word.
    #[must_use]
    #[expect(
        clippy::cast_possible_truncation,
        reason = "the count is cut out at its width"
    )]
    pub const fn unpack(word: u64) -> Self {
        Self {
            count: word as u32,
            kind: Kind::from_bits(word >> 32),
            is_validated: word & 1 << 35 != 0,
            is_pinned: word & 1 << 36 != 0,
            done: (word >> 40) as u16 & 0x3ff,
            awaits_last: word & 1 << 50 != 0,
        }
    }

    /// Takes one more use as `want`.
    ///
    /// # Errors
    ///
    /// [`TypeError::Partial`] if it was left half done as something else; [`TypeError::InUse`] if it is in use as something else, [`TypeError::Busy`] while another CPU holds its
    /// contents, [`TypeError::Overflow`] at the counter's end.
    pub fn get(self, want: Kind) -> Result<(Self, TypeGet), TypeError> {
        if self.count == 0 {
            if self.done != 0 && self.kind != want {
                return Err(TypeError::Partial(self.kind));
            }
            let next = Self {
                count: 1,
                kind: want,
                is_validated: !want.is_validated(),
                is_pinned: false,
                done: 0,
                awaits_last: false,
            };
            let get = TypeGet {
                must_validate: want.is_validated(),
                resume_at: self.held(),
                was_partial: self.done != 0,
                retyped_from: (self.kind != want && self.kind != Kind::None).then_some(self.kind),
            };
            return Ok((next, get));
        }
        if self.kind != want && !mutant!(TwoTypesAtOnce) {
            return Err(TypeError::InUse(self.kind));
        }
        if !self.is_validated {
            return Err(TypeError::Busy);
        }
        let count = self
            .count
            .checked_add(1)
            .filter(|&c| c != u32::MAX)
            .ok_or(TypeError::Overflow)?;
        Ok((
            Self { count, ..self },
            TypeGet {
                must_validate: false,
                resume_at: 0,
                was_partial: false,
                retyped_from: None,
            },
        ))
    }

    /// Takes one more use of whatever validated table this is now.
    ///
    /// # Errors
    ///
    /// [`TypeError::InUse`] if it is no validated table (with what it is), and as [`TypeWord::get`].
    pub fn get_table(self) -> Result<Self, TypeError> {
        if self.count == 0 || !self.kind.is_table() {
            return Err(TypeError::InUse(if self.count == 0 {
                Kind::None
            } else {
                self.kind
            }));
        }
        self.get(self.kind).map(|(next, _)| next)
    }

    /// The contents have been checked: others may use the frame too.
    #[must_use]
    pub const fn finish_validation(self) -> Self {
        Self {
            is_validated: true,
            ..self
        }
    }

    /// With `done`: how many entries hold what they refer to.
    #[must_use]
    pub const fn held(self) -> u16 {
        self.done.saturating_sub(self.awaits_last as u16)
    }

    /// The frame is left half done: its first `done` entries hold what they refer to, but for the last if what is below that is awaited.
    #[must_use]
    pub const fn suspend(self, done: u16, awaits_last: bool) -> Self {
        Self {
            count: 0,
            is_validated: false,
            is_pinned: false,
            done,
            awaits_last,
            ..self
        }
    }

    /// Takes hold of a frame that was left half done, to unpick what is done of it: how many entries that is, and whether what is
    /// below the last is awaited.
    ///
    /// # Errors
    ///
    /// [`TypeError::Busy`] if it is not left half done (any more).
    pub const fn resume_unpicking(self) -> Result<(Self, u16, bool), TypeError> {
        if self.count != 0 || self.done == 0 {
            return Err(TypeError::Busy);
        }
        let next = Self {
            count: 1,
            done: 0,
            awaits_last: false,
            ..self
        };
        Ok((next, self.done, self.awaits_last))
    }

    /// The contents were refused, or have been unpicked: the frame is unused again.
    ///
    /// The kind is kept: a page-walk cache may still hold the frame as a table.
    #[must_use]
    pub const fn release(self) -> Self {
        Self {
            count: 0,
            is_validated: false,
            is_pinned: false,
            done: 0,
            awaits_last: false,
            ..self
        }
    }

    /// Gives one use back, or returns `None` if there is none to give: a bug in the hypervisor.
    #[must_use]
    pub fn put(self) -> Option<(Self, TypePut)> {
        let count = self.count.checked_sub(1)?;
        if count == 0 && self.kind.is_validated() && !mutant!(LostUnpick) {
            return Some((
                Self {
                    is_validated: false,
                    ..self
                },
                TypePut::Unpick,
            ));
        }
        Some((
            Self {
                count,
                is_validated: self.is_validated && count != 0,
                ..self
            },
            TypePut::Done,
        ))
    }
}
