//! Who wants to be woken when.
//!
//! A task has one entry, for the earliest deadline that it has asked for. A timer asks again each time its
//! task takes a step, so more entries would pile up; and a timer that was given up leaves its deadline behind,
//! which costs its task one needless step at that time, however many there were.
//!
//! A list in order, searched from end to end, is quick for hundreds of sleepers, small, and takes no memory
//! once it has its size. The queues that come with embassy-time were not taken: one looks at every sleeper
//! whenever anything is due, and accepts no waker but its executor's own; the other has room for 128.

use alloc::vec::Vec;
use core::task::Waker;

/// Sleepers, the last deadline first, in nanoseconds of system time.
#[derive(Debug)]
pub(super) struct TimerQueue(Vec<Sleeper>);

#[derive(Debug)]
struct Sleeper {
    deadline: u64,
    waker: Waker,
}

impl TimerQueue {
    /// Nobody sleeps.
    pub(super) const fn new() -> Self {
        Self(Vec::new())
    }

    /// Has `waker` woken at `deadline`, unless it will be earlier. The last instant there is never comes.
    pub(super) fn schedule(&mut self, deadline: u64, waker: &Waker) {
        let Self(sleepers) = self;
        let known = sleepers
            .iter()
            .enumerate()
            .find(|(_, sleeper)| sleeper.waker.will_wake(waker))
            .map(|(place, sleeper)| (place, sleeper.deadline));
        let waker = match known {
            Some((_, known)) if known <= deadline => return,
            Some((place, _)) => sleepers.remove(place).waker,
            None if deadline == u64::MAX => return,
            None => waker.clone(),
        };
        let place = self.first_before(deadline);
        self.0.insert(place, Sleeper { deadline, waker });
    }

    /// When the next is to be woken.
    pub(super) fn next_deadline(&self) -> Option<u64> {
        self.0.last().map(|sleeper| sleeper.deadline)
    }

    /// Takes one out who is due at `now`, of several the one with the latest deadline.
    ///
    /// The executor runs first what was woken last, so waking one after the other in this order lets them run
    /// in the order of their deadlines.
    pub(super) fn pop_due(&mut self, now: u64) -> Option<Waker> {
        let place = self.first_before(now.saturating_add(1));
        (place < self.0.len()).then(|| self.0.remove(place).waker)
    }

    /// The place of the first sleeper whose deadline is before `time`.
    fn first_before(&self, time: u64) -> usize {
        self.0.partition_point(|sleeper| sleeper.deadline >= time)
    }
}

#[cfg(test)]
mod tests {
    use std::{
        sync::{
            Arc,
            atomic::{AtomicU32, Ordering},
        },
        task::Wake,
        vec::Vec,
    };

    use super::*;

    /// Counts how often it is woken.
    #[derive(Default)]
    struct Sleeper(AtomicU32);

    impl Wake for Sleeper {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn sleepers<const N: usize>() -> ([Arc<Sleeper>; N], [Waker; N]) {
        let sleepers: [Arc<Sleeper>; N] = core::array::from_fn(|_| Arc::default());
        let wakers = sleepers.clone().map(Waker::from);
        (sleepers, wakers)
    }

    /// Wakes all that are due; returns their number.
    fn wake_due(queue: &mut TimerQueue, now: u64) -> usize {
        core::iter::from_fn(|| queue.pop_due(now))
            .map(Waker::wake)
            .count()
    }

    fn woken<const N: usize>(sleepers: &[Arc<Sleeper>; N]) -> [u32; N] {
        core::array::from_fn(|index| sleepers[index].0.load(Ordering::Relaxed))
    }

    #[test]
    fn a_sleeper_is_woken_once_and_not_before_its_time() {
        let (sleepers, [waker]) = sleepers();
        let mut queue = TimerQueue::new();
        queue.schedule(100, &waker);
        assert_eq!((queue.next_deadline(), wake_due(&mut queue, 99)), (Some(100), 0));
        assert_eq!((wake_due(&mut queue, 100), woken(&sleepers)), (1, [1]));
        assert_eq!((queue.next_deadline(), wake_due(&mut queue, u64::MAX)), (None, 0));
    }

