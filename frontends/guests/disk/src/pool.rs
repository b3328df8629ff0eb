//! Several futures at a time, as many as there are.

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::future::poll_fn;
use core::task::Poll;

/// Runs all of these, and ends when all have ended.
pub async fn all(futures: impl IntoIterator<Item = impl Future<Output = ()>>) {
    let mut going: Vec<_> = futures.into_iter().map(Box::pin).collect();
    poll_fn(|context| {
        going.retain_mut(|future| future.as_mut().poll(context).is_pending());
        if going.is_empty() {
            Poll::Ready(())
        } else {
            Poll::Pending
        }
    })
    .await;
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;

    #[test]
    fn all_run_by_turns_and_are_waited_for() {
        let turns = Cell::new(0);
        let counted = (1..=5).map(|count| {
            let turns = &turns;
            async move {
                for _ in 0..count {
                    embassy_futures::yield_now().await;
                    turns.set(turns.get() + 1);
                }
            }
        });
        embassy_futures::block_on(all(counted));
        assert_eq!(turns.get(), 15);
        embassy_futures::block_on(all(core::iter::empty::<core::future::Ready<()>>()));
    }
}
