//! The operator's line: by whole lines and marked for guests, raw for the control domain.
#![cfg(not(loom))]
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use bulkhead_abi::console::ConsoleIoOp;
use bulkhead_abi::{Errno, Hypercall};
use bulkhead_core::EndPolicy;
use bulkhead_core::testing::{GuestSpec, SimConfig, World};

/// An address that nothing is mapped at.
const NOTHING: u64 = 0x7000_0000_0000;

/// A world with one guest, which has booted.
fn world(id: u16) -> World {
    let world = World::new(SimConfig::default(), EndPolicy::LastDomain);
    world.create(id, &GuestSpec::default()).unwrap();
    world.enter(0);
    world.boot(0);
    world.sim().take_console();
    world
}

fn call(world: &World, op: ConsoleIoOp, count: u64, at: u64) -> Result<u64, Errno> {
    world.call(0, Hypercall::ConsoleIo, &[u64::from(op.raw()), count, at])
}

/// The guest writes `text` in one call. Returns what the operator sees.
fn print(world: &World, text: &str) -> String {
    write(world, text);
    String::from_utf8(world.sim().take_console()).unwrap()
}

/// The guest writes `text` in one call.
fn write(world: &World, text: &str) {
    for (at, byte) in (World::SCRATCH..).zip(text.bytes()) {
        world.write(0, at, &byte);
    }
    assert_eq!(
        call(world, ConsoleIoOp::Write, text.len() as u64, World::SCRATCH),
        Ok(0)
    );
}

#[test]
fn a_guests_line_appears_when_it_ends_and_says_whose_it_is() {
    let world = world(7);
    assert_eq!(print(&world, "half a "), "");
    assert_eq!(
        print(&world, "line\nand another\nand"),
        "(d7) half a line\n(d7) and another\n"
    );
    assert_eq!(
        print(&world, "\x1b[2J\n"),
        "(d7) and[2J\n",
        "no guest clears the screen"
    );
}

#[test]
fn the_control_domain_speaks_to_the_terminal_directly() {
    assert_eq!(print(&world(0), "\x1b[1mprompt> "), "\x1b[1mprompt> ");
}

#[test]
fn a_long_text_goes_out_in_several_goes_and_whole() {
    let world = world(0);
    let text = "0123456789".repeat(199);
    assert_eq!(print(&world, &text), text);
}

#[test]
fn lines_stay_whole_where_a_long_text_is_cut() {
    let world = world(0);
    let line = |length: usize| format!("{}\n", "x".repeat(length));
    let lines = [100, 100, 200, 0, 254, 255, 90, 250, 100].map(line);
    write(&world, &lines.concat());
    let pieces = world.sim().take_console_writes();
    assert_eq!(pieces.concat(), lines.concat().as_bytes());
    assert!(pieces.iter().all(|piece| piece.ends_with(b"\n")));

    let long = line(700);
    write(&world, &long);
    let pieces = world.sim().take_console_writes();
    assert_eq!(pieces.concat(), long.as_bytes(), "nothing to wait for");
}

#[test]
fn less_than_nothing_is_nothing() {
    let world = world(1);
    for count in [0, 0x8000_0000, 0xffff_ffff] {
        assert_eq!(call(&world, ConsoleIoOp::Write, count, NOTHING), Ok(0));
    }
    assert_eq!(call(&world, ConsoleIoOp::Write, 1, NOTHING), Err(Errno::Fault));
    assert_eq!(world.sim().take_console(), []);
}

#[test]
fn the_control_domain_reads_what_the_operator_types_and_nobody_else() {
    let control = world(0);
    control.sim().type_in(b"help");
    assert_eq!(call(&control, ConsoleIoOp::Read, 3, World::SCRATCH), Ok(3));
    assert_eq!(control.read::<u8>(0, World::SCRATCH + 2), b'l');
    assert_eq!(call(&control, ConsoleIoOp::Read, 3, World::SCRATCH), Ok(1));
    assert_eq!(
        call(&control, ConsoleIoOp::Read, 3, NOTHING),
        Ok(0),
        "there is nothing more to be written"
    );
    control.sim().type_in(b"x");
    assert_eq!(call(&control, ConsoleIoOp::Read, 1, NOTHING), Err(Errno::Fault));
    assert_eq!(
        call(&world(1), ConsoleIoOp::Read, 1, World::SCRATCH),
        Err(Errno::Perm)
    );
}
