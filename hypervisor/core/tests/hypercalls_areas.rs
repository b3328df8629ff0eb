//! Records in a guest's memory that the hypervisor keeps: the runstate area and a `vcpu_info` of the guest's own.
#![cfg(not(loom))]
#![expect(
    clippy::unwrap_used,
    clippy::arithmetic_side_effects,
    reason = "a test fails by panicking"
)]

use bulkhead_abi::event::Virq;
use bulkhead_abi::mmu::{MmuExt, MmuExtOp, UVMF_INVLPG, VmAssistOp, VmAssistType};
use bulkhead_abi::shared_info::{VcpuInfo, VcpuTimeInfo, offset};
use bulkhead_abi::start_info::StartInfo;
use bulkhead_abi::vcpu::{RUNSTATE_UPDATE, RegisterArea, RegisterVcpuInfo, Runstate, RunstateInfo, VcpuOp};
use bulkhead_abi::{Errno, Hypercall, layout, pte};
use bulkhead_core::testing::{GuestSpec, SimConfig, World};
use bulkhead_core::{EndPolicy, Machine};

const MS: u64 = 1_000_000;
/// Free memory that the first mapping covers.
const PAGE: u64 = 0x3f_0000;

/// One CPU with the domains 1 and 2, both of which have booted. Domain 1 runs.
fn world() -> (World, StartInfo) {
    let config = SimConfig {
        free_frames: 2 * GuestSpec::FRAMES,
        cpus: 1,
    };
    let world = World::new(config, EndPolicy::LastDomain);
    for id in 1..=2 {
        world.create(id, &GuestSpec::default()).unwrap();
    }
    world.enter(0);
    let info = world.boot(0);
    world.yield_now(0);
    world.boot(0);
    world.yield_now(0);
    assert_eq!(world.running(0), Some((1, 0)));
    (world, info)
}

fn vcpu_op<T: bulkhead_abi::Buffered>(world: &mut World, op: VcpuOp, record: &T) -> Result<u64, Errno> {
    world.write(0, World::SCRATCH, record);
    let answer = world.call(0, Hypercall::VcpuOp, &[u64::from(op.raw()), 0, World::SCRATCH]);
    world.invariants();
    answer
}

fn register_runstate(world: &mut World, va: u64) -> Result<u64, Errno> {
    vcpu_op(world, VcpuOp::RegisterRunstateMemoryArea, &RegisterArea { va })
}

/// The frame that domain 1 has mapped at `va`, by its own page list.
fn mfn_at(world: &World, info: &StartInfo, va: u64) -> u64 {
    world.read(0, info.mfn_list + va / 4096 * 8)
}

#[test]
fn the_runstate_area_is_true_from_its_registration_on_and_after_each_turn() {
    let (mut world, _) = world();
    register_runstate(&mut world, PAGE).unwrap();
    let first: RunstateInfo = world.read(0, PAGE);
    assert_eq!(first.state, Runstate::Running.raw());

    world.sim().advance(3 * MS);
    let left = world.sim().now();
    world.yield_now(0);
    assert_eq!(world.running(0), Some((2, 0)));
    world.sim().advance(2 * MS);
    world.yield_now(0);
    assert_eq!(world.running(0), Some((1, 0)));
    let second: RunstateInfo = world.read(0, PAGE);
    assert_eq!(second.state, Runstate::Running.raw());
    assert_eq!(second.state_entry_time, left + 2 * MS);
    assert_eq!(
        second.time_ns[0] - first.time_ns[0],
        left - first.state_entry_time
    );
    assert_eq!(second.time_ns[1] - first.time_ns[1], 2 * MS);
    world.invariants();
}

#[test]
fn the_update_flag_is_never_left_standing() {
    let (mut world, _) = world();
    let assist = [
        u64::from(VmAssistOp::Enable.raw()),
        u64::from(VmAssistType::RunstateUpdateFlag.raw()),
    ];
    world.call(0, Hypercall::VmAssist, &assist).unwrap();
    register_runstate(&mut world, PAGE).unwrap();
    let info: RunstateInfo = world.read(0, PAGE);
    assert_eq!(info.state_entry_time & RUNSTATE_UPDATE, 0);
}

