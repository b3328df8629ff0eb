//! Which vCPU a physical CPU runs. [`crate::sched`] has the rule by which it is chosen.
//!
//! - this module: what waits on a CPU ([`Queue`]), and the decision, made before a guest goes on;
//! - [`switch`]: the change from one vCPU to another, or to none;
//! - [`block`]: a vCPU that wants to rest, and [`wake`]: one that is to run again;
//! - [`presence`]: which vCPUs may run at all;
//! - [`timers`], where deadlines are set, and done when they are due;
//! - [`alarm`]: a vCPU that wants to be told how long it has run;
//! - [`watchdog`]: a domain that ends unless it says in time that it is well;
//! - [`balance`]: moves between CPUs.
//!
//! A vCPU that gives up its CPU only says so ([`Rest`]); it is the switch that takes it from the queue, when its registers are in
//! their place. Until then the queue takes it for running, and nobody else will touch it.

mod alarm;
mod balance;
mod block;
mod presence;
mod switch;
mod timers;
mod wake;
mod watchdog;

pub(crate) use watchdog::WatchdogError;

use crate::domains::boot_list::Entry;
use crate::hypervisor::{Cpu, Hypervisor, Shared};
use crate::ids::{CpuId, VcpuId};
use crate::machine::Machine;
use crate::sched::{CpuSet, RunQueue, Share, Turn, Warp, Weight};
use crate::time::Deadlines;
use crate::vcpu::{Regs, Vcpu};
use bulkhead_abi::DomId;
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
    /// When the running vCPU is to be told that it has run for so long.
    pub(crate) alarm: Option<u64>,
    /// How many vCPUs there is room for: all of the machine might come here.
    room: usize,
}

impl Default for Queue {
    fn default() -> Self {
        Self {
            run: RunQueue::new(ALLOWANCE_NS),
            deadlines: Deadlines::new(),
            turn_end: None,
            alarm: None,
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
        let earlier = |one: Option<u64>, other: Option<u64>| match (one, other) {
            (Some(one), Some(other)) => Some(one.min(other)),
            (one, other) => one.or(other),
        };
        earlier(earlier(self.turn_end, self.alarm), self.deadlines.next())
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

    /// Whether there are CPUs that might want to know of this one's queue.
    fn has_other_cpus(&self) -> bool {
        self.cpus.len() > 1
    }

    fn shared(&self, cpu: CpuId) -> Option<&Shared> {
        self.cpus.get(cpu.index())
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
            let mut queue = shared.queue.lock();
            // One moment for the whole switch: what it takes is on the account of who comes. Under the lock: who came here from another CPU
            // left that before.
            let clock = self.machine().clock();
            let now = clock.ns;
            let rest = self.rest(cpu, &mut queue, now);
            if self.has_other_cpus() {
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
                self.put_away(&mut queue, current, regs, (rest, clock));
            }
            if let Some(stranger) = turn.filter(|turn| !turn.affinity.contains(cpu.id())) {
                // Its affinity has changed since it came here.
                if let Some(current) = cpu.current.take() {
                    self.put_away(&mut queue, current, regs, (rest, clock));
                }
                let migrant = queue.run.leave(stranger.id, now);
                drop(queue);
                if let Ok((migrant, _)) = migrant {
                    let target = self.board.choose(migrant.affinity(), None).unwrap_or(CpuId::BOOT);
                    self.settle(migrant, target);
                }
                continue;
            }
            let timer = queue.next_look();
            if self.has_other_cpus() {
                let load = queue.run.load();
                self.board.publish(cpu.id(), &load);
                drop(queue);
                if let Some(victim) = self.board.victim(cpu.id(), load.oldest_runnable, tried) {
                    tried = tried.with(victim);
                    self.pull(cpu.id(), shared, victim);
                    continue;
                }
            } else {
                drop(queue);
            }
            self.machine().set_timer(timer);
            match next {
                Some(_) if let Some(current) = &cpu.current => {
                    // It may run on for long: what it has had until now should not wait for its end.
                    if let Some(vcpu) = current.vcpu() {
                        vcpu.publish_meter(&current.context.meter);
                        // It was perhaps woken before it came to rest.
                        self.end_poll(&current.domain, vcpu);
                    }
                    return;
                }
                Some(key) => {
                    if let Some(current) = self.take(cpu.id(), key) {
                        self.load(cpu, current, regs, clock);
                        return;
                    }
                    self.lay_down(shared, key, now);
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

    /// Does what the running vCPU asked for. Its registers are saved before the lock of `queue` is dropped, if it does not go on: it is
    /// what this says then.
    fn rest(&self, cpu: &mut Cpu, queue: &mut Queue, now: u64) -> Runstate {
        let Some(current) = cpu.current.as_mut() else {
            return Runstate::Offline;
        };
        let key = (current.domain.id, current.vcpu);
        let rest = current.rest.take();
        let vcpu = current.vcpu();
        if !vcpu.is_some_and(Vcpu::may_run) {
            let rests = rest == Some(Rest::Block) && !vcpu.is_some_and(Vcpu::is_woken);
            if let Some(vcpu) = vcpu.filter(|_| !rests) {
                vcpu.resume_later();
            }
            let _ = queue.run.block(key, now);
            // One that is only held goes on to sleep when it is let run again.
            return if rests && vcpu.is_some_and(Vcpu::is_up) {
                Runstate::Blocked
            } else {
                Runstate::Offline
            };
        }
        match rest {
            // Woken since it decided to.
            Some(Rest::Block) if vcpu.is_some_and(Vcpu::is_woken) => {}
            Some(Rest::Block) => {
                let _ = queue.run.block(key, now);
                return Runstate::Blocked;
            }
            Some(Rest::Yield) => {
                let _ = queue.run.yield_now(now);
            }
            None => {}
        }
        Runstate::Runnable
    }
}
