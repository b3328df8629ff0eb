//! Who runs: blocking, waking, polling, timers, turns, and the end of domains. Guests are played through the hypervisor's own
//! doors, and every law is checked as they go.
#![cfg(not(loom))]
#![expect(
    clippy::unwrap_used,
    clippy::arithmetic_side_effects,
    reason = "a test fails by panicking"
)]

use bulkhead_abi::event::{EventChannelOp, Status, Virq};
use bulkhead_abi::sched::{MAX_POLL_PORTS, ShutdownReason};
use bulkhead_abi::vcpu::{SINGLESHOT_FUTURE, VcpuOp};
use bulkhead_abi::{DomId, Errno, Hypercall};
use bulkhead_core::ids::CpuId;
use bulkhead_core::machine::Outcome;
use bulkhead_core::testing::{GuestSpec, SimConfig, World};
use bulkhead_core::{EndPolicy, Exception, Machine};

const MS: u64 = 1_000_000;

/// A world with the domains 1 to `homes.len()`, each on its CPU, of which there are `cpus`; all have booted, and none
/// has run since.
fn world(homes: &[u32], cpus: u32) -> World {
    let config = SimConfig {
        free_frames: GuestSpec::FRAMES * homes.len() as u64,
        cpus,
    };
    let world = World::new(config, EndPolicy::LastDomain);
    world.sim().let_waiting_pass_time(cpus == 1);
    for (id, &home) in (1..).zip(homes) {
        let guest = GuestSpec {
            home: Some(CpuId::new(home)),
            ..GuestSpec::default()
        };
        world.create(id, &guest).unwrap();
    }
    for &home in homes {
        let cpu = home as usize;
        world.enter(cpu);
        world.boot(cpu);
        world.yield_now(cpu);
        world.invariants();
    }
    world
}

/// The guest that runs on `cpu` must be domain `id`.
#[track_caller]
fn runs(world: &World, cpu: usize, id: u16) {
    assert_eq!(world.running(cpu), Some((id, 0)));
}

/// A world with two domains that are connected: 1 on CPU 0, 2 on the last of the CPUs. Gives the port that each has to the
/// other. Domain 1 runs.
fn connected(cpus: u32) -> (World, u32, u32) {
    let world = world(&[0, cpus - 1], cpus);
    let second = cpus as usize - 1;
    world.enter(0);
    runs(&world, 0, 1);
    let theirs = world.alloc_unbound(0, 2);
    if cpus == 1 {
        world.yield_now(0);
    } else {
        world.enter(second);
    }
    runs(&world, second, 2);
    let ours = world.bind_interdomain(second, 1, theirs).unwrap();
    // The new port is raised at once: someone may have sent before.
    assert_eq!(world.take_pending(second), [ours]);
    world.write(second, World::SHARED_INFO, &0_u8);
    world.invariants();
    if cpus == 1 {
        world.yield_now(0);
        runs(&world, 0, 1);
    }
    (world, theirs, ours)
}

#[test]
fn two_domains_on_one_cpu_wake_each_other_and_lose_nothing() {
    let (world, first, second) = connected(1);
    let (mut running, mut waiting) = ((1, first), (2, second));
    world.yield_now(0);
    world.unmask_upcalls(0);
    world.block(0);
    runs(&world, 0, 1);
    for _ in 0..200 {
        let (_, port) = running;
        world.send(0, port).unwrap();
        world.unmask_upcalls(0);
        world.block(0);
        world.invariants();
        core::mem::swap(&mut running, &mut waiting);
        let (id, port) = running;
        runs(&world, 0, id);
        assert_eq!(world.take_upcall(0), [port]);
    }
}

#[test]
fn two_domains_on_two_cpus_wake_each_other_and_lose_nothing() {
    let (world, first, second) = connected(2);
    world.block(1);
    assert_eq!(world.running(1), None);
    for _ in 0..200 {
        world.send(0, first).unwrap();
        world.block(0);
        assert_eq!(world.running(0), None);
        world.invariants();
        assert!(world.sim().is_kicked(CpuId::new(1)));
        world.enter(1);
        runs(&world, 1, 2);
        assert_eq!(world.take_upcall(1), [second]);
        world.send(1, second).unwrap();
        world.block(1);
        world.invariants();
        world.enter(0);
        runs(&world, 0, 1);
        assert_eq!(world.take_upcall(0), [first]);
    }
}

