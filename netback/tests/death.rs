//! Back-ends that die at every step: between any two accesses to the rings, calls of the NIC and hypercalls, and inside of those. Successors adopt what they leave.
#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::cast_possible_truncation,
    reason = "a test fails by panicking"
)]

use std::collections::BTreeMap;

use bulkhead_backend::pins::{Map, Pin};
use bulkhead_devices::BusAddress;
use bulkhead_devices::nic::{self, Nic, NicInfo, Refused, Segment, Tag};
use bulkhead_netback::backend::{BackEnd, Channel, Event, Rest};
use bulkhead_netback::machine::{self, BufferId, Copy, Flip, PageId};
use bulkhead_netback::negotiation::Mode;
use bulkhead_netback::testing::frames::{self, Host};
use bulkhead_netback::testing::{ALL, Dice, Guest, Machine, NIC, VFR_MAC, WIRE_MAC, add_port, vfr};
use bulkhead_netback::vfr::classify::PortId;
use bulkhead_netfront::{Checksum, Offload};
use bulkhead_ring::testing::{Life, MortalPage};

/// How many frames each guest sends, and gets by the wire.
const FRAMES: u32 = 5;

/// The machine that a back-end has; nothing happens when its life is over.
#[derive(Clone, Debug)]
struct Mortal(Machine, Life);

impl machine::Machine for Mortal {
    fn pages(&self) -> u32 {
        self.0.pages()
    }

    fn buffers(&self) -> u32 {
        self.0.buffers()
    }

    fn page_address(&self, page: PageId) -> BusAddress {
        self.0.page_address(page)
    }

    fn buffer_address(&self, buffer: BufferId) -> BusAddress {
        self.0.buffer_address(buffer)
    }

    fn read(&self, buffer: BufferId, offset: usize, to: &mut [u8]) {
        machine::Machine::read(&self.0, buffer, offset, to);
    }

    fn write(&mut self, buffer: BufferId, offset: usize, from: &[u8]) {
        machine::Machine::write(&mut self.0, buffer, offset, from);
    }

    fn map(&mut self, maps: &mut [Map]) {
        for map in maps {
            if self.1.step() {
                self.0.map(core::slice::from_mut(map));
            }
        }
    }

    fn unmap(&mut self, pins: &[Pin]) -> usize {
        for pin in pins {
            if self.1.step() {
                self.0.unmap(core::slice::from_ref(pin));
            }
        }
        0
    }

    fn copy(&mut self, copies: &mut [Copy]) {
        for copy in copies {
            if self.1.step() {
                machine::Machine::copy(&mut self.0, core::slice::from_mut(copy));
            }
        }
    }

    fn flip(&mut self, flips: &mut [Flip]) {
        for flip in flips {
            if self.1.step() {
                self.0.flip(core::slice::from_mut(flip));
            }
        }
    }

    fn pin(&mut self, pages: &[PageId]) -> usize {
        if self.1.step() {
            self.0.pin(pages)
        } else {
            pages.len()
        }
    }

    fn unpin(&mut self, pages: &[PageId]) -> usize {
        if self.1.step() {
            self.0.unpin(pages)
        } else {
            pages.len()
        }
    }
}

impl Nic for Mortal {
    fn info(&self) -> &NicInfo {
        self.0.info()
    }

    fn read_link(&self) -> bool {
        true
    }

    fn send(&mut self, tag: Tag, segments: &[Segment], offload: &nic::Offload) -> Result<(), Refused> {
        if self.1.step() {
            return self.0.send(tag, segments, offload);
        }
        Ok(())
    }

    fn post(&mut self, tag: Tag, segment: Segment) -> Result<(), Refused> {
        if self.1.step() {
            return self.0.post(tag, segment);
        }
        Ok(())
    }

    fn commit(&mut self) {
        if self.1.step() {
            self.0.commit();
        }
    }

    fn take(&mut self) -> Option<nic::Event> {
        Nic::take(&mut self.0).filter(|_| !self.1.is_over())
    }

    fn may_sleep(&mut self) -> bool {
        self.1.is_over() || self.0.may_sleep()
    }
}

struct World {
    machine: Machine,
    guests: [Guest; 2],
    dice: Dice,
    /// How many frames each guest has posted, and how many have come by the wire for it.
    posted: [u32; 2],
    arrived: [u32; 2],
    now: u64,
}

impl World {
    /// The first guest has one queue, the other two.
    fn new(seed: u64, modes: [Mode; 2]) -> Self {
        let machine = Machine::new(NIC, 24, 24);
        Self {
            guests: [1, 2].map(|number| {
                let mode = modes[number - 1];
                Guest::with_queues(&machine, number as u8, mode, ALL, number)
            }),
            machine,
            dice: Dice::new(seed),
            posted: [0; 2],
            arrived: [0; 2],
            now: 1,
        }
    }

