//! Segments that cannot be loaded when a vCPU comes back to a CPU: its kernel is told by the failsafe callback.
#![cfg(not(loom))]
#![expect(
    clippy::unwrap_used,
    clippy::arithmetic_side_effects,
    reason = "a test fails by panicking"
)]

use bulkhead_abi::callback::{CALLBACK_MASK_EVENTS, CallbackOp, CallbackRegister, CallbackType};
use bulkhead_abi::mmu::{MmuExt, MmuExtOp, UVMF_INVLPG};
use bulkhead_abi::shared_info::offset;
use bulkhead_abi::trap::{FailsafeFrame, IretFrame};
use bulkhead_abi::{Hypercall, layout, pte, selectors};
use bulkhead_core::EndPolicy;
use bulkhead_core::testing::{GuestSpec, SimConfig, World};
use bulkhead_core::vcpu::{Mode, Segments};

/// The page of the local descriptors.
const TABLE: u64 = 600 << 12;
/// A data segment of ring 3.
const DATA: u64 = 0x0040_f300_0000_0fff;
/// The selectors of local descriptors 1 and 2.
const LOCAL: [u16; 2] = [0xf, 0x17];

/// One CPU with the domains 1 and 2. Domain 1 runs, and has two local descriptors in its registers.
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
        let info = world.boot(0);
        for descriptor in 1..3 {
            world.write(0, TABLE + descriptor * 8, &DATA);
        }
        let frame: u64 = world.read(0, info.mfn_list + (TABLE >> 12) * 8);
        let args = [TABLE, frame << 12 | pte::PRESENT, UVMF_INVLPG];
        world.call(0, Hypercall::UpdateVaMapping, &args).unwrap();
        world.yield_now(0);
    }
    assert_eq!(world.running(0), Some((1, 0)));
    set_table(&world, 3);
    world.sim().set_segments(loaded());
    world
}

fn loaded() -> Segments {
    let [first, second] = LOCAL;
    Segments {
        ds: first,
        es: selectors::FLAT_RING3_SS,
        fs: second,
        gs: 0,
        fs_base: 0x1000,
        ..Segments::default()
    }
}

fn set_table(world: &World, entries: u64) {
    let record = MmuExt {
        cmd: MmuExtOp::SetLdt.raw(),
        arg1: TABLE,
        arg2: entries,
    };
    world.write(0, World::SCRATCH, &record);
    let args = [World::SCRATCH, 1, 0, 0x7ff0];
    world.call(0, Hypercall::MmuextOp, &args).unwrap();
}

fn register(world: &World, flags: u16, address: u64) {
    let record = CallbackRegister {
        callback_type: CallbackType::Failsafe.raw(),
        flags,
        address,
    };
    world.write(0, World::SCRATCH, &record);
    let args = [CallbackOp::Register.raw().into(), World::SCRATCH];
    world.call(0, Hypercall::CallbackOp, &args).unwrap();
}

/// Lets the other domain run, and comes back.
fn switch(world: &World) {
    world.yield_now(0);
    assert_eq!(world.running(0), Some((2, 0)));
    world.yield_now(0);
}

fn upcalls_masked(world: &World) -> bool {
    world.read::<u8>(0, world.vcpu_info(0) + offset::UPCALL_MASK as u64) != 0
}

#[test]
fn segments_that_are_still_there_are_loaded_again_and_nobody_is_told() {
    let world = world();
    let before = world.regs(0);
    switch(&world);
    assert_eq!(
        (world.regs(0).rip, world.sim().segments()),
        (before.rip, loaded())
    );
}

