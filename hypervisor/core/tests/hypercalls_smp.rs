//! Two CPUs at once: one acts in the middle of what the other does, at a moment that the test chooses.
#![cfg(not(loom))]
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use bulkhead_abi::mmu::{MmuExt, MmuExtOp};
use bulkhead_abi::{DomId, Hypercall, pte};
use bulkhead_core::EndPolicy;
use bulkhead_core::frames::{Kind, Mfn};
use bulkhead_core::ids::CpuId;
use bulkhead_core::lock;
use bulkhead_core::testing::{GuestSpec, SimConfig, World};
use std::cell::Cell;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Turns the checks of lock order on: without them nobody knows when a CPU can be interrupted. Each thread is a CPU to them.
fn check_locks() {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    thread_local! {
        static NUMBER: Cell<usize> = Cell::new(NEXT.fetch_add(1, Ordering::Relaxed));
    }
    lock::use_cpu_number(|| NUMBER.get());
}

/// A world with two CPUs. Domain 1 goes anywhere, 2 is bound to the first CPU, 3 to the second.
fn world() -> World {
    check_locks();
    let config = SimConfig {
        free_frames: 3 * 1025,
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
        assert_eq!((typing.count, typing.kind), (0, Kind::L4), "nothing keeps it");
        world.hv().invariants_at_any_time();
    });
    world.sim().allow_interruption(true);
    world.yield_now(0);
    world.sim().allow_interruption(false);
    assert_eq!((world.running(0), world.running(1)), (Some((2, 0)), Some((1, 0))));
    world.invariants();
}
