//! The driver against a simulated controller, as it should be and as it should not.
#![expect(clippy::arithmetic_side_effects, reason = "a test fails by panicking")]

mod device;

use std::cell::RefMut;
use std::collections::BTreeSet;

use bulkhead_devices::BusAddress;
use bulkhead_devices::disk::{Completion, Discard, Disk as _, Failed, Operation, Refused, Segment, Tag};
use bulkhead_devices::function::{Clock, Denied, Function, Interrupt};
use bulkhead_devices::testing::{FakeClock, FakeFunction, run};
use bulkhead_pci::{command, offset};
use proptest::prelude::*;

use crate::{Nvme, StartError, drives};
use device::{Controller, Machine, SECTORS, pattern};

type Driver = Nvme<FakeFunction<Controller>>;

impl Machine {
    fn device(&self) -> RefMut<'_, Controller> {
        self.controller.borrow_mut()
    }

    fn start(&self) -> Result<Driver, StartError> {
        run(Nvme::start(
            self.function(Interrupt::Entry(0)),
            &FakeClock::default(),
        ))
    }

    /// Pages for a request, all apart.
    fn pages(&self, count: usize) -> Vec<Segment> {
        (0..count)
            .map(|_| Segment {
                address: self.bus.add(4096),
                bytes: 4096,
            })
            .collect()
    }

    fn is_master(&self) -> bool {
        self.config.borrow().read(offset::COMMAND) & command::BUS_MASTER != 0
    }

    /// Whether memory holds what a new disk does from a sector on.
    fn holds(&self, sector: u64, segments: &[Segment]) -> bool {
        let mut at = sector * 512;
        segments.iter().all(|segment| {
            let mut read = vec![0; segment.bytes.try_into().unwrap()];
            self.bus.copy_out(segment.address, &mut read);
            let first = at;
            at += u64::from(segment.bytes);
            read.iter().copied().eq((first..at).map(pattern))
        })
    }
}

fn started() -> (Machine, Driver) {
    let machine = Machine::new();
    let driver = machine.start().unwrap();
    (machine, driver)
}

