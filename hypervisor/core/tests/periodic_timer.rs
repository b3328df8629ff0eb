//! Periodic timers of vCPUs.
#![cfg(not(loom))]
#![expect(
    clippy::unwrap_used,
    clippy::arithmetic_side_effects,
    reason = "a test fails by panicking"
)]

use bulkhead_abi::Errno;
use bulkhead_abi::event::{BindVirq, EventChannelOp, Virq};
use bulkhead_abi::shared_info::offset;
use bulkhead_abi::vcpu::{MIN_PERIODIC_TIMER_NS, VcpuOp};
use bulkhead_core::Machine;
use bulkhead_core::testing::World;

const PERIOD: u64 = 10_000_000;

/// Two CPUs, and a domain whose two vCPUs run on them.
fn world() -> World {
    let world = World::started(2);
    assert_eq!(world.enter(1), Some((1, 1)));
    world
}

fn set(world: &World, cpu: usize, vcpu: u32, period: u64) -> Result<u64, Errno> {
    world.write(cpu, World::SCRATCH, &period);
    world.vcpu_op(cpu, VcpuOp::SetPeriodicTimer, vcpu, World::SCRATCH)
}

/// A port for the timer of `vcpu`.
fn timer_port(world: &World, vcpu: u32) -> u32 {
    let record = BindVirq {
        virq: Virq::Timer.raw(),
        vcpu,
        port: 0,
    };
    world.event_op(0, EventChannelOp::BindVirq, record).unwrap().port
}

/// Whether the timer has ticked since this was last asked.
fn has_ticked(world: &World, port: u32) -> bool {
    let ticked = world.is_pending(0, port);
    let word = World::SHARED_INFO + offset::EVTCHN_PENDING as u64 + u64::from(port / 64) * 8;
    world.write(0, word, &0_u64);
    ticked
}

#[test]
fn it_ticks_until_it_is_stopped() {
    let world = world();
    let port = timer_port(&world, 0);
    set(&world, 0, 0, PERIOD).unwrap();
    let start = world.sim().now();
    for tick in 1..=3 {
        world.spin(0, start + tick * PERIOD - world.sim().now() - 1);
        assert!(!has_ticked(&world, port), "not before its time");
        world.spin(0, 1);
        assert!(has_ticked(&world, port), "tick {tick}");
        world.invariants();
    }
    assert_eq!(world.vcpu_op(0, VcpuOp::StopPeriodicTimer, 0, 0), Ok(0));
    world.spin(0, 10 * PERIOD);
    assert!(!has_ticked(&world, port));
    world.invariants();
}

#[test]
fn ticks_that_were_missed_are_one() {
    let world = world();
    let port = timer_port(&world, 0);
    set(&world, 0, 0, PERIOD).unwrap();
    world.sim().advance(7 * PERIOD + PERIOD / 2);
    world.enter(0);
    assert!(has_ticked(&world, port));
    world.enter(0);
    assert!(!has_ticked(&world, port));
    world.spin(0, PERIOD / 2);
    assert!(has_ticked(&world, port), "in step with the first");
}

#[test]
fn a_vcpu_sets_the_timer_of_another_and_it_wakes_who_rests() {
    let world = world();
    let port = timer_port(&world, 1);
    set(&world, 0, 1, PERIOD).unwrap();
    world.set_port_mask(0, port, false);
    world.block(1);
    world.spin(0, PERIOD);
    assert!(world.is_pending(0, port));
    assert_eq!(world.enter(1), Some((1, 1)));
    // Whoever sets it again sets it anew, from wherever.
    set(&world, 1, 1, 2 * PERIOD).unwrap();
    world.invariants();
    world.vcpu_op(0, VcpuOp::Down, 1, 0).unwrap();
    world.enter(1);
    world.invariants();
    assert_eq!(set(&world, 0, 1, PERIOD), Ok(0), "one that is down has none");
    world.invariants();
}

#[test]
fn a_period_that_is_too_short_or_none_is_refused() {
    let world = world();
    for period in [0, MIN_PERIODIC_TIMER_NS - 1, u64::MAX] {
        assert_eq!(set(&world, 0, 0, period), Err(Errno::Inval), "{period}");
    }
    assert_eq!(set(&world, 0, 0, MIN_PERIODIC_TIMER_NS), Ok(0));
    assert_eq!(set(&world, 0, 2, PERIOD), Err(Errno::NoEnt));
    for (vcpu, error) in [(0, Errno::Inval), (2, Errno::NoEnt)] {
        assert_eq!(
            world.vcpu_op(0, VcpuOp::GetPhysid, vcpu, World::SCRATCH),
            Err(error)
        );
    }
}
