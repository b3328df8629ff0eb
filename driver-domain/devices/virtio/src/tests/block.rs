//! The driver of disks against a simulated one, as it should be and as it should not.

use std::collections::BTreeSet;

use bulkhead_devices::BusAddress;
use bulkhead_devices::disk::{Completion, Discard, Disk as _, Failed, Operation, Refused, Segment, Tag};
use bulkhead_devices::function::{Denied, Function};
use bulkhead_devices::testing::{FakeClock, FakeFunction, run};
use proptest::prelude::*;

use super::device::{self, EVENT_INDEX, INDIRECT, Virtio};
use super::disk::{self, FEATURES, SECTORS, pattern};
use crate::{Block, StartError, drives};

type Disk = Virtio<disk::Disk>;
type Machine = device::Machine<disk::Disk>;
type Driver = Block<FakeFunction<Disk>>;

/// With and without tables, and event indices.
const MODES: [u64; 4] = [
    FEATURES,
    FEATURES & !INDIRECT,
    FEATURES & !EVENT_INDEX,
    FEATURES & !INDIRECT & !EVENT_INDEX,
];

fn start(machine: &Machine) -> Result<Driver, StartError> {
    run(Block::start(machine.function(), &FakeClock::default()))
}

fn started(features: u64) -> (Machine, Driver) {
    let machine = Machine::new();
    machine.device().offered = features;
    let driver = start(&machine).unwrap();
    (machine, driver)
}

fn taken(driver: &mut Driver) -> Vec<Completion> {
    std::iter::from_fn(|| driver.take()).collect()
}

fn done(tag: u32) -> Completion {
    Completion {
        tag: Tag(tag),
        result: Ok(()),
    }
}

fn failed(tag: u32, why: Failed) -> Completion {
    Completion {
        tag: Tag(tag),
        result: Err(why),
    }
}

#[test]
fn the_disk_is_as_its_configuration_says() {
    let (machine, driver) = started(FEATURES);
    assert!(drives(machine.function().info()));
    let geometry = *driver.geometry();
    assert_eq!(geometry.sectors, SECTORS);
    assert_eq!((geometry.logical_block, geometry.physical_block), (512, 4096));
    assert!(geometry.write_cache && !geometry.read_only);
    let discard = Discard {
        max_sectors: 2048,
        granularity: 8,
    };
    assert_eq!(geometry.discard, Some(discard));
    assert_eq!((geometry.max_segments, geometry.max_sectors), (59, 59 * 8));
    assert_eq!(geometry.depth, 128);
    let (_, driver) = started(1 << 32 | 1 << 5);
    let geometry = *driver.geometry();
    assert!(!geometry.write_cache && geometry.read_only && geometry.discard.is_none());
    assert_eq!((geometry.max_segments, geometry.depth), (1, 85));
}

#[test]
fn what_is_written_is_read_again() {
    for features in MODES {
        let (machine, mut driver) = started(features);
        let pages = machine.pages(3);
        let half = Segment {
            address: BusAddress(pages[2].address.0 + 512),
            bytes: 1024,
        };
        let segments = [pages[0], pages[1], half];
        driver.submit(Tag(7), Operation::Read(40, &segments)).unwrap();
        driver.commit();
        machine.device().complete(0);
        assert_eq!(taken(&mut driver), [done(7)], "{features:#x}");
        let mut at = 40 * 512;
        for Segment { address, bytes } in segments {
            let mut read = vec![0; bytes.try_into().unwrap()];
            machine.bus.copy_out(address, &mut read);
            assert!(read.iter().copied().eq((at..).take(read.len()).map(pattern)));
            at += u64::from(bytes);
        }
        driver.submit(Tag(1), Operation::Write(1000, &segments)).unwrap();
        driver.submit(Tag(2), Operation::Flush).unwrap();
        driver.submit(Tag(3), Operation::Discard(8, 16)).unwrap();
        assert!(driver.take().is_none(), "nothing is told before the commit");
        driver.commit();
        machine.device().work();
        assert_eq!(taken(&mut driver), [done(1), done(2), done(3)]);
        let disk = machine.device();
        assert_eq!(
            disk.kind.content[1000 * 512..][..9216],
            disk.kind.content[40 * 512..][..9216]
        );
        assert_eq!(
            (disk.kind.flushes, &disk.kind.discarded[..]),
            (1, &[(8, 16, 0)][..])
        );
    }
}

