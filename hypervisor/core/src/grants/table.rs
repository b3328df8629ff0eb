//! A domain's grant table: the frames that it shares with the hypervisor, and which of its entries are in use.

use super::entry::{self, Handover};
use super::{GrantError, Rights};
use crate::frames::Mfn;
use crate::machine::Machine;
use crate::sync::{AtomicU64, Ordering};
use alloc::boxed::Box;
use alloc::vec::Vec;
use bulkhead_abi::DomId;
use bulkhead_abi::grant::ENTRIES_PER_FRAME;

/// How often an entry may change under us before the use is refused.
const TRIES: usize = 5;

/// The table of one domain.
#[derive(Debug)]
pub struct GrantTable {
    frames: Vec<TableFrame>,
    limit: u32,
}

/// A frame of the table, with the uses of its entries.
#[derive(Debug)]
struct TableFrame {
    mfn: Mfn,
    uses: Uses,
}

/// The uses of a frame's entries.
pub(crate) type Uses = Box<[Active]>;

/// The uses of one entry. While there are none, the rest means nothing.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Active {
    /// The frame that is used, whatever the entry says by now.
    frame: u32,
    /// Who uses it.
    user: DomId,
    readers: u8,
    writers: u8,
}

const _: () = assert!(size_of::<Active>() == 8);

/// A grant that is in use, as the laws look at it.
#[cfg(any(test, feature = "testing"))]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct InUse {
    /// Whose frame, in the domain's own table: the reference.
    pub(crate) gref: u32,
    /// The frame.
    pub(crate) frame: Mfn,
    /// Who uses it.
    pub(crate) user: DomId,
    /// How many uses there are for reading only.
    pub(crate) readers: u8,
    /// How many there are for writing.
    pub(crate) writers: u8,
}

impl Active {
    const UNUSED: Self = Self {
        frame: 0,
        user: DomId::INVALID,
        readers: 0,
        writers: 0,
    };

    const fn is_used(&self) -> bool {
        self.readers != 0 || self.writers != 0
    }

    const fn count(&mut self, rights: Rights) -> &mut u8 {
        match rights {
            Rights::ReadOnly => &mut self.readers,
            Rights::ReadWrite => &mut self.writers,
        }
    }

    /// The bits of the entry that tell of these uses.
    const fn marks(&self) -> u16 {
        if self.writers != 0 {
            entry::marks(Rights::ReadWrite)
        } else if self.readers != 0 {
            entry::marks(Rights::ReadOnly)
        } else {
            0
        }
    }
}

/// Room for the uses of a frame's entries, or `None` if there is none.
pub(crate) fn uses() -> Option<Uses> {
    let mut uses = Vec::new();
    uses.try_reserve_exact(ENTRIES_PER_FRAME).ok()?;
    uses.resize(ENTRIES_PER_FRAME, Active::UNUSED);
    Some(uses.into_boxed_slice())
}

impl GrantTable {
    /// A table without frames, which may come to have `limit`.
    #[must_use]
    pub const fn new(limit: u32) -> Self {
        Self {
            frames: Vec::new(),
            limit,
        }
    }

    /// How many frames it may have.
    #[must_use]
    pub const fn limit(&self) -> u32 {
        self.limit
    }

    /// Its frames.
    pub fn frames(&self) -> impl ExactSizeIterator<Item = Mfn> {
        self.frames.iter().map(|frame| frame.mfn)
    }

    /// Adds a frame, which the caller holds for the domain, if it is the one that comes after `len` others. Says whether it was.
    pub(crate) fn push(&mut self, len: usize, mfn: Mfn, uses: Uses) -> bool {
        let fits = self.frames.len() == len && self.frames.try_reserve(1).is_ok();
        if fits {
            self.frames.push(TableFrame { mfn, uses });
        }
        fits
    }

    /// Takes the last frame off, for a domain that ends and whose grants nobody uses any more.
    pub(crate) fn pop(&mut self) -> Option<Mfn> {
        self.frames.pop().map(|frame| frame.mfn)
    }

