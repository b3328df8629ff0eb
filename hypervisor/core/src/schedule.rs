//! Which vCPU a physical CPU runs: taking turns, blocking, waking, and the switch itself.

use crate::domains::Domain;
use crate::events::Port;
use crate::events::bits::SharedInfoView;
use crate::hypervisor::{Cpu, Current, Hypervisor, Shared};
use crate::ids::VcpuId;
use crate::machine::{Machine, Trace};
use crate::time::{Deadline, Deadlines, Purpose};
use crate::vcpu::{Regs, Run, Vcpu};
use alloc::collections::VecDeque;
use bulkhead_abi::DomId;
use bulkhead_abi::event::Virq;
use core::sync::atomic::Ordering;

/// How long a vCPU runs while others wait, in nanoseconds.
const SLICE_NS: u64 = 10_000_000;

/// Who waits for a CPU, first come first served, and what is due on it.
#[derive(Debug, Default)]
pub(crate) struct RunQueue {
    ready: VecDeque<(DomId, VcpuId)>,
    deadlines: Deadlines,
    slice_end: u64,
    /// How many vCPUs there is room for. Most of them do not wait, so the lengths above say nothing about it.
    vcpus: usize,
}

impl RunQueue {
    /// Makes room for `vcpus` more. Says whether there is memory for it.
    pub(crate) fn reserve(&mut self, vcpus: usize) -> bool {
        let total = self.vcpus.saturating_add(vcpus);
        let has_room = self
            .ready
            .try_reserve(total.saturating_sub(self.ready.len()))
            .is_ok()
            && self.deadlines.reserve(total);
        if has_room {
            self.vcpus = total;
        }
        has_room
    }

    /// Takes back what was reserved for vCPUs that there will not be.
    pub(crate) fn unreserve(&mut self, vcpus: usize) {
        self.vcpus = self.vcpus.saturating_sub(vcpus);
    }

    /// A vCPU is on the queue once at most, and there is room for each.
    fn enqueue(&mut self, domain: DomId, vcpu: &Vcpu) {
        vcpu.set_run(Run::Runnable);
        if self.ready.len() < self.ready.capacity() {
            self.ready.push_back((domain, vcpu.id));
        }
    }

    /// When the CPU must look here again.
    pub(crate) fn next_look(&self) -> Option<u64> {
        let slice = (!self.ready.is_empty()).then_some(self.slice_end);
        [slice, self.deadlines.next()].into_iter().flatten().min()
    }

    /// Who waits, in order.
    #[cfg(any(test, feature = "testing"))]
    pub(crate) fn waiting(&self) -> impl Iterator<Item = (DomId, VcpuId)> + '_ {
        self.ready.iter().copied()
    }

    /// What is due later.
    #[cfg(any(test, feature = "testing"))]
    pub(crate) fn deadlines(&self) -> &[Deadline] {
        self.deadlines.as_slice()
    }
}

impl<M: Machine> Hypervisor<M> {
    fn home(&self, vcpu: &Vcpu) -> Option<&Shared> {
        self.cpus.get(vcpu.home().index())
    }

    /// Lets a vCPU run that never has.
    pub(crate) fn start_vcpu(&self, domain: &Domain, vcpu: &Vcpu) {
        self.rouse(domain, vcpu, Run::Offline);
    }

    /// Lets a vCPU run that is blocked, and interrupts one that runs, so that it looks at its events.
    pub(crate) fn wake_vcpu(&self, domain: &Domain, vcpu: &Vcpu) {
        self.rouse(domain, vcpu, Run::Blocked);
    }

    fn rouse(&self, domain: &Domain, vcpu: &Vcpu, from: Run) {
        let Some(shared) = self.home(vcpu) else { return };
        let mut queue = shared.queue.lock();
        let run = vcpu.run();
        if run == from {
            queue.enqueue(domain.id, vcpu);
            shared.must_set_timer.store(true, Ordering::Release);
        } else if run != Run::Running {
            return;
        }
        drop(queue);
        self.machine().kick(vcpu.home());
    }

