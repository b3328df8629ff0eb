//! The tree of a space, as the hardware walks it: tables of 512 entries, from the root down to a leaf, by nine bits of the frame number each.
//!
//! An entry has the number of a frame in its bits 12 and up; bit 0 allows reading and bit 1 writing, of all that is below it. Zero is no entry. Those above
//! the leaves allow both. Source: Intel, Virtualization Technology for Directed I/O, rev. 4.1, section 9.8 (second-stage entries).

use super::{Counts, NoRoom, Space};
use crate::frames::Mfn;
use crate::grants::Rights;
use crate::machine::Machine;
use crate::memory::Memory;
use crate::paging::Work;
use crate::sync::Ordering;
use bulkhead_abi::pte;

/// Reading is allowed.
pub(crate) const READ: u64 = 1 << 0;
/// Writing is allowed.
pub(crate) const WRITE: u64 = 1 << 1;

/// How many bits of a frame number choose an entry of a table.
const BITS: u32 = 9;
const ENTRIES: usize = 1 << BITS;

/// How many entries hardware may take to be published with one of them: those that share 64 bytes.
const PUBLISHED: usize = 8;

/// What making or freeing a table is worth, in entries looked at.
pub(super) const TABLE_WORTH: u32 = 16;

/// Which leaf a frame is in.
const fn region(frame: Mfn) -> u64 {
    frame.raw() >> BITS
}

/// Which entry of a table of this level is on the way to a frame. Leaves are of level 1.
#[inline]
fn index(frame: Mfn, level: u8) -> usize {
    let shift = BITS.wrapping_mul(u32::from(level.saturating_sub(1)));
    let entries = ENTRIES as u64;
    usize::try_from(frame.raw() >> shift & entries.wrapping_sub(1)).unwrap_or(0)
}

/// The entry that lets devices do this with a frame.
pub(crate) const fn entry(frame: Mfn, reach: Option<Rights>) -> u64 {
    match reach {
        None => 0,
        Some(Rights::ReadOnly) => frame.maddr() | READ,
        Some(Rights::ReadWrite) => frame.maddr() | READ | WRITE,
    }
}

/// The frame that an entry leads to.
pub(super) fn target(entry: u64) -> Option<Mfn> {
    (entry & READ != 0).then(|| Mfn::from_maddr(entry & pte::FRAME_MASK))
}

impl<M: Machine> Memory<M> {
    /// Whether the tree has a place for a frame.
    fn has_place(&self, frame: Mfn) -> bool {
        let bits = BITS.wrapping_mul(u32::from(self.machine.dma_levels()));
        frame.raw().checked_shr(bits).unwrap_or(0) == 0
    }

    fn load(&self, table: Mfn, index: usize) -> u64 {
        let words = self.machine.frame(table);
        words.get(index).map_or(0, |word| word.load(Ordering::Relaxed))
    }

    fn store(&self, table: Mfn, index: usize, value: u64) {
        let words = self.machine.frame(table);
        if let Some(word) = words.get(index) {
            // Release: a device that follows the entry finds what it leads to.
            word.store(value, Ordering::Release);
        }
    }

    fn store_entry(&self, table: Mfn, index: usize, entry: u64) {
        self.store(table, index, entry);
        self.machine.publish_dma(table, index);
    }

    /// The root of the tree, which is made if there is none.
    pub(super) fn make_root(&self, space: &mut Space) -> Result<Mfn, NoRoom> {
        if let Some(root) = space.root {
            return Ok(root);
        }
        let root = self.make_inner(space)?;
        space.root = Some(root);
        Ok(root)
    }

    fn make_inner(&self, space: &mut Space) -> Result<Mfn, NoRoom> {
        let table = self.take_own(0).ok_or(NoRoom)?;
        self.publish_new(table);
        space.inner.push(&self.frames, table);
        Ok(table)
    }

    fn publish_new(&self, table: Mfn) {
        for index in (0..ENTRIES).step_by(PUBLISHED) {
            self.machine.publish_dma(table, index);
        }
    }