#[test]
fn requests_that_the_disk_cannot_take_are_refused_and_change_nothing() {
    let (machine, mut driver) = started(FEATURES | 1 << 5);
    let page = machine.pages(1)[0];
    for operation in [
        Operation::Write(0, &[page]),
        Operation::Read(SECTORS - 1, &[page]),
        Operation::Read(0, &[]),
        Operation::Discard(0, 8),
    ] {
        assert_eq!(driver.submit(Tag(0), operation), Err(Refused::Invalid));
    }
    driver.commit();
    assert_eq!(machine.device().doorbells, 0);
    assert!(driver.may_sleep());
}

#[test]
fn a_disk_without_a_cache_need_not_flush() {
    let (machine, mut driver) = started(1 << 32 | INDIRECT);
    driver.submit(Tag(9), Operation::Flush).unwrap();
    driver.commit();
    assert!(!driver.may_sleep());
    assert_eq!(taken(&mut driver), [done(9)]);
    assert_eq!(machine.device().doorbells, 0);
    for n in 0..128 {
        driver.submit(Tag(n), Operation::Flush).unwrap();
    }
    assert_eq!(driver.submit(Tag(128), Operation::Flush), Err(Refused::Full));
}

#[test]
fn the_queue_is_filled_to_the_last_and_answered_in_any_order() {
    for features in MODES {
        let (machine, mut driver) = started(features);
        let pages = machine.pages(256);
        let depth = usize::from(driver.geometry().depth);
        for round in 0..3 {
            for (n, page) in (0..).zip(&pages[..depth]) {
                let sector = 8 * u64::from(n);
                driver.submit(Tag(n), Operation::Read(sector, &[*page])).unwrap();
            }
            let next = Operation::Read(0, &pages[..1]);
            assert_eq!(driver.submit(Tag(999), next), Err(Refused::Full), "{features:#x}");
            driver.commit();
            let mut order = Vec::new();
            while !machine.device().pending.is_empty() {
                let n = (order.len() * 7 + round) % machine.device().pending.len();
                machine.device().complete(n);
                order.extend(driver.take());
            }
            assert_eq!(driver.take(), None);
            assert_ne!(order[..3], [done(0), done(1), done(2)]);
            let tags: BTreeSet<_> = order.iter().map(|completion| completion.tag).collect();
            assert_eq!((tags.len(), order.len()), (depth, depth));
            assert!(order.iter().all(|completion| completion.result.is_ok()));
            for (n, page) in (0..).zip(&pages[..depth]) {
                let read: [u8; 1] = machine.bus.read(page.address);
                assert_eq!(read[0], pattern(n * 4096));
            }
        }
    }
}

#[test]
fn large_requests_do_not_shorten_a_queue_of_tables() {
    let (machine, mut driver) = started(FEATURES);
    let pages = machine.pages(59);
    for n in 0..128 {
        driver.submit(Tag(n), Operation::Read(0, &pages)).unwrap();
    }
    driver.commit();
    machine.device().work();
    assert_eq!(taken(&mut driver).len(), 128);
    // Without tables they do, and none is lost.
    let (machine, mut driver) = started(FEATURES & !INDIRECT);
    let pages = machine.pages(254);
    driver.submit(Tag(0), Operation::Read(0, &pages)).unwrap();
    let one = Operation::Read(0, &pages[..1]);
    assert_eq!(driver.submit(Tag(1), one), Err(Refused::Full));
    driver.commit();
    machine.device().work();
    assert_eq!(taken(&mut driver), [done(0)]);
    for n in 0..85 {
        driver.submit(Tag(n), Operation::Read(0, &pages[..1])).unwrap();
    }
}

#[test]
fn indices_wrap_around() {
    for features in MODES {
        let (machine, mut driver) = started(features);
        let page = machine.pages(1)[0];
        let mut tag = 0_u32;
        while tag < 66_000 {
            let batch = 1 + tag % 61;
            for n in 0..batch {
                let first = u64::from((tag + n) % 500) * 8;
                driver
                    .submit(Tag(tag + n), Operation::Read(first, &[page]))
                    .unwrap();
            }
            driver.commit();
            let before = machine.device().interrupts;
            let is_asleep = driver.may_sleep();
            machine.device().work();
            // The first one wakes; with an index, that is all.
            assert!(is_asleep);
            let count = machine.device().interrupts - before;
            let is_quiet = features & EVENT_INDEX == 0 || count == 1;
            assert!(count > 0 && is_quiet, "{features:#x} {tag} {count}");
            let ended = taken(&mut driver);
            assert!(ended.iter().copied().eq((tag..tag + batch).map(done)));
            tag += batch;
        }
    }
}

