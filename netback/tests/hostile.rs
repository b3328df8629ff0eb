//! Front-ends that write what they like into their rings, beside guests that check themselves.
#![expect(clippy::cast_possible_truncation, reason = "a test fails by panicking")]

use bulkhead_abi::DomId;
use bulkhead_abi::netif::{ExtraType, Gso, TX_CSUM_BLANK, TX_EXTRA_INFO, TX_MORE_DATA, TxRequest, TxSlot};
use bulkhead_devices::nic::Offloads;
use bulkhead_netback::backend::{Channel, ConnectError, Event};
use bulkhead_netback::counters::{Fault, Loss};
use bulkhead_netback::negotiation::Mode;
use bulkhead_netback::testing::frames;
use bulkhead_netback::testing::villain::{FIRST, Villain};
use bulkhead_netback::testing::{ALL, Dice, Guest, NIC, WIRE_MAC, World};
use bulkhead_ring::SharedPage;

#[test]
fn each_field_that_is_wrong_is_answered_with_an_error_by_its_reason() {
    let gso = |gso_type, size| {
        TxSlot::holding(&Gso {
            extra_type: ExtraType::Gso.raw(),
            flags: 0,
            size,
            gso_type,
            features: 0,
        })
    };
    let request = |change: fn(&mut TxRequest)| {
        let mut request = FIRST;
        change(&mut request);
        TxSlot::holding(&request)
    };
    let more = |mut slots: Vec<TxSlot>, count: usize| {
        let rest = TxRequest {
            flags: TX_MORE_DATA,
            size: 10,
            ..FIRST
        };
        slots.extend((1..count).map(|_| TxSlot::holding(&rest)));
        slots.push(TxSlot::holding(&TxRequest { size: 10, ..FIRST }));
        slots
    };
    let extra = request(|first| first.flags = TX_EXTRA_INFO);
    let cases: Vec<(Loss, Vec<TxSlot>)> = vec![
        (Loss::Sizes, vec![request(|first| first.size = 13)]),
        (Loss::Sizes, vec![request(|first| first.size = 0)]),
        (
            Loss::Sizes,
            vec![request(|first| (first.offset, first.size) = (3097, 1000))],
        ),
        (Loss::Sizes, vec![request(|first| first.offset = u16::MAX)]),
        (
            Loss::Sizes,
            more(
                vec![request(|first| (first.size, first.flags) = (23, TX_MORE_DATA))],
                1,
            ),
        ),
        (
            Loss::Sizes,
            more(
                vec![request(|first| (first.size, first.flags) = (5, TX_MORE_DATA))],
                1,
            ),
        ),
        (
            Loss::Slots,
            more(vec![request(|first| first.flags = TX_MORE_DATA)], 18),
        ),
        (Loss::Grant, vec![request(|first| first.gref = 99)]),
        (Loss::Grant, vec![request(|first| first.gref = 4)]),
        (Loss::Extra, vec![extra, gso(0, 1448)]),
        (Loss::Extra, vec![extra, gso(3, 1448)]),
        (
            Loss::Extra,
            vec![
                extra,
                TxSlot {
                    bytes: [2, 0, 1, 2, 3, 4, 5, 6, 0, 0, 0, 0],
                },
            ],
        ),
        (
            Loss::Extra,
            vec![
                extra,
                TxSlot {
                    bytes: [1, 1, 0, 1, 1, 0, 0, 0, 0, 0, 0, 0],
                },
                gso(1, 1448),
            ],
        ),
        (Loss::Segments, vec![extra, gso(1, 47)]),
        (Loss::Segments, vec![extra, gso(2, 1448)]),
        (
            Loss::Blank,
            vec![request(|first| (first.flags, first.size) = (TX_CSUM_BLANK, 98))],
        ),
    ];
    for (loss, slots) in cases {
        let mut world = World::new(NIC);
        let other = world.add(Mode::Copy);
        let mut villain = Villain::new(&mut world, 9, Mode::Copy);
        // A right frame, of TCP, or an echo request where there should be TCP or UDP.
        let (from, to) = (villain.guest.host, world.host(other));
        let mut frame = frames::tcp(&from, &to, 1, 2, &[1; 946], true);
        if loss == Loss::Blank {
            frame = frames::udp(&from, &to, &[8; 56], true);
            frame[23] = 1;
            frame[24..26].fill(0);
            let sum = bulkhead_checksum::of(&[&frame[14..34]]);
            frame[24..26].copy_from_slice(&sum.to_be_bytes());
            frame[34..38].copy_from_slice(&[8, 0, 0, 0]);
        }
        villain.page.write(0, &frame);
        for slot in &slots {
            villain.slot(slot);
        }
        world.back.kick(villain.id, Channel::Transmit(0));
        world.serve();
        let counters = world.back.counters(villain.id).unwrap();
        assert_eq!(counters.lost_sent(loss), 1, "{loss:?}: {counters}");
        assert!(
            matches!(world.events.as_slice(), [.., Event::Fault(id, _)] if *id == villain.id),
            "{loss:?}: {:?}",
            world.events
        );
        let answers = villain.answers(0);
        assert_eq!(answers.len(), slots.len(), "{loss:?}: each slot is answered");
        assert!(
            answers
                .iter()
                .all(|(id, status)| (*id, *status) == (7, -1) || (*id, *status) == (0, 1))
        );
        assert_eq!(answers[0], (7, -1));
        world.check_rest();
    }
}