#[test]
fn a_runstate_area_may_lie_in_two_pages() {
    let (mut world, _) = world();
    let va = PAGE + 4096 - 16;
    register_runstate(&mut world, va).unwrap();
    let before: RunstateInfo = world.read(0, va);
    world.sim().advance(MS);
    world.yield_now(0);
    world.yield_now(0);
    let after: RunstateInfo = world.read(0, va);
    let spent = |info: &RunstateInfo| info.time_ns.iter().sum::<u64>();
    assert_eq!(
        spent(&after) - spent(&before),
        after.state_entry_time - before.state_entry_time
    );
    assert!(after.state_entry_time >= before.state_entry_time + MS);
}

#[test]
fn the_page_of_a_runstate_area_can_be_no_table_until_the_area_moves() {
    let (mut world, info) = world();
    register_runstate(&mut world, PAGE).unwrap();
    let mfn = mfn_at(&world, &info, PAGE);
    // Unmapped, it is writable memory all the same: the hypervisor writes it.
    world
        .call(0, Hypercall::UpdateVaMapping, &[PAGE, 0, UVMF_INVLPG])
        .unwrap();
    let pin = |world: &mut World| {
        let op = MmuExt {
            cmd: MmuExtOp::PinL1Table.raw(),
            arg1: mfn,
            ..MmuExt::default()
        };
        world.write(0, World::SCRATCH, &op);
        world.call(0, Hypercall::MmuextOp, &[World::SCRATCH, 1, 0, 0x7ff0])
    };
    assert_eq!(pin(&mut world), Err(Errno::Inval));
    register_runstate(&mut world, PAGE + 4096).unwrap();
    // What the hypervisor wrote there makes no entries.
    let entry = mfn << 12 | pte::PRESENT | pte::WRITABLE;
    world
        .call(0, Hypercall::UpdateVaMapping, &[PAGE, entry, UVMF_INVLPG])
        .unwrap();
    for at in (PAGE..PAGE + 48).step_by(8) {
        world.write(0, at, &0_u64);
    }
    world
        .call(0, Hypercall::UpdateVaMapping, &[PAGE, 0, UVMF_INVLPG])
        .unwrap();
    assert_eq!(pin(&mut world), Ok(0));
    world.invariants();
}

#[test]
fn a_runstate_area_that_the_guest_could_not_write_is_refused() {
    let (mut world, info) = world();
    for (va, error) in [
        (PAGE + 4, Errno::Inval),
        (layout::HYPERVISOR.start, Errno::Fault),
        (1 << 46, Errno::Fault),
        // Its own page tables are mapped read-only.
        (info.pt_base, Errno::Fault),
    ] {
        assert_eq!(register_runstate(&mut world, va), Err(error), "{va:#x}");
    }
    // The second of two pages counts too, and the first is let go.
    let last = info.pt_base - 8;
    assert_eq!(register_runstate(&mut world, last), Err(Errno::Fault));
}

#[test]
fn a_vcpu_info_that_moves_takes_what_is_pending_along() {
    let (mut world, info) = world();
    let mfn = mfn_at(&world, &info, PAGE);
    let port = world.bind_virq(0, Virq::Timer).unwrap();
    world.set_timer(0, world.sim().now() + MS, 0).unwrap();
    world.spin(0, 2 * MS);
    if world.running(0) == Some((2, 0)) {
        world.yield_now(0);
    }
    assert!(
        world.is_pending(0, port) && !world.is_in_upcall(0),
        "upcalls are masked"
    );
    let record = RegisterVcpuInfo {
        mfn,
        offset: 64,
        ..RegisterVcpuInfo::default()
    };
    vcpu_op(&mut world, VcpuOp::RegisterVcpuInfo, &record).unwrap();
    let moved: VcpuInfo = world.read(0, PAGE + 64);
    assert_eq!((moved.evtchn_upcall_pending, moved.evtchn_upcall_mask), (1, 1));
    assert_eq!(moved.evtchn_pending_sel, u64::MAX);
    assert!(moved.time.version.is_multiple_of(2) && moved.time.tsc_to_system_mul != 0);

    // From now on the new place counts: unmasked there, the upcall comes.
    world.write(0, PAGE + 64 + offset::UPCALL_MASK as u64, &0_u8);
    world.call(0, Hypercall::XenVersion, &[0]).unwrap();
    assert!(world.is_in_upcall(0) && world.is_pending(0, port));
    world.invariants();
}

