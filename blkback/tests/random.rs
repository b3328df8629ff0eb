//! Guests that check themselves, a disk that completes in any order, and errors of every kind at random; and hostile neighbours.
#![expect(
    clippy::indexing_slicing,
    clippy::unwrap_used,
    clippy::arithmetic_side_effects,
    clippy::cast_possible_truncation,
    reason = "a test fails by panicking"
)]

use bulkhead_abi::DomId;
use bulkhead_abi::blkif::Operation as Op;
use bulkhead_blkback::backend::{Connection, Event, VbdId};
use bulkhead_blkback::counters::Reason;
use bulkhead_blkback::testing::{Dice, Guest, World, geometry};
use bulkhead_blkback::vbd::{Access, Extent, Vbd};
use bulkhead_blkback::wire::Layout;
use bulkhead_devices::disk::{Discard, Failed, Geometry, Refused};
use bulkhead_ring::SharedPage;
use bulkhead_ring::testing::Page;
use proptest::prelude::*;
use proptest::test_runner::RngSeed;

const DISK: u64 = 1 << 14;

fn any_geometry() -> impl Strategy<Value = Geometry> {
    let blocks = prop_oneof![Just(512_u32), Just(4096)];
    (
        blocks,
        any::<bool>(),
        1..20_u16,
        8..80_u32,
        1..40_u16,
        any::<bool>(),
    )
        .prop_map(
            |(logical_block, write_cache, max_segments, max_sectors, depth, can_discard)| Geometry {
                logical_block,
                write_cache,
                max_segments,
                max_sectors,
                depth,
                discard: can_discard.then_some(Discard {
                    max_sectors: 16,
                    granularity: 1,
                }),
                ..geometry(DISK)
            },
        )
}

/// Who may meet errors.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Luck {
    Good,
    Bad,
}

/// A long history of some guests. At its end the power fails after a flush, and the disk has what it has to have.
fn history(geometry: Geometry, seed: u64, luck: Luck) {
    let dice = &mut Dice::new(seed);
    let mut world = World::new(geometry);
    // A disk of several extents, with several rings, among disks of one.
    let extents = [(8000, 80), (7000, 400), (9000, 160)].map(|(first, sectors)| Extent { first, sectors });
    let vbd = Vbd::new(&extents, Access::ReadWrite, DISK, geometry.logical_block).unwrap();
    let mut guest = Guest::new(&world.machine, 1, 640, 2);
    guest.add_ring(1);
    guest.add_ring(2);
    let id = world.connect(&guest, vbd);
    world.guests.push((guest, id));
    world.add(1600, 1, true);
    world.add(1600, 1, false);
    for (guest, _) in &mut world.guests {
        guest.may_fail = luck == Luck::Bad || geometry.discard.is_none() || geometry.max_segments < 8;
    }
    for _ in 0..300 {
        for (guest, _) in &mut world.guests {
            for _ in 0..dice.below(6) {
                guest.ask_any(dice);
            }
            guest.push();
        }
        if luck == Luck::Bad && dice.one_of(8) {
            let refused = [Refused::Full, Refused::Invalid][dice.below(2) as usize];
            if refused == Refused::Invalid || world.machine.pending() > 0 {
                world.machine.state_mut().refusals = vec![refused];
            }
        }
        if luck == Luck::Bad {
            let last = dice.below(400) as u32;
            world.machine.state_mut().bad_grants = (last..last + 3).map(|gref| (3, gref)).collect();
        }
        world.serve();
        // A disk is full of what is pending, and of nothing else: it would be a broken one that refused what comes later.
        world.machine.state_mut().refusals.clear();
        for _ in 0..dice.below(world.machine.pending() as u64 + 1) {
            let at = dice.below(world.machine.pending() as u64) as usize;
            let result = match luck {
                Luck::Bad if dice.one_of(20) => Err(Failed::Device(5)),
                Luck::Bad if dice.one_of(40) => Err(Failed::Unsupported),
                Luck::Good | Luck::Bad => Ok(()),
            };
            world.machine.work(at, result);
        }
        if dice.one_of(3) {
            world.collect();
        }
    }
    world.machine.state_mut().bad_grants.clear();
    world.settle(dice);
    for (guest, _) in &mut world.guests {
        assert!(
            guest.answered.0 > 20,
            "there was something to do: {}",
            guest.answered.0
        );
        guest.ask_pages(Op::FlushDiskcache, 0, 0);
        guest.push();
    }
    world.settle(dice);
    world.machine.lose_power();
    let multi = |sector: u64| match sector {
        0..80 => 8000 + sector,
        80..480 => 6920 + sector,
        _ => 8520 + sector,
    };
    world.guests[0].0.check_disk(multi);
    world.guests[1].0.check_disk(|sector| sector);
    world.guests[2].0.check_disk(|sector| 1600 + sector);
    let ids: Vec<VbdId> = world.guests.iter().map(|(_, id)| *id).collect();
    for id in ids {
        world.back.disconnect(id);
    }
    world.serve();
    assert_eq!(world.machine.pinned(), 0, "everything was given back");
    let closed = world
        .events
        .iter()
        .filter(|event| matches!(event, Event::Closed(..)));
    assert_eq!(closed.count(), 3);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 16, rng_seed: RngSeed::Fixed(0xb10c), failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn whatever_the_disk_and_its_order_each_guest_finds_what_it_wrote(geometry in any_geometry(), seed: u64) {
        history(geometry, seed, Luck::Good);
    }

    #[test]
    fn errors_are_answered_and_leave_everything_else_right(geometry in any_geometry(), seed: u64) {
        history(geometry, seed, Luck::Bad);
    }
}

