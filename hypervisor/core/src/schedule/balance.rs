//! Moves of vCPUs between the queues of CPUs.

use super::Key;
use crate::hypervisor::{Hypervisor, Shared};
use crate::ids::CpuId;
use crate::machine::Machine;
use crate::sched::{Migrant, Reschedule};

impl<M: Machine> Hypervisor<M> {
    /// Takes a vCPU from the queue of `victim` into that of `cpu`, if one is still worth it.
    pub(super) fn pull(&self, cpu: CpuId, shared: &Shared, victim: CpuId) {
        let Some(other) = self.shared(victim) else { return };
        let now = self.machine().now();
        let thief_at = shared.queue.lock().run.load().oldest_runnable;
        let migrant = {
            let mut queue = other.queue.lock();
            let migrant = queue.run.steal(cpu, thief_at, now);
            self.board.publish(victim, &queue.run.load());
            migrant
        };
        if let Some(migrant) = migrant {
            self.settle(migrant, cpu);
        }
    }

    /// Lets a vCPU that has left its queue into that of `cpu`.
    pub(super) fn settle(&self, migrant: Migrant<Key>, cpu: CpuId) {
        let Some(shared) = self.shared(cpu) else { return };
        let (domain, vcpu) = migrant.id();
        let Some(domain) = self.domains.get(domain) else {
            return;
        };
        let Some(vcpu) = domain.vcpu(vcpu) else { return };
        let now = self.machine().now();
        let mut queue = shared.queue.lock();
        if !mutant!(HomeNotMoved) {
            vcpu.set_home(cpu);
        }
        // Every queue has room for every vCPU, and this one is in no other: it cannot be refused.
        let arrived = queue.run.arrive(migrant, now);
        debug_assert!(arrived.is_ok(), "{} has no room", cpu);
        if vcpu.may_run() {
            self.pass_on(cpu, shared, &queue, arrived.unwrap_or(Reschedule::Yes));
        } else {
            // Stopped on its way.
            vcpu.resume_later();
            let _ = queue.run.block((domain.id, vcpu.id), now);
            vcpu.history.lock().stop(now);
        }
    }
}