    #[test]
    fn those_who_are_due_come_out_latest_first_and_the_others_stay() {
        let (_, wakers) = sleepers::<4>();
        let mut queue = TimerQueue::new();
        for (deadline, waker) in [30, 10, 20, 40].into_iter().zip(&wakers) {
            queue.schedule(deadline, waker);
        }
        let order: Vec<Waker> = core::iter::from_fn(|| queue.pop_due(35)).collect();
        let expected = [&wakers[0], &wakers[2], &wakers[1]];
        assert!(order.len() == 3 && order.iter().zip(expected).all(|(a, b)| a.will_wake(b)));
        assert_eq!(queue.next_deadline(), Some(40));
    }

    #[test]
    fn sleepers_with_the_same_deadline_are_all_woken() {
        let (sleepers, wakers) = sleepers::<100>();
        let mut queue = TimerQueue::new();
        wakers.iter().for_each(|waker| queue.schedule(7, waker));
        assert_eq!((wake_due(&mut queue, 7), woken(&sleepers)), (100, [1; 100]));
    }

    #[test]
    fn an_earlier_deadline_takes_the_place_of_a_later_one() {
        let (sleepers, [waker]) = sleepers();
        let mut queue = TimerQueue::new();
        queue.schedule(100, &waker);
        queue.schedule(50, &waker);
        assert_eq!((wake_due(&mut queue, 60), woken(&sleepers)), (1, [1]));
        assert_eq!(queue.next_deadline(), None);
    }

    #[test]
    fn a_later_deadline_waits_for_the_sleeper_to_ask_again() {
        let (_, [waker]) = sleepers();
        let mut queue = TimerQueue::new();
        queue.schedule(50, &waker);
        queue.schedule(100, &waker);
        assert_eq!((wake_due(&mut queue, 50), queue.next_deadline()), (1, None));
        queue.schedule(100, &waker);
        assert_eq!(queue.next_deadline(), Some(100));
    }

    #[test]
    fn asking_again_and_again_takes_no_more_room() {
        let (_, wakers) = sleepers::<2>();
        let mut queue = TimerQueue::new();
        for turn in 0..1000 {
            queue.schedule(2000 - turn, &wakers[0]);
            queue.schedule(2000 + turn, &wakers[1].clone());
        }
        assert_eq!(queue.0.len(), 2);
        assert_eq!(queue.next_deadline(), Some(1001));
    }

    #[test]
    fn the_last_instant_never_comes() {
        let (_, [waker]) = sleepers();
        let mut queue = TimerQueue::new();
        queue.schedule(u64::MAX, &waker);
        assert_eq!((queue.next_deadline(), wake_due(&mut queue, u64::MAX)), (None, 0));
    }

    /// Random requests and looks, against a list of deadlines without order.
    #[test]
    fn random_requests_agree_with_a_model() {
        let (sleepers, wakers) = sleepers::<16>();
        let mut queue = TimerQueue::new();
        let mut model: [Option<u64>; 16] = [None; 16];
        let mut expected = [0; 16];
        let (mut now, mut random) = (0_u64, 1_u64);
        for _ in 0..100_000 {
            random = random
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            let (chance, who) = (random >> 33, usize::try_from(random >> 60).unwrap());
            if chance.is_multiple_of(4) {
                now += chance / 4 % 50;
                wake_due(&mut queue, now);
                for (deadline, count) in model.iter_mut().zip(&mut expected) {
                    if deadline.take_if(|deadline| *deadline <= now).is_some() {
                        *count += 1;
                    }
                }
                assert_eq!(woken(&sleepers), expected, "at {now}");
            } else {
                let deadline = now + chance / 4 % 200;
                queue.schedule(deadline, &wakers[who]);
                model[who] = Some(model[who].map_or(deadline, |known| known.min(deadline)));
            }
            assert_eq!(queue.next_deadline(), model.iter().flatten().min().copied());
        }
        assert!(expected.iter().all(|count| *count > 100), "{expected:?}");
    }
}
