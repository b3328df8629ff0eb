//! The back-end in a simulated machine, with guests that have the real front-end and check what they are given.
#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    reason = "a test fails by panicking"
)]

use bulkhead_devices::nic::{self, Failed, Nic, NicInfo, Tag};
use bulkhead_netback::backend::{ConnectError, Event, Flaw, Logged, Tap};
use bulkhead_netback::counters::{Loss, Totals};
use bulkhead_netback::negotiation::{Features, Mode};
use bulkhead_netback::testing::frames::{self, Host};
use bulkhead_netback::testing::{ALL, Guest, NIC, VFR_MAC, WIRE_MAC, World, add_port};
use bulkhead_netback::vfr::classify::{NetworkId, PortId};
use bulkhead_netback::vfr::packet::tcp_flags;
use bulkhead_netback::vfr::reason::Reason;
use bulkhead_netback::vfr::router::{Fate, Network, Way};
use bulkhead_netback::vfr::rules;
use bulkhead_netfront::{self as front, Offload};

const MODES: [Mode; 2] = [Mode::Copy, Mode::Flip];

/// Sends until there is no more room, with steps between.
fn send_all(
    world: &mut World,
    from: usize,
    to: usize,
    numbers: std::ops::Range<u32>,
    length: impl Fn(u32) -> usize,
) {
    let host = world.host(to);
    for number in numbers {
        while !world
            .guest(from)
            .post_data(&host, number, length(number), number % 2 == 0)
        {
            world.guest(from).step();
            world.settle();
        }
    }
    world.guest(from).step();
    world.settle();
}

#[test]
fn frames_between_guests_arrive_whole_and_in_order_whoever_copies_and_whoever_flips() {
    for from in MODES {
        for to in MODES {
            let mut world = World::new(NIC);
            let (from, to) = (world.add(from), world.add(to));
            world.settle();
            send_all(&mut world, from, to, 0..600, |number| {
                4 + number as usize * 13 % 1469
            });
            let numbers = &world.guests[to].0.numbers;
            assert!(numbers.iter().copied().eq(0..600), "{numbers:?}");
            assert_eq!(world.guests[from].0.sent().frames, 600);
            world.check_rest();
            assert_eq!(world.events, []);
        }
    }
}

/// Guests whose numbers are not powers of two, so that connections meet all queues.
#[test]
fn the_frames_of_a_connection_go_by_one_queue_and_those_of_many_by_all() {
    for mode in MODES {
        let mut world = World::new(NIC);
        let (from, to) = (world.add(mode), world.add_with_queues(mode, ALL, 3));
        world.settle();
        let host = world.host(to);
        for round in 0..4 {
            for port in 1..41 {
                let host = Host { port, ..host };
                assert!(
                    world
                        .guest(from)
                        .post_data(&host, round * 40 + u32::from(port), 100, false)
                );
            }
            world.guest(from).step();
            world.settle();
            let numbers = world.guests[to].0.numbers.len();
            assert_eq!(numbers, 40 * (round as usize + 1));
        }
        let received: Vec<u64> = world.guests[to]
            .0
            .queues
            .iter()
            .map(|queue| queue.received)
            .collect();
        assert_eq!(received.iter().sum::<u64>(), 160);
        for count in received {
            // Four of each connection.
            assert!(count >= 20 && count.is_multiple_of(4), "{count}");
        }
        // What it sends by any of them arrives, and is answered there.
        let back = world.host(from);
        for port in 1..61 {
            let back = Host { port, ..back };
            assert!(world.guest(to).post_data(&back, u32::from(port), 100, false));
        }
        world.guest(to).step();
        world.settle();
        for queue in &world.guests[to].0.queues {
            assert_eq!(queue.transmit.sent().frames, 20);
        }
        let mut numbers = world.guests[from].0.numbers.clone();
        numbers.sort_unstable();
        assert!(numbers.into_iter().eq(1..61));
        world.check_rest();
        assert_eq!(world.events, []);
    }
}

#[test]
fn a_front_end_has_one_queue_at_least_and_no_more_than_are_offered() {
    let mut world = World::new(NIC);
    let guest = Guest::new(&world.machine, 1, Mode::Copy, ALL);
    let port = add_port(world.back.vfr_mut(), &guest);
    for count in [0, 9] {
        let guest = Guest::with_queues(&world.machine, 1, Mode::Copy, ALL, count);
        let refused = world.back.connect(guest.connection(port, |page| page));
        assert_eq!(refused, Err(ConnectError::Queues(count)));
    }
    assert!(world.back.connect(guest.connection(port, |page| page)).is_ok());
}