/// A front-end that writes what it likes into its ring.
struct Villain {
    page: Page,
    id: VbdId,
}

impl Villain {
    fn new(world: &mut World, domain: u16, is_persistent: bool) -> Self {
        let page = Page::new();
        page.store(4, 1);
        page.store(12, 1);
        let vbd = world.vbd(256, Access::ReadWrite);
        let id = connect(world, domain, vbd, &page, is_persistent);
        for gref in 8..16 {
            let frame = world.machine.frame();
            world.machine.grant(domain, gref, frame, gref % 2 == 0);
        }
        Self { page, id }
    }

    fn act(&self, dice: &mut Dice) {
        let byte = |offset: usize, value: u64| self.page.write(offset, &[value as u8]);
        for _ in 0..dice.below(8) {
            let slot = 64 + 112 * dice.below(32) as usize;
            // Something like a request, and then rubbish over it.
            for offset in 0..112 {
                byte(slot + offset, 0);
            }
            let (operation, segments) = (dice.below(8), dice.below(13));
            byte(slot, operation);
            byte(slot + 1, segments);
            let (sector, gref) = (dice.below(256), dice.below(20));
            byte(slot + 16, sector);
            for segment in 0..11 {
                byte(slot + 24 + 8 * segment, gref + segment as u64);
                let first = dice.below(9);
                byte(slot + 28 + 8 * segment, first);
                byte(slot + 29 + 8 * segment, first + dice.clone().below(8));
            }
            if operation == 6 {
                // Indirect: how many, and a page of zeros, or none.
                for (offset, limit) in [(1, 3), (2, 40), (28, 20)] {
                    byte(slot + offset, dice.below(limit));
                }
            }
            for _ in 0..dice.below(3) {
                let (offset, value) = (dice.below(112) as usize, dice.below(256));
                byte(slot + offset, value);
            }
        }
        let index = self.page.load(0);
        let index = match dice.below(40) {
            0 => dice.below(1 << 32) as u32,
            1 => index.wrapping_sub(1),
            _ => index.wrapping_add(dice.below(9) as u32),
        };
        self.page.store(0, index);
        if dice.one_of(10) {
            self.page.store(8, dice.below(64) as u32);
        }
    }
}

fn connect(world: &mut World, domain: u16, vbd: Vbd, page: &Page, is_persistent: bool) -> VbdId {
    let connection = Connection {
        domain: DomId::new(domain),
        vbd,
        layout: Layout::X86_64,
        rings: vec![vec![page.clone()]],
        is_persistent,
    };
    world.back.connect(connection).unwrap()
}

#[test]
fn no_villain_harms_a_neighbour_or_reaches_what_is_not_its_own() {
    let mut faults = [0; Reason::ALL.len()];
    for seed in 0..20 {
        let dice = &mut Dice::new(seed);
        let mut world = World::new(geometry(DISK));
        let before = world.add(1600, 1, false);
        let mut villain = Villain::new(&mut world, 99, seed % 2 == 0);
        let after = world.add(1600, 1, false);
        for _ in 0..200 {
            for guest in [before, after] {
                world.guests[guest].0.ask_any(dice);
                world.guests[guest].0.push();
            }
            villain.act(dice);
            world.back.kick(villain.id, 0);
            world.serve();
            for _ in 0..dice.below(8).min(world.machine.pending() as u64) {
                world.machine.work(0, Ok(()));
            }
            world.collect();
            let counters = *world.back.counters(villain.id).unwrap();
            if counters.faults(Reason::Producer) > 0 {
                // It is shown out, and comes again.
                for (count, (reason, _)) in faults.iter_mut().zip(Reason::ALL) {
                    *count += counters.faults(reason);
                }
                world.back.disconnect(villain.id);
                while world.back.counters(villain.id).is_some() {
                    world.machine.work_all(dice);
                    world.serve();
                }
                villain.page = Page::new();
                let extent = Extent {
                    first: 1600,
                    sectors: 256,
                };
                let vbd = Vbd::new(&[extent], Access::ReadWrite, DISK, 512).unwrap();
                villain.id = connect(&mut world, 99, vbd, &villain.page, seed % 2 == 0);
            }
        }
        world.settle(dice);
        world.guests[before].0.check_disk(|sector| sector);
        world.guests[after].0.check_disk(|sector| 1856 + sector);
        world.back.disconnect(villain.id);
        world.serve();
        assert_eq!(world.machine.pinned(), 0);
    }
    // The villains were not idle.
    for reason in [
        Reason::Operation,
        Reason::Segments,
        Reason::Outside,
        Reason::Grant,
        Reason::IndirectGrant,
        Reason::Producer,
    ] {
        assert!(faults[reason as usize] > 20, "{reason:?}: {faults:?}");
    }
}
