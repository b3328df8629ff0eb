//! Guests that check themselves beside a front-end that any bytes lead: see README.md.
#![no_main]

use bulkhead_netback::backend::{Channel, Event, Tap};
use bulkhead_netback::negotiation::{Features, Mode};
use bulkhead_netback::testing::villain::Villain;
use bulkhead_netback::testing::{ALL, Dice, Machine, NIC, World, frames};
use bulkhead_netback::vfr::classify::PortId;
use bulkhead_ring::SharedPage;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let dice = &mut Dice::Bytes(bytes.iter().rev().copied().collect());
    let mut info = NIC;
    info.send_depth = 1 + dice.below(40) as u16;
    info.max_segments = 1 + dice.below(20) as u16;
    info.offloads.checksum = dice.one_of(2);
    info.offloads.tcp4 = info.offloads.checksum;
    info.offloads.tcp6 = false;
    if dice.one_of(3) {
        (info.front, info.has_large_frames) = (12, true);
    }
    let machine = Machine::new(info, 16 + dice.below(60) as usize, 24 + dice.below(60) as usize);
    let mut world = World::with(machine);
    let mode = |dice: &mut Dice| if dice.one_of(2) { Mode::Copy } else { Mode::Flip };
    let features = if dice.one_of(2) { ALL } else { Features::default() };
    let from = mode(dice);
    let from = world.add(from);
    let to = mode(dice);
    let to = world.add_with(to, features, 0);
    let kind = mode(dice);
    let mut villain = Villain::with_two_queues(&mut world, 9, kind);
    let capture = world.back.start_capture(Tap::Port(PortId(3)), 100);
    world.settle();
    world.meet(from);
    let mac = world.host(from).mac;
    world.guest(to).checks = Some(mac);
    let host = world.host(to);
    let mut number = 0;
    for _ in 0..bytes.len() / 8 {
        match dice.below(10) {
            0..3 => {
                villain.act(dice);
                world.back.kick(villain.id, Channel::Transmit(0));
            }
            3 => {
                let peer = if dice.one_of(2) { host } else { world.outside() };
                let flags = [2, 16, 18, 24][dice.below(4) as usize];
                let data = vec![1; dice.below(1400) as usize];
                let frame = if dice.one_of(2) {
                    frames::tcp(&villain.guest.host, &peer, 1, flags, &data, true)
                } else {
                    frames::udp(&villain.guest.host, &peer, &data, true)
                };
                villain.page.write(0, &frame);
            }
            4 => {
                let length = 4 + dice.below(1469) as usize;
                if world.guest(from).post_data(&host, number, length, dice.one_of(2)) {
                    number += 1;
                }
                world.guest(from).step();
            }
            5 => {
                let target = villain.guest.host;
                world.guest(from).post_data(&target, 0, 900, true);
                world.guest(from).step();
            }
            6 => {
                let length = 4 + dice.below(1469) as usize;
                world.arrive(from, 5, length);
            }
            7 => {
                world.machine.transmit(Ok(()));
                world.machine.state_mut().wire.clear();
            }
            8 => world.serve(),
            _ => {
                world.serve();
                world.machine.state_mut().wire.clear();
                world.collect();
            }
        }
    }
    for _ in 0..20 {
        world.serve();
        world.machine.transmit_all();
        world.machine.state_mut().wire.clear();
        world.collect();
    }
    // Some may have been lost for want of private memory; none came twice, or out of order by more than what was completed in between.
    let mut found = world.guests[to].0.numbers.clone();
    found.sort_unstable();
    assert!(found.windows(2).all(|pair| pair[0] < pair[1]), "{found:?}");
    world.back.disconnect(villain.id);
    world.serve();
    let closed = world.events.iter().filter(|event| matches!(event, Event::Closed(..)));
    assert_eq!(closed.count(), 1);
    let flaws = world.events.iter().filter(|event| matches!(event, Event::Flaw(..)));
    assert_eq!(flaws.count(), 0);
    if let Some(capture) = capture {
        world.back.stop_capture(capture);
    }
    world.check_rest();
});
