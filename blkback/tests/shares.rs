//! How a disk that serves in order is shared: guests with deep and shallow queues, large and small requests, with and without pauses.
#![expect(
    clippy::indexing_slicing,
    clippy::unwrap_used,
    clippy::arithmetic_side_effects,
    clippy::cast_possible_truncation,
    clippy::cast_precision_loss,
    reason = "a test fails by panicking"
)]

use bulkhead_abi::DomId;
use bulkhead_abi::blkif::{Operation as Op, Request, Segment, Slot};
use bulkhead_blkback::backend::Connection;
use bulkhead_blkback::testing::{Guest, World, geometry};
use bulkhead_blkback::vbd::Access;
use bulkhead_blkback::wire::{Layout, Native};
use bulkhead_devices::disk::Geometry;
use bulkhead_ring::descriptor::{Front, Notify};
use bulkhead_ring::testing::Page;

/// What a guest does: it has `depth` requests of `pages` pages outstanding in `rings` rings, and no more than `rate` bytes per thousand that the
/// disk could do.
#[derive(Clone, Copy, Debug)]
struct Load {
    depth: usize,
    pages: usize,
    rate: u64,
    rings: usize,
}

const ALWAYS: u64 = u64::MAX;

fn load(depth: usize, pages: usize, rate: u64) -> Load {
    Load {
        depth,
        pages,
        rate,
        rings: 1,
    }
}

/// Bytes that the disk does in a unit of time; a request costs as much as this besides.
const OVERHEAD: u64 = 2048;
const DISK: u64 = 1 << 24;

/// What part of all bytes each guest gets of a disk that does one request at a time, in order; and what the disk did in all.
fn shares(loads: &[Load], depth: u16) -> (Vec<f64>, u64) {
    let mut world = World::new(Geometry {
        depth,
        ..geometry(DISK)
    });
    let mut places = vec![0; loads.len()];
    for (domain, load) in (1..).zip(loads) {
        let mut guest = Guest::new(&world.machine, domain, 1 << 14, 1);
        for _ in 1..load.rings {
            guest.add_ring(1);
        }
        let vbd = world.vbd(1 << 14, Access::ReadWrite);
        let id = world.connect(&guest, vbd);
        world.guests.push((guest, id));
    }
    let (mut time, mut warm) = (0_u64, vec![0; loads.len()]);
    let mut begun = vec![0_u64; loads.len()];
    let span = 50 << 20;
    while time < span {
        for ((guest, _), ((load, place), begun)) in world
            .guests
            .iter_mut()
            .zip(loads.iter().zip(&mut places).zip(&mut begun))
        {
            let allowed = if load.rate == ALWAYS {
                u64::MAX
            } else {
                time / 1000 * load.rate
            };
            while guest.outstanding() < load.depth && *begun < allowed {
                if !guest.ask_pages(Op::Read, *place, load.pages) {
                    break;
                }
                *begun += load.pages as u64 * 4096;
                *place = (*place + load.pages as u64 * 8) % (1 << 13);
            }
            guest.push();
        }
        world.serve();
        if world.machine.pending() == 0 {
            time += 4096;
            continue;
        }
        let (_, sectors) = world.machine.state().pending[0].work.range();
        time += sectors * 512 + OVERHEAD;
        world.machine.work(0, Ok(()));
        world.serve();
        world.collect();
        if time > span / 10 && warm.iter().all(|bytes| *bytes == 0) {
            warm = world.guests.iter().map(|(guest, _)| guest.bytes).collect();
        }
    }
    let bytes: Vec<u64> = world
        .guests
        .iter()
        .zip(&warm)
        .map(|((guest, _), warm)| guest.bytes - warm)
        .collect();
    let total: u64 = bytes.iter().sum();
    (
        bytes.iter().map(|bytes| *bytes as f64 / total as f64).collect(),
        total,
    )
}

