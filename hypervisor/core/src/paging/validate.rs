//! Taking a frame as a page table, and dropping it again.

use super::entry::{self, Level, is_present, is_writable};
use super::{PagingError, Work};
use crate::frames::words::{RefWord, TypeWord};
use crate::frames::{Kind, Mfn, TypeError, TypePut};
use crate::machine::{Flush, FrameWords, Machine};
use crate::memory::Memory;
use crate::sync::{AtomicU64, Ordering};
use crate::vcpu::descriptors;
use bulkhead_abi::DomId;
use bulkhead_abi::layout;
use bulkhead_abi::pte::ENTRIES;

/// What looking at a page of descriptors is worth, in entries.
const DESCRIPTORS_WORTH: u32 = 128;

/// What a flush of all TLBs is worth, in entries.
const FLUSH_WORTH: u32 = 16;

/// How many entries are looked at together, in search of some that lead anywhere: most tables are mostly empty. The hypervisor's own are in
/// runs of their own.
const RUN: usize = 8;

/// How many empty runs are worth an entry that is looked at by itself.
const RUNS_FOR_ONE: usize = 4;

const _: () = assert!(layout::HYPERVISOR_L4_SLOTS.start().is_multiple_of(RUN));
const _: () = assert!((*layout::HYPERVISOR_L4_SLOTS.end() + 1).is_multiple_of(RUN));

/// Whether all of these are zero.
#[inline(always)]
fn is_empty(run: &[AtomicU64; RUN]) -> bool {
    run.iter().fold(0, |all, word| all | word.load(Ordering::Relaxed)) == 0
}

/// How many entries of `table` of `level`, from `index` on, are in runs that are empty and are the guest's.
#[inline(always)]
fn empty_from(table: &FrameWords, level: Level, index: usize) -> usize {
    if !index.is_multiple_of(RUN) {
        return 0;
    }
    let own = layout::HYPERVISOR_L4_SLOTS;
    let end = if level == Level::L4 && index <= *own.end() {
        *own.start()
    } else {
        ENTRIES
    };
    let (runs, _) = table.get(index..end).unwrap_or_default().as_chunks();
    let empty = runs.iter().take_while(|run| is_empty(run)).count();
    empty.wrapping_mul(RUN)
}

/// How many of the first `count` entries of `table`, the last of them, are in runs that are empty.
#[inline(always)]
fn empty_before(table: &FrameWords, count: usize) -> usize {
    if !count.is_multiple_of(RUN) {
        return 0;
    }
    let (runs, _) = table.get(..count).unwrap_or_default().as_chunks();
    let empty = runs.iter().rev().take_while(|run| is_empty(run)).count();
    empty.wrapping_mul(RUN)
}

/// What it is worth to have found `entries` empty ones together.
#[expect(clippy::cast_possible_truncation, reason = "a table has 512 entries")]
const fn worth_of_empty(entries: usize) -> u32 {
    entries.div_ceil(RUN * RUNS_FOR_ONE) as u32
}

impl<M: Machine> Memory<M> {
    /// Takes a reference to `mfn`, a frame of `owner`'s, and a use of it as `kind`; validates it if it must.
    ///
    /// # Errors
    ///
    /// See [`PagingError`]; nothing is held then. After [`PagingError::Again`] part of the work is done.
    // In the loop over a table the call would cost as much as the rest.
    #[inline(always)]
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
    #[inline]
    pub(crate) fn put_as(&self, mfn: Mfn, work: &mut Work) {
        self.put_type(mfn, work);
        self.put_within(mfn, work);
    }