#[test]
fn frames_to_the_wire_arrive_whole_with_their_checksums_completed() {
    for offloads in [true, false] {
        let mut info = NIC;
        if !offloads {
            info.offloads = Default::default();
        }
        let mut world = World::new(info);
        let guest = world.add(Mode::Copy);
        world.settle();
        world.meet(guest);
        world.numbers.clear();
        let outside = world.outside();
        for number in 0..500 {
            let length = 4 + number as usize * 13 % 1469;
            while !world
                .guest(guest)
                .post_data(&outside, number, length, !offloads || number % 3 != 0)
            {
                world.guest(guest).step();
                world.settle();
            }
        }
        world.guest(guest).step();
        world.settle();
        assert!(world.numbers.iter().copied().eq(0..500), "{:?}", world.numbers);
        assert_eq!(world.guests[guest].0.sent().frames, 500);
        let counters = *world.back.counters(world.guests[guest].2).unwrap();
        assert_eq!(counters.copied > 0, !offloads, "{counters}");
        assert_eq!(counters.pins > 0, offloads, "{counters}");
        world.check_rest();
        assert_eq!(world.events, []);
    }
}

#[test]
fn frames_from_the_wire_arrive_whole() {
    for mode in MODES {
        for front in [0, 12] {
            let info = NicInfo {
                front,
                has_large_frames: front > 0,
                ..NIC
            };
            let mut world = World::new(info);
            let guest = world.add(mode);
            world.settle();
            world.meet(guest);
            for number in 0..400 {
                // What is asked from outside belongs to what was begun inside.
                let length = 4 + number as usize * 13 % 1469;
                assert!(world.arrive(guest, number, length));
                if number % 10 == 9 {
                    world.settle();
                }
            }
            world.settle();
            assert!(
                world.guests[guest].0.numbers.iter().copied().eq(0..400),
                "{:?}",
                world.guests[guest].0.numbers
            );
            let counters = *world.back.counters(world.guests[guest].2).unwrap();
            assert_eq!(counters.flips, if mode == Mode::Flip { 400 } else { 0 });
            assert_eq!(counters.copied == 0, mode == Mode::Flip);
            world.check_rest();
            assert_eq!(world.events, []);
        }
    }
}

#[test]
fn what_the_vfr_drops_is_answered_so_and_counted_by_its_reason() {
    let mut world = World::new(NIC);
    let (guest, other) = (world.add(Mode::Copy), world.add(Mode::Copy));
    world.settle();
    let mut liar = world.host(guest);
    liar.address[3] = 77;
    let to = world.host(other);
    let frame = bulkhead_netback::testing::frames::udp(&liar, &to, &[1; 100], false);
    assert!(world.guest(guest).post(&frame, Default::default()));
    world.guest(guest).step();
    world.settle();
    let (guest, port, _) = &world.guests[guest];
    assert_eq!(guest.sent().dropped, 1);
    assert_eq!(
        world.back.vfr().drops(*port).unwrap().of(Reason::SpoofedAddress),
        1
    );
    assert_eq!(world.guests[other].0.numbers, []);
}

/// Begins a connection of TCP from one guest to another, so that its later segments belong to it.
fn begin_tcp(world: &mut World, from: usize, to: usize) {
    let (a, b) = (world.host(from), world.host(to));
    let syn = frames::tcp(&a, &b, 99, tcp_flags::SYN, &[], false);
    assert!(world.guest(from).post(&syn, Offload::default()));
    world.guest(from).step();
    world.settle();
    let answer = frames::tcp(&b, &a, 99, tcp_flags::SYN | tcp_flags::ACK, &[], false);
    assert!(world.guest(to).post(&answer, Offload::default()));
    world.guest(to).step();
    world.settle();
    world.guest(from).frames.clear();
    world.guest(to).frames.clear();
}

/// Begins a connection of TCP from a guest to the wire. Both ends, as they are seen there.
fn begin_tcp_outside(world: &mut World, guest: usize) -> (Host, Host) {
    let (own, outside) = (world.host(guest), world.outside());
    let syn = frames::tcp(&own, &outside, 100, tcp_flags::SYN, &[], false);
    assert!(world.guest(guest).post(&syn, Offload::default()));
    world.guest(guest).step();
    world.serve();
    world.machine.transmit_all();
    let (syn, _) = world.machine.state_mut().wire.pop().unwrap();
    world.settle();
    let seen = Host {
        mac: NIC.mac,
        address: syn[26..30].try_into().unwrap(),
        port: u16::from_be_bytes([syn[34], syn[35]]),
    };
    let from = Host {
        mac: WIRE_MAC,
        ..outside
    };
    let answer = frames::tcp(&from, &seen, 100, tcp_flags::SYN | tcp_flags::ACK, &[], false);
    let part = 4096 - usize::from(world.back.nic().info().front);
    assert!(world.machine.arrive(&answer, part, nic::Offload::default()));
    world.settle();
    world.guest(guest).frames.clear();
    (seen, from)
}

