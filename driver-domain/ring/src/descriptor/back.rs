//! The back-end's half: takes requests, answers them in the order of the ring.

use alloc::{boxed::Box, vec, vec::Vec};

use super::shared::{Consumer, REQ_EVENT, REQ_PROD, RSP_EVENT, RSP_PROD, Ring};
use super::{Notify, ProducerError, Protocol, RingError};
use crate::SharedPage;

/// A request that was taken and is to be answered, once. One that is dropped holds back all later answers for good.
#[must_use = "the front-end waits for an answer"]
#[derive(Debug)]
pub struct Ticket(u32);

/// The back-end's half of a ring.
#[derive(Debug)]
pub struct Back<P, K: Protocol> {
    ring: Ring<P, K>,
    requests: Consumer,
    /// What `rsp_prod` is, whatever the front-end makes of it.
    published: u32,
    /// By slot: answers that wait for older ones. Only slots from `published` to the next request have any.
    answers: Box<[Option<K::Response>]>,
}

impl<P: SharedPage, K: Protocol> Back<P, K> {
    /// Goes on where the ring's last back-end was when it ended, wherever that was: all that it has not answered is to be done. A ring that
    /// nobody has served yet is no different. The predecessor must be gone, and what its devices did for it with it.
    ///
    /// Notify the front-end afterwards: the predecessor may have died between an answer and its notification.
    ///
    /// # Errors
    ///
    /// [`RingError::Pages`] if so many pages are no ring, [`RingError::Producer`] if there cannot be so many requests.
    pub fn adopt(pages: Vec<P>) -> Result<Self, RingError> {
        let ring = Ring::new(pages)?;
        let published = ring.load(RSP_PROD);
        let requests = Consumer::new(REQ_PROD, REQ_EVENT, published);
        requests.waiting(&ring, ring.size())?;
        ring.restore(published);
        Ok(Self {
            requests,
            published,
            answers: vec![None; ring.size() as usize].into(),
            ring,
        })
    }

    /// How many slots the ring has: no more requests are ever taken and not answered.
    pub fn size(&self) -> u32 {
        self.ring.size()
    }

    /// How many requests were taken whose answers are not published.
    pub fn outstanding(&self) -> u32 {
        self.requests.next().wrapping_sub(self.published)
    }

    /// How many requests wait to be taken.
    ///
    /// # Errors
    ///
    /// [`ProducerError`] if there cannot be so many.
    pub fn waiting(&self) -> Result<u32, ProducerError> {
        self.requests.waiting(&self.ring, self.room())
    }

    /// Copies out the next request, if there is one.
    ///
    /// # Errors
    ///
    /// [`ProducerError`] if there cannot be so many requests as the front-end says.
    pub fn take(&mut self) -> Result<Option<(Ticket, K::Request)>, ProducerError> {
        let taken = self.requests.take(&self.ring, self.room())?;
        Ok(taken.map(|(index, request)| (Ticket(index), request)))
    }

    /// Answers a request that was taken from this ring. The front-end sees it with the first [`publish`](Self::publish) after all older
    /// requests are answered as well.
    pub fn complete(&mut self, ticket: Ticket, response: K::Response) {
        let Ticket(index) = ticket;
        let is_ours = index.wrapping_sub(self.published) < self.outstanding();
        debug_assert!(is_ours, "the ticket {index} is another ring's");
        if is_ours && let Some(answer) = self.answers.get_mut(self.ring.slot(index)) {
            *answer = Some(response);
        }
    }

    /// Publishes the answers before which there is none missing: together, so that who looks at the ring meanwhile sees all or none of them, if they
    /// are no more than [`together`](Self::together).
    pub fn publish(&mut self) -> Notify {
        let old = self.published;
        loop {
            let ready = self.ready();
            if ready == 0 {
                return self.ring.is_awaited(RSP_EVENT, old, self.published);
            }
            self.ring.save(self.published, ready);
            for _ in 0..ready {
                let answer = self.answers.get_mut(self.ring.slot(self.published));
                if let Some(response) = answer.and_then(Option::take) {
                    self.ring.write(self.published, &response);
                }
                self.published = self.published.wrapping_add(1);
            }
            self.ring.store(RSP_PROD, self.published);
        }
    }

    /// How many answers are published together at most.
    pub fn together(&self) -> u32 {
        self.ring.most()
    }

    /// How many answers there are from the oldest request on, without a gap, as far as they are published together.
    fn ready(&self) -> u32 {
        let most = self.together().min(self.outstanding());
        let is_ready = |ahead: &u32| {
            let slot = self.ring.slot(self.published.wrapping_add(*ahead));
            matches!(self.answers.get(slot), Some(Some(_)))
        };
        let ready = (0..most).take_while(is_ready).count();
        u32::try_from(ready).unwrap_or(most)
    }

    /// Whether to wait for the front-end's event: asks it for one with its next request, and then looks again. Publish first.
    ///
    /// # Errors
    ///
    /// [`ProducerError`] if there cannot be so many requests as the front-end says.
    pub fn may_sleep(&mut self) -> Result<bool, ProducerError> {
        self.requests.may_sleep(&self.ring, self.room())
    }

    /// How many more requests there may be.
    fn room(&self) -> u32 {
        self.ring.size().wrapping_sub(self.outstanding())
    }
}