#[test]
fn a_guest_that_runs_on_another_cpu_is_interrupted_for_its_event() {
    let (world, first, second) = connected(2);
    world.unmask_upcalls(1);
    world.enter(1);
    assert!(!world.is_in_upcall(1));
    world.send(0, first).unwrap();
    assert!(
        world.sim().is_kicked(CpuId::new(1)),
        "it runs, and would not look"
    );
    world.enter(1);
    assert_eq!(world.take_upcall(1), [second]);
}

#[test]
fn blocking_with_an_event_pending_returns_to_take_it() {
    let (world, first, _) = connected(1);
    world.yield_now(0);
    let ours = 1;
    world.send(0, ours).unwrap();
    world.yield_now(0);
    runs(&world, 0, 1);
    assert!(
        world.is_pending(0, first) && !world.is_in_upcall(0),
        "upcalls are masked"
    );
    world.block(0);
    if world.running(0) == Some((2, 0)) {
        // It may give its turn away, but it must be in line again.
        world.yield_now(0);
    }
    runs(&world, 0, 1);
    assert_eq!(world.take_upcall(0), [first]);
}

#[test]
fn a_masked_port_wakes_nobody_who_blocks_and_is_taken_when_it_is_unmasked() {
    let (world, first, second) = connected(1);
    world.set_port_mask(0, first, true);
    world.block(0);
    runs(&world, 0, 2);
    world.send(0, second).unwrap();
    world.invariants();
    world.yield_now(0);
    runs(&world, 0, 2);
    assert_eq!(world.poll(0, &[], world.sim().now() + MS), Ok(0));
    // Nobody else is there: after a while the second runs again.
    runs(&world, 0, 2);
}

#[test]
fn an_unmask_that_uncovers_an_event_makes_the_upcall() {
    let (world, first, second) = connected(2);
    world.set_port_mask(0, first, true);
    world.unmask_upcalls(0);
    world.send(1, second).unwrap();
    world.enter(0);
    assert!(!world.is_in_upcall(0));
    world.write(0, World::SCRATCH, &first);
    let args = [u64::from(EventChannelOp::Unmask.raw()), World::SCRATCH];
    world.call(0, Hypercall::EventChannelOp, &args).unwrap();
    assert_eq!(world.take_upcall(0), [first]);
}

#[test]
fn all_that_wake_at_the_same_moment_get_their_turn() {
    const DOMAINS: u16 = 9;
    let world = World::new(
        SimConfig {
            free_frames: GuestSpec::FRAMES * u64::from(DOMAINS),
            cpus: 1,
        },
        EndPolicy::LastDomain,
    );
    let wake = world.sim().now() + 50 * MS;
    // Each sleeps before the next is made, so that the queue is empty whenever room is made in it.
    for id in 1..=DOMAINS {
        world.sim().let_waiting_pass_time(false);
        world.create(id, &GuestSpec::default()).unwrap();
        world.enter(0);
        runs(&world, 0, id);
        world.boot(0);
        let port = world.bind_virq(0, Virq::Timer).unwrap();
        assert_eq!(port, 1);
        world.set_timer(0, wake, 0).unwrap();
        world.block(0);
        assert_eq!(world.running(0), None);
        world.invariants();
    }
    world.sim().let_waiting_pass_time(true);
    for id in 1..=DOMAINS {
        world.enter(0);
        runs(&world, 0, id);
        assert_eq!(world.sim().now(), wake);
        assert_eq!(world.take_upcall(0), [1]);
        world.sim().let_waiting_pass_time(false);
        world.block(0);
        world.invariants();
    }
    assert_eq!(world.running(0), None);
}

#[test]
fn a_guest_that_wakes_another_and_computes_on_does_not_starve_it() {
    let (world, first, _) = connected(1);
    world.yield_now(0);
    world.block(0);
    runs(&world, 0, 1);
    world.spin(0, 100 * MS);
    runs(&world, 0, 1);
    world.send(0, first).unwrap();
    world.invariants();
    let woken = world.sim().now();
    while world.running(0) == Some((1, 0)) {
        world.spin(0, MS);
        assert!(
            world.sim().now() - woken <= 10 * MS,
            "it waits for its turn for ever"
        );
    }
    runs(&world, 0, 2);
}

#[test]
fn guests_that_compute_take_turns_of_equal_length() {
    let world = world(&[0, 0, 0], 1);
    world.enter(0);
    let mut turns = [0_u32; 3];
    for _ in 0..300 {
        let (id, _) = world.running(0).unwrap();
        *turns.get_mut(usize::from(id) - 1).unwrap() += 1;
        world.spin(0, MS);
    }
    assert!(turns.iter().all(|&ms| (90..=110).contains(&ms)), "{turns:?}");
}