/// What a device says of a frame with a blank checksum, and of one that it has put together.
const fn said(segmentation: Option<nic::Segmentation>) -> nic::Offload {
    nic::Offload {
        checksum: nic::Checksum::Partial {
            start: 34,
            offset: 16,
        },
        segmentation,
    }
}

const CUT: Offload = Offload {
    checksum: front::Checksum::Blank,
    segments: Some(front::Segments {
        size: 1448,
        ip: front::Ip::V4,
    }),
};

#[test]
fn tcp_that_is_to_be_cut_goes_whole_to_guests_that_take_it() {
    for from in MODES {
        for to in MODES {
            let mut world = World::new(NIC);
            let (from, to) = (world.add(from), world.add(to));
            world.settle();
            begin_tcp(&mut world, from, to);
            let (a, b) = (world.host(from), world.host(to));
            for (number, length) in [
                (1, 1448),
                (2, 1449),
                (3, 4042),
                (4, 4043),
                (5, 20_000),
                (6, 65_000),
            ] {
                let data = frames::data(number, length);
                let frame = frames::tcp(&a, &b, 100, tcp_flags::ACK, &data, true);
                assert!(world.guest(from).post(&frame, CUT));
                world.guest(from).step();
                world.settle();
                let (found, offload) = world.guest(to).frames.pop_front().unwrap();
                assert!(found == frame, "{length}");
                let is_cut = length > 1448;
                assert_eq!(offload.segments, CUT.segments.filter(|_| is_cut));
                assert_eq!(offload.checksum, front::Checksum::Blank);
            }
            assert_eq!(world.guests[to].0.frames.len(), 0);
            world.check_rest();
            assert_eq!(world.events, []);
        }
    }
}

#[test]
fn tcp_is_cut_for_a_guest_that_takes_no_more_than_the_mtu() {
    for takes_blank in [false, true] {
        for mode in MODES {
            let mut world = World::new(NIC);
            let features = Features {
                checksum_v4: takes_blank,
                ..Features::default()
            };
            let from = world.add(Mode::Copy);
            let to = world.add_with_queues(mode, features, 3);
            world.settle();
            begin_tcp(&mut world, from, to);
            let (a, b) = (world.host(from), world.host(to));
            let data = frames::data(7, 40_001);
            let frame = frames::tcp(&a, &b, 5000, tcp_flags::ACK | tcp_flags::PSH, &data, true);
            assert!(world.guest(from).post(&frame, CUT));
            world.guest(from).step();
            world.settle();
            let mut found = Vec::new();
            let pieces = core::mem::take(&mut world.guest(to).frames);
            assert_eq!(pieces.len(), 40_001_usize.div_ceil(1448));
            let count = pieces.len();
            for (at, (piece, offload)) in pieces.into_iter().enumerate() {
                assert!(offload.segments.is_none());
                assert_eq!(offload.checksum == front::Checksum::Blank, takes_blank);
                assert!(frames::is_right(&piece, takes_blank));
                let sequence = u32::from_be_bytes(piece[38..42].try_into().unwrap());
                assert_eq!(sequence as usize, 5000 + found.len());
                assert_eq!(piece[47] & tcp_flags::PSH != 0, at + 1 == count);
                found.extend_from_slice(&piece[frames::TCP_HEADERS..]);
            }
            assert_eq!(frames::number(&found), 7);
            assert_eq!(found.len(), 40_001);
            assert_eq!(world.guests[from].0.sent().errors, 0);
            let used = world.guests[to]
                .0
                .queues
                .iter()
                .filter(|queue| queue.received > 0);
            assert_eq!(used.count(), 1, "a connection goes by one");
            world.check_rest();
        }
    }
}

#[test]
fn tcp_that_is_cut_behind_nat_has_the_checksums_of_the_address_that_it_arrives_with() {
    let info = NicInfo {
        front: 12,
        has_large_frames: true,
        ..NIC
    };
    let mut world = World::new(info);
    let guest = world.add_with(Mode::Copy, Features::default(), 0);
    let vfr = world.back.vfr_mut();
    let (id, network) = vfr.networks().next().unwrap();
    let behind = Network {
        uplink: Way::Nat,
        ..network.clone()
    };
    vfr.change_network(id, behind).unwrap();
    let open = rules::parse("accept nat from red to uplink").unwrap();
    vfr.set_rules(id, open).unwrap();
    world.settle();
    world.meet(guest);
    let own = world.host(guest);
    let (seen, from) = begin_tcp_outside(&mut world, guest);
    assert_ne!(seen.address, own.address);
    let data = frames::data(3, 30_000);
    let frame = frames::tcp(&from, &seen, 101, tcp_flags::ACK, &data, true);
    let cut = nic::Segmentation {
        ip: nic::Ip::V4,
        size: 1448,
        headers: 0,
    };
    assert!(world.machine.arrive(&frame, 4084, said(Some(cut))));
    world.settle();
    let pieces = core::mem::take(&mut world.guest(guest).frames);
    assert_eq!(pieces.len(), 30_000_usize.div_ceil(1448));
    for (piece, _) in pieces {
        assert_eq!(piece[30..34], own.address);
        assert!(frames::is_right(&piece, false));
    }
    world.check_rest();
}

