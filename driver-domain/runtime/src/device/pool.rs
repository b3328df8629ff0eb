//! Pages that a device writes, and that change hands: [`FlipPool`].

use alloc::vec::Vec;

use bulkhead_abi::{
    DomId, Record,
    extension::ExtensionOp,
    grant::{CopyEnd, Flip},
    layout::PAGE_SIZE,
};
use bulkhead_devices::BusAddress;

use crate::extension::{self, DMA_PINS};
use crate::grant::{GrantError, GrantRef};
use crate::hypercall::{self, memory::release_all};
use crate::memory::{LINEAR_FRAMES, Mfn};

/// How many elements one hypercall has at most.
const BATCH: usize = 32;

/// Pages of this domain that are mapped nowhere, so that they can be exchanged for other domains'. They are copied from and to, and pinned for
/// devices, by their numbers, which count from 0.
///
/// They are memory that the machine had free beside the domain's own: that of a driver domain is kept for its successor, and cannot be given away.
#[derive(Debug)]
pub struct FlipPool {
    slots: Vec<Slot>,
    has_pins: bool,
}

#[derive(Debug)]
struct Slot {
    frame: Mfn,
    is_pinned: bool,
}

/// An exchange that is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exchange {
    /// Which of the pool's pages goes. It is not pinned.
    pub page: usize,
    /// Whom it goes to.
    pub domain: DomId,
    /// The entry of its table that offers another for it.
    pub reference: GrantRef,
}

impl FlipPool {
    /// Takes `count` pages, or as many as this domain may have and the machine has free. They hold zeros.
    #[must_use]
    pub fn take(count: usize) -> Self {
        let mut slots = Vec::with_capacity(count);
        while slots.len() < count {
            let mut frames = [0; BATCH];
            let wanted = count.saturating_sub(slots.len()).min(BATCH);
            let frames = frames.get_mut(..wanted).unwrap_or_default();
            for (frame, number) in frames.iter_mut().zip(slots.len()..) {
                // Numbers that no page of the linear mapping has.
                *frame = LINEAR_FRAMES.saturating_add(number as u64);
            }
            let got = hypercall::domains::populate(DomId::SELF, frames, 0).unwrap_or(0);
            let got = usize::try_from(got).unwrap_or(0).min(wanted);
            let taken = frames.iter().take(got).filter_map(|&frame| Mfn::new(frame));
            slots.extend(taken.map(|frame| Slot {
                frame,
                is_pinned: false,
            }));
            if got < wanted {
                break;
            }
        }
        Self {
            slots,
            has_pins: extension::features() & DMA_PINS != 0,
        }
    }

    /// How many pages there are.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.slots.len()
    }

    /// Whether there are none.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }

    /// Where a device finds the page, now: after an exchange it is elsewhere.
    #[must_use]
    pub fn address(&self, page: usize) -> Option<BusAddress> {
        self.slots.get(page).map(|slot| BusAddress(slot.frame.maddr()))
    }

    /// Our side of a copy.
    pub(crate) fn end(&self, page: usize, offset: u16) -> Option<CopyEnd> {
        self.slots.get(page).map(|slot| CopyEnd {
            frame: slot.frame.raw(),
            domid: DomId::SELF,
            offset,
        })
    }

    /// Lets devices reach these pages, by few hypercalls. Returns how many, from the first on: of one that cannot be pinned the log tells.
    pub fn pin(&mut self, pages: impl IntoIterator<Item = usize>) -> usize {
        self.set_pins(pages, true)
    }

    /// Ends that for these pages. When it returns, no device reaches them by it any more. Returns how many, from the first on: of one that
    /// cannot be unpinned the log tells.
    pub fn unpin(&mut self, pages: impl IntoIterator<Item = usize>) -> usize {
        self.set_pins(pages, false)
    }

    fn set_pins(&mut self, pages: impl IntoIterator<Item = usize>, is_pinned: bool) -> usize {
        let op = if is_pinned {
            ExtensionOp::DmaPin
        } else {
            ExtensionOp::DmaUnpin
        };
        let mut pages = pages.into_iter();
        let mut all = 0_usize;
        loop {
            let mut part = heapless::Vec::<usize, BATCH>::new();
            part.extend(pages.by_ref().take(BATCH));
            let frame = |page: &usize| self.slots.get(*page).map_or(u64::MAX, |slot| slot.frame.raw());
            let mut frames = heapless::Vec::<u64, BATCH>::new();
            frames.extend(part.iter().map(frame));
            if frames.is_empty() {
                return all;
            }
            let (result, done) = if self.has_pins {
                hypercall::extension::dma_pins_of(op, &frames)
            } else {
                (Ok(()), frames.len())
            };
            for page in part.iter().take(done) {
                if let Some(slot) = self.slots.get_mut(*page) {
                    slot.is_pinned = is_pinned;
                }
            }
            all = all.saturating_add(done);
            if let Err(error) = result {
                let page = part.get(done).copied().unwrap_or_default();
                log::error!("{}: page {page} of a pool: {error}", op.name());
                return all;
            }
        }
    }

    /// Exchanges pages for those that other domains offer, by few hypercalls. Calls `take` with the outcome of each, in the order of the
    /// exchanges. A page that came is in the place of the one that went, not pinned, and holds what its giver left there.
    pub fn flip(
        &mut self,
        exchanges: impl IntoIterator<Item = Exchange>,
        mut take: impl FnMut(Result<(), GrantError>),
    ) {
        let mut exchanges = exchanges.into_iter();
        loop {
            // Filled where they are, not moved there.
            let mut part = heapless::Vec::<Exchange, BATCH>::new();
            part.extend(exchanges.by_ref().take(BATCH));
            if part.is_empty() {
                return;
            }
            let record = |exchange: &Exchange| Flip {
                // A page that there is not is no frame either.
                mfn: self
                    .slots
                    .get(exchange.page)
                    .map_or(u64::MAX, |slot| slot.frame.raw()),
                domid: exchange.domain,
                gref: exchange.reference.raw(),
                ..Flip::ZERO
            };
            let mut records = heapless::Vec::<Flip, BATCH>::new();
            records.extend(part.iter().map(record));
            // SAFETY: nothing of Rust's is in the pool's pages, and from now on the domain has the others in their places.
            let called = unsafe { hypercall::grant::flip(&mut records) }.map_err(GrantError::from);
            for (exchange, record) in part.iter().zip(&records) {
                let done = called.and_then(|()| GrantError::check(record.status));
                if done.is_ok()
                    && let Some(slot) = self.slots.get_mut(exchange.page)
                    && let Some(frame) = Mfn::new(record.mfn)
                {
                    slot.frame = frame;
                }
                take(done);
            }
        }
    }

    /// Whether `len` bytes from `offset` on are in a page.
    pub(crate) const fn is_in_page(offset: u16, len: u16) -> bool {
        (offset as usize).saturating_add(len as usize) <= PAGE_SIZE
    }
}

impl Drop for FlipPool {
    fn drop(&mut self) {
        let pinned: Vec<usize> = (0..self.slots.len())
            .filter(|page| self.slots.get(*page).is_some_and(|slot| slot.is_pinned))
            .collect();
        self.unpin(pinned);
        let frames: Vec<u64> = self
            .slots
            .iter()
            .filter(|slot| !slot.is_pinned)
            .map(|slot| slot.frame.raw())
            .collect();
        // SAFETY: the frames are mapped nowhere, and the pool ends.
        unsafe { release_all(&frames) };
    }
}