#[test]
fn yielding_lets_everybody_else_run_first() {
    let world = world(&[0, 0, 0], 1);
    world.enter(0);
    let order: Vec<_> = (0..6)
        .map(|_| {
            world.yield_now(0);
            world.running(0).unwrap().0
        })
        .collect();
    assert_eq!(order, [2, 3, 1, 2, 3, 1]);
}

#[test]
fn a_poll_ends_when_a_port_is_raised_masked_or_not() {
    for masked in [false, true] {
        let (world, first, second) = connected(2);
        world.set_port_mask(0, first, masked);
        world.poll(0, &[first], 0).unwrap();
        assert_eq!(world.running(0), None, "the poll waits");
        world.invariants();
        world.send(1, second).unwrap();
        world.enter(0);
        runs(&world, 0, 1);
        assert!(!world.is_in_upcall(0), "upcalls are masked");
        assert_eq!(world.regs(0).rax, 0);
        world.invariants();
    }
}

#[test]
fn a_poll_of_a_port_that_is_pending_returns_at_once() {
    let (world, first, second) = connected(2);
    world.send(1, second).unwrap();
    assert_eq!(world.poll(0, &[first], 0), Ok(0));
    runs(&world, 0, 1);
    world.invariants();
}

#[test]
fn a_poll_ends_at_its_time() {
    let world = world(&[0], 1);
    world.enter(0);
    let end = world.sim().now() + 5 * MS;
    assert_eq!(world.poll(0, &[1], end), Ok(0));
    runs(&world, 0, 1);
    assert_eq!(world.sim().now(), end);
    world.invariants();
    assert_eq!(world.poll(0, &[1], 1), Ok(0), "a moment that has passed");
    assert_eq!(world.sim().now(), end);
    runs(&world, 0, 1);
}

#[test]
fn a_poll_that_was_ended_by_an_event_leaves_no_deadline_behind() {
    let (world, first, second) = connected(2);
    let end = world.sim().now() + 5 * MS;
    world.poll(0, &[first], end).unwrap();
    world.send(1, second).unwrap();
    world.enter(0);
    runs(&world, 0, 1);
    // Sleeping for good now, it must not be woken by the poll that is over.
    world.take_pending(0);
    world.write(0, World::SHARED_INFO, &0_u8);
    world.block(0);
    world.sim().advance(10 * MS);
    assert_eq!(world.enter(0), None);
    world.invariants();
}

#[test]
fn a_poll_that_returned_at_once_leaves_no_deadline_behind() {
    let (world, first, second) = connected(2);
    world.send(1, second).unwrap();
    let end = world.sim().now() + 5 * MS;
    world.poll(0, &[first], end).unwrap();
    runs(&world, 0, 1);
    // This one is to wait for ever.
    world.take_pending(0);
    world.write(0, World::SHARED_INFO, &0_u8);
    world.poll(0, &[first], 0).unwrap();
    world.sim().advance(10 * MS);
    assert_eq!(world.enter(0), None);
    world.invariants();
}

#[test]
fn a_guest_that_blocks_after_a_poll_that_returned_at_once_is_not_taken_for_polling() {
    let (world, first, second) = connected(2);
    world.send(1, second).unwrap();
    world.poll(0, &[first], 0).unwrap();
    runs(&world, 0, 1);
    world.take_pending(0);
    world.write(0, World::SHARED_INFO, &0_u8);
    world.set_port_mask(0, first, true);
    world.block(0);
    world.send(1, second).unwrap();
    assert_eq!(world.enter(0), None, "a masked port wakes only those who poll");
    world.invariants();
}

#[test]
fn a_poll_that_names_no_port_or_too_many_is_refused() {
    let world = world(&[0], 1);
    world.enter(0);
    assert_eq!(world.poll(0, &[0], 0), Err(Errno::Inval));
    assert_eq!(world.poll(0, &[4096], 0), Err(Errno::Inval));
    let many = vec![1; MAX_POLL_PORTS as usize + 1];
    assert_eq!(world.poll(0, &many, 0), Err(Errno::Inval));
    assert_eq!(world.poll(0, &many[1..], 1), Ok(0));
    runs(&world, 0, 1);
}

