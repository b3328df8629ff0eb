//! Frames, and the pages that they lie in.

use alloc::rc::Rc;
use alloc::vec::Vec;
use core::cell::RefCell;

use bulkhead_abi::layout::PAGE_SIZE;
use bulkhead_abi::netif::{MAX_FRAME, MIN_FIRST, RING_SLOTS};
use bulkhead_frontend::Domain;
use bulkhead_ring::SharedPage;

/// Most pages that a pool keeps: as many as both rings of an interface use.
const KEPT: usize = 2 * RING_SLOTS as usize;

/// Where an interface's pages come from, and where they go to be used again. Clones are the same pool.
///
/// Pages of a pool have held frames of this interface, or nothing: all of it its back-end has seen.
#[derive(Clone, Debug)]
pub struct Pool<D: Domain>(Rc<Inner<D>>);

#[derive(Debug)]
struct Inner<D: Domain> {
    domain: D,
    spare: RefCell<Vec<D::Page>>,
}

impl<D: Domain> Pool<D> {
    /// A pool of this domain's pages.
    #[must_use]
    pub fn new(domain: D) -> Self {
        Self(Rc::new(Inner {
            domain,
            spare: RefCell::default(),
        }))
    }

    /// A frame of so many bytes, 14 to 65535, which are to be written; they hold anything before. `None` if memory is used up, or no frame is
    /// so long.
    #[must_use]
    pub fn frame(&self, bytes: usize) -> Option<Frame<D>> {
        if !(MIN_FIRST..=MAX_FRAME).contains(&bytes) {
            return None;
        }
        let mut frame = Frame::new(self);
        while frame.bytes < bytes {
            let length = bytes.saturating_sub(frame.bytes).min(PAGE_SIZE);
            frame.push(Part {
                page: self.page()?,
                offset: 0,
                length,
            });
        }
        Some(frame)
    }

    /// The domain.
    pub(crate) fn domain(&self) -> &D {
        &self.0.domain
    }

    /// A page that was used before, or a new one.
    pub(crate) fn page(&self) -> Option<D::Page> {
        let spare = self.0.spare.borrow_mut().pop();
        spare.or_else(|| self.0.domain.page())
    }

    /// Keeps a page, which no back-end can use any more, for the next frame.
    pub(crate) fn keep(&self, page: D::Page) {
        let mut spare = self.0.spare.borrow_mut();
        if spare.len() < KEPT {
            spare.push(page);
        }
    }
}

/// A frame: parts of pages, one after the other. No back-end can use the pages. Dropped, they go back to the pool.
#[derive(Debug)]
pub struct Frame<D: Domain> {
    parts: Vec<Part<D::Page>>,
    bytes: usize,
    pool: Pool<D>,
}

/// A part of a frame. It lies in its page.
#[derive(Debug)]
pub(crate) struct Part<P> {
    pub(crate) page: P,
    pub(crate) offset: usize,
    /// Not 0.
    pub(crate) length: usize,
}

impl<D: Domain> Frame<D> {
    /// One without parts.
    pub(crate) fn new(pool: &Pool<D>) -> Self {
        Self {
            parts: Vec::new(),
            bytes: 0,
            pool: pool.clone(),
        }
    }

    /// Lengthens it by a part.
    pub(crate) fn push(&mut self, part: Part<D::Page>) {
        self.bytes = self.bytes.saturating_add(part.length);
        self.parts.push(part);
    }

    /// Its parts, which it does not have any more.
    pub(crate) fn take_parts(&mut self) -> Vec<Part<D::Page>> {
        self.bytes = 0;
        core::mem::take(&mut self.parts)
    }

    /// Its parts.
    pub(crate) fn parts(&self) -> &[Part<D::Page>] {
        &self.parts
    }

    /// How many bytes it has.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.bytes
    }

    /// Whether it has none.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.bytes == 0
    }

    /// Copies bytes out, from `offset` on. `None`, and nothing copied, if they leave the frame.
    #[must_use = "nothing is copied if the range leaves the frame"]
    pub fn read(&self, offset: usize, mut to: &mut [u8]) -> Option<()> {
        self.check(offset, to.len())?;
        for (page, at, length) in self.pieces(offset, to.len()) {
            let (piece, rest) = to.split_at_mut_checked(length)?;
            page.read(at, piece);
            to = rest;
        }
        Some(())
    }

    /// Copies bytes in, from `offset` on. `None`, and nothing copied, if they leave the frame.
    #[must_use = "nothing is copied if the range leaves the frame"]
    pub fn write(&mut self, offset: usize, mut from: &[u8]) -> Option<()> {
        self.check(offset, from.len())?;
        for (page, at, length) in self.pieces(offset, from.len()) {
            let (piece, rest) = from.split_at_checked(length)?;
            page.write(at, piece);
            from = rest;
        }
        Some(())
    }

    /// Copies the whole frame out.
    #[must_use]
    pub fn to_vec(&self) -> Vec<u8> {
        let mut bytes = alloc::vec![0; self.bytes];
        // It is as long as the frame.
        let _ = self.read(0, &mut bytes);
        bytes
    }

    fn check(&self, offset: usize, length: usize) -> Option<()> {
        (offset.checked_add(length)? <= self.bytes).then_some(())
    }

    /// Where a range lies: pages, where in them, how many bytes.
    fn pieces(&self, offset: usize, length: usize) -> impl Iterator<Item = (&D::Page, usize, usize)> {
        let (mut skip, mut left) = (offset, length);
        self.parts.iter().filter_map(move |part| {
            let skipped = skip.min(part.length);
            skip = skip.saturating_sub(skipped);
            let length = part.length.saturating_sub(skipped).min(left);
            left = left.saturating_sub(length);
            (length > 0).then_some((&part.page, part.offset.saturating_add(skipped), length))
        })
    }
}

impl<D: Domain> Drop for Frame<D> {
    fn drop(&mut self) {
        for part in self.parts.drain(..) {
            self.pool.keep(part.page);
        }
    }
}
