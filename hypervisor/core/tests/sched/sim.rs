//! A machine of CPUs and tasks in simulated time, scheduled by the real queues.
//!
//! Discrete events: between two of them every CPU does one thing. The laws of every queue are checked after every step, or now and
//! then in long runs.

use std::collections::BTreeMap;

use bulkhead_core::ids::CpuId;
use bulkhead_core::sched::{Board, CpuSet, Reschedule, RunQueue, Share, Warp, Weight};

/// The context-switch allowance of the simulated machine: 1 ms.
pub(crate) const ALLOWANCE: u64 = 1_000_000;

/// The name of a task; it stands for a vCPU.
pub(crate) type Name = u32;

/// What a task does.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Habit {
    /// It runs for ever.
    Hog,
    /// It runs for so many nanoseconds, then sleeps for so many.
    Sleeper { run: u64, sleep: u64 },
}

/// What the simulation knows of a task.
#[derive(Debug)]
pub(crate) struct Task {
    habit: Habit,
    pub(crate) share: Share,
    pub(crate) cpu: usize,
    /// The nanoseconds that it ran.
    pub(crate) served: u64,
    /// What is left of the present burst.
    burst: u64,
    /// When it wakes, if it sleeps by itself.
    wakes_at: Option<u64>,
    /// Since when it has waited without running, if it waits.
    pub(crate) waits_since: Option<u64>,
    /// The longest that it ever waited.
    pub(crate) longest_wait: u64,
    /// What it had been served at each full 100 ms.
    pub(crate) history: Vec<u64>,
    pub(crate) blocked: bool,
}

/// One CPU.
struct Cpu {
    queue: RunQueue<Name>,
    running: Option<Name>,
    until: Option<u64>,
}

/// The machine.
pub(crate) struct Sim {
    pub(crate) now: u64,
    cpus: Vec<Cpu>,
    board: Board,
    pub(crate) tasks: BTreeMap<Name, Task>,
    /// The laws are checked after every so many steps.
    pub(crate) check_every: u64,
    steps: u64,
    /// How often a task moved to another CPU because that one pulled it.
    pub(crate) pulls: u64,
    /// How often a CPU changed what it ran.
    pub(crate) switches: u64,
}

/// A share with this weight, and no warp.
pub(crate) fn weight(weight: u16) -> Share {
    Share {
        weight: Weight::new(weight).unwrap(),
        warp: Warp::NONE,
        affinity: CpuSet::ALL,
    }
}

fn cpu_id(index: usize) -> CpuId {
    CpuId::new(u32::try_from(index).unwrap())
}

impl Sim {
    pub(crate) fn new(cpus: usize) -> Self {
        let cpu = |_| Cpu {
            queue: RunQueue::new(ALLOWANCE),
            running: None,
            until: None,
        };
        let sim = Self {
            now: 0,
            cpus: (0..cpus).map(cpu).collect(),
            board: Board::new(),
            tasks: BTreeMap::new(),
            check_every: 1,
            steps: 0,
            pulls: 0,
            switches: 0,
        };
        for index in 0..cpus {
            sim.publish(index);
        }
        sim
    }

    /// Adds a task and starts it.
    pub(crate) fn add(&mut self, name: Name, share: Share, habit: Habit) {
        let cpu = self.board.choose(share.affinity, None).unwrap().index();
        let burst = match habit {
            Habit::Hog => u64::MAX,
            Habit::Sleeper { run, .. } => run,
        };
        self.cpus[cpu].queue.insert(name, share).unwrap();
        let task = Task {
            habit,
            share,
            cpu,
            served: 0,
            burst,
            wakes_at: None,
            waits_since: None,
            longest_wait: 0,
            history: Vec::new(),
            blocked: true,
        };
        self.tasks.insert(name, task);
        self.wake(name);
    }

