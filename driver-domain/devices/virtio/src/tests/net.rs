//! The driver of NICs against a simulated one, as it should be and as it should not.

use std::collections::BTreeSet;

use bulkhead_devices::BusAddress;
use bulkhead_devices::function::{Denied, Function as _};
use bulkhead_devices::nic::{
    Checksum, Event, Failed, Ip, Nic as _, Offload, Offloads, Receive, Received, Refused, Segment,
    Segmentation, Tag,
};
use bulkhead_devices::testing::{FakeClock, FakeFunction, run};
use proptest::prelude::*;

use super::device::{self, EVENT_INDEX, INDIRECT, VERSION_1, Virtio};
use super::nic::{
    self, ADDRESS, CHECKSUM, FEATURES, GUEST_CHECKSUM, GUEST_TCP, HOST_TCP, Header, MAC, MERGED, MTU,
    RECEIVING, SENDING, STATUS,
};
use crate::{Net, StartError, drives_nic};

type Nic = Virtio<nic::Nic>;
type Machine = device::Machine<nic::Nic>;
type Driver = Net<FakeFunction<Nic>>;

/// With and without tables, and event indices.
const MODES: [u64; 4] = [
    FEATURES,
    FEATURES & !INDIRECT,
    FEATURES & !EVENT_INDEX,
    FEATURES & !INDIRECT & !EVENT_INDEX,
];

/// What is in a page before anything is received.
const BEFORE: [u8; 4096] = [0xaa; 4096];

fn start(machine: &Machine, receive: Receive) -> Result<Driver, StartError> {
    run(Net::start(machine.function(), receive, &FakeClock::default()))
}

fn started(features: u64, receive: Receive) -> (Machine, Driver) {
    let machine = Machine::new();
    machine.device().offered = features;
    let driver = start(&machine, receive).unwrap();
    (machine, driver)
}

fn taken(driver: &mut Driver) -> Vec<Event> {
    std::iter::from_fn(|| driver.take()).collect()
}

fn sent(tag: u32) -> Event {
    Event::Sent {
        tag: Tag(tag),
        result: Ok(()),
    }
}

/// A frame in one page, about which nothing is said.
fn received(tag: u32, bytes: u32) -> Event {
    Event::Received(Received {
        tag: Tag(tag),
        front: <_>::default(),
        bytes,
        offload: Offload::default(),
        has_more: false,
    })
}

/// A frame of which no two neighbours are alike.
fn frame(bytes: usize, seed: usize) -> Vec<u8> {
    (0..bytes)
        .map(|at| (at * 7 + at / 256 + seed).to_le_bytes()[0])
        .collect()
}

fn tcp(ip: Ip, size: u16, headers: u16) -> Offload {
    Offload {
        checksum: Checksum::Partial {
            start: headers - 20,
            offset: 16,
        },
        segmentation: Some(Segmentation { ip, size, headers }),
    }
}

/// Posts pages, whole or behind the room for a front, with the tags from 0 on.
fn post(machine: &Machine, driver: &mut Driver, count: usize) -> Vec<Segment> {
    let front = u32::from(driver.info().front);
    let pages = machine.pages(count);
    for (n, page) in (0..).zip(&pages) {
        machine.bus.write(page.address, &BEFORE);
        let segment = Segment {
            address: BusAddress(page.address.0 + u64::from(front)),
            bytes: page.bytes - front,
        };
        driver.post(Tag(n), segment).unwrap();
    }
    driver.commit();
    pages
}

#[test]
fn the_nic_is_as_its_configuration_says() {
    let (machine, driver) = started(FEATURES, Receive::Single);
    assert!(drives_nic(machine.function().info()));
    let info = *driver.info();
    assert_eq!((info.mac, info.mtu), (ADDRESS, 1500));
    let all = Offloads {
        checksum: true,
        tcp4: true,
        tcp6: true,
    };
    assert_eq!(info.offloads, all);
    assert_eq!(
        (info.max_segments, info.send_depth, info.receive_depth),
        (30, 256, 256)
    );
    assert_eq!((info.has_large_frames, info.front), (false, 0));
    let (_, driver) = started(VERSION_1 | MAC | MTU, Receive::Large);
    let info = *driver.info();
    assert_eq!(info.offloads, Offloads::default());
    assert_eq!(
        (info.max_segments, info.send_depth, info.receive_depth),
        (255, 128, 128)
    );
    // As much as a page takes.
    assert_eq!((info.mtu, info.max_frame()), (4078, 4096));
    let (_, driver) = started(FEATURES | MTU, Receive::Large);
    let info = *driver.info();
    assert_eq!((info.mtu, info.has_large_frames, info.front), (9000, true, 12));
}

