//! Who runs: blocking, waking, polling, timers, turns, and the end of domains. Guests are played through the hypervisor's own
//! doors, and every law is checked as they go.
#![cfg(not(loom))]

use bulkhead_abi::event::Virq;
use bulkhead_core::testing::{GuestSpec, SimConfig, World};
use bulkhead_core::{EndPolicy, Machine};

const MS: u64 = 1_000_000;

/// The guest that runs on `cpu` must be domain `id`.
#[track_caller]
fn runs(world: &World, cpu: usize, id: u16) {
    assert_eq!(world.running(cpu), Some((id, 0)));
}

#[test]
fn all_that_wake_at_the_same_moment_get_their_turn() {
    const DOMAINS: u16 = 9;
    let mut world = World::new(
        SimConfig {
            free_frames: 1025 * u64::from(DOMAINS),
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
