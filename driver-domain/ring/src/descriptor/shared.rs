//! The pages of a ring, and what both halves do with them: find slots, and take what the peer publishes.

use alloc::vec::Vec;
use core::marker::PhantomData;

use bulkhead_abi::layout::PAGE_SIZE;
use bulkhead_abi::{Buffered, Record};

use super::{MAX_PAGES, Notify, ProducerError, Protocol, RingError};
use crate::SharedPage;
use crate::sync::{Ordering, fence};

/// Offsets of the header's words.
pub(super) const REQ_PROD: usize = 0;
pub(super) const REQ_EVENT: usize = 4;
pub(super) const RSP_PROD: usize = 8;
pub(super) const RSP_EVENT: usize = 12;
/// What `rsp_prod` will be when the responses that are being written are published.
pub(super) const MARK: usize = 28;
/// What a response that is written by itself overwrites.
pub(super) const SAVED: usize = 32;
/// Where the slots begin.
pub(super) const SLOTS: usize = 64;

/// The pages of one ring, one behind the other.
#[derive(Debug)]
pub(super) struct Ring<P, K> {
    pages: Vec<P>,
    size: u32,
    kind: PhantomData<fn(K) -> K>,
}

impl<P: SharedPage, K: Protocol> Ring<P, K> {
    const SLOT_SIZE: usize = {
        let (request, response) = (K::Request::SIZE, K::Response::SIZE);
        assert!(SAVED + response <= SLOTS && request <= PAGE_SIZE - SLOTS);
        if request > response { request } else { response }
    };

    pub(super) fn new(pages: Vec<P>) -> Result<Self, RingError> {
        let bytes = pages.len().saturating_mul(PAGE_SIZE).saturating_sub(SLOTS);
        let slots = bytes.checked_div(Self::SLOT_SIZE).and_then(usize::checked_ilog2);
        match slots {
            Some(order) if pages.len() <= MAX_PAGES => Ok(Self {
                pages,
                size: 1 << order,
                kind: PhantomData,
            }),
            _ => Err(RingError::Pages(pages.len())),
        }
    }

    /// How many slots there are, a power of two.
    pub(super) fn size(&self) -> u32 {
        self.size
    }

    /// Which slot an index names.
    pub(super) fn slot(&self, index: u32) -> usize {
        (index & self.size.wrapping_sub(1)) as usize
    }

    /// Where in the pages this slot begins.
    fn place(&self, index: u32) -> usize {
        SLOTS.saturating_add(self.slot(index).saturating_mul(Self::SLOT_SIZE))
    }

    pub(super) fn load(&self, offset: usize) -> u32 {
        self.pages.first().map_or(0, |page| page.load(offset))
    }

    pub(super) fn store(&self, offset: usize, value: u32) {
        if let Some(page) = self.pages.first() {
            page.store(offset, value);
        }
    }

    /// Makes the header that of a ring without requests.
    pub(super) fn clear(&self) {
        if let Some(page) = self.pages.first() {
            page.write(0, &[0; SLOTS]);
        }
        self.store(REQ_EVENT, 1);
        self.store(RSP_EVENT, 1);
    }

    /// Copies a record out of the slot of `index`.
    pub(super) fn read<R: Buffered>(&self, index: u32) -> R {
        let mut buffer = R::EMPTY;
        self.copy_out(self.place(index), buffer.as_mut());
        // A buffer has its record's size.
        R::read_from(buffer.as_ref()).unwrap_or(R::ZERO)
    }

    /// Copies a record into the slot of `index`.
    pub(super) fn write<R: Buffered>(&self, index: u32, record: &R) {
        self.copy_in(self.place(index), record.to_bytes().as_ref());
    }

    /// Where what several responses overwrite is saved: behind the slots, one after the other.
    fn behind(&self) -> usize {
        SLOTS.saturating_add((self.size as usize).saturating_mul(Self::SLOT_SIZE))
    }

    /// How many responses can be written together: there is room to save what they overwrite.
    pub(super) fn most(&self) -> u32 {
        let bytes = self.pages.len().saturating_mul(PAGE_SIZE);
        let room = bytes.saturating_sub(self.behind()).checked_div(K::Response::SIZE);
        let room = room.and_then(|room| u32::try_from(room).ok()).unwrap_or(1);
        room.clamp(1, self.size)
    }

    /// Where what each of `count` responses from `index` on overwrites is, and where it is saved.
    fn saved(&self, index: u32, count: u32) -> impl Iterator<Item = (usize, usize)> {
        let base = if count == 1 { SAVED } else { self.behind() };
        let places = (0..count).map(move |ahead| self.place(index.wrapping_add(ahead)));
        places.zip((base..).step_by(K::Response::SIZE))
    }

