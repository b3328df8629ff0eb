//! Taking a frame as a page table, and dropping it again.

use super::entry::{self, Level, is_present, is_writable};
use super::{PagingError, Work};
use crate::frames::{Kind, Mfn, TypeError, TypePut};
use crate::machine::{Flush, Machine};
use crate::memory::Memory;
use crate::vcpu::descriptors;
use bulkhead_abi::DomId;
use bulkhead_abi::layout;
use bulkhead_abi::pte::ENTRIES;
use core::sync::atomic::Ordering;

/// What looking at a page of descriptors is worth, in entries.
const ENTRIES_WORTH: u32 = 128;

/// What a flush of all TLBs is worth, in entries.
const FLUSH_WORTH: u32 = 16;

impl<M: Machine> Memory<M> {
    /// Takes a reference to `mfn`, a frame of `owner`'s, and a use of it as `kind`; validates it if it must.
    ///
    /// # Errors
    ///
    /// See [`PagingError`]; nothing is held then. After [`PagingError::Again`] part of the work is done.
    pub(crate) fn get_as(
        &self,
        mfn: Mfn,
        owner: DomId,
        kind: Kind,
        work: &mut Work,
    ) -> Result<(), PagingError> {
        self.get(mfn, owner)?;
        self.get_type(mfn, owner, kind, work).inspect_err(|_| {
            if !mutant!(LostPutOnRefusal) {
                self.put(mfn);
            }
        })
    }

    /// Gives back what [`Memory::get_as`] took.
    pub(crate) fn put_as(&self, mfn: Mfn, work: &mut Work) {
        self.put_type(mfn, work);
        self.put(mfn);
    }

    /// Takes a use of a frame that the caller holds a reference to.
    ///
    /// # Errors
    ///
    /// See [`PagingError`]; no use is held then.
    pub(crate) fn get_type(
        &self,
        mfn: Mfn,
        owner: DomId,
        kind: Kind,
        work: &mut Work,
    ) -> Result<(), PagingError> {
        let got = match self.frames.get_type(mfn, kind) {
            Err(TypeError::Partial(_)) => {
                self.unpick_partial(mfn, None, work)?;
                self.frames.get_type(mfn, kind)?
            }
            got => got?,
        };
        if got.retyped_from.is_some() && !mutant!(SkippedRetypeFlush) {
            // Only now that the new type is visible: an entry that another CPU's TLB still holds from the frame's earlier
            // life must not outlive it (XSA-401).
            self.machine.flush(Flush::All);
            work.spend(FLUSH_WORTH);
        }
        if got.was_partial && !mutant!(LostPutOnResume) {
            self.put(mfn);
        }
        if !got.must_validate {
            return Ok(());
        }
        let first = if mutant!(ResumedFromStart) {
            0
        } else {
            got.resume_at
        };
        let validated = match Level::of(kind) {
            Some(level) => self.validate(mfn, owner, level, usize::from(first), work),
            None => self.validate_descriptors(mfn, work).map_err(|error| (error, 0)),
        };
        match validated {
            Ok(()) => {
                self.frames.finish_validation(mfn);
                Ok(())
            }
            Err((PagingError::Again, done)) => {
                self.suspend(mfn, owner, done, false);
                Err(PagingError::Again)
            }
            Err((error, done)) => {
                if let Some(level) = Level::of(kind).filter(|_| !mutant!(LostUnpickOnRefusal)) {
                    self.unpick(mfn, owner, level, (done, false), work);
                } else {
                    self.frames.release_type(mfn);
                }
                Err(error)
            }
        }
    }

    /// Gives a use back; a table that nobody uses any more lets go of all that it refers to, now or when somebody wants the frame.
    pub(crate) fn put_type(&self, mfn: Mfn, work: &mut Work) {
        match self.frames.put_type(mfn) {
            TypePut::Done => {}
            TypePut::Unpick => {
                let kind = self.frames.typing(mfn).map_or(Kind::None, |word| word.kind);
                let owner = self.frames.refs(mfn).map(|word| word.owner);
                match (Level::of(kind), owner) {
                    (Some(level), Some(owner)) => self.unpick(mfn, owner, level, (ENTRIES, false), work),
                    _ => self.frames.release_type(mfn),
                }
            }
        }
    }

