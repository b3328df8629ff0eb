//! This domain's grant table: frames that it shares with the hypervisor, an entry a word.
//!
//! Numbers of entries are given out here. The table grows when they are used up, by a frame, up to what the hypervisor allows.

use alloc::vec::Vec;
use core::sync::atomic::AtomicU64;

use bulkhead_abi::grant::{ENTRIES_PER_FRAME, GrantStatus, NR_RESERVED_ENTRIES};
use spin::Mutex;

use super::{GrantError, GrantRef};
use crate::{
    hypercall,
    memory::{Mfn, Rights, window::WindowPage},
};

/// The entries of one frame of the table.
type Frame = &'static [AtomicU64; ENTRIES_PER_FRAME];

/// What is known of the table.
#[derive(Debug)]
struct Table {
    frames: Vec<Frame>,
    free: FreeList,
}

static TABLE: Mutex<Table> = Mutex::new(Table {
    frames: Vec::new(),
    free: FreeList::new(),
});

/// Takes an entry that grants nothing.
pub(super) fn take() -> Result<(GrantRef, &'static AtomicU64), GrantError> {
    let mut table = TABLE.lock();
    let number = match table.free.take() {
        Some(number) => number,
        None => {
            table.grow()?;
            table.free.take().ok_or(GrantError::TableFull)?
        }
    };
    let entry = table.entry(number).ok_or(GrantError::TableFull)?;
    Ok((GrantRef::new(number), entry))
}

/// Gives an entry back, which grants nothing any more.
pub(super) fn release(reference: GrantRef) {
    TABLE.lock().free.release(reference.raw());
}

impl Table {
    fn entry(&self, number: u32) -> Option<&'static AtomicU64> {
        let number = number as usize;
        let frame: Frame = self.frames.get(number / ENTRIES_PER_FRAME)?;
        frame.get(number % ENTRIES_PER_FRAME)
    }

    /// Makes another frame's entries known.
    fn grow(&mut self) -> Result<(), GrantError> {
        let wanted = self.frames.len().saturating_add(1);
        if wanted > hypercall::grant::table_limit()? as usize {
            return Err(GrantError::TableFull);
        }
        // The call tells all numbers from the first frame on.
        let mut numbers = alloc::vec![0; wanted];
        match hypercall::grant::setup_table(&mut numbers)? {
            Some(GrantStatus::Okay) => {}
            Some(refusal) => return Err(GrantError::Refused(refusal)),
            None => return Err(GrantError::TableFull),
        }
        let mfn = numbers.last().copied().and_then(Mfn::new);
        let mfn = mfn.ok_or(GrantError::TableFull)?;
        let frame = map(mfn)?;
        self.frames.push(frame);
        let first = self.free.end;
        let end = u32::try_from(wanted.saturating_mul(ENTRIES_PER_FRAME)).unwrap_or(u32::MAX);
        // The first few are the toolstack's.
        self.free.extend(first.max(NR_RESERVED_ENTRIES), end);
        Ok(())
    }
}

/// Maps a frame of the table, for good.
fn map(mfn: Mfn) -> Result<Frame, GrantError> {
    let page = WindowPage::take().ok_or(GrantError::NoAddress)?;
    // SAFETY: nothing is mapped at the page, which is ours. The frame is none of the domain's memory, but shared with the hypervisor.
    let mapped = unsafe { hypercall::update_va_mapping(page.address(), Rights::Data.entry(mfn.maddr())) };
    if let Err(failure) = mapped {
        page.release();
        return Err(failure.into());
    }
    let entries = core::ptr::with_exposed_provenance::<[AtomicU64; ENTRIES_PER_FRAME]>(page.address());
    // SAFETY: the page is mapped for good, page-aligned, as large as the array, and only ever accessed atomically: by us through this
    // reference, by the hypervisor by compare-exchange. (It is not given back.)
    Ok(unsafe { &*entries })
}

/// The numbers that are not in use.
#[derive(Debug)]
struct FreeList {
    /// Given back, used again before others.
    returned: Vec<u32>,
    /// The lowest that was never taken.
    next: u32,
    /// One past the highest.
    end: u32,
}

impl FreeList {
    const fn new() -> Self {
        Self {
            returned: Vec::new(),
            next: 0,
            end: 0,
        }
    }

    /// Adds numbers from `first` to before `end`, all above those that there are; those that were never taken must be used up.
    fn extend(&mut self, first: u32, end: u32) {
        self.next = first;
        self.end = end;
        // Every number may be given back: no allocation then.
        self.returned.reserve(end as usize);
    }

    fn take(&mut self) -> Option<u32> {
        if let Some(number) = self.returned.pop() {
            return Some(number);
        }
        let number = self.next;
        (number < self.end).then(|| {
            self.next = number.saturating_add(1);
            number
        })
    }

    fn release(&mut self, number: u32) {
        self.returned.push(number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_number_is_given_out_once_until_it_is_given_back() {
        let mut free = FreeList::new();
        assert_eq!(free.take(), None);
        free.extend(8, 12);
        let taken: Vec<_> = core::iter::from_fn(|| free.take()).collect();
        assert_eq!(taken, [8, 9, 10, 11]);
        free.release(9);
        free.extend(12, 14);
        let taken: Vec<_> = core::iter::from_fn(|| free.take()).collect();
        assert_eq!(taken, [9, 12, 13]);
    }
}
