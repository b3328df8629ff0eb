//! What the back-end does with requests, one behaviour at a time.
#![expect(
    clippy::unwrap_used,
    clippy::cast_possible_truncation,
    reason = "a test fails by panicking"
)]

use bulkhead_abi::DomId;
use bulkhead_abi::blkif::{Operation as Op, Response, Response32, Slot, Slot32, Status};
use bulkhead_abi::{Buffered, Record};
use bulkhead_blkback::backend::{ConnectError, Connection, Event, Flaw, MAX_QUEUES, Rest, VbdId};
use bulkhead_blkback::counters::{Fault, Reason};
use bulkhead_blkback::testing::{Dice, Guest, Work, World, geometry};
use bulkhead_blkback::vbd::{Access, Extent, Vbd};
use bulkhead_blkback::wire::{Compat, Layout, Native};
use bulkhead_devices::disk::{Failed, Geometry, Refused, Tag};
use bulkhead_ring::SharedPage;
use bulkhead_ring::descriptor::{Front, RingError};
use bulkhead_ring::testing::Page;

const DISK: u64 = 1 << 16;

fn log(world: &World) {
    world.machine.state_mut().log = Some(Vec::new());
}

fn logged(world: &World) -> Vec<Work> {
    world.machine.state_mut().log.replace(Vec::new()).unwrap()
}

fn ranges(works: &[Work]) -> Vec<(u64, u64)> {
    works.iter().map(Work::range).collect()
}

#[test]
fn what_is_written_is_read_again_and_no_payload_is_copied() {
    let mut world = World::new(geometry(DISK));
    world.add(4096, 1, false);
    let dice = &mut Dice::new(1);
    for operation in [Op::Write, Op::Read] {
        for pages in [1, 11, 12, 32] {
            assert!(world.guests[0].0.ask_pages(operation, 90 * pages as u64, pages));
        }
        world.guests[0].0.push();
        world.settle(dice);
    }
    world.guests[0].0.check_disk(|sector| sector);
    let counters = *world.back.counters(world.guests[0].1).unwrap();
    assert_eq!((counters.reads, counters.writes, counters.indirect), (4, 4, 4));
    assert_eq!(counters.bytes_read, 56 * 4096);
    assert_eq!(counters.bytes_written, 56 * 4096);
    assert_eq!(counters.all_faults(), 0);
    assert_eq!(
        world.machine.state().copied,
        2 * (12 + 32) * 8,
        "only the descriptors of segments"
    );
    assert_eq!(counters.copied, world.machine.state().copied);
    assert_eq!(
        counters.to_string(),
        "reads=4 writes=4 flushes=0 barriers=0 discards=0 indirect=4 bytes-read=229376 bytes-written=229376 pins=112 kept=0 \
         copied=704 faults=0"
    );
    assert_eq!(world.machine.pinned(), 0);
}

#[test]
fn a_batch_costs_one_call_to_pin_one_to_give_back_and_one_to_the_device() {
    let mut world = World::new(geometry(DISK));
    world.add(4096, 1, false);
    world.add(4096, 1, false);
    world.serve();
    for number in 0..16 {
        for (guest, _) in &mut world.guests {
            assert!(guest.ask_pages(Op::Write, (99 * number) % 512 * 8, 1));
            guest.push();
        }
    }
    log(&world);
    world.serve();
    assert_eq!(world.machine.state().calls, (1, 0, 1));
    let order = ranges(&logged(&world));
    assert_eq!(order.len(), 32);
    assert!(order.is_sorted(), "the disk sees them sorted: {order:?}");
    world.machine.work_all(&mut Dice::new(2));
    world.serve();
    assert_eq!(world.machine.state().calls, (1, 1, 1));
    world.collect();
    assert_eq!(
        world.guests[0].0.outstanding() + world.guests[1].0.outstanding(),
        0
    );
}

#[test]
fn requests_are_cut_as_extents_and_limits_want_it() {
    for (limits, expected) in [
        ((126, 1024), vec![(800, 8), (100, 24), (40, 40), (900, 16)]),
        (
            (2, 1024),
            vec![
                (800, 8),
                (100, 16),
                (116, 8),
                (40, 16),
                (56, 16),
                (72, 8),
                (900, 16),
            ],
        ),
        (
            (126, 16),
            vec![
                (800, 8),
                (100, 16),
                (116, 8),
                (40, 16),
                (56, 16),
                (72, 8),
                (900, 16),
            ],
        ),
    ] {
        let (max_segments, max_sectors) = limits;
        let mut world = World::new(Geometry {
            max_segments,
            max_sectors,
            ..geometry(DISK)
        });
        let extents =
            [(800, 8), (100, 24), (40, 40), (900, 100)].map(|(first, sectors)| Extent { first, sectors });
        let vbd = Vbd::new(&extents, Access::ReadWrite, DISK, 512).unwrap();
        let guest = Guest::new(&world.machine, 1, vbd.sectors(), 1);
        let id = world.connect(&guest, vbd);
        world.guests.push((guest, id));
        log(&world);
        world.guests[0].0.ask_pages(Op::Write, 0, 11);
        world.guests[0].0.push();
        world.serve();
        let mut expected = expected;
        expected.sort_unstable();
        assert_eq!(ranges(&logged(&world)), expected);
        world.settle(&mut Dice::new(3));
        let place = |sector: u64| match sector {
            0..8 => 800 + sector,
            8..32 => 92 + sector,
            32..72 => 8 + sector,
            _ => 828 + sector,
        };
        world.guests[0].0.check_disk(place);
    }
}