#[test]
fn a_timer_wakes_a_guest_that_sleeps_at_its_time() {
    let world = world(&[0], 1);
    world.enter(0);
    let port = world.bind_virq(0, Virq::Timer).unwrap();
    let at = world.sim().now() + 7 * MS;
    world.set_timer(0, at, SINGLESHOT_FUTURE).unwrap();
    world.block(0);
    assert_eq!(world.sim().now(), at);
    assert_eq!(world.take_upcall(0), [port]);
    assert_eq!(world.guest_time(0), at);
}

#[test]
fn a_timer_interrupts_a_guest_that_computes() {
    let world = world(&[0], 1);
    world.enter(0);
    let port = world.bind_virq(0, Virq::Timer).unwrap();
    world.unmask_upcalls(0);
    let at = world.sim().now() + 7 * MS;
    world.call(0, Hypercall::SetTimerOp, &[at]).unwrap();
    world.spin(0, 7 * MS - 1);
    assert!(!world.is_in_upcall(0));
    world.spin(0, 1);
    assert_eq!(world.take_upcall(0), [port]);
    world.spin(0, 100 * MS);
    assert!(!world.is_in_upcall(0), "once");
}

#[test]
fn a_timer_fires_for_a_guest_while_another_runs() {
    let world = world(&[0, 0], 1);
    world.enter(0);
    let port = world.bind_virq(0, Virq::Timer).unwrap();
    let at = world.sim().now() + 3 * MS;
    world.set_timer(0, at, 0).unwrap();
    world.block(0);
    runs(&world, 0, 2);
    world.spin(0, 20 * MS);
    let turn = world.running(0).unwrap();
    if turn == (2, 0) {
        world.spin(0, 10 * MS);
    }
    runs(&world, 0, 1);
    assert_eq!(world.take_upcall(0), [port]);
}

#[test]
fn a_timer_that_is_set_again_or_taken_back_does_not_fire_as_before() {
    let world = world(&[0], 1);
    world.enter(0);
    world.bind_virq(0, Virq::Timer).unwrap();
    world.unmask_upcalls(0);
    let start = world.sim().now();
    world.set_timer(0, start + 5 * MS, 0).unwrap();
    world.set_timer(0, start + 50 * MS, 0).unwrap();
    world.spin(0, 20 * MS);
    assert!(!world.is_in_upcall(0), "it was moved");
    let stop = [u64::from(VcpuOp::StopSingleshotTimer.raw()), 0];
    world.call(0, Hypercall::VcpuOp, &stop).unwrap();
    world.spin(0, 100 * MS);
    assert!(!world.is_in_upcall(0), "it was stopped");
    world
        .call(0, Hypercall::SetTimerOp, &[world.sim().now() + MS])
        .unwrap();
    world.call(0, Hypercall::SetTimerOp, &[0]).unwrap();
    world.spin(0, 100 * MS);
    assert!(!world.is_in_upcall(0), "0 takes it back");
    world.invariants();
}

#[test]
fn a_timer_in_the_past_fires_at_once_unless_the_future_was_asked_for() {
    let world = world(&[0], 1);
    world.enter(0);
    let port = world.bind_virq(0, Virq::Timer).unwrap();
    world.unmask_upcalls(0);
    assert_eq!(world.set_timer(0, 1, SINGLESHOT_FUTURE), Err(Errno::Time));
    assert!(!world.is_in_upcall(0));
    world.set_timer(0, 1, 0).unwrap();
    world.enter(0);
    assert_eq!(world.take_upcall(0), [port]);
}

#[test]
fn a_timer_absurdly_far_away_comes_soon_instead_of_never() {
    let world = world(&[0], 1);
    world.enter(0);
    world.bind_virq(0, Virq::Timer).unwrap();
    world.unmask_upcalls(0);
    world.call(0, Hypercall::SetTimerOp, &[u64::MAX]).unwrap();
    world.spin(0, 101 * MS);
    assert!(world.is_in_upcall(0));
}

#[test]
fn a_timer_is_set_for_oneself_only() {
    let world = world(&[0], 1);
    world.enter(0);
    let args = |vcpu| [u64::from(VcpuOp::SetSingleshotTimer.raw()), vcpu, World::SCRATCH];
    assert_eq!(world.call(0, Hypercall::VcpuOp, &args(1)), Err(Errno::NoEnt));
    assert_eq!(world.call(0, Hypercall::VcpuOp, &args(0)), Ok(0));
}

