//! Several vCPUs in a domain: their first state, and how they come and go.
#![cfg(not(loom))]
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use bulkhead_abi::event::{BindIpi, EventChannelOp};
use bulkhead_abi::mmu::{MmuExt, MmuExtOp, UVMF_ALL, UVMF_INVLPG, UVMF_TLB_FLUSH};
use bulkhead_abi::sched::{SchedOp, ShutdownReason};
use bulkhead_abi::vcpu::{Runstate, RunstateInfo, VGCF_ONLINE, VcpuGuestContext, VcpuOp};
use bulkhead_abi::{DomId, Errno, Hypercall, pte};
use bulkhead_core::ids::CpuId;
use bulkhead_core::machine::Flush;
use bulkhead_core::paging::Level;
use bulkhead_core::testing::{GuestSpec, SimConfig, World, check_locks};
use bulkhead_core::{EndPolicy, Exception, Machine};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::{AtomicBool, AtomicUsize};

/// A machine with `cpus` CPUs and a domain that has `vcpus` vCPUs, the first of which runs on the first CPU.
fn world(cpus: u32, vcpus: u32) -> World {
    let config = SimConfig {
        free_frames: GuestSpec::FRAMES,
        cpus,
    };
    let world = World::new(config, EndPolicy::LastDomain);
    world.sim().let_waiting_pass_time(false);
    let guest = GuestSpec {
        vcpus,
        ..GuestSpec::default()
    };
    world.create(1, &guest).unwrap();
    assert_eq!(world.enter(0), Some((1, 0)));
    world.boot(0);
    world
}

fn up(world: &World, vcpu: u32) -> Result<u64, Errno> {
    world.vcpu_op(0, VcpuOp::Up, vcpu, 0)
}

fn is_up(world: &World, vcpu: u32) -> Result<u64, Errno> {
    world.vcpu_op(0, VcpuOp::IsUp, vcpu, 0)
}

/// What vCPU `vcpu` does, as the guest on `cpu` is told.
fn runstate(world: &World, cpu: usize, vcpu: u32) -> Runstate {
    world
        .vcpu_op(cpu, VcpuOp::GetRunstateInfo, vcpu, World::SCRATCH)
        .unwrap();
    let info: RunstateInfo = world.read(cpu, World::SCRATCH);
    Runstate::from_raw(info.state).unwrap()
}

#[test]
fn a_vcpu_begins_where_its_first_state_says() {
    let world = world(2, 2);
    assert_eq!(is_up(&world, 1), Ok(0));
    assert_eq!(up(&world, 1), Err(Errno::Inval), "it has no state");
    let mut state = world.first_state(0);
    state.user_regs.rbx = 77;
    state.gs_base_kernel = 0x1234;
    assert_eq!(world.initialise(0, 1, &state), Ok(0));
    world.invariants();
    assert_eq!(is_up(&world, 1), Ok(0), "it has a state, and waits to be started");
    assert_eq!(runstate(&world, 0, 1), Runstate::Offline);
    assert_eq!(world.initialise(0, 1, &state), Err(Errno::Exist));
    assert_eq!(world.initialise(0, 0, &state), Err(Errno::Exist));
    assert_eq!(world.initialise(0, 2, &state), Err(Errno::NoEnt));

    assert_eq!(up(&world, 1), Ok(0));
    assert_eq!(is_up(&world, 1), Ok(1));
    assert_eq!(world.enter(1), Some((1, 1)), "an idle CPU takes it");
    let regs = world.regs(1);
    assert_eq!(
        (regs.rip, regs.rsp, regs.rbx),
        (World::SECOND_ENTRY, World::STATE, 77)
    );
    assert_eq!(runstate(&world, 0, 1), Runstate::Running);
    world.invariants();
}

#[test]
fn a_state_that_says_online_starts_the_vcpu() {
    let world = world(2, 2);
    let mut state = world.first_state(0);
    state.flags |= VGCF_ONLINE;
    assert_eq!(world.initialise(0, 1, &state), Ok(0));
    assert_eq!(is_up(&world, 1), Ok(1));
    assert_eq!(world.enter(1), Some((1, 1)));
    world.invariants();
}

#[test]
fn a_state_that_is_refused_holds_nothing() {
    type Spoil = fn(&mut VcpuGuestContext);
    let world = world(1, 2);
    let root = world.first_state(0).ctrlreg[3];
    let spoils: [Spoil; 5] = [
        |state| state.ctrlreg[3] += 0x1000,
        |state| state.ctrlreg[1] = state.ctrlreg[3] + 0x1000,
        // A page table is no page of descriptors.
        |state| {
            state.gdt_ents = 1;
            state.gdt_frames[0] = state.ctrlreg[3] >> 12;
        },
        |state| state.user_regs.rip = 1 << 47,
        |state| state.debugreg[7] = 1 << 13,
    ];
    for (n, spoil) in spoils.into_iter().enumerate() {
        let mut state = world.first_state(0);
        state.ctrlreg[1] = root;
        spoil(&mut state);
        assert_eq!(world.initialise(0, 1, &state), Err(Errno::Inval), "{n}");
        assert_eq!(up(&world, 1), Err(Errno::Inval), "{n}");
        world.invariants();
    }
}