#[test]
fn a_disk_with_large_blocks_gets_whole_blocks_only() {
    let mut world = World::new(Geometry {
        logical_block: 4096,
        max_segments: 3,
        max_sectors: 20,
        ..geometry(DISK)
    });
    world.add(4096, 1, false);
    let (guest, id) = &mut world.guests[0];
    let id = *id;
    guest.ask_pages(Op::Write, 8, 11);
    guest.push();
    log(&world);
    world.settle(&mut Dice::new(4));
    assert_eq!(
        ranges(&logged(&world))[0],
        (8, 16),
        "20 sectors are no whole blocks"
    );
    let guest = &mut world.guests[0].0;
    guest.may_fail = true;
    guest.ask_pages(Op::Write, 4, 1);
    guest.push();
    world.settle(&mut Dice::new(4));
    assert_eq!(world.back.counters(id).unwrap().faults(Reason::Unaligned), 1);
}

#[test]
fn segments_of_single_sectors_make_whole_blocks_where_the_disk_takes_enough_of_them() {
    // By hand: the segments of a guest that checks itself are whole pages on such a disk.
    for (max_segments, status) in [(8, Status::Okay), (7, Status::Error)] {
        let mut hand = Hand::new(
            Geometry {
                logical_block: 4096,
                max_segments,
                ..geometry(DISK)
            },
            Access::ReadWrite,
        );
        hand.world.machine.grant(1, 8, 0, false);
        let seg = core::array::from_fn(|at| segment(8, at as u8 % 8, at as u8 % 8));
        let response = hand.ask(&bulkhead_abi::blkif::Request {
            operation: Op::Write.raw(),
            nr_segments: 8,
            seg,
            ..Default::default()
        });
        assert_eq!(response, Some(status.raw()));
    }
}

#[test]
fn what_is_written_after_a_discard_is_read_again_with_and_without_a_cache() {
    use bulkhead_abi::blkif::{Discard, Request};
    let request = |operation: Op| Request {
        operation: operation.raw(),
        nr_segments: 1,
        seg: [segment(8, 0, 7); 11],
        ..Default::default()
    };
    let discard = Discard {
        operation: Op::Discard.raw(),
        nr_sectors: 8,
        ..Default::default()
    };
    for write_cache in [false, true] {
        // The disk takes one segment of one page, and one part of a discard, at a time.
        let mut hand = Hand::new(
            Geometry {
                write_cache,
                max_segments: 1,
                max_sectors: 8,
                discard: Some(bulkhead_devices::disk::Discard {
                    max_sectors: 3,
                    granularity: 1,
                }),
                ..geometry(DISK)
            },
            Access::ReadWrite,
        );
        hand.world.machine.grant(1, 8, 0, true);
        for fill in [1, 2] {
            hand.world.machine.write_frame(0, 0, &[fill; 4096]);
            assert_eq!(hand.ask(&request(Op::Write)), Some(0));
            assert_eq!(hand.ask(&discard), Some(0));
            assert_eq!(hand.ask(&request(Op::Write)), Some(0));
            hand.world.machine.write_frame(0, 0, &[0; 4096]);
            assert_eq!(hand.ask(&request(Op::Read)), Some(0));
            assert!(hand.world.machine.read_frame(0) == [fill; 4096], "{write_cache}");
        }
    }
}

fn segment(gref: u32, first_sect: u8, last_sect: u8) -> bulkhead_abi::blkif::Segment {
    bulkhead_abi::blkif::Segment {
        gref,
        first_sect,
        last_sect,
    }
}

/// A front-end whose requests are made by hand. Its VBD has 64 sectors; frame 0 is its memory.
struct Hand {
    world: World,
    page: Page,
    front: Front<Page, Native>,
    id: VbdId,
}

impl Hand {
    fn new(geometry: Geometry, access: Access) -> Self {
        let mut world = World::new(geometry);
        let _ = world.machine.frame();
        let page = Page::new();
        let front = Front::new(vec![page.clone()]).unwrap();
        let vbd = world.vbd(64, access);
        let connection = Connection {
            domain: DomId::new(1),
            vbd,
            layout: Layout::X86_64,
            rings: vec![vec![page.clone()]],
            is_persistent: false,
        };
        let id = world.back.connect(connection).unwrap();
        Self {
            world,
            page,
            front,
            id,
        }
    }

