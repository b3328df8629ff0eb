//! Deadlines: what each CPU has promised to do later.

use crate::ids::VcpuId;
use alloc::vec::Vec;
use bulkhead_abi::DomId;
use bulkhead_abi::sched::MAX_WATCHDOGS;
use core::num::NonZeroU64;

/// What a deadline is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// The vCPU's timer interrupt.
    Timer,
    /// The end of the vCPU's wait in a poll.
    Poll,
    /// The next tick of the vCPU's periodic timer.
    Tick,
    /// The end of the domain, unless it winds up its first watchdog before. Its first vCPU stands for the domain.
    FirstWatchdog,
    /// The same with its second.
    SecondWatchdog,
}

impl Purpose {
    /// All of them.
    pub const ALL: [Self; 5] = [
        Self::Timer,
        Self::Poll,
        Self::Tick,
        Self::FirstWatchdog,
        Self::SecondWatchdog,
    ];

    /// Those of a domain, as a whole: they last while its vCPUs come and go.
    pub const WATCHDOGS: [Self; MAX_WATCHDOGS as usize] = [Self::FirstWatchdog, Self::SecondWatchdog];

    /// Whether it is one vCPU's own, and ends when that goes down.
    #[must_use]
    pub const fn is_of_vcpu(self) -> bool {
        match self {
            Self::Timer | Self::Poll | Self::Tick => true,
            Self::FirstWatchdog | Self::SecondWatchdog => false,
        }
    }
}

/// A deadline of a vCPU's. Each vCPU has at most one for each purpose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Deadline {
    /// When, in nanoseconds since the machine started.
    pub at: u64,
    /// Whose.
    pub domain: DomId,
    /// Whose.
    pub vcpu: VcpuId,
    /// What for.
    pub purpose: Purpose,
    /// How long after it the next one is, in nanoseconds; `None` if it is the only one.
    pub period: Option<NonZeroU64>,
}

impl Deadline {
    /// The one after it, at `now`: those that were missed are not made up for.
    fn next(self, now: u64) -> Option<Self> {
        let period = self.period?;
        let late = now.saturating_sub(self.at) % period;
        Some(Self {
            at: now.saturating_sub(late).saturating_add(period.get()),
            ..self
        })
    }
}

/// A CPU's deadlines, the latest first.
///
/// Room for every vCPU's is made when the vCPU is made, so that setting a timer never allocates.
#[derive(Debug, Default)]
pub struct Deadlines(Vec<Deadline>);

impl Deadlines {
    /// None yet.
    #[must_use]
    pub const fn new() -> Self {
        Self(Vec::new())
    }

    /// Makes room for the deadlines of `vcpus` vCPUs in all. Says whether there is memory for it.
    pub fn reserve(&mut self, vcpus: usize) -> bool {
        let room = vcpus.saturating_mul(Purpose::ALL.len());
        self.0.try_reserve(room.saturating_sub(self.0.len())).is_ok()
    }

    /// Sets a deadline, in place of the one that the vCPU has for the same purpose.
    ///
    /// Without room for it (which was not reserved) the deadline is not set.
    pub fn set(&mut self, new: Deadline) {
        self.cancel(new.domain, new.vcpu, new.purpose);
        if self.0.len() < self.0.capacity() {
            let place = self.0.partition_point(|other| other.at > new.at);
            self.0.insert(place, new);
        }
    }

    /// Takes a deadline back, if there is one.
    pub fn cancel(&mut self, domain: DomId, vcpu: VcpuId, purpose: Purpose) {
        self.0
            .retain(|other| (other.domain, other.vcpu, other.purpose) != (domain, vcpu, purpose));
    }

    /// Takes the next deadline that has passed at `now`. If it is one of many, the next one is set.
    pub fn pop_due(&mut self, now: u64) -> Option<Deadline> {
        let due = self.0.pop_if(|next| next.at <= now)?;
        if let Some(next) = due.next(now).filter(|_| !mutant!(TickedOnce)) {
            self.set(next);
        }
        Some(due)
    }

    /// When the next one is.
    #[must_use]
    pub fn next(&self) -> Option<u64> {
        self.0.last().map(|next| next.at)
    }

    /// All of them, the latest first.
    #[cfg(any(test, feature = "testing"))]
    #[must_use]
    pub fn as_slice(&self) -> &[Deadline] {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn deadline(at: u64, vcpu: u32, purpose: Purpose) -> Deadline {
        Deadline {
            at,
            domain: DomId::new(1),
            vcpu: VcpuId::new(vcpu),
            purpose,
            period: None,
        }
    }

    #[test]
    fn a_periodic_deadline_comes_again_and_what_was_missed_is_not_made_up_for() {
        let mut deadlines = Deadlines::new();
        assert!(deadlines.reserve(1));
        deadlines.set(Deadline {
            period: NonZeroU64::new(10),
            ..deadline(5, 0, Purpose::Tick)
        });
        for (now, next) in [(5, 15), (16, 25), (67, 75)] {
            assert!(deadlines.pop_due(now).is_some());
            assert_eq!((deadlines.next(), deadlines.pop_due(now)), (Some(next), None));
        }
        deadlines.cancel(DomId::new(1), VcpuId::new(0), Purpose::Tick);
        assert_eq!(deadlines.next(), None);
    }

    #[test]
    fn deadlines_come_due_in_order() {
        let mut deadlines = Deadlines::new();
        assert!(deadlines.reserve(3));
        for (at, vcpu) in [(30, 0), (10, 1), (20, 2)] {
            deadlines.set(deadline(at, vcpu, Purpose::Timer));
        }
        assert_eq!(deadlines.next(), Some(10));
        assert_eq!(deadlines.pop_due(9), None);
        assert_eq!(deadlines.pop_due(25).map(|d| d.at), Some(10));
        assert_eq!(deadlines.pop_due(25).map(|d| d.at), Some(20));
        assert_eq!(deadlines.pop_due(25), None);
        assert_eq!(deadlines.next(), Some(30));
    }

    #[test]
    fn a_vcpu_has_one_deadline_for_each_purpose() {
        let mut deadlines = Deadlines::new();
        assert!(deadlines.reserve(1));
        deadlines.set(deadline(30, 0, Purpose::Timer));
        deadlines.set(deadline(40, 0, Purpose::Poll));
        deadlines.set(deadline(10, 0, Purpose::Timer));
        assert_eq!(deadlines.pop_due(100).map(|d| d.at), Some(10));
        deadlines.cancel(DomId::new(1), VcpuId::new(0), Purpose::Poll);
        assert_eq!(deadlines.next(), None);
    }

    #[test]
    fn what_was_not_reserved_for_is_not_set() {
        let mut deadlines = Deadlines::new();
        deadlines.set(deadline(30, 0, Purpose::Timer));
        assert_eq!(deadlines.next(), None);
    }
}
