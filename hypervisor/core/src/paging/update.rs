//! Changing one entry of a live page table.

use super::entry::{self, Level, is_present};
use super::{PagingError, Work};
use crate::frames::words::TypeWord;
use crate::frames::{Kind, Mfn};
use crate::machine::{Flush, Machine};
use crate::memory::Memory;
use bulkhead_abi::DomId;
use bulkhead_abi::layout::{self, PAGE_SIZE};
use bulkhead_abi::{Errno, pte};
use core::sync::atomic::Ordering;

/// Whether the accessed and dirty bits that the CPU set in the old entry are carried over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum AccessedDirty {
    /// The new entry says what they are.
    Replace,
    /// What was set stays set.
    Preserve,
}

impl AccessedDirty {
    /// What `new` becomes where `old` stood.
    const fn carry(self, old: u64, new: u64) -> u64 {
        match self {
            Self::Preserve if is_present(new) => new | old & (pte::ACCESSED | pte::DIRTY),
            Self::Replace | Self::Preserve => new,
        }
    }
}

/// Whose frames a change of an entry is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Owners {
    /// Whose the table is.
    pub(crate) table: DomId,
    /// Whose frames the entry may lead to.
    pub(crate) pages: DomId,
}

impl Owners {
    /// A domain that changes tables of its own, which lead to its own frames.
    pub(crate) const fn only(domain: DomId) -> Self {
        Self {
            table: domain,
            pages: domain,
        }
    }

    /// Whether an entry at `level` may lead from the one's table to the other's frames: tables are never shared.
    fn check(self, level: Level) -> Result<(), PagingError> {
        let is_same = self.table == self.pages;
        if is_same || level == Level::L1 || mutant!(ForeignTables) {
            Ok(())
        } else {
            Err(PagingError::ForeignTable)
        }
    }
}

/// What writing a whole page is worth, in entries.
const PAGE_WORTH: u32 = 32;

/// A place in a page table that the caller holds.
#[derive(Clone, Copy, Debug)]
pub(super) struct Slot {
    pub(super) table: Mfn,
    pub(super) level: Level,
    pub(super) index: usize,
}

/// How often an entry may change under us before we give up: the guest's other vCPUs, or the accessed bit.
pub(super) const TRIES: usize = 16;

impl<M: Machine> Memory<M> {
    /// Writes entry `index` of the page table `table`. Where its frame is not that of whose frames the entry may lead to, it must be of
    /// level 1.
    ///
    /// # Errors
    ///
    /// See [`PagingError`]; nothing has changed then.
    pub(crate) fn update_entry(
        &self,
        owners: Owners,
        table: Mfn,
        index: usize,
        make: impl Fn(u64) -> u64,
        work: &mut Work,
    ) -> Result<(), PagingError> {
        self.get(table, owners.table)
            .map_err(|_| PagingError::NotOwnTable)?;
        // The use keeps the frame a validated table while we write.
        let result = self
            .frames
            .get_table(table)
            .map_err(PagingError::from)
            .and_then(|kind| {
                let updated = Level::of(kind)
                    .ok_or(PagingError::NotOwnTable)
                    .and_then(|level| owners.check(level).map(|()| level))
                    .and_then(|level| {
                        self.update_held(owners.pages, Slot { table, level, index }, make, work)
                    });
                self.put_type(table, work);
                updated
            });
        self.put(table);
        result.map(|_| ())
    }

    /// Changes entry `index` of `table`, which must be a level 1 table, by `make`, which may be asked more than once. Returns what stood
    /// there.
    ///
    /// # Errors
    ///
    /// As [`Memory::update_entry`]; [`PagingError::NotMapped`] if it is no level 1 table.
    pub(crate) fn change_entry(
        &self,
        owners: Owners,
        table: Mfn,
        index: usize,
        make: impl Fn(u64) -> u64,
        work: &mut Work,
    ) -> Result<u64, PagingError> {
        self.get_as_table(owners.table, table, Kind::L1, work)?;
        let level = Level::L1;
        let changed = self.update_held(owners.pages, Slot { table, level, index }, make, work);
        self.put_as(table, work);
        changed
    }

