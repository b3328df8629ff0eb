//! How long a CPU works in the hypervisor without looking up.
//!
//! Interrupts are off there: a timer may be late by as much as the longest stretch between two looks. A stretch begins when a guest
//! is left, or waiting ends; it ends when a guest goes on, or waiting begins. [`Stretch`] is a CPU's own stop watch, [`Longest`] what
//! others may read of it.
//!
//! Writing to the operator's line is waiting for a slow device, at the speed that the line happens to have: stretches with output
//! are counted apart.

use core::sync::atomic::{AtomicU64, Ordering};

/// The stop watch of one CPU, in ticks of the time-stamp counter.
#[derive(Debug)]
pub(crate) struct Stretch {
    since: u64,
    /// The longest so far without output.
    longest: u64,
}

/// The longest stretches of one CPU, in ticks of the time-stamp counter.
#[derive(Debug, Default)]
pub(crate) struct Longest {
    silent: AtomicU64,
    with_output: AtomicU64,
}

/// Whether a CPU wrote to the operator's line in a stretch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Output {
    None,
    Some,
}

impl Stretch {
    /// What `since` is while the watch stands still.
    const STOPPED: u64 = u64::MAX;

    /// A watch that stands still until the first beginning.
    pub(crate) const fn new() -> Self {
        Self {
            since: Self::STOPPED,
            longest: 0,
        }
    }

    /// The watch stands still until the next beginning.
    #[inline]
    pub(crate) const fn stop(&mut self) {
        self.since = Self::STOPPED;
    }

    /// Whether a stretch has begun, and not ended.
    pub(crate) const fn runs(&self) -> bool {
        self.since != Self::STOPPED
    }

    /// A stretch begins.
    #[inline]
    pub(crate) const fn begin(&mut self, now: u64) {
        self.since = now;
    }

    /// Whether the present stretch is longer than any before that had no output.
    #[inline]
    pub(crate) const fn is_longest(&self, now: u64) -> bool {
        now.saturating_sub(self.since) > self.longest
    }

    /// Files a stretch that ends now, given when this CPU last wrote to the operator's line. Returns its length, and whether it had output.
    pub(crate) fn end(&mut self, now: u64, last_output: u64, longest: &Longest) -> (u64, Output) {
        let ticks = now.saturating_sub(self.since);
        if last_output >= self.since {
            // Only this CPU writes here.
            longest.with_output.fetch_max(ticks, Ordering::Relaxed);
            return (ticks, Output::Some);
        }
        self.longest = self.longest.max(ticks);
        longest.silent.store(self.longest, Ordering::Relaxed);
        (ticks, Output::None)
    }
}

impl Default for Stretch {
    fn default() -> Self {
        Self::new()
    }
}

impl Longest {
    /// The longest so far without output, and the longest with it: only if there was one longer than those without by then.
    pub(crate) fn ticks(&self) -> [u64; 2] {
        [&self.silent, &self.with_output].map(|ticks| ticks.load(Ordering::Relaxed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Lets stretches happen, each from when to when, with the last output before its end.
    fn longest(stretches: &[(u64, u64, u64)]) -> [u64; 2] {
        let (mut stretch, longest) = (Stretch::new(), Longest::default());
        for &(from, to, last_output) in stretches {
            stretch.begin(from);
            if stretch.is_longest(to) {
                stretch.end(to, last_output, &longest);
            }
        }
        longest.ticks()
    }

    #[test]
    fn the_longest_stretch_is_kept() {
        assert_eq!(longest(&[(10, 20, 0), (30, 55, 0), (60, 61, 0)]), [25, 0]);
    }

    #[test]
    fn stretches_with_output_are_counted_apart() {
        let stretches = [(10, 20, 0), (30, 90, 40), (100, 105, 40), (200, 212, 40)];
        assert_eq!(longest(&stretches), [12, 60]);
    }

    #[test]
    fn nothing_is_counted_before_the_first_beginning() {
        assert!(!Stretch::new().is_longest(1_000_000));
    }

    #[test]
    fn a_counter_that_runs_backwards_makes_no_stretch() {
        assert_eq!(longest(&[(100, 50, 0)]), [0, 0]);
    }
}