    /// Lets a frame that was left half done go of what it still refers to. The caller holds a reference to it. With `only`, nothing is done
    /// unless it is of that kind.
    ///
    /// # Errors
    ///
    /// [`PagingError::Again`] if that is not finished, or another CPU is at it.
    pub(crate) fn unpick_partial(
        &self,
        mfn: Mfn,
        only: Option<Kind>,
        work: &mut Work,
    ) -> Result<(), PagingError> {
        let (kind, done, awaits_last) = self.frames.resume_unpicking(mfn, only)?;
        let owner = self.frames.refs(mfn).ok_or(PagingError::NoFrame)?.owner;
        let done = done.saturating_sub(u16::from(mutant!(UnpickedOneTooFew)));
        if let Some(level) = Level::of(kind) {
            self.unpick(mfn, owner, level, (usize::from(done), awaits_last), work);
        }
        // The reference that it kept; if it was left again, it has taken another.
        self.put(mfn);
        match self.frames.typing(mfn) {
            Some(word) if word.done != 0 => Err(PagingError::Again),
            _ => Ok(()),
        }
    }

    /// Lets a table that was left half done go of what it still refers to, on behalf of one of `level` that led to it. Whether it
    /// is left half done again.
    ///
    /// The table that led to it holds no reference any more: it may be somebody else's by now, or something else. It is helped only
    /// while it is one level down. A guest can make it a table of a higher level, which awaits another of these, and so on: a chain
    /// as long as it likes, and there is a stack to follow four.
    fn help(&self, mfn: Mfn, owner: DomId, level: Level, work: &mut Work) -> bool {
        if self.get(mfn, owner).is_err() {
            return false;
        }
        let is_left = self.awaits(mfn, level) && self.unpick_partial(mfn, level.child(), work).is_err();
        self.put(mfn);
        is_left
    }

    /// Whether a frame has been left half done.
    pub(super) fn is_partial(&self, mfn: Mfn) -> bool {
        self.frames.typing(mfn).is_some_and(|word| word.done != 0)
    }

    /// Whether a frame that an entry in a table of `level` led to has been left half done as such.
    fn awaits(&self, below: Mfn, level: Level) -> bool {
        let typing = self.frames.typing(below);
        typing.is_some_and(|word| word.done != 0 && level.child() == Some(word.kind))
    }

    /// Leaves a frame that this CPU holds half done: its first `done` entries keep what they refer to, but for the last if what is below
    /// that is awaited.
    fn suspend(&self, mfn: Mfn, owner: DomId, done: usize, awaits_last: bool) {
        let done = u16::try_from(done).unwrap_or(0);
        if done == 0 {
            return self.frames.release_type(mfn);
        }
        // The caller has a reference, so that there is one to add to; a counter that is full to the last has been made so
        // by the guest, which then waits for this table for as long as it likes.
        if self.get(mfn, owner).is_ok() {
            self.frames.suspend(mfn, done, awaits_last);
        } else if let Some(level) = self.frames.typing(mfn).and_then(|word| Level::of(word.kind)) {
            let held = done.saturating_sub(u16::from(awaits_last));
            self.unpick(
                mfn,
                owner,
                level,
                (usize::from(held), false),
                &mut Work::unlimited(),
            );
        }
    }

