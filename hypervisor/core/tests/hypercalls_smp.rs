//! Two CPUs at once: one acts in the middle of what the other does, at a moment that the test chooses.
#![cfg(not(loom))]
#![expect(
    clippy::unwrap_used,
    clippy::arithmetic_side_effects,
    reason = "a test fails by panicking"
)]

use bulkhead_abi::event::EventChannelOp;
use bulkhead_abi::mmu::{MmuExt, MmuExtOp};
use bulkhead_abi::sched::ShutdownReason;
use bulkhead_abi::{DomId, Hypercall, pte};
use bulkhead_core::EndPolicy;
use bulkhead_core::Machine;
use bulkhead_core::frames::{Kind, Mfn};
use bulkhead_core::ids::CpuId;
use bulkhead_core::lock;
use bulkhead_core::testing::{GuestSpec, SimConfig, World, check_locks};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

/// A world with two CPUs. Domain 1 goes anywhere, 2 is bound to the first CPU, 3 to the second.
fn world() -> World {
    check_locks();
    let config = SimConfig {
        free_frames: 3 * GuestSpec::FRAMES,
        cpus: 2,
    };
    let world = World::new(config, EndPolicy::LastDomain);
    world.sim().let_waiting_pass_time(false);
    for (id, home) in [(3, Some(1)), (2, Some(0)), (1, None)] {
        let guest = GuestSpec {
            home: home.map(CpuId::new),
            ..GuestSpec::default()
        };
        world.create(id, &guest).unwrap();
    }
    world
}

/// Lets everybody on `cpu` have a turn until `id` runs there.
fn wait_for(world: &World, cpu: usize, id: u16) {
    for _ in 0..10 {
        world.enter(cpu);
        if world.running(cpu) == Some((id, 0)) {
            return;
        }
        world.yield_now(cpu);
    }
    panic!("domain {id} does not come to run on CPU {cpu}");
}

fn ext(world: &World, cpu: usize, op: MmuExtOp, mfn: Mfn) {
    let record = MmuExt {
        cmd: op.raw(),
        arg1: mfn.raw(),
        arg2: 0,
    };
    world.write(cpu, World::SCRATCH, &record);
    let list = [World::SCRATCH, 1, 0, u64::from(DomId::SELF.raw())];
    world.call(cpu, Hypercall::MmuextOp, &list).unwrap();
}

/// Two domains, each on a CPU of its own, connected by a channel: the port of the first, that of the second.
fn connected() -> (World, u32, u32) {
    check_locks();
    let config = SimConfig {
        free_frames: 2 * GuestSpec::FRAMES,
        cpus: 2,
    };
    let world = World::new(config, EndPolicy::LastDomain);
    world.sim().let_waiting_pass_time(false);
    for (id, home) in [(1, 0), (2, 1)] {
        let guest = GuestSpec {
            home: Some(CpuId::new(home)),
            ..GuestSpec::default()
        };
        world.create(id, &guest).unwrap();
    }
    for cpu in [0, 1] {
        world.enter(cpu);
        world.boot(cpu);
    }
    let first = world.alloc_unbound(0, 2);
    let second = world.bind_interdomain(1, 1, first).unwrap();
    assert_eq!(world.take_pending(1), [second]);
    world.write(1, World::SHARED_INFO, &0_u8);
    (world, first, second)
}

/// Plays a world again and again: `act` happens on the first CPU and `inner` in the middle of it, at its first interruptible moment,
/// then at its second, and so on to its last. After each, `check` looks at what came of it.
fn at_every_moment(
    set: impl Fn() -> (World, u32, u32),
    act: impl Fn(&World, u32),
    inner: impl Fn(&World, u32) + Copy + Send + Sync + 'static,
    check: impl Fn(&World, u32, usize),
) {
    let mut moments = 0;
    loop {
        let (world, first, second) = set();
        let weak = world.downgrade();
        let left = AtomicUsize::new(moments);
        let is_done = Arc::new(AtomicBool::new(false));
        let tell = Arc::clone(&is_done);
        world.sim().set_interruption(move |_| {
            if left.fetch_sub(1, Ordering::Relaxed) == 0 {
                tell.store(true, Ordering::Relaxed);
                inner(&weak.upgrade().unwrap(), second);
            }
        });
        world.sim().allow_interruption(true);
        act(&world, first);
        world.sim().allow_interruption(false);
        if !is_done.load(Ordering::Relaxed) {
            break;
        }
        world.invariants();
        check(&world, first, moments);
        world.invariants();
        moments += 1;
    }
    // Where lock order is not checked, nobody is interrupted.
    assert!(
        moments > 3 || lock::is_any_held().is_none(),
        "{moments} moments only"
    );
}

#[test]
fn an_event_at_any_moment_of_a_block_wakes_the_guest() {
    at_every_moment(
        connected,
        |world, _| world.block(0),
        |world, port| world.send(1, port).unwrap(),
        |world, port, moment| {
            world.enter(0);
            assert_eq!(world.running(0), Some((1, 0)), "it sleeps on: moment {moment}");
            assert_eq!(world.take_upcall(0), [port], "moment {moment}");
        },
    );
}

