//! Alarms on virtual time: a vCPU is told when it has run for so long.
//!
//! What it wants to be told is in its own state. Only while it runs is that a moment on the clock, which then stands in its CPU's queue
//! beside the end of its turn: so the alarm stands still with the vCPU, and one that rests costs nobody anything.

use crate::hypervisor::{Current, Hypervisor};
use crate::machine::Machine;
use bulkhead_abi::event::Virq;

impl<M: Machine> Hypervisor<M> {
    /// Lets the running vCPU be told when it has run for `at` nanoseconds in all, or not.
    pub(crate) fn set_virtual_alarm(&self, current: &mut Current, at: Option<u64>) {
        current.context.alarm = at;
        self.arm_alarm(current);
    }

    /// Makes the timer of this CPU fire when the alarm of the vCPU that runs is due.
    pub(super) fn arm_alarm(&self, current: &Current) {
        let Some(vcpu) = current.vcpu() else { return };
        let history = *vcpu.history.lock();
        let moment = current.context.alarm.map(|at| history.moment_of(at));
        // It runs, so its home is this CPU.
        let Some(shared) = self.shared(vcpu.home()) else {
            return;
        };
        let mut queue = shared.queue.lock();
        queue.alarm = moment;
        let next = queue.next_look();
        drop(queue);
        self.machine().set_timer(next);
    }

    /// Tells the running vCPU, if it has run for as long as it wanted to be told of.
    pub(super) fn ring_alarm(&self, current: &mut Current) {
        let Some(at) = current.context.alarm else { return };
        let Some(vcpu) = current.vcpu() else { return };
        let history = *vcpu.history.lock();
        if self.machine().now() >= history.moment_of(at) {
            self.set_virtual_alarm(current, None);
            self.raise_virq(&current.domain, current.vcpu, Virq::VirtualAlarm);
        }
    }
}