    /// Takes each of these frames of `owner`'s as what stands beside it, as [`Memory::get_as`] does; all of them, or none.
    ///
    /// # Errors
    ///
    /// As [`Memory::get_as`]. What was checked before [`PagingError::Again`] stays checked: the next go has its portion for the rest.
    pub(crate) fn get_all(
        &self,
        frames: impl Iterator<Item = (Mfn, Kind)> + Clone,
        owner: DomId,
        work: &mut Work,
    ) -> Result<(), PagingError> {
        for (n, (mfn, kind)) in frames.clone().enumerate() {
            let got = if work.is_over() {
                Err(PagingError::Again)
            } else {
                self.get_as(mfn, owner, kind, work)
            };
            if let Err(error) = got {
                let held = frames.take(n).filter(|_| !mutant!(LostPutOnRefusedList));
                self.put_all(held, error, work);
                return Err(error);
            }
        }
        Ok(())
    }

    /// Gives back what [`Memory::get_all`] took, because something else was refused for `error`.
    pub(crate) fn put_all(
        &self,
        frames: impl Iterator<Item = (Mfn, Kind)>,
        error: PagingError,
        work: &mut Work,
    ) {
        for (mfn, _) in frames {
            if error == PagingError::Again {
                self.set_aside(mfn);
            } else {
                self.put_as(mfn, work);
            }
        }
    }

    /// Takes a use of a frame that the caller holds a reference to.
    ///
    /// # Errors
    ///
    /// See [`PagingError`]; no use is held then.
    #[inline(always)]
    pub(crate) fn get_type(
        &self,
        mfn: Mfn,
        owner: DomId,
        kind: Kind,
        work: &mut Work,
    ) -> Result<(), PagingError> {
        if self.frames.get_type_at_once(mfn, kind) {
            return Ok(());
        }
        self.begin_use(mfn, owner, kind, work)
    }

    /// [`Memory::get_type`] where more is to be done than to count.
    #[inline(never)]
    fn begin_use(&self, mfn: Mfn, owner: DomId, kind: Kind, work: &mut Work) -> Result<(), PagingError> {
        let got = match self.frames.get_type(mfn, kind) {
            Err(TypeError::Partial(_)) => {
                self.unpick_partial(mfn, None, work)?;
                self.frames.get_type(mfn, kind)?
            }
            got => got?,
        };
        if got.is_retyped && !mutant!(SkippedRetypeFlush) {
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
            usize::from(got.resume_at)
        };
        match self.validate(mfn, owner, kind, first, work) {
            Ok(()) => {
                self.frames.finish_validation(mfn);
                Ok(())
            }
            Err((PagingError::Again, done)) => {
                self.suspend(mfn, done, false);
                Err(PagingError::Again)
            }
            Err((error, _)) if mutant!(LostUnpickOnRefusal) => {
                self.frames.release_type(mfn);
                Err(error)
            }
            Err((error, done)) => {
                let entry = self
                    .machine
                    .frame(mfn)
                    .get(done)
                    .map_or(0, |word| word.load(Ordering::Relaxed));
                // The table that the bad entry leads to may have been refused in its turn, and be left half taken down: this one is
                // the way to it.
                let awaits_last =
                    Level::of(kind).is_some_and(|level| self.is_left_below(entry, owner, level));
                let count = done.saturating_add(usize::from(awaits_last));
                self.unpick(mfn, owner, kind, (count, awaits_last), work);
                Err(error)
            }
        }
    }

    /// Gives a use back; a table that nobody uses any more lets go of all that it refers to, now or when somebody wants the frame.
    #[inline]
    pub(crate) fn put_type(&self, mfn: Mfn, work: &mut Work) {
        if let TypePut::Unpick(kind) = self.frames.put_type(mfn) {
            self.end_use(mfn, kind, work);
        }
    }

    /// The rest of [`Memory::put_type`], if the last use of a validated frame was given back.
    #[inline(never)]
    fn end_use(&self, mfn: Mfn, kind: Kind, work: &mut Work) {
        let owner = self.frames.refs(mfn).map_or(RefWord::NOBODY, RefWord::owner);
        self.unpick(mfn, owner, kind, (ENTRIES, false), work);
    }