#[test]
fn a_vcpu_that_goes_down_goes_on_where_it_was() {
    for cpus in [1, 2] {
        let world = World::started(cpus);
        let second = cpus as usize - 1;
        if cpus == 1 {
            world.yield_now(0);
        }
        assert_eq!(world.enter(second), Some((1, 1)));
        world.regs_mut(second).rip = 0x1300;
        world.regs_mut(second).rbx = 5;
        assert_eq!(world.vcpu_op(second, VcpuOp::Down, 1, 0), Ok(0));
        world.invariants();
        assert_ne!(world.running(second), Some((1, 1)), "it is gone from its CPU");
        assert_eq!(world.enter(0), Some((1, 0)));
        assert_eq!(runstate(&world, 0, 1), Runstate::Offline);
        assert_eq!(is_up(&world, 1), Ok(0));

        assert_eq!(up(&world, 1), Ok(0));
        if cpus == 1 {
            world.yield_now(0);
        }
        assert_eq!(world.enter(second), Some((1, 1)));
        let regs = world.regs(second);
        assert_eq!((regs.rip, regs.rbx, regs.rax), (0x1300, 5, 0));
        world.invariants();
    }
}

#[test]
fn a_vcpu_is_taken_down_by_another_wherever_it_is() {
    // On a CPU.
    let world = World::started(2);
    assert_eq!(world.enter(1), Some((1, 1)));
    assert_eq!(world.vcpu_op(0, VcpuOp::Down, 1, 0), Ok(0));
    world.invariants();
    assert_eq!(world.enter(1), None, "its CPU was told");
    assert_eq!(runstate(&world, 0, 1), Runstate::Offline);
    // Waiting for one.
    let world = World::started(1);
    assert_eq!(runstate(&world, 0, 1), Runstate::Runnable);
    assert_eq!(world.vcpu_op(0, VcpuOp::Down, 1, 0), Ok(0));
    assert_eq!(runstate(&world, 0, 1), Runstate::Offline);
    world.invariants();
    // Asleep.
    let world = World::started(2);
    assert_eq!(world.enter(1), Some((1, 1)));
    world
        .call(1, Hypercall::SchedOp, &[u64::from(SchedOp::Block.raw())])
        .unwrap();
    assert_eq!(runstate(&world, 0, 1), Runstate::Blocked);
    assert_eq!(world.vcpu_op(0, VcpuOp::Down, 1, 0), Ok(0));
    assert_eq!(runstate(&world, 0, 1), Runstate::Offline);
    world.invariants();
}

#[test]
fn a_vcpu_that_is_down_is_not_woken_and_finds_its_events_when_it_is_up() {
    let world = World::started(2);
    assert_eq!(world.enter(1), Some((1, 1)));
    let ipi = BindIpi { vcpu: 1, port: 0 };
    let port = world.event_op(0, EventChannelOp::BindIpi, ipi).unwrap().port;
    world.unmask_upcalls(1);
    assert_eq!(world.vcpu_op(0, VcpuOp::Down, 1, 0), Ok(0));
    assert_eq!(world.enter(1), None);
    world.send(0, port).unwrap();
    assert_eq!(world.enter(1), None);
    world.invariants();
    assert_eq!(up(&world, 1), Ok(0));
    assert_eq!(world.enter(1), Some((1, 1)));
    assert_eq!(world.take_upcall(1), [port]);
    world.invariants();
}

#[test]
fn a_vcpu_that_is_down_has_no_timer() {
    let world = World::started(2);
    assert_eq!(world.enter(1), Some((1, 1)));
    let soon = world.sim().now() + 1_000_000;
    world.set_timer(1, soon, 0).unwrap();
    assert_eq!(world.vcpu_op(0, VcpuOp::Down, 1, 0), Ok(0));
    // It is still on its CPU, and sets another.
    world.invariants();
    assert_eq!(world.enter(1), None);
    world.sim().advance(2_000_000);
    assert_eq!(world.enter(1), None);
    world.invariants();
}