    /// Writes word `index` of a frame on its owner's behalf: a page-table entry if it is a table, or just a word if the frame could be
    /// written by its owner anyway.
    ///
    /// # Errors
    ///
    /// As [`Memory::update_entry`].
    pub(crate) fn write_word(
        &self,
        owners: Owners,
        mfn: Mfn,
        index: usize,
        value: u64,
        accessed_dirty: AccessedDirty,
        work: &mut Work,
    ) -> Result<(), Errno> {
        let kind = self.frames.typing(mfn).map(TypeWord::in_use_as);
        if kind.is_some_and(Kind::is_table) {
            return Ok(self.update_entry(
                owners,
                mfn,
                index,
                |old| accessed_dirty.carry(old, value),
                work,
            )?);
        }
        self.get_as(mfn, owners.table, Kind::Writable, work)
            .map_err(PagingError::of_operand)?;
        if let Some(word) = self.machine.frame(mfn).get(index) {
            word.store(value, Ordering::Relaxed);
        }
        self.put_as(mfn, work);
        Ok(())
    }

    /// Changes an entry of a table that the caller holds, by `make`; `owner` is whose frames it may lead to. Returns what stood there.
    pub(super) fn update_held(
        &self,
        owner: DomId,
        slot: Slot,
        make: impl Fn(u64) -> u64,
        work: &mut Work,
    ) -> Result<u64, PagingError> {
        let Slot { table, level, index } = slot;
        if level == Level::L4 && layout::HYPERVISOR_L4_SLOTS.contains(&index) && !mutant!(WritableSlots) {
            return Err(PagingError::HypervisorSlot);
        }
        let words = self.machine.frame(table);
        let word = words.get(index).ok_or(PagingError::NotMapped)?;
        for _ in 0..TRIES {
            let old = word.load(Ordering::Relaxed);
            let next = self.adjust(table, level, make(old), owner, work)?;
            let is_harmless = entry::is_harmless_change(old, next);
            if !is_harmless {
                self.get_target_of(table, next, owner, level, work)?;
            }
            // The CPU may set bits in it, and another vCPU may write it: only what we looked at is replaced.
            if word
                .compare_exchange(old, next, Ordering::AcqRel, Ordering::Relaxed)
                .is_err()
            {
                if !is_harmless {
                    self.put_target(next, level, work);
                }
                continue;
            }
            if level != Level::L1 && is_present(old) && old != next && !mutant!(SkippedUpperFlush) {
                // CPUs cache the upper levels by themselves; the guest is not asked to know that.
                self.machine.flush(Flush::All);
            }
            let old = if mutant!(OldReadAgain) {
                word.load(Ordering::Relaxed)
            } else {
                old
            };
            if !is_harmless && !mutant!(LostPutOnUpdate) {
                self.put_target(old, level, work);
            }
            return Ok(old);
        }
        Err(PagingError::Contended)
    }

    /// Finds the level 1 table and the index in it through which `va` goes in the address space of `root`.
    ///
    /// The caller holds `root` as a level 4 table. What is returned is an allegation by the time that it
    /// is used: another vCPU may have changed the tables.
    pub(crate) fn walk(&self, root: Mfn, va: u64) -> Result<(Mfn, usize), PagingError> {
        if layout::is_hypervisor(va) || !layout::is_canonical(va) {
            return Err(PagingError::NotMapped);
        }
        let mut table = root;
        for level in [Level::L4, Level::L3, Level::L2] {
            let words = self.machine.frame(table);
            let entry = words
                .get(level.index(va))
                .map_or(0, |word| word.load(Ordering::Relaxed));
            let next = entry::frame(entry);
            // A table could be freed, and its frame reused for anything, while we walk it: whatever number stands there then, only
            // RAM that somebody owns is looked at.
            if !is_present(entry) || self.frames.refs(next).is_none_or(|word| word.count() == 0) {
                return Err(PagingError::NotMapped);
            }
            table = next;
        }
        Ok((table, Level::L1.index(va)))
    }

    /// The frame that is mapped at `va` in the address space of `root`, an allegation as what [`Memory::walk`] says.
    ///
    /// # Errors
    ///
    /// [`PagingError::NotMapped`] if there is none.
    pub(crate) fn frame_at(&self, root: Mfn, va: u64) -> Result<Mfn, PagingError> {
        let (table, index) = self.walk(root, va)?;
        let words = self.machine.frame(table);
        let entry = words.get(index).map_or(0, |word| word.load(Ordering::Relaxed));
        if is_present(entry) {
            Ok(entry::frame(entry))
        } else {
            Err(PagingError::NotMapped)
        }
    }

