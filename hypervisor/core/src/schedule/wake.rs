//! Letting vCPUs run that rest, taking them from their CPUs for good, and telling CPUs that they should look.

use super::Queue;
use crate::domains::Domain;
use crate::hypervisor::{Hypervisor, Shared};
use crate::ids::CpuId;
use crate::machine::Machine;
use crate::sched::{CpuSet, Reschedule, SchedError, Share};
use crate::time::Purpose;
use crate::vcpu::Vcpu;
use bulkhead_abi::vcpu::Runstate;
use core::sync::atomic::Ordering;

impl<M: Machine> Hypervisor<M> {
    /// Lets a vCPU run for the first time, where there is least to do.
    pub(crate) fn start_vcpu(&self, domain: &Domain, vcpu: &Vcpu, share: Share) -> Result<(), SchedError> {
        let home = self.board.choose(share.affinity, None).unwrap_or(CpuId::BOOT);
        let shared = self.shared(home).ok_or(SchedError::Unknown)?;
        let key = (domain.id, vcpu.id);
        let mut queue = shared.queue.lock();
        queue.run.insert(key, share)?;
        vcpu.set_home(home);
        vcpu.set_up(true);
        let now = self.machine().now();
        let reschedule = queue.run.wake(key, now)?;
        vcpu.history.lock().enter(Runstate::Runnable, now);
        self.pass_on(home, shared, &queue, reschedule);
        Ok(())
    }

    /// Lets a vCPU run that is blocked. One that runs on another CPU is interrupted, so that it looks at its events.
    pub(crate) fn wake_vcpu(&self, domain: &Domain, vcpu: &Vcpu) {
        // Before the look at the queue, for one that is about to block: it looks at this under the queue's lock.
        vcpu.set_woken(true);
        let key = (domain.id, vcpu.id);
        loop {
            let home = vcpu.home();
            let Some(shared) = self.shared(home) else { return };
            let mut queue = shared.queue.lock();
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
                // It has moved meanwhile. If it has not, it is in no queue: stopped, or on its way between two, which
                // only one that can run is; it will look at its events when it does.
                Err(_) if vcpu.home() == home => return,
                Err(_) => {}
            }
        }
    }

    /// After a change to a queue: its CPU is told, and one that idles, if somebody waits here who might run there.
    pub(super) fn pass_on(&self, cpu: CpuId, shared: &Shared, queue: &Queue, reschedule: Reschedule) {
        self.board.publish(cpu, &queue.run.load());
        if reschedule == Reschedule::Yes {
            self.call(cpu, shared);
        }
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
    fn call(&self, cpu: CpuId, shared: &Shared) {
        // Release pairs with the Acquire of `must_schedule`: the CPU sees what it is called for. The lock does as well, but
        // the flag is looked at without it.
        if mutant!(NobodyCalled) {
            return;
        }
        shared.must_schedule.store(true, Ordering::Release);
        self.machine().kick(cpu);
    }

    /// Whether one of the CPUs of `set` runs guests.
    pub(crate) fn has_cpu_in(&self, set: CpuSet) -> bool {
        self.board.choose(set, None).is_some()
    }

    /// Gives the vCPUs of a domain another share, from now on. One that may not run any longer where it is goes elsewhere.
    pub(crate) fn set_share(&self, domain: &Domain, share: Share) {
        *domain.share.lock() = share;
        for vcpu in domain.vcpus.iter().filter(|vcpu| vcpu.is_up()) {
            let home = vcpu.home();
            let Some(shared) = self.shared(home) else { continue };
            let mut queue = shared.queue.lock();
            let now = self.machine().now();
            // If it has just moved, its new queue is told at the next change of its share: a weight may be late by that.
            let Ok(reschedule) = queue.run.set_share((domain.id, vcpu.id), share, now) else {
                continue;
            };
            self.pass_on(home, shared, &queue, reschedule);
        }
    }

    /// Takes a vCPU from its CPU for good.
    pub(crate) fn stop_vcpu(&self, domain: &Domain, vcpu: &Vcpu) {
        // First: one that is between two queues is not let in again.
        vcpu.set_up(false);
        let key = (domain.id, vcpu.id);
        loop {
            let home = vcpu.home();
            let Some(shared) = self.shared(home) else { return };
            let mut queue = shared.queue.lock();
            match queue.run.remove(key, self.machine().now()) {
                Ok(_) => {
                    self.board.publish(home, &queue.run.load());
                    drop(queue);
                    self.call(home, shared);
                    break;
                }
                Err(_) if vcpu.home() == home => break,
                Err(_) => {}
            }
        }
        vcpu.history.lock().stop(self.machine().now());
        for purpose in Purpose::ALL
            .into_iter()
            .filter(|_| !mutant!(StoppedWithDeadlines))
        {
            self.cancel_deadline(domain, vcpu, purpose);
        }
    }
}