#[test]
fn the_last_vcpu_that_goes_down_ends_the_domain() {
    let world = World::started(2);
    assert_eq!(world.enter(1), Some((1, 1)));
    assert_eq!(world.vcpu_op(0, VcpuOp::Down, 0, 0), Ok(0));
    assert_eq!(world.running(0), None);
    assert_eq!(world.sim().stopped(), None, "the second is still up");
    assert_eq!(world.vcpu_op(1, VcpuOp::Down, 0, 0), Ok(0), "it is down already");
    assert_eq!(world.running(1), Some((1, 1)));
    world.vcpu_op(1, VcpuOp::Down, 1, 0).unwrap();
    assert_eq!(world.running(1), None);
    assert_eq!(
        world.sim().stopped(),
        Some(bulkhead_core::machine::Outcome::Clean)
    );
    world.invariants();
}

#[test]
fn whatever_vcpu_ends_the_domain_all_of_them_stop() {
    let crash: fn(&World) = |world| {
        let fault = Exception {
            vector: 14,
            error_code: 0,
            address: 0,
        };
        world.raise(1, fault);
    };
    let leave: fn(&World) = |world| world.shut_down(1, ShutdownReason::Poweroff);
    for end in [crash, leave] {
        let world = World::started(2);
        assert_eq!(world.enter(1), Some((1, 1)));
        end(&world);
        assert_eq!(world.running(1), None);
        assert_eq!(world.enter(0), None, "the first is stopped, too");
        world.invariants();
    }
}

#[test]
fn who_is_taken_down_and_brought_up_has_no_more_time_than_who_is_not() {
    // A rival on the same CPU, and a domain whose first vCPU restarts the second whenever it can.
    let config = SimConfig {
        free_frames: 2 * GuestSpec::FRAMES,
        cpus: 1,
    };
    let world = World::new(config, EndPolicy::LastDomain);
    world.sim().let_waiting_pass_time(false);
    let two = GuestSpec {
        vcpus: 2,
        ..GuestSpec::default()
    };
    world.create(1, &two).unwrap();
    world.create(2, &GuestSpec::default()).unwrap();
    while world.enter(0) != Some((1, 0)) {
        world.yield_now(0);
    }
    world.boot(0);
    let state = world.first_state(0);
    world.initialise(0, 1, &state).unwrap();
    let mut ran = [0_u64; 2];
    for _ in 0..4000 {
        match world.running(0) {
            Some((1, 0)) => {
                up(&world, 1).unwrap();
                world.yield_now(0);
            }
            Some((1, 1)) => {
                // As long as it may before anybody else is as entitled to the CPU.
                ran[0] += 900_000;
                world.spin(0, 900_000);
                if world.running(0) == Some((1, 1)) {
                    world.vcpu_op(0, VcpuOp::Down, 1, 0).unwrap();
                }
            }
            _ => {
                ran[1] += 100_000;
                world.spin(0, 100_000);
            }
        }
    }
    world.invariants();
    assert!(ran[0] < ran[1] * 3 / 2, "restarted {}, rival {}", ran[0], ran[1]);
}

/// Where a page is that vCPUs read, so that their CPUs remember it.
const PAGE: u64 = 0x10_0000;

/// The domain's two vCPUs run on the first two CPUs, another domain on the third, and each CPU remembers a page of whom it runs.
fn remembering() -> World {
    let config = SimConfig {
        free_frames: 2 * GuestSpec::FRAMES,
        cpus: 3,
    };
    let world = World::new(config, EndPolicy::LastDomain);
    world.sim().let_waiting_pass_time(false);
    let other = GuestSpec {
        home: Some(CpuId::new(2)),
        ..GuestSpec::default()
    };
    world.create(2, &other).unwrap();
    assert_eq!(world.enter(2), Some((2, 0)));
    let two = GuestSpec {
        vcpus: 2,
        ..GuestSpec::default()
    };
    world.create(1, &two).unwrap();
    assert_eq!(world.enter(0), Some((1, 0)));
    world.boot(0);
    let state = world.first_state(0);
    world.initialise(0, 1, &state).unwrap();
    up(&world, 1).unwrap();
    assert_eq!(world.enter(1), Some((1, 1)));
    for cpu in 0..3 {
        let _: u64 = world.read(cpu, PAGE);
    }
    assert_eq!(rememberers(&world), [true; 3]);
    world
}

/// Which CPUs remember the page.
fn rememberers(world: &World) -> [bool; 3] {
    [0, 1, 2].map(|cpu| {
        let cached = world.sim().cached(CpuId::new(cpu));
        cached
            .iter()
            .any(|entry| entry.va == PAGE && entry.level == Level::L1)
    })
}

/// Where a set of vCPUs lies.
const SET: u64 = World::LIST;

