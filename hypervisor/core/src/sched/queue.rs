//! The run queue of one CPU: [`RunQueue`].

use core::fmt;

use super::entities::Entities;
use super::entity::{Entity, Share, State};
use super::heap::{IndexedHeap, Slot};
use super::placement::{CpuSet, Load};
use super::vtime::{Span, VirtualTime};

/// Why an operation on a queue was refused. Nothing has changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SchedError {
    /// The vCPU is not in this queue.
    Unknown,
    /// The vCPU is in this queue already.
    Present,
    /// The hypervisor has no memory for another vCPU.
    OutOfMemory,
}

/// Whether the CPU should look again which vCPU it runs, and for how long.
#[must_use = "a CPU that is not told to look runs the wrong vCPU, or sleeps"]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reschedule {
    /// What it was last told still holds.
    No,
    /// It should call [`RunQueue::pick`], soon.
    Yes,
}

/// Who has the CPU, and until when.
#[must_use]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Turn<Id> {
    /// The vCPU to run.
    pub id: Id,
    /// The CPUs on which it may run.
    pub affinity: CpuSet,
    /// When to call [`RunQueue::pick`] again, unless something calls for it before: nanoseconds on the caller's clock.
    /// `None` if nobody else can come to want this CPU unnoticed: no timer is needed.
    pub until: Option<u64>,
}

/// How many allowances a vCPU may take along, of what the queue that it leaves is behind or ahead of the one it comes to.
///
/// The more, the longer can an arrival hold its new CPU. The fewer, the more is forgotten where heavy vCPUs share with light
/// ones, whose turns are long in virtual time: in simulation, with random weights up to 1 to 16, shares come out within
/// 5.4 % with 8, within 1.3 % with 16, within 0.4 % with 32.
const CARRY_ALLOWANCES: u64 = 32;

/// How many allowances a waiting vCPU must be behind another CPU's to be worth moving there.
///
/// Less, and vCPUs would be passed around for the sake of differences that the allowance itself makes.
const PULL_ALLOWANCES: u64 = 2;

/// After how many allowances a CPU whose vCPU is alone looks whether it should pull another.
///
/// With what is needed for a pull it is less than a vCPU may take along: by the time of the look it is made good in full.
const LOOK_ALLOWANCES: u64 = 4;
const _: () = assert!(LOOK_ALLOWANCES + PULL_ALLOWANCES <= CARRY_ALLOWANCES);

/// The vCPUs of one CPU, and whose turn it is.
///
/// `Id` names a vCPU; the queue only compares it. All times are nanoseconds on one clock that does not run backwards; if it
/// does, the queue takes it as standing still.
#[derive(Debug)]
pub struct RunQueue<Id> {
    /// The context-switch allowance, in nanoseconds.
    allowance_ns: u64,
    /// Up to when the running vCPU's account is in order.
    accounted: u64,
    /// The scheduler virtual time. It does not go back, not even when a vCPU arrives that has something coming to it.
    pub(super) svt: VirtualTime,
    /// What the other CPUs have come to, as far as this one was told; `None` if there are no others.
    system: Option<VirtualTime>,
    pub(super) entities: Entities<Id>,
    /// The waiting, in the order of their turns: by effective virtual time, equals by when they began to wait.
    turns: IndexedHeap<(VirtualTime, u64)>,
    /// The waiting, by actual virtual time.
    accounts: IndexedHeap<VirtualTime>,
    running: Option<Slot>,
    /// The running vCPU asked to let others pass.
    yielded: bool,
    /// How many vCPUs have begun to wait so far. At one a nanosecond it lasts for 584 years.
    arrivals: u64,
    /// The sum of the weights of the runnable.
    weight: u64,
}

impl<Id: Copy + Ord + fmt::Debug> RunQueue<Id> {
    /// A queue without vCPUs, whose vCPUs run on for `allowance_ns` nanoseconds when others are as entitled to the CPU.
    ///
    /// The longer, the fewer switches, and the later a vCPU without warp comes to run. At least a microsecond is taken.
    #[must_use]
    pub const fn new(allowance_ns: u64) -> Self {
        Self {
            allowance_ns: if allowance_ns < 1000 { 1000 } else { allowance_ns },
            accounted: 0,
            svt: VirtualTime::ORIGIN,
            system: None,
            entities: Entities::new(),
            turns: IndexedHeap::new(),
            accounts: IndexedHeap::new(),
            running: None,
            yielded: false,
            arrivals: 0,
            weight: 0,
        }
    }

