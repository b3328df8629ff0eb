//! The receiving ring: the front-end without futures.
//!
//! Pages are posted in the order of the ring, and answered in it. The low byte of a request's number is none that an extra's type can have, so a slot
//! that should hold an extra and holds a response is told from one that does: a back-end that was made anew begins a frame where its
//! predecessor had not ended one. What there was of that frame is dropped.

use alloc::collections::VecDeque;
use core::fmt;

use bulkhead_abi::layout::PAGE_SIZE;
use bulkhead_abi::netif::{
    EXTRA_MORE, Extra, ExtraType, Gso, GsoType, MAX_FRAME, MAX_SLOTS, MIN_FIRST, RX_CSUM_BLANK,
    RX_DATA_VALIDATED, RX_EXTRA_INFO, RX_MORE_DATA, RxRequest, RxResponse, RxSlot,
};
use bulkhead_frontend::{Access, Flips, Withdrawn};
use bulkhead_ring::descriptor::{Front, Notify, Protocol};

use crate::error::Broken;
use crate::frame::{Frame, Part, Pool};
use crate::offload::{Checksum, Ip, Offload, Segments};

/// The ring of frames that are received.
#[derive(Debug)]
pub struct Rx;

impl Protocol for Rx {
    type Request = RxRequest;
    type Response = RxSlot;
}

/// How frames get into pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// The back-end copies into the pages that are posted.
    Copy,
    /// It exchanges them for pages of its own, which hold the frames.
    Flip,
}

/// A frame that was received.
#[derive(Debug)]
pub struct Received<D: Flips> {
    /// The frame.
    pub frame: Frame<D>,
    /// What is known of it.
    pub offload: Offload,
}

/// What was received.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// How many frames.
    pub frames: u64,
    /// How many frames the back-end reported errors about, or that were shorter than a header.
    pub errors: u64,
    /// How many frames had not ended when another began.
    pub cut: u64,
}

/// Pages to receive into, the ring by which they are filled, and the frames.
pub struct Receive<D: Flips> {
    pool: Pool<D>,
    front: Front<D::Grant, Rx>,
    mode: Mode,
    /// In the order of the ring.
    posted: VecDeque<Posted<D>>,
    /// How many were posted, as far as a byte counts.
    count: u8,
    /// What the next slot holds.
    next: Next,
    /// What there is of a frame that has not ended.
    partial: Partial<D>,
    frames: VecDeque<Received<D>>,
    /// How many pages those frames have.
    full: usize,
    counts: Counts,
    broken: Option<Broken>,
}

/// A page that was posted.
#[derive(Debug)]
struct Posted<D: Flips> {
    id: u16,
    lent: Lent<D>,
}

#[derive(Debug)]
enum Lent<D: Flips> {
    Granted(D::Grant),
    Offered(D::Offer),
}

/// What the next slot holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Next {
    /// The first response of a frame.
    First,
    /// An extra. Whether there are more responses was said before.
    Extra { has_more: bool },
    /// A later response.
    More,
}

/// A frame that has not ended.
#[derive(Debug)]
struct Partial<D: Flips> {
    frame: Frame<D>,
    offload: Offload,
    /// The back-end reported an error about a part of it.
    is_bad: bool,
}

impl<D: Flips> Partial<D> {
    fn new(pool: &Pool<D>) -> Self {
        Self {
            frame: Frame::new(pool),
            offload: Offload::default(),
            is_bad: false,
        }
    }
}

impl<D: Flips> Receive<D> {
    /// For a back-end that fills pages so.
    pub fn new(pool: Pool<D>, front: Front<D::Grant, Rx>, mode: Mode) -> Self {
        Self {
            partial: Partial::new(&pool),
            pool,
            front,
            mode,
            posted: VecDeque::new(),
            count: 0,
            next: Next::First,
            frames: VecDeque::new(),
            full: 0,
            counts: Counts::default(),
            broken: None,
        }
    }

    /// What was received, until now.
    #[must_use]
    pub const fn counts(&self) -> Counts {
        self.counts
    }

    /// How many pages the back-end may fill.
    #[must_use]
    pub fn posted(&self) -> usize {
        self.posted.len()
    }

    /// Why nothing works any more, if that is so.
    #[must_use]
    pub const fn broken(&self) -> Option<Broken> {
        self.broken
    }

