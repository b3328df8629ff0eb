//! Letting vCPUs run that rest, and telling CPUs that they should look.

use super::Queue;
use crate::domains::Domain;
use crate::hypervisor::{Hypervisor, Shared};
use crate::ids::CpuId;
use crate::machine::Machine;
use crate::sched::{CpuSet, Reschedule, Share};
use crate::vcpu::Vcpu;
use core::sync::atomic::Ordering;

impl<M: Machine> Hypervisor<M> {
    /// Lets a vCPU run that is blocked, unless it may not run. One that runs on another CPU is interrupted, so that it looks at its
    /// events.
    pub(crate) fn wake_vcpu(&self, domain: &Domain, vcpu: &Vcpu) {
        // Before the look at the queue, for one that is about to block: it looks at this under the queue's lock.
        vcpu.set_woken(true);
        let key = (domain.id, vcpu.id);
        loop {
            let home = vcpu.home();
            let Some(shared) = self.shared(home) else { return };
            let mut queue = shared.queue.lock();
            if !vcpu.may_run() {
                vcpu.resume_later();
                return;
            }
            let now = self.machine().now();
            match queue.run.wake(key, now) {
                Ok(reschedule) => {
                    vcpu.history.lock().wake(now);
                    if queue.run.running() == Some(key) {
                        drop(queue);
                        self.machine().kick(home);
                    } else {
                        self.pass_on(home, shared, &queue, reschedule);
                    }
                    return;
                }
                // It has moved meanwhile. If it has not, it is on its way between two queues, which only one that can run is; it will
                // look at its events when it does.
                Err(_) if vcpu.home() == home => return,
                Err(_) => {}
            }
        }
    }

    /// After a change to a queue: its CPU is told, and one that idles, if somebody waits here who might run there.
    pub(super) fn pass_on(&self, cpu: CpuId, shared: &Shared, queue: &Queue, reschedule: Reschedule) {
        if reschedule == Reschedule::Yes {
            self.call(cpu, shared);
        }
        if !self.has_other_cpus() {
            return;
        }
        self.board.publish(cpu, &queue.run.load());
        if let Some(idle) = self
            .board
            .idle(queue.run.waiting_affinity(), cpu)
            .filter(|&idle| idle != cpu)
            && let Some(shared) = self.shared(idle)
        {
            self.call(idle, shared);
        }
    }

    /// Makes a CPU look whom it should run.
    pub(super) fn call(&self, cpu: CpuId, shared: &Shared) {
        // Release pairs with the Acquire of `must_schedule`: the CPU sees what it is called for. The lock does as well, but
        // the flag is looked at without it.
        if mutant!(NobodyCalled) {
            return;
        }
        shared.must_schedule.store(true, Ordering::Release);
        self.machine().kick(cpu);
    }

    /// Makes the CPU that runs a vCPU look whom it should run, if one does: whoever takes the vCPU up later looks then.
    pub(crate) fn call_if_running(&self, domain: &Domain, vcpu: &Vcpu) {
        let home = vcpu.home();
        let Some(shared) = self.shared(home) else { return };
        let running = shared.queue.lock().run.running();
        if running == Some((domain.id, vcpu.id)) {
            self.call(home, shared);
        }
    }

    /// Whether one of the CPUs of `set` runs guests.
    pub(crate) fn has_cpu_in(&self, set: CpuSet) -> bool {
        self.board.choose(set, None).is_some()
    }

    /// Gives the vCPUs of a domain another share, from now on. One that may not run any longer where it is goes elsewhere.
    pub(crate) fn set_share(&self, domain: &Domain, share: Share) {
        let mut place = domain.share.lock();
        *place = share;
        for vcpu in &domain.vcpus {
            self.apply_share(domain, vcpu, share);
        }
    }

    /// Lets the calling vCPU run on `cpu` only, or wherever its domain's share says.
    pub(crate) fn pin(&self, domain: &Domain, vcpu: &Vcpu, cpu: Option<CpuId>) {
        let share = domain.share.lock();
        vcpu.set_pin(cpu);
        self.apply_share(domain, vcpu, *share);
    }

    /// Tells a vCPU's queue what its part of its domain's share is. The lock of that is held.
    fn apply_share(&self, domain: &Domain, vcpu: &Vcpu, share: Share) {
        let home = vcpu.home();
        let Some(shared) = self.shared(home) else { return };
        let mut queue = shared.queue.lock();
        let now = self.machine().now();
        // If it has just moved, its new queue is told at the next change of its share: a weight may be late by that.
        if let Ok(reschedule) = queue
            .run
            .set_share((domain.id, vcpu.id), vcpu.part_of(share), now)
        {
            self.pass_on(home, shared, &queue, reschedule);
        }
    }
}
