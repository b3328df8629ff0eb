//! Breakpoints of each vCPU are armed while it runs, and only then; what they say reaches its guest.
#![cfg(not(loom))]
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use bulkhead_abi::trap::{TrapInfo, Vector};
use bulkhead_abi::{Errno, Hypercall, layout};
use bulkhead_core::ids::CpuId;
use bulkhead_core::testing::{GuestSpec, SimConfig, World};
use bulkhead_core::{EndPolicy, Exception};

const HANDLER: u64 = 0x1200;
const WATCHED: u64 = 0x2008;
/// Breakpoint 0 waits for writes of 8 bytes.
const WRITES: u64 = 0x9_0401;

/// One CPU with the domains 1 and 2, both of which have booted. Domain 1 runs.
fn world() -> World {
    let config = SimConfig {
        free_frames: 2 * GuestSpec::FRAMES,
        cpus: 1,
    };
    let world = World::new(config, EndPolicy::LastDomain);
    for id in 1..=2 {
        world.create(id, &GuestSpec::default()).unwrap();
    }
    world.enter(0);
    for _ in 1..=2 {
        world.boot(0);
        world.yield_now(0);
    }
    world
}

fn set(world: &World, number: u64, value: u64) -> Result<u64, Errno> {
    world.call(0, Hypercall::SetDebugreg, &[number, value])
}

fn armed(world: &World) -> Option<(u64, u64)> {
    let breakpoints = world.sim().breakpoints(CpuId::BOOT)?;
    Some((breakpoints.addresses[0], breakpoints.control))
}

fn handle_debug(world: &World) {
    world.set_trap(
        0,
        TrapInfo {
            vector: Vector::Debug.raw(),
            address: HANDLER,
            ..TrapInfo::default()
        },
    );
}

#[test]
fn breakpoints_come_and_go_with_their_vcpu() {
    let world = world();
    set(&world, 0, WATCHED).unwrap();
    assert_eq!(armed(&world), None, "an address alone is no breakpoint");
    set(&world, 7, WRITES).unwrap();
    assert_eq!(armed(&world), Some((WATCHED, WRITES)));
    world.yield_now(0);
    assert_eq!((world.running(0), armed(&world)), (Some((2, 0)), None));
    world.invariants();
    world.yield_now(0);
    assert_eq!(armed(&world), Some((WATCHED, WRITES)));
    set(&world, 7, 0).unwrap();
    assert_eq!(armed(&world), None);
    world.invariants();
}

#[test]
fn a_refused_breakpoint_changes_nothing_in_the_cpu() {
    let world = world();
    set(&world, 0, WATCHED).unwrap();
    set(&world, 7, WRITES).unwrap();
    assert_eq!(set(&world, 0, layout::HYPERVISOR.start), Err(Errno::Perm));
    assert_eq!(set(&world, 7, 1 << 13), Err(Errno::Perm));
    assert_eq!(armed(&world), Some((WATCHED, WRITES)));
}

#[test]
fn the_reason_of_a_debug_exception_waits_for_the_guest_that_had_it() {
    let world = world();
    handle_debug(&world);
    world.sim().set_debug_status(0xffff_0ff1);
    world.raise(
        0,
        Exception {
            vector: Vector::Debug.raw(),
            error_code: 0,
            address: 0,
        },
    );
    assert_eq!(world.regs(0).rip, HANDLER);
    world.yield_now(0);
    assert_eq!(world.call(0, Hypercall::GetDebugreg, &[6]), Ok(0xffff_0ff0));
    world.yield_now(0);
    assert_eq!(world.call(0, Hypercall::GetDebugreg, &[6]), Ok(0xffff_0ff1));
    set(&world, 6, 0).unwrap();
    assert_eq!(world.call(0, Hypercall::GetDebugreg, &[6]), Ok(0xffff_0ff0));
}
