//! Copies to and from pages that other domains granted: [`CopyBatch`] for memory of Rust's, [`copy_each`] for all other.

use core::marker::PhantomData;

use bulkhead_abi::{
    DomId, Record,
    grant::{CopyEnd, GNTCOPY_DEST_GREF, GNTCOPY_SOURCE_GREF, GrantCopy},
    layout::PAGE_SIZE,
};
use heapless::Vec;

use super::{BATCH, GrantError, GrantRef, GrantStatus};
use crate::{
    device::{DeviceMemory, FlipPool},
    hypercall,
    memory::{self, Pfn},
};

/// A place in a page that another domain granted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Remote {
    /// Who granted it.
    pub domain: DomId,
    /// The entry of its table.
    pub reference: GrantRef,
    /// Bytes into the page.
    pub offset: u16,
}

/// Why a copy is not taken into a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CopyError {
    /// The batch is full: run it, and begin another.
    Full,
    /// The bytes leave the page that was granted.
    OutOfPage,
    /// Our side is no memory of this domain's.
    NotOurs,
}

/// Copies that one hypercall makes, and the memory of this domain that they are from or for: it is borrowed until they are made.
///
/// A copy is one element of the call, or two where our side crosses the end of a page.
#[derive(Debug, Default)]
pub struct CopyBatch<'a> {
    records: Vec<GrantCopy, BATCH>,
    /// Where each copy's elements end.
    ends: Vec<u8, BATCH>,
    memory: PhantomData<&'a mut [u8]>,
}

/// Our side and theirs.
enum Direction {
    From,
    To,
}

impl<'a> CopyBatch<'a> {
    /// So many copies there is always room for, wherever our side lies.
    pub const SURE: usize = BATCH / 2;

    /// How many copies it has.
    #[must_use]
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// Whether it has none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// None yet.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            records: Vec::new(),
            ends: Vec::new(),
            memory: PhantomData,
        }
    }

    /// Adds a copy of as many bytes as `into` has, from another domain's page.
    ///
    /// # Errors
    ///
    /// See [`CopyError`]; nothing is added then.
    pub fn copy_from(&mut self, from: Remote, into: &'a mut [u8]) -> Result<(), CopyError> {
        let address = into.as_mut_ptr().expose_provenance();
        self.push(&Direction::From, from, address, into.len())
    }

    /// Adds a copy of `from` to another domain's page.
    ///
    /// # Errors
    ///
    /// See [`CopyError`]; nothing is added then.
    pub fn copy_to(&mut self, from: &'a [u8], to: Remote) -> Result<(), CopyError> {
        let address = from.as_ptr().expose_provenance();
        self.push(&Direction::To, to, address, from.len())
    }

    fn push(
        &mut self,
        direction: &Direction,
        remote: Remote,
        address: usize,
        len: usize,
    ) -> Result<(), CopyError> {
        let before = self.records.len();
        let pieces = pieces(usize::from(remote.offset), address, len).ok_or(CopyError::OutOfPage)?;
        for Piece { theirs, ours, len } in pieces.into_iter().filter(|piece| piece.len > 0) {
            let added = local(ours).ok_or(CopyError::NotOurs).and_then(|own| {
                let other = CopyEnd {
                    frame: remote.reference.raw().into(),
                    domid: remote.domain,
                    offset: theirs,
                };
                let (source, dest, flags) = match direction {
                    Direction::From => (other, own, GNTCOPY_SOURCE_GREF),
                    Direction::To => (own, other, GNTCOPY_DEST_GREF),
                };
                let record = GrantCopy {
                    source,
                    dest,
                    len,
                    flags,
                    ..GrantCopy::ZERO
                };
                self.records.push(record).map_err(|_| CopyError::Full)
            });
            if let Err(error) = added {
                self.records.truncate(before);
                return Err(error);
            }
        }
        let end = u8::try_from(self.records.len()).unwrap_or(u8::MAX);
        self.ends.push(end).map_err(|_| {
            self.records.truncate(before);
            CopyError::Full
        })
    }

    /// Makes the copies, and calls `take` with the outcome of each, in the order in which they were added. Of one that failed any bytes
    /// may have been copied. The batch is empty then.
    pub fn run(&mut self, mut take: impl FnMut(Result<(), GrantError>)) {
        // SAFETY: our side of each is borrowed for as long as this batch lives: exclusively if it is written.
        let called = unsafe { hypercall::grant::copy(&mut self.records) }.map_err(GrantError::from);
        let mut first = 0;
        for &end in &self.ends {
            let elements = self.records.get(usize::from(first)..usize::from(end));
            let mut outcomes = elements.unwrap_or_default().iter();
            take(called.and_then(|()| outcomes.try_for_each(|element| GrantError::check(element.status))));
            first = end;
        }
        self.records.clear();
        self.ends.clear();
    }
}

/// A place in memory that Rust has no references to.
#[derive(Clone, Copy, Debug)]
pub enum Place<'a> {
    /// In a page that another domain granted.
    Remote(Remote),
    /// In this domain's memory for devices: bytes from its beginning.
    Device(&'a DeviceMemory, usize),
    /// In a page of a pool: its number, and bytes into it.
    Pool(&'a FlipPool, usize, u16),
}

impl Place<'_> {
    /// This side of a copy of `len` bytes, and what `flag` is set for if it is another domain's; `None` if they are not in one page, or not there.
    fn end(self, len: u16, flag: u16) -> Option<(CopyEnd, u16)> {
        let (end, flag) = match self {
            Self::Remote(remote) => {
                let end = CopyEnd {
                    frame: remote.reference.raw().into(),
                    domid: remote.domain,
                    offset: remote.offset,
                };
                (end, flag)
            }
            Self::Device(memory, offset) => (memory.end(offset, len)?, 0),
            Self::Pool(pool, page, offset) => (pool.end(page, offset)?, 0),
        };
        FlipPool::is_in_page(end.offset, len).then_some((end, flag))
    }
}

