//! Watchdogs, pins, and ends from afar: what `sched_op` has beside rest and sleep.
#![cfg(not(loom))]
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use bulkhead_abi::control::{ControlOp, DomainRef};
use bulkhead_abi::sched::{PinOverride, RemoteShutdown, SchedOp, ShutdownReason, Watchdog};
use bulkhead_abi::vcpu::VcpuOp;
use bulkhead_abi::{Buffered, DomId, Errno, Hypercall};
use bulkhead_core::EndPolicy;
use bulkhead_core::domains::Lifecycle;
use bulkhead_core::ids::CpuId;
use bulkhead_core::testing::{GuestSpec, SimConfig, World};

const S: u64 = 1_000_000_000;

/// Domains 0 and 1, of two vCPUs each, have booted on the first of `cpus` CPUs. Domain 1 runs there.
fn world(cpus: u32) -> World {
    let config = SimConfig {
        free_frames: 2 * GuestSpec::FRAMES,
        cpus,
    };
    let world = World::new(config, EndPolicy::LastDomain);
    world.sim().let_waiting_pass_time(cpus == 1);
    for id in 0..2 {
        let guest = GuestSpec {
            vcpus: 2,
            home: Some(CpuId::BOOT),
            ..GuestSpec::default()
        };
        world.create(id, &guest).unwrap();
    }
    for id in 0..2 {
        world.turn(id);
        world.boot(0);
    }
    world
}

fn ask<T: Buffered>(world: &World, op: SchedOp, record: &T) -> Result<u64, Errno> {
    world.write(0, World::SCRATCH, record);
    let answer = world.call(0, Hypercall::SchedOp, &[op.raw().into(), World::SCRATCH]);
    world.invariants();
    answer
}

fn watchdog(world: &World, id: u32, timeout_s: u32) -> Result<u64, Errno> {
    ask(world, SchedOp::Watchdog, &Watchdog { id, timeout_s })
}

fn life(world: &World, id: u16) -> Lifecycle {
    *world.hv().domain(DomId::new(id)).unwrap().lifecycle.lock()
}

#[test]
fn a_domain_that_does_not_wind_up_its_watchdog_is_ended() {
    let world = world(1);
    assert_eq!(watchdog(&world, 0, 2), Ok(1));
    assert_eq!(watchdog(&world, 0, 10), Ok(2));
    world.spin(0, S);
    world.turn(1);
    assert_eq!(watchdog(&world, 1, 2), Ok(0), "in time");
    world.spin(0, S + S / 2);
    assert_eq!(life(&world, 1), Lifecycle::Running);
    world.spin(0, S);
    assert_eq!(life(&world, 1), Lifecycle::ShutDown(ShutdownReason::Watchdog));
    world.invariants();
    assert_eq!(life(&world, 0), Lifecycle::Running);
}

#[test]
fn a_domain_has_so_many_watchdogs_and_takes_them_away_again() {
    let world = world(1);
    assert_eq!(watchdog(&world, 0, 0), Err(Errno::Inval), "nothing to take away");
    assert_eq!(watchdog(&world, 1, 5), Err(Errno::Inval), "there is none yet");
    assert_eq!(watchdog(&world, 0, 1), Ok(1));
    assert_eq!(watchdog(&world, 0, u32::MAX), Ok(2));
    assert_eq!(watchdog(&world, 0, 1), Err(Errno::NoSpc));
    assert_eq!(watchdog(&world, 3, 1), Err(Errno::Inval));
    assert_eq!(watchdog(&world, 1, 0), Ok(0));
    assert_eq!(watchdog(&world, 1, 0), Err(Errno::Inval));
    world.spin(0, 3 * S);
    assert_eq!(life(&world, 1), Lifecycle::Running);
}

#[test]
fn a_watchdog_lasts_while_the_vcpu_that_made_it_is_down() {
    let world = world(1);
    let state = world.first_state(0);
    world.initialise(0, 1, &state).unwrap();
    world.vcpu_op(0, VcpuOp::Up, 1, 0).unwrap();
    assert_eq!(watchdog(&world, 0, 1), Ok(1));
    world.vcpu_op(0, VcpuOp::Down, 0, 0).unwrap();
    world.invariants();
    world.spin(0, S / 2);
    assert_eq!(life(&world, 1), Lifecycle::Running);
    world.spin(0, S);
    assert_eq!(life(&world, 1), Lifecycle::ShutDown(ShutdownReason::Watchdog));
}