    /// The leaf for a frame, if there is one.
    #[inline]
    pub(super) fn find_leaf(&self, space: &mut Space, frame: Mfn) -> Option<Mfn> {
        if let Some((known, leaf)) = space.recent
            && known == region(frame)
        {
            return Some(leaf);
        }
        let root = space.root.filter(|_| self.has_place(frame))?;
        let mut levels = (2..=self.machine.dma_levels()).rev();
        let leaf = levels.try_fold(root, |table, level| target(self.load(table, index(frame, level))))?;
        space.recent = Some((region(frame), leaf));
        Some(leaf)
    }

    /// The leaf for a frame, which is made if there is none.
    #[inline]
    pub(super) fn make_leaf(&self, space: &mut Space, frame: Mfn, work: &mut Work) -> Result<Mfn, NoRoom> {
        match self.find_leaf(space, frame) {
            Some(leaf) => Ok(leaf),
            None => self.grow_tree(space, frame, work),
        }
    }

    #[cold]
    fn grow_tree(&self, space: &mut Space, frame: Mfn, work: &mut Work) -> Result<Mfn, NoRoom> {
        let is_full = space.functions.is_empty() && space.leaves.len() >= space.limit;
        if space.is_closed || is_full || !self.has_place(frame) {
            return Err(NoRoom);
        }
        let mut table = self.make_root(space)?;
        for level in (2..=self.machine.dma_levels()).rev() {
            let index = index(frame, level);
            table = match target(self.load(table, index)) {
                Some(below) => below,
                None => {
                    work.spend(TABLE_WORTH);
                    let below = if level == 2 {
                        self.take_leaf(space)?
                    } else {
                        self.make_inner(space)?
                    };
                    self.store_entry(table, index, entry(below, Some(Rights::ReadWrite)));
                    below
                }
            };
        }
        Ok(table)
    }

    fn take_leaf(&self, space: &mut Space) -> Result<Mfn, NoRoom> {
        let leaf = self.take_own(1).ok_or(NoRoom)?;
        self.publish_new(leaf);
        space.leaves.push(&self.frames, leaf);
        Ok(leaf)
    }

    /// The counts of the entries of a leaf.
    pub(super) fn counts(&self, leaf: Mfn, index: usize) -> Counts {
        let counters = leaf.offset(1);
        Counts::from_bits(counters.map_or(0, |counters| self.load(counters, index)))
    }

    pub(super) fn set_counts(&self, leaf: Mfn, index: usize, counts: Counts) {
        if let Some(counters) = leaf.offset(1) {
            self.store(counters, index, counts.bits());
        }
    }

    /// The entry of a leaf.
    pub(super) fn leaf_entry(&self, leaf: Mfn, index: usize) -> u64 {
        self.load(leaf, index)
    }

    /// Changes the counts of a frame in its leaf, and the entry as these say. `None` if `step` says so, and nothing has changed then. Else what it
    /// says beside, and whether devices may remember another entry than there is now. The space is locked.
    #[inline]
    pub(super) fn change<T>(
        &self,
        leaf: Mfn,
        frame: Mfn,
        step: impl FnOnce(Counts) -> Option<(Counts, T)>,
    ) -> Option<(T, bool)> {
        let index = index(frame, 1);
        let counters = self.machine.frame(leaf.offset(1)?);
        let counter = counters.get(index)?;
        let before = Counts::from_bits(counter.load(Ordering::Relaxed));
        let (after, result) = step(before)?;
        counter.store(after.bits(), Ordering::Relaxed);
        let (was, now) = (before.reach(), after.reach());
        if was == now {
            return Some((result, false));
        }
        let is_kept = now.is_none() && mutant!(ReachKept)
            || was == Some(Rights::ReadWrite) && now.is_some() && mutant!(ReachNotLowered);
        if !is_kept {
            self.store_entry(leaf, index, entry(frame, now));
        }
        let is_stale = was.is_some() || self.machine.remembers_no_dma();
        Some((result, is_stale))
    }

    /// Gives the tables of a space back, as far as there is work left to be done in one go. Nothing is in it. Says whether there are more.
    pub(super) fn free_inner(&self, space: &mut Space, work: &mut Work) -> bool {
        while !work.is_over()
            && let Some(table) = space.inner.pop(&self.frames)
        {
            work.spend(TABLE_WORTH);
            self.give_own(table, 0);
        }
        !space.inner.is_empty()
    }
}