    fn post(&mut self, request: &impl Buffered) {
        self.front.post(&Slot::holding(request)).unwrap();
        let _ = self.front.push();
        self.world.back.kick(self.id, 0);
    }

    /// The status of the response to a request, if one comes.
    fn ask(&mut self, request: &impl Buffered) -> Option<i16> {
        self.response(request).map(|Response { status, .. }| status)
    }

    fn response(&mut self, request: &impl Buffered) -> Option<Response> {
        self.post(request);
        loop {
            self.world.serve();
            if self.world.machine.pending() == 0 {
                break;
            }
            self.world.machine.work(0, Ok(()));
        }
        self.front.take().unwrap()
    }
}

#[test]
fn what_a_request_may_not_do_is_answered_counted_and_told_once() {
    use bulkhead_abi::blkif::{Discard, Indirect, Request};
    let write = |sector_number, seg| Request {
        operation: Op::Write.raw(),
        nr_segments: 1,
        sector_number,
        seg: [seg; 11],
        ..Default::default()
    };
    let good = segment(8, 0, 7);
    let cases: Vec<(Slot, Status, Reason)> = vec![
        (Slot::holding(&write(57, good)), Status::Error, Reason::Outside),
        (
            Slot::holding(&write(u64::MAX, good)),
            Status::Error,
            Reason::Outside,
        ),
        (
            Slot::holding(&write(0, segment(9, 0, 7))),
            Status::Error,
            Reason::Grant,
        ),
        (
            Slot::holding(&write(0, segment(8, 1, 0))),
            Status::Error,
            Reason::Segments,
        ),
        (
            Slot::holding(&write(0, segment(8, 0, 8))),
            Status::Error,
            Reason::Segments,
        ),
        (
            Slot::holding(&Request {
                nr_segments: 12,
                ..write(0, good)
            }),
            Status::Error,
            Reason::Segments,
        ),
        (
            Slot::holding(&Request {
                operation: 7,
                ..write(0, good)
            }),
            Status::Eopnotsupp,
            Reason::Operation,
        ),
        (
            Slot::holding(&Indirect {
                operation: Op::Indirect.raw(),
                nr_segments: 33,
                indirect_grefs: [8; 8],
                ..Default::default()
            }),
            Status::Error,
            Reason::Segments,
        ),
        (
            Slot::holding(&Indirect {
                operation: Op::Indirect.raw(),
                nr_segments: 12,
                indirect_grefs: [9; 8],
                ..Default::default()
            }),
            Status::Error,
            Reason::IndirectGrant,
        ),
        (
            // The page holds zeros: segments of one sector each, of grant 0.
            Slot::holding(&Indirect {
                operation: Op::Indirect.raw(),
                nr_segments: 32,
                sector_number: 33,
                indirect_grefs: [8; 8],
                ..Default::default()
            }),
            Status::Error,
            Reason::Outside,
        ),
        (
            Slot::holding(&Discard {
                operation: Op::Discard.raw(),
                flag: 1,
                nr_sectors: 1,
                ..Default::default()
            }),
            Status::Eopnotsupp,
            Reason::Operation,
        ),
        (
            Slot::holding(&Discard {
                operation: Op::Discard.raw(),
                sector_number: 2,
                nr_sectors: u64::MAX,
                ..Default::default()
            }),
            Status::Error,
            Reason::Outside,
        ),
    ];
    for (slot, status, reason) in cases {
        let mut hand = Hand::new(geometry(DISK), Access::ReadWrite);
        hand.world.machine.grant(1, 8, 0, false);
        log(&hand.world);
        for times in 1..4 {
            assert_eq!(hand.ask(&slot), Some(status.raw()), "{reason:?}");
            let counters = hand.world.back.counters(hand.id).unwrap();
            assert_eq!(counters.faults(reason), times);
            assert_eq!(counters.all_faults(), times);
            let (_, name) = Reason::ALL[reason as usize];
            assert_eq!(counters.reasons().to_string(), format!("{name}={times}"));
        }
        assert_eq!(logged(&hand.world), [], "the disk saw nothing of it");
        let told = hand.world.events.iter();
        let told = told.filter(|event| matches!(event, Event::Fault(_, fault) if fault.reason() == reason));
        assert_eq!(told.count(), 1);
        assert_eq!(hand.ask(&write(56, good)), Some(0), "the next one is served");
        assert_eq!(hand.world.machine.pinned(), 0);
    }
}