#[test]
fn a_device_is_told_once_for_all_that_is_committed() {
    for features in MODES {
        let (machine, mut driver) = started(features);
        let page = machine.pages(1)[0];
        for n in 0..20 {
            driver.submit(Tag(n), Operation::Read(0, &[page])).unwrap();
        }
        driver.commit();
        driver.commit();
        assert_eq!(machine.device().doorbells, 1);
        machine.device().work();
        assert_eq!(taken(&mut driver).len(), 20);
        driver.commit();
        assert_eq!(machine.device().doorbells, 1);
    }
}

#[test]
fn a_device_that_looks_by_itself_is_not_told() {
    // By event index: it said so when it last looked.
    let (machine, mut driver) = started(FEATURES);
    let page = machine.pages(1)[0];
    machine.device().is_asleep = true;
    for n in 0..5 {
        driver.submit(Tag(n), Operation::Read(0, &[page])).unwrap();
        driver.commit();
    }
    assert_eq!(machine.device().doorbells, 1);
    machine.device().work();
    driver.submit(Tag(9), Operation::Read(0, &[page])).unwrap();
    driver.commit();
    assert_eq!(machine.device().doorbells, 2);
    // By its flag.
    let (machine, mut driver) = started(FEATURES & !EVENT_INDEX);
    let flags = BusAddress(machine.device().used_ring(0));
    for (flag, doorbells) in [(0_u16, 1), (1, 1), (0, 2)] {
        machine.bus.write(flags, &flag.to_le_bytes());
        driver.submit(Tag(flag.into()), Operation::Flush).unwrap();
        driver.commit();
        assert_eq!(machine.device().doorbells, doorbells);
    }
}

#[test]
fn nobody_sleeps_while_something_is_done() {
    for features in MODES {
        let (machine, mut driver) = started(features);
        driver.submit(Tag(1), Operation::Flush).unwrap();
        driver.submit(Tag(2), Operation::Flush).unwrap();
        driver.commit();
        assert!(driver.may_sleep());
        machine.device().complete(0);
        assert_eq!(machine.device().interrupts, 1);
        assert!(!driver.may_sleep());
        assert_eq!(taken(&mut driver), [done(1)]);
        // Who is awake is not woken.
        let before = machine.device().interrupts;
        machine.device().complete(0);
        assert_eq!(machine.device().interrupts, before);
        assert_eq!(taken(&mut driver), [done(2)]);
        assert!(driver.may_sleep());
    }
}

/// What a device answers to the first of two requests that it has, by a request of a page that it reads.
fn answer(answer: impl FnOnce(&mut Disk)) -> (Vec<Completion>, bool) {
    let (machine, mut driver) = started(FEATURES);
    let pages = machine.pages(1);
    driver.submit(Tag(1), Operation::Read(0, &pages)).unwrap();
    driver.submit(Tag(2), Operation::Read(8, &pages)).unwrap();
    driver.commit();
    driver.submit(Tag(3), Operation::Read(16, &pages)).unwrap();
    assert!(driver.may_sleep());
    answer(&mut machine.device());
    let mut ended = taken(&mut driver);
    ended.sort_by_key(|completion| completion.tag);
    let refused = driver.submit(Tag(4), Operation::Flush) == Err(Refused::Broken);
    // A device that is broken is cut off before anybody uses the memory again.
    assert_eq!(refused, !machine.is_master());
    assert_eq!(refused, machine.device().status == 0);
    if refused {
        driver.commit();
        assert_eq!(machine.device().doorbells, 1);
        assert!(driver.may_sleep());
    }
    (ended, refused)
}

#[test]
fn a_device_that_fails_says_so() {
    for (status, written, why) in [
        (1, 4097, Failed::Device(1)),
        (1, 1, Failed::Device(1)),
        (2, 1, Failed::Unsupported),
        // It says that it is done, and has not written all.
        (0, 4096, Failed::Device(0)),
        (0, 1, Failed::Device(0)),
    ] {
        let (ended, is_broken) = answer(|disk| {
            let chain = disk.pending.remove(0);
            let status_at = chain.buffers.last().unwrap().0;
            disk.bus.write(status_at, &[status]);
            disk.push(0, chain.head.into(), written);
        });
        assert_eq!(
            (&ended[..], is_broken),
            (&[failed(1, why)][..], false),
            "{status}"
        );
    }
}