#[test]
fn nothing_is_agreed_on_that_leans_on_what_is_not_there() {
    let known = FEATURES & !(1 << 17 | 1 << 22);
    let large = GUEST_TCP | MERGED;
    for (offered, receive, agreed) in [
        (FEATURES, Receive::Large, known),
        (FEATURES, Receive::Single, known & !large),
        (FEATURES & !MERGED, Receive::Large, known & !large),
        (FEATURES & !GUEST_TCP, Receive::Large, known & !large),
        (
            FEATURES & !GUEST_CHECKSUM,
            Receive::Large,
            known & !GUEST_CHECKSUM & !large,
        ),
        (
            FEATURES & !GUEST_TCP | MTU,
            Receive::Large,
            known & !GUEST_TCP | MTU,
        ),
        (
            FEATURES & !CHECKSUM,
            Receive::Large,
            known & !CHECKSUM & !HOST_TCP,
        ),
        (FEATURES | 1 << 33, Receive::Large, known | 1 << 33),
    ] {
        let (machine, _driver) = started(offered, receive);
        assert_eq!(machine.device().agreed, agreed, "{offered:#x} {receive:?}");
    }
}

#[test]
fn the_link_is_as_the_device_says() {
    let (machine, driver) = started(FEATURES, Receive::Single);
    assert!(driver.read_link());
    machine.device().config[6] = 2;
    assert!(!driver.read_link());
    let (machine, driver) = started(FEATURES & !STATUS, Receive::Single);
    machine.device().config[6] = 0;
    assert!(driver.read_link());
}

#[test]
fn frames_go_to_the_wire_as_they_are_given() {
    for features in MODES {
        let (machine, mut driver) = started(features, Receive::Single);
        let pages = machine.pages(3);
        let bytes = frame(1000, 0);
        let mut segments = Vec::new();
        let parts = [(0..54, 4042), (54..55, 4095), (55..1000, 3)];
        for (page, (range, at)) in pages.iter().zip(parts) {
            let address = BusAddress(page.address.0 + at);
            let len = u32::try_from(range.len()).unwrap();
            machine.bus.write(address, &bytes[range]);
            segments.push(Segment { address, bytes: len });
        }
        let plain = Offload::default();
        driver.send(Tag(7), &segments, &plain).unwrap();
        driver.send(Tag(8), &segments[..1], &plain).unwrap();
        assert_eq!(driver.take(), None, "nothing is told before the commit");
        assert_eq!(machine.device().doorbells, 0);
        driver.commit();
        driver.commit();
        assert_eq!(machine.device().doorbells, 1);
        machine.device().transmit(1);
        machine.device().transmit(0);
        assert_eq!(taken(&mut driver), [sent(8), sent(7)]);
        let [(first, short), (second, whole)] = &machine.device().kind.sent[..] else {
            panic!("two frames are sent");
        };
        assert_eq!((first, second), (&[0; 12], &[0; 12]));
        assert_eq!((&short[..], whole), (&bytes[..54], &bytes));
    }
}

#[test]
fn what_is_to_be_done_for_a_frame_is_in_its_header() {
    let (machine, mut driver) = started(FEATURES, Receive::Single);
    let pages = machine.pages(15);
    let checksum = Checksum::Partial { start: 34, offset: 6 };
    let only_checksum = Offload {
        checksum,
        segmentation: None,
    };
    let is_right = Offload {
        checksum: Checksum::Checked,
        segmentation: None,
    };
    let short = [Segment {
        bytes: 60,
        ..pages[0]
    }];
    for (segments, offload, header) in [
        (&short[..], is_right, [0; 12]),
        (&short, only_checksum, [1, 0, 0, 0, 0, 0, 34, 0, 6, 0, 0, 0]),
        (
            &pages,
            tcp(Ip::V4, 1448, 54),
            [1, 1, 54, 0, 0xa8, 5, 34, 0, 16, 0, 0, 0],
        ),
        (
            &pages,
            tcp(Ip::V6, 256, 0x120),
            [1, 4, 0x20, 1, 0, 1, 0x0c, 1, 16, 0, 0, 0],
        ),
        (&short, Offload::default(), [0; 12]),
    ] {
        driver.send(Tag(0), segments, &offload).unwrap();
        driver.commit();
        machine.device().transmit(0);
        assert_eq!(taken(&mut driver), [sent(0)]);
        assert_eq!(machine.device().kind.sent.pop().unwrap().0, header, "{offload:?}");
    }
}