#[test]
fn a_flush_reaches_the_cpus_of_the_vcpus_that_it_names_and_no_other() {
    for (op, set, left) in [
        (MmuExtOp::TlbFlushMulti, 0b10, [true, false, true]),
        (MmuExtOp::TlbFlushMulti, 0b01, [false, true, true]),
        (MmuExtOp::TlbFlushMulti, !0, [false, false, true]),
        (MmuExtOp::TlbFlushMulti, !0b11, [true, true, true]),
        (MmuExtOp::InvlpgMulti, 0b10, [true, false, true]),
        (MmuExtOp::InvlpgMulti, 0b11, [false, false, true]),
        (MmuExtOp::TlbFlushAll, 0, [false, false, true]),
        (MmuExtOp::InvlpgAll, 0, [false, false, true]),
        (MmuExtOp::TlbFlushLocal, 0, [false, true, true]),
        (MmuExtOp::InvlpgLocal, 0, [false, true, true]),
    ] {
        let world = remembering();
        world.write(0, SET, &set);
        let op = MmuExt {
            cmd: op.raw(),
            arg1: PAGE,
            arg2: SET,
        };
        world.write(0, World::SCRATCH, &op);
        let list = [World::SCRATCH, 1, 0, u64::from(DomId::SELF.raw())];
        assert_eq!(world.call(0, Hypercall::MmuextOp, &list), Ok(0), "{op:?}");
        assert_eq!(rememberers(&world), left, "{op:?} of {set:#b}");
        world.invariants();
    }
}

#[test]
fn a_new_mapping_is_seen_by_the_vcpus_that_are_named_and_by_none_if_they_cannot_be_read() {
    let entry = |world: &World| {
        let found = world.sim().cached(CpuId::BOOT);
        let page = found
            .iter()
            .find(|entry| entry.va == PAGE && entry.level == Level::L1);
        page.unwrap().frame.maddr() | pte::PRESENT
    };
    for (flags, set, left) in [
        (UVMF_INVLPG | SET, 0b10_u64, [true, false, true]),
        (UVMF_TLB_FLUSH | SET, 0b11, [false, false, true]),
        (UVMF_INVLPG | UVMF_ALL, 0, [false, false, true]),
        (UVMF_INVLPG, 0, [false, true, true]),
    ] {
        let world = remembering();
        let args = [PAGE, entry(&world), flags];
        world.write(0, SET, &set);
        assert_eq!(world.call(0, Hypercall::UpdateVaMapping, &args), Ok(0));
        assert_eq!(rememberers(&world), left, "{flags:#x}");
    }
    let world = remembering();
    let args = [PAGE, 0, UVMF_INVLPG | 0x7000_0000_0000];
    let answer = world.call(0, Hypercall::UpdateVaMapping, &args);
    assert_eq!(answer, Err(Errno::Fault));
    world.sim().flush(Flush::All);
    let _: u64 = world.read(0, PAGE);
}

#[test]
fn a_vcpu_that_does_not_run_remembers_nothing_and_nobody_is_interrupted_for_it() {
    let world = remembering();
    assert_eq!(world.vcpu_op(0, VcpuOp::Down, 1, 0), Ok(0));
    assert_eq!(world.enter(1), None);
    assert_eq!(rememberers(&world), [true, false, true]);
    let before = world.sim().flushes();
    world.write(0, SET, &0b10_u64);
    let op = MmuExt {
        cmd: MmuExtOp::TlbFlushMulti.raw(),
        arg1: 0,
        arg2: SET,
    };
    world.write(0, World::SCRATCH, &op);
    let list = [World::SCRATCH, 1, 0, u64::from(DomId::SELF.raw())];
    assert_eq!(world.call(0, Hypercall::MmuextOp, &list), Ok(0));
    assert_eq!(world.sim().flushes(), before);
}

#[test]
fn a_vcpu_that_ends_its_domain_while_another_does_goes_no_further() {
    check_locks();
    for moment in 0.. {
        let world = World::started(2);
        assert_eq!(world.enter(1), Some((1, 1)));
        world.write(1, World::SCRATCH, &0_u32);
        let left = AtomicUsize::new(moment);
        let came = Arc::new(AtomicBool::new(false));
        let (weak, tell) = (world.downgrade(), Arc::clone(&came));
        world.sim().set_interruption(move |_| {
            if left.fetch_sub(1, Relaxed) != 0 {
                return;
            }
            tell.store(true, Relaxed);
            let world = weak.upgrade().unwrap();
            if world.running(1).is_some() {
                // It has no handler for that.
                world.raise(
                    1,
                    Exception {
                        vector: 0,
                        error_code: 0,
                        address: 0,
                    },
                );
                assert_eq!(world.running(1), None, "at moment {moment}");
            }
        });
        world.sim().allow_interruption(true);
        let _ = world.call(
            0,
            Hypercall::SchedOp,
            &[u64::from(SchedOp::Shutdown.raw()), World::SCRATCH],
        );
        world.sim().allow_interruption(false);
        assert_eq!(
            [0, 1].map(|cpu| world.enter(cpu)),
            [None; 2],
            "at moment {moment}"
        );
        world.invariants();
        if !came.load(Relaxed) {
            assert!(moment > 5, "nobody came between");
            return;
        }
    }
}