    /// Checks the entries, from `first` on, of a frame that this CPU holds for validation, and takes what they refer to.
    ///
    /// # Errors
    ///
    /// What is wrong, and how many entries, from the start, hold what they refer to.
    fn validate(
        &self,
        mfn: Mfn,
        owner: DomId,
        level: Level,
        first: usize,
        work: &mut Work,
    ) -> Result<(), (PagingError, usize)> {
        let table = self.machine.frame(mfn);
        for (index, word) in table.iter().enumerate().skip(first) {
            // At least one entry in every go, so that it gets further.
            if level != Level::L1 && work.is_over() && index != first {
                return Err((PagingError::Again, index));
            }
            work.spend(1);
            if level == Level::L4 && layout::HYPERVISOR_L4_SLOTS.contains(&index) {
                if !mutant!(GuestsOwnSlots) {
                    word.store(self.machine.hypervisor_slot(index), Ordering::Relaxed);
                }
                continue;
            }
            let adjusted = entry::adjust(level, word.load(Ordering::Relaxed))
                .and_then(|adjusted| self.get_target(adjusted, owner, level, work).map(|()| adjusted))
                .map_err(|error| (error, index))?;
            // Nobody else writes here: the frame is typed as a table, and only validated ones are live.
            word.store(adjusted, Ordering::Relaxed);
        }
        Ok(())
    }

    /// Checks every descriptor of a frame that this CPU holds for validation.
    fn validate_descriptors(&self, mfn: Mfn, work: &mut Work) -> Result<(), PagingError> {
        work.spend(ENTRIES_WORTH);
        if mutant!(UncheckedDescriptorPage) {
            return Ok(());
        }
        for word in self.machine.frame(mfn).iter() {
            let descriptor =
                descriptors::check(word.load(Ordering::Relaxed)).map_err(PagingError::Descriptor)?;
            word.store(descriptor, Ordering::Relaxed);
        }
        Ok(())
    }

    /// Drops what the first `count` entries of a frame that this CPU holds refer to, the last first. Entries stay as they are. If it is
    /// more than may be done in one go, the frame is left half done; so it is while a table below is, for the frame is the one way to it.
    ///
    /// With `awaits_last` the last of the `count` entries was dropped in an earlier go, and what it led to was left half done.
    fn unpick(
        &self,
        mfn: Mfn,
        owner: DomId,
        level: Level,
        (count, awaits_last): (usize, bool),
        work: &mut Work,
    ) {
        let table = self.machine.frame(mfn);
        for (index, word) in table.iter().enumerate().take(count).rev() {
            let is_first = index.checked_add(1) == Some(count);
            if level != Level::L1 && work.is_over() && !is_first {
                return self.suspend(mfn, owner, index.saturating_add(1), false);
            }
            work.spend(1);
            if level == Level::L4 && layout::HYPERVISOR_L4_SLOTS.contains(&index) {
                continue;
            }
            let entry = word.load(Ordering::Relaxed);
            let below = entry::frame(entry);
            let is_left = if is_first && awaits_last {
                self.help(below, owner, level, work)
            } else {
                self.put_target(entry, level, work);
                is_present(entry) && self.awaits(below, level)
            };
            if is_left {
                return self.suspend(mfn, owner, index.saturating_add(1), true);
            }
        }
        self.frames.release_type(mfn);
    }

    /// Takes what `entry` (adjusted) in a table of `level` refers to.
    pub(super) fn get_target(
        &self,
        entry: u64,
        owner: DomId,
        level: Level,
        work: &mut Work,
    ) -> Result<(), PagingError> {
        if !is_present(entry) {
            return Ok(());
        }
        let mfn = entry::frame(entry);
        match level.child() {
            Some(kind) => self.get_as(mfn, owner, kind, work),
            None if is_writable(entry) => self.get_as(mfn, owner, Kind::Writable, work),
            None => Ok(self.get(mfn, owner)?),
        }
    }

    /// Gives back what `entry` in a validated table of `level` refers to.
    pub(super) fn put_target(&self, entry: u64, level: Level, work: &mut Work) {
        if !is_present(entry) {
            return;
        }
        let mfn = entry::frame(entry);
        if level != Level::L1 || is_writable(entry) {
            self.put_as(mfn, work);
        } else {
            self.put(mfn);
        }
    }
}