#[test]
fn a_blank_checksum_is_completed_for_a_guest_that_takes_none() {
    let mut world = World::new(NIC);
    let (from, to) = (
        world.add(Mode::Copy),
        world.add_with(Mode::Flip, Features::default(), 0),
    );
    world.settle();
    for length in [5, 100, 214, 215, 1000, 1001, 1472] {
        let host = world.host(to);
        assert!(world.guest(from).post_data(&host, length, length as usize, true));
    }
    world.guest(from).step();
    world.settle();
    // The guest checks that those are right which it gets as whole ones.
    assert_eq!(world.guests[to].0.numbers, [5, 100, 214, 215, 1000, 1001, 1472]);
    world.check_rest();
}

#[test]
fn tcp_that_is_to_be_cut_goes_to_the_wire_as_it_is() {
    let mut world = World::new(NIC);
    let guest = world.add(Mode::Flip);
    world.settle();
    world.meet(guest);
    begin_tcp_outside(&mut world, guest);
    let (own, outside) = (world.host(guest), world.outside());
    let data = frames::data(3, 30_000);
    let frame = frames::tcp(&own, &outside, 100, tcp_flags::ACK, &data, true);
    assert!(world.guest(guest).post(&frame, CUT));
    world.guest(guest).step();
    world.serve();
    world.machine.transmit_all();
    let (frame, offload) = world.machine.state_mut().wire.pop().unwrap();
    assert_eq!(frames::number(&frame[frames::TCP_HEADERS..]), 3);
    assert!(frames::is_right(&frame, true));
    let cut = nic::Segmentation {
        ip: nic::Ip::V4,
        size: 1448,
        headers: 54,
    };
    assert_eq!(offload.segmentation, Some(cut));
    assert_eq!(
        offload.checksum,
        nic::Checksum::Partial {
            start: 34,
            offset: 16
        }
    );
    world.settle();
    world.check_rest();
}

/// Has the NIC send all that there is for it, and takes that from the wire.
fn sent_out(world: &mut World) -> Vec<(Vec<u8>, nic::Offload)> {
    world.serve();
    while !world.machine.state_mut().sending.is_empty() {
        world.machine.transmit_all();
        world.serve();
    }
    core::mem::take(&mut world.machine.state_mut().wire)
}

/// What went to the wire is the same data in pieces, one after the other, each with right checksums.
fn check_pieces(
    pieces: &[(Vec<u8>, nic::Offload)],
    size: usize,
    sequence: u32,
    takes_blank: bool,
) -> Vec<u8> {
    let mut found = Vec::new();
    for (at, (piece, offload)) in pieces.iter().enumerate() {
        let blank = Some(said(None)).filter(|_| takes_blank);
        assert_eq!(*offload, blank.unwrap_or_default());
        // The NIC completes those that are blank.
        assert!(frames::is_right(piece, false), "piece {at}");
        let begins = u32::from_be_bytes(piece[38..42].try_into().unwrap());
        assert_eq!(begins, sequence + u32::try_from(found.len()).unwrap());
        let data = &piece[frames::TCP_HEADERS..];
        assert!(data.len() == size || at + 1 == pieces.len());
        found.extend_from_slice(data);
    }
    found
}

#[test]
fn tcp_is_cut_here_for_a_nic_that_does_not() {
    for (checksum, mode) in [(true, Mode::Copy), (false, Mode::Copy), (false, Mode::Flip)] {
        let offloads = nic::Offloads {
            checksum,
            ..nic::Offloads::default()
        };
        let mut world = World::new(NicInfo { offloads, ..NIC });
        let guest = world.add(mode);
        world.settle();
        world.meet(guest);
        begin_tcp_outside(&mut world, guest);
        world.machine.state_mut().wire.clear();
        let (own, outside) = (world.host(guest), world.outside());
        let lengths = [1448, 1449, 30_001, 65_000, 65_000, 65_000];
        let mut sequence = 101;
        for (number, length) in (1..).zip(lengths) {
            let data = frames::data(number, length);
            let frame = frames::tcp(&own, &outside, sequence, tcp_flags::ACK, &data, true);
            assert!(world.guest(guest).post(&frame, CUT));
            world.guest(guest).step();
            let pieces = sent_out(&mut world);
            assert_eq!(pieces.len(), length.div_ceil(1448));
            assert!(
                check_pieces(&pieces, 1448, sequence, checksum) == data,
                "{length}"
            );
            sequence += u32::try_from(length).unwrap();
        }
        world.settle();
        let sent = world.guests[guest].0.sent();
        assert_eq!((sent.frames, sent.errors), (1 + 6, 0));
        world.check_rest();
        assert_eq!(world.events, []);
    }
}