/// Linux ends a disk whose back-end names another operation in a response than that of the request, or than what an indirect one does.
#[test]
fn a_response_names_the_operation_or_what_is_done_indirectly_whether_it_was_done_or_not() {
    use bulkhead_abi::blkif::{Indirect, Request};
    let mut hand = Hand::new(geometry(DISK), Access::ReadWrite);
    hand.world.machine.grant(1, 8, 0, true);
    // Segments of one sector each, of grant 8.
    let page = hand.world.machine.frame();
    hand.world.machine.grant(1, 9, page, false);
    let segments = [8_u64; 12].map(u64::to_le_bytes);
    hand.world.machine.write_frame(page, 0, segments.as_flattened());
    let mut id = 0;
    let mut answers = |slot: &dyn Fn(u64, u64) -> Slot| {
        [0, 64].map(|sector| {
            id += 1;
            let response = hand.response(&slot(id, sector)).unwrap();
            assert_eq!(response.id, id);
            (response.operation, response.status)
        })
    };
    for (operation, status) in [(0, 0), (1, 0), (2, 0), (3, 0), (4, -2), (7, -2), (255, -2)] {
        let direct = |id, sector_number| {
            Slot::holding(&Request {
                operation,
                nr_segments: 1,
                id,
                sector_number,
                seg: [segment(8, 0, 0); 11],
                ..Default::default()
            })
        };
        let outside = status.min(-1);
        assert_eq!(answers(&direct), [(operation, status), (operation, outside)]);
    }
    for (indirect_op, status) in [(0, 0), (1, 0), (2, -1), (3, -1), (6, -1), (255, -1)] {
        let indirect = |id, sector_number| {
            Slot::holding(&Indirect {
                operation: Op::Indirect.raw(),
                indirect_op,
                nr_segments: 12,
                id,
                sector_number,
                handle: 0,
                indirect_grefs: [9; 8],
            })
        };
        assert_eq!(answers(&indirect), [(indirect_op, status), (indirect_op, -1)]);
    }
}

#[test]
fn a_disk_for_reading_is_not_written() {
    use bulkhead_abi::blkif::{Discard, Indirect, Request};
    let mut hand = Hand::new(geometry(DISK), Access::ReadOnly);
    hand.world.machine.grant(1, 8, 0, true);
    let request = |operation: Op| Request {
        operation: operation.raw(),
        nr_segments: 1,
        seg: [segment(8, 0, 0); 11],
        ..Default::default()
    };
    for operation in [Op::Write, Op::WriteBarrier, Op::FlushDiskcache] {
        assert_eq!(hand.ask(&request(operation)), Some(-1));
    }
    let discard = Discard {
        operation: Op::Discard.raw(),
        nr_sectors: 1,
        ..Default::default()
    };
    assert_eq!(hand.ask(&discard), Some(-1));
    let indirect = Indirect {
        operation: Op::Indirect.raw(),
        indirect_op: Op::Write.raw(),
        nr_segments: 1,
        indirect_grefs: [8; 8],
        ..Default::default()
    };
    assert_eq!(hand.ask(&indirect), Some(-1));
    let counters = hand.world.back.counters(hand.id).unwrap();
    assert_eq!(counters.faults(Reason::ReadOnly), 5);
    assert_eq!(hand.ask(&request(Op::Read)), Some(0));
    assert_eq!(hand.world.machine.sector(0), [0; 512]);
}

#[test]
fn a_page_that_may_only_be_read_is_not_read_into() {
    let mut hand = Hand::new(geometry(DISK), Access::ReadWrite);
    hand.world.machine.grant(1, 8, 0, false);
    let read = bulkhead_abi::blkif::Request {
        operation: Op::Read.raw(),
        nr_segments: 1,
        seg: [segment(8, 0, 7); 11],
        ..Default::default()
    };
    assert_eq!(hand.ask(&read), Some(-1));
    assert_eq!(
        hand.world.back.counters(hand.id).unwrap().faults(Reason::Grant),
        1
    );
}

#[test]
fn a_flush_reaches_the_disk_and_what_was_answered_before_it_survives_the_power() {
    let mut world = World::new(geometry(DISK));
    world.add(4096, 1, false);
    let dice = &mut Dice::new(5);
    let guest = &mut world.guests[0].0;
    guest.ask_pages(Op::Write, 0, 11);
    guest.push();
    world.settle(dice);
    log(&world);
    let guest = &mut world.guests[0].0;
    guest.ask_pages(Op::FlushDiskcache, 0, 0);
    guest.push();
    world.settle(dice);
    assert_eq!(logged(&world), [Work::Flush]);
    world.machine.lose_power();
    world.guests[0].0.check_disk(|sector| sector);
}