    /// Gives back a use and a reference, but leaves the contents checked if it was the last use: to have it as the same again is quick.
    pub(crate) fn set_aside(&self, mfn: Mfn) {
        if let TypePut::Unpick(_) = self.frames.put_type(mfn) {
            self.suspend(mfn, ENTRIES, false);
        }
        self.put(mfn);
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
        let left = self.frames.resume_unpicking(mfn, only)?;
        let owner = self.frames.refs(mfn).ok_or(PagingError::NoFrame)?.owner();
        // The reference that it kept: if it is left again, it takes another, and there is room for one only.
        self.put(mfn);
        let done = left.done().saturating_sub(u16::from(mutant!(UnpickedOneTooFew)));
        self.unpick(
            mfn,
            owner,
            left.kind(),
            (usize::from(done), left.awaits_last()),
            work,
        );
        if self.is_partial(mfn) {
            Err(PagingError::Again)
        } else {
            Ok(())
        }
    }

    /// Goes on taking down a table of `owner`'s that was left half done, if that is still what it is, and of kind `only` if that is given.
    ///
    /// Nobody holds a reference to it any more: it may be somebody else's by now, or something else. On behalf of a table that led to
    /// it, it is helped only while it is one level down. A guest can make it a table of a higher level, which awaits another of
    /// these, and so on: a chain as long as it likes, and there is a stack to follow four.
    ///
    /// # Errors
    ///
    /// As [`Memory::unpick_partial`].
    pub(crate) fn take_down(
        &self,
        mfn: Mfn,
        owner: DomId,
        only: Option<Kind>,
        work: &mut Work,
    ) -> Result<(), PagingError> {
        if self.get(mfn, owner).is_err() {
            return Ok(());
        }
        let taken_down = if self.is_partial(mfn) {
            self.unpick_partial(mfn, only, work)
        } else {
            Ok(())
        };
        self.put(mfn);
        taken_down
    }

    /// Whether a frame has been left half done.
    pub(crate) fn is_partial(&self, mfn: Mfn) -> bool {
        self.frames.typing(mfn).is_some_and(TypeWord::is_partial)
    }

    /// Whether what `entry` in a table of `level` of `owner`'s led to has been left half done as a table of the level below.
    ///
    /// A table may be refused because it leads to somebody else's frame. That is no affair of this owner's, who could wait for
    /// ever.
    fn is_left_below(&self, entry: u64, owner: DomId, level: Level) -> bool {
        level != Level::L1 && is_present(entry) && {
            let below = entry::frame(entry);
            let typing = self.frames.typing(below);
            typing.is_some_and(|word| word.is_partial() && level.child() == Some(word.kind()))
                && self.frames.refs(below).is_some_and(|word| word.owner() == owner)
        }
    }

    /// Leaves a frame that this CPU holds half done: its first `done` entries keep what they refer to, but for the last if what is below
    /// that is awaited. The caller has a reference to it.
    fn suspend(&self, mfn: Mfn, done: usize, awaits_last: bool) {
        let done = u16::try_from(done).unwrap_or(0);
        if done == 0 {
            return self.frames.release_type(mfn);
        }
        self.frames.keep(mfn);
        self.frames.suspend(mfn, done, awaits_last);
    }

    /// Checks the contents, from entry `first` on, of a frame that this CPU holds for validation as `kind`, and takes what they refer to.
    ///
    /// # Errors
    ///
    /// What is wrong, and how many entries, from the start, hold what they refer to.
    fn validate(
        &self,
        mfn: Mfn,
        owner: DomId,
        kind: Kind,
        first: usize,
        work: &mut Work,
    ) -> Result<(), (PagingError, usize)> {
        match Level::of(kind) {
            // Most tables are of level 1: their loop is compiled for itself.
            Some(Level::L1) => self.validate_entries(mfn, owner, Level::L1, first, work),
            Some(level) => self.validate_entries(mfn, owner, level, first, work),
            None if first != 0 => Ok(()),
            None => self.validate_descriptors(mfn, work).map_err(|error| (error, 0)),
        }
    }