/// More pieces than there are jobs: they go out as others come to their end, and nobody else waits for them.
#[test]
fn a_frame_of_very_small_segments_is_cut_bit_by_bit() {
    let offloads = nic::Offloads::default();
    let mut world = World::new(NicInfo { offloads, ..NIC });
    let (greedy, from, to) = (
        world.add(Mode::Copy),
        world.add(Mode::Copy),
        world.add(Mode::Copy),
    );
    world.settle();
    world.meet(greedy);
    begin_tcp_outside(&mut world, greedy);
    world.machine.state_mut().wire.clear();
    let (own, outside) = (world.host(greedy), world.outside());
    let small = Offload {
        segments: Some(front::Segments {
            size: 48,
            ip: front::Ip::V4,
        }),
        ..CUT
    };
    let data = frames::data(9, 60_000);
    let frame = frames::tcp(&own, &outside, 101, tcp_flags::ACK, &data, true);
    assert!(world.guest(greedy).post(&frame, small));
    world.guest(greedy).step();
    // The NIC is slow: what is to be cut waits.
    for number in 0..20 {
        let host = world.host(to);
        assert!(world.guest(from).post_data(&host, number, 500, true));
        world.guest(from).step();
        world.serve();
        world.guest(to).step();
        assert_eq!(world.guests[to].0.numbers.len(), number as usize + 1);
    }
    assert_eq!(
        world.guests[greedy].0.sent().frames,
        1,
        "not before all of it is gone"
    );
    let pieces = sent_out(&mut world);
    assert_eq!(pieces.len(), 60_000 / 48);
    assert!(check_pieces(&pieces, 48, 101, false) == data);
    world.settle();
    assert_eq!(world.guests[greedy].0.sent().frames, 2);
    world.check_rest();
    assert_eq!(world.events, []);
}

#[test]
fn a_frame_that_the_nic_puts_together_reaches_a_guest_as_one() {
    for mode in MODES {
        let info = NicInfo {
            front: 12,
            has_large_frames: true,
            ..NIC
        };
        let mut world = World::new(info);
        let guest = world.add(mode);
        world.settle();
        world.meet(guest);
        let (to, from) = begin_tcp_outside(&mut world, guest);
        for (number, length) in [(1, 5000), (2, 4030), (3, 4031), (4, 60_000)] {
            let data = frames::data(number, length);
            let frame = frames::tcp(&from, &to, 101, tcp_flags::ACK, &data, true);
            let cut = nic::Segmentation {
                ip: nic::Ip::V4,
                size: 1448,
                headers: 0,
            };
            assert!(world.machine.arrive(&frame, 4084, said(Some(cut))));
            world.settle();
            let (found, offload) = world.guest(guest).frames.pop_front().unwrap();
            assert_eq!(frames::number(&found[frames::TCP_HEADERS..]), number);
            assert_eq!(found.len(), frame.len());
            assert_eq!(offload, CUT);
        }
        world.check_rest();
        assert_eq!(world.events, []);
    }
}

#[test]
fn a_guest_that_posts_no_pages_loses_its_own_frames_and_delays_nobody() {
    let mut world = World::new(NIC);
    let (from, lazy, other) = (
        world.add(Mode::Copy),
        world.add(Mode::Copy),
        world.add(Mode::Copy),
    );
    world.settle();
    // It never looks, so that its 256 pages are used up.
    let silent = world.guests.remove(lazy);
    let other = other - 1;
    let mut number = 0;
    for _ in 0..20 {
        for _ in 0..40 {
            for host in [silent.0.host, world.host(other)] {
                assert!(world.guest(from).post_data(&host, number, 900, true));
                number += 1;
            }
        }
        world.guest(from).step();
        world.settle();
    }
    assert_eq!(world.guests[other].0.numbers.len(), 800);
    let counters = *world.back.counters(silent.2).unwrap();
    assert_eq!(
        (counters.received, counters.lost_received(Loss::NoPage)),
        (256, 544)
    );
    assert_eq!(world.guests[from].0.sent().dropped, 544);
    world.check_rest();
}