    /// Sets the timer of this CPU, whose queue this is, by what is due and whose turn ends.
    fn set_timer_by(&self, shared: &Shared, queue: &RunQueue) {
        // Before the look, and under the queue's lock: who changes the queue later asks for another.
        shared.must_set_timer.store(false, Ordering::Relaxed);
        self.machine().set_timer(queue.next_look());
    }

    /// Sets the timer anew if somebody came into line since it was set: now there is a turn that ends.
    pub(crate) fn catch_up_timer(&self, cpu: &Cpu) {
        if let Some(shared) = self.cpus.get(cpu.id().index())
            && shared.must_set_timer.load(Ordering::Acquire)
        {
            self.set_timer_by(shared, &shared.queue.lock());
        }
    }

    /// Takes a vCPU from its CPU for good.
    pub(crate) fn stop_vcpu(&self, domain: &Domain, vcpu: &Vcpu) {
        let Some(shared) = self.home(vcpu) else { return };
        let mut queue = shared.queue.lock();
        vcpu.set_run(Run::Offline);
        queue.ready.retain(|&waiting| waiting != (domain.id, vcpu.id));
        for purpose in [Purpose::Timer, Purpose::Poll] {
            queue.deadlines.cancel(domain.id, vcpu.id, purpose);
        }
        drop(queue);
        shared.must_schedule.store(true, Ordering::Release);
        self.machine().kick(vcpu.home());
    }

    /// Blocks the running vCPU until an event can be delivered to it, which may be at once.
    pub(crate) fn block(&self, domain: &Domain, vcpu: &Vcpu) {
        let Some(shared) = self.home(vcpu) else { return };
        {
            let _queue = shared.queue.lock();
            if vcpu.run() == Run::Running {
                vcpu.set_run(Run::Blocked);
            }
        }
        shared.must_schedule.store(true, Ordering::Release);
        // Blocked first, then the look: who raises an event sets its bits first, and then looks whether we are blocked.
        if self.with_info(vcpu, |info| info.upcall_wanted()) == Some(true) {
            self.wake_vcpu(domain, vcpu);
        }
    }

    /// Blocks the running vCPU until one of `ports` is pending, an event can be delivered, or `timeout` (ns) is over.
    pub(crate) fn poll(&self, domain: &Domain, vcpu: &Vcpu, ports: &[Port], timeout: Option<u64>) {
        vcpu.set_polling(true);
        if let Some(at) = timeout {
            self.set_deadline(domain, vcpu, Purpose::Poll, Some(at));
        }
        self.block(domain, vcpu);
        let frame = self.machine().frame(domain.shared_info);
        if ports
            .iter()
            .any(|&port| SharedInfoView::new(&frame).is_pending(port))
        {
            self.wake_vcpu(domain, vcpu);
        }
    }

    /// Lets the others on this CPU run first.
    pub(crate) fn yield_now(&self, vcpu: &Vcpu) {
        if let Some(shared) = self.home(vcpu) {
            shared.must_schedule.store(true, Ordering::Release);
        }
    }

    /// Sets or takes back a deadline of the vCPU's.
    pub(crate) fn set_deadline(&self, domain: &Domain, vcpu: &Vcpu, purpose: Purpose, at: Option<u64>) {
        let Some(shared) = self.home(vcpu) else { return };
        let mut queue = shared.queue.lock();
        match at {
            Some(at) => queue.deadlines.set(Deadline {
                at,
                domain: domain.id,
                vcpu: vcpu.id,
                purpose,
            }),
            None => queue.deadlines.cancel(domain.id, vcpu.id, purpose),
        }
        let next = queue.next_look();
        drop(queue);
        self.machine().set_timer(next);
    }

    /// The CPU's timer has fired: what is due is done, and a vCPU that has had its turn gives way.
    pub fn timer_interrupt(&self, cpu: &Cpu) {
        let Some(shared) = self.cpus.get(cpu.id().index()) else {
            return;
        };
        let now = self.machine().now();
        self.do_due(shared, now);
        let queue = shared.queue.lock();
        if !queue.ready.is_empty() && now >= queue.slice_end {
            shared.must_schedule.store(true, Ordering::Release);
        }
        self.set_timer_by(shared, &queue);
    }

