//! Records in a guest's memory that the hypervisor keeps up to date.
//!
//! A guest names such a record by an address, once. What counts is where that led at the time: the frames are held from then on as
//! writable memory, so that the record can be written whatever tables are loaded, and can never be a page table.

use crate::frames::{Kind, Mfn};
use crate::machine::Machine;
use crate::memory::Memory;
use crate::paging::{PagingError, Work, entry};
use crate::sync::Ordering;
use bulkhead_abi::layout::{PAGE_OFFSET_MASK, PAGE_SIZE};
use bulkhead_abi::{DomId, Errno};

/// Words in a frame.
const FRAME_WORDS: usize = 512;

/// Where a record of `N` words lies: in one frame, or in two. The frames are held.
#[derive(Debug, PartialEq, Eq)]
pub struct Area<const N: usize> {
    /// The record's first word in its first frame.
    word: usize,
    first: Mfn,
    second: Option<Mfn>,
}

impl<const N: usize> Area<N> {
    const SIZE: u64 = (N * 8) as u64;

    /// The frames, which are held as writable memory.
    pub fn frames(&self) -> impl Iterator<Item = Mfn> {
        [Some(self.first), self.second].into_iter().flatten()
    }

    /// Writes word `n` of the record.
    pub fn store<M: Machine>(&self, memory: &Memory<M>, n: usize, value: u64, ordering: Ordering) {
        let at = self.word.saturating_add(n);
        let (frame, at) = match at.checked_sub(FRAME_WORDS) {
            None => (self.first, at),
            Some(at) => (self.second.unwrap_or(self.first), at),
        };
        if let Some(word) = memory.machine().frame(frame).get(at) {
            word.store(value, ordering);
        }
    }

    /// Finds the record at `va` in the address space of `root`, which the caller holds, and holds it.
    ///
    /// # Errors
    ///
    /// [`Errno::Inval`] if `va` is no multiple of 8; [`Errno::Fault`] if the guest could not write there.
    pub(crate) fn hold<M: Machine>(
        memory: &Memory<M>,
        owner: DomId,
        root: Mfn,
        va: u64,
        work: &mut Work,
    ) -> Result<Self, Errno> {
        const { assert!(N > 0 && N <= FRAME_WORDS) };
        if va & 7 != 0 {
            return Err(Errno::Inval);
        }
        let offset = va & PAGE_OFFSET_MASK;
        let first = hold_page(memory, owner, root, va, work)?;
        let second = if offset.saturating_add(Self::SIZE) > PAGE_SIZE as u64 {
            let next_page = (va | PAGE_OFFSET_MASK).wrapping_add(1);
            let held = hold_page(memory, owner, root, next_page, work);
            Some(held.inspect_err(|_| memory.put_as(first, work))?)
        } else {
            None
        };
        Ok(Self {
            word: usize::try_from(offset >> 3).unwrap_or(0),
            first,
            second,
        })
    }

    /// Lets go of the frames.
    pub(crate) fn release<M: Machine>(self, memory: &Memory<M>, work: &mut Work) {
        for mfn in self.frames() {
            memory.put_as(mfn, work);
        }
    }
}

/// Holds the frame that the guest has mapped writable at `va`.
fn hold_page<M: Machine>(
    memory: &Memory<M>,
    owner: DomId,
    root: Mfn,
    va: u64,
    work: &mut Work,
) -> Result<Mfn, Errno> {
    let (table, index) = memory.walk(root, va).map_err(|_| Errno::Fault)?;
    let entry = memory
        .machine()
        .frame(table)
        .get(index)
        .map_or(0, |word| word.load(Ordering::Relaxed));
    if !entry::is_present(entry) || !entry::is_writable(entry) {
        return Err(Errno::Fault);
    }
    // The entry may change as we look. Whatever frame this is, it is the guest's own and no table from here on.
    let mfn = entry::frame(entry);
    memory.get_as(mfn, owner, Kind::Writable, work).map_err(|error| {
        if error == PagingError::Again {
            Errno::Restart
        } else {
            Errno::Fault
        }
    })?;
    Ok(mfn)
}