    /// Makes room for `slots` vCPUs in all, so that as many can be inserted, or arrive, without another allocation.
    ///
    /// # Errors
    ///
    /// [`SchedError::OutOfMemory`].
    pub fn reserve(&mut self, slots: usize) -> Result<(), SchedError> {
        self.turns.reserve(slots).map_err(|_| SchedError::OutOfMemory)?;
        self.accounts
            .reserve(slots)
            .map_err(|_| SchedError::OutOfMemory)?;
        self.entities.reserve(slots).ok_or(SchedError::OutOfMemory)
    }

    /// Adds a vCPU, blocked. It begins with what the queue has come to: a newcomer has nothing coming to it.
    ///
    /// # Errors
    ///
    /// [`SchedError::Present`], [`SchedError::OutOfMemory`].
    pub fn insert(&mut self, id: Id, share: Share) -> Result<(), SchedError> {
        self.add(Entity::new(id, share, self.svt)).map(|_| ())
    }

    /// Takes a vCPU out, whatever it is doing.
    ///
    /// # Errors
    ///
    /// [`SchedError::Unknown`].
    pub fn remove(&mut self, id: Id, now: u64) -> Result<Reschedule, SchedError> {
        let slot = self.find(id)?;
        let reschedule = self.stop(slot, now);
        self.entities.remove(slot);
        Ok(reschedule)
    }

    /// The vCPU has something to do: it waits for the CPU from now on. Nothing happens if it was not blocked.
    ///
    /// # Errors
    ///
    /// [`SchedError::Unknown`].
    pub fn wake(&mut self, id: Id, now: u64) -> Result<Reschedule, SchedError> {
        let slot = self.find(id)?;
        self.account(now);
        if self.is_idle() {
            // Nothing has advanced this queue's clock meanwhile. Without this, who wakes on an idle CPU would have the time
            // of its sleep coming to it, at the expense of other CPUs.
            self.svt = self.svt.max(self.system());
        }
        let svt = self.svt;
        let Some(entity) = self.entities.get_mut(slot).filter(|entity| !entity.is_runnable()) else {
            return Ok(Reschedule::No);
        };
        entity.avt = entity.avt.max(svt);
        self.weight = self.weight.saturating_add(u64::from(entity.share.weight.raw()));
        self.enqueue(slot, now);
        Ok(self.reschedule_if_next(slot))
    }

    /// The vCPU has nothing to do until it is woken. Nothing happens if it was blocked.
    ///
    /// # Errors
    ///
    /// [`SchedError::Unknown`].
    pub fn block(&mut self, id: Id, now: u64) -> Result<Reschedule, SchedError> {
        let slot = self.find(id)?;
        Ok(self.stop(slot, now))
    }

    /// The running vCPU lets the next one pass.
    ///
    /// It gives up what it was ahead of that one in entitlement, so that both are equal, and the other goes first.
    pub fn yield_now(&mut self, now: u64) -> Reschedule {
        self.account(now);
        let Some(((next, _), _)) = self.turns.first() else {
            return Reschedule::No;
        };
        if let Some(running) = self.running.and_then(|slot| self.entities.get_mut(slot)) {
            running.avt = running.avt.after(next.since(running.evt()));
            self.yielded = true;
            self.advance_svt();
        }
        Reschedule::Yes
    }

    /// Gives a vCPU another share from now on.
    ///
    /// # Errors
    ///
    /// [`SchedError::Unknown`].
    pub fn set_share(&mut self, id: Id, share: Share, now: u64) -> Result<Reschedule, SchedError> {
        let slot = self.find(id)?;
        self.account(now);
        let Some(entity) = self.entities.get_mut(slot) else {
            return Err(SchedError::Unknown);
        };
        let before = u64::from(entity.share.weight.raw());
        entity.set_share(share);
        if entity.is_runnable() {
            self.weight = self
                .weight
                .saturating_sub(before)
                .saturating_add(u64::from(share.weight.raw()));
        }
        if entity.state == State::Waiting {
            self.dequeue(slot);
            self.enqueue(slot, now);
        }
        Ok(if self.is_idle() {
            Reschedule::No
        } else {
            Reschedule::Yes
        })
    }

    /// Tells the queue what the other CPUs have come to ([`Board::system_time`](super::Board::system_time)).
    ///
    /// Not to be called if there is one CPU only: a vCPU that has it to itself is then not interrupted.
    pub fn observe(&mut self, system: VirtualTime) {
        self.system = Some(system);
    }

    /// Puts the time until `now` on the account of the vCPU that ran.
    pub fn account(&mut self, now: u64) {
        let ns = now.saturating_sub(self.accounted);
        self.accounted = self.accounted.max(now);
        let carry_ns = self.carry_ns();
        if let Some(entity) = self.running.and_then(|slot| self.entities.get_mut(slot)) {
            entity.charge(ns, now);
            if let Some(system) = self.system.filter(|_| self.turns.is_empty()) {
                // It had a whole CPU, and cannot have more. What it is still behind the others is forgiven, but for as much as
                // a vCPU may take along when it moves: that it can still make good elsewhere.
                entity.avt = entity.avt.max(system.before(entity.span(carry_ns)));
            }
        }
        self.advance_svt();
    }