#[test]
fn a_domain_that_ends_leaves_the_cpu_to_the_others() {
    let world = world(&[0, 0], 1);
    world.enter(0);
    world.bind_virq(0, Virq::Timer).unwrap();
    world.set_timer(0, world.sim().now() + MS, 0).unwrap();
    world.shut_down(0, ShutdownReason::Poweroff);
    world.invariants();
    runs(&world, 0, 2);
    world.spin(0, 50 * MS);
    runs(&world, 0, 2);
    assert_eq!(world.sim().stopped(), None);
}

#[test]
fn the_machine_stops_when_the_last_domain_has_ended() {
    for (reason, outcome) in [
        (ShutdownReason::Poweroff, Outcome::Clean),
        (ShutdownReason::Reboot, Outcome::Clean),
        (ShutdownReason::Crash, Outcome::DomainCrashed),
        (ShutdownReason::Watchdog, Outcome::DomainCrashed),
    ] {
        let world = world(&[0, 0], 1);
        world.enter(0);
        world.shut_down(0, reason);
        assert_eq!(world.sim().stopped(), None);
        world.shut_down(0, ShutdownReason::Poweroff);
        assert_eq!(world.sim().stopped(), Some(outcome), "{reason}");
        assert_eq!(world.running(0), None);
        world.invariants();
    }
}

#[test]
fn the_machine_stops_with_the_control_domain_if_that_is_the_policy() {
    let config = SimConfig {
        free_frames: 2 * GuestSpec::FRAMES,
        cpus: 1,
    };
    let world = World::new(config, EndPolicy::ControlDomain);
    world.create(0, &GuestSpec::default()).unwrap();
    world.create(1, &GuestSpec::default()).unwrap();
    world.enter(0);
    world.yield_now(0);
    runs(&world, 0, 1);
    world.shut_down(0, ShutdownReason::Poweroff);
    assert_eq!(world.sim().stopped(), None);
    runs(&world, 0, 0);
    world.shut_down(0, ShutdownReason::Poweroff);
    assert_eq!(world.sim().stopped(), Some(Outcome::Clean));
}

#[test]
fn the_control_domain_is_told_of_another_s_end() {
    let config = SimConfig {
        free_frames: 2 * GuestSpec::FRAMES,
        cpus: 1,
    };
    let world = World::new(config, EndPolicy::ControlDomain);
    world.create(0, &GuestSpec::default()).unwrap();
    world.create(1, &GuestSpec::default()).unwrap();
    world.enter(0);
    world.boot(0);
    let port = world.bind_virq(0, Virq::DomExc).unwrap();
    world.block(0);
    runs(&world, 0, 1);
    assert_eq!(world.bind_virq(0, Virq::DomExc), Err(Errno::Busy));
    world.shut_down(0, ShutdownReason::Reboot);
    runs(&world, 0, 0);
    assert_eq!(world.take_upcall(0), [port]);
}

#[test]
fn a_domain_that_has_ended_hears_nothing_and_holds_nobody_up() {
    let (world, first, second) = connected(2);
    world.shut_down(1, ShutdownReason::Crash);
    assert_eq!(world.running(1), None);
    world.invariants();
    assert_eq!(world.send(0, first), Ok(()));
    world.sim().advance(MS);
    assert_eq!(world.enter(1), None);
    let status = Status {
        dom: DomId::SELF,
        port: first,
        ..Status::default()
    };
    let status = world.event_op(0, EventChannelOp::Status, status).unwrap();
    assert_eq!((status.bound_to, status.remote_port), (2, second));
    world.invariants();
    // Its end can be closed, and is then free for another incarnation.
    world.write(0, World::SCRATCH, &first);
    let close = [u64::from(EventChannelOp::Close.raw()), World::SCRATCH];
    world.call(0, Hypercall::EventChannelOp, &close).unwrap();
    world.invariants();
}

#[test]
fn a_domain_that_crashes_while_it_waits_to_be_told_of_a_poll_is_forgotten_whole() {
    let (world, first, second) = connected(2);
    world.poll(0, &[first], world.sim().now() + MS).unwrap();
    assert_eq!(world.running(0), None);
    world.send(1, second).unwrap();
    world.enter(0);
    runs(&world, 0, 1);
    let fault = Exception {
        vector: 6,
        error_code: 0,
        address: 0,
    };
    world.raise(0, fault);
    world.invariants();
    assert_eq!(world.running(0), None);
    world.sim().advance(10 * MS);
    assert_eq!(world.enter(0), None);
    world.enter(1);
    runs(&world, 1, 2);
    world.invariants();
}