#[test]
fn what_the_nic_cannot_take_is_refused_and_changes_nothing() {
    let (machine, mut driver) = started(FEATURES & !CHECKSUM & !HOST_TCP, Receive::Single);
    let page = machine.pages(1)[0];
    let plain = Offload::default();
    let short = Segment { bytes: 60, ..page };
    for (segments, offload) in [
        (&[page][..], plain),
        (&[], plain),
        (&[Segment { bytes: 40, ..page }; 31], plain),
        (&[short], tcp(Ip::V4, 1, 54)),
    ] {
        assert_eq!(driver.send(Tag(0), segments, &offload), Err(Refused::Invalid));
    }
    for segment in [
        short,
        Segment {
            address: BusAddress(page.address.0 + 1),
            ..page
        },
    ] {
        assert_eq!(driver.post(Tag(0), segment), Err(Refused::Invalid));
    }
    driver.commit();
    assert_eq!(machine.device().doorbells, 0);
    assert!(driver.may_sleep());
}

#[test]
fn pages_hold_the_frames_that_are_received_into_them_and_nothing_else() {
    for features in MODES {
        let (machine, mut driver) = started(features, Receive::Single);
        let pages = post(&machine, &mut driver, 5);
        assert_eq!(machine.device().doorbells, 1);
        // In any order, of any size.
        let all = [(4, 60), (0, 1518), (1, 4096), (2, 0), (3, 13)];
        for (n, (tag, bytes)) in all.into_iter().enumerate() {
            let place = [4, 0, 0, 0, 0][n];
            machine
                .device()
                .receive(place, Header::default(), &frame(bytes, tag));
        }
        let events = all.map(|(tag, bytes)| received(tag.try_into().unwrap(), bytes.try_into().unwrap()));
        assert_eq!(taken(&mut driver), events);
        for (tag, bytes) in all {
            let page: [u8; 4096] = machine.bus.read(pages[tag].address);
            assert_eq!(page[..bytes], frame(bytes, tag));
            assert_eq!(page[bytes..], BEFORE[bytes..]);
        }
    }
}

#[test]
fn what_the_device_says_of_a_frame_is_told() {
    let (machine, mut driver) = started(FEATURES, Receive::Large);
    post(&machine, &mut driver, 20);
    let plain = Offload::default();
    let checked = Offload {
        checksum: Checksum::Checked,
        ..plain
    };
    let partial = Offload {
        checksum: Checksum::Partial {
            start: 34,
            offset: 16,
        },
        ..plain
    };
    let cut = |offload, ip, size| Offload {
        segmentation: Some(Segmentation { ip, size, headers: 0 }),
        ..offload
    };
    for (header, offload) in [
        ([0, 0, 9, 9, 9, 9, 9, 9, 9, 9, 0, 0], plain),
        ([2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0], checked),
        ([1, 0, 0, 0, 0, 0, 34, 0, 16, 0, 0, 0], partial),
        (
            [1, 1, 54, 0, 0xa8, 5, 34, 0, 16, 0, 0, 0],
            cut(partial, Ip::V4, 1448),
        ),
        ([2, 4, 54, 0, 1, 0, 34, 0, 16, 0, 0, 0], cut(checked, Ip::V6, 1)),
    ] {
        machine.device().receive(0, header, &frame(100, 0));
        let Some(Event::Received(received)) = driver.take() else {
            panic!("the frame is received");
        };
        assert_eq!(received.offload, offload);
    }
    // Who did not ask does not hear that a checksum is right.
    let (machine, mut driver) = started(FEATURES & !GUEST_CHECKSUM, Receive::Large);
    post(&machine, &mut driver, 1);
    machine
        .device()
        .receive(0, [2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0], &frame(100, 0));
    assert_eq!(taken(&mut driver), [received(0, 100)]);
}