#[test]
fn a_frame_that_does_not_go_on_harms_its_own_ring_alone() {
    let mut world = World::new(NIC);
    let (from, to) = (world.add(Mode::Copy), world.add(Mode::Copy));
    let mut villain = Villain::new(&mut world, 9, Mode::Copy);
    for _ in 0..256 {
        villain.slot(&TxSlot::holding(&TxRequest {
            flags: TX_MORE_DATA,
            ..FIRST
        }));
    }
    world.back.kick(villain.id, Channel::Transmit(0));
    world.settle();
    assert_eq!(villain.answers(0), []);
    let host = world.host(to);
    assert!(world.guest(from).post_data(&host, 1, 100, true));
    world.guest(from).step();
    world.settle();
    assert_eq!(world.guests[to].0.numbers, [1]);
    world.back.disconnect(villain.id);
    world.serve();
    world.check_rest();
}

#[test]
fn a_ring_whose_index_cannot_be_is_told_once_and_not_read_again() {
    for ring in [0, 1] {
        let mut world = World::new(NIC);
        let from = world.add(Mode::Copy);
        let villain = Villain::new(&mut world, 9, Mode::Copy);
        villain.rings[ring].store(0, 1000);
        world.back.kick(villain.id, Channel::Transmit(0));
        let host = villain.guest.host;
        for number in 0..3 {
            assert!(world.guest(from).post_data(&host, number, 100, true));
        }
        world.guest(from).step();
        world.settle();
        villain.rings[ring].store(0, 1);
        world.back.kick(villain.id, Channel::Transmit(0));
        world.settle();
        let [Event::Fault(id, Fault::Producer(error))] = world.events[..] else {
            panic!("{:?}", world.events);
        };
        assert_eq!((id, error.theirs, error.room), (villain.id, 1000, 256));
        world.check_rest();
    }
}

#[test]
fn what_cannot_be_connected_is_refused_with_the_reason() {
    let mut world = World::new(NIC);
    let guest = world.add(Mode::Copy);
    let (known, port, _) = &world.guests[guest];
    let (known, port) = (known.connection(*port, |page| page), *port);
    assert_eq!(
        world.back.connect(known).unwrap_err(),
        ConnectError::Taken(DomId::new(1))
    );
    for port in [0, 7] {
        let other = Guest::new(&world.machine, 50, Mode::Copy, ALL);
        let port = bulkhead_netback::vfr::classify::PortId(port);
        let refused = world.back.connect(other.connection(port, |page| page));
        assert_eq!(refused.unwrap_err(), ConnectError::Port(port));
    }
    world.back.disconnect(world.guests[guest].2);
    let other = Guest::new(&world.machine, 50, Mode::Copy, ALL);
    other.queues[0].rings[1].store(0, 257);
    let refused = world.back.connect(other.connection(port, |page| page));
    assert!(matches!(refused, Err(ConnectError::Receive(_))));
}

#[test]
fn pages_that_are_posted_and_cannot_be_used_are_answered_with_errors() {
    for mode in [Mode::Copy, Mode::Flip] {
        let mut world = World::new(NIC);
        let from = world.add(Mode::Copy);
        let villain = Villain::new(&mut world, 9, mode);
        // Grants to read, of the other kind, that are none; and the good ones.
        let good = if mode == Mode::Copy { [2, 3] } else { [4, 5] };
        let bad = if mode == Mode::Copy {
            [1, 4, 99]
        } else {
            [1, 2, 99]
        };
        for (at, gref) in bad.into_iter().chain(good).enumerate() {
            let request = [(at as u32).to_le_bytes(), u32::to_le_bytes(gref)].concat();
            villain.rings[1].write(64 + 8 * at, &request);
        }
        villain.rings[1].store(0, 5);
        let host = villain.guest.host;
        for number in 0..6 {
            assert!(world.guest(from).post_data(&host, number, 1000, false));
        }
        world.guest(from).step();
        world.settle();
        let statuses: Vec<i16> = (0..villain.rings[1].load(8))
            .map(|at| {
                let mut bytes = [0; 8];
                villain.rings[1].read(64 + 8 * at as usize, &mut bytes);
                assert_eq!(u16::from_le_bytes([bytes[0], bytes[1]]), at as u16);
                i16::from_le_bytes([bytes[6], bytes[7]])
            })
            .collect();
        assert_eq!(statuses, [-1, -1, -1, 1042, 1042]);
        let counters = world.back.counters(villain.id).unwrap();
        assert_eq!(counters.lost_received(Loss::PostedGrant), 3);
        assert_eq!(counters.lost_received(Loss::NoPage), 1);
        assert_eq!(counters.flips, if mode == Mode::Flip { 2 } else { 0 });
        assert_eq!(villain.offers(), 8);
        world.check_rest();
    }
}