fn part(page: Segment, offset: u64, bytes: u32) -> Segment {
    Segment {
        address: BusAddress(page.address.0 + offset),
        bytes,
    }
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
fn the_disk_is_as_controller_and_namespace_say() {
    let (machine, driver) = started();
    assert!(drives(machine.function(Interrupt::None).info()));
    let geometry = *driver.geometry();
    assert_eq!(geometry.sectors, SECTORS);
    assert_eq!((geometry.logical_block, geometry.physical_block), (512, 4096));
    assert!(geometry.write_cache && !geometry.read_only);
    let discard = Discard {
        max_sectors: 1 << 22,
        granularity: 16,
    };
    assert_eq!(geometry.discard, Some(discard));
    assert_eq!((geometry.max_segments, geometry.max_sectors), (64, 512));
    assert_eq!(geometry.depth, 127);
    let machine = Machine::new();
    {
        let mut device = machine.device();
        device.use_large_blocks();
        (device.identity[77], device.identity[520], device.identity[525]) = (2, 0, 0);
        (device.namespace[99], device.capabilities) = (1, device.capabilities & !0xffff | 15);
        device.active = [3, 0];
    }
    let geometry = *machine.start().unwrap().geometry();
    assert_eq!(geometry.sectors, SECTORS);
    assert_eq!((geometry.logical_block, geometry.physical_block), (4096, 4096));
    assert!(!geometry.write_cache && geometry.read_only && geometry.discard.is_none());
    assert_eq!((geometry.max_segments, geometry.max_sectors), (15, 32));
    assert_eq!(geometry.depth, 15);
}

#[test]
fn a_format_may_have_a_large_number() {
    let machine = Machine::new();
    {
        let mut device = machine.device();
        (device.namespace[25], device.namespace[26]) = (20, 0x20);
        device.namespace[128 + 16 * 4 + 2] = 11;
    }
    assert_eq!(machine.start().unwrap().geometry().logical_block, 2048);
}

#[test]
fn what_is_written_is_read_again() {
    let (machine, mut driver) = started();
    let pages = machine.pages(64);
    for (count, tag) in [1_usize, 2, 3, 5, 64].into_iter().zip(0..) {
        driver
            .submit(Tag(tag), Operation::Read(40, &pages[..count]))
            .unwrap();
        driver.commit();
        assert_eq!(machine.device().pending.len(), 1);
        machine.device().work();
        assert_eq!(taken(&mut driver), [done(tag)]);
        assert!(machine.holds(40, &pages[..count]), "{count}");
    }
    driver.submit(Tag(1), Operation::Write(1000, &pages)).unwrap();
    driver.submit(Tag(2), Operation::Flush).unwrap();
    driver.submit(Tag(3), Operation::Discard(8, 16)).unwrap();
    assert!(
        machine.device().pending.is_empty(),
        "nothing is told before the commit"
    );
    driver.commit();
    machine.device().work();
    assert_eq!(taken(&mut driver), [done(1), done(2), done(3)]);
    let device = machine.device();
    let bytes = 64 * 4096;
    assert_eq!(
        device.content[1000 * 512..][..bytes],
        device.content[40 * 512..][..bytes]
    );
    assert_eq!((device.flushes, &device.discarded[..]), (1, &[(8, 16)][..]));
}

#[test]
fn blocks_of_a_page_are_counted_as_such() {
    let machine = Machine::new();
    machine.device().use_large_blocks();
    let mut driver = machine.start().unwrap();
    let pages = machine.pages(3);
    // Shifted within the pages, and still one piece for the device.
    let shifted = [part(pages[0], 512, 3584), pages[1], part(pages[2], 0, 512)];
    driver.submit(Tag(1), Operation::Read(800, &shifted)).unwrap();
    driver.submit(Tag(2), Operation::Discard(8, 80)).unwrap();
    driver.commit();
    machine.device().work();
    assert_eq!(taken(&mut driver), [done(1), done(2)]);
    assert!(machine.holds(800, &shifted));
    assert_eq!(machine.device().discarded, [(1, 10)]);
    // Cut within a block: no command can say so.
    let cut = [part(pages[0], 0, 2048), part(pages[1], 0, 2048)];
    assert_eq!(
        driver.submit(Tag(3), Operation::Read(800, &cut)),
        Err(Refused::Invalid)
    );
    let apart = [pages[0], part(pages[1], 0, 2048), part(pages[1], 2048, 2048)];
    assert_eq!(
        driver.submit(Tag(3), Operation::Read(800, &apart)),
        Err(Refused::Invalid)
    );
}

#[test]
fn a_request_with_gaps_is_several_commands_and_ends_once() {
    let (machine, mut driver) = started();
    let pages = machine.pages(4);
    let segments = [
        part(pages[0], 0, 512),
        part(pages[1], 0, 4096),
        part(pages[2], 1024, 1024),
        part(pages[3], 512, 3584),
    ];
    for order in [[0, 0, 0, 0], [3, 2, 1, 0], [1, 2, 0, 0]] {
        driver.submit(Tag(5), Operation::Read(77, &segments)).unwrap();
        driver.commit();
        assert_eq!(machine.device().pending.len(), 4);
        for n in order {
            assert_eq!(driver.take(), None);
            machine.device().complete(n);
        }
        assert_eq!(taken(&mut driver), [done(5)]);
        assert!(machine.holds(77, &segments));
    }
    // What the first to fail came to is what all come to.
    driver.submit(Tag(6), Operation::Read(77, &segments)).unwrap();
    driver.commit();
    for (n, status) in [(2, 0), (1, 0x281), (1, 0x80), (0, 0)] {
        let command = machine.device().pending.remove(n);
        machine.device().answer(1, command.id, status, 0);
    }
    assert_eq!(taken(&mut driver), [failed(6, Failed::Device(0x281))]);
}

#[test]
fn the_queue_is_filled_to_the_last_and_answered_in_any_order() {
    let (machine, mut driver) = started();
    let pages = machine.pages(127);
    for round in 0..5 {
        for (n, page) in (0..).zip(&pages) {
            let first = u64::from(n) * 8;
            driver.submit(Tag(n), Operation::Read(first, &[*page])).unwrap();
        }
        assert_eq!(
            driver.submit(Tag(999), Operation::Read(0, &pages[..1])),
            Err(Refused::Full)
        );
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
        assert_eq!((tags.len(), order.len()), (127, 127));
        assert!(order.iter().all(|completion| completion.result.is_ok()));
    }
    // Each has a list of its own.
    for (n, pages) in (0..).zip(pages.chunks_exact(6)) {
        driver
            .submit(Tag(n), Operation::Read(u64::from(n) * 100, pages))
            .unwrap();
    }
    driver.commit();
    machine.device().work();
    assert_eq!(taken(&mut driver).len(), 21);
    for (n, pages) in (0..).zip(pages.chunks_exact(6)) {
        assert!(machine.holds(n * 100, pages), "{n}");
    }
    // Requests of several commands fill it sooner, and none is left half asked for.
    let gaps: Vec<_> = pages[..50].iter().map(|page| part(*page, 0, 512)).collect();
    driver.submit(Tag(0), Operation::Read(0, &gaps)).unwrap();
    driver.submit(Tag(1), Operation::Read(0, &gaps)).unwrap();
    assert_eq!(
        driver.submit(Tag(2), Operation::Read(0, &gaps)),
        Err(Refused::Full)
    );
    driver.submit(Tag(2), Operation::Read(0, &gaps[..27])).unwrap();
    driver.commit();
    machine.device().work();
    assert_eq!(taken(&mut driver), [done(0), done(1), done(2)]);
}

#[test]
fn places_and_phases_wrap_around() {
    for places in [2, 3, 128, 1024] {
        let machine = Machine::new();
        {
            let mut device = machine.device();
            device.capabilities = device.capabilities & !0xffff | (places - 1);
        }
        let mut driver = machine.start().unwrap();
        let depth = u32::from(driver.geometry().depth);
        assert_eq!(u64::from(depth), places.min(128) - 1);
        let page = machine.pages(1)[0];
        let (mut tag, mut laps) = (0, 0);
        while laps < 10 {
            let batch = 1 + tag % depth;
            for n in tag..tag + batch {
                let first = u64::from(n % 500) * 8;
                driver.submit(Tag(n), Operation::Read(first, &[page])).unwrap();
            }
            driver.commit();
            assert!(driver.may_sleep());
            machine.device().work();
            assert!(!driver.may_sleep());
            let ended = taken(&mut driver);
            assert!(ended.iter().copied().eq((tag..tag + batch).map(done)));
            tag += batch;
            laps = tag / u32::from(machine.device().size());
        }
    }
}

#[test]
fn the_controller_is_told_once_for_all_that_is_committed_and_taken() {
    let (machine, mut driver) = started();
    let page = machine.pages(1)[0];
    for n in 0..20 {
        driver.submit(Tag(n), Operation::Read(0, &[page])).unwrap();
    }
    driver.commit();
    driver.commit();
    assert_eq!(machine.device().told, 1);
    machine.device().work();
    assert_eq!(machine.device().interrupts, 20);
    assert_eq!(taken(&mut driver).len(), 20);
    assert_eq!(driver.take(), None);
    driver.commit();
    let device = machine.device();
    assert_eq!((device.told, device.given_back), (1, 1));
}

#[test]
fn who_has_no_interrupt_looks_by_himself() {
    let machine = Machine::new();
    let mut driver = run(Nvme::start(
        machine.function(Interrupt::None),
        &FakeClock::default(),
    ))
    .unwrap();
    driver.submit(Tag(1), Operation::Flush).unwrap();
    driver.commit();
    machine.device().work();
    assert_eq!(machine.device().interrupts, 0);
    assert_eq!(taken(&mut driver), [done(1)]);
}

#[test]
fn a_disk_without_a_cache_need_not_flush() {
    let machine = Machine::new();
    machine.device().identity[525] = 0;
    let mut driver = machine.start().unwrap();
    for n in 0..127 {
        driver.submit(Tag(n), Operation::Flush).unwrap();
    }
    assert_eq!(driver.submit(Tag(127), Operation::Flush), Err(Refused::Full));
    assert!(!driver.may_sleep());
    assert_eq!(taken(&mut driver).len(), 127);
    driver.commit();
    assert_eq!(machine.device().told, 0);
}

#[test]
fn requests_that_the_disk_cannot_take_are_refused_and_change_nothing() {
    let machine = Machine::new();
    machine.device().namespace[99] = 1;
    let mut driver = machine.start().unwrap();
    let page = machine.pages(1)[0];
    for operation in [
        Operation::Write(0, &[page]),
        Operation::Read(SECTORS - 1, &[page]),
        Operation::Read(0, &[]),
        Operation::Read(0, &[page; 65]),
        Operation::Discard(0, 8),
    ] {
        assert_eq!(driver.submit(Tag(0), operation), Err(Refused::Invalid));
    }
    driver.commit();
    assert_eq!(machine.device().told, 0);
}

/// What comes of three requests of which the controller was told of two, after it has said something.
fn answer(answer: impl FnOnce(&mut Controller)) -> (Vec<Completion>, bool) {
    let (machine, mut driver) = started();
    let pages = machine.pages(1);
    driver.submit(Tag(1), Operation::Read(0, &pages)).unwrap();
    driver.submit(Tag(2), Operation::Read(8, &pages)).unwrap();
    driver.commit();
    driver.submit(Tag(3), Operation::Read(16, &pages)).unwrap();
    assert!(driver.may_sleep());
    answer(&mut machine.device());
    let mut ended = taken(&mut driver);
    ended.sort_by_key(|completion| completion.tag);
    let is_broken = driver.submit(Tag(4), Operation::Flush) == Err(Refused::Broken);
    // A device that is broken is cut off before anybody uses the memory again.
    assert_eq!(is_broken, !machine.is_master());
    assert_eq!(is_broken, machine.device().config == 0);
    if is_broken {
        driver.commit();
        assert_eq!(machine.device().told, 1);
        assert!(driver.may_sleep());
    }
    (ended, is_broken)
}

#[test]
fn a_disk_that_fails_says_so() {
    for (status, why) in [
        (0x281, Failed::Device(0x281)),
        (0x4002, Failed::Device(2)),
        (1, Failed::Unsupported),
    ] {
        let (ended, is_broken) = answer(|device| {
            let id = device.pending[0].id;
            device.answer(1, id, status, 0);
        });
        assert_eq!((&ended[..], is_broken), (&[failed(1, why)][..], false));
    }
}

#[test]
fn a_controller_that_answers_wrongly_is_broken() {
    let broken = [1, 2, 3].map(|tag| failed(tag, Failed::Broken));
    for id in [3, 126, 127, 128, 0xffff] {
        let (ended, is_broken) = answer(|device| device.answer(1, id, 0, 0));
        assert_eq!((&ended[..], is_broken), (&broken[..], true), "{id}");
    }
    // Twice the same: the first time it was right.
    let (ended, is_broken) = answer(|device| {
        let id = device.pending[0].id;
        device.complete(0);
        device.answer(1, id, 0, 0);
    });
    assert_eq!(
        (&ended[..], is_broken),
        (&[done(1), broken[1], broken[2]][..], true)
    );
    // One more than it was told of.
    let (ended, is_broken) = answer(|device| {
        device.work();
        device.answer(1, 2, 0, 0);
    });
    assert_eq!(
        (&ended[..], is_broken),
        (&[done(1), done(2), broken[2]][..], true)
    );
    // It says that it cannot go on, or is gone.
    for status in [2, u32::MAX] {
        let (ended, is_broken) = answer(|device| device.status |= status);
        assert_eq!((&ended[..], is_broken), (&broken[..], true));
    }
}

#[test]
fn a_controller_that_cannot_be_driven_is_left_reset_and_without_memory() {
    type SetUp<'a> = (StartError, &'a dyn Fn(&Machine));
    let setups: [SetUp<'_>; 22] = [
        (StartError::Unsupported, &|machine| {
            machine.device().capabilities = u64::MAX
        }),
        (StartError::Unsupported, &|machine| {
            machine.device().capabilities &= !(1 << 37)
        }),
        (StartError::Unsupported, &|machine| {
            machine.device().capabilities |= 1 << 48
        }),
        (StartError::Unsupported, &|machine| {
            machine.device().capabilities &= !0xffff
        }),
        (StartError::Unsupported, &|machine| {
            machine.device().identity[512] = 0x77
        }),
        (StartError::Stuck, &|machine| machine.device().delay = u32::MAX),
        (StartError::Stuck, &|machine| machine.device().status = 2),
        (StartError::Silent(6), &|machine| {
            machine.device().ignores = Some(6)
        }),
        (StartError::Silent(1), &|machine| {
            machine.device().ignores = Some(1)
        }),
        (StartError::Refused(5, 0x102), &|machine| {
            machine.device().refuses.push((5, 0x102))
        }),
        (StartError::Refused(9, 2), &|machine| {
            machine.device().refuses.push((9, 2))
        }),
        (StartError::Refused(6, 2), &|machine| {
            machine.device().refuses.push((6, 2))
        }),
        (StartError::Nonsense, &|machine| machine.device().lies = true),
        (StartError::NoDisk, &|machine| machine.device().active = [0, 0]),
        (StartError::NoDisk, &|machine| {
            machine.device().namespace[..8].fill(0)
        }),
        (StartError::NoDisk, &|machine| {
            machine.device().namespace[..8].fill(0xff)
        }),
        (StartError::NoDisk, &|machine| machine.device().namespace[130] = 8),
        (StartError::NoDisk, &|machine| {
            machine.device().namespace[130] = 255
        }),
        (StartError::NoDisk, &|machine| machine.device().namespace[128] = 8),
        (StartError::NoDisk, &|machine| machine.device().namespace[26] = 2),
        (StartError::Denied(Denied::Memory), &|machine| {
            machine.bus.limit(1)
        }),
        (StartError::Denied(Denied::Memory), &|machine| {
            machine.bus.limit(9)
        }),
    ];
    for (n, (error, set_up)) in setups.into_iter().enumerate() {
        let machine = Machine::new();
        set_up(&machine);
        let clock = FakeClock::default();
        let started = run(Nvme::start(machine.function(Interrupt::Entry(0)), &clock));
        assert_eq!(started.err(), Some(error), "{n}");
        assert!(!machine.is_master(), "{n}");
        assert_eq!(machine.bus.pieces(), 0, "{n}");
        assert!(
            clock.now() < std::time::Duration::from_secs(12),
            "{n}: {:?}",
            clock.now()
        );
    }
}

