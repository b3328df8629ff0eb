//! What the hypervisor says about this domain's vCPU, against the clock.

use core::ops::RangeInclusive;

use bulkhead_runtime::{
    Failure,
    time::{Duration, Instant, Runstate, RunstateInfo, runstate},
};

/// The vCPU's virtual time, read at some moment between two looks at the clock.
#[derive(Clone, Copy, Debug)]
pub(super) struct Reading {
    before: Instant,
    info: Result<RunstateInfo, Failure>,
    after: Instant,
}

/// Why a reading cannot be right.
#[derive(Debug)]
#[expect(dead_code, reason = "the fields are for the report, which prints them")]
pub(super) enum Wrong {
    /// It could not be had.
    Refused(Failure),
    /// Who asks is running, and has been since some time that is past.
    State(RunstateInfo),
    /// The totals have grown by more or less than time did.
    Sum {
        grown: Duration,
        time: RangeInclusive<Duration>,
    },
}

impl Reading {
    pub(super) fn now() -> Self {
        Self {
            before: Instant::now(),
            info: runstate(0),
            after: Instant::now(),
        }
    }

    /// What each total has grown by since `first`, in nanoseconds.
    pub(super) fn growth_since(&self, first: &Self) -> [u64; 4] {
        let totals = |reading: &Self| reading.info.map_or([0; 4], |info| info.time_ns);
        let mut pairs = totals(self).into_iter().zip(totals(first));
        core::array::from_fn(|_| pairs.next().map_or(0, |(last, first)| last.saturating_sub(first)))
    }

    /// Whether the totals have grown together as much as time has passed.
    pub(super) fn adds_up_since(&self, first: &Self) -> Result<(), Wrong> {
        let info = self.info.map_err(Wrong::Refused)?;
        if info.state != Runstate::Running.raw() || info.state_entry_time > self.after.as_nanos() {
            return Err(Wrong::State(info));
        }
        let grown = Duration::from_nanos(self.growth_since(first).iter().sum());
        let time = self.before.duration_since(first.after)..=self.after.duration_since(first.before);
        if time.contains(&grown) {
            Ok(())
        } else {
            Err(Wrong::Sum { grown, time })
        }
    }
}