#[test]
fn a_flush_with_data_flushes_first_and_does_not_write_if_that_fails() {
    let mut world = World::new(geometry(DISK));
    world.add(4096, 1, false);
    log(&world);
    let guest = &mut world.guests[0].0;
    guest.may_fail = true;
    guest.ask_pages(Op::FlushDiskcache, 16, 1);
    guest.push();
    world.serve();
    assert_eq!(logged(&world), [Work::Flush]);
    world.machine.work(0, Ok(()));
    world.serve();
    assert_eq!(ranges(&logged(&world)), [(16, 8)]);
    world.machine.work(0, Ok(()));
    world.serve();
    world.collect();
    assert_eq!(world.guests[0].0.answered, (1, 0));

    let guest = &mut world.guests[0].0;
    guest.ask_pages(Op::FlushDiskcache, 32, 1);
    guest.push();
    world.serve();
    world.machine.work(0, Err(Failed::Device(3)));
    world.serve();
    world.collect();
    assert_eq!(world.guests[0].0.answered, (2, 1));
    assert_eq!(logged(&world), [Work::Flush]);
    let fault = Event::Fault(world.guests[0].1, Fault::Device(3));
    assert!(world.events.contains(&fault));
}

#[test]
fn a_barrier_waits_for_older_requests_and_younger_ones_wait_for_it() {
    let mut world = World::new(geometry(DISK));
    world.add(4096, 1, false);
    world.add(4096, 1, false);
    log(&world);
    let guest = &mut world.guests[0].0;
    for (operation, sector) in [
        (Op::Write, 0),
        (Op::Write, 8),
        (Op::WriteBarrier, 16),
        (Op::Write, 24),
    ] {
        guest.ask_pages(operation, sector, 1);
    }
    guest.push();
    let done = |world: &mut World, at| {
        world.machine.work(at, Ok(()));
        world.serve();
        logged(world)
    };
    world.serve();
    assert_eq!(ranges(&logged(&world)), [(0, 8), (8, 8)]);
    assert_eq!(done(&mut world, 1), []);
    // Somebody else's requests do not wait.
    let other = &mut world.guests[1].0;
    other.ask_pages(Op::Write, 0, 1);
    other.push();
    world.serve();
    assert_eq!(ranges(&logged(&world)), [(4096, 8)]);
    assert_eq!(done(&mut world, 0), [Work::Flush], "all older ones are done");
    assert_eq!(ranges(&done(&mut world, 1)), [(16, 8)]);
    assert_eq!(done(&mut world, 1), [Work::Flush]);
    assert_eq!(ranges(&done(&mut world, 1)), [(24, 8)]);
    world.settle(&mut Dice::new(6));
    assert_eq!(world.back.counters(world.guests[0].1).unwrap().barriers, 1);
}

#[test]
fn a_disk_without_a_cache_is_never_flushed() {
    let mut world = World::new(Geometry {
        write_cache: false,
        ..geometry(DISK)
    });
    world.add(4096, 1, false);
    log(&world);
    let guest = &mut world.guests[0].0;
    guest.ask_pages(Op::FlushDiskcache, 0, 0);
    guest.ask_pages(Op::WriteBarrier, 8, 1);
    guest.ask_pages(Op::FlushDiskcache, 16, 1);
    guest.push();
    world.settle(&mut Dice::new(7));
    assert_eq!(ranges(&logged(&world)), [(8, 8), (16, 8)]);
}

#[test]
fn a_large_discard_takes_one_part_after_the_other() {
    let mut hand = Hand::new(geometry(DISK), Access::ReadWrite);
    let extents = [(1000, 100), (3000, 30)].map(|(first, sectors)| Extent { first, sectors });
    let page = Page::new();
    hand.front = Front::new(vec![page.clone()]).unwrap();
    let connection = Connection {
        domain: DomId::new(1),
        vbd: Vbd::new(&extents, Access::ReadWrite, DISK, 512).unwrap(),
        layout: Layout::X86_64,
        rings: vec![vec![page]],
        is_persistent: false,
    };
    hand.id = hand.world.back.connect(connection).unwrap();
    log(&hand.world);
    hand.post(&bulkhead_abi::blkif::Discard {
        operation: Op::Discard.raw(),
        sector_number: 2,
        nr_sectors: 120,
        ..Default::default()
    });
    for expected in [(1002, 64), (1066, 34), (3000, 22)] {
        hand.world.serve();
        assert_eq!(logged(&hand.world), [Work::Discard(expected.0, expected.1)]);
        hand.world.machine.work(0, Ok(()));
    }
    hand.world.serve();
    let response = hand.front.take().unwrap().unwrap();
    assert_eq!((response.status, response.operation), (0, Op::Discard.raw()));
}