#[test]
fn a_large_frame_is_whole_when_its_fronts_are_put_before_its_pages() {
    for features in MODES {
        let (machine, mut driver) = started(features, Receive::Large);
        let pages = post(&machine, &mut driver, 100);
        let header = [1, 1, 54, 0, 0xa8, 5, 34, 0, 16, 0, 0, 0];
        // The last page has nothing but a part of its front, or all of it, or more.
        let mut tag = 0;
        for bytes in [4084, 4085, 4084 + 12, 4084 + 13, 65_000, 60] {
            let bytes = frame(bytes, tag);
            machine.device().receive(0, header, &bytes);
            let mut whole = Vec::new();
            while whole.is_empty() || whole.len() < bytes.len() {
                let Some(Event::Received(received)) = driver.take() else {
                    panic!("the frame is received");
                };
                assert_eq!(received.tag, Tag(tag.try_into().unwrap()));
                let is_first = whole.is_empty();
                assert_eq!(received.offload.segmentation.is_some(), is_first);
                assert_eq!(received.front.is_empty(), is_first);
                let front = received.front.len();
                let before = BusAddress(pages[tag].address.0 + 12 - front as u64);
                machine.bus.write(before, &received.front);
                let at = whole.len();
                whole.resize(at + front + received.bytes as usize, 0);
                machine.bus.copy_out(before, &mut whole[at..]);
                assert_eq!(received.has_more, whole.len() < bytes.len());
                tag += 1;
            }
            assert_eq!(whole, bytes);
            assert_eq!(driver.take(), None);
        }
    }
}

#[test]
fn both_queues_are_filled_to_the_last_and_answered_in_any_order() {
    for features in MODES {
        let (machine, mut driver) = started(features, Receive::Single);
        let info = *driver.info();
        let page = machine.pages(1)[0];
        let short = [Segment { bytes: 60, ..page }];
        let plain = Offload::default();
        for round in 0..3 {
            for n in 0..info.send_depth {
                driver.send(Tag(n.into()), &short, &plain).unwrap();
            }
            assert_eq!(driver.send(Tag(999), &short, &plain), Err(Refused::Full));
            for n in 0..info.receive_depth {
                driver.post(Tag(n.into()), page).unwrap();
            }
            assert_eq!(driver.post(Tag(999), page), Err(Refused::Full), "{features:#x}");
            driver.commit();
            let (mut tags, mut count) = ([BTreeSet::new(), BTreeSet::new()], 0);
            let mut order = Vec::new();
            loop {
                let left = [SENDING, RECEIVING].map(|queue| machine.device().has(queue));
                let n = |left| (count * 7 + round) % left;
                match left {
                    [0, 0] => break,
                    [left, other] if left > other => machine.device().transmit(n(left)),
                    [_, left] => {
                        machine.device().receive(n(left), Header::default(), &[0; 60]);
                    }
                }
                count += 1;
                match driver.take().unwrap() {
                    Event::Sent { tag, result: Ok(()) } => {
                        order.push(tag.0);
                        tags[SENDING].insert(tag)
                    }
                    Event::Received(page) => tags[RECEIVING].insert(page.tag),
                    broken @ (Event::Sent { .. } | Event::Returned(_)) => panic!("{broken:?}"),
                };
            }
            assert_eq!(driver.take(), None);
            assert!(!order.is_sorted());
            assert_eq!(tags[SENDING].len(), info.send_depth.into());
            assert_eq!(tags[RECEIVING].len(), info.receive_depth.into());
        }
    }
}

#[test]
fn neither_queue_waits_for_the_other_to_be_empty() {
    let (machine, mut driver) = started(FEATURES, Receive::Single);
    let page = machine.pages(1)[0];
    for n in 0..20 {
        let short = [Segment { bytes: 60, ..page }];
        driver.send(Tag(n), &short, &Offload::default()).unwrap();
        driver.post(Tag(n), page).unwrap();
    }
    driver.commit();
    for _ in 0..20 {
        machine.device().transmit(0);
        machine.device().receive(0, Header::default(), &[0; 60]);
    }
    let events = taken(&mut driver);
    assert_eq!(events.len(), 40);
    for pair in events.chunks(2) {
        let is_sent = |event: &Event| matches!(event, Event::Sent { .. });
        assert_ne!(is_sent(&pair[0]), is_sent(&pair[1]));
    }
}

