//! Back-ends that die between any two accesses to the page, and their successors.

use std::cell::Cell;
use std::rc::Rc;

use super::*;

/// How many requests a history has, for a ring of four slots.
const REQUESTS: u64 = 7;

/// How much longer a back-end lives, in accesses, work and notifications.
#[derive(Clone, Debug)]
struct Life(Rc<Cell<u64>>);

impl Life {
    fn of(steps: u64) -> Self {
        Self(Rc::new(Cell::new(steps)))
    }

    /// Whether it lives for one more step.
    fn step(&self) -> bool {
        let left = self.0.get();
        self.0.set(left.saturating_sub(1));
        left > 0
    }

    fn is_over(&self) -> bool {
        self.0.get() == 0
    }
}

/// The page as a back-end sees it. When its life is over nothing that it writes arrives; a copy can end in the middle.
#[derive(Clone, Debug)]
struct Mortal(Page, Life);

impl SharedPage for Mortal {
    fn load(&self, offset: usize) -> u32 {
        self.1.step();
        self.0.load(offset)
    }

    fn store(&self, offset: usize, value: u32) {
        if self.1.step() {
            self.0.store(offset, value);
        }
    }

    fn read(&self, offset: usize, to: &mut [u8]) {
        self.1.step();
        self.0.read(offset, to);
    }

    fn write(&self, offset: usize, from: &[u8]) {
        for (at, byte) in from.iter().enumerate() {
            if self.1.step() {
                self.0.write(offset + at, &[*byte]);
            }
        }
    }
}

/// Numbers that look random (xorshift), the same for the same seed.
struct Dice(u32);

impl Dice {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 17;
        self.0 ^= self.0 << 5;
        self.0 as usize % limit
    }
}

/// A front-end that runs only when it is notified, the device behind the back-ends, and who has been notified.
struct World {
    front: Front<Page, Few>,
    page: Page,
    start: u32,
    dice: Dice,
    posted: u64,
    answered: u64,
    is_front_told: bool,
    is_back_told: bool,
}

impl World {
    fn new(seed: u32) -> Self {
        let start = 3_u32.wrapping_sub(seed % 8);
        let (front, _, pages) = ring_at(start, 1);
        Self {
            front,
            page: pages[0].clone(),
            start,
            dice: Dice(seed.wrapping_mul(0x9e37_79b9) | 1),
            posted: 0,
            answered: 0,
            is_front_told: true,
            is_back_told: false,
        }
    }

    /// The front-end runs, if it has been notified, until it may sleep.
    fn front_runs(&mut self) {
        while core::mem::take(&mut self.is_front_told) {
            while let Some(response) = self.front.take().unwrap() {
                assert_eq!(response, answer(self.answered), "answered once, and in order");
                self.answered += 1;
            }
            while self.posted < REQUESTS && self.front.post(&ask(self.posted)).is_ok() {
                self.posted += 1;
            }
            self.is_back_told |= self.front.push() == Notify::Yes;
            self.is_front_told = !self.front.may_sleep().unwrap();
        }
    }

    /// A back-end adopts the ring and serves it until everybody sleeps, or until its life is over.
    fn back_runs(&mut self, life: &Life) {
        let mut back = Back::<_, Few>::adopt(vec![Mortal(self.page.clone(), life.clone())]).unwrap();
        let mut done = Vec::new();
        let mut queue = Vec::new();
        if !life.step() {
            return;
        }
        self.is_front_told = true;
        loop {
            while let Some((ticket, request)) = back.take().unwrap() {
                if life.is_over() {
                    return;
                }
                assert_eq!(request, ask(request.id), "as it was posted");
                queue.push((ticket, request.id));
                if self.dice.below(3) == 0 {
                    break;
                }
            }
            if !queue.is_empty() {
                let (ticket, id) = queue.swap_remove(self.dice.below(queue.len()));
                // The device does it.
                if !life.step() {
                    return;
                }
                let published = self.page.load(RSP_PROD).wrapping_sub(self.start);
                assert!(id >= u64::from(published), "{id} was answered before");
                assert!(!done.contains(&id), "{id} is done twice");
                done.push(id);
                back.complete(ticket, answer(id));
            }
            if queue.is_empty() || self.dice.below(2) == 0 {
                let notify = back.publish();
                if !life.step() {
                    return;
                }
                self.is_front_told |= notify == Notify::Yes;
            }
            if self.dice.below(2) == 0 {
                self.front_runs();
            }
            if queue.is_empty() && back.may_sleep().unwrap() {
                self.front_runs();
                if life.is_over() || !core::mem::take(&mut self.is_back_told) {
                    return;
                }
            }
        }
    }
}

/// Back-ends with these lives one after the other, and one that lives on. Whether all of them died.
fn history(seed: u32, lives: &[u64]) -> bool {
    let mut world = World::new(seed);
    world.front_runs();
    let mut all_died = true;
    for steps in lives {
        let life = Life::of(*steps);
        world.back_runs(&life);
        all_died &= life.is_over();
        if world.dice.below(2) == 0 {
            world.front_runs();
        }
    }
    world.back_runs(&Life::of(u64::MAX));
    assert_eq!(
        world.answered, REQUESTS,
        "none is lost, and nobody sleeps over it"
    );
    all_died
}

#[test]
fn a_back_end_that_dies_at_any_step_leaves_each_request_to_be_answered_exactly_once() {
    for seed in 0..40 {
        let steps = (0..).take_while(|steps| history(seed, &[*steps])).count();
        assert!(steps > 250, "a history has more steps than {steps}");
    }
}

#[test]
fn so_does_its_successor_that_dies_at_any_step() {
    // A history in which the indices wrap.
    let seed = 5;
    let deaths = (0..)
        .take_while(|first| history(seed, &[*first]))
        .map(|first| {
            (0..)
                .take_while(|second| history(seed, &[first, *second]))
                .count()
        })
        .sum::<usize>();
    assert!(deaths > 10_000, "a history has more steps than that: {deaths}");
}
