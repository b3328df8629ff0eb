//! One vCPU as a queue sees it: its claim, its account, its warp.

use super::placement::CpuSet;
use super::vtime::{Pace, Span, VirtualTime, Weight};

/// How far a vCPU may borrow from its future.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Warp {
    /// By how much its effective virtual time is earlier than its actual: nanoseconds, as of a vCPU of the default weight;
    /// 0 for no warp.
    pub by_ns: u32,
    /// The longest that it may run warped at a time, in nanoseconds; `None` for no limit.
    pub limit_ns: Option<u32>,
    /// How long it stays unwarped, at least, after it reached the limit, in nanoseconds. This is also the time without
    /// running in which it recovers the whole limit; in a part of the time, that part.
    pub unwarp_ns: u32,
}

impl Warp {
    /// No warp.
    pub const NONE: Self = Self {
        by_ns: 0,
        limit_ns: None,
        unwarp_ns: 0,
    };

    /// How much of the limit a vCPU recovers that has not run for `ns` nanoseconds.
    fn recovered(self, ns: u64) -> u64 {
        let limit = self.limit_ns.map_or(0, u64::from);
        let unwarp = u64::from(self.unwarp_ns);
        // The product of two numbers of 32 bits does not overflow.
        limit
            .saturating_mul(ns.min(unwarp))
            .checked_div(unwarp)
            .unwrap_or(limit)
    }
}

/// What a vCPU is entitled to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Share {
    /// Its part of the CPU, relative to others.
    pub weight: Weight,
    /// Its claim to run soon.
    pub warp: Warp,
    /// The CPUs on which it may run.
    pub affinity: CpuSet,
}

/// What a vCPU is doing, as far as the queue is concerned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Nothing.
    Blocked,
    /// It waits for the CPU.
    Waiting,
    /// It has the CPU.
    Running,
}

/// Whether the warp of a vCPU is in force.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Warping {
    /// It is, and the vCPU has run warped for so many nanoseconds.
    Warped { spent: u64 },
    /// The vCPU reached its limit, and may not warp before the given time.
    Resting { until: u64 },
}

/// One vCPU of a queue.
#[derive(Clone, Copy, Debug)]
pub(super) struct Entity<Id> {
    pub(super) id: Id,
    pub(super) share: Share,
    pub(super) state: State,
    /// Its actual virtual time.
    pub(super) avt: VirtualTime,
    pace: Pace,
    warping: Warping,
    /// Up to when `warping` is in order.
    settled: u64,
}

impl<Id> Entity<Id> {
    /// A vCPU that has not run, and does not want to.
    pub(super) fn new(id: Id, share: Share, avt: VirtualTime) -> Self {
        let state = State::Blocked;
        Self {
            id,
            share,
            state,
            avt,
            pace: share.weight.pace(),
            warping: Warping::Warped { spent: 0 },
            settled: 0,
        }
    }

    /// Its effective virtual time.
    pub(super) fn evt(&self) -> VirtualTime {
        match self.warping {
            Warping::Warped { .. } => self
                .avt
                .before(Weight::DEFAULT.pace().span(u64::from(self.share.warp.by_ns))),
            Warping::Resting { .. } => self.avt,
        }
    }

    /// The virtual time that passes when it runs for `ns` nanoseconds.
    pub(super) fn span(&self, ns: u64) -> Span {
        self.pace.span(ns)
    }

    /// The nanoseconds in which it passes `span`.
    pub(super) fn ns(&self, span: Span) -> u64 {
        self.pace.ns(span)
    }

    /// Puts `ns` nanoseconds of running, up to `now`, on its account.
    pub(super) fn charge(&mut self, ns: u64, now: u64) {
        self.avt = self.avt.after(self.span(ns));
        self.settled = now;
        if let Warping::Warped { spent } = &mut self.warping {
            *spent = spent.saturating_add(ns);
            if self
                .share
                .warp
                .limit_ns
                .is_some_and(|limit| *spent >= u64::from(limit))
            {
                self.warping = Warping::Resting {
                    until: now.saturating_add(u64::from(self.share.warp.unwarp_ns)),
                };
            }
        }
    }

    /// How long it may still run as it is before its warp ends; `None` if it does not end.
    pub(super) fn warp_left(&self) -> Option<u64> {
        match self.warping {
            Warping::Warped { spent } => self
                .share
                .warp
                .limit_ns
                .map(|limit| u64::from(limit).saturating_sub(spent)),
            Warping::Resting { .. } => None,
        }
    }

    /// Takes into account for how long it has not run, for its warp. To be called when it starts to wait: while it waits, its
    /// place in the queue stands.
    pub(super) fn settle_warp(&mut self, now: u64) {
        match self.warping {
            Warping::Resting { until } if now >= until => self.warping = Warping::Warped { spent: 0 },
            Warping::Resting { .. } => {}
            Warping::Warped { spent } => {
                let recovered = self.share.warp.recovered(now.saturating_sub(self.settled));
                self.warping = Warping::Warped {
                    spent: spent.saturating_sub(recovered),
                };
            }
        }
        self.settled = now;
    }

    /// Gives it another share from now on. What it has run stays on its account as it was charged.
    pub(super) fn set_share(&mut self, share: Share) {
        if share.warp != self.share.warp {
            self.warping = Warping::Warped { spent: 0 };
        }
        self.share = share;
        self.pace = share.weight.pace();
    }

    pub(super) fn is_runnable(&self) -> bool {
        match self.state {
            State::Waiting | State::Running => true,
            State::Blocked => false,
        }
    }
}