#[test]
fn a_round_takes_as_many_hypercalls_for_many_frames_as_for_one() {
    let calls = |mode, frames: u32| {
        let mut world = World::new(NIC);
        let (from, to) = (world.add(Mode::Copy), world.add(mode));
        world.settle();
        world.meet(from);
        let (host, outside) = (world.host(to), world.outside());
        let before = (*world.back.totals(), world.notified);
        for number in 0..frames {
            assert!(world.guest(from).post_data(&host, number, 1000, true));
            assert!(world.guest(from).post_data(&outside, number, 1000, true));
            assert!(world.arrive(to, number, 1000));
        }
        world.guest(from).step();
        world.serve();
        world.machine.transmit_all();
        world.serve();
        let after = *world.back.totals();
        let of = |totals: &Totals| {
            [
                totals.copies.0,
                totals.maps.0,
                totals.unmaps.0,
                totals.flips.0,
                totals.pins.0,
                totals.unpins.0,
                totals.notifications,
            ]
        };
        let (before, after) = (of(&before.0), of(&after));
        assert_eq!(world.guests[to].0.numbers.len(), 0, "it has not looked");
        core::array::from_fn::<_, 7, _>(|at| after[at] - before[at])
    };
    for mode in MODES {
        assert_eq!(calls(mode, 1), calls(mode, 30), "{mode:?}");
    }
    assert_eq!(calls(Mode::Copy, 30), [2, 1, 1, 0, 0, 0, 2]);
    assert_eq!(calls(Mode::Flip, 30), [2, 1, 1, 1, 1, 1, 2]);
}

#[test]
fn pages_that_the_nic_reads_stay_pinned_until_it_has_sent_them_even_when_their_guest_goes() {
    let mut world = World::new(NIC);
    let guest = world.add(Mode::Copy);
    world.settle();
    world.meet(guest);
    let outside = world.outside();
    for number in 0..10 {
        assert!(world.guest(guest).post_data(&outside, number, 1000, true));
    }
    world.guest(guest).step();
    world.serve();
    assert_eq!(world.machine.pinned(), 10);
    let (id, port) = (world.guests[guest].2, world.guests[guest].1);
    world.back.disconnect(id);
    world.serve();
    assert_eq!((world.machine.pinned(), world.events.len()), (10, 0));
    // Its port is free for whoever comes.
    let again = Guest::new(&world.machine, 77, Mode::Copy, ALL);
    let other = world.back.connect(again.connection(port, |page| page)).unwrap();
    world.serve();
    world.machine.transmit_all();
    world.serve();
    let [Event::Closed(closed, counters)] = world.events[..] else {
        panic!("{:?}", world.events);
    };
    assert_eq!((closed, counters.sent), (id, 11));
    assert!(world.back.counters(id).is_none() && world.back.counters(other).is_some());
    world.check_rest();
}

#[test]
fn when_the_nic_breaks_nothing_that_was_to_go_out_is_answered_and_guests_still_reach_each_other() {
    for offloads in [NIC.offloads, nic::Offloads::default()] {
        let mut world = World::new(NicInfo { offloads, ..NIC });
        let (guest, other) = (world.add(Mode::Copy), world.add(Mode::Flip));
        world.settle();
        world.meet(guest);
        begin_tcp_outside(&mut world, guest);
        world.machine.state_mut().is_broken = true;
        let (outside, own) = (world.outside(), world.host(guest));
        let before = world.guests[guest].0.sent();
        for number in 0..10 {
            let data = frames::data(number, 20_000);
            let sequence = 101 + number * 20_000;
            let frame = frames::tcp(&own, &outside, sequence, tcp_flags::ACK, &data, true);
            assert!(world.guest(guest).post(&frame, CUT));
            assert!(world.guest(guest).post_data(&outside, number, 1000, true));
            assert!(world.guest(other).post_data(&own, number, 1000, true));
            world.guest(guest).step();
            world.guest(other).step();
            world.settle();
        }
        assert_eq!(world.guests[guest].0.sent(), before);
        assert_eq!(world.guests[guest].0.numbers.len(), 10);
        assert_eq!(world.events, [Event::Flaw(Flaw::Broken)]);
    }
}

#[test]
fn a_frame_that_the_device_fails_is_counted_and_its_pages_are_given_back() {
    let mut world = World::new(NIC);
    let guest = world.add(Mode::Copy);
    world.settle();
    world.meet(guest);
    let outside = world.outside();
    assert!(world.guest(guest).post_data(&outside, 1, 1000, true));
    world.guest(guest).step();
    world.serve();
    assert!(world.machine.transmit(Err(Failed::Device(3))));
    world.settle();
    let counters = world.back.counters(world.guests[guest].2).unwrap();
    assert_eq!(counters.lost_sent(Loss::Device), 1);
    world.check_rest();
    world.machine.say(nic::Event::Sent {
        tag: Tag(5),
        result: Ok(()),
    });
    world.serve();
    assert_eq!(world.events, [Event::Flaw(Flaw::Unasked(5))]);
}

#[test]
fn a_full_nic_gets_the_rest_when_it_has_room() {
    let info = NicInfo { send_depth: 3, ..NIC };
    let mut world = World::new(info);
    let guest = world.add(Mode::Copy);
    world.settle();
    world.meet(guest);
    world.numbers.clear();
    let outside = world.outside();
    for number in 0..50 {
        assert!(world.guest(guest).post_data(&outside, number, 1000, true));
    }
    world.guest(guest).step();
    world.settle();
    assert!(world.numbers.iter().copied().eq(0..50));
    world.check_rest();
}