    /// Saves what `count` responses in the slots from `index` on will overwrite, 1 to [`most`](Self::most) of them.
    pub(super) fn save(&self, index: u32, count: u32) {
        // The index of the last responses is in the page before their saved bytes go: the mark is about them until then.
        fence(Ordering::Release);
        let mut buffer = K::Response::EMPTY;
        for (place, saved) in self.saved(index, count) {
            self.copy_out(place, buffer.as_mut());
            self.copy_in(saved, buffer.as_ref());
        }
        self.store(MARK, index.wrapping_add(count));
        // The mark is in the page before any byte of the responses.
        fence(Ordering::Release);
    }

    /// Puts back what responses in the slots from `index` on have overwritten, if some have begun to. Doing it twice does no harm: the mark may stay.
    pub(super) fn restore(&self, index: u32) {
        let count = self.load(MARK).wrapping_sub(index);
        if count == 0 || count > self.most() {
            return;
        }
        let mut buffer = K::Response::EMPTY;
        for (place, saved) in self.saved(index, count) {
            self.copy_out(saved, buffer.as_mut());
            self.copy_in(place, buffer.as_ref());
        }
    }

    /// Whether the peer waits for what was published: the index was `old` before, and is stored as `new`.
    pub(super) fn is_awaited(&self, event: usize, old: u32, new: u32) -> Notify {
        // With the barrier in `Consumer::may_sleep`: either this sees the peer's new event index, or the peer sees the new index.
        fence(Ordering::SeqCst);
        if new.wrapping_sub(self.load(event)) < new.wrapping_sub(old) {
            Notify::Yes
        } else {
            Notify::No
        }
    }

    /// Records cross from one page into the next where a slot does.
    fn copy_out(&self, mut place: usize, mut to: &mut [u8]) {
        while let Some((page, offset, length)) = self.part(place, to.len()) {
            let (part, rest) = to.split_at_mut(length);
            page.read(offset, part);
            (place, to) = (place.saturating_add(length), rest);
        }
    }

    fn copy_in(&self, mut place: usize, mut from: &[u8]) {
        while let Some((page, offset, length)) = self.part(place, from.len()) {
            let (part, rest) = from.split_at(length);
            page.write(offset, part);
            (place, from) = (place.saturating_add(length), rest);
        }
    }

    /// The page that `place` is in, where in it, and how many of `length` bytes are there; `None` when there are none.
    fn part(&self, place: usize, length: usize) -> Option<(&P, usize, usize)> {
        let offset = place % PAGE_SIZE;
        let length = length.min(PAGE_SIZE.saturating_sub(offset));
        let page = self.pages.get(place / PAGE_SIZE)?;
        (length > 0).then_some((page, offset, length))
    }
}

/// Who takes what the peer produces: requests or responses.
#[derive(Debug)]
pub(super) struct Consumer {
    producer: usize,
    event: usize,
    next: u32,
}

impl Consumer {
    /// One that goes on at index `next`.
    pub(super) fn new(producer: usize, event: usize, next: u32) -> Self {
        Self {
            producer,
            event,
            next,
        }
    }

    /// How many were taken, ever.
    pub(super) fn next(&self) -> u32 {
        self.next
    }

    /// How many wait, of `room` at most.
    pub(super) fn waiting<P: SharedPage, K: Protocol>(
        &self,
        ring: &Ring<P, K>,
        room: u32,
    ) -> Result<u32, ProducerError> {
        let theirs = ring.load(self.producer);
        let claimed = theirs.wrapping_sub(self.next);
        if claimed > room {
            return Err(ProducerError {
                theirs,
                ours: self.next,
                room,
            });
        }
        Ok(claimed)
    }

    /// Copies out the next one, and its index.
    pub(super) fn take<R: Buffered, P: SharedPage, K: Protocol>(
        &mut self,
        ring: &Ring<P, K>,
        room: u32,
    ) -> Result<Option<(u32, R)>, ProducerError> {
        if self.waiting(ring, room)? == 0 {
            return Ok(None);
        }
        let index = self.next;
        self.next = index.wrapping_add(1);
        Ok(Some((index, ring.read(index))))
    }

    /// Asks to be told of the next one, and looks whether it is there.
    pub(super) fn may_sleep<P: SharedPage, K: Protocol>(
        &self,
        ring: &Ring<P, K>,
        room: u32,
    ) -> Result<bool, ProducerError> {
        ring.store(self.event, self.next.wrapping_add(1));
        // With the barrier in `Ring::is_awaited`: either this sees the peer's new index, or the peer sees this event index.
        fence(Ordering::SeqCst);
        Ok(self.waiting(ring, room)? == 0)
    }
}