#[test]
fn a_kernel_whose_segments_are_gone_is_told_which_they_were() {
    let world = world();
    register(&world, 0, World::FAILSAFE_CALLBACK);
    world.unmask_upcalls(0);
    set_table(&world, 2);
    let before = world.regs(0);
    assert_eq!(
        world.sim().segments(),
        loaded(),
        "nothing is loaded before a switch"
    );
    switch(&world);
    let after = world.regs(0);
    assert_eq!(after.rip, World::FAILSAFE_CALLBACK);
    assert_eq!(after.rsp, (before.rsp & !0xf) - 88);
    let frame: FailsafeFrame = world.read(0, after.rsp);
    let [first, second] = LOCAL.map(u64::from);
    let expected = FailsafeFrame {
        rcx: before.rcx,
        r11: before.r11,
        ds: first,
        es: selectors::FLAT_RING3_SS.into(),
        fs: second,
        gs: 0,
        rip: before.rip,
        cs: u64::from(selectors::FLAT_RING3_CS64 & !3),
        rflags: before.rflags,
        rsp: before.rsp,
        ss: selectors::FLAT_RING3_SS.into(),
    };
    assert_eq!(frame, expected);
    // What was not in the table any more is null, and all else is as it was.
    assert_eq!(world.sim().segments(), Segments { fs: 0, ..loaded() });
    assert!(!upcalls_masked(&world));
    switch(&world);
    assert_eq!(world.regs(0).rip, World::FAILSAFE_CALLBACK, "told once");
    world.invariants();
}

#[test]
fn events_are_masked_at_the_callback_if_it_was_registered_so() {
    for flags in [0, CALLBACK_MASK_EVENTS] {
        let world = world();
        register(&world, flags, World::FAILSAFE_CALLBACK);
        world.unmask_upcalls(0);
        set_table(&world, 0);
        switch(&world);
        assert_eq!(world.regs(0).rip, World::FAILSAFE_CALLBACK);
        assert_eq!(upcalls_masked(&world), flags != 0);
        let frame: FailsafeFrame = world.read(0, world.regs(0).rsp);
        assert_eq!(frame.cs >> 32, 0, "they were not masked before");
    }
}

#[test]
fn a_program_whose_segments_are_gone_is_left_for_its_kernel() {
    let world = world();
    world.allow_programs(0);
    set_table(&world, 0);
    let frame = IretFrame {
        rip: 0x1_2340,
        cs: selectors::FLAT_RING3_CS64.into(),
        rflags: 0x202,
        rsp: 0x7000,
        ss: selectors::FLAT_RING3_SS.into(),
        ..IretFrame::default()
    };
    world.write(0, World::FRAME, &frame);
    world.regs_mut(0).rsp = World::FRAME;
    world.iret(0);
    assert_eq!(world.mode(0), Some(Mode::User));
    // It computes for longer than its turn.
    for domain in [2, 1] {
        for _ in 0..1000 {
            if world.running(0) != Some((domain, 0)) {
                world.spin(0, 1_000_000);
            }
        }
    }
    assert_eq!(world.running(0), Some((1, 0)));
    assert_eq!(
        (world.mode(0), world.regs(0).rip),
        (Some(Mode::Kernel), World::FAILSAFE_CALLBACK)
    );
    assert_eq!(world.regs(0).rsp, World::STACK - 88);
    let told: FailsafeFrame = world.read(0, World::STACK - 88);
    assert_eq!((told.rip, told.cs, told.rsp), (0x1_2340, 0xe033, 0x7000));
    world.invariants();
}

#[test]
fn a_guest_that_cannot_be_told_ends() {
    type Spoil = fn(&World);
    let spoils: [Spoil; 3] = [
        |world| register(world, 0, 0),
        // The selectors would go to the hypervisor's memory, and all else to the guest's.
        |world| world.regs_mut(0).rsp = layout::HYPERVISOR.end + 64,
        |world| world.regs_mut(0).rsp = 0x7000_0000_0000,
    ];
    for spoil in spoils {
        let world = world();
        set_table(&world, 0);
        spoil(&world);
        world.yield_now(0);
        world.yield_now(0);
        assert_eq!(world.running(0), Some((2, 0)), "nobody else is left");
        world.sim().advance(1_000_000_000);
        world.enter(0);
        assert_eq!(world.running(0), Some((2, 0)));
        world.invariants();
    }
}