    /// Runs until `end`.
    pub(crate) fn run_until(&mut self, end: u64) {
        loop {
            let timers = self.cpus.iter().filter_map(|cpu| cpu.until);
            let wakes = self.tasks.values().filter_map(|task| task.wakes_at);
            let bursts = self
                .cpus
                .iter()
                .filter_map(|cpu| Some(self.now.saturating_add(self.tasks[&cpu.running?].burst)));
            let next = timers.chain(wakes).chain(bursts).min().unwrap_or(u64::MAX);
            self.advance(next.min(end));
            if next > end {
                return;
            }
            self.events();
            self.steps += 1;
            if self.steps.is_multiple_of(self.check_every) {
                self.invariants();
            }
        }
    }

    pub(crate) fn run_for(&mut self, ns: u64) {
        self.run_until(self.now + ns);
    }

    /// Lets all CPUs do until `then` what they are doing.
    fn advance(&mut self, then: u64) {
        const MARK: u64 = 100_000_000;
        while self.now < then {
            let stop = then.min((self.now / MARK + 1) * MARK);
            for cpu in &self.cpus {
                if let Some(task) = cpu.running.and_then(|name| self.tasks.get_mut(&name)) {
                    task.served += stop - self.now;
                    task.burst = task.burst.saturating_sub(stop - self.now);
                }
            }
            self.now = stop;
            if stop.is_multiple_of(MARK) {
                self.tasks
                    .values_mut()
                    .for_each(|task| task.history.push(task.served));
            }
        }
    }

    /// Does what is due now.
    fn events(&mut self) {
        for index in 0..self.cpus.len() {
            if let Some(name) = self.cpus[index].running
                && self.tasks[&name].burst == 0
            {
                let Habit::Sleeper { run, sleep } = self.tasks[&name].habit else {
                    panic!("a hog stopped")
                };
                self.block(name);
                let task = self.tasks.get_mut(&name).unwrap();
                task.burst = run;
                task.wakes_at = Some(self.now + sleep);
            }
        }
        let due =
            |(&name, task): (&Name, &Task)| task.wakes_at.is_some_and(|at| at <= self.now).then_some(name);
        for name in self.tasks.iter().filter_map(due).collect::<Vec<_>>() {
            self.wake(name);
        }
        for index in 0..self.cpus.len() {
            if self.cpus[index].until.is_some_and(|until| until <= self.now) {
                self.schedule(index);
                self.ask_for_help(index);
            }
        }
    }

    pub(crate) fn wake(&mut self, name: Name) {
        let now = self.now;
        let task = self.tasks.get_mut(&name).unwrap();
        if !task.blocked {
            return;
        }
        task.wakes_at = None;
        task.blocked = false;
        task.waits_since = Some(now);
        let old = task.cpu;
        let new = self
            .board
            .choose(task.share.affinity, Some(cpu_id(old)))
            .unwrap()
            .index();
        self.migrate(name, new);
        self.act(new, |queue| queue.wake(name, now).unwrap());
    }

    pub(crate) fn block(&mut self, name: Name) {
        let now = self.now;
        let task = self.tasks.get_mut(&name).unwrap();
        task.blocked = true;
        task.waits_since = None;
        task.wakes_at = None;
        let cpu = task.cpu;
        self.act(cpu, |queue| queue.block(name, now).unwrap());
    }

    pub(crate) fn set_share(&mut self, name: Name, share: Share) {
        let now = self.now;
        let task = self.tasks.get_mut(&name).unwrap();
        task.share = share;
        let cpu = task.cpu;
        self.act(cpu, |queue| queue.set_share(name, share, now).unwrap());
    }

    /// The running task of a CPU yields.
    pub(crate) fn yield_now(&mut self, cpu: usize) {
        let now = self.now;
        self.act(cpu, |queue| queue.yield_now(now));
    }

    /// Moves a task, whatever it is doing.
    pub(crate) fn migrate(&mut self, name: Name, to: usize) {
        let now = self.now;
        let from = self.tasks[&name].cpu;
        if from == to {
            return;
        }
        let mut migrant = None;
        self.act(from, |queue| {
            let (left, reschedule) = queue.leave(name, now).unwrap();
            migrant = Some(left);
            reschedule
        });
        self.tasks.get_mut(&name).unwrap().cpu = to;
        self.act(to, |queue| queue.arrive(migrant.unwrap(), now).unwrap());
    }