#[test]
fn rings_of_32_bit_guests_are_served() {
    let mut world = World::new(geometry(DISK));
    let frame = world.machine.frame();
    world.machine.grant(1, 8, frame, false);
    world.machine.write_frame(frame, 0, &[0x77; 4096]);
    let page = Page::new();
    let mut front = Front::<_, Compat>::new(vec![page.clone()]).unwrap();
    let connection = Connection {
        domain: DomId::new(1),
        vbd: world.vbd(64, Access::ReadWrite),
        layout: Layout::X86_32,
        rings: vec![vec![page]],
        is_persistent: false,
    };
    world.back.connect(connection).unwrap();
    let request = bulkhead_abi::blkif::Request32 {
        operation: Op::Write.raw(),
        nr_segments: 1,
        handle: 0,
        id: 0x1_0000_0002,
        sector_number: 5,
        seg: [segment(8, 1, 2); 11],
    };
    let mut slot = Slot32::default();
    request.write_to(&mut slot.bytes).unwrap();
    front.post(&slot).unwrap();
    let _ = front.push();
    world.settle(&mut Dice::new(8));
    let Response32 { id, status, .. } = front.take().unwrap().unwrap();
    assert_eq!(({ id }, status), (0x1_0000_0002, 0));
    assert_eq!(world.machine.sector(6), [0x77; 512]);
    assert_eq!(world.machine.sector(7), [0; 512]);
}

#[test]
fn several_rings_of_several_pages_are_served_each_by_itself() {
    let mut world = World::new(geometry(DISK));
    let guests: Vec<Guest> = (0..3)
        .map(|queue| Guest::new(&world.machine, 1 + queue, 1024, 4))
        .collect();
    // One VBD with a ring each for three writers of their own thirds; grants are by domain, so that they are given in one name.
    let rings: Vec<Vec<Page>> = guests.iter().map(|guest| guest.rings[0].pages.clone()).collect();
    let vbd = world.vbd(4096, Access::ReadWrite);
    let connect = |rings| Connection {
        domain: DomId::new(1),
        vbd: vbd.clone(),
        layout: Layout::X86_64,
        rings,
        is_persistent: false,
    };
    assert_eq!(
        world.back.connect(connect(vec![Vec::new(); MAX_QUEUES + 1])),
        Err(ConnectError::Queues(MAX_QUEUES + 1))
    );
    assert_eq!(
        world.back.connect(connect(vec![rings[0].clone(), Vec::new()])),
        Err(ConnectError::Ring(1, RingError::Pages(0)))
    );
    let id = world.back.connect(connect(rings.clone())).unwrap();
    let flush = bulkhead_abi::blkif::Request {
        operation: Op::FlushDiskcache.raw(),
        ..Default::default()
    };
    let mut fronts: Vec<Front<Page, Native>> =
        rings.into_iter().map(|ring| Front::new(ring).unwrap()).collect();
    for (queue, front) in fronts.iter_mut().enumerate() {
        for _ in 0..=queue {
            front.post(&Slot::holding(&flush)).unwrap();
        }
        assert_eq!(front.size(), 128);
        let _ = front.push();
        world.back.kick(id, queue);
    }
    world.settle(&mut Dice::new(9));
    for (queue, front) in fronts.iter_mut().enumerate() {
        let answers = core::iter::from_fn(|| front.take().unwrap()).count();
        assert_eq!(answers, queue + 1);
    }
    // A barrier in one ring holds back this ring only.
    let barrier = bulkhead_abi::blkif::Request {
        operation: Op::WriteBarrier.raw(),
        ..Default::default()
    };
    for request in [&flush, &barrier, &flush] {
        fronts[0].post(&Slot::holding(request)).unwrap();
    }
    fronts[1].post(&Slot::holding(&flush)).unwrap();
    for queue in [0, 1] {
        let _ = fronts[queue].push();
        world.back.kick(id, queue);
    }
    world.serve();
    assert_eq!(world.machine.pending(), 2);
    world.settle(&mut Dice::new(9));
    assert_eq!(core::iter::from_fn(|| fronts[0].take().unwrap()).count(), 3);
}

#[test]
fn rings_of_a_front_end_take_turns() {
    let mut world = World::new(Geometry {
        depth: 1,
        ..geometry(DISK)
    });
    let mut guest = Guest::new(&world.machine, 1, 4096, 1);
    guest.add_ring(1);
    let vbd = world.vbd(4096, Access::ReadWrite);
    let id = world.connect(&guest, vbd);
    // One after the other they go into the first ring and into the second.
    for sector in [0, 80, 16, 64, 32, 48] {
        assert!(guest.ask_pages(Op::Read, sector, 1));
    }
    guest.push();
    world.guests.push((guest, id));
    log(&world);
    world.settle(&mut Dice::new(16));
    let order: Vec<u64> = logged(&world).iter().map(|work| work.range().0).collect();
    assert_eq!(order, [0, 80, 16, 64, 32, 48]);
}

