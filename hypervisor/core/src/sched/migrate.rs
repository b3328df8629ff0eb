//! A vCPU on its way from one CPU's queue to another's: [`Migrant`].

use core::fmt;

use super::entity::Entity;
use super::placement::CpuSet;
use super::queue::{Reschedule, RunQueue, SchedError};
use super::vtime::VirtualTime;
use crate::ids::CpuId;

/// How many of the waiting a CPU looks at to find one that may come to it.
const STEAL_SCAN: usize = 16;

/// A vCPU that has left one queue, and is in none until it arrives at another.
#[must_use = "the vCPU is in no queue, and would never run again"]
#[derive(Debug)]
pub struct Migrant<Id> {
    entity: Entity<Id>,
    was_runnable: bool,
    /// What the queue that it left had come to.
    left_at: VirtualTime,
}

impl<Id: Copy> Migrant<Id> {
    /// Which vCPU it is.
    pub fn id(&self) -> Id {
        self.entity.id
    }

    /// The CPUs on which it may run.
    pub fn affinity(&self) -> CpuSet {
        self.entity.share.affinity
    }
}

impl<Id: Copy + Ord + fmt::Debug> RunQueue<Id> {
    /// Takes a vCPU out, whatever it is doing, to go to another queue.
    ///
    /// # Errors
    ///
    /// [`SchedError::Unknown`].
    pub fn leave(&mut self, id: Id, now: u64) -> Result<(Migrant<Id>, Reschedule), SchedError> {
        let slot = self.find(id)?;
        self.account(now);
        // Before it goes: without it the queue may be further on.
        let left_at = self.svt;
        let was_runnable = self.entities.get(slot).is_some_and(Entity::is_runnable);
        let reschedule = self.stop(slot, now);
        let entity = self.entities.remove(slot).ok_or(SchedError::Unknown)?;
        Ok((
            Migrant {
                entity,
                was_runnable,
                left_at,
            },
            reschedule,
        ))
    }

    /// Takes out the vCPU that has waited longest, in virtual time, of those that may run on `thief`.
    ///
    /// `thief_at` is how far the runnable of that CPU have come, its [`Load::oldest_runnable`](super::Load::oldest_runnable).
    /// If there are none, any vCPU is given; else only one that is behind by more than the switches of a CPU make
    /// it. At most 16 vCPUs are looked at.
    pub fn steal(&mut self, thief: CpuId, thief_at: Option<VirtualTime>, now: u64) -> Option<Migrant<Id>> {
        let is_due = |entity: &Entity<Id>| thief_at.is_none_or(|thief_at| self.pull_at(entity) <= thief_at);
        let candidates = self.waiting().take(STEAL_SCAN).map(|(_, entity)| entity);
        let fit = candidates.filter(|entity| entity.share.affinity.contains(thief) && is_due(entity));
        let id = fit
            .min_by_key(|entity| (entity.avt, entity.id))
            .map(|entity| entity.id)?;
        let (migrant, _waited) = self.leave(id, now).ok()?;
        Some(migrant)
    }

    /// The CPUs on which those that wait here may run; the first 16 of them are looked at.
    ///
    /// If one of these is idle ([`Board::idle`](super::Board::idle)), it should be told to pull.
    #[must_use]
    pub fn waiting_affinity(&self) -> CpuSet {
        let waiting = self.waiting().take(STEAL_SCAN);
        waiting.fold(CpuSet::NONE, |all, (_, entity)| all.or(entity.share.affinity))
    }

    /// Takes a vCPU in that left another queue; if it was runnable there, it waits here.
    ///
    /// Its actual virtual time is re-based: as far from this queue's SVT as it was from the other's. Added is what the
    /// other queue was behind this one, or taken off what it was ahead, as far as 32 allowances of running
    /// pay for it.
    ///
    /// # Errors
    ///
    /// [`SchedError::Present`], [`SchedError::OutOfMemory`], with the vCPU, which must go elsewhere: the queue that it came
    /// from has room for it as long as nobody else came there.
    pub fn arrive(
        &mut self,
        migrant: Migrant<Id>,
        now: u64,
    ) -> Result<Reschedule, (SchedError, Migrant<Id>)> {
        self.account(now);
        let Migrant {
            ref entity,
            was_runnable,
            left_at,
        } = migrant;
        let mut entity = *entity;
        if self.is_idle() {
            // An idle queue's clock stands. It follows the one of who comes to set it going.
            self.svt = self.svt.max(left_at);
        }
        let carry = entity.span(self.carry_ns());
        let lead = entity.avt.since(left_at);
        let lag = left_at.since(entity.avt);
        let credit = self.svt.since(left_at).min(carry);
        let debit = left_at.since(self.svt).min(carry);
        entity.avt = self.svt.after(lead).after(debit).before(lag).before(credit);
        let weight = u64::from(entity.share.weight.raw());
        let slot = self.add(entity).map_err(|error| (error, migrant))?;
        if !was_runnable {
            return Ok(Reschedule::No);
        }
        self.add_weight(weight);
        self.enqueue(slot, now);
        Ok(self.reschedule_if_next(slot))
    }
}
