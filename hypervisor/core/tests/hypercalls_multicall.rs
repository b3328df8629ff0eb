//! Several calls in one: in order, each with its result, and in goes if there are many.
#![cfg(not(loom))]
#![expect(
    clippy::unwrap_used,
    clippy::arithmetic_side_effects,
    reason = "a test fails by panicking"
)]

use bulkhead_abi::multicall::MulticallEntry;
use bulkhead_abi::trap::IretFrame;
use bulkhead_abi::{Errno, Hypercall, Record, selectors};
use bulkhead_core::EndPolicy;
use bulkhead_core::testing::{GuestSpec, SimConfig, World};

/// A free part of the guest's memory, with room for long lists.
const LIST: u64 = 0x30_0000;
/// What stands in the place of a result that has not come.
const NONE: i64 = 77;

/// A world with one guest, which has booted.
fn world() -> World {
    let world = World::new(SimConfig::default(), EndPolicy::LastDomain);
    world.create(1, &GuestSpec::default()).unwrap();
    world.enter(0);
    world.boot(0);
    world
}

fn write(world: &World, list: &[(Hypercall, [u64; 6])]) {
    for (at, (call, args)) in (LIST..).step_by(MulticallEntry::SIZE).zip(list) {
        let entry = MulticallEntry {
            op: call.raw(),
            result: NONE,
            args: *args,
        };
        world.write(0, at, &entry);
    }
}

fn result(world: &World, n: u64) -> i64 {
    let entry: MulticallEntry = world.read(0, LIST + n * MulticallEntry::SIZE as u64);
    entry.result
}

fn run(world: &World, count: u64) -> Result<u64, Errno> {
    world.call(0, Hypercall::Multicall, &[LIST, count])
}

fn refused(error: Errno) -> i64 {
    error.to_register().cast_signed()
}

const PAGE_SIZE: (Hypercall, [u64; 6]) = (Hypercall::XenVersion, [7, 0, 0, 0, 0, 0]);

#[test]
fn each_call_leaves_its_result_and_an_error_stops_nothing() {
    let world = world();
    let bad = (Hypercall::StackSwitch, [0, 1 << 47, 0, 0, 0, 0]);
    write(&world, &[PAGE_SIZE, bad, PAGE_SIZE, PAGE_SIZE]);
    assert_eq!(run(&world, 3), Ok(0));
    let results = [0, 1, 2, 3].map(|n| result(&world, n));
    assert_eq!(results, [4096, refused(Errno::Inval), 4096, NONE]);
}

#[test]
fn a_multicall_in_a_multicall_is_refused() {
    let world = world();
    write(
        &world,
        &[(Hypercall::Multicall, [LIST, 1, 0, 0, 0, 0]), PAGE_SIZE],
    );
    assert_eq!(run(&world, 2), Ok(0));
    assert_eq!(
        (result(&world, 0), result(&world, 1)),
        (refused(Errno::Inval), 4096)
    );
}

#[test]
fn a_long_list_is_done_in_goes_and_each_of_it_once() {
    let world = world();
    let list: Vec<_> = (0..100)
        .map(|n| (Hypercall::SetDebugreg, [n % 4, n, 0, 0, 0, 0]))
        .collect();
    write(&world, &list);
    assert_eq!(run(&world, 100), Ok(0));
    assert!((0..100).all(|n| result(&world, n) == 0));
    for register in 0..4 {
        let last = world.call(0, Hypercall::GetDebugreg, &[register]);
        assert_eq!(last, Ok(96 + register));
    }
}

#[test]
fn a_list_that_ends_in_nothing_is_a_fault_after_what_was_there() {
    let world = world();
    // The last page that the guest has mapped but one: shared info comes after, and behind that nothing.
    let last = 0x40_0000 - MulticallEntry::SIZE as u64;
    let entry = MulticallEntry {
        op: PAGE_SIZE.0.raw(),
        result: NONE,
        args: PAGE_SIZE.1,
    };
    world.write(0, last, &entry);
    assert_eq!(world.call(0, Hypercall::Multicall, &[last, 2]), Err(Errno::Fault));
    assert_eq!(world.read::<MulticallEntry>(0, last).result, 4096);
}

#[test]
fn a_long_call_in_a_list_goes_on_where_it_was() {
    let world = world();
    let text = (Hypercall::ConsoleIo, [0, 3000, 0x31_0000, 0, 0, 0]);
    for n in 0..3000 {
        world.write(0, 0x31_0000 + n, &b'\n');
    }
    write(&world, &[text, PAGE_SIZE]);
    world.sim().take_console();
    assert_eq!(run(&world, 2), Ok(0));
    assert_eq!((result(&world, 0), result(&world, 1)), (0, 4096));
    let lines = world
        .sim()
        .take_console()
        .iter()
        .filter(|&&byte| byte == b'\n')
        .count();
    assert_eq!(lines, 3000, "none is lost, and none printed twice");
}

#[test]
fn a_return_from_a_handler_ends_the_list() {
    let world = world();
    write(&world, &[(Hypercall::Iret, [0; 6]), PAGE_SIZE]);
    let frame = IretFrame {
        rax: 5,
        rip: 0x1234,
        cs: u64::from(selectors::INTERRUPTED_KERNEL_CS),
        rsp: World::STACK,
        ..IretFrame::default()
    };
    world.write(0, World::FRAME, &frame);
    world.regs_mut(0).rsp = World::FRAME;
    assert_eq!(run(&world, 2), Ok(5));
    assert_eq!((world.regs(0).rip, world.regs(0).rsp), (0x1234, World::STACK));
    assert_eq!(result(&world, 1), NONE);
}