#[test]
fn indices_wrap_around() {
    for features in MODES {
        let (machine, mut driver) = started(features, Receive::Single);
        let page = machine.pages(1)[0];
        let short = [Segment { bytes: 60, ..page }];
        let mut tag = 0_u32;
        while tag < 66_000 {
            let batch = 1 + tag % 61;
            for n in tag..tag + batch {
                driver.post(Tag(n), page).unwrap();
                driver.send(Tag(n), &short, &Offload::default()).unwrap();
            }
            driver.commit();
            assert!(driver.may_sleep());
            let before = machine.device().interrupts;
            for _ in 0..batch {
                machine.device().transmit(0);
                machine.device().receive(0, Header::default(), &[0; 60]);
            }
            // With an index, each queue wakes once.
            let count = machine.device().interrupts - before;
            let is_quiet = features & EVENT_INDEX == 0 || count == 2;
            assert!(count > 0 && is_quiet, "{features:#x} {tag} {count}");
            let events = taken(&mut driver);
            let expected = (tag..tag + batch).flat_map(|tag| [received(tag, 60), sent(tag)]);
            assert!(events.into_iter().eq(expected));
            tag += batch;
            machine.device().kind.sent.clear();
        }
    }
}

#[test]
fn nobody_sleeps_while_something_has_happened_in_either_queue() {
    for features in MODES {
        let (machine, mut driver) = started(features, Receive::Single);
        let pages = post(&machine, &mut driver, 2);
        let short = [Segment {
            bytes: 60,
            ..pages[0]
        }];
        for n in 0..2 {
            driver.send(Tag(n), &short, &Offload::default()).unwrap();
        }
        driver.commit();
        assert!(driver.may_sleep());
        machine.device().transmit(0);
        assert_eq!(machine.device().interrupts, 1);
        assert!(!driver.may_sleep());
        assert_eq!(taken(&mut driver), [sent(0)]);
        assert!(driver.may_sleep());
        machine.device().receive(0, Header::default(), &[0; 60]);
        assert_eq!(machine.device().interrupts, 2);
        assert!(!driver.may_sleep());
        assert_eq!(taken(&mut driver), [received(0, 60)]);
        assert!(driver.may_sleep());
        // Both wake still, after only one of them had something.
        machine.device().transmit(0);
        assert_eq!(machine.device().interrupts, 3);
    }
}

/// What a device answers that has one frame to send and three pages, 1 to 3, with a fourth that it was not told of. Says what ended,
/// and whether the device is broken.
fn answer(features: u64, receive: Receive, answer: impl FnOnce(&mut Nic)) -> (Vec<Event>, bool) {
    let (machine, mut driver) = started(features, receive);
    let front = u32::from(driver.info().front);
    let page = Segment {
        bytes: 4096 - front,
        ..machine.pages(1)[0]
    };
    let short = [Segment { bytes: 60, ..page }];
    driver.send(Tag(0), &short, &Offload::default()).unwrap();
    for n in 1..4 {
        driver.post(Tag(n), page).unwrap();
    }
    driver.commit();
    driver.post(Tag(4), page).unwrap();
    assert!(driver.may_sleep());
    let doorbells = machine.device().doorbells;
    answer(&mut machine.device());
    let mut ended = Vec::from_iter(driver.take());
    let sleeps = driver.may_sleep();
    ended.extend(taken(&mut driver));
    assert_eq!(sleeps, ended.len() == 1, "nobody sleeps before all has ended");
    let is_broken = driver.post(Tag(5), page) == Err(Refused::Broken);
    // A device that is broken is cut off before anybody uses the memory again.
    assert_eq!(is_broken, !machine.is_master());
    assert_eq!(is_broken, machine.device().status == 0);
    if is_broken {
        let sent = driver.send(Tag(6), &short, &Offload::default());
        assert_eq!(sent, Err(Refused::Broken));
        assert!(!driver.read_link());
        driver.commit();
        assert_eq!(machine.device().doorbells, doorbells);
        assert!(driver.may_sleep() && driver.take().is_none());
    }
    (ended, is_broken)
}

/// The end of all that the device of [`answer`] has, but for the first pages.
fn all_broken(from: u32) -> Vec<Event> {
    let sent = Event::Sent {
        tag: Tag(0),
        result: Err(Failed::Broken),
    };
    let pages = (from..5).map(|tag| Event::Returned(Tag(tag)));
    std::iter::once(sent).chain(pages).collect()
}

/// Has the first page answered with a header and a frame, and so many bytes said to be written.
fn say(nic: &mut Nic, header: Header, frame: usize, written: u32) {
    let chain = nic.remove(RECEIVING, 0);
    nic.fill(&chain, &[&header[..], &vec![0; frame]].concat());
    nic.push(RECEIVING, chain.head.into(), written);
}

/// The header of a frame in so many pages.
fn pages(count: u16) -> Header {
    let [low, high] = count.to_le_bytes();
    [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, low, high]
}

