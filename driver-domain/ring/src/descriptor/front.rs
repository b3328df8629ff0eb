//! The front-end's half: posts requests, takes responses.

use alloc::vec::Vec;
use core::fmt;

use super::shared::{Consumer, REQ_EVENT, REQ_PROD, RSP_EVENT, RSP_PROD, Ring};
use super::{Notify, ProducerError, Protocol, RingError};
use crate::SharedPage;

/// Every slot has a request whose response was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Full;

impl fmt::Display for Full {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the ring is full: a response has to be taken first")
    }
}

impl core::error::Error for Full {}

/// The front-end's half of a ring.
///
/// What makes a response that of a request is in the records, and the caller's to check: most protocols have a number in both.
#[derive(Debug)]
pub struct Front<P, K> {
    ring: Ring<P, K>,
    responses: Consumer,
    /// How many requests are in slots.
    posted: u32,
    /// How many of them the back-end has been shown.
    pushed: u32,
}

impl<P: SharedPage, K: Protocol> Front<P, K> {
    /// Makes a new ring in pages that no back-end uses yet.
    ///
    /// # Errors
    ///
    /// [`RingError::Pages`] if so many pages are no ring.
    pub fn new(pages: Vec<P>) -> Result<Self, RingError> {
        let ring = Ring::new(pages)?;
        ring.clear();
        Ok(Self {
            ring,
            responses: Consumer::new(RSP_PROD, RSP_EVENT, 0),
            posted: 0,
            pushed: 0,
        })
    }

    /// How many slots the ring has: the most requests that can be outstanding.
    pub fn size(&self) -> u32 {
        self.ring.size()
    }

    /// How many requests were posted whose responses were not taken.
    pub fn outstanding(&self) -> u32 {
        self.posted.wrapping_sub(self.responses.next())
    }

    /// Puts a request in the next slot. The back-end sees it with the next [`push`](Self::push).
    ///
    /// # Errors
    ///
    /// [`Full`] if there is no free slot.
    pub fn post(&mut self, request: &K::Request) -> Result<(), Full> {
        if self.outstanding() >= self.ring.size() {
            return Err(Full);
        }
        self.ring.write(self.posted, request);
        self.posted = self.posted.wrapping_add(1);
        Ok(())
    }

    /// Shows the back-end what was posted.
    pub fn push(&mut self) -> Notify {
        let old = core::mem::replace(&mut self.pushed, self.posted);
        self.ring.store(REQ_PROD, self.posted);
        self.ring.is_awaited(REQ_EVENT, old, self.posted)
    }

    /// Copies out the next response, if there is one, and frees its slot.
    ///
    /// # Errors
    ///
    /// [`ProducerError`] if there cannot be so many responses as the back-end says.
    pub fn take(&mut self) -> Result<Option<K::Response>, ProducerError> {
        let taken = self.responses.take(&self.ring, self.room())?;
        Ok(taken.map(|(_, response)| response))
    }

    /// Whether to wait for the back-end's event: asks it for one with its next response, and then looks again. Push first.
    ///
    /// # Errors
    ///
    /// [`ProducerError`] if there cannot be so many responses as the back-end says.
    pub fn may_sleep(&mut self) -> Result<bool, ProducerError> {
        self.responses.may_sleep(&self.ring, self.room())
    }

    /// Goes on where the indices would be after so many requests and responses.
    #[cfg(test)]
    pub(super) fn start_at(&mut self, index: u32) {
        self.responses = Consumer::new(RSP_PROD, RSP_EVENT, index);
        (self.posted, self.pushed) = (index, index);
    }

    /// How many more responses there may be: no request has one that the back-end was not shown.
    fn room(&self) -> u32 {
        self.pushed.wrapping_sub(self.responses.next())
    }
}