    /// Does something to a queue, and lets its CPU look again if it should.
    fn act(&mut self, index: usize, operation: impl FnOnce(&mut RunQueue<Name>) -> Reschedule) {
        let reschedule = operation(&mut self.cpus[index].queue);
        self.publish(index);
        let stopped = self.cpus[index].queue.running() != self.cpus[index].running;
        match reschedule {
            Reschedule::Yes => self.schedule(index),
            Reschedule::No => assert!(!stopped, "the CPU runs a task that its queue has stopped"),
        }
        self.ask_for_help(index);
    }

    /// What the head of the module says that a CPU does when it schedules.
    fn schedule(&mut self, index: usize) {
        let now = self.now;
        let id = cpu_id(index);
        if self.cpus.len() > 1 {
            let system = self.board.system_time(id);
            self.cpus[index].queue.observe(system);
        }
        self.cpus[index].queue.account(now);
        let mut tried = CpuSet::NONE;
        loop {
            let at = self.cpus[index].queue.load().oldest_runnable;
            let Some(victim) = self.board.victim(id, at, tried) else {
                break;
            };
            tried = tried.with(victim);
            let stolen = self.cpus[victim.index()].queue.steal(id, at, now);
            self.publish(victim.index());
            if let Some(migrant) = stolen {
                self.pulls += 1;
                assert!(
                    migrant.affinity().contains(id),
                    "a task was pulled to where it may not run"
                );
                self.tasks.get_mut(&migrant.id()).unwrap().cpu = index;
                let _picks_anyway = self.cpus[index].queue.arrive(migrant, now).unwrap();
            }
        }
        let turn = self.cpus[index].queue.pick(now);
        self.publish(index);
        let cpu = &mut self.cpus[index];
        let before = std::mem::replace(&mut cpu.running, turn.map(|turn| turn.id));
        cpu.until = turn.and_then(|turn| turn.until);
        assert!(
            cpu.until.is_none_or(|until| until > now),
            "a timer in the past would never let anyone run"
        );
        if before == cpu.running {
            return;
        }
        self.switches += 1;
        if let Some(task) = before.and_then(|name| self.tasks.get_mut(&name))
            && !task.blocked
        {
            task.waits_since = Some(now);
        }
        if let Some(task) = cpu.running.and_then(|name| self.tasks.get_mut(&name))
            && let Some(since) = task.waits_since.take()
        {
            task.longest_wait = task.longest_wait.max(now - since);
        }
    }

    /// Lets idle CPUs schedule if they may run tasks that wait for another.
    fn ask_for_help(&mut self, index: usize) {
        let waiting = |sim: &Self| sim.cpus[index].queue.waiting_affinity();
        while let Some(idle) = self.board.idle(waiting(self), cpu_id(index)) {
            self.schedule(idle.index());
            assert!(
                self.cpus[idle.index()].running.is_some(),
                "an idle CPU was told to help, and could not"
            );
        }
    }

    fn publish(&self, index: usize) {
        self.board.publish(cpu_id(index), &self.cpus[index].queue.load());
    }

    /// Whether no CPU runs anything or has a timer set.
    pub(crate) fn is_idle(&self) -> bool {
        self.cpus
            .iter()
            .all(|cpu| cpu.running.is_none() && cpu.until.is_none())
    }

    pub(crate) fn invariants(&self) {
        for cpu in &self.cpus {
            cpu.queue.invariants();
            assert_eq!(cpu.queue.running(), cpu.running);
        }
        let runnable: u32 = self.cpus.iter().map(|cpu| cpu.queue.load().runnable).sum();
        assert_eq!(
            usize::try_from(runnable).unwrap(),
            self.tasks.values().filter(|task| !task.blocked).count()
        );
        // Work is conserved: nobody waits while a CPU that may run it is idle.
        for (index, _) in self
            .cpus
            .iter()
            .enumerate()
            .filter(|(_, cpu)| cpu.running.is_none())
        {
            for (name, task) in &self.tasks {
                let waits = task.waits_since.is_some() && task.share.affinity.contains(cpu_id(index));
                assert!(!waits, "{name} waits, but CPU {index} is idle");
            }
        }
    }
}
