//! Back-ends that die at every step: between any two accesses to the ring, calls of the disk and hypercalls. Successors adopt what they leave.
#![expect(
    clippy::indexing_slicing,
    clippy::unwrap_used,
    clippy::arithmetic_side_effects,
    clippy::cast_possible_truncation,
    reason = "a test fails by panicking"
)]

use bulkhead_abi::DomId;
use bulkhead_abi::grant::GrantStatus;
use bulkhead_blkback::backend::{BackEnd, Connection, Event, Rest};
use bulkhead_blkback::grants::{Grants, Map, Pin};
use bulkhead_blkback::testing::{Dice, Guest, Machine, geometry};
use bulkhead_blkback::vbd::{Access, Extent, Vbd};
use bulkhead_blkback::wire::Layout;
use bulkhead_devices::disk::{Completion, Disk, Geometry, Operation, Refused, Tag};
use bulkhead_ring::testing::{Life, MortalPage};

/// How many requests a history has.
const REQUESTS: u64 = 12;
const SECTORS: u64 = 128;

/// The machine that a back-end has; nothing happens when its life is over.
#[derive(Clone, Debug)]
struct Mortal(Machine, Life);

impl Disk for Mortal {
    fn geometry(&self) -> &Geometry {
        self.0.geometry()
    }

    fn submit(&mut self, tag: Tag, operation: Operation<'_>) -> Result<(), Refused> {
        if self.1.step() {
            return self.0.submit(tag, operation);
        }
        Ok(())
    }

    fn commit(&mut self) {
        if self.1.step() {
            self.0.commit();
        }
    }

    fn take(&mut self) -> Option<Completion> {
        self.0.take().filter(|_| !self.1.is_over())
    }

    fn may_sleep(&mut self) -> bool {
        self.1.is_over() || self.0.may_sleep()
    }
}

impl Grants for Mortal {
    fn map(&mut self, maps: &mut [Map]) {
        if self.1.step() {
            self.0.map(maps);
        }
    }

    fn unmap(&mut self, pins: &[Pin]) -> usize {
        if self.1.step() { self.0.unmap(pins) } else { 0 }
    }

    fn read(&mut self, domain: DomId, gref: u32, to: &mut [u8]) -> Result<(), GrantStatus> {
        self.0.read(domain, gref, to)
    }
}

struct World {
    machine: Machine,
    guest: Guest,
    dice: Dice,
    asked: u64,
}

impl World {
    fn new(seed: u64) -> Self {
        let machine = Machine::new(Geometry {
            max_sectors: 24,
            depth: 8,
            ..geometry(1024)
        });
        let mut guest = Guest::new(&machine, 1, SECTORS, 1);
        guest.is_persistent = seed.is_multiple_of(3);
        Self {
            guest,
            machine,
            dice: Dice::new(seed),
            asked: 0,
        }
    }

    /// The front-end runs: if it was notified, it checks what was answered, and that it is on the disk. Then it asks for more.
    fn guest_runs(&mut self) {
        if self.guest.rings[0].is_told {
            self.guest.collect();
            self.guest.check_disk(|sector| 512 + sector);
        }
        while self.asked < REQUESTS && self.dice.below(4) > 0 {
            self.asked += u64::from(self.guest.ask_any(&mut self.dice));
        }
        self.guest.push();
    }

    /// A back-end adopts the ring and serves it until everybody sleeps, or until its life is over.
    fn back_runs(&mut self, life: &Life) {
        let machine = Mortal(self.machine.clone(), life.clone());
        let mut back = BackEnd::new(machine.clone(), machine);
        let extent = Extent {
            first: 512,
            sectors: SECTORS,
        };
        let connection = Connection {
            domain: DomId::new(1),
            vbd: Vbd::new(&[extent], Access::ReadWrite, 1024, 512).unwrap(),
            layout: Layout::X86_64,
            rings: vec![vec![MortalPage(
                self.guest.rings[0].pages[0].clone(),
                life.clone(),
            )]],
            is_persistent: self.guest.is_persistent,
        };
        let id = back.connect(connection).unwrap();
        for round in 0.. {
            assert!(round < 10_000, "it comes to no end");
            let rest = back.round();
            for event in back.events() {
                match event {
                    // The call that notifies is a step, too.
                    Event::Notify(..) => self.guest.rings[0].is_told |= life.step(),
                    Event::Fault(..) | Event::Closed(..) | Event::Flaw(_) => {
                        assert!(life.is_over(), "{event:?}");
                    }
                }
            }
            if life.is_over() {
                return;
            }
            if self.dice.one_of(2) {
                self.guest_runs();
            }
            let pending = self.machine.pending();
            if pending > 0 && self.dice.one_of(2) {
                let at = self.dice.below(pending as u64) as usize;
                self.machine.work(at, Ok(()));
            }
            if core::mem::take(&mut self.guest.rings[0].has_told) {
                back.kick(id, 0);
            } else if rest == Rest::Sleep && self.machine.pending() == 0 && self.machine.clone().may_sleep() {
                self.guest_runs();
                if !self.guest.rings[0].has_told && !self.guest.rings[0].is_told && self.asked == REQUESTS {
                    return;
                }
            }
        }
    }
}

/// Back-ends with these lives one after the other, and one that lives on. Whether all of them died.
fn history(seed: u64, lives: &[u64]) -> bool {
    let mut world = World::new(seed);
    let mut all_died = true;
    for steps in lives {
        let life = Life::of(*steps);
        world.back_runs(&life);
        all_died &= life.is_over();
        // The law of a domain's end: nothing of its devices is under way afterwards, and its pins are gone.
        world.machine.reset(&mut world.dice);
        if world.dice.one_of(2) {
            world.guest_runs();
        }
    }
    world.back_runs(&Life::of(u64::MAX));
    assert_eq!(
        world.guest.outstanding(),
        0,
        "none is lost, and nobody sleeps over it"
    );
    assert_eq!(
        world.guest.answered,
        (REQUESTS, 0),
        "each was answered once, and none failed"
    );
    world.guest.check_disk(|sector| 512 + sector);
    all_died
}

#[test]
fn a_back_end_that_dies_at_any_step_leaves_every_request_to_be_done_and_answered_once() {
    for seed in 0..12 {
        let steps = (0..).take_while(|steps| history(seed, &[*steps])).count();
        assert!(steps > 80, "a history has more steps than {steps}");
    }
}

#[test]
fn so_do_several_that_die_one_after_the_other() {
    let mut dice = Dice::new(1);
    for seed in 0..1000 {
        let lives: Vec<u64> = (0..dice.below(6)).map(|_| dice.below(120)).collect();
        history(seed, &lives);
    }
}