    /// Writes the level 1 entry of `va` in the address space of `root`.
    ///
    /// # Errors
    ///
    /// [`PagingError::NotMapped`] if there is no level 1 table for `va`; else as [`Memory::update_entry`].
    pub(crate) fn update_va(
        &self,
        owners: Owners,
        root: Mfn,
        va: u64,
        new: u64,
        work: &mut Work,
    ) -> Result<(), PagingError> {
        let (table, index) = self.walk(root, va)?;
        self.change_entry(owners, table, index, |_| new, work).map(|_| ())
    }

    /// Takes a reference to and a use of a frame that is a validated table of `kind` already.
    pub(super) fn get_as_table(
        &self,
        owner: DomId,
        table: Mfn,
        kind: Kind,
        work: &mut Work,
    ) -> Result<(), PagingError> {
        self.get(table, owner).map_err(|_| PagingError::NotOwnTable)?;
        match self.frames.get_table(table) {
            Ok(found) if found == kind => Ok(()),
            Ok(_) => {
                self.put_as(table, work);
                Err(PagingError::NotMapped)
            }
            Err(error) => {
                self.put(table);
                Err(error.into())
            }
        }
    }

    /// Pins `mfn` as a table of `kind`: it stays one until it is unpinned, whether or not anything refers to it.
    ///
    /// # Errors
    ///
    /// As [`Memory::get_as`]; a frame that is pinned already is refused.
    pub(crate) fn pin(&self, owner: DomId, mfn: Mfn, kind: Kind, work: &mut Work) -> Result<(), PagingError> {
        self.get_own(mfn, owner, Some(kind), work)?;
        self.frames.pin(mfn).map_err(|error| {
            self.put_as(mfn, work);
            error.into()
        })
    }

    /// Takes the pin off.
    ///
    /// # Errors
    ///
    /// [`PagingError::NotOwnTable`] if the frame is not the owner's, [`PagingError::Type`] if it is not pinned.
    pub(crate) fn unpin(&self, owner: DomId, mfn: Mfn, work: &mut Work) -> Result<(), PagingError> {
        self.get(mfn, owner).map_err(|_| PagingError::NotOwnTable)?;
        let unpinned = self.frames.unpin(mfn);
        if unpinned.is_ok() {
            self.put_as(mfn, work);
        }
        self.put(mfn);
        Ok(unpinned?)
    }

    /// Fills a frame of `owner`'s with zeros, on its behalf.
    ///
    /// # Errors
    ///
    /// As [`Memory::get_as`]: it must be one that its owner could write.
    pub(crate) fn clear_page(&self, owner: DomId, mfn: Mfn, work: &mut Work) -> Result<(), PagingError> {
        self.get_own(mfn, owner, Some(Kind::Writable), work)?;
        self.machine.zero_frame(mfn);
        work.spend(PAGE_WORTH);
        self.put_as(mfn, work);
        Ok(())
    }

    /// Copies `from` to `to`, both frames of `owner`'s, on its behalf.
    ///
    /// # Errors
    ///
    /// As [`Memory::get_as`]: `to` must be one that its owner could write.
    pub(crate) fn copy_page(
        &self,
        owner: DomId,
        to: Mfn,
        from: Mfn,
        work: &mut Work,
    ) -> Result<(), PagingError> {
        self.get_own(from, owner, None, work)?;
        let as_what = Some(Kind::Writable).filter(|_| !mutant!(CopyToAnything));
        let copied = self.get_own(to, owner, as_what, work);
        if copied.is_ok() {
            self.machine.copy_between_frames((to, 0), (from, 0), PAGE_SIZE);
            work.spend(PAGE_WORTH);
            if as_what.is_some() {
                self.put_as(to, work);
            } else {
                self.put(to);
            }
        }
        if !mutant!(LostPutOnCopy) {
            self.put(from);
        }
        copied
    }

    /// Takes a reference to, and if wanted a use of, a frame that an operation names as the caller's own.
    fn get_own(
        &self,
        mfn: Mfn,
        owner: DomId,
        kind: Option<Kind>,
        work: &mut Work,
    ) -> Result<(), PagingError> {
        let got = match kind {
            Some(kind) => self.get_as(mfn, owner, kind, work),
            None => self.get(mfn, owner).map_err(PagingError::from),
        };
        got.map_err(|error| {
            if error == PagingError::Foreign {
                PagingError::NotOwnTable
            } else {
                error
            }
        })
    }
}