#[test]
fn a_device_that_answers_wrongly_is_broken() {
    type Answer<'a> = (&'a str, &'a dyn Fn(&mut Nic));
    const WHOLE: u64 = FEATURES;
    const NO_CHECKSUM: u64 = FEATURES & !GUEST_CHECKSUM;
    let both: [Answer<'_>; 12] = [
        ("sent what is not there", &|nic| nic.push(SENDING, 256, 0)),
        ("sent what was not given", &|nic| nic.push(SENDING, 77, 0)),
        ("far away", &|nic| nic.push(RECEIVING, u32::MAX, 72)),
        ("received where nothing was posted", &|nic| {
            nic.push(RECEIVING, 200, 72);
        }),
        ("an index that goes too far", &|nic| {
            nic.bus.write(BusAddress(nic.used_ring(SENDING) + 2), &[2, 0]);
        }),
        ("an index that goes back", &|nic| {
            nic.bus
                .write(BusAddress(nic.used_ring(RECEIVING) + 2), &[0xff, 0xff]);
        }),
        ("nothing", &|nic| say(nic, pages(1), 0, 0)),
        ("less than a header", &|nic| say(nic, pages(1), 60, 11)),
        ("more than there is room for", &|nic| {
            say(nic, pages(1), 60, 12 + 4097);
        }),
        ("a checksum out of the frame", &|nic| {
            say(nic, [1, 0, 0, 0, 0, 0, 34, 0, 25, 0, 1, 0], 60, 72);
        }),
        ("of no known kind", &|nic| {
            say(nic, [1, 3, 0, 0, 9, 0, 34, 0, 16, 0, 1, 0], 60, 72);
        }),
        ("put together of nothing", &|nic| {
            say(nic, [1, 1, 0, 0, 0, 0, 34, 0, 16, 0, 1, 0], 60, 72);
        }),
    ];
    for receive in [Receive::Single, Receive::Large] {
        for (what, wrong) in both {
            let (mut ended, is_broken) = answer(WHOLE, receive, wrong);
            ended.sort_by_key(key);
            assert_eq!((ended, is_broken), (all_broken(1), true), "{what} {receive:?}");
        }
    }
    // What was not agreed on, and frames in more pages than there can be.
    let header = [1, 0, 0, 0, 0, 0, 34, 0, 16, 0, 1, 0];
    let large = [1, 1, 0, 0, 9, 0, 34, 0, 16, 0, 1, 0];
    for (features, receive, header) in [
        (NO_CHECKSUM, Receive::Single, header),
        (FEATURES, Receive::Single, large),
        (FEATURES, Receive::Large, pages(0)),
        (FEATURES, Receive::Large, pages(5)),
        (FEATURES, Receive::Large, pages(u16::MAX)),
    ] {
        let (mut ended, is_broken) = answer(features, receive, |nic| say(nic, header, 60, 72));
        ended.sort_by_key(key);
        assert_eq!((ended, is_broken), (all_broken(1), true), "{header:?}");
    }
    // The same twice: the first time it was right.
    let (mut ended, is_broken) = answer(FEATURES, Receive::Single, |nic| {
        let head = nic.pending.iter().find(|chain| chain.queue == RECEIVING);
        let head = head.unwrap().head;
        nic.receive(0, Header::default(), &[0; 60]);
        nic.push(RECEIVING, head.into(), 72);
    });
    assert_eq!(ended.remove(0), received(1, 60));
    ended.sort_by_key(key);
    assert_eq!((ended, is_broken), (all_broken(2), true));
    // A frame that breaks off: its first page is told of, and that it goes on.
    let (mut ended, is_broken) = answer(FEATURES, Receive::Large, |nic| {
        say(nic, pages(2), 4084, 4096);
        nic.push(RECEIVING, 1, 0);
    });
    let Event::Received(first) = ended.remove(0) else {
        panic!("the first page is received");
    };
    assert!(first.has_more);
    ended.sort_by_key(key);
    assert_eq!((ended, is_broken), (all_broken(2), true));
}

/// Frames that were sent first, then by tag.
fn key(event: &Event) -> (bool, Tag) {
    match *event {
        Event::Sent { tag, .. } => (false, tag),
        Event::Received(Received { tag, .. }) | Event::Returned(tag) => (true, tag),
    }
}

