//! Virtual time: what a vCPU does, since when, and how long it has done each thing in all.
//!
//! ```text
//!              wake               load
//!   Offline ──────────> Runnable ──────> Running
//!      ^  ^              ^    ^             │
//!      │  └───stop───────┤    └── put away ─┤
//!      │                wake                │
//!      ├──stop──────── Blocked <─ put away ─┤
//!      └──────────────────── put away ──────┘
//! ```
//!
//! [`History`] says the truth about CPUs: a vCPU that is stopped while it runs is running until its CPU has put it
//! away. The law: at any moment the four totals add up to the time since the vCPU was made.

use bulkhead_abi::vcpu::{Runstate, RunstateInfo};

/// How a vCPU has spent its time. All times are nanoseconds since the machine started.
///
/// Clocks of two CPUs may differ by a little. A step that seems to come before the last one is taken to come with it, so that
/// no time is counted twice.
#[derive(Clone, Copy, Debug)]
pub struct History {
    state: Runstate,
    /// When it entered that state.
    since: u64,
    /// What it spent in each state until then.
    spent: [u64; Runstate::ALL.len()],
    /// When the vCPU was made.
    #[cfg(any(test, feature = "testing"))]
    made: u64,
}

impl History {
    /// That of a vCPU which is made now, and is offline.
    #[must_use]
    pub const fn new(now: u64) -> Self {
        Self {
            state: Runstate::Offline,
            since: now,
            spent: [0; Runstate::ALL.len()],
            #[cfg(any(test, feature = "testing"))]
            made: now,
        }
    }

    /// When it began what it does.
    #[cfg(any(test, feature = "testing"))]
    #[must_use]
    pub const fn since(&self) -> u64 {
        self.since
    }

    /// It does something else from now on.
    pub fn enter(&mut self, state: Runstate, now: u64) {
        let now = self.no_earlier(now);
        self.spent = self.totals(now);
        self.since = now;
        self.state = state;
    }

    /// It is started, or woken: it waits for a CPU, if it did not yet.
    pub fn wake(&mut self, now: u64) {
        match self.state {
            Runstate::Blocked | Runstate::Offline => self.enter(Runstate::Runnable, now),
            Runstate::Running | Runstate::Runnable => {}
        }
    }

    /// It may not run for now. One that has a CPU goes offline when that puts it away.
    pub fn stop(&mut self, now: u64) {
        match self.state {
            Runstate::Blocked | Runstate::Runnable => self.enter(Runstate::Offline, now),
            Runstate::Running | Runstate::Offline => {}
        }
    }

    /// What it does.
    #[must_use]
    pub const fn state(&self) -> Runstate {
        self.state
    }

    /// When it will have run for `ns` nanoseconds in all, if it runs and goes on; or when it last began to, if that was before.
    #[must_use]
    pub fn moment_of(&self, ns: u64) -> u64 {
        let [ran, ..] = self.spent;
        self.since.saturating_add(ns.saturating_sub(ran))
    }

    /// All that is known at `now`, as a guest is told.
    #[must_use]
    pub fn info(&self, now: u64) -> RunstateInfo {
        RunstateInfo {
            state: self.state.raw(),
            state_entry_time: self.since,
            time_ns: self.totals(self.no_earlier(now)),
        }
    }

    /// What it spent in each state up to `now`, which is no earlier than its last step.
    fn totals(&self, now: u64) -> [u64; Runstate::ALL.len()] {
        let mut totals = self.spent;
        if let Some(total) = totals.get_mut(self.state as usize) {
            // 584 years fit.
            *total = total.wrapping_add(now.wrapping_sub(self.since));
        }
        totals
    }

    fn no_earlier(&self, now: u64) -> u64 {
        now.max(self.since)
    }

