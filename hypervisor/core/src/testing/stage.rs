//! A world with hostile guests in it, and the order in which its CPUs act: one after the other, or one in the middle of what
//! another does.
//!
//! Interleaving: whenever a CPU that holds no lock asks something of the machine, another may act, whole, before it is
//! answered. These are the moments at which other CPUs can change what a CPU in the hypervisor has looked at; locks
//! see to all others. It is deterministic, and needs no threads. Whether a lock is held is known in builds that check locks
//! ([`crate::lock`]); in others nothing is interleaved.

use super::acts::Effect;
use super::{Act, Choices, GuestSpec, Hostile, SimConfig, Tally, WeakWorld, World};
use crate::hypercalls::table::{Row, TABLE};
use crate::hypervisor::EndPolicy;
use crate::ids::CpuId;
use crate::traps::Exception;
use alloc::sync::Arc;
use alloc::vec::Vec;
use bulkhead_abi::vcpu::VcpuOp;
use bulkhead_abi::{Errno, Hypercall};
use spin::{Mutex, MutexGuard};

/// How a stage is set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StageConfig {
    /// How many guests there are.
    pub guests: u16,
    /// How many CPUs there are.
    pub cpus: u32,
    /// In how many of a hundred cases another CPU acts when one could be interrupted.
    pub interleaving: u64,
}

/// Somebody's act.
#[derive(Clone, Debug)]
pub struct Deed {
    /// The CPU that acted.
    pub cpu: usize,
    /// Whether it did so in the middle of another's act: the one that stands before it.
    pub is_inner: bool,
    /// What it did.
    pub act: Act,
}

/// How often guests succeeded, and how often they tried.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Score {
    /// Calls about page tables.
    pub paging: (u64, u64),
    /// All other calls.
    pub other: (u64, u64),
    /// Acts in the middle of others.
    pub inner: u64,
}

impl Score {
    fn note(&mut self, effect: Effect) {
        let (tally, answer) = match effect {
            Effect::Paging(answer) => (&mut self.paging, answer),
            Effect::Other(answer) => (&mut self.other, answer),
            Effect::Done | Effect::Fault => return,
        };
        tally.0 += u64::from(answer.is_ok());
        tally.1 += 1;
    }
}

/// A world, its guests, and what they did so far.
#[derive(Debug)]
pub struct Stage {
    world: World,
    troupe: Arc<Mutex<Troupe>>,
    cpus: u64,
}

#[derive(Debug)]
struct Troupe {
    guests: Vec<Hostile>,
    choices: Choices,
    history: Vec<Deed>,
    score: Score,
}

impl Stage {
    /// Sets the stage; `choices` decide all that happens on it.
    #[must_use]
    pub fn new(config: StageConfig, choices: Choices) -> Self {
        let (world, guests) = Self::new_world(config);
        let troupe = Arc::new(Mutex::new(Troupe {
            guests,
            choices,
            history: Vec::new(),
            score: Score::default(),
        }));
        if config.interleaving > 0 {
            let (weak, inner) = (world.downgrade(), Arc::clone(&troupe));
            let cue = move |cpu: CpuId| enter_between(&weak, &inner, cpu, config);
            world.sim().set_interruption(cue);
        }
        Self {
            world,
            troupe,
            cpus: u64::from(config.cpus),
        }
    }

    /// A world as it is before the first act, and its guests. One is bound to the first CPU; the others go wherever there is time.
    #[must_use]
    pub fn new_world(config: StageConfig) -> (World, Vec<Hostile>) {
        let frames = SimConfig {
            // Some are nobody's: until guests that take more have them, or the trees that their devices walk.
            free_frames: u64::from(config.guests) * (GuestSpec::FRAMES + 6) + 8,
            cpus: config.cpus,
        };
        let world = World::new(frames, EndPolicy::LastDomain);
        world.sim().let_waiting_pass_time(false);
        // Something for the control domain to read.
        world.sim().type_in(&[b'x'; 4096]);
        let mut guests = Vec::new();
        // The first has the power of the control domain.
        for n in 0..config.guests {
            let guest = GuestSpec {
                vcpus: 2,
                home: (n == 0).then_some(CpuId::BOOT),
                ..GuestSpec::default()
            };
            world.create(n, &guest).unwrap();
        }
        // Each is met where it first runs.
        while guests.len() < usize::from(config.guests) {
            for cpu in 0..config.cpus as usize {
                let id = world.enter(cpu).map(|(id, _)| id);
                if let Some(id) = id.filter(|&id| guests.iter().all(|guest: &Hostile| guest.id != id)) {
                    guests.push(Hostile::new(&world, cpu));
                    assert_eq!(guests.last().map(|guest| guest.id), Some(id));
                }
                if id.is_some() {
                    world.yield_now(cpu);
                }
            }
        }
        (world, guests)
    }

    /// The world.
    #[must_use]
    pub fn world(&self) -> &World {
        &self.world
    }

    /// Lets somebody act. Says whether anybody could.
    pub fn step(&self) -> bool {
        let cpu = self.troupe.lock().choices.below(self.cpus);
        perform(&self.world, &self.troupe, usize::try_from(cpu).unwrap(), false)
    }

    /// Checks every law.
    ///
    /// # Panics
    ///
    /// If one is broken.
    pub fn invariants(&self) {
        self.world.invariants();
    }

