//! How often a guest is started again: with pauses that grow, and not for ever.

use alloc::collections::VecDeque;

const SECOND: u64 = 1_000_000_000;

/// The window in which restarts are counted: ten minutes.
const WINDOW: u64 = 600 * SECOND;

/// The most restarts in a window.
pub const MOST: usize = 8;

/// A guest that ran so long before it ended did not end because of its start.
const LONG: u64 = 60 * SECOND;

/// The longest pause.
const LONGEST_PAUSE: u64 = 30 * SECOND;

/// What is done about a guest that has ended and is to run again. Times are in nanoseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It is started after this pause; the how-manieth restart in the window this is, from 1.
    After {
        /// How long.
        pause: u64,
        /// Which.
        attempt: u32,
    },
    /// It ended too often; the operator decides.
    Held {
        /// How many restarts it had in the window.
        restarts: u32,
    },
}

/// The restarts of one guest, lately.
#[derive(Debug, Default)]
pub struct Restarts {
    /// When they were.
    times: VecDeque<u64>,
    /// How many in a row without a long run between.
    hasty: u32,
}

impl Restarts {
    /// The guest, started at `started`, has ended at `now` and is to run again.
    ///
    /// The first restart comes at once, those after it after 1 s, 2 s, 4 s and so on, unless it ran for a minute.
    pub fn next(&mut self, started: u64, now: u64) -> Verdict {
        while self
            .times
            .front()
            .is_some_and(|&time| now.saturating_sub(time) >= WINDOW)
        {
            self.times.pop_front();
        }
        let count = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        if self.times.len() >= MOST {
            return Verdict::Held {
                restarts: count(self.times.len()),
            };
        }
        if now.saturating_sub(started) >= LONG {
            self.hasty = 0;
        }
        let pause = match self.hasty.checked_sub(1) {
            None => 0,
            Some(doublings) => SECOND
                .checked_shl(doublings)
                .unwrap_or(LONGEST_PAUSE)
                .min(LONGEST_PAUSE),
        };
        self.hasty = self.hasty.saturating_add(1);
        self.times.push_back(now);
        Verdict::After {
            pause,
            attempt: count(self.times.len()),
        }
    }

    /// How many there were lately, at `now`.
    #[must_use]
    pub fn count(&self, now: u64) -> u32 {
        let lately = self
            .times
            .iter()
            .filter(|&&time| now.saturating_sub(time) < WINDOW);
        u32::try_from(lately.count()).unwrap_or(u32::MAX)
    }

    /// The operator starts it: what was counts no more.
    pub fn forget(&mut self) {
        *self = Self::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_guest_that_ends_at_once_is_started_with_growing_pauses_and_then_held() {
        let mut restarts = Restarts::default();
        let mut pauses = Vec::new();
        let mut now = 0;
        let held = loop {
            match restarts.next(now, now + 1) {
                Verdict::After { pause, attempt } => {
                    pauses.push(pause / SECOND);
                    assert_eq!(attempt as usize, pauses.len());
                    now += pause + 1;
                }
                Verdict::Held { restarts } => break restarts,
            }
        };
        assert_eq!(pauses, [0, 1, 2, 4, 8, 16, 30, 30]);
        assert_eq!(held as usize, MOST);
    }

    #[test]
    fn a_guest_that_runs_long_is_always_started_at_once() {
        let mut restarts = Restarts::default();
        let mut now = 0;
        for _ in 0..100 {
            let ended = now + WINDOW / 4;
            let verdict = restarts.next(now, ended);
            assert!(
                matches!(
                    verdict,
                    Verdict::After {
                        pause: 0,
                        attempt: 1..=4
                    }
                ),
                "{verdict:?}"
            );
            now = ended;
        }
    }

    #[test]
    fn restarts_that_are_long_ago_do_not_count() {
        let mut restarts = Restarts::default();
        for _ in 0..MOST {
            assert!(matches!(restarts.next(0, 1), Verdict::After { .. }));
        }
        assert!(matches!(restarts.next(0, 2), Verdict::Held { .. }));
        assert_eq!(
            (restarts.count(2) as usize, restarts.count(WINDOW + 1)),
            (MOST, 0)
        );
        assert_eq!(
            restarts.next(0, WINDOW + 1),
            Verdict::After { pause: 0, attempt: 1 }
        );
    }

    #[test]
    fn an_operators_start_begins_anew() {
        let mut restarts = Restarts::default();
        for _ in 0..MOST {
            restarts.next(0, 1);
        }
        restarts.forget();
        assert_eq!(restarts.next(0, 2), Verdict::After { pause: 0, attempt: 1 });
    }
}