#[test]
fn the_rate_is_kept_and_the_back_end_says_when_it_wants_to_be_woken() {
    let mut world = World::new(NIC);
    let (from, to) = (world.add_with(Mode::Copy, ALL, 1_000_000), world.add(Mode::Copy));
    world.settle();
    let host = world.host(to);
    let begin = world.now;
    let mut number = 0;
    while world.now < begin + 3_000_000_000 {
        while world.guest(from).post_data(&host, number, 958, true) {
            number += 1;
        }
        world.guest(from).step();
        world.settle();
        world.now = world.deadline.expect("it waits for its rate");
    }
    let received = world.guests[to].0.numbers.len();
    // 1000 bytes a frame: 3 s, and the burst of 100 ms.
    assert!((3080..3120).contains(&received), "{received}");
    assert!(world.back.counters(world.guests[from].2).unwrap().held > 100);
}

#[test]
fn a_capture_has_what_comes_from_a_port_as_it_came_and_what_goes_there_as_it_goes() {
    let mut world = World::new(NIC);
    let guest = world.add(Mode::Copy);
    world.settle();
    world.meet(guest);
    let (own, outside) = (world.host(guest), world.outside());
    let vif = world
        .back
        .start_capture(Tap::Port(world.guests[guest].1), 60)
        .unwrap();
    let wire = world.back.start_capture(Tap::Port(PortId(0)), 1000).unwrap();
    let sent = frames::udp(&own, &outside, &frames::data(1, 900), false);
    assert!(world.guest(guest).post(&sent, Offload::default()));
    world.guest(guest).step();
    world.settle();
    assert!(world.arrive(guest, 2, 100));
    world.settle();
    let seen: Vec<_> = std::iter::from_fn(|| world.back.captured(vif)).collect();
    assert_eq!(seen.len(), 2);
    assert_eq!(
        (seen[0].is_from, seen[0].length, seen[0].bytes()),
        (true, 942, &sent[..60])
    );
    assert_eq!((seen[1].is_from, seen[1].length), (false, 142));
    assert_eq!(seen[1].bytes()[..6], own.mac);
    let seen: Vec<_> = std::iter::from_fn(|| world.back.captured(wire)).collect();
    let [out, back] = &seen[..] else {
        panic!("{seen:?}")
    };
    assert!(!out.is_from && back.is_from && out.bytes().len() == 256);
    assert_eq!(out.bytes()[..12], [WIRE_MAC, NIC.mac].concat());
    assert_eq!(back.bytes()[..12], [NIC.mac, WIRE_MAC].concat());
    assert_eq!(world.back.stop_capture(vif), 0);
    assert_eq!(world.back.captured(vif), None);
}

#[test]
fn a_capture_of_a_vif_ends_with_it_and_has_nothing_of_one_that_gets_its_number() {
    let mut world = World::new(NIC);
    let (own, other) = (world.add(Mode::Copy), world.add(Mode::Copy));
    world.settle();
    let to = world.host(other);
    let (_, port, id) = world.guests[own];
    let vif = world.back.start_capture(Tap::Port(port), 60).unwrap();
    let others = world
        .back
        .start_capture(Tap::Port(world.guests[other].1), 60)
        .unwrap();
    assert!(world.guest(own).post_data(&to, 1, 100, true));
    world.guest(own).step();
    world.settle();
    world.back.disconnect(id);
    assert!(world.back.is_capturing(vif));
    assert!(world.back.vfr_mut().remove_vif(port));
    // Another guest, by the same number.
    let next = world.add(Mode::Copy);
    assert_eq!(world.guests[next].1, port);
    world.settle();
    assert!(world.guest(next).post_data(&to, 2, 100, true));
    world.guest(next).step();
    world.settle();
    // What was captured before can still be taken.
    assert!(!world.back.is_capturing(vif) && world.back.is_capturing(others));
    assert_eq!(std::iter::from_fn(|| world.back.captured(vif)).count(), 1);
    assert_eq!(std::iter::from_fn(|| world.back.captured(others)).count(), 2);
    assert_eq!(world.back.stop_capture(vif), 0);
    assert!(!world.back.is_capturing(vif));
}

#[test]
fn frames_of_the_vfrs_own_go_to_any_port() {
    let mut world = World::new(NIC);
    let guest = world.add(Mode::Flip);
    world.settle();
    let own = world.host(guest);
    let gateway = Host {
        mac: VFR_MAC,
        address: [10, 0, 0, 254],
        port: 67,
    };
    for length in [4, 200, 1472] {
        let frame = frames::udp(&gateway, &own, &frames::data(length, length as usize), false);
        world.back.send_made(world.guests[guest].1, frame.clone());
        world.back.send_made(PortId(0), frame);
    }
    world.back.send_made(PortId(9), vec![0; 60]);
    world.back.send_made(PortId(0), vec![0; 5000]);
    world.serve();
    world.machine.transmit_all();
    world.serve();
    world.guest(guest).collect();
    assert_eq!(world.guests[guest].0.numbers, [4, 200, 1472]);
    assert_eq!(world.machine.state().wire.len(), 3);
    let totals = world.back.totals();
    assert_eq!(
        (totals.lost(Loss::NoReceiver), totals.lost(Loss::NoMemory)),
        (1, 1)
    );
    world.check_rest();
}