#[test]
fn a_controller_has_the_time_that_it_says_to_get_ready() {
    let machine = Machine::new();
    // At a question every 100 microseconds: half a second.
    machine.device().delay = 5000;
    assert!(machine.start().is_ok());
    let machine = Machine::new();
    machine.device().delay = 10_500;
    assert_eq!(machine.start().err(), Some(StartError::Stuck));
}

#[test]
fn a_driver_that_is_dropped_leaves_a_controller_that_the_next_one_drives() {
    let machine = Machine::new();
    let pages = machine.pages(1);
    for _ in 0..3 {
        let mut driver = machine.start().unwrap();
        assert!(machine.is_master());
        driver.submit(Tag(0), Operation::Read(0, &pages)).unwrap();
        driver.commit();
        drop(driver);
        assert!(!machine.is_master());
        assert_eq!(machine.device().config, 0);
        assert_eq!(machine.device().status, 0);
        assert_eq!(machine.bus.pieces(), pages.len());
    }
}

/// What driver, back-end and device do, one after the other.
#[derive(Clone, Debug)]
enum Step {
    /// Which operation, at which sector, and for each segment page, first sector in it, and how many.
    Submit(u8, u16, Vec<(u8, u8, u8)>),
    Commit,
    Complete(u8),
    Fail(u8, u16),
    Take,
    Sleep,
    /// The device answers anything, or writes anything into the queue of its answers.
    Answer(u16, u16),
    Poke(u16, u32),
}