    /// Decides who has the CPU from `now` on. `None` if nobody wants it; no timer is needed then.
    pub fn pick(&mut self, now: u64) -> Option<Turn<Id>> {
        self.account(now);
        let next = self.turns.first();
        match (self.running, next) {
            (_, None) => {}
            (None, Some((_, slot))) => self.start(slot),
            (Some(running), Some(((evt, _), slot))) => {
                if self.may_run_on(running, evt) == Span::ZERO {
                    // One out before one in: there is less to sort.
                    self.start(slot);
                    self.enqueue(running, now);
                }
            }
        }
        self.yielded = false;
        let slot = self.running?;
        let entity = self.entities.get(slot)?;
        let ns = match self.turns.first() {
            Some(((evt, _), _)) => {
                let ns = entity.ns(self.may_run_on(slot, evt));
                Some(entity.warp_left().map_or(ns, |left| left.min(ns)))
            }
            // Others may come to wait for other CPUs, and this one would not hear of it.
            None => self
                .system
                .map(|_| self.allowance_ns.saturating_mul(LOOK_ALLOWANCES)),
        };
        Some(Turn {
            id: entity.id,
            affinity: entity.share.affinity,
            until: ns.map(|ns| now.saturating_add(ns.max(1))),
        })
    }

    /// The vCPU that [`Self::pick`] gave the CPU.
    #[must_use]
    pub fn running(&self) -> Option<Id> {
        self.running
            .and_then(|slot| self.entities.get(slot))
            .map(|entity| entity.id)
    }

    /// What a vCPU is doing; `None` if it is not in this queue.
    #[must_use]
    pub fn state(&self, id: Id) -> Option<State> {
        let slot = self.entities.find(id)?;
        self.entities.get(slot).map(|entity| entity.state)
    }

    /// What other CPUs should know of this one.
    #[must_use]
    pub fn load(&self) -> Load {
        Load {
            runnable: u32::try_from(
                self.accounts
                    .len()
                    .saturating_add(usize::from(self.running.is_some())),
            )
            .unwrap_or(u32::MAX),
            weight: self.weight,
            pull_at: self.waiting().next().map(|(_, oldest)| self.pull_at(oldest)),
            oldest_runnable: self.oldest_runnable(),
        }
    }

    /// The running vCPU's time without being charged for it, measured from now on in virtual time, given the effective
    /// virtual time of the next: until it is behind by one allowance.
    fn may_run_on(&self, running: Slot, next: VirtualTime) -> Span {
        let Some(entity) = self.entities.get(running) else {
            return Span::ZERO;
        };
        let allowance = if self.yielded { 0 } else { self.allowance_ns };
        next.after(entity.span(allowance)).since(entity.evt())
    }

    /// What the other CPUs have come to.
    fn system(&self) -> VirtualTime {
        self.system.unwrap_or(VirtualTime::MIN)
    }

    /// How far another CPU must have come for a vCPU that waits here to be worth moving there.
    pub(super) fn pull_at(&self, entity: &Entity<Id>) -> VirtualTime {
        entity
            .avt
            .after(entity.span(self.allowance_ns.saturating_mul(PULL_ALLOWANCES)))
    }

    /// How long a vCPU may run, in nanoseconds, on what it takes along from another queue.
    pub(super) fn carry_ns(&self) -> u64 {
        self.allowance_ns.saturating_mul(CARRY_ALLOWANCES)
    }

    pub(super) fn is_idle(&self) -> bool {
        self.running.is_none() && self.turns.is_empty()
    }

    pub(super) fn find(&self, id: Id) -> Result<Slot, SchedError> {
        self.entities.find(id).ok_or(SchedError::Unknown)
    }