#[test]
fn a_packet_that_a_rule_wants_logged_is_told_and_too_many_are_counted() {
    let mut world = World::new(NIC);
    let (from, to) = (world.add(Mode::Copy), world.add(Mode::Copy));
    world.settle();
    let rules = rules::parse("drop log").unwrap();
    world.back.vfr_mut().set_rules(NetworkId(0), rules).unwrap();
    let host = world.host(to);
    for number in 0..40 {
        assert!(world.guest(from).post_data(&host, number, 100, true));
    }
    world.guest(from).step();
    world.settle();
    let logged = world
        .events
        .iter()
        .filter(|event| matches!(event, Event::Log(_)))
        .count();
    assert_eq!((logged, world.events.len()), (32, 32));
    // How many were too many is told a second later, and the back-end wants to be woken for it.
    world.now = world.deadline.unwrap();
    assert_eq!(world.now, 2_000_000_000);
    world.serve();
    assert_eq!(
        (world.events.len(), world.events.last()),
        (33, Some(&Event::NotLogged(8)))
    );
    let Event::Log(Logged { from, fate, rule, .. }) = world.events[0] else {
        panic!("{:?}", world.events[0]);
    };
    assert_eq!(
        (from, fate, rule),
        (PortId(1), Fate::Drop(Reason::Rule), Some((NetworkId(0), 0)))
    );
}

#[test]
fn a_flood_of_packets_to_be_logged_is_told_at_a_rate_however_many_rounds_there_are() {
    let mut world = World::new(NIC);
    let (from, to) = (world.add(Mode::Copy), world.add(Mode::Copy));
    world.settle();
    let rules = rules::parse("drop log").unwrap();
    world.back.vfr_mut().set_rules(NetworkId(0), rules).unwrap();
    let host = world.host(to);
    // 10 packets each 10 ms, for 10 seconds.
    for number in 0..10_000 {
        assert!(world.guest(from).post_data(&host, number, 100, true));
        if number % 10 == 9 {
            world.guest(from).step();
            world.settle();
            world.now += 10_000_000;
        }
    }
    world.now += 1_000_000_000;
    world.serve();
    let (mut told, mut missed) = (0, Vec::new());
    for event in &world.events {
        if let Event::NotLogged(more) = event {
            missed.push(*more);
        } else {
            assert!(matches!(event, Event::Log(_)), "{event:?}");
            told += 1;
        }
    }
    assert!((32 + 319..=32 + 320).contains(&told), "{told}");
    assert_eq!(told + missed.iter().sum::<u64>(), 10_000);
    assert!((9..=11).contains(&missed.len()), "{missed:?}");
}

#[test]
fn a_frame_of_which_a_broken_nic_does_not_say_whether_it_was_sent_is_left_to_a_successor() {
    let mut world = World::new(NIC);
    let guest = world.add(Mode::Copy);
    world.settle();
    world.meet(guest);
    let outside = world.outside();
    let before = world.guests[guest].0.sent();
    assert!(world.guest(guest).post_data(&outside, 1, 1000, true));
    world.guest(guest).step();
    world.serve();
    assert!(world.machine.transmit(Err(Failed::Broken)));
    world.serve();
    world.guest(guest).step();
    assert_eq!(world.events, [Event::Flaw(Flaw::Broken)]);
    assert_eq!(world.guests[guest].0.sent(), before);
    assert_eq!(world.machine.pinned(), 1);
}

#[test]
fn what_lies_behind_a_packet_is_not_summed_and_does_not_go_out() {
    let mut world = World::new(NIC);
    let guest = world.add(Mode::Copy);
    world.settle();
    world.meet(guest);
    let (own, outside) = (world.host(guest), world.outside());
    for length in [20, 900] {
        let frame = frames::udp(&own, &outside, &frames::data(1, length), true);
        let blank = Offload {
            checksum: front::Checksum::Blank,
            segments: None,
        };
        assert!(world.guest(guest).post(&[&frame[..], &[0x55; 7]].concat(), blank));
        world.guest(guest).step();
        world.serve();
        world.machine.transmit_all();
        let (sent, _) = world.machine.state_mut().wire.pop().unwrap();
        assert_eq!(sent.len(), frame.len());
        assert!(frames::is_right(&sent, false));
        world.serve();
    }
    world.check_rest();
}