#[test]
fn sectors_that_one_front_end_writes_are_no_other_ones() {
    let mut world = World::new(geometry(DISK));
    world.add(4096, 1, false);
    let try_to = |world: &mut World, first, access| {
        let extent = Extent { first, sectors: 8 };
        let connection = Connection {
            domain: DomId::new(9),
            vbd: Vbd::new(&[extent], access, DISK, 512).unwrap(),
            layout: Layout::X86_64,
            rings: vec![vec![Page::new()]],
            is_persistent: false,
        };
        world.back.connect(connection)
    };
    let taken = Err(ConnectError::Taken(DomId::new(1)));
    assert_eq!(try_to(&mut world, 4095, Access::ReadOnly), taken);
    assert_eq!(try_to(&mut world, 4095, Access::ReadWrite), taken);
    assert!(try_to(&mut world, 4096, Access::ReadOnly).is_ok());
    assert!(try_to(&mut world, 4100, Access::ReadOnly).is_ok());
}

#[test]
fn grants_that_are_used_again_stay_pinned_until_the_front_end_goes() {
    let mut world = World::new(geometry(DISK));
    world.add(4096, 1, true);
    let dice = &mut Dice::new(10);
    for round in 0..10 {
        let guest = &mut world.guests[0].0;
        guest.ask_pages(Op::Write, round * 8, 1);
        guest.push();
        world.settle(dice);
        let guest = &mut world.guests[0].0;
        guest.ask_pages(Op::Read, round * 8, 1);
        guest.push();
        world.settle(dice);
    }
    let id = world.guests[0].1;
    let counters = world.back.counters(id).unwrap();
    assert_eq!((counters.pins, counters.kept), (1, 19));
    assert_eq!(world.machine.pinned(), 1);
    world.back.disconnect(id);
    world.serve();
    assert_eq!(world.machine.pinned(), 0);
    assert!(matches!(world.events.last(), Some(Event::Closed(closed, _)) if *closed == id));
}

#[test]
fn a_front_end_that_goes_keeps_its_pages_pinned_while_the_device_uses_them() {
    let mut world = World::new(geometry(DISK));
    world.add(4096, 1, false);
    let neighbour = world.add(4096, 1, false);
    let guest = &mut world.guests[0].0;
    for request in 0..32 {
        guest.ask_pages(Op::Write, request * 88, 11);
    }
    guest.push();
    world.serve();
    let id = world.guests[0].1;
    world.back.disconnect(id);
    world.back.disconnect(id);
    world.serve();
    let begun = world.machine.pending();
    assert!(begun > 10 && world.machine.pinned() == begun * 11);
    assert!(world.events.is_empty());
    let guest = &mut world.guests[neighbour].0;
    guest.ask_pages(Op::Write, 0, 1);
    guest.push();
    world.serve();
    world.machine.work_all(&mut Dice::new(11));
    world.serve();
    assert!(matches!(world.events[..], [Event::Closed(closed, _)] if closed == id));
    assert_eq!(world.machine.pinned(), 0);
    assert_eq!(world.back.counters(id), None);
    world.collect();
    assert_eq!(world.guests[neighbour].0.answered, (1, 0));
    // Its place is somebody else's now; its name is not.
    let vbd = world.vbd(64, Access::ReadWrite);
    let next = Guest::new(&world.machine, 3, 64, 1);
    let next_id = world.connect(&next, vbd);
    assert_ne!(next_id, id);
    world.back.disconnect(id);
    assert!(world.back.counters(next_id).is_some());
}

#[test]
fn a_producer_that_cannot_be_ends_the_service_of_that_front_end_only() {
    let mut world = World::new(geometry(DISK));
    world.add(4096, 1, false);
    world.add(4096, 1, false);
    let guest = &mut world.guests[0].0;
    guest.ask_pages(Op::Write, 0, 1);
    guest.push();
    world.serve();
    for index in [40, 0, 1] {
        world.guests[0].0.rings[0].pages[0].store(0, index);
        world.guests[0].0.rings[0].has_told = true;
        world.guests[1].0.ask_pages(Op::Read, 0, 1);
        world.guests[1].0.push();
        world.serve();
        world.machine.work_all(&mut Dice::new(12));
        world.serve();
        world.collect();
    }
    assert_eq!(world.guests[1].0.answered, (3, 0));
    let id = world.guests[0].1;
    assert_eq!(world.back.counters(id).unwrap().faults(Reason::Producer), 1);
    assert!(matches!(world.events[..], [Event::Fault(at, Fault::Producer(_))] if at == id));
    world.back.disconnect(id);
    world.serve();
    assert_eq!(world.machine.pinned(), 0);
}

#[test]
fn a_device_that_completes_what_was_not_asked_is_told_of_once_and_harms_nobody() {
    let mut world = World::new(geometry(DISK));
    world.add(4096, 1, false);
    let guest = &mut world.guests[0].0;
    guest.ask_pages(Op::Write, 0, 1);
    guest.push();
    world.serve();
    for tag in [Tag(0), Tag(63), Tag(64), Tag(u32::MAX)] {
        let is_asked = world
            .machine
            .state()
            .pending
            .iter()
            .any(|pending| pending.tag == tag);
        if !is_asked {
            world.machine.complete_falsely(tag);
        }
    }
    world.serve();
    assert_eq!(world.guests[0].0.answered, (0, 0));
    world.settle(&mut Dice::new(13));
    assert_eq!(world.guests[0].0.answered, (1, 0));
    assert!(matches!(world.events[..], [Event::Flaw(Flaw::Unasked(_))]));
}