    fn find(&mut self, gref: u32) -> Result<(Mfn, usize, &mut Active), GrantError> {
        let gref = gref as usize;
        let index = gref % ENTRIES_PER_FRAME;
        let TableFrame { mfn, uses } = self
            .frames
            .get_mut(gref / ENTRIES_PER_FRAME)
            .ok_or(GrantError::NoEntry)?;
        let active = uses.get_mut(index).ok_or(GrantError::NoEntry)?;
        Ok((*mfn, index, active))
    }

    /// Begins a use of entry `gref` by `user`, and returns the frame that is granted. It is an allegation: whether it is the grantor's, and
    /// fit for the use, is for the caller to see, who must end the use otherwise.
    ///
    /// # Errors
    ///
    /// [`GrantError::NoEntry`], [`GrantError::NotGranted`], [`GrantError::Contended`].
    pub(crate) fn begin_use<M: Machine>(
        &mut self,
        machine: &M,
        gref: u32,
        user: DomId,
        rights: Rights,
    ) -> Result<Mfn, GrantError> {
        let (table, index, active) = self.find(gref)?;
        if active.is_used() && active.user != user {
            return Err(GrantError::NotGranted);
        }
        let mut after = *active;
        let count = after.count(rights);
        *count = count.checked_add(1).ok_or(GrantError::Contended)?;
        if after.marks() != active.marks() {
            let words = machine.frame(table);
            let word = words.get(index).ok_or(GrantError::NoEntry)?;
            let marked = mark(word, user, rights)?;
            if !active.is_used() {
                after.frame = entry::decode(marked).frame;
                after.user = user;
            }
        }
        *active = after;
        Ok(Mfn::from_u32(after.frame))
    }

    /// Ends a use. Nobody can reach the frame by it any more.
    pub(crate) fn end_use<M: Machine>(&mut self, machine: &M, gref: u32, rights: Rights) {
        let Ok((table, index, active)) = self.find(gref) else {
            return;
        };
        let before = active.marks();
        let count = active.count(rights);
        debug_assert!(*count != 0, "a use of grant {gref} ends that never began");
        *count = count.saturating_sub(1);
        let stale = before & !active.marks();
        if stale != 0
            && let Some(word) = machine.frame(table).get(index)
        {
            // Release: a grantor that sees the bits go sees all that was written through the grant.
            word.fetch_and(!u64::from(stale), Ordering::AcqRel);
        }
    }

    /// Commits a frame of `giver`'s to an entry, which accepts one.
    ///
    /// # Errors
    ///
    /// [`GrantError::NoEntry`], [`GrantError::NotOffered`], [`GrantError::Contended`].
    pub(crate) fn commit_transfer<M: Machine>(
        &mut self,
        machine: &M,
        gref: u32,
        giver: DomId,
    ) -> Result<(), GrantError> {
        self.commit(machine, gref, giver, Handover::Transfer).map(|_| ())
    }

    /// Commits a frame of `giver`'s to an entry that offers one for it. Returns that; whether the domain has it to give is for the caller to see.
    ///
    /// # Errors
    ///
    /// As [`GrantTable::commit_transfer`].
    pub(crate) fn commit_flip<M: Machine>(
        &mut self,
        machine: &M,
        gref: u32,
        giver: DomId,
    ) -> Result<Mfn, GrantError> {
        let committed = self.commit(machine, gref, giver, Handover::Flip)?;
        Ok(Mfn::from_u32(entry::decode(committed).frame))
    }

    fn commit<M: Machine>(
        &mut self,
        machine: &M,
        gref: u32,
        giver: DomId,
        handover: Handover,
    ) -> Result<u64, GrantError> {
        let (table, index, active) = self.find(gref)?;
        // The bits that tell of a use mean something else here.
        if active.is_used() {
            return Err(GrantError::NotOffered);
        }
        let words = machine.frame(table);
        let word = words.get(index).ok_or(GrantError::NoEntry)?;
        change(word, |seen| entry::commit(seen, giver, handover))
    }

