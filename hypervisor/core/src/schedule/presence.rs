//! Which vCPUs of a domain may run: bringing one up, taking one down, stopping all.
//!
//! A vCPU that is down keeps its place in its run queue, blocked, with all that it has had of the CPU: one that is taken down and
//! brought up again is not better off for it. Only its home's CPU takes away a vCPU that runs.
//!
//! What a vCPU's standing is changes under its domain's lifecycle lock: the last vCPU that goes down takes the domain with it, whoever
//! else goes at the same time, and none comes up in a domain that has ended.

use super::{Key, Rest};
use crate::domains::Domain;
use crate::hypervisor::{Current, Hypervisor, Shared};
use crate::ids::CpuId;
use crate::machine::Machine;
use crate::sched::{SchedError, State};
use crate::time::Purpose;
use crate::vcpu::{Standing, Vcpu};
use bulkhead_abi::sched::ShutdownReason;

/// The vCPU has no state that it could run with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct NoState;

impl<M: Machine> Hypervisor<M> {
    /// Gives each vCPU of a new domain a place in a run queue, where there is least to do. They are all down.
    pub(crate) fn enrol(&self, domain: &Domain) -> Result<(), SchedError> {
        let share = *domain.share.lock();
        for vcpu in &domain.vcpus {
            let home = self.board.choose(share.affinity, None).unwrap_or(CpuId::BOOT);
            let shared = self.shared(home).ok_or(SchedError::Unknown)?;
            let mut queue = shared.queue.lock();
            queue.run.insert((domain.id, vcpu.id), share)?;
            vcpu.set_home(home);
        }
        Ok(())
    }

    /// Lets a vCPU run, if it did not yet. In a domain that has ended nothing happens.
    pub(crate) fn bring_up(&self, domain: &Domain, vcpu: &Vcpu) -> Result<(), NoState> {
        let life = domain.lifecycle.lock();
        match vcpu.standing() {
            Standing::Blank => return Err(NoState),
            Standing::Up => {}
            Standing::Down if life.has_ended() => {}
            Standing::Down => {
                vcpu.set_standing(Standing::Up);
                self.wake_vcpu(domain, vcpu);
            }
        }
        Ok(())
    }

    /// Takes a vCPU down until it is brought up again; the domain with it, if it is the last.
    pub(crate) fn take_down(&self, domain: &Domain, vcpu: &Vcpu) {
        let life = domain.lifecycle.lock();
        if life.has_ended() || !vcpu.is_up() {
            return;
        }
        let mut others = domain.vcpus.iter().filter(|other| other.id != vcpu.id);
        if others.any(Vcpu::is_up) {
            self.stop_vcpu(domain, vcpu);
        } else {
            drop(life);
            self.shut_down(domain, ShutdownReason::Poweroff);
        }
    }

    /// Takes a vCPU from its CPU, until it is started again. Its deadlines go.
    pub(crate) fn stop_vcpu(&self, domain: &Domain, vcpu: &Vcpu) {
        if !vcpu.is_up() {
            return;
        }
        // First: whoever would let it run from now on sees this, under the lock of the queue that it is in.
        vcpu.set_standing(Standing::Down);
        self.set_aside(domain, vcpu);
        for purpose in Purpose::ALL
            .into_iter()
            .filter(|purpose| purpose.is_of_vcpu() && !mutant!(StoppedWithDeadlines))
        {
            self.cancel_deadline(domain, vcpu, purpose);
        }
    }

    /// Ends the running vCPU's domain. Whoever ended it first, the vCPU does not go on: another that ends the domain at this moment may
    /// not have come to this one yet.
    pub(crate) fn end(&self, current: &mut Current, reason: ShutdownReason) {
        self.shut_down(&current.domain, reason);
        if let Some(vcpu) = current.vcpu() {
            self.stop_vcpu(&current.domain, vcpu);
        }
        // It need not be told by way of its CPU.
        current.rest = Some(Rest::Block);
    }

    /// Takes a domain from its CPUs, until it is let run again. Its deadlines stay, and events are shown to it.
    pub(crate) fn pause(&self, domain: &Domain) {
        let _life = domain.lifecycle.lock();
        for vcpu in &domain.vcpus {
            vcpu.set_held(true);
            if vcpu.is_up() {
                self.set_aside(domain, vcpu);
            }
        }
    }

    /// Lets a domain run that was paused, or made and not let run yet. What rested and was not woken meanwhile rests on.
    pub fn unpause(&self, domain: &Domain) {
        let mut life = domain.lifecycle.lock();
        life.start();
        for vcpu in &domain.vcpus {
            vcpu.set_held(false);
            // Who found it held noted that under this lock.
            if let Some(shared) = self.shared(vcpu.home()) {
                drop(shared.queue.lock());
            }
            if vcpu.take_resumes() && vcpu.is_up() {
                self.wake_vcpu(domain, vcpu);
            }
        }
    }

    /// Whether no vCPU of a domain may run, and each has left its CPU. One that a CPU has chosen and not taken yet has not, nor
    /// one on its way between two queues: whoever has it still goes by what it was. Nobody wakes one that may not run: that is looked at
    /// under the same lock.
    pub(crate) fn is_at_rest(&self, domain: &Domain) -> bool {
        domain.vcpus.iter().all(|vcpu| {
            let Some(shared) = self.shared(vcpu.home()) else {
                return true;
            };
            let queue = shared.queue.lock();
            let is_blocked = queue.run.state((domain.id, vcpu.id)) == Some(State::Blocked);
            is_blocked && !vcpu.may_run() && !vcpu.is_away()
        })
    }