    /// Checks that the totals add up to the vCPU's age.
    ///
    /// # Panics
    ///
    /// If they do not.
    #[cfg(any(test, feature = "testing"))]
    pub fn invariants(&self, now: u64) {
        let age = self.no_earlier(now).wrapping_sub(self.made);
        let totals = self.totals(self.no_earlier(now));
        assert_eq!(totals.iter().sum::<u64>(), age, "{self:?} at {now}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const MADE: u64 = 1000;

    /// A vCPU that is in `state` since 1100, and was offline before.
    fn in_state(state: Runstate) -> History {
        let mut history = History::new(MADE);
        history.enter(state, 1100);
        history
    }

    #[test]
    fn a_new_vcpu_is_offline() {
        let info = History::new(MADE).info(1500);
        assert_eq!(info.state, Runstate::Offline.raw());
        assert_eq!((info.state_entry_time, info.time_ns), (MADE, [0, 0, 0, 500]));
    }

    #[test]
    fn each_state_is_charged_for_its_own_time() {
        let mut history = in_state(Runstate::Runnable);
        history.enter(Runstate::Running, 1110);
        history.enter(Runstate::Blocked, 1160);
        history.wake(2160);
        history.enter(Runstate::Running, 2163);
        let info = history.info(2170);
        assert_eq!(info.state, Runstate::Running.raw());
        assert_eq!(
            (info.state_entry_time, info.time_ns),
            (2163, [50 + 7, 10 + 3, 1000, 100])
        );
    }

    #[test]
    fn who_rests_can_be_woken() {
        for &state in Runstate::ALL {
            let mut history = in_state(state);
            history.wake(1200);
            let expected = match state {
                Runstate::Blocked | Runstate::Offline => (Runstate::Runnable, 1200),
                Runstate::Running | Runstate::Runnable => (state, 1100),
            };
            assert_eq!((history.state(), history.info(1300).state_entry_time), expected);
        }
    }

    #[test]
    fn a_vcpu_with_a_cpu_stays_on_it_until_it_is_put_away() {
        for &state in Runstate::ALL {
            let mut history = in_state(state);
            history.stop(1200);
            let expected = match state {
                Runstate::Running => Runstate::Running,
                Runstate::Runnable | Runstate::Blocked | Runstate::Offline => Runstate::Offline,
            };
            assert_eq!(history.state(), expected, "{state}");
        }
        let mut history = in_state(Runstate::Running);
        history.stop(1200);
        history.enter(Runstate::Offline, 1250);
        assert_eq!(history.info(1300).time_ns, [150, 0, 0, 150]);
    }

    #[test]
    fn a_clock_that_is_behind_neither_takes_time_away_nor_counts_it_twice() {
        let mut history = in_state(Runstate::Running);
        history.enter(Runstate::Blocked, 1090);
        assert_eq!(history.info(1095).time_ns, [0, 0, 0, 100]);
        history.invariants(1095);
        assert_eq!(history.info(1101).time_ns, [0, 0, 1, 100]);
    }

    #[test]
    fn the_moment_when_it_has_run_for_so_long_is_told_ahead() {
        let mut history = in_state(Runstate::Running);
        assert_eq!(history.moment_of(30), 1130);
        history.enter(Runstate::Blocked, 1120);
        history.enter(Runstate::Running, 5000);
        assert_eq!(history.moment_of(30), 5010);
        assert_eq!(history.info(5010).time_ns[0], 30);
        assert_eq!(history.moment_of(20), 5000, "it has already");
        assert_eq!(history.moment_of(u64::MAX), u64::MAX);
    }

    proptest! {
        #[test]
        fn the_totals_add_up_to_the_age_after_any_history(
            steps in prop::collection::vec((0_usize..6, 0_u64..1 << 40, any::<bool>()), 0..100)
        ) {
            let (mut history, mut now) = (History::new(MADE), MADE);
            for (step, ns, is_late) in steps {
                // Some steps come with a clock that is behind.
                now = if is_late { now.saturating_sub(ns % 1000) } else { now.saturating_add(ns) };
                match Runstate::ALL.get(step) {
                    Some(&state) => history.enter(state, now),
                    None if step == 4 => history.wake(now),
                    None => history.stop(now),
                }
                history.invariants(now);
                prop_assert!(history.info(now).state_entry_time <= history.no_earlier(now));
            }
        }
    }
}
