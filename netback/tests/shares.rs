//! Who gets how much, where several want more than there is.
#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    reason = "a test fails by panicking"
)]

use bulkhead_netback::negotiation::Mode;
use bulkhead_netback::testing::frames::Host;
use bulkhead_netback::testing::{ALL, NIC, World};

/// Has guests send frames of these sizes to the wire as fast as they can, while the NIC sends `per_step` frames at a time. Bytes that each sent,
/// and the most steps that one of its frames took.
fn contend(sizes: &[(usize, usize)], steps: u32, per_step: usize) -> Vec<(u64, u32)> {
    contend_by(&vec![1; sizes.len()], sizes, steps, per_step)
}

/// The same, where each guest has so many queues, and sends by all of them.
fn contend_by(queues: &[usize], sizes: &[(usize, usize)], steps: u32, per_step: usize) -> Vec<(u64, u32)> {
    let mut world = World::new(NIC);
    for queues in queues {
        world.add_with_queues(Mode::Copy, ALL, *queues);
    }
    world.settle();
    world.meet(0);
    let outside = world.outside();
    let mut results = vec![(0_u64, 0_u32); sizes.len()];
    let mut posted = vec![std::collections::VecDeque::new(); sizes.len()];
    for step in 0..steps {
        for (guest, (size, depth)) in sizes.iter().enumerate() {
            loop {
                let to = Host {
                    port: outside.port + u16::try_from(posted[guest].len() % queues[guest]).unwrap(),
                    ..outside
                };
                let number = u32::try_from(guest).unwrap();
                let is_full = posted[guest].len() >= *depth;
                if is_full || !world.guest(guest).post_data(&to, number, size - 42, true) {
                    break;
                }
                posted[guest].push_back(step);
            }
            world.guest(guest).step();
        }
        world.serve();
        for _ in 0..per_step {
            world.machine.transmit(Ok(()));
        }
        world.serve();
        world.collect();
        for guest in std::mem::take(&mut world.numbers) {
            let guest = guest as usize;
            if let (Some((size, _)), Some(since)) = (
                sizes.get(guest),
                posted.get_mut(guest).and_then(|posted| posted.pop_front()),
            ) {
                results[guest].0 += *size as u64;
                results[guest].1 = results[guest].1.max(step - since);
            }
        }
    }
    results
}

#[test]
fn floods_share_the_wire_by_bytes_whatever_the_size_of_their_frames() {
    let results = contend(&[(1514, 200), (1514, 200), (300, 200)], 1500, 8);
    println!("{results:?}");
    let all: u64 = results.iter().map(|(bytes, _)| bytes).sum();
    for (bytes, _) in results {
        let share = bytes * 1000 / all;
        assert!((270..400).contains(&share), "{share} of 1000");
    }
}

#[test]
fn a_flood_by_eight_queues_gets_no_more_than_one_by_one() {
    let results = contend_by(&[8, 1], &[(1514, 200), (1514, 200)], 1000, 8);
    println!("{results:?}");
    let [(by_eight, _), (by_one, _)] = results[..] else {
        panic!("there are two")
    };
    assert!(by_eight.abs_diff(by_one) * 20 < by_one);
}

#[test]
fn a_modest_guest_beside_floods_gets_all_that_it_wants_and_waits_little() {
    let results = contend(&[(1514, 200), (1514, 200), (1514, 200), (500, 1)], 800, 16);
    println!("{results:?}");
    let (bytes, waited) = results[3];
    // The NIC has 64 frames under way, 16 of which go in a step.
    assert!(waited <= 12, "{waited} steps");
    assert!(bytes / 500 >= 800 / 13, "{bytes}");
}

#[test]
fn a_flood_to_the_wire_does_not_delay_frames_between_guests() {
    let mut world = World::new(NIC);
    let (flood, from, to) = (
        world.add(Mode::Copy),
        world.add(Mode::Copy),
        world.add_with(Mode::Copy, ALL, 0),
    );
    world.settle();
    world.meet(flood);
    let (outside, host) = (world.outside(), world.host(to));
    for number in 0..100 {
        while world.guest(flood).post_data(&outside, 0, 1472, true) {}
        world.guest(flood).step();
        assert!(world.guest(from).post_data(&host, number, 1000, true));
        world.guest(from).step();
        // The NIC sends nothing.
        world.serve();
        world.collect();
        assert_eq!(world.guests[to].0.numbers.len(), number as usize + 1);
    }
}