    /// Takes the places of a domain's vCPUs, which have all left their CPUs for good, out of their queues.
    pub(crate) fn unenrol(&self, domain: &Domain) {
        let now = self.machine().now();
        for vcpu in &domain.vcpus {
            // Nobody moves it: only what may run is moved.
            if let Some(shared) = self.shared(vcpu.home()) {
                let mut queue = shared.queue.lock();
                let removed = queue.run.remove((domain.id, vcpu.id), now);
                debug_assert!(removed.is_ok(), "{} is where it says", vcpu.id);
                self.board.publish(vcpu.home(), &queue.run.load());
            }
        }
        self.unreserve(domain.vcpus.len());
    }

    /// Takes a vCPU that may not run any more from its CPU.
    fn set_aside(&self, domain: &Domain, vcpu: &Vcpu) {
        let key = (domain.id, vcpu.id);
        loop {
            let home = vcpu.home();
            let Some(shared) = self.shared(home) else { return };
            let mut queue = shared.queue.lock();
            let now = self.machine().now();
            match queue.run.state(key) {
                // Its CPU takes it from there, when its registers are in their place.
                Some(State::Running) => {
                    drop(queue);
                    self.call(home, shared);
                    break;
                }
                Some(State::Blocked) if vcpu.is_held() && vcpu.is_up() => break,
                Some(State::Waiting | State::Blocked) => {
                    if let Ok(reschedule) = queue.run.block(key, now) {
                        vcpu.resume_later();
                        vcpu.history.lock().stop(now);
                        self.pass_on(home, shared, &queue, reschedule);
                    }
                    break;
                }
                // It is on its way between two queues: whoever takes it there sees to it. Or it has moved.
                None if vcpu.home() == home => break,
                None => {}
            }
        }
    }

    /// A vCPU was chosen to run, and could not be taken: it was stopped just now. Unless it was started again meanwhile, it
    /// is not chosen any more.
    pub(super) fn lay_down(&self, shared: &Shared, key: Key, now: u64) {
        let (domain, vcpu) = key;
        let domain = self.domains.get(domain);
        let vcpu = domain.as_ref().and_then(|domain| domain.vcpu(vcpu));
        let mut queue = shared.queue.lock();
        if vcpu.is_some_and(Vcpu::may_run) {
            return;
        }
        if queue.run.block(key, now).is_ok()
            && let Some(vcpu) = vcpu
        {
            vcpu.resume_later();
            vcpu.history.lock().stop(now);
        }
    }
}

#[cfg(test)]
#[cfg(not(loom))]
mod tests {
    use crate::hypervisor::EndPolicy;
    use crate::ids::{CpuId, VcpuId};
    use crate::sched::State;
    use crate::testing::{GuestSpec, SimConfig, World};
    use bulkhead_abi::{DomId, Errno};

    const GUEST: DomId = DomId::new(1);
    const KEY: super::Key = (GUEST, VcpuId::new(0));

    /// A guest that waits for the first of two CPUs.
    fn world() -> World {
        let config = SimConfig {
            free_frames: GuestSpec::FRAMES + 8,
            cpus: 2,
        };
        let world = World::new(config, EndPolicy::ControlDomain);
        let guest = GuestSpec {
            home: Some(CpuId::BOOT),
            ..GuestSpec::default()
        };
        world.create(GUEST.raw(), &guest).unwrap();
        world
    }

    /// Nothing comes of its destruction, however often it is tried.
    fn stays(world: &World) {
        for _ in 0..20 {
            assert_eq!(world.hv().destroy_domain(GUEST), Err(Errno::Restart));
        }
    }

    fn goes(world: &World) {
        while world.hv().destroy_domain(GUEST) == Err(Errno::Restart) {}
        assert!(!world.hv().has_domain(GUEST));
        world.invariants();
    }

    #[test]
    fn a_domain_stays_while_a_cpu_has_chosen_one_of_its_vcpus() {
        let world = world();
        let hv = world.hv();
        let shared = hv.shared(CpuId::BOOT).unwrap();
        let turn = shared.queue.lock().run.pick(0).unwrap();
        assert_eq!(turn.id, KEY);
        stays(&world);
        assert!(hv.take(CpuId::BOOT, KEY).is_none(), "it was stopped");
        hv.lay_down(shared, KEY, 0);
        goes(&world);
    }

    #[test]
    fn a_domain_stays_while_one_of_its_vcpus_is_between_two_queues() {
        let world = world();
        let hv = world.hv();
        let queue = &hv.shared(CpuId::BOOT).unwrap().queue;
        let (migrant, _) = queue.lock().run.leave(KEY, 0).unwrap();
        stays(&world);
        hv.settle(migrant, CpuId::new(1));
        assert_eq!(hv.cpus[1].queue.lock().run.state(KEY), Some(State::Blocked));
        goes(&world);
    }

    #[test]
    fn a_vcpu_that_sleeps_and_may_run_is_not_at_rest() {
        let world = world();
        world.sim().let_waiting_pass_time(false);
        assert_eq!(world.enter(0), Some((1, 0)));
        world.boot(0);
        world.block(0);
        let hv = world.hv();
        let domain = hv.domains.get(GUEST).unwrap();
        assert_eq!(hv.cpus[0].queue.lock().run.state(KEY), Some(State::Blocked));
        assert!(!hv.is_at_rest(&domain), "an event would wake it");
        goes(&world);
    }
}
