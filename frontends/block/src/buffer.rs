//! Pages for data.

use alloc::rc::Rc;
use alloc::vec::Vec;
use core::cell::RefCell;

use bulkhead_abi::blkif::SECTOR_SIZE;
use bulkhead_abi::layout::PAGE_SIZE;
use bulkhead_ring::SharedPage;

use bulkhead_frontend::{Access, Domain};

/// Where the buffers of a disk come from, and where pages go that stay granted. Clones are the same pool.
#[derive(Clone, Debug)]
pub struct Pool<D: Domain>(Rc<Inner<D>>);

#[derive(Debug)]
struct Inner<D: Domain> {
    domain: D,
    /// Pages that were granted are not taken back.
    is_persistent: bool,
    /// Granted pages that no buffer has.
    spare: RefCell<Vec<D::Grant>>,
}

impl<D: Domain> Pool<D> {
    /// A pool of this domain's pages. `is_persistent` says that they stay granted once they are.
    #[must_use]
    pub fn new(domain: D, is_persistent: bool) -> Self {
        Self(Rc::new(Inner {
            domain,
            is_persistent,
            spare: RefCell::default(),
        }))
    }

    /// A buffer of so many bytes, a multiple of 512. A new page is all zeros; one that was used before holds what it held. `None` if memory is
    /// used up, or the length is no such multiple.
    #[must_use]
    pub fn buffer(&self, bytes: usize) -> Option<Buffer<D>> {
        if !bytes.is_multiple_of(SECTOR_SIZE) {
            return None;
        }
        let mut buffer = Buffer {
            pages: Vec::with_capacity(bytes.div_ceil(PAGE_SIZE)),
            bytes,
            pool: Some(self.clone()),
        };
        for _ in 0..bytes.div_ceil(PAGE_SIZE) {
            let spare = self.0.spare.borrow_mut().pop();
            buffer.pages.push(match spare {
                Some(grant) => Lent::Granted(grant),
                None => Lent::Own(self.0.domain.page()?),
            });
        }
        Some(buffer)
    }
}

/// Whole pages, of which the first so many bytes count.
///
/// While the back-end has it, at an order, it is the queue's. Pages of a disk with `feature-persistent` can be written by the back-end at any time.
#[derive(Debug)]
pub struct Buffer<D: Domain> {
    pages: Vec<Lent<D>>,
    bytes: usize,
    /// `None` in the empty buffer that stands for one that is away.
    pool: Option<Pool<D>>,
}

/// A page of a buffer.
#[derive(Debug)]
enum Lent<D: Domain> {
    Own(D::Page),
    Granted(D::Grant),
    /// On its way from one of the others to the other.
    Away,
}

impl<D: Domain> Default for Buffer<D> {
    /// One without pages.
    fn default() -> Self {
        Self {
            pages: Vec::new(),
            bytes: 0,
            pool: None,
        }
    }
}

impl<D: Domain> Buffer<D> {
    /// How many bytes it has; 0 if it is away.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.bytes
    }

    /// Whether it has none.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.bytes == 0
    }

    /// Copies bytes out, from `offset` on. `None`, and nothing copied, if they leave the buffer.
    #[must_use = "nothing is copied if the range leaves the buffer"]
    pub fn read(&self, offset: usize, mut to: &mut [u8]) -> Option<()> {
        self.check(offset, to.len())?;
        for (page, offset, length) in parts(offset, to.len()) {
            let (part, rest) = to.split_at_mut_checked(length)?;
            match self.pages.get(page)? {
                Lent::Own(page) => page.read(offset, part),
                Lent::Granted(page) => page.read(offset, part),
                Lent::Away => return None,
            }
            to = rest;
        }
        Some(())
    }

    /// Copies bytes in, from `offset` on. `None`, and nothing copied, if they leave the buffer.
    #[must_use = "nothing is copied if the range leaves the buffer"]
    pub fn write(&mut self, offset: usize, mut from: &[u8]) -> Option<()> {
        self.check(offset, from.len())?;
        for (page, offset, length) in parts(offset, from.len()) {
            let (part, rest) = from.split_at_checked(length)?;
            match self.pages.get(page)? {
                Lent::Own(page) => page.write(offset, part),
                Lent::Granted(page) => page.write(offset, part),
                Lent::Away => return None,
            }
            from = rest;
        }
        Some(())
    }

    fn check(&self, offset: usize, length: usize) -> Option<()> {
        (offset.checked_add(length)? <= self.bytes).then_some(())
    }

    /// How many pages it has.
    pub(crate) fn pages(&self) -> usize {
        self.pages.len()
    }

    /// How many bytes of a page count.
    pub(crate) fn bytes_of(&self, page: usize) -> usize {
        self.bytes
            .saturating_sub(page.saturating_mul(PAGE_SIZE))
            .min(PAGE_SIZE)
    }

    /// Lets the back-end use a page, for reading alone if it is not to stay granted; gives its number. `None` if no grant can be had.
    pub(crate) fn lend(&mut self, page: usize, access: Access) -> Option<u32> {
        let pool = self.pool.as_ref()?;
        let lent = self.pages.get_mut(page)?;
        let access = if pool.0.is_persistent {
            Access::ReadWrite
        } else {
            access
        };
        *lent = match core::mem::replace(lent, Lent::Away) {
            Lent::Own(own) => match pool.0.domain.grant(own, access) {
                Ok(grant) => Lent::Granted(grant),
                Err(own) => Lent::Own(own),
            },
            kept @ (Lent::Granted(_) | Lent::Away) => kept,
        };
        match lent {
            Lent::Granted(grant) => Some(pool.0.domain.reference(grant)),
            Lent::Own(_) | Lent::Away => None,
        }
    }

    /// Takes a page back, unless it is to stay granted. If the back-end uses it, that is an error, with the grant's number.
    pub(crate) fn take_back(&mut self, page: usize) -> Result<(), u32> {
        let (Some(pool), Some(lent)) = (self.pool.as_ref(), self.pages.get_mut(page)) else {
            return Ok(());
        };
        if pool.0.is_persistent {
            return Ok(());
        }
        match core::mem::replace(lent, Lent::Away) {
            Lent::Granted(grant) => match pool.0.domain.revoke(grant) {
                Ok(own) => *lent = Lent::Own(own),
                Err(grant) => {
                    let reference = pool.0.domain.reference(&grant);
                    *lent = Lent::Granted(grant);
                    return Err(reference);
                }
            },
            kept @ (Lent::Own(_) | Lent::Away) => *lent = kept,
        }
        Ok(())
    }
}

impl<D: Domain> Drop for Buffer<D> {
    fn drop(&mut self) {
        let Some(pool) = self.pool.take().filter(|pool| pool.0.is_persistent) else {
            return;
        };
        let granted = self.pages.drain(..).filter_map(|page| match page {
            Lent::Granted(grant) => Some(grant),
            Lent::Own(_) | Lent::Away => None,
        });
        pool.0.spare.borrow_mut().extend(granted);
    }
}

/// The parts of a range that lie in one page each: the page, where in it, how many bytes.
fn parts(offset: usize, length: usize) -> impl Iterator<Item = (usize, usize, usize)> {
    let end = offset.saturating_add(length);
    let mut next = offset;
    core::iter::from_fn(move || {
        let begin = next;
        let (page, within) = (begin / PAGE_SIZE, begin % PAGE_SIZE);
        let length = PAGE_SIZE.saturating_sub(within).min(end.saturating_sub(begin));
        next = begin.saturating_add(length);
        (length > 0).then_some((page, within, length))
    })
}