    /// The waiting, the one with the least actual virtual time first, the others such that early ones tend to come early.
    pub(super) fn waiting(&self) -> impl Iterator<Item = (Slot, &Entity<Id>)> + '_ {
        self.accounts
            .iter()
            .filter_map(|(_, slot)| Some((slot, self.entities.get(slot)?)))
    }

    /// Adds a vCPU, blocked, and makes room for all that it will ever need here.
    pub(super) fn add(&mut self, entity: Entity<Id>) -> Result<Slot, SchedError> {
        if self.entities.find(entity.id).is_some() {
            return Err(SchedError::Present);
        }
        let slots = self
            .entities
            .slots_with_one_more()
            .ok_or(SchedError::OutOfMemory)?;
        self.turns.reserve(slots).map_err(|_| SchedError::OutOfMemory)?;
        self.accounts
            .reserve(slots)
            .map_err(|_| SchedError::OutOfMemory)?;
        self.entities.add(entity).ok_or(SchedError::OutOfMemory)
    }

    /// Takes the CPU, or the place among the waiting, from a vCPU: it is blocked afterwards.
    pub(super) fn stop(&mut self, slot: Slot, now: u64) -> Reschedule {
        self.account(now);
        let Some(entity) = self.entities.get(slot).filter(|entity| entity.is_runnable()) else {
            return Reschedule::No;
        };
        self.weight = self.weight.saturating_sub(u64::from(entity.share.weight.raw()));
        let was_running = self.running == Some(slot);
        if was_running {
            self.running = None;
            self.yielded = false;
        } else {
            self.dequeue(slot);
        }
        if let Some(entity) = self.entities.get_mut(slot) {
            entity.state = State::Blocked;
        }
        self.advance_svt();
        if was_running {
            Reschedule::Yes
        } else {
            Reschedule::No
        }
    }

    /// Makes a vCPU that is in neither heap wait.
    pub(super) fn enqueue(&mut self, slot: Slot, now: u64) {
        let Some(entity) = self.entities.get_mut(slot) else {
            return;
        };
        entity.settle_warp(now);
        entity.state = State::Waiting;
        let (avt, evt) = (entity.avt, entity.evt());
        self.turns.push(slot, (evt, self.arrivals));
        self.accounts.push(slot, avt);
        self.arrivals = self.arrivals.wrapping_add(1);
        // Who comes may have run ahead, and be the only one now.
        self.advance_svt();
    }

    /// Whether a vCPU that has come to wait changes what the CPU was told: if it is the next.
    pub(super) fn reschedule_if_next(&self, slot: Slot) -> Reschedule {
        match self.turns.first() {
            Some((_, first)) if first == slot => Reschedule::Yes,
            Some(_) | None => Reschedule::No,
        }
    }

    pub(super) fn add_weight(&mut self, weight: u64) {
        self.weight = self.weight.saturating_add(weight);
    }

    fn dequeue(&mut self, slot: Slot) {
        self.turns.remove(slot);
        self.accounts.remove(slot);
    }

    fn start(&mut self, slot: Slot) {
        self.dequeue(slot);
        if let Some(entity) = self.entities.get_mut(slot) {
            entity.state = State::Running;
        }
        self.running = Some(slot);
    }

    /// The least actual virtual time of the runnable.
    fn oldest_runnable(&self) -> Option<VirtualTime> {
        let running = self
            .running
            .and_then(|slot| self.entities.get(slot))
            .map(|entity| entity.avt);
        let waiting = self.accounts.first().map(|(avt, _)| avt);
        running.into_iter().chain(waiting).min()
    }

    fn advance_svt(&mut self) {
        if let Some(oldest) = self.oldest_runnable() {
            self.svt = self.svt.max(oldest);
        }
    }

    /// Checks the queue: heaps are in order and hold exactly the waiting, under their present keys; at most one vCPU runs,
    /// and is the one that the queue says; the sum of the weights is right; the SVT is not behind the runnable.
    ///
    /// # Panics
    ///
    /// If any of this is not so.
    pub fn invariants(&self) {
        self.entities.invariants();
        self.turns.invariants();
        self.accounts.invariants();
        let mut weight = 0_u64;
        let mut waiting = 0_usize;
        for (slot, entity) in self.entities.iter() {
            match entity.state {
                State::Blocked => {
                    assert_ne!(self.running, Some(slot), "{:?} runs, but is blocked", entity.id)
                }
                State::Waiting => {
                    waiting = waiting.saturating_add(1);
                    assert!(
                        self.turns
                            .iter()
                            .any(|((evt, _), member)| member == slot && evt == entity.evt())
                    );
                    assert!(
                        self.accounts
                            .iter()
                            .any(|(avt, member)| member == slot && avt == entity.avt)
                    );
                }
                State::Running => {
                    assert_eq!(self.running, Some(slot), "{:?} runs, but has no CPU", entity.id)
                }
            }
            if entity.is_runnable() {
                weight = weight.saturating_add(u64::from(entity.share.weight.raw()));
            }
        }
        assert_eq!(
            (waiting, waiting),
            (self.turns.len(), self.accounts.len()),
            "only the waiting are in the heaps"
        );
        assert!(
            self.running.is_none_or(|slot| self.entities.get(slot).is_some()),
            "nobody has the CPU"
        );
        assert_eq!(weight, self.weight);
        assert!(self.oldest_runnable().is_none_or(|oldest| oldest <= self.svt));
    }
}