#[test]
fn a_disk_that_is_full_gets_the_request_again_and_one_that_takes_nothing_is_broken() {
    let mut world = World::new(geometry(DISK));
    world.add(4096, 1, false);
    for sector in [0, 8, 16] {
        world.guests[0].0.ask_pages(Op::Write, sector, 1);
    }
    world.guests[0].0.push();
    // The last is the first to be used.
    world.machine.state_mut().refusals = vec![Refused::Full];
    world.serve();
    assert_eq!(world.events, [Event::Flaw(Flaw::Broken)], "full of nothing");

    let mut world = World::new(geometry(DISK));
    world.add(4096, 1, false);
    world.guests[0].0.ask_pages(Op::Write, 0, 1);
    world.guests[0].0.push();
    world.serve();
    world.machine.state_mut().refusals = vec![Refused::Full];
    world.guests[0].0.ask_pages(Op::Write, 8, 1);
    world.guests[0].0.push();
    world.serve();
    assert_eq!(world.machine.pending(), 1);
    world.settle(&mut Dice::new(14));
    assert_eq!(world.guests[0].0.answered, (2, 0));
}

#[test]
fn a_request_that_the_driver_refuses_is_answered_with_an_error() {
    let mut world = World::new(geometry(DISK));
    world.add(4096, 1, false);
    world.machine.state_mut().refusals = vec![Refused::Invalid];
    world.guests[0].0.may_fail = true;
    world.guests[0].0.ask_pages(Op::Write, 0, 1);
    world.guests[0].0.push();
    world.settle(&mut Dice::new(15));
    assert_eq!(world.guests[0].0.answered, (1, 1));
    assert_eq!(world.machine.pinned(), 0);
}

#[test]
fn what_a_broken_disk_leaves_is_for_a_successor_or_is_given_up() {
    let mut world = World::new(geometry(DISK));
    world.add(4096, 1, false);
    let guest = &mut world.guests[0].0;
    for request in 0..8 {
        guest.ask_pages(Op::Write, request * 8, 1);
    }
    guest.push();
    world.serve();
    world.machine.work(3, Err(Failed::Broken));
    world.machine.work(0, Ok(()));
    world.serve();
    world.collect();
    assert_eq!(world.events, [Event::Flaw(Flaw::Broken)]);
    assert_eq!(
        world.guests[0].0.answered,
        (1, 0),
        "only what was done is answered"
    );
    assert_eq!(world.machine.pinned(), 7);
    let guest = &mut world.guests[0].0;
    guest.ask_pages(Op::Write, 80, 1);
    guest.push();
    world.serve();
    assert_eq!(world.machine.pending(), 6, "it is asked for nothing more");

    world.machine.state_mut().pending.clear();
    world.guests[0].0.may_fail = true;
    world.back.give_up();
    world.serve();
    world.collect();
    assert_eq!(world.guests[0].0.answered, (9, 8));
    let guest = &mut world.guests[0].0;
    guest.ask_pages(Op::Write, 88, 1);
    guest.push();
    world.serve();
    world.collect();
    assert_eq!(world.guests[0].0.answered, (10, 9), "and so is what comes later");
    assert_eq!(world.machine.pinned(), 0);
    assert_eq!(world.back.round(), Rest::Sleep);
}

#[test]
fn a_request_that_is_changed_after_it_was_taken_is_done_as_it_was() {
    let mut hand = Hand::new(geometry(DISK), Access::ReadWrite);
    hand.world.machine.grant(1, 8, 0, false);
    hand.world.machine.write_frame(0, 0, &[0x55; 4096]);
    let good = bulkhead_abi::blkif::Request {
        operation: Op::Write.raw(),
        nr_segments: 1,
        sector_number: 8,
        seg: [segment(8, 0, 7); 11],
        id: 77,
        ..Default::default()
    };
    hand.post(&good);
    hand.world.serve();
    // The slot itself is overwritten while the disk works.
    let evil = bulkhead_abi::blkif::Request {
        sector_number: 1 << 40,
        id: 78,
        ..good
    };
    hand.page.write(64, Slot::holding(&evil).to_bytes().as_ref());
    hand.world.machine.work(0, Ok(()));
    hand.world.serve();
    let response = hand.front.take().unwrap().unwrap();
    assert_eq!((response.id, response.status), (77, 0));
    assert_eq!(hand.world.machine.sector(8), [0x55; 512]);
}