    #[inline(always)]
    fn validate_entries(
        &self,
        mfn: Mfn,
        owner: DomId,
        level: Level,
        first: usize,
        work: &mut Work,
    ) -> Result<(), (PagingError, usize)> {
        let frame = self.machine.frame(mfn);
        let table: &FrameWords = &frame;
        let mut index = first;
        while index < ENTRIES {
            // At least one entry in every go, so that it gets further.
            if work.is_over() && index != first {
                return Err((PagingError::Again, index));
            }
            let empty = empty_from(table, level, index);
            if empty != 0 {
                work.spend(worth_of_empty(empty));
                index = index.wrapping_add(empty);
                continue;
            }
            let Some(word) = table.get(index) else { break };
            work.spend(1);
            if level == Level::L4 && layout::HYPERVISOR_L4_SLOTS.contains(&index) {
                if !mutant!(GuestsOwnSlots) {
                    word.store(self.machine.hypervisor_slot(index), Ordering::Relaxed);
                }
            } else {
                let adjusted = self
                    .adjust(mfn, level, word.load(Ordering::Relaxed), owner, work)
                    .map_err(|error| (error, index))?;
                self.get_target_of(mfn, adjusted, owner, level, work)
                    .map_err(|error| (error, index))?;
                // Nobody else writes here: the frame is typed as a table, and only validated ones are live.
                word.store(adjusted, Ordering::Relaxed);
            }
            index = index.wrapping_add(1);
        }
        Ok(())
    }

    /// Checks every descriptor of a frame that this CPU holds for validation.
    fn validate_descriptors(&self, mfn: Mfn, work: &mut Work) -> Result<(), PagingError> {
        work.spend(DESCRIPTORS_WORTH);
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
        kind: Kind,
        (count, awaits_last): (usize, bool),
        work: &mut Work,
    ) {
        let left = match Level::of(kind) {
            Some(Level::L1) => self.unpick_entries(mfn, owner, Level::L1, (count, awaits_last), work),
            Some(level) => self.unpick_entries(mfn, owner, level, (count, awaits_last), work),
            // Descriptors refer to nothing.
            None => None,
        };
        match left {
            Some((done, awaits_last)) => {
                self.suspend(mfn, done, awaits_last);
                work.leave(mfn);
            }
            None => self.frames.release_type(mfn),
        }
    }

    /// As [`Memory::unpick`]; how many entries are left, if any, and whether the last of them awaits what is below.
    #[inline(always)]
    fn unpick_entries(
        &self,
        mfn: Mfn,
        owner: DomId,
        level: Level,
        (count, awaits_last): (usize, bool),
        work: &mut Work,
    ) -> Option<(usize, bool)> {
        let frame = self.machine.frame(mfn);
        let table: &FrameWords = &frame;
        let mut left = count;
        while left > 0 {
            let is_first = left == count;
            if work.is_over() && !is_first {
                return Some((left, false));
            }
            let empty = empty_before(table, left);
            if empty != 0 {
                work.spend(worth_of_empty(empty));
                left = left.saturating_sub(empty);
                continue;
            }
            work.spend(1);
            let through = left;
            left = left.saturating_sub(1);
            let Some(word) = table.get(left) else {
                continue;
            };
            if level == Level::L4 && layout::HYPERVISOR_L4_SLOTS.contains(&left) {
                continue;
            }
            let entry = word.load(Ordering::Relaxed);
            if is_first && awaits_last {
                let _ = self.take_down(entry::frame(entry), owner, level.child(), work);
            } else {
                self.put_target(entry, level, work);
            }
            if self.is_left_below(entry, owner, level) {
                return Some((through, true));
            }
        }
        None
    }

    /// Takes what `entry` (adjusted) in a table of `level` refers to.
    #[inline(always)]
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
    #[inline]
    pub(super) fn put_target(&self, entry: u64, level: Level, work: &mut Work) {
        if !is_present(entry) {
            return;
        }
        let mfn = entry::frame(entry);
        if level == Level::L1 && self.leads_to_device(mfn) {
            return;
        }
        if level != Level::L1 || is_writable(entry) {
            self.put_as(mfn, work);
        } else {
            self.put_within(mfn, work);
        }
    }
}
