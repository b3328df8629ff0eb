//! Random histories of guests that make no mistakes, on machines of all kinds: each frame arrives whole, once, and in order, or is counted as lost.
#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::cast_possible_truncation,
    reason = "a test fails by panicking"
)]

use bulkhead_devices::nic::{NicInfo, Offloads};
use bulkhead_netback::backend::Event;
use bulkhead_netback::negotiation::{Features, Mode};
use bulkhead_netback::testing::{ALL, Dice, Machine, NIC, World};
use proptest::prelude::*;

prop_compose! {
    fn any_nic()(
        checksum: bool,
        tcp4: bool,
        has_large_frames: bool,
        send_depth in 1_u16..80,
        receive_depth in 1_u16..80,
        max_segments in 1_u16..24,
    ) -> NicInfo {
        NicInfo {
            offloads: Offloads { checksum, tcp4, tcp6: false },
            max_segments,
            send_depth,
            receive_depth,
            has_large_frames,
            front: if has_large_frames { 12 } else { 0 },
            ..NIC
        }
    }
}

fn history(info: NicInfo, pages: usize, seed: u64) {
    let dice = &mut Dice::new(seed);
    let mut world = World::with(Machine::new(info, pages, 128));
    let count = 2 + dice.below(3) as usize;
    for _ in 0..count {
        let mode = if dice.one_of(2) { Mode::Copy } else { Mode::Flip };
        let features = if dice.one_of(3) { Features::default() } else { ALL };
        let queues = 1 + dice.below(3) as usize;
        world.add_with_queues(mode, features, queues);
    }
    world.settle();
    world.meet(0);
    let mut sent = vec![0_u64; count];
    let mut expected = vec![Vec::new(); count];
    let mut number = 0;
    for _ in 0..300 {
        let from = dice.below(count as u64) as usize;
        match dice.below(8) {
            0..4 => {
                let to = dice.below(count as u64 + 1) as usize;
                let length = 4 + dice.below(1469) as usize;
                let host = match to {
                    to if to == from || to == count => world.outside(),
                    to => world.host(to),
                };
                // All of one kind: those that need work are done after the others of their round.
                if world.guest(from).post_data(&host, number, length, true) {
                    sent[from] += 1;
                    if let Some(expected) = expected.get_mut(to).filter(|_| to != from) {
                        expected.push((from, number));
                    }
                    number += 1;
                }
            }
            4 => world.guest(from).step(),
            5 => {
                world.machine.transmit(Ok(()));
            }
            6 => world.serve(),
            _ => {
                world.serve();
                world.collect();
            }
        }
    }
    for guest in 0..count {
        world.guest(guest).step();
    }
    world.settle();
    for (guest, expected) in expected.iter().enumerate() {
        let (found, _, id) = &world.guests[guest];
        let answered = found.sent();
        let extra = u64::from(guest == 0);
        assert_eq!(answered.frames + answered.dropped, sent[guest] + extra);
        assert_eq!(answered.errors, 0);
        // By sender, what arrived is in the order in which it was sent.
        for from in 0..count {
            let of = |number: &u32| {
                expected
                    .iter()
                    .any(|(sender, sent)| *sender == from && sent == number)
            };
            let numbers: Vec<u32> = found.numbers.iter().copied().filter(of).collect();
            assert!(
                numbers.is_sorted_by(|a, b| a < b),
                "once, and in order: {numbers:?}"
            );
        }
        let counters = world.back.counters(*id).unwrap();
        let lost: u64 = counters.losses().map(|(.., received)| received).sum();
        assert_eq!(counters.received, found.numbers.len() as u64);
        assert!(found.numbers.len() as u64 + lost <= expected.len() as u64);
    }
    let faults = world
        .events
        .iter()
        .filter(|event| matches!(event, Event::Fault(..) | Event::Flaw(_)));
    assert_eq!(faults.count(), 0, "{:?}", world.events);
    world.check_rest();
    // Whoever goes takes nothing along.
    for (_, _, id) in &world.guests {
        world.back.disconnect(*id);
    }
    world.serve();
    let closed = world
        .events
        .iter()
        .filter(|event| matches!(event, Event::Closed(..)));
    assert_eq!(closed.count(), count);
    world.check_rest();
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn guests_get_what_was_sent_to_them_whatever_the_machine(info in any_nic(), pages in 4_usize..160, seed: u64) {
        history(info, pages, seed);
    }
}