/// Bytes that a guest gets of a disk that is busy with it, beside a front-end that asks for what it may not have, or beside nobody.
fn beside_rubbish(is_there: bool) -> u64 {
    let mut world = World::new(Geometry {
        depth: 16,
        ..geometry(DISK)
    });
    world.add(1 << 14, 1, false);
    let page = Page::new();
    let mut villain = Front::<_, Native>::new(vec![page.clone()]).unwrap();
    let vbd = world.vbd(64, Access::ReadWrite);
    let id = world
        .back
        .connect(Connection {
            domain: DomId::new(99),
            vbd,
            layout: Layout::X86_64,
            rings: vec![vec![page]],
            is_persistent: false,
        })
        .unwrap();
    let mut number = 0;
    for step in 0..4000 {
        let guest = &mut world.guests[0].0;
        while guest.outstanding() < 8 && guest.ask_pages(Op::Read, number % 1024 * 8, 4) {
            number += 4;
        }
        guest.push();
        while is_there && villain.outstanding() < villain.size() {
            // Wrong grants, sectors that are not its own, operations that there are not.
            let request = Request {
                operation: [0, 1, 2, 3, 7][step % 5],
                nr_segments: 1 + (step % 12) as u8,
                sector_number: step as u64 % 128,
                seg: [Segment {
                    gref: 8,
                    first_sect: 0,
                    last_sect: (step % 9) as u8,
                }; 11],
                ..Request::default()
            };
            villain.post(&Slot::holding(&request)).unwrap();
        }
        if villain.push() == Notify::Yes {
            world.back.kick(id, 0);
        }
        world.serve();
        if world.machine.pending() > 0 {
            world.machine.work(0, Ok(()));
        }
        world.serve();
        while villain.take().unwrap().is_some() {}
        let _ = villain.may_sleep().unwrap();
        world.collect();
    }
    let faults = world.back.counters(id).unwrap().all_faults();
    assert!(!is_there || faults > 10_000, "{faults}");
    world.guests[0].0.bytes
}

#[test]
fn beside_a_front_end_that_sends_rubbish_a_guest_keeps_90_percent() {
    let (alone, beside) = (beside_rubbish(false), beside_rubbish(true));
    assert!(
        alone > 50 << 20 && beside * 10 >= alone * 9,
        "{beside} of {alone}"
    );
}

#[test]
fn beside_a_greedy_guest_a_modest_one_gets_its_demand_or_45_percent() {
    for depth in [16, 256] {
        for greedy in [load(32, 11, ALWAYS), load(32, 32, ALWAYS)] {
            for modest in [
                load(4, greedy.pages, ALWAYS),
                load(1, greedy.pages, ALWAYS),
                load(8, 8, ALWAYS),
                load(32, 1, ALWAYS),
                load(32, 2, 300),
                load(32, 1, 100),
                load(8, 11, 200),
            ] {
                let (share, total) = shares(&[greedy, modest], depth);
                // A guest that is alone gets this much of the disk's time in bytes.
                let demand = if modest.rate == ALWAYS {
                    1.0
                } else {
                    modest.rate as f64 / 1000.0 * (45 << 20) as f64 / total as f64
                };
                println!(
                    "depth {depth:3} {greedy:?} {modest:?}: {:.3} of {demand:.3}, {total}",
                    share[1]
                );
                assert!(
                    share[1] >= demand.min(0.45) * 0.97,
                    "{modest:?} gets {:.3} beside {greedy:?} at depth {depth}",
                    share[1]
                );
            }
        }
    }
}

#[test]
fn more_rings_are_no_larger_share() {
    let greedy = Load {
        rings: 4,
        ..load(128, 32, ALWAYS)
    };
    for modest in [load(1, 32, ALWAYS), load(32, 8, ALWAYS)] {
        let (share, _) = shares(&[greedy, modest], 256);
        assert!(share[1] >= 0.45, "{modest:?} gets {:.3}", share[1]);
    }
}
