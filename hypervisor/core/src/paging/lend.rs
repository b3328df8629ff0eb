//! Entries of a domain's level 1 tables that lead to another's frames.
//!
//! They are made for grants, and hold their frames as all entries do; whoever writes over one gives that back as usual. No other way
//! leads to such an entry: a guest's own update may name its own frames only, so that one that was overwritten, moved to another table or
//! copied cannot be made again without the grant.

use super::entry::{self, Level, is_present, is_writable};
use super::update::{Slot, TRIES};
use super::{PagingError, Work};
use crate::frames::{Kind, Mfn};
use crate::machine::Machine;
use crate::memory::Memory;
use bulkhead_abi::{DomId, pte};
use core::sync::atomic::Ordering;

impl<M: Machine> Memory<M> {
    /// Writes `entry` over entry `index` of `table`, which must be a level 1 table of `owner`'s, on behalf of `lender`, to whose frames it may
    /// lead.
    ///
    /// # Errors
    ///
    /// As [`Memory::change_entry`].
    pub(crate) fn lend(
        &self,
        owner: DomId,
        (table, index): (Mfn, usize),
        entry: u64,
        lender: DomId,
        work: &mut Work,
    ) -> Result<(), PagingError> {
        self.get_as_table(owner, table, Kind::L1, work)?;
        let level = Level::L1;
        let lent = self.update_held(lender, Slot { table, level, index }, |_| entry, work);
        self.put_as(table, work);
        lent.map(|_| ())
    }

    /// Clears entry `index` of `table`, which must be a level 1 table of `owner`'s, if it leads to `frame` with the right to write that is
    /// in `flags`. With `moved`, what stands there goes from its place into the cleared one.
    ///
    /// # Errors
    ///
    /// [`PagingError::NotMapped`] if it leads elsewhere, or `moved` is nowhere; else as [`Memory::change_entry`]. Nothing has changed then.
    pub(crate) fn take_back(
        &self,
        owner: DomId,
        slot: (Mfn, usize),
        (frame, flags): (Mfn, u64),
        moved: Option<(Mfn, usize)>,
        work: &mut Work,
    ) -> Result<(), PagingError> {
        self.get_as_table(owner, slot.0, Kind::L1, work)?;
        let leads_there = |entry: u64| {
            let is_same = is_present(entry) && entry::frame(entry) == frame || mutant!(UnmappedUnseen);
            let is_as_wide = is_writable(entry) == (flags & pte::WRITABLE != 0);
            is_same && (is_as_wide || mutant!(UnmappedByOtherRights))
        };
        let taken = match moved {
            None => self.swap(slot, leads_there, 0),
            Some(from) => self.take_back_for(owner, slot, leads_there, from, work),
        };
        if let Ok(old) = taken {
            self.put_target(old, Level::L1, work);
        }
        self.put_as(slot.0, work);
        taken.map(|_| ())
    }

    /// Moves the entry at `from` to `slot`, which the caller holds, and returns what stood there.
    fn take_back_for(
        &self,
        owner: DomId,
        slot: (Mfn, usize),
        leads_there: impl Fn(u64) -> bool,
        from: (Mfn, usize),
        work: &mut Work,
    ) -> Result<u64, PagingError> {
        self.get_as_table(owner, from.0, Kind::L1, work)?;
        // On its way it stands nowhere, and what it refers to is held by this CPU.
        let taken = self.swap(from, |_| true, 0).and_then(|on_its_way| {
            self.swap(slot, leads_there, on_its_way).inspect_err(|_| {
                if self.swap(from, |entry| entry == 0, on_its_way).is_err() {
                    // Another vCPU has put something else there meanwhile: as if it had done so a moment later.
                    self.put_target(on_its_way, Level::L1, work);
                }
            })
        });
        self.put_as(from.0, work);
        taken
    }

    /// Writes `new` over the entry at `slot` if that is `expected`, and returns it. What either refers to is the caller's business.
    fn swap(
        &self,
        (table, index): (Mfn, usize),
        expected: impl Fn(u64) -> bool,
        new: u64,
    ) -> Result<u64, PagingError> {
        let words = self.machine.frame(table);
        let word = words.get(index).ok_or(PagingError::NotMapped)?;
        for _ in 0..TRIES {
            let old = word.load(Ordering::Relaxed);
            if !expected(old) {
                return Err(PagingError::NotMapped);
            }
            // The CPU may set bits in it, and another vCPU may write it: only what we looked at is replaced.
            if word
                .compare_exchange(old, new, Ordering::AcqRel, Ordering::Relaxed)
                .is_ok()
            {
                return Ok(old);
            }
        }
        Err(PagingError::Contended)
    }
}