#[test]
fn no_villain_harms_a_neighbour_or_keeps_anything() {
    let mut losses = [0; Loss::ALL.len()];
    for seed in 0..30 {
        let dice = &mut Dice::new(seed);
        let mut nic = NIC;
        if seed % 3 == 0 {
            // What it does not do is done for it.
            nic.offloads = Offloads::default();
        }
        let mut world = World::new(nic);
        let mode = if seed % 2 == 0 { Mode::Copy } else { Mode::Flip };
        let (from, to) = (world.add(mode), world.add(Mode::Flip));
        let mut villain = Villain::with_two_queues(&mut world, 9, mode);
        world.settle();
        world.meet(from);
        let host = world.host(to);
        let mac = world.host(from).mac;
        world.guest(to).checks = Some(mac);
        let mut number = 0;
        for step in 0..200 {
            if step % 20 == 0 {
                let peer = if dice.one_of(2) { host } else { world.outside() };
                let own = villain.guest.host;
                let kind = dice.below(3);
                let frame = match kind {
                    0 => frames::udp(&own, &peer, &frames::data(1 << 20, 900), true),
                    _ => frames::tcp(&own, &peer, 1, if kind == 1 { 2 } else { 16 }, &[1; 1400], true),
                };
                villain.page.write(0, &frame);
            }
            villain.act(dice);
            world.back.kick(villain.id, Channel::Transmit(0));
            assert!(
                world
                    .guest(from)
                    .post_data(&host, number, 4 + dice.below(1400) as usize, true)
            );
            number += 1;
            world.guest(from).step();
            let target = villain.guest.host;
            if dice.one_of(3) {
                world.guest(from).post_data(&target, 0, 100, false);
            }
            world.serve();
            world.machine.transmit_all();
            // What it sends to the others has no number that could be right.
            world.machine.state_mut().wire.clear();
            world.collect();
            world.serve();
        }
        world.machine.transmit_all();
        world.serve();
        let counters = *world.back.counters(villain.id).unwrap();
        for (count, loss) in losses.iter_mut().zip(Loss::ALL) {
            *count += counters.lost_sent(*loss) + counters.lost_received(*loss);
        }
        world.collect();
        let found = world.guests[to].0.numbers.clone();
        assert!(found.iter().copied().eq(0..number), "seed {seed}: {found:?}");
        world.back.disconnect(villain.id);
        world.serve();
        world.check_rest();
    }
    for loss in [
        Loss::Slots,
        Loss::Extra,
        Loss::Sizes,
        Loss::Segments,
        Loss::Grant,
        Loss::PostedGrant,
    ] {
        assert!(losses[loss as usize] > 10, "{loss:?}: {losses:?}");
    }
}

#[test]
fn headers_that_a_guest_changes_after_they_were_checked_go_out_as_they_were() {
    let mut world = World::new(NIC);
    let other = world.add(Mode::Copy);
    let mut villain = Villain::new(&mut world, 9, Mode::Copy);
    world.settle();
    world.meet(other);
    let frame = frames::udp(
        &villain.guest.host,
        &world.outside(),
        &frames::data(3, 958),
        false,
    );
    villain.page.write(0, &frame);
    villain.slot(&TxSlot::holding(&FIRST));
    world.back.kick(villain.id, Channel::Transmit(0));
    world.serve();
    // The NIC has it, and reads it now.
    villain.page.write(0, &[0x77; 1000]);
    assert!(world.machine.transmit(Ok(())));
    let (sent, _) = world.machine.state_mut().wire.pop().unwrap();
    assert_eq!(sent[26..42], frame[26..42], "addresses and ports");
    assert_eq!(sent[..12], [WIRE_MAC, NIC.mac].concat());
    assert!(sent[42..] == [0x77; 958], "the data are the guest's affair");
    world.serve();
    world.check_rest();
}
