//! Entries of level 1 that lead to frames of devices: see [`crate::devices`] for whose these are.
//!
//! Only a domain's own tables lead to its devices: no grant lends them, and the control domain does not map them in its own. That such a
//! frame is cached in one way or another is its owner's affair, and of RAM it is not: a guest could make others see old contents.

use super::entry::{self, Level, is_present};
use super::{PagingError, Work};
use crate::frames::Mfn;
use crate::frames::words::RefWord;
use crate::machine::Machine;
use crate::memory::Memory;
use bulkhead_abi::{DomId, pte};

/// What a look at all that is assigned of devices is worth, in entries looked at.
const LOOK_WORTH: u32 = 16;

impl<M: Machine> Memory<M> {
    /// As [`entry::adjust`], for an entry of `table` that may lead to frames of `owner`'s: how a device's frame is cached may stand in it.
    #[inline(always)]
    pub(super) fn adjust(
        &self,
        table: Mfn,
        level: Level,
        entry: u64,
        owner: DomId,
        work: &mut Work,
    ) -> Result<u64, PagingError> {
        entry::adjust(level, entry)
            .or_else(|error| self.adjust_cached((table, level, entry), owner, error, work))
    }

    #[cold]
    fn adjust_cached(
        &self,
        (table, level, entry): (Mfn, Level, u64),
        owner: DomId,
        error: PagingError,
        work: &mut Work,
    ) -> Result<u64, PagingError> {
        if !mutant!(RamCachedAtWill) {
            self.check_device((table, level, entry), owner, error, work)?;
        }
        let caching = entry & pte::CACHE_MASK;
        entry::adjust(level, entry & !pte::CACHE_MASK).map(|adjusted| adjusted | caching)
    }

    /// As [`Memory::get_target`], for an entry of `table`; to a frame of a device nothing is taken.
    #[inline(always)]
    pub(super) fn get_target_of(
        &self,
        table: Mfn,
        entry: u64,
        owner: DomId,
        level: Level,
        work: &mut Work,
    ) -> Result<(), PagingError> {
        self.get_target(entry, owner, level, work)
            .or_else(|error| self.check_device((table, level, entry), owner, error, work))
    }

    /// Whether an entry that would be refused for `error` leads to a frame of a device, and may.
    #[cold]
    fn check_device(
        &self,
        (table, level, entry): (Mfn, Level, u64),
        owner: DomId,
        error: PagingError,
        work: &mut Work,
    ) -> Result<(), PagingError> {
        work.spend(LOOK_WORTH);
        let may_be = match error {
            PagingError::Foreign | PagingError::NoFrame | PagingError::Flags(_) => level == Level::L1,
            PagingError::Descriptor(_)
            | PagingError::NotOwnTable
            | PagingError::Type(_)
            | PagingError::ForeignTable
            | PagingError::HypervisorSlot
            | PagingError::NotMapped
            | PagingError::Contended
            | PagingError::Again => false,
        };
        let is_own_table = self.frames.refs(table).map(RefWord::owner) == Some(owner);
        if may_be
            && is_present(entry)
            && (is_own_table || mutant!(DevicesLent))
            && self.owns_device(owner, entry::frame(entry).raw())
        {
            Ok(())
        } else {
            Err(error)
        }
    }

    /// Whether a present entry of level 1 in a validated table leads to a frame of a device: it leads there, or to a frame that it
    /// holds.
    #[inline]
    pub(super) fn leads_to_device(&self, frame: Mfn) -> bool {
        self.frames.refs(frame).is_none_or(|word| word.count() == 0) && !mutant!(DevicesCounted)
    }
}