    /// The next frame. Its room in the ring is used again with the next [`step`](Self::step).
    pub fn take(&mut self) -> Option<Received<D>> {
        let received = self.frames.pop_front()?;
        self.full = self.full.saturating_sub(received.frame.parts().len());
        Some(received)
    }

    /// Whether there is a frame.
    #[must_use]
    pub fn has_frames(&self) -> bool {
        !self.frames.is_empty()
    }

    /// Takes what was received, and posts pages. There are never more pages posted, and in frames that were not [taken](Self::take), than the ring has
    /// slots: who takes none gets none. The back-end is to be notified if it says so.
    ///
    /// # Errors
    ///
    /// [`Broken`] if the interface is. Frames that came before can still be taken.
    pub fn step(&mut self) -> Result<Notify, Broken> {
        self.broken.map_or(Ok(()), Err)?;
        while let Some(slot) = self.front.take().map_err(|error| self.fail(error.into()))? {
            self.answer(slot).map_err(|broken| self.fail(broken))?;
        }
        let mut is_posted = false;
        while self.posted.len().saturating_add(self.full) < self.front.size() as usize {
            if self.post().is_none() {
                break;
            }
            is_posted = true;
        }
        Ok(if is_posted { self.front.push() } else { Notify::No })
    }

    /// Whether to wait for the back-end's notification. [`step`](Self::step) first.
    ///
    /// # Errors
    ///
    /// [`Broken`] if the interface is.
    pub fn may_sleep(&mut self) -> Result<bool, Broken> {
        self.broken.map_or(Ok(()), Err)?;
        self.front.may_sleep().map_err(|error| self.fail(error.into()))
    }

    /// Gives the ring up. Pages that the back-end uses now are lost. Returns why.
    pub fn fail(&mut self, broken: Broken) -> Broken {
        self.broken.get_or_insert(broken);
        self.posted.clear();
        self.partial = Partial::new(&self.pool);
        broken
    }

    /// Posts a page, if there is one to be had. There is room.
    fn post(&mut self) -> Option<()> {
        let page = self.pool.page()?;
        let domain = self.pool.domain();
        let lent = match self.mode {
            Mode::Copy => domain.grant(page, Access::ReadWrite).map(Lent::Granted),
            Mode::Flip => domain.offer(page).map(Lent::Offered),
        };
        let lent = match lent {
            Ok(lent) => lent,
            Err(page) => {
                self.pool.keep(page);
                return None;
            }
        };
        // No type of an extra.
        const LOW: u8 = 0x80;
        let id = u16::from_le_bytes([LOW, self.count]);
        let gref = self.reference(&lent);
        self.front.post(&RxRequest { id, gref }).ok()?;
        self.count = self.count.wrapping_add(1);
        self.posted.push_back(Posted { id, lent });
        Some(())
    }

    fn reference(&self, lent: &Lent<D>) -> u32 {
        match lent {
            Lent::Granted(grant) => self.pool.domain().reference(grant),
            Lent::Offered(offer) => self.pool.domain().offered(offer),
        }
    }

    /// Takes a slot for what it claims to hold.
    fn answer(&mut self, slot: RxSlot) -> Result<(), Broken> {
        let response: RxResponse = slot.read();
        let Some(Posted { id, lent }) = self.posted.pop_front() else {
            return Err(Broken::NotAsked(response.id));
        };
        let is_response = response.id == id;
        match self.next {
            Next::Extra { has_more } if !is_response => {
                let (page, _) = self.take_back(lent)?;
                self.pool.keep(page);
                return self.extra(slot, has_more);
            }
            _ if !is_response => return Err(Broken::NotAsked(response.id)),
            Next::First => {}
            Next::More if response.flags & RX_EXTRA_INFO == 0 => {}
            // Only a frame's first response is followed by an extra, and none stands in the place of one.
            Next::More | Next::Extra { .. } => {
                self.partial = Partial::new(&self.pool);
                self.counts.cut = self.counts.cut.saturating_add(1);
                self.next = Next::First;
            }
        }
        self.response(response, lent)
    }

