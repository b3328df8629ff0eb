//! Deadlines: set and taken back by vCPUs, done when a CPU's timer fires.

use crate::domains::Domain;
use crate::hypervisor::{Cpu, Hypervisor, Shared};
use crate::ids::CpuId;
use crate::machine::Machine;
use crate::time::{Deadline, Purpose};
use crate::vcpu::Vcpu;
use bulkhead_abi::event::Virq;
use core::num::NonZeroU64;
use core::sync::atomic::Ordering;

impl<M: Machine> Hypervisor<M> {
    /// Sets a deadline of the vCPU that this CPU runs.
    pub(crate) fn set_deadline(&self, domain: &Domain, vcpu: &Vcpu, purpose: Purpose, at: u64) {
        // It runs, so its home is this CPU.
        self.set_deadline_here(vcpu.home(), (domain, vcpu), purpose, (at, None));
    }

    /// Lets a vCPU of the running domain, which need not be the one that runs, have a timer interrupt every `period` nanoseconds from now on.
    /// One that is down has none, and loses it when it goes down. They come from the CPU of `caller`, which runs on this one.
    pub(crate) fn set_period(&self, domain: &Domain, caller: &Vcpu, vcpu: &Vcpu, period: NonZeroU64) {
        // Who stops it has this lock, or has ended the domain. And whoever else sets its timer has it.
        let life = domain.lifecycle.lock();
        if life.has_ended() {
            return;
        }
        let first = self.machine().now().saturating_add(period.get());
        self.set_deadline_here(
            caller.home(),
            (domain, vcpu),
            Purpose::Tick,
            (first, Some(period)),
        );
    }

    /// Ends that.
    pub(crate) fn stop_period(&self, domain: &Domain, vcpu: &Vcpu) {
        let _life = domain.lifecycle.lock();
        self.cancel_deadline(domain, vcpu, Purpose::Tick);
    }

    /// Sets a deadline on CPU `home`, which runs this.
    pub(super) fn set_deadline_here(
        &self,
        home: CpuId,
        (domain, vcpu): (&Domain, &Vcpu),
        purpose: Purpose,
        (at, period): (u64, Option<NonZeroU64>),
    ) {
        self.cancel_deadline(domain, vcpu, purpose);
        let Some(shared) = self.shared(home) else { return };
        let mut queue = shared.queue.lock();
        // Who is stopping it has gone through this lock, or will look for deadlines when it has.
        if purpose.is_of_vcpu() && !vcpu.is_up() {
            return;
        }
        queue.deadlines.set(Deadline {
            at,
            domain: domain.id,
            vcpu: vcpu.id,
            purpose,
            period,
        });
        vcpu.set_deadline_cpu(purpose, Some(home));
        let next = queue.next_look();
        drop(queue);
        if !mutant!(TimerNotSet) {
            self.machine().set_timer(next);
        }
    }

    /// Takes a deadline of a vCPU back, wherever it was set.
    pub(crate) fn cancel_deadline(&self, domain: &Domain, vcpu: &Vcpu, purpose: Purpose) {
        if let Some(shared) = vcpu.deadline_cpu(purpose).and_then(|cpu| self.shared(cpu)) {
            shared.queue.lock().deadlines.cancel(domain.id, vcpu.id, purpose);
            vcpu.set_deadline_cpu(purpose, None);
        }
    }

    /// The CPU's timer has fired: what is due is done, and a vCPU that has had its turn gives way.
    pub fn timer_interrupt(&self, cpu: &mut Cpu) {
        let Some(shared) = self.shared(cpu.id()) else {
            return;
        };
        let now = self.machine().now();
        self.do_due(cpu.id(), shared, now);
        if let Some(current) = cpu.current.as_mut() {
            self.ring_alarm(current);
        }
        let queue = shared.queue.lock();
        if queue.turn_end.is_some_and(|end| now >= end) {
            shared.must_schedule.store(true, Ordering::Relaxed);
        }
        let next = queue.next_look();
        drop(queue);
        self.machine().set_timer(next);
    }

    /// Does what is due at `now`: at most one thing for each deadline there is.
    pub(super) fn do_due(&self, cpu: CpuId, shared: &Shared, now: u64) {
        loop {
            // The lock is dropped before the vCPU is woken, which takes it again.
            let Some(due) = shared.queue.lock().deadlines.pop_due(now) else {
                return;
            };
            let Some(domain) = self.domains.get(due.domain) else {
                continue;
            };
            let Some(vcpu) = domain.vcpu(due.vcpu) else {
                continue;
            };
            match due.purpose {
                Purpose::Timer | Purpose::Tick => self.raise_virq(&domain, due.vcpu, Virq::Timer),
                Purpose::Poll => self.wake_vcpu(&domain, vcpu),
                Purpose::FirstWatchdog | Purpose::SecondWatchdog => {
                    self.watchdog_expired(cpu, domain, due.purpose);
                }
            }
        }
    }
}