    /// Does what is due at `now`: at most one thing for each deadline there is.
    fn do_due(&self, shared: &Shared, now: u64) {
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
                Purpose::Timer => self.raise_virq(&domain, due.vcpu, Virq::Timer),
                Purpose::Poll => self.wake_vcpu(&domain, vcpu),
            }
        }
    }

    /// Decides what this CPU runs, and switches to it. Waits here while there is nothing.
    ///
    /// On return `regs` are those of [`Cpu::running`]. Returns early, running nothing, only in a simulation whose machine
    /// has stopped.
    pub(crate) fn schedule(&self, cpu: &mut Cpu, regs: &mut Regs) {
        let Some(shared) = self.cpus.get(cpu.id().index()) else {
            return;
        };
        shared.must_schedule.store(false, Ordering::Relaxed);
        let previous = cpu.running();
        if let Some(current) = cpu.current.take() {
            self.put_away(current, regs, shared);
        }
        loop {
            if let Some(current) = self.take_next(shared) {
                let next = (current.domain.id, current.vcpu);
                if previous != Some(next) {
                    self.machine()
                        .trace(Trace::Switch, u64::from(next.0.raw()), u64::from(next.1.raw()));
                }
                self.load(cpu.id(), current, regs, cpu);
                return;
            }
            self.machine().trace(Trace::Idle, 0, 0);
            // The tables of the last guest may go while we idle.
            self.machine().load_idle_root();
            self.set_timer_by(shared, &shared.queue.lock());
            if !self.machine().wait_for_interrupt() {
                return;
            }
            self.do_due(shared, self.machine().now());
        }
    }

    /// Puts a vCPU's state back into its place, and the vCPU in line if it could go on.
    fn put_away(&self, mut current: Current, regs: &Regs, shared: &Shared) {
        current.context.regs = *regs;
        self.machine().save_segments(&mut current.context.segments);
        let Current {
            domain,
            vcpu,
            context,
        } = current;
        let Some(vcpu) = domain.vcpu(vcpu) else { return };
        // Parked before it can be chosen: from then on another CPU might take it.
        vcpu.park(context);
        let mut queue = shared.queue.lock();
        if vcpu.run() == Run::Running {
            queue.enqueue(domain.id, vcpu);
        }
    }

    fn take_next(&self, shared: &Shared) -> Option<Current> {
        loop {
            let (domain, vcpu) = shared.queue.lock().ready.pop_front()?;
            let Some(domain) = self.domains.get(domain) else {
                continue;
            };
            let Some(state) = domain.vcpu(vcpu) else { continue };
            let Some(context) = state.unpark() else { continue };
            {
                let mut queue = shared.queue.lock();
                if state.run() != Run::Runnable {
                    // Stopped since.
                    state.park(context);
                    continue;
                }
                state.set_run(Run::Running);
                queue.slice_end = self.machine().now().saturating_add(SLICE_NS);
                self.set_timer_by(shared, &queue);
            }
            return Some(Current {
                domain,
                vcpu,
                context,
            });
        }
    }

    fn load(&self, id: crate::ids::CpuId, mut current: Current, regs: &mut Regs, cpu: &mut Cpu) {
        *regs = current.context.regs;
        self.machine().load_root(current.context.kernel_root);
        // A selector that could not be loaded is null now; the failsafe callback is not called for it.
        let _ = self.machine().load_segments(&current.context.segments);
        if let Some(vcpu) = current.domain.vcpu(current.vcpu) {
            if vcpu.is_polling() {
                vcpu.set_polling(false);
                self.set_deadline(&current.domain, vcpu, Purpose::Poll, None);
            }
            if current.context.clock_written_for != Some(id) {
                current.context.clock_written_for = Some(id);
                self.write_clock(vcpu);
            }
        }
        cpu.current = Some(current);
    }
}