#[test]
fn a_device_that_answers_wrongly_is_broken() {
    let all = [1, 2, 3].map(|tag| failed(tag, Failed::Broken));
    type Answer<'a> = (&'a str, &'a dyn Fn(&mut Disk));
    let answers: [Answer<'_>; 8] = [
        ("no such descriptor", &|disk| disk.push(0, 128, 4097)),
        ("far away", &|disk| disk.push(0, u32::MAX, 4097)),
        ("not offered", &|disk| disk.push(0, 77, 4097)),
        ("offered, and not committed", &|disk| disk.push(0, 2, 4097)),
        ("more written than there is", &|disk| {
            let chain = disk.pending[0].clone();
            disk.perform(&chain);
            disk.push(0, chain.head.into(), 4098);
        }),
        ("no status", &|disk| {
            let head = disk.pending[0].head;
            disk.push(0, head.into(), 4097);
        }),
        ("an index that goes too far", &|disk| {
            disk.bus.write(BusAddress(disk.used_ring(0) + 2), &[3, 0]);
        }),
        ("an index that goes back", &|disk| {
            disk.bus.write(BusAddress(disk.used_ring(0) + 2), &[0xff, 0xff]);
        }),
    ];
    for (what, wrong) in answers {
        let (ended, is_broken) = answer(wrong);
        assert_eq!((&ended[..], is_broken), (&all[..], true), "{what}");
    }
    // One that it was not told of, and all that it was.
    let (ended, is_broken) = answer(|disk| {
        disk.work();
        disk.foresee(0, 2);
        disk.complete(0);
    });
    assert_eq!((&ended[..], is_broken), (&all[..], true));
    // The same twice: the first time it was right.
    let (ended, is_broken) = answer(|disk| {
        let head = disk.pending[0].head;
        disk.complete(0);
        disk.push(0, head.into(), 4097);
    });
    assert_eq!((&ended[..], is_broken), (&[done(1), all[1], all[2]][..], true));
}

#[test]
fn a_device_that_cannot_go_on_is_noticed_when_it_wakes() {
    let (ended, is_broken) = answer(|disk| disk.status |= 0x40);
    let all = [1, 2, 3].map(|tag| failed(tag, Failed::Broken));
    assert_eq!((&ended[..], is_broken), (&all[..], true));
}

#[test]
fn a_device_that_cannot_be_driven_is_left_reset_and_without_memory() {
    type SetUp<'a> = (StartError, &'a dyn Fn(&Machine));
    let setups: [SetUp<'_>; 15] = [
        (StartError::Stuck, &|machine| machine.device().never_resets = true),
        (StartError::Features, &|machine| {
            machine.device().refuses_features = true
        }),
        (StartError::Features, &|machine| {
            machine.device().offered = INDIRECT
        }),
        (StartError::Queue, &|machine| machine.device().max_size = 0),
        (StartError::Queue, &|machine| machine.device().max_size = 100),
        (StartError::Queue, &|machine| {
            machine.device().offered &= !INDIRECT;
            machine.device().max_size = 2;
        }),
        (StartError::Interrupt, &|machine| {
            machine.device().refuses_vector = true
        }),
        (StartError::NoRegisters, &|machine| {
            machine.device().notify_place = 0xffff
        }),
        (StartError::Geometry, &|machine| {
            machine.device().generation_runs = true
        }),
        (StartError::Geometry, &|machine| {
            machine.device().config[21] = 0x11
        }),
        (StartError::Geometry, &|machine| {
            machine.device().config[7] = 0xff;
        }),
        (StartError::Geometry, &|machine| {
            machine.device().config[24] = 0xff
        }),
        (StartError::Geometry, &|machine| {
            machine.device().offered |= 1 << 1;
            machine.device().config[8] = 200;
        }),
        (StartError::Denied(Denied::Memory), &|machine| {
            machine.bus.limit(0)
        }),
        (StartError::Denied(Denied::Memory), &|machine| {
            machine.bus.limit(20)
        }),
    ];
    for (n, (error, set_up)) in setups.into_iter().enumerate() {
        let machine = Machine::new();
        set_up(&machine);
        assert_eq!(start(&machine).err(), Some(error), "{n}");
        assert!(!machine.is_master(), "{n}");
        assert_eq!(machine.bus.pieces(), 0, "{n}");
        assert!(error == StartError::Stuck || machine.device().status == 0);
    }
}

#[test]
fn a_driver_that_is_dropped_leaves_a_device_that_the_next_one_drives() {
    let machine = Machine::new();
    let pages = machine.pages(1);
    for _ in 0..3 {
        let mut driver = start(&machine).unwrap();
        assert!(machine.is_master());
        driver.submit(Tag(0), Operation::Read(0, &pages)).unwrap();
        driver.commit();
        drop(driver);
        assert!(!machine.is_master());
        assert_eq!(machine.device().status, 0);
        assert_eq!(machine.bus.pieces(), pages.len());
    }
}

