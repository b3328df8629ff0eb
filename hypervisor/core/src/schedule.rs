//! Which vCPU a physical CPU runs: the switch itself, blocking and waking. [`crate::sched`] has the rule by which it is chosen.
//!
//! A vCPU that gives up its CPU only says so ([`Rest`]); it is the switch that takes it from the queue, when its registers are in
//! their place. Until then the queue takes it for running, and nobody else will touch it.

use crate::domains::Domain;
use crate::domains::boot_list::Entry;
use crate::events::Port;
use crate::events::bits::SharedInfoView;
use crate::hypervisor::{Cpu, Current, Hypervisor, Shared};
use crate::ids::{CpuId, VcpuId};
use crate::machine::{Machine, Trace};
use crate::sched::{CpuSet, Migrant, Reschedule, RunQueue, SchedError, Share, State, Turn, Warp, Weight};
use crate::time::{Deadline, Deadlines, Purpose};
use crate::vcpu::{Regs, Vcpu};
use bulkhead_abi::DomId;
use bulkhead_abi::event::Virq;
use bulkhead_abi::vcpu::Runstate;
use core::sync::atomic::Ordering;

/// How a run queue names a vCPU.
pub(crate) type Key = (DomId, VcpuId);

/// The context-switch allowance: how long a vCPU runs on while another is as entitled to the CPU.
const ALLOWANCE_NS: u64 = 1_000_000;

/// The control domain comes soon when it wakes, for a while: it answers for everyone.
const CONTROL_WARP: Warp = Warp {
    by_ns: 20_000_000,
    limit_ns: Some(10_000_000),
    unwarp_ns: 50_000_000,
};

/// What waits on a CPU: vCPUs for their turn, deadlines for their time.
#[derive(Debug)]
pub(crate) struct Queue {
    pub(crate) run: RunQueue<Key>,
    pub(crate) deadlines: Deadlines,
    /// When the turn of the running vCPU ends.
    turn_end: Option<u64>,
    /// How many vCPUs there is room for: all of the machine might come here.
    room: usize,
}

impl Default for Queue {
    fn default() -> Self {
        Self {
            run: RunQueue::new(ALLOWANCE_NS),
            deadlines: Deadlines::new(),
            turn_end: None,
            room: 0,
        }
    }
}

impl Queue {
    /// Makes room for `vcpus` more, wherever they are now. Says whether there is memory for it.
    pub(crate) fn reserve(&mut self, vcpus: usize) -> bool {
        let room = self.room.saturating_add(vcpus);
        let has_memory = self.run.reserve(room).is_ok() && self.deadlines.reserve(room);
        if has_memory {
            self.room = room;
        }
        has_memory
    }

    /// Takes back what was reserved for vCPUs that there will not be.
    pub(crate) fn unreserve(&mut self, vcpus: usize) {
        self.room = self.room.saturating_sub(vcpus);
    }

    /// When the CPU must look here again.
    pub(crate) fn next_look(&self) -> Option<u64> {
        [self.turn_end, self.deadlines.next()].into_iter().flatten().min()
    }
}

/// What the running vCPU wants to do instead of running on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rest {
    /// Wait until it is woken.
    Block,
    /// Let the next one pass.
    Yield,
}

/// The share of the vCPUs of a domain.
pub(crate) fn share(domain: DomId, entry: &Entry<'_>) -> Share {
    let warp = if domain == DomId::new(0) {
        CONTROL_WARP
    } else {
        Warp::NONE
    };
    Share {
        weight: Weight::new(entry.weight).unwrap_or(Weight::DEFAULT),
        warp,
        affinity: entry.affinity,
    }
}

impl<M: Machine> Hypervisor<M> {
    /// This CPU is ready to run guests: others may place vCPUs on it.
    pub fn cpu_online(&self, cpu: CpuId) {
        if let Some(shared) = self.shared(cpu) {
            self.board.publish(cpu, &shared.queue.lock().run.load());
        }
    }