    /// Nothing comes of what was committed to an entry.
    pub(crate) fn uncommit<M: Machine>(&mut self, machine: &M, gref: u32) {
        self.settle(machine, gref, entry::uncommit);
    }

    /// The frame that was committed to an entry is there.
    pub(crate) fn complete<M: Machine>(&mut self, machine: &M, gref: u32, frame: Mfn) {
        // The frame table ends below 2^32 frames.
        let frame = u32::try_from(frame.raw()).unwrap_or(u32::MAX);
        self.settle(machine, gref, |seen| entry::complete(seen, frame));
    }

    /// Changes an entry to which a frame is committed, unless its owner is so foolish as to write it all the time.
    fn settle<M: Machine>(&mut self, machine: &M, gref: u32, next: impl Fn(u64) -> Option<u64>) {
        let Ok((table, index, _)) = self.find(gref) else {
            return;
        };
        if let Some(word) = machine.frame(table).get(index) {
            let _ = change(word, |seen| next(seen).ok_or(GrantError::NotOffered));
        }
    }

    /// Exchanges two entries of the domain's own that nobody uses.
    ///
    /// # Errors
    ///
    /// [`GrantError::NoEntry`], [`GrantError::InUse`].
    pub(crate) fn swap<M: Machine>(&mut self, machine: &M, one: u32, other: u32) -> Result<(), GrantError> {
        let [(one, one_index), (other, other_index)] = [self.find_unused(one)?, self.find_unused(other)?]
            .map(|(mfn, index)| (machine.frame(mfn), index));
        let (Some(one), Some(other)) = (one.get(one_index), other.get(other_index)) else {
            return Err(GrantError::NoEntry);
        };
        // Its owner alone writes an entry that is not in use, and asked for this: what it writes meanwhile is its own affair.
        let word = one.load(Ordering::Relaxed);
        one.store(other.swap(word, Ordering::AcqRel), Ordering::Release);
        Ok(())
    }

    /// Where an entry stands that nobody uses.
    fn find_unused(&mut self, gref: u32) -> Result<(Mfn, usize), GrantError> {
        let (table, index, active) = self.find(gref)?;
        if active.is_used() && !mutant!(SwappedInUse) {
            return Err(GrantError::InUse);
        }
        Ok((table, index))
    }

    /// The entries in use.
    #[cfg(any(test, feature = "testing"))]
    pub(crate) fn in_use(&self) -> impl Iterator<Item = InUse> {
        let entries = self.frames.iter().flat_map(|frame| &*frame.uses);
        (0..).zip(entries).filter_map(|(gref, active)| {
            active.is_used().then_some(InUse {
                gref,
                frame: Mfn::from_u32(active.frame),
                user: active.user,
                readers: active.readers,
                writers: active.writers,
            })
        })
    }
}

/// Marks an entry as used by `user`, if it grants that, and returns it.
fn mark(word: &AtomicU64, user: DomId, rights: Rights) -> Result<u64, GrantError> {
    if mutant!(UnmarkedGrant) {
        return entry::begin_use(word.load(Ordering::Acquire), user, rights);
    }
    change(word, |seen| entry::begin_use(seen, user, rights))
}

/// Changes an entry by `next`, which may be asked more than once, and returns what it is then.
fn change(word: &AtomicU64, next: impl Fn(u64) -> Result<u64, GrantError>) -> Result<u64, GrantError> {
    for _ in 0..TRIES {
        // Acquire pairs with the barrier that the grantor puts between the other fields and the flags; Release, in what follows, lets a grantor that
        // sees the change see what was done before it.
        let seen = word.load(Ordering::Acquire);
        let after = next(seen)?;
        if word
            .compare_exchange(seen, after, Ordering::AcqRel, Ordering::Relaxed)
            .is_ok()
        {
            return Ok(after);
        }
    }
    Err(GrantError::Contended)
}