/// A copy between two places.
#[derive(Clone, Copy, Debug)]
pub struct Copy<'a> {
    /// Where from.
    pub from: Place<'a>,
    /// Where to.
    pub to: Place<'a>,
    /// How many bytes. On either side they are in one page.
    pub len: u16,
}

/// Makes copies, by few hypercalls. Calls `take` with the outcome of each, in their order. Of one that failed any bytes may have been copied;
/// [`GrantStatus::BadCopyArg`] is also the outcome of those that are not in one page.
pub fn copy_each<'a>(
    copies: impl IntoIterator<Item = Copy<'a>>,
    mut take: impl FnMut(Result<(), GrantError>),
) {
    let mut copies = copies.into_iter();
    loop {
        // Filled where they are: to move them would cost more than the hypercall of a short batch.
        let mut records = Vec::<GrantCopy, BATCH>::new();
        let mut are_valid = Vec::<bool, BATCH>::new();
        for copy in copies.by_ref().take(BATCH) {
            let record = copy.record();
            // There is room: no more are taken.
            let _ = are_valid.push(record.is_some());
            if let Some(record) = record {
                let _ = records.push(record);
            }
        }
        if are_valid.is_empty() {
            return;
        }
        // SAFETY: our sides are in memory for devices, which is accessed by atomics alone, and in pools, which are mapped nowhere.
        let called = unsafe { hypercall::grant::copy(&mut records) }.map_err(GrantError::from);
        let mut outcomes = records.iter();
        for is_valid in &are_valid {
            let outcome = is_valid.then(|| outcomes.next()).flatten();
            take(match outcome {
                Some(element) => called.and_then(|()| GrantError::check(element.status)),
                None => Err(GrantError::Refused(GrantStatus::BadCopyArg)),
            });
        }
    }
}

impl Copy<'_> {
    /// As the hypervisor wants it, `None` if it leaves a page.
    fn record(&self) -> Option<GrantCopy> {
        let (source, source_flag) = self.from.end(self.len, GNTCOPY_SOURCE_GREF)?;
        let (dest, dest_flag) = self.to.end(self.len, GNTCOPY_DEST_GREF)?;
        Some(GrantCopy {
            source,
            dest,
            len: self.len,
            flags: source_flag | dest_flag,
            ..GrantCopy::ZERO
        })
    }
}

/// A part of a copy that lies in one page on our side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Piece {
    /// Bytes into their page.
    theirs: u16,
    /// Our address.
    ours: usize,
    len: u16,
}

/// Cuts a copy of `len` bytes, between `offset` of their page and `address`, where our page ends. `None` if it leaves theirs.
fn pieces(offset: usize, address: usize, len: usize) -> Option<[Piece; 2]> {
    if offset.checked_add(len)? > PAGE_SIZE {
        return None;
    }
    let room = PAGE_SIZE.saturating_sub(address % PAGE_SIZE);
    let first = len.min(room);
    let piece = |skipped: usize, len: usize| {
        Some(Piece {
            theirs: u16::try_from(offset.checked_add(skipped)?).ok()?,
            ours: address.checked_add(skipped)?,
            len: u16::try_from(len).ok()?,
        })
    };
    Some([piece(0, first)?, piece(first, len.saturating_sub(first))?])
}

/// Our side of a copy: the frame and the offset that `address` is.
fn local(address: usize) -> Option<CopyEnd> {
    let frame = memory::machine_frame(Pfn::at_address(address)?)?;
    Some(CopyEnd {
        frame: frame.raw(),
        domid: DomId::SELF,
        offset: u16::try_from(address % PAGE_SIZE).ok()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cut(offset: usize, address: usize, len: usize) -> Option<[(u16, usize, u16); 2]> {
        pieces(offset, address, len).map(|pieces| pieces.map(|piece| (piece.theirs, piece.ours, piece.len)))
    }

    #[test]
    fn a_copy_is_cut_where_our_page_ends() {
        assert_eq!(cut(0, 0x5000, 4096), Some([(0, 0x5000, 4096), (4096, 0x6000, 0)]));
        assert_eq!(cut(100, 0x5ff0, 64), Some([(100, 0x5ff0, 16), (116, 0x6000, 48)]));
        assert_eq!(cut(0, 0x5001, 4096), Some([(0, 0x5001, 4095), (4095, 0x6000, 1)]));
        assert_eq!(cut(9, 0x5001, 0), Some([(9, 0x5001, 0), (9, 0x5001, 0)]));
    }

    #[test]
    fn a_copy_that_leaves_their_page_is_refused() {
        assert_eq!(cut(1, 0x5000, 4096), None);
        assert_eq!(cut(4097, 0x5000, 0), None);
        assert_eq!(cut(1, 0x5000, usize::MAX), None);
        assert!(cut(4096, 0x5000, 0).is_some());
    }

    #[test]
    fn what_is_no_memory_of_the_domain_is_not_taken() {
        let mut bytes = [0; 16];
        let remote = Remote {
            domain: DomId::new(1),
            reference: GrantRef::new(8),
            offset: 0,
        };
        let mut batch = CopyBatch::new();
        // The tests' memory is nowhere in the linear mapping of a guest.
        assert_eq!(batch.copy_from(remote, &mut bytes), Err(CopyError::NotOurs));
        assert!(batch.records.is_empty() && batch.ends.is_empty());
        assert_eq!(batch.copy_to(&[], remote), Ok(()));
        assert_eq!(batch.ends, [0]);
    }
}