    fn shared(&self, cpu: CpuId) -> Option<&Shared> {
        self.cpus.get(cpu.index())
    }

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
    fn pass_on(&self, cpu: CpuId, shared: &Shared, queue: &Queue, reschedule: Reschedule) {
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

    /// Blocks the running vCPU until an event can be delivered to it, which may be at once.
    pub(crate) fn block(&self, current: &mut Current) {
        self.block_unless(current, |_| false);
    }

    /// Blocks the running vCPU until one of `ports` is pending, an event can be delivered, or `timeout` (ns) is over.
    pub(crate) fn poll(&self, current: &mut Current, ports: &[Port], timeout: Option<u64>) {
        if let Some(vcpu) = current.domain.vcpu(current.vcpu) {
            vcpu.set_polling(true);
            if let Some(at) = timeout {
                self.set_deadline(&current.domain, vcpu, Purpose::Poll, at);
            }
        }
        self.block_unless(current, |shared| {
            ports.iter().any(|&port| shared.is_pending(port))
        });
        if current.rest.is_none() {
            self.end_poll(current);
        }
    }

    /// The vCPU goes on: it waits for no port and no moment any longer.
    fn end_poll(&self, current: &Current) {
        if let Some(vcpu) = current.domain.vcpu(current.vcpu).filter(|vcpu| vcpu.is_polling()) {
            vcpu.set_polling(false);
            if mutant!(PollDeadlineLeft) {
                return;
            }
            self.cancel_deadline(&current.domain, vcpu, Purpose::Poll);
        }
    }

    /// Says that the running vCPU wants to rest, unless it has a reason not to.
    fn block_unless(&self, current: &mut Current, has_reason: impl FnOnce(SharedInfoView<'_>) -> bool) {
        let Some(vcpu) = current.domain.vcpu(current.vcpu) else {
            return;
        };
        // Who raises an event sets its bits, and then the mark. We take the mark off, then look at the bits, and at the switch
        // look at the mark again: whatever comes in between is seen there.
        vcpu.set_woken(false);
        let frame = self.machine().frame(current.domain.shared_info);
        let is_wanted = self.with_info(vcpu, |info| info.upcall_wanted()) == Some(true);
        if is_wanted || has_reason(SharedInfoView::new(&frame)) {
            return;
        }
        current.rest = Some(Rest::Block);
    }

    /// Sets a deadline of the vCPU that this CPU runs.
    pub(crate) fn set_deadline(&self, domain: &Domain, vcpu: &Vcpu, purpose: Purpose, at: u64) {
        self.cancel_deadline(domain, vcpu, purpose);
        // It runs, so its home is this CPU.
        let home = vcpu.home();
        let Some(shared) = self.shared(home) else { return };
        let mut queue = shared.queue.lock();
        queue.deadlines.set(Deadline {
            at,
            domain: domain.id,
            vcpu: vcpu.id,
            purpose,
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
    pub fn timer_interrupt(&self, cpu: &Cpu) {
        let Some(shared) = self.shared(cpu.id()) else {
            return;
        };
        let now = self.machine().now();
        self.do_due(shared, now);
        let queue = shared.queue.lock();
        if queue.turn_end.is_some_and(|end| now >= end) {
            shared.must_schedule.store(true, Ordering::Relaxed);
        }
        let next = queue.next_look();
        drop(queue);
        self.machine().set_timer(next);
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

    /// Whether the CPU should look whom it runs.
    pub(crate) fn must_schedule(&self, cpu: &Cpu) -> bool {
        // Acquire: see `call`.
        let is_called = || {
            self.shared(cpu.id())
                .is_some_and(|shared| shared.must_schedule.load(Ordering::Acquire))
        };
        cpu.current.as_ref().is_none_or(|current| current.rest.is_some()) || is_called()
    }

    /// Decides what this CPU runs, and switches to it. Waits here while there is nothing.
    ///
    /// On return `regs` are those of [`Cpu::running`]. Returns with nothing running only in a simulation whose machine has stopped.
    pub(crate) fn schedule(&self, cpu: &mut Cpu, regs: &mut Regs) {
        let Some(shared) = self.shared(cpu.id()) else {
            return;
        };
        let mut tried = CpuSet::NONE;
        loop {
            shared.must_schedule.store(false, Ordering::Relaxed);
            let now = self.machine().now();
            let mut queue = shared.queue.lock();
            self.rest(cpu, &mut queue, now);
            if self.cpus.len() > 1 {
                queue.run.account(now);
                queue.run.observe(self.board.system_time(cpu.id()));
            }
            let turn = queue.run.pick(now);
            queue.turn_end = turn.and_then(|turn: Turn<Key>| turn.until);
            let next = turn.map(|turn| turn.id);
            if next != cpu.running()
                && let Some(current) = cpu.current.take()
            {
                // Under the lock: as soon as it is free, another CPU may take the vCPU.
                self.put_away(&queue, current, regs);
            }
            if let Some(stranger) = next.filter(|&next| !queue.run.may_run_on_cpu(next, cpu.id())) {
                // Its affinity has changed since it came here.
                if let Some(current) = cpu.current.take() {
                    self.put_away(&queue, current, regs);
                }
                let migrant = queue.run.leave(stranger, now);
                drop(queue);
                if let Ok((migrant, _)) = migrant {
                    let target = self.board.choose(migrant.affinity(), None).unwrap_or(CpuId::BOOT);
                    self.settle(migrant, target);
                }
                continue;
            }
            let load = queue.run.load();
            self.board.publish(cpu.id(), &load);
            let timer = queue.next_look();
            drop(queue);
            if let Some(victim) = self.board.victim(cpu.id(), load.oldest_runnable, tried) {
                tried = tried.with(victim);
                self.pull(cpu.id(), shared, victim);
                continue;
            }
            self.machine().set_timer(timer);
            match next {
                Some(_) if let Some(current) = &cpu.current => {
                    // It may run on for long: what it has had until now should not wait for its end.
                    if let Some(vcpu) = current.vcpu() {
                        vcpu.publish_meter(&current.context.meter);
                    }
                    // It was perhaps woken before it came to rest.
                    return self.end_poll(current);
                }
                Some(key) => {
                    if let Some(current) = self.take(cpu.id(), key) {
                        self.load(cpu, current, regs);
                        return;
                    }
                    // It was stopped just now.
                    let _ = shared.queue.lock().run.remove(key, now);
                }
                None => {
                    if !self.idle(cpu, shared) {
                        return;
                    }
                    tried = CpuSet::NONE;
                }
            }
        }
    }

    /// Does what the running vCPU asked for. Its registers are saved before the lock of `queue` is dropped, if it does not go on.
    fn rest(&self, cpu: &mut Cpu, queue: &mut Queue, now: u64) {
        let Some(current) = cpu.current.as_mut() else {
            return;
        };
        let key = (current.domain.id, current.vcpu);
        match current.rest.take() {
            // Woken since it decided to.
            Some(Rest::Block) if current.domain.vcpu(current.vcpu).is_some_and(Vcpu::is_woken) => {}
            Some(Rest::Block) => {
                // Unknown if it was stopped; then it is in no queue in any case.
                let _ = queue.run.block(key, now);
            }
            Some(Rest::Yield) => {
                let _ = queue.run.yield_now(now);
            }
            None => {}
        }
    }

    /// Takes a vCPU from the queue of `victim` into that of `cpu`, if one is still worth it.
    fn pull(&self, cpu: CpuId, shared: &Shared, victim: CpuId) {
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
    fn settle(&self, migrant: Migrant<Key>, cpu: CpuId) {
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
        if vcpu.is_up() {
            self.pass_on(cpu, shared, &queue, arrived.unwrap_or(Reschedule::Yes));
        } else {
            // Stopped on its way: nobody would find it here.
            let _ = queue.run.remove((domain.id, vcpu.id), now);
        }
    }

    /// Waits for something to do. Says whether the machine goes on.
    fn idle(&self, cpu: &mut Cpu, shared: &Shared) -> bool {
        self.machine().trace(Trace::Idle, 0, 0);
        // The page tables of the last guest, and its descriptors, may go while we idle.
        self.machine().load_gdt(&[]);
        self.machine().load_idle_root();
        self.end_stretch(cpu, self.machine().ticks());
        if !self.machine().wait_for_interrupt() {
            return false;
        }
        cpu.stretch.begin(self.machine().ticks());
        self.do_due(shared, self.machine().now());
        true
    }

    /// Puts the state of a vCPU of `queue` into its place, under that queue's lock: when that is free, another CPU may take it.
    fn put_away(&self, queue: &Queue, mut current: Current, regs: &Regs) {
        if self.cpus.len() > 1 {
            // Its tables are held by its state. Whoever takes that may let its guest take them down, and write them: while this
            // CPU went through them to its own memory. With one CPU nobody can, before the next tables are loaded.
            self.machine().load_idle_root();
        }
        current.context.regs = *regs;
        self.machine().save_segments(&mut current.context.segments);
        self.save_fpu(&mut current.context.fpu);
        let clock = self.machine().clock();
        current.context.meter.stop(clock.tsc);
        let rest = match queue.run.state((current.domain.id, current.vcpu)) {
            Some(State::Blocked) => Runstate::Blocked,
            Some(State::Waiting | State::Running) => Runstate::Runnable,
            // It was stopped.
            None => Runstate::Offline,
        };
        let Current {
            domain,
            vcpu,
            context,
            ..
        } = current;
        if let Some(vcpu) = domain.vcpu(vcpu) {
            vcpu.publish_meter(&context.meter);
            vcpu.history.lock().enter(rest, clock.ns);
            self.show_runstate(&domain, vcpu);
            vcpu.park(context);
        }
    }

    /// Takes a vCPU's state, to run it. `None` if the vCPU was stopped.
    fn take(&self, cpu: CpuId, (domain, vcpu): Key) -> Option<Current> {
        let domain = self.domains.get(domain)?;
        let state = domain.vcpu(vcpu).filter(|vcpu| vcpu.is_up())?;
        debug_assert_eq!(state.home(), cpu, "a CPU runs what is on its own queue");
        let context = state.unpark()?;
        Some(Current {
            domain,
            vcpu,
            context,
            rest: None,
        })
    }

    fn load(&self, cpu: &mut Cpu, mut current: Current, regs: &mut Regs) {
        self.machine().trace(
            Trace::Switch,
            u64::from(current.domain.id.raw()),
            u64::from(current.vcpu.raw()),
        );
        *regs = current.context.regs;
        self.machine().load_gdt(&current.context.gdt);
        self.machine().load_root(current.context.root());
        // A selector that could not be loaded is null now; the failsafe callback is not called for it.
        let _ = self.machine().load_segments(&current.context.segments);
        self.load_fpu(&current.context.fpu);
        self.end_poll(&current);
        if let Some(vcpu) = current.domain.vcpu(current.vcpu) {
            if current.context.clock_written_for != Some(cpu.id()) {
                current.context.clock_written_for = Some(cpu.id());
                self.write_clock(vcpu);
            }
            let clock = self.machine().clock();
            vcpu.history.lock().enter(Runstate::Running, clock.ns);
            self.show_runstate(&current.domain, vcpu);
            current.context.meter.start(clock.tsc);
        }
        cpu.current = Some(current);
    }
}