    /// What was done so far.
    #[must_use]
    pub fn history(&self) -> Vec<Deed> {
        self.troupe.lock().history.clone()
    }

    /// How many acts were done so far.
    #[must_use]
    pub fn acts(&self) -> usize {
        self.troupe.lock().history.len()
    }

    /// What the guests tried, and what came of it.
    #[must_use]
    pub fn tally(&self) -> Tally {
        self.world.tally()
    }

    /// How the guests fared.
    #[must_use]
    pub fn score(&self) -> Score {
        self.troupe.lock().score
    }

    /// Whether all that there was to decide by has been used.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.troupe.lock().choices.is_spent()
    }
}

/// Lets the guest that runs on `cpu` act. Says whether there is one.
fn perform(world: &World, troupe: &Mutex<Troupe>, cpu: usize, is_inner: bool) -> bool {
    let Some((id, _)) = interruptible(world, is_inner, || world.enter(cpu)) else {
        world.sim().advance(50_000);
        return false;
    };
    let act = decide(world, &mut troupe.lock(), id);
    troupe.lock().history.push(Deed {
        cpu,
        is_inner,
        act: act.clone(),
    });
    let effect = if is_inner {
        world.act_between(cpu, &act)
    } else {
        interruptible(world, is_inner, || world.act(cpu, &act))
    };
    check_error(&act, effect);
    let mut troupe = troupe.lock();
    troupe.score.note(effect);
    troupe.score.inner += u64::from(is_inner);
    true
}

/// A call answers no error but those that the table of hypercalls lists for it.
fn check_error(act: &Act, effect: Effect) {
    let (number, op) = match act {
        Act::OneGo(inner) | Act::Repeat(inner, _) => return check_error(inner, effect),
        Act::Mmu(_) => (Hypercall::MmuUpdate.raw(), None),
        Act::Ext(_) => (Hypercall::MmuextOp.raw(), None),
        Act::UpdateVa(..) => (Hypercall::UpdateVaMapping.raw(), None),
        Act::Call { number, args, .. } => {
            // Above its number, a memory operation may carry how far it has come.
            let is_memory = *number == Hypercall::MemoryOp.raw();
            let mask = if is_memory { 0x3f } else { u64::from(u32::MAX) };
            (*number, u32::try_from(args[0] & mask).ok())
        }
        Act::Initialise(_) => (Hypercall::VcpuOp.raw(), Some(VcpuOp::Initialise.raw())),
        Act::Read(_)
        | Act::Write(..)
        | Act::Grant(..)
        | Act::Several(_)
        | Act::Instruction { .. }
        | Act::Raise(_)
        | Act::Return(_)
        | Act::ReturnFrom(_)
        | Act::CompatCall
        | Act::Sysenter
        | Act::Load(_)
        | Act::Forget { .. }
        | Act::Interrupt(_)
        | Act::Message(_)
        | Act::Attach(..)
        | Act::Dma(..)
        | Act::Compute(_) => {
            return;
        }
    };
    let (Effect::Paging(Err(error)) | Effect::Other(Err(error))) = effect else {
        return;
    };
    let is_listed =
        |row: &&Row| row.call.raw() == number && (op.is_none() || row.op.is_none_or(|(_, n)| op == Some(n)));
    let mut rows = TABLE.iter().filter(is_listed);
    assert!(
        error == Errno::NoSys || rows.any(|row| row.errors.contains(&error)),
        "{error:?} is not listed for {act:x?}"
    );
}

/// What the guest `id` does next, which runs on the CPU that acts.
fn decide(world: &World, troupe: &mut MutexGuard<'_, Troupe>, id: u16) -> Act {
    if !Hostile::is_able(world) {
        return helpless();
    }
    let troupe = &mut **troupe;
    let place = troupe.guests.iter().position(|guest| guest.id == id).unwrap();
    let mut guest = troupe.guests.swap_remove(place);
    let others: Vec<&Hostile> = troupe.guests.iter().collect();
    let act = guest.next(world, &others, &mut troupe.choices);
    troupe.guests.push(guest);
    act
}

/// A guest that cannot reach its own memory any more gives up.
fn helpless() -> Act {
    Act::Raise(Exception {
        vector: 14,
        error_code: 0,
        address: 0,
    })
}

/// Runs `act` on some CPU, which may be interrupted by others unless it interrupts one itself.
fn interruptible<T>(world: &World, is_inner: bool, act: impl FnOnce() -> T) -> T {
    if is_inner {
        return act();
    }
    world.sim().allow_interruption(true);
    let result = act();
    world.sim().allow_interruption(false);
    result
}

/// `acting` could be interrupted: perhaps another CPU acts.
fn enter_between(world: &WeakWorld, troupe: &Mutex<Troupe>, acting: CpuId, config: StageConfig) {
    let Some(world) = world.upgrade() else { return };
    let cpu = {
        let choices = &mut troupe.lock().choices;
        if !choices.chance(config.interleaving) {
            return;
        }
        // Any but the one that acts.
        let step = 1 + u32::try_from(choices.below(u64::from(config.cpus) - 1)).unwrap();
        (acting.raw() + step) % config.cpus
    };
    perform(&world, troupe, cpu as usize, true);
    world.hv().invariants_at_any_time();
}
