//! Virtual time as guests read it: what `get_runstate_info` tells of the histories that [`History`] counts.
//!
//! [`History`]: bulkhead_core::vcpu::History
#![cfg(not(loom))]
#![expect(clippy::arithmetic_side_effects, reason = "a test fails by panicking")]

use bulkhead_abi::event::Virq;
use bulkhead_abi::vcpu::{Runstate, RunstateInfo, VcpuOp};
use bulkhead_abi::{Errno, Hypercall, layout};
use bulkhead_core::testing::{GuestSpec, SimConfig, World};
use bulkhead_core::{EndPolicy, Machine};

const US: u64 = 1000;
const MS: u64 = 1_000_000;

/// What the guest on CPU 0 is told about its vCPU `vcpu`.
fn runstate(world: &mut World, vcpu: u64) -> Result<RunstateInfo, Errno> {
    let args = [u64::from(VcpuOp::GetRunstateInfo.raw()), vcpu, World::SCRATCH];
    world.call(0, Hypercall::VcpuOp, &args)?;
    world.invariants();
    Ok(world.read(0, World::SCRATCH))
}

/// What each total has grown by.
fn growth(before: &RunstateInfo, after: &RunstateInfo) -> [u64; 4] {
    let mut pairs = after.time_ns.iter().zip(before.time_ns);
    core::array::from_fn(|_| pairs.next().map_or(0, |(after, before)| after - before))
}

#[test]
fn running_waiting_and_sleeping_are_told_apart_to_the_nanosecond() {
    let mut world = World::booted(2);
    world.bind_virq(0, Virq::Timer).unwrap();
    let start = runstate(&mut world, 0).unwrap();
    assert_eq!(start.state, Runstate::Running.raw());

    // It computes, lets the other compute, and has the CPU back.
    world.sim().advance(300 * US + 1);
    world.yield_now(0);
    assert_eq!(world.running(0), Some((2, 0)));
    world.sim().advance(400 * US + 2);
    let second = runstate(&mut world, 0).unwrap();
    world.block(0);
    assert_eq!(world.running(0), Some((1, 0)));
    let back = runstate(&mut world, 0).unwrap();
    assert_eq!(growth(&start, &back), [300 * US + 1, 400 * US + 2, 0, 0]);
    assert_eq!(back.state_entry_time, world.sim().now());
    assert_eq!(second.state_entry_time, world.sim().now() - 400 * US - 2);

    // It sleeps, with nobody else there.
    world.unmask_upcalls(0);
    world.set_timer(0, world.sim().now() + 5 * MS + 3, 0).unwrap();
    world.block(0);
    world.take_upcall(0);
    let awake = runstate(&mut world, 0).unwrap();
    assert_eq!(growth(&back, &awake), [0, 0, 5 * MS + 3, 0]);
}

#[test]
fn a_sleeper_that_has_to_wait_for_the_cpu_has_slept_until_it_was_woken() {
    let mut world = World::booted(2);
    world.bind_virq(0, Virq::Timer).unwrap();
    world.unmask_upcalls(0);
    let before = runstate(&mut world, 0).unwrap();
    let due = world.sim().now() + 100 * US;
    world.set_timer(0, due, 0).unwrap();
    world.block(0);
    assert_eq!(world.running(0), Some((2, 0)));
    // The other does not give way before its allowance is used up.
    while world.running(0) == Some((2, 0)) {
        world.spin(0, 10 * US);
    }
    world.take_upcall(0);
    let after = runstate(&mut world, 0).unwrap();
    let waited = world.sim().now() - due;
    assert!(waited > 0, "it ran at once");
    assert_eq!(growth(&before, &after), [0, waited, 100 * US, 0]);
}

#[test]
fn a_vcpu_that_was_never_started_is_offline_from_its_beginning() {
    let config = SimConfig {
        free_frames: GuestSpec::FRAMES,
        cpus: 1,
    };
    let mut world = World::new(config, EndPolicy::LastDomain);
    let spec = GuestSpec {
        vcpus: 2,
        ..GuestSpec::default()
    };
    let made = world.sim().now();
    world.create(1, &spec).unwrap();
    world.sim().advance(7 * MS);
    world.enter(0);
    let second = runstate(&mut world, 1).unwrap();
    let expected = RunstateInfo {
        state: Runstate::Offline.raw(),
        state_entry_time: made,
        time_ns: [0, 0, 0, 7 * MS],
    };
    assert_eq!(second, expected);
    // The first has waited all that time.
    assert_eq!(runstate(&mut world, 0).unwrap().time_ns, [0, 7 * MS, 0, 0]);
}

#[test]
fn a_vcpu_that_is_not_there_and_a_record_that_cannot_be_written_are_refused() {
    let mut world = World::booted(1);
    assert_eq!(runstate(&mut world, 1), Err(Errno::NoEnt));
    let op = u64::from(VcpuOp::GetRunstateInfo.raw());
    for address in [layout::HYPERVISOR.start, 1 << 46] {
        assert_eq!(
            world.call(0, Hypercall::VcpuOp, &[op, 0, address]),
            Err(Errno::Fault),
            "{address:#x}"
        );
    }
}