/// What driver, back-end and device do, one after the other.
#[derive(Clone, Debug)]
enum Step {
    Submit(u8),
    Commit,
    Complete(u8),
    Take,
    Sleep,
    /// The device writes anything to the ring that is its own, or to the statuses.
    Poke(u16, u16),
    Push(u32, u32),
}

fn steps(is_hostile: bool) -> impl Strategy<Value = Vec<Step>> {
    let good = prop_oneof![
        4 => any::<u8>().prop_map(Step::Submit),
        2 => Just(Step::Commit),
        4 => any::<u8>().prop_map(Step::Complete),
        3 => Just(Step::Take),
        1 => Just(Step::Sleep),
    ];
    let hostile = prop_oneof![
        (0..600_u16, any::<u16>()).prop_map(|(at, value)| Step::Poke(at, value)),
        (0..140_u32, 0..10_000_u32).prop_map(|(head, bytes)| Step::Push(head, bytes)),
    ];
    let step = prop_oneof![20 => good, u32::from(is_hostile) => hostile];
    prop::collection::vec(step, 0..300)
}

/// Does the steps; says how all that was submitted has ended, each once.
fn play(features: u64, is_hostile: bool, steps: Vec<Step>) -> Vec<Completion> {
    let (machine, mut driver) = started(features);
    machine.device().is_hostile = is_hostile;
    let pages = machine.pages(4);
    let (mut submitted, mut ended) = (0, Vec::new());
    for step in steps {
        match step {
            Step::Submit(kind) => {
                let first = u64::from(kind) * 8;
                let operation = match kind % 4 {
                    0 => Operation::Flush,
                    1 => Operation::Discard(first, 8),
                    2 => Operation::Write(first, &pages[..usize::from(kind / 4 % 4) + 1]),
                    _ => Operation::Read(first, &pages[..usize::from(kind / 4 % 4) + 1]),
                };
                match driver.submit(Tag(submitted), operation) {
                    Ok(()) => submitted += 1,
                    Err(refused) => assert_ne!(refused, Refused::Invalid),
                }
            }
            Step::Commit => driver.commit(),
            Step::Complete(n) => {
                let pending = machine.device().pending.len();
                if pending != 0 {
                    machine.device().complete(usize::from(n) % pending);
                }
            }
            Step::Take => ended.extend(driver.take()),
            Step::Sleep => {
                let _ = driver.may_sleep();
            }
            Step::Poke(at, value) => {
                let ring = machine.device().used_ring(0);
                machine
                    .bus
                    .write(BusAddress(ring + u64::from(at)), &value.to_le_bytes());
            }
            Step::Push(head, bytes) => machine.device().push(0, head, bytes),
        }
    }
    driver.commit();
    if machine.device().status != 0 {
        machine.device().work();
    }
    ended.extend(taken(&mut driver));
    let tags: BTreeSet<_> = ended.iter().map(|completion| completion.tag).collect();
    assert_eq!(tags.len(), ended.len(), "a request ends once");
    assert!(tags.iter().all(|tag| tag.0 < submitted));
    let is_broken = driver.submit(Tag(u32::MAX), Operation::Flush) == Err(Refused::Broken);
    let is_good = ended.iter().all(|completion| completion.result.is_ok());
    if is_broken || is_good {
        assert_eq!(tags.len(), usize::try_from(submitted).unwrap());
    }
    ended
}

proptest! {
    #[test]
    fn every_request_of_a_good_device_is_done(mode in 0..4_usize, steps in steps(false)) {
        let ended = play(MODES[mode], false, steps);
        prop_assert!(ended.iter().all(|completion| completion.result.is_ok()));
    }

    #[test]
    fn whatever_a_device_writes_each_request_ends_at_most_once(mode in 0..4_usize, steps in steps(true)) {
        play(MODES[mode], true, steps);
    }

    #[test]
    fn whatever_a_device_says_of_itself_it_is_driven_or_not(
        config in prop::collection::vec(any::<u8>(), 60),
        offered in any::<u64>(),
        max_size in any::<u16>(),
        notify_place in any::<u16>(),
    ) {
        let machine = Machine::new();
        {
            let mut disk = machine.device();
            (disk.config, disk.offered) = (config, offered | 1 << 32);
            (disk.max_size, disk.notify_place) = (max_size, notify_place);
        }
        if let Ok(mut driver) = start(&machine) {
            let geometry = *driver.geometry();
            prop_assert!(geometry.logical_block.is_power_of_two() && geometry.physical_block >= geometry.logical_block);
            prop_assert!(geometry.max_sectors >= geometry.logical_block / 512);
            let page = machine.pages(1);
            let _ = driver.submit(Tag(0), Operation::Read(0, &page));
        }
    }
}