#[test]
fn a_device_that_cannot_go_on_is_noticed_when_it_wakes() {
    let (ended, is_broken) = answer(FEATURES, Receive::Single, |nic| nic.status |= 0x40);
    assert_eq!((ended, is_broken), (all_broken(1), true));
    // Who did not sleep does not ask the device: a read takes its time.
    let (machine, mut driver) = started(FEATURES, Receive::Single);
    machine.device().status |= 0x40;
    assert!(driver.take().is_none() && machine.is_master());
    assert!(driver.may_sleep());
    assert!(driver.take().is_none() && !machine.is_master());
}

#[test]
fn a_device_that_cannot_be_driven_is_left_reset_and_without_memory() {
    type SetUp<'a> = (StartError, &'a dyn Fn(&mut Nic));
    let setups: [SetUp<'_>; 12] = [
        (StartError::Stuck, &|nic| nic.never_resets = true),
        (StartError::Features, &|nic| nic.refuses_features = true),
        (StartError::Features, &|nic| nic.offered = MAC),
        (StartError::Queue, &|nic| nic.max_size = 0),
        (StartError::Queue, &|nic| nic.max_size = 100),
        (StartError::Queue, &|nic| {
            nic.offered &= !INDIRECT;
            nic.max_size = 1;
        }),
        (StartError::Interrupt, &|nic| nic.refuses_vector = true),
        (StartError::Identity, &|nic| nic.offered &= !MAC),
        (StartError::Identity, &|nic| nic.generation_runs = true),
        (StartError::Identity, &|nic| nic.config[0] |= 1),
        (StartError::Identity, &|nic| nic.config[..6].fill(0)),
        (StartError::Identity, &|nic| {
            nic.offered |= MTU;
            nic.config[10..].copy_from_slice(&[67, 0]);
        }),
    ];
    for (n, (error, set_up)) in setups.into_iter().enumerate() {
        let machine = Machine::new();
        set_up(&mut machine.device());
        assert_eq!(start(&machine, Receive::Large).err(), Some(error), "{n}");
        assert!(!machine.is_master(), "{n}");
        assert_eq!(machine.bus.pieces(), 0, "{n}");
        assert!(error == StartError::Stuck || machine.device().status == 0);
    }
    // Two queues, and the slots of both.
    for limit in 0..2 + 4 + 32 {
        let machine = Machine::new();
        machine.bus.limit(limit);
        let denied = StartError::Denied(Denied::Memory);
        assert_eq!(start(&machine, Receive::Single).err(), Some(denied), "{limit}");
        assert_eq!(machine.bus.pieces(), 0, "{limit}");
    }
}

#[test]
fn a_driver_that_is_dropped_leaves_a_device_that_the_next_one_drives() {
    let machine = Machine::new();
    for round in 1..4 {
        let mut driver = start(&machine, Receive::Large).unwrap();
        assert!(machine.is_master());
        post(&machine, &mut driver, 3);
        drop(driver);
        assert!(!machine.is_master());
        assert_eq!(machine.device().status, 0);
        assert_eq!(machine.bus.pieces(), 3 * round);
    }
}

/// What driver, back-end and device do, one after the other.
#[derive(Clone, Debug)]
enum Step {
    Send(usize),
    Post,
    Commit,
    Transmit(usize),
    Receive(usize, usize),
    Take,
    Sleep,
    /// The device writes anything to a ring that is its own.
    Poke(usize, u16, u16),
    Push(usize, u32, u32),
    /// The device answers a page with any header.
    Say(Header, u32),
}

fn steps(is_hostile: bool) -> impl Strategy<Value = Vec<Step>> {
    let good = prop_oneof![
        3 => (1..20_usize).prop_map(Step::Send),
        4 => Just(Step::Post),
        2 => Just(Step::Commit),
        3 => any::<usize>().prop_map(Step::Transmit),
        3 => (any::<usize>(), 0..9000_usize).prop_map(|(n, bytes)| Step::Receive(n, bytes)),
        4 => Just(Step::Take),
        1 => Just(Step::Sleep),
    ];
    let hostile = prop_oneof![
        (0..2_usize, 0..600_u16, any::<u16>()).prop_map(|(queue, at, value)| Step::Poke(queue, at, value)),
        (0..2_usize, 0..260_u32, 0..5000_u32).prop_map(|(queue, head, bytes)| Step::Push(queue, head, bytes)),
        (any::<Header>(), 0..5000_u32).prop_map(|(header, bytes)| Step::Say(header, bytes)),
    ];
    let step = prop_oneof![20 => good, u32::from(is_hostile) => hostile];
    prop::collection::vec(step, 0..300)
}

