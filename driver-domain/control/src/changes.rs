//! Waiting for something to become true that others change.

use alloc::vec::Vec;
use core::{
    cell::RefCell,
    future::poll_fn,
    task::{Poll, Waker},
};

/// Tells all who wait that something has changed.
#[derive(Debug, Default)]
pub(crate) struct Changes(RefCell<Vec<Waker>>);

impl Changes {
    /// Something has changed.
    pub(crate) fn tell(&self) {
        for waker in self.0.take() {
            waker.wake();
        }
    }

    /// Waits until `is_so` returns something; it is asked now, and after each change.
    pub(crate) async fn until<T>(&self, mut is_so: impl FnMut() -> Option<T>) -> T {
        poll_fn(|context| match is_so() {
            Some(result) => Poll::Ready(result),
            None => {
                let mut waiting = self.0.borrow_mut();
                if !waiting.iter().any(|waker| waker.will_wake(context.waker())) {
                    waiting.push(context.waker().clone());
                }
                Poll::Pending
            }
        })
        .await
    }
}
