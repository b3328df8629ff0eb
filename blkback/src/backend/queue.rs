//! One ring of a front-end, and the requests that were taken from it and wait for their turn.

use alloc::collections::VecDeque;
use alloc::vec::Vec;

use bulkhead_ring::SharedPage;
use bulkhead_ring::descriptor::{Back, Notify, ProducerError, RingError, Ticket};

use crate::wire::{Answer, Ask, Compat, Layout, Native, Request, Wire, parse};

/// A ring of either layout.
#[derive(Debug)]
pub(super) enum Ring<P> {
    Native(Back<P, Native>),
    Compat(Back<P, Compat>),
}

impl<P: SharedPage> Ring<P> {
    fn adopt(layout: Layout, pages: Vec<P>) -> Result<Self, RingError> {
        Ok(match layout {
            Layout::X86_64 => Self::Native(Back::adopt(pages)?),
            Layout::X86_32 => Self::Compat(Back::adopt(pages)?),
        })
    }

    fn size(&self) -> u32 {
        match self {
            Self::Native(back) => back.size(),
            Self::Compat(back) => back.size(),
        }
    }

    pub(super) fn take(&mut self) -> Result<Option<(Ticket, Request)>, ProducerError> {
        fn take<P: SharedPage, K: Wire>(
            back: &mut Back<P, K>,
        ) -> Result<Option<(Ticket, Request)>, ProducerError> {
            Ok(back.take()?.map(|(ticket, slot)| (ticket, parse::<K>(&slot))))
        }
        match self {
            Self::Native(back) => take(back),
            Self::Compat(back) => take(back),
        }
    }

    pub(super) fn complete(&mut self, ticket: Ticket, answer: Answer) {
        match self {
            Self::Native(back) => back.complete(ticket, Native::answer(answer)),
            Self::Compat(back) => back.complete(ticket, Compat::answer(answer)),
        }
    }

    pub(super) fn publish(&mut self) -> Notify {
        match self {
            Self::Native(back) => back.publish(),
            Self::Compat(back) => back.publish(),
        }
    }

    pub(super) fn may_sleep(&mut self) -> Result<bool, ProducerError> {
        match self {
            Self::Native(back) => back.may_sleep(),
            Self::Compat(back) => back.may_sleep(),
        }
    }
}

/// A request that waits for its turn.
#[derive(Debug)]
pub(super) struct Waiting {
    pub(super) ticket: Ticket,
    pub(super) request: Request,
    pub(super) ask: Ask,
    /// What it costs its VBD: see [`cost`](super::share::cost).
    pub(super) cost: u64,
}

/// A ring, and what is under way for it.
#[derive(Debug)]
pub(super) struct Queue<P> {
    pub(super) ring: Ring<P>,
    pub(super) waiting: VecDeque<Waiting>,
    /// How many requests are under way.
    pub(super) active: u32,
    /// A barrier was taken and is not done: nothing is taken until it is.
    pub(super) has_barrier: bool,
    /// It is to be looked at.
    pub(super) is_kicked: bool,
    /// It has answers that are not published.
    pub(super) is_touched: bool,
}

impl<P: SharedPage> Queue<P> {
    pub(super) fn adopt(layout: Layout, pages: Vec<P>) -> Result<Self, RingError> {
        let ring = Ring::adopt(layout, pages)?;
        Ok(Self {
            waiting: VecDeque::with_capacity(ring.size() as usize),
            ring,
            active: 0,
            has_barrier: false,
            is_kicked: false,
            is_touched: false,
        })
    }

    /// What its next request costs, if there is one that can be begun. A barrier waits until it is alone.
    pub(super) fn next_cost(&self) -> Option<u64> {
        let next = self.waiting.front()?;
        let is_free = !self.has_barrier || self.waiting.len() > 1 || self.active == 0;
        is_free.then_some(next.cost)
    }
}
