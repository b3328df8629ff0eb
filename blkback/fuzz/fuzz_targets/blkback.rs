//! A guest that checks itself beside a front-end that any bytes lead: see README.md.
#![no_main]

use bulkhead_abi::DomId;
use bulkhead_blkback::backend::{Connection, Event};
use bulkhead_blkback::testing::{Dice, World, geometry};
use bulkhead_blkback::vbd::Access;
use bulkhead_blkback::wire::Layout;
use bulkhead_devices::disk::{Failed, Geometry};
use bulkhead_ring::SharedPage;
use bulkhead_ring::testing::Page;
use libfuzzer_sys::fuzz_target;

const DISK: u64 = 1 << 12;

fuzz_target!(|bytes: &[u8]| {
    let dice = &mut Dice::Bytes(bytes.iter().rev().copied().collect());
    let mut world = World::new(Geometry {
        max_segments: 1 + dice.below(40) as u16,
        max_sectors: 8 + dice.below(300) as u32,
        depth: 1 + dice.below(40) as u16,
        write_cache: dice.one_of(2),
        ..geometry(DISK)
    });
    let guest = world.add(512, 1, false);
    let is_compat = dice.one_of(4);
    let is_persistent = dice.one_of(2);
    let mut ring = || (0..1 + dice.below(2)).map(|_| Page::new()).collect();
    let rings: Vec<Vec<Page>> = vec![ring(), ring()];
    let vbd = world.vbd(300, Access::ReadWrite);
    let last = world.add(512, 1, true);
    let id = world
        .back
        .connect(Connection {
            domain: DomId::new(99),
            vbd,
            layout: if is_compat { Layout::X86_32 } else { Layout::X86_64 },
            rings: rings.clone(),
            is_persistent,
        })
        .expect("rings of zeros");
    let frames: Vec<usize> = (0..4).map(|_| world.machine.frame()).collect();
    for (gref, frame) in (0..).zip(&frames) {
        world.machine.grant(99, gref, *frame, gref < 3);
    }
    for _ in 0..bytes.len() / 8 {
        let number = usize::from(dice.one_of(4));
        let first = &rings[number][0];
        match dice.below(8) {
            0 | 1 => {
                // A slot, with few bytes that are not zero.
                let slot = 64 + 112 * dice.below(32) as usize;
                first.write(slot, &[0; 112]);
                for _ in 0..dice.below(8) {
                    let offset = dice.below(64) as usize;
                    first.write(slot + offset, &[dice.below(256) as u8]);
                }
            }
            2 => {
                let offset = dice.below(4000) as usize;
                world
                    .machine
                    .write_frame(frames[0], offset, &[dice.below(256) as u8; 8]);
            }
            3 => {
                let index = first.load(0).wrapping_add(dice.below(40) as u32);
                first.store(0, index);
                world.back.kick(id, number);
            }
            4 => {
                let index = if dice.one_of(2) { guest } else { last };
                world.guests[index].0.ask_any(dice);
                world.guests[index].0.push();
            }
            5 => {
                let pending = world.machine.pending() as u64;
                if pending > 0 {
                    // Only the villain's parts fail: those between the guests' sectors.
                    let at = dice.below(pending) as usize;
                    let (sector, _) = world.machine.state().pending[at].work.range();
                    let fails = dice.one_of(4) && (512..812).contains(&sector);
                    world
                        .machine
                        .work(at, if fails { Err(Failed::Device(1)) } else { Ok(()) });
                }
            }
            6 => world.serve(),
            _ => {
                world.serve();
                world.collect();
            }
        }
    }
    world.settle(dice);
    world.guests[guest].0.check_disk(|sector| sector);
    world.guests[last].0.check_disk(|sector| 812 + sector);
    world.back.disconnect(id);
    let known = world.guests[last].1;
    world.back.disconnect(known);
    world.serve();
    let closed = world
        .events
        .iter()
        .filter(|event| matches!(event, Event::Closed(..)));
    assert_eq!(closed.count(), 2);
    assert_eq!(world.machine.pinned(), 0);
});
