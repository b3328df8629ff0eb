//! The frame allocator: free memory in blocks of 2^order frames, each aligned to its size.
//!
//! A freed block joins its buddy when that is free too, so that large machine-contiguous extents come back.
//! All bookkeeping lies in the frame records of the free frames themselves.

use super::{FrameList, FrameTable, Mfn};
use core::ops::Range;

/// The largest order: 2^18 frames are 1 GiB.
pub const MAX_ORDER: u8 = 18;

/// How many free blocks of one size are looked at for one that lies low.
const LOOKED_AT: usize = 64;

const ORDERS: usize = MAX_ORDER as usize + 1;

/// Free memory. One lock guards it; hold it briefly.
#[derive(Debug)]
pub struct Buddy {
    table: FrameTable,
    /// Free blocks by order.
    free: [FrameList; ORDERS],
    free_frames: u64,
    /// How many of them domains have a claim on.
    claimed: u64,
}

impl Buddy {
    /// An allocator that has nothing yet.
    #[must_use]
    pub const fn new(table: FrameTable) -> Self {
        Self {
            table,
            free: [const { FrameList::new() }; ORDERS],
            free_frames: 0,
            claimed: 0,
        }
    }

    /// How many frames are free.
    #[must_use]
    pub const fn free_frames(&self) -> u64 {
        self.free_frames
    }

    /// How many frames are claimed, and not taken yet. There are as many free ones.
    #[must_use]
    pub const fn claimed(&self) -> u64 {
        self.claimed
    }

    /// Lets `claim`, somebody's, be larger by `frames`. Says whether there are so many that are not claimed.
    pub fn claim(&mut self, claim: &mut u64, frames: u64) -> bool {
        let is_there = frames <= self.free_frames.saturating_sub(self.claimed);
        if is_there {
            *claim = claim.saturating_add(frames);
            self.claimed = self.claimed.saturating_add(frames);
        }
        is_there
    }

    /// Lets a claim be smaller by `frames`, or end, if it is for less.
    pub fn unclaim(&mut self, claim: &mut u64, frames: u64) {
        let frames = frames.min(*claim);
        *claim = claim.saturating_sub(frames);
        self.claimed = self.claimed.saturating_sub(frames);
    }

    /// Whether a block of 2^`order` frames can be taken without touching what others than the holder of `claim` have claimed.
    fn leaves_claims(&self, order: u8, claim: u64) -> bool {
        let frames = 1_u64 << order.min(MAX_ORDER);
        let others = self.claimed.saturating_sub(claim.min(frames));
        self.free_frames.saturating_sub(others) >= frames || mutant!(ClaimIgnored)
    }

    /// Hands the allocator RAM that nobody uses, as a range of frame numbers. Frames without a record are left out.
    pub fn add(&mut self, frames: Range<u64>) {
        let end = frames.end.min(self.table.limit());
        let mut at = frames.start;
        while at < end {
            let Some(mfn) = Mfn::new(at) else { return };
            let room = end.saturating_sub(at);
            let aligned = if at == 0 {
                u32::from(MAX_ORDER)
            } else {
                at.trailing_zeros()
            };
            let order = u8::try_from(aligned.min(room.ilog2()))
                .unwrap_or(0)
                .min(MAX_ORDER);
            self.free(mfn, order);
            at = at.saturating_add(1 << order);
        }
    }

    /// As [`Buddy::alloc`], for the holder of `claim`, which becomes smaller by what is taken.
    pub fn alloc_claimed(&mut self, order: u8, claim: &mut u64) -> Option<Mfn> {
        if !self.leaves_claims(order, *claim) {
            return None;
        }
        let block = self.take(order)?;
        self.unclaim(claim, 1_u64 << order.min(MAX_ORDER));
        Some(block)
    }

    /// Takes a block of 2^`order` frames, or returns `None` if there is none that large, or it would be what others have claimed.
    ///
    /// The frames belong to nobody, hold whatever they held, and some TLB may still know them.
    pub fn alloc(&mut self, order: u8) -> Option<Mfn> {
        self.alloc_claimed(order, &mut 0)
    }

    fn take(&mut self, order: u8) -> Option<Mfn> {
        let found = (order..=MAX_ORDER).find(|&o| self.list(o).is_some_and(|list| !list.is_empty()))?;
        let table = self.table;
        let mfn = self.list(found)?.pop(&table)?;
        table.unmark_free(mfn);
        self.give_back_above(mfn, order, found);
        Some(mfn)
    }