fn steps(is_hostile: bool) -> impl Strategy<Value = Vec<Step>> {
    let segments = prop::collection::vec((0..8_u8, 0..8_u8, 1..=8_u8), 1..12);
    let good = prop_oneof![
        4 => (any::<u8>(), 0..8000_u16, segments).prop_map(|(kind, first, segments)| Step::Submit(kind, first, segments)),
        2 => Just(Step::Commit),
        12 => any::<u8>().prop_map(Step::Complete),
        1 => (any::<u8>(), 1..0x7ff_u16).prop_map(|(n, status)| Step::Fail(n, status)),
        3 => Just(Step::Take),
        1 => Just(Step::Sleep),
    ];
    let hostile = prop_oneof![
        (0..140_u16, 0..0x7ff_u16).prop_map(|(id, status)| Step::Answer(id, status)),
        (0..512_u16, any::<u32>()).prop_map(|(at, value)| Step::Poke(at, value)),
    ];
    let step = prop_oneof![20 => good, u32::from(is_hostile) => hostile];
    prop::collection::vec(step, 0..200)
}

fn play(is_hostile: bool, steps: Vec<Step>) {
    let (machine, mut driver) = started();
    machine.device().is_hostile = is_hostile;
    let pages = machine.pages(8);
    let (mut submitted, mut ended, mut failures) = (0, Vec::new(), 0);
    for step in steps {
        match step {
            Step::Submit(kind, first, segments) => {
                let segments: Vec<_> = segments
                    .into_iter()
                    .map(|(page, first, count)| {
                        let sectors = u32::from(count.min(8 - first));
                        part(pages[usize::from(page)], u64::from(first) * 512, sectors * 512)
                    })
                    .collect();
                let operation = match kind % 8 {
                    0 => Operation::Flush,
                    1 => Operation::Discard(first.into(), 8),
                    2..=4 => Operation::Write(first.into(), &segments),
                    _ => Operation::Read(first.into(), &segments),
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
            Step::Fail(n, status) => {
                let mut device = machine.device();
                let pending = device.pending.len();
                if pending != 0 {
                    let command = device.pending.remove(usize::from(n) % pending);
                    device.answer(1, command.id, status, 0);
                    failures += 1;
                }
            }
            Step::Take => ended.extend(driver.take()),
            Step::Sleep => {
                let _ = driver.may_sleep();
            }
            Step::Answer(id, status) => {
                if machine.device().size() != 0 {
                    machine.device().answer(1, id, status, 0);
                }
            }
            Step::Poke(at, value) => {
                if machine.device().size() != 0 {
                    let place = machine.device().answers() + u64::from(at) * 4;
                    machine.bus.write(BusAddress(place), &value.to_le_bytes());
                }
            }
        }
    }
    driver.commit();
    machine.device().work();
    ended.extend(taken(&mut driver));
    let tags: BTreeSet<_> = ended.iter().map(|completion| completion.tag).collect();
    assert_eq!(tags.len(), ended.len(), "a request ends once");
    assert!(tags.iter().all(|tag| tag.0 < submitted));
    let is_broken = driver.submit(Tag(u32::MAX), Operation::Flush) == Err(Refused::Broken);
    if is_broken || !is_hostile {
        assert_eq!(tags.len(), usize::try_from(submitted).unwrap());
    }
    if !is_hostile {
        let bad = ended
            .iter()
            .filter(|completion| completion.result.is_err())
            .count();
        assert!(!is_broken && bad <= failures && (bad == 0) == (failures == 0));
    }
}

proptest! {
    #[test]
    fn every_request_of_a_good_controller_ends_as_its_commands_did(steps in steps(false)) {
        play(false, steps);
    }

    #[test]
    fn whatever_a_controller_answers_each_request_ends_at_most_once(steps in steps(true)) {
        play(true, steps);
    }

    #[test]
    fn whatever_a_controller_says_of_itself_it_is_driven_or_not(
        capabilities in any::<u64>(),
        identity in prop::collection::vec((0..600_usize, any::<u8>()), 0..40),
        namespace in prop::collection::vec((0..200_usize, any::<u8>()), 0..40),
    ) {
        let machine = Machine::new();
        {
            let mut device = machine.device();
            // Where the doorbells are, the simulated one must know.
            device.capabilities ^= capabilities & 0xff00_fff0_ffff;
            device.capabilities &= !(0xf << 32);
            device.capabilities |= 2 << 32;
            for (at, value) in identity {
                device.identity[at] = value;
            }
            for (at, value) in namespace {
                device.namespace[at] = value;
            }
        }
        if let Ok(driver) = machine.start() {
            let geometry = *driver.geometry();
            prop_assert!(geometry.sectors != 0 && geometry.max_segments != 0 && geometry.depth != 0);
            prop_assert!(geometry.max_sectors >= geometry.logical_block / 512);
        }
    }
}