#[test]
fn a_vcpu_info_moves_once_and_only_to_where_all_of_it_fits() {
    let (mut world, info) = world();
    let mfn = mfn_at(&world, &info, PAGE);
    let table = mfn_at(&world, &info, info.pt_base);
    let register = |world: &mut World, mfn: u64, offset: u32| {
        let record = RegisterVcpuInfo {
            mfn,
            offset,
            ..RegisterVcpuInfo::default()
        };
        vcpu_op(world, VcpuOp::RegisterVcpuInfo, &record)
    };
    for (mfn, offset) in [
        (mfn, 4),
        (mfn, 4096 - 56),
        (mfn, u32::MAX - 7),
        (u64::MAX, 0),
        (table, 0),
    ] {
        assert_eq!(
            register(&mut world, mfn, offset),
            Err(Errno::Inval),
            "{mfn:#x} {offset}"
        );
    }
    assert_eq!(register(&mut world, mfn, 4096 - 64), Ok(0));
    assert_eq!(register(&mut world, mfn, 0), Err(Errno::Inval));
}

/// Shared info is where every `vcpu_info` is at first: one that was moved there could be moved again and again, with a hold each time.
#[test]
fn a_vcpu_info_does_not_move_to_shared_info() {
    let (mut world, info) = world();
    for offset in [0, 64, 3136] {
        let record = RegisterVcpuInfo {
            mfn: info.shared_info >> 12,
            offset,
            ..RegisterVcpuInfo::default()
        };
        let answer = vcpu_op(&mut world, VcpuOp::RegisterVcpuInfo, &record);
        assert_eq!(answer, Err(Errno::Inval), "at {offset}");
    }
}

fn register_clock(world: &mut World, va: u64) -> Result<u64, Errno> {
    vcpu_op(world, VcpuOp::RegisterVcpuTimeMemoryArea, &RegisterArea { va })
}

#[test]
fn a_copy_of_the_clock_is_kept_where_it_was_registered_until_it_is_taken_back() {
    let (mut world, info) = world();
    // Across the end of a page.
    let place = PAGE + 0x1000 - 16;
    assert_eq!(register_clock(&mut world, place), Ok(0));
    let original =
        |world: &World| -> VcpuTimeInfo { world.read(0, World::SHARED_INFO + offset::TIME as u64) };
    let copy = |world: &World| -> VcpuTimeInfo { world.read(0, place) };
    let first = copy(&world);
    assert_eq!(first, original(&world));
    assert_eq!(first.version % 2, 0);
    assert_eq!(
        first.system_time_ns_at(world.sim().clock().tsc),
        world.sim().now()
    );

    // The guest writes over the version, and moves on.
    world.write(0, place, &u64::MAX);
    world.sim().advance(MS);
    assert_eq!(register_clock(&mut world, PAGE + 0x2000), Ok(0));
    let second: VcpuTimeInfo = world.read(0, PAGE + 0x2000);
    assert_eq!(second.version, first.version + 2);
    assert_eq!(second, original(&world));

    // Held pages are no tables; taken back, they may be.
    let frame = mfn_at(&world, &info, PAGE + 0x2000);
    let pin = |world: &mut World| {
        let args = [PAGE + 0x2000, frame << 12 | pte::PRESENT, UVMF_INVLPG];
        world.call(0, Hypercall::UpdateVaMapping, &args).unwrap();
        let op = MmuExt {
            cmd: MmuExtOp::PinL1Table.raw(),
            arg1: frame,
            arg2: 0,
        };
        world.write(0, World::SCRATCH, &op);
        let list = [World::SCRATCH, 1, 0, 0x7ff0];
        world.call(0, Hypercall::MmuextOp, &list)
    };
    for word in 0..4 {
        world.write(0, PAGE + 0x2000 + word * 8, &0_u64);
    }
    assert_eq!(pin(&mut world), Err(Errno::Inval));
    assert_eq!(register_clock(&mut world, 0), Ok(0));
    assert_eq!(pin(&mut world), Ok(0));
    world.invariants();
}