/// Does the steps; says whether the device is broken in the end, and how all has ended, each once.
fn play(features: u64, receive: Receive, is_hostile: bool, steps: Vec<Step>) -> (bool, Vec<Event>) {
    let (machine, mut driver) = started(features, receive);
    machine.device().is_hostile = is_hostile;
    let front = u32::from(driver.info().front);
    let max = if front == 0 { 4096 } else { 9000 };
    let page = Segment {
        bytes: 4096 - front,
        ..machine.pages(1)[0]
    };
    let part = Segment { bytes: 50, ..page };
    let (mut sent, mut posted, mut events) = (0, 0, Vec::new());
    let given = |result, count: &mut u32| match result {
        Ok(()) => *count += 1,
        Err(refused) => assert_ne!(refused, Refused::Invalid),
    };
    for step in steps {
        match step {
            Step::Send(count) => {
                let segments = vec![part; count];
                given(driver.send(Tag(sent), &segments, &Offload::default()), &mut sent);
            }
            Step::Post => given(driver.post(Tag(posted), page), &mut posted),
            Step::Commit => driver.commit(),
            Step::Transmit(n) => {
                let count = machine.device().has(SENDING);
                if count != 0 {
                    machine.device().transmit(n % count);
                }
            }
            Step::Receive(n, bytes) => {
                let count = machine.device().has(RECEIVING);
                if count >= 3 {
                    let bytes = vec![0; bytes.min(max)];
                    machine
                        .device()
                        .receive(n % (count - 2), Header::default(), &bytes);
                }
            }
            Step::Take => events.extend(driver.take()),
            Step::Sleep => {
                let _ = driver.may_sleep();
            }
            Step::Poke(queue, at, value) => {
                let ring = machine.device().used_ring(queue);
                machine
                    .bus
                    .write(BusAddress(ring + u64::from(at)), &value.to_le_bytes());
            }
            Step::Push(queue, head, bytes) => machine.device().push(queue, head, bytes),
            Step::Say(header, written) => {
                let count = machine.device().has(RECEIVING);
                if count != 0 {
                    say(&mut machine.device(), header, 60, written);
                }
            }
        }
    }
    driver.commit();
    events.extend(taken(&mut driver));
    let keys: BTreeSet<_> = events.iter().map(key).collect();
    assert_eq!(keys.len(), events.len(), "everything ends once");
    let is_given = |(is_page, tag): &(bool, Tag)| tag.0 < if *is_page { posted } else { sent };
    assert!(keys.iter().all(is_given));
    let is_broken = driver.post(Tag(u32::MAX), page) == Err(Refused::Broken);
    if is_broken {
        assert_eq!(events.len(), (sent + posted) as usize, "everything ends");
    }
    (is_broken, events)
}

proptest! {
    #[test]
    fn a_good_device_is_never_broken(mode in 0..4_usize, is_large: bool, steps in steps(false)) {
        let receive = if is_large { Receive::Large } else { Receive::Single };
        let (is_broken, events) = play(MODES[mode], receive, false, steps);
        prop_assert!(!is_broken);
        // Frames are whole, or all that was received of one is still to come.
        let last = events.iter().rev().find_map(|event| match event {
            Event::Received(received) => Some(received.has_more),
            Event::Sent { .. } | Event::Returned(_) => None,
        });
        prop_assert_ne!(last, Some(true));
    }

    #[test]
    fn whatever_a_device_writes_everything_ends_at_most_once(
        mode in 0..4_usize,
        is_large: bool,
        steps in steps(true),
    ) {
        let receive = if is_large { Receive::Large } else { Receive::Single };
        play(MODES[mode], receive, true, steps);
    }

    #[test]
    fn whatever_a_device_says_of_itself_it_is_driven_or_not(
        config in prop::collection::vec(any::<u8>(), 12),
        offered in any::<u64>(),
        max_size in any::<u16>(),
        notify_place in any::<u16>(),
    ) {
        let machine = Machine::new();
        {
            let mut nic = machine.device();
            (nic.config, nic.offered) = (config, offered | VERSION_1);
            (nic.max_size, nic.notify_place) = (max_size, notify_place);
        }
        if let Ok(mut driver) = start(&machine, Receive::Large) {
            let info = *driver.info();
            prop_assert!(info.mtu >= 68 && info.mac[0] & 1 == 0);
            let segment = Segment { bytes: 4084, ..machine.pages(1)[0] };
            let _ = driver.post(Tag(0), segment);
            let _ = driver.send(Tag(0), &[Segment { bytes: 60, ..segment }], &Offload::default());
        }
    }
}