    /// Everybody but the back-end does something.
    fn act(&mut self, has_pages: bool) {
        let hosts = [self.guests[0].host, self.guests[1].host];
        let outside = Host {
            mac: VFR_MAC,
            address: [192, 0, 2, 1],
            port: 7,
        };
        for at in 0..2 {
            let guest = &mut self.guests[at];
            if self.posted[at] < FRAMES && self.dice.one_of(2) {
                let number = self.posted[at];
                // To the other and to the wire, short ones and long ones, of several slots.
                let to = if number.is_multiple_of(2) {
                    hosts[1 - at]
                } else {
                    outside
                };
                let length = [4, 300, 1400, 100, 1000][number as usize % 5];
                let frame = frames::udp(&hosts[at], &to, &frames::data(number, length), true);
                let offload = Offload {
                    checksum: Checksum::Blank,
                    segments: None,
                };
                assert!(guest.post(&frame, offload));
                self.posted[at] += 1;
                guest.step();
            }
            if has_pages && self.arrived[at] < FRAMES && self.dice.one_of(2) {
                let from = Host {
                    mac: WIRE_MAC,
                    ..outside
                };
                let to = Host {
                    mac: NIC.mac,
                    ..hosts[at]
                };
                let number = 1000 + self.arrived[at];
                let frame = frames::udp(
                    &from,
                    &to,
                    &frames::data(number, 4 + 250 * number as usize % 1468),
                    false,
                );
                if self.machine.arrive(&frame, 4096, nic::Offload::default()) {
                    self.arrived[at] += 1;
                }
            }
            self.guests[at].collect();
        }
        if self.dice.one_of(2) {
            self.machine.transmit(Ok(()));
        }
    }

    fn is_over(&self) -> bool {
        let sent = |guest: &Guest| {
            let sent = guest.sent();
            sent.frames + sent.dropped + sent.errors
        };
        self.guests.iter().all(|guest| sent(guest) == u64::from(FRAMES)) && self.arrived == [FRAMES; 2]
    }

    /// A back-end adopts the rings and serves them until everything is done, or until its life is over.
    fn serve(&mut self, life: &Life) {
        let mortal = Mortal(self.machine.clone(), life.clone());
        let mut vfr = vfr();
        let ports: Vec<PortId> = self
            .guests
            .iter()
            .map(|guest| add_port(&mut vfr, guest))
            .collect();
        let mut back = BackEnd::new(mortal.clone(), mortal, vfr);
        let ids: Vec<_> = self
            .guests
            .iter()
            .zip(ports)
            .map(|(guest, port)| {
                back.connect(guest.connection(port, |page| MortalPage(page, life.clone())))
                    .unwrap()
            })
            .collect();
        for turn in 0..10_000 {
            self.now += 1_000_000;
            let rest = back.round(self.now);
            for event in back.events() {
                if let Event::Notify(id, channel) = event
                    && !life.is_over()
                {
                    let at = ids.iter().position(|known| *known == id).unwrap();
                    self.guests[at].tell(channel);
                }
            }
            if life.is_over() {
                return;
            }
            self.act(true);
            for (guest, id) in self.guests.iter_mut().zip(&ids) {
                if core::mem::take(&mut guest.has_told) {
                    back.kick(*id, Channel::Both(0));
                }
            }
            if self.is_over() && matches!(rest, Rest::Sleep(_)) && turn > 20 {
                let idle = back.idle();
                assert_eq!(idle.jobs.0, idle.jobs.1, "all frames have come to their end");
                assert_eq!(idle.pages + idle.posted, 24, "no page is lost");
                return;
            }
        }
        panic!("somebody sleeps over something");
    }
}

/// Back-ends with these lives one after the other, and one that lives on. Whether all of them died.
fn history(seed: u64, modes: [Mode; 2], lives: &[u64]) -> bool {
    let mut world = World::new(seed, modes);
    let mut all_died = true;
    for steps in lives {
        let life = Life::of(*steps);
        world.serve(&life);
        all_died &= life.is_over();
        if !life.is_over() {
            break;
        }
        world.machine.reset(&mut world.dice);
        if world.dice.one_of(2) {
            world.act(false);
        }
    }
    if all_died {
        world.serve(&Life::of(u64::MAX));
    }
    assert_eq!(world.machine.pinned(), 0);
    for guest in &mut world.guests {
        guest.step();
        // The front-end has all its pages, and the back-end all that it may have: what was taken was given back.
        for queue in &guest.queues {
            assert_eq!(queue.receive.posted(), 256, "each page was answered once");
        }
        let (grants, offers) = (guest.memory.grants(), guest.memory.offers());
        let queues = guest.queues.len();
        let expected = if guest.mode == Mode::Copy {
            (258 * queues, 0)
        } else {
            (2 * queues, 256 * queues)
        };
        assert_eq!((grants, offers), expected);
        let mut times = BTreeMap::new();
        for number in &guest.numbers {
            *times.entry(*number).or_insert(0) += 1;
        }
        assert!(times.values().all(|times| *times <= lives.len() + 1), "{times:?}");
        if lives.is_empty() {
            assert_eq!(times.len() as u32, FRAMES.div_ceil(2) + FRAMES);
        }
    }
    all_died
}

#[test]
fn a_back_end_that_dies_at_any_step_leaves_each_request_to_be_answered_exactly_once() {
    let mut steps = 0;
    for (seed, modes) in (0..).zip([
        [Mode::Copy, Mode::Copy],
        [Mode::Copy, Mode::Flip],
        [Mode::Flip, Mode::Flip],
    ]) {
        history(seed, modes, &[]);
        steps += (0..).take_while(|steps| history(seed, modes, &[*steps])).count();
    }
    assert!(steps > 700, "histories have more steps than {steps}");
}

#[test]
fn so_does_its_successor() {
    let modes = [Mode::Copy, Mode::Flip];
    let mut deaths = 0;
    for first in (0..250).step_by(9) {
        for second in (0..250).step_by(13) {
            deaths += u32::from(history(3, modes, &[first, second]));
        }
    }
    assert!(deaths > 300, "{deaths}");
}
