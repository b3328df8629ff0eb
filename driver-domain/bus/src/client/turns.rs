//! Turns: how many do something at a time, the others in the order in which they came.

use alloc::collections::BTreeMap;
use core::task::{Poll, Waker};

/// Who has a turn, and who waits for one.
#[derive(Debug)]
pub(super) struct Turns {
    /// How many turns there are.
    free: usize,
    /// By ticket, which grow.
    waiting: BTreeMap<u64, Option<Waker>>,
    next: u64,
}

impl Turns {
    /// So many turns at a time.
    pub(super) const fn new(turns: usize) -> Self {
        Self {
            free: turns,
            waiting: BTreeMap::new(),
            next: 0,
        }
    }

    /// A ticket for a turn, to be [polled](Self::poll) until it is had, or [given back](Self::leave).
    pub(super) fn queue(&mut self) -> u64 {
        let ticket = self.next;
        self.next = self.next.wrapping_add(1);
        self.waiting.insert(ticket, None);
        ticket
    }

    /// Whether the turn has come, which is [ended](Self::end) later.
    pub(super) fn poll(&mut self, ticket: u64, waker: &Waker) -> Poll<()> {
        if self.waiting.keys().take(self.free).any(|first| *first == ticket) {
            self.waiting.remove(&ticket);
            self.free = self.free.saturating_sub(1);
            return Poll::Ready(());
        }
        if let Some(kept) = self.waiting.get_mut(&ticket) {
            super::core::keep(kept, waker);
        }
        Poll::Pending
    }

    /// Somebody who waits does so no more.
    pub(super) fn leave(&mut self, ticket: u64) {
        self.waiting.remove(&ticket);
        self.wake();
    }

    /// A turn is over.
    pub(super) fn end(&mut self) {
        self.free = self.free.saturating_add(1);
        self.wake();
    }

    /// Wakes those whose turn it is.
    fn wake(&mut self) {
        for waker in self.waiting.values_mut().take(self.free) {
            waker.take().inspect(Waker::wake_by_ref);
        }
    }
}