#[test]
fn an_event_at_any_moment_of_a_poll_ends_it_masked_or_not() {
    for masked in [false, true] {
        at_every_moment(
            || {
                let (world, first, second) = connected();
                world.set_port_mask(0, first, masked);
                (world, first, second)
            },
            |world, port| {
                let end = world.sim().now() + 1_000_000;
                world.poll(0, &[port], end).unwrap();
            },
            |world, port| world.send(1, port).unwrap(),
            |world, port, moment| {
                world.enter(0);
                assert_eq!(world.running(0), Some((1, 0)), "it waits on: moment {moment}");
                assert!(world.is_pending(0, port));
                // Nothing of the poll is left: sleeping on a port that is masked, it is woken by nothing.
                world.set_port_mask(0, port, true);
                world.take_pending(0);
                world.write(0, World::SHARED_INFO, &0_u8);
                world.block(0);
                world.sim().advance(2_000_000);
                assert_eq!(world.enter(0), None, "moment {moment}");
            },
        );
    }
}

#[test]
fn an_event_at_any_moment_of_an_unmask_makes_an_upcall() {
    at_every_moment(
        || {
            let (world, first, second) = connected();
            world.set_port_mask(0, first, true);
            world.unmask_upcalls(0);
            (world, first, second)
        },
        |world, port| {
            world.write(0, World::SCRATCH, &port);
            let args = [u64::from(EventChannelOp::Unmask.raw()), World::SCRATCH];
            world.call(0, Hypercall::EventChannelOp, &args).unwrap();
        },
        |world, port| world.send(1, port).unwrap(),
        |world, port, moment| {
            world.enter(0);
            assert_eq!(world.take_upcall(0), [port], "moment {moment}");
        },
    );
}

#[test]
fn a_peer_that_closes_at_any_moment_of_a_send_leaves_both_ends_in_order() {
    at_every_moment(
        connected,
        |world, port| world.send(0, port).unwrap(),
        |world, port| {
            world.write(1, World::SCRATCH, &port);
            let args = [u64::from(EventChannelOp::Close.raw()), World::SCRATCH];
            world.call(1, Hypercall::EventChannelOp, &args).unwrap();
        },
        |world, port, moment| {
            assert_eq!(
                world.take_pending(1),
                [],
                "a closed port is not pending: moment {moment}"
            );
            // The end that is left waits for the same domain again.
            let again = world.bind_interdomain(1, 1, port).unwrap();
            assert_eq!(world.take_pending(1), [again], "moment {moment}");
        },
    );
}

#[test]
fn a_domain_that_ends_at_any_moment_of_another_s_turn_is_gone() {
    at_every_moment(
        connected,
        |world, port| {
            world.send(0, port).unwrap();
            world.yield_now(0);
        },
        |world, _| world.shut_down(1, ShutdownReason::Poweroff),
        |world, _, moment| {
            assert_eq!(world.running(0), Some((1, 0)), "moment {moment}");
            assert_eq!(world.enter(1), None, "moment {moment}");
        },
    );
}

/// A vCPU that waits can be taken by another CPU as soon as the run queue's lock is dropped, and its guest can take down the
/// tables that the first CPU still has loaded: through which it reaches the hypervisor itself.
#[test]
fn a_cpu_does_not_keep_the_tables_of_a_vcpu_that_others_may_take() {
    let world = world();
    wait_for(&world, 1, 3);
    wait_for(&world, 0, 1);
    // The second CPU has nothing to do, and who waits on the first may not come.
    world.block(1);
    assert_eq!((world.running(0), world.running(1)), (Some((1, 0)), None));
    let info = world.boot(0);
    let page = |pfn: u64| Mfn::new(world.read(0, info.mfn_list + pfn * 8)).unwrap();
    let first_table = info.pt_base >> 12;
    let (old, l3, new) = (page(first_table), page(first_table + 1), page(600));
    // Tables of its own; the builder's are held by the vCPU alone.
    world.write(0, 600 * 4096, &(l3.maddr() | 0x67));
    let read_only = [600 * 4096, new.maddr() | pte::PRESENT, 2];
    world.call(0, Hypercall::UpdateVaMapping, &read_only).unwrap();
    ext(&world, 0, MmuExtOp::PinL4Table, new);
    ext(&world, 0, MmuExtOp::UnpinTable, old);

    let (weak, is_done) = (world.downgrade(), Mutex::new(false));
    world.sim().set_interruption(move |_| {
        let world = weak.upgrade().unwrap();
        let mut is_done = is_done.lock().unwrap();
        if *is_done || world.enter(1) != Some((1, 0)) {
            return;
        }
        *is_done = true;
        ext(&world, 1, MmuExtOp::NewBaseptr, new);
        let typing = world.hv().memory().frames().typing(old).unwrap();
        assert_eq!((typing.count(), typing.kind()), (0, Kind::L4), "nothing keeps it");
        world.hv().invariants_at_any_time();
    });
    world.sim().allow_interruption(true);
    world.yield_now(0);
    world.sim().allow_interruption(false);
    assert_eq!((world.running(0), world.running(1)), (Some((2, 0)), Some((1, 0))));
    world.invariants();
}