    /// As [`Buddy::alloc`], below frame `limit`: of each size the first few free blocks are looked at, so that it does not take long.
    pub fn alloc_below(&mut self, order: u8, limit: u64) -> Option<Mfn> {
        if !self.leaves_claims(order, 0) {
            return None;
        }
        let table = self.table;
        let fits = |mfn: Mfn| {
            let end = mfn.raw().checked_add(1 << order);
            end.is_some_and(|end| end <= limit)
        };
        let (found, mfn) = (order..=MAX_ORDER).find_map(|size| {
            let list = self.list(size)?;
            let all = core::iter::successors(list.first(), |&mfn| list.next(&table, mfn));
            let mfn = all.take(LOOKED_AT).find(|&mfn| fits(mfn))?;
            Some((size, mfn))
        })?;
        self.list(found)?.remove(&table, mfn);
        table.unmark_free(mfn);
        self.give_back_above(mfn, order, found);
        Some(mfn)
    }

    /// Of a block of 2^`found` frames, keeps the first 2^`order`.
    fn give_back_above(&mut self, mfn: Mfn, order: u8, found: u8) {
        // Half of it at a time, the upper one.
        for smaller in (order..found).rev() {
            if let Some(upper) = mfn.offset(1 << smaller) {
                self.insert(upper, smaller);
            }
        }
        self.free_frames = self.free_frames.saturating_sub(1 << order);
    }

    /// Gives a block back. Its frames must have no owner, no references, and nothing secret in them.
    pub fn free(&mut self, mfn: Mfn, order: u8) {
        let frames = 1_u64 << order.min(MAX_ORDER);
        for n in 0..frames {
            if let Some(frame) = mfn.offset(n) {
                self.table.mark_free(frame, 0);
                self.table.unmark_free(frame);
            }
        }
        self.free_frames = self.free_frames.saturating_add(frames);
        self.join(mfn, order);
    }

    /// Enters a free block, as one with its buddies as far as these are free.
    fn join(&mut self, mfn: Mfn, order: u8) {
        let (mut at, mut order) = (mfn, order.min(MAX_ORDER));
        while order < MAX_ORDER {
            let Some(buddy) = Mfn::new(at.raw() ^ (1 << order)) else {
                break;
            };
            if self.table.free_block(buddy) != Some(order) {
                break;
            }
            let table = self.table;
            if let Some(list) = self.list(order) {
                list.remove(&table, buddy);
            }
            table.unmark_free(buddy);
            at = at.min(buddy);
            order = order.saturating_add(1);
        }
        self.insert(at, order);
    }

    /// Gives back a block that was taken and not touched: its records are as they were.
    pub fn put_back(&mut self, mfn: Mfn, order: u8) {
        self.free_frames = self.free_frames.saturating_add(1 << order.min(MAX_ORDER));
        self.join(mfn, order);
    }

    fn insert(&mut self, mfn: Mfn, order: u8) {
        self.table.mark_free(mfn, order);
        let table = self.table;
        if let Some(list) = self.list(order) {
            list.push(&table, mfn);
        }
    }

    fn list(&mut self, order: u8) -> Option<&mut FrameList> {
        self.free.get_mut(usize::from(order))
    }

    /// Checks that the lists hold exactly the blocks that the records call free, and that the total is right.
    ///
    /// # Panics
    ///
    /// If not. For tests.
    #[cfg(any(test, feature = "testing"))]
    pub fn invariants(&self) {
        let mut total = 0_u64;
        for (order, list) in (0_u8..).zip(&self.free) {
            let (mut at, mut len) = (list.first(), 0_u64);
            while let Some(mfn) = at {
                assert_eq!(
                    self.table.free_block(mfn),
                    Some(order),
                    "{mfn:?} is on the list of order {order}"
                );
                assert!(
                    mfn.raw().trailing_zeros() >= u32::from(order) || mfn.raw() == 0,
                    "{mfn:?} is aligned"
                );
                len = len.saturating_add(1);
                total = total.saturating_add(1 << order);
                at = list.next(&self.table, mfn);
            }
            assert_eq!(len, list.len());
        }
        assert_eq!(total, self.free_frames);
        assert!(
            self.claimed <= self.free_frames,
            "{} frames are claimed, and {} free",
            self.claimed,
            self.free_frames
        );
        let marked: u64 = (0..self.table.limit())
            .filter_map(|n| self.table.free_block(Mfn::new(n)?))
            .map(|order| 1_u64 << order)
            .sum();
        assert_eq!(
            marked, self.free_frames,
            "every block that is marked free is on a list"
        );
    }
}
