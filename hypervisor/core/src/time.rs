//! Deadlines: what each CPU has promised to do later.

use crate::ids::VcpuId;
use alloc::vec::Vec;
use bulkhead_abi::DomId;

/// What a deadline is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// The vCPU's timer interrupt.
    Timer,
    /// The end of the vCPU's wait in a poll.
    Poll,
}

impl Purpose {
    /// All of them.
    pub const ALL: [Self; 2] = [Self::Timer, Self::Poll];
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

    /// Takes the next deadline that has passed at `now`.
    pub fn pop_due(&mut self, now: u64) -> Option<Deadline> {
        self.0.pop_if(|next| next.at <= now)
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
        }
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