    /// Takes a page back from the back-end, and tells whether it is another.
    fn take_back(&self, lent: Lent<D>) -> Result<(D::Page, bool), Broken> {
        let domain = self.pool.domain();
        let taken = match lent {
            Lent::Granted(grant) => domain
                .revoke(grant)
                .map(|page| (page, false))
                .map_err(Lent::Granted),
            Lent::Offered(offer) => domain
                .withdraw(offer)
                .map(|withdrawn| match withdrawn {
                    Withdrawn::Same(page) => (page, false),
                    Withdrawn::Other(page) => (page, true),
                })
                .map_err(Lent::Offered),
        };
        taken.map_err(|lent| Broken::KeepsPage(self.reference(&lent)))
    }

    fn response(&mut self, response: RxResponse, lent: Lent<D>) -> Result<(), Broken> {
        let RxResponse {
            offset,
            flags,
            status,
            ..
        } = response;
        let reference = self.reference(&lent);
        let (page, is_other) = self.take_back(lent)?;
        match u16::try_from(status) {
            Ok(0) => self.pool.keep(page),
            Ok(size) => {
                if usize::from(offset).saturating_add(size.into()) > PAGE_SIZE {
                    return Err(Broken::OutOfPage { offset, size });
                }
                if self.mode == Mode::Flip && !is_other {
                    return Err(Broken::NotExchanged(reference));
                }
                let frame = &mut self.partial.frame;
                frame.push(Part {
                    page,
                    offset: offset.into(),
                    length: size.into(),
                });
                if frame.len() > MAX_FRAME || frame.parts().len() > MAX_SLOTS {
                    return Err(Broken::TooLong);
                }
            }
            Err(_) => {
                self.partial.is_bad = true;
                self.pool.keep(page);
            }
        }
        let has_more = flags & RX_MORE_DATA != 0;
        if self.next == Next::First {
            self.partial.offload.checksum = if flags & RX_CSUM_BLANK != 0 {
                Checksum::Blank
            } else if flags & RX_DATA_VALIDATED != 0 {
                Checksum::Validated
            } else {
                Checksum::Whole
            };
            if flags & RX_EXTRA_INFO != 0 {
                self.next = Next::Extra { has_more };
                return Ok(());
            }
        }
        self.go_on(has_more);
        Ok(())
    }

    fn extra(&mut self, slot: RxSlot, has_more: bool) -> Result<(), Broken> {
        let Extra {
            extra_type, flags, ..
        } = slot.read();
        match ExtraType::from_raw(extra_type) {
            Some(ExtraType::Gso) => {
                let Gso { size, gso_type, .. } = slot.read();
                let ip = match GsoType::from_raw(gso_type) {
                    Some(GsoType::Tcpv4) => Some(Ip::V4),
                    Some(GsoType::Tcpv6) => Some(Ip::V6),
                    Some(GsoType::None) | None => None,
                };
                let ip = ip
                    .filter(|_| size > 0)
                    .ok_or(Broken::Segments { gso_type, size })?;
                self.partial.offload.segments = Some(Segments { size, ip });
            }
            // Of no use here.
            Some(ExtraType::Hash) => {}
            Some(ExtraType::None | ExtraType::McastAdd | ExtraType::McastDel | ExtraType::Xdp) | None => {
                return Err(Broken::Extra(extra_type));
            }
        }
        if flags & EXTRA_MORE == 0 {
            self.go_on(has_more);
        }
        Ok(())
    }

    /// The frame goes on, or has ended.
    fn go_on(&mut self, has_more: bool) {
        if has_more {
            self.next = Next::More;
            return;
        }
        self.next = Next::First;
        let Partial {
            frame,
            offload,
            is_bad,
        } = core::mem::replace(&mut self.partial, Partial::new(&self.pool));
        if is_bad || frame.len() < MIN_FIRST {
            self.counts.errors = self.counts.errors.saturating_add(1);
            return;
        }
        self.counts.frames = self.counts.frames.saturating_add(1);
        self.full = self.full.saturating_add(frame.parts().len());
        self.frames.push_back(Received { frame, offload });
    }
}

impl<D: Flips> fmt::Debug for Receive<D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Receive")
            .field("mode", &self.mode)
            .field("posted", &self.posted.len())
            .field("frames", &self.frames.len())
            .field("counts", &self.counts)
            .field("broken", &self.broken)
            .finish_non_exhaustive()
    }
}