#[test]
fn a_domain_that_is_paused_need_not_wind_up_its_watchdog() {
    let world = world(1);
    assert_eq!(watchdog(&world, 0, 1), Ok(1));
    world.turn(0);
    let control = |op: ControlOp| {
        let guest = DomainRef {
            domain: DomId::new(1),
            reserved: 0,
        };
        world.write(0, World::SCRATCH, &guest);
        world.call(0, Hypercall::Sysctl, &[op.raw().into(), World::SCRATCH])
    };
    assert_eq!(control(ControlOp::PauseDomain), Ok(0));
    for _ in 0..5 {
        world.spin(0, S);
        world.invariants();
    }
    assert_eq!(life(&world, 1), Lifecycle::Running);
    assert_eq!(control(ControlOp::UnpauseDomain), Ok(0));
    world.spin(0, 2 * S);
    assert_eq!(life(&world, 1), Lifecycle::ShutDown(ShutdownReason::Watchdog));
    world.invariants();
}

#[test]
fn watchdogs_go_with_their_domain() {
    let world = world(1);
    assert_eq!(watchdog(&world, 0, 1), Ok(1));
    world.turn(0);
    assert_eq!(watchdog(&world, 0, 100), Ok(1));
    while world.hv().destroy_domain(DomId::new(1)) == Err(Errno::Restart) {
        world.enter(0);
    }
    world.invariants();
    world.create(1, &GuestSpec::default()).unwrap();
    world.spin(0, 2 * S);
    assert_eq!(life(&world, 1), Lifecycle::Running, "its successor is another");
}

#[test]
fn the_control_domain_ends_another() {
    let world = world(1);
    let end = |domain: u16, reason: u32| {
        let domain = DomId::new(domain);
        ask(
            &world,
            SchedOp::RemoteShutdown,
            &RemoteShutdown { domain, reason },
        )
    };
    let reboot = ShutdownReason::Reboot.raw();
    assert_eq!(end(1, reboot), Err(Errno::Perm));
    world.turn(0);
    assert_eq!(end(0, reboot), Err(Errno::Inval), "itself it ends otherwise");
    assert_eq!(end(1, 6), Err(Errno::Inval));
    assert_eq!(end(77, reboot), Err(Errno::Srch));
    assert_eq!(life(&world, 1), Lifecycle::Running);
    assert_eq!(end(1, reboot), Ok(0));
    assert_eq!(life(&world, 1), Lifecycle::ShutDown(ShutdownReason::Reboot));
}

#[test]
fn a_vcpu_of_the_control_domain_stays_where_it_asks_to() {
    let world = world(2);
    let pin = |pcpu: i32| ask(&world, SchedOp::PinOverride, &PinOverride { pcpu });
    assert_eq!(pin(0), Err(Errno::Perm));
    world.turn(0);
    assert_eq!(pin(2), Err(Errno::Inval), "there are two");
    assert_eq!(pin(-1), Err(Errno::Inval), "nothing to end");
    // It is on the first, and goes to the second.
    assert_eq!(pin(1), Ok(0));
    for _ in 0..10 {
        world.enter(0);
        world.enter(1);
        world.invariants();
        assert_ne!(world.running(0), Some((0, 0)));
    }
    assert_eq!(world.running(1), Some((0, 0)));
    let busy = world.call(
        1,
        Hypercall::SchedOp,
        &[SchedOp::PinOverride.raw().into(), World::SCRATCH],
    );
    assert_eq!(busy, Err(Errno::Busy));
    world.write(1, World::SCRATCH, &PinOverride { pcpu: -1 });
    let ended = world.call(
        1,
        Hypercall::SchedOp,
        &[SchedOp::PinOverride.raw().into(), World::SCRATCH],
    );
    assert_eq!(ended, Ok(0));
    world.invariants();
}
