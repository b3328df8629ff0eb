//! Pages of the pool, and private memory that jobs share.

use alloc::vec::Vec;

use crate::machine::{BufferId, PageId};

/// Buffers of the largest frame.
const LARGEST: usize = 17;

/// What belongs to nobody now.
#[derive(Debug)]
pub(super) struct Pool {
    /// Pages that are not pinned.
    pub(super) spare: Vec<PageId>,
    /// Pages that are pinned.
    pub(super) ready: Vec<PageId>,
    /// By page: it is with the NIC.
    posted: Vec<bool>,
    /// How many are.
    pub(super) count: usize,
    buffers: Vec<BufferId>,
    /// How many buffers a frame finds that is taken in any case.
    ample: usize,
}

impl Pool {
    /// So many pages, all spare, and these buffers.
    pub(super) fn new(pages: u32, buffers: core::ops::Range<u32>) -> Self {
        Self {
            spare: (0..pages).rev().map(PageId).collect(),
            ready: Vec::with_capacity(pages as usize),
            posted: alloc::vec![false; pages as usize],
            count: 0,
            ample: LARGEST.min(buffers.len() / 2),
            buffers: buffers.rev().map(BufferId).collect(),
        }
    }

    /// How many pages the NIC is to have, if it takes `depth`: a quarter is left for frames between guests that exchange pages.
    pub(super) fn wanted(&self, depth: usize) -> usize {
        let pages = self.posted.len();
        depth.min(pages.saturating_sub(pages / 4))
    }

    /// The NIC has a page, or gives it back. Whether that can be.
    pub(super) fn set_posted(&mut self, page: PageId, is_posted: bool) -> bool {
        let Some(was) = self
            .posted
            .get_mut(page.0 as usize)
            .filter(|was| **was != is_posted)
        else {
            return false;
        };
        *was = is_posted;
        self.count = match is_posted {
            true => self.count.saturating_add(1),
            false => self.count.saturating_sub(1),
        };
        true
    }

    /// Takes so many buffers, or none, and adds them to `to`.
    pub(super) fn take_buffers(&mut self, count: usize, to: &mut Vec<BufferId>) -> Option<()> {
        let first = self.buffers.len().checked_sub(count)?;
        to.extend(self.buffers.drain(first..));
        Some(())
    }

    pub(super) const fn buffers_left(&self) -> usize {
        self.buffers.len()
    }

    /// Whether so many buffers are enough for another frame, whatever its length.
    pub(super) const fn is_ample(&self, buffers: usize) -> bool {
        buffers > 0 && buffers >= self.ample
    }

    /// Gives buffers back.
    pub(super) fn give_buffers(&mut self, buffers: &mut Vec<BufferId>) {
        self.buffers.append(buffers);
    }
}
