//! The system calls of 32-bit programs: SYSCALL in 32-bit code, and SYSENTER.
#![cfg(not(loom))]
#![expect(clippy::arithmetic_side_effects, reason = "a test fails by panicking")]

use bulkhead_abi::callback::{
    CALLBACK_MASK_EVENTS, CallbackOp, CallbackRegister, CallbackType, CallbackUnregister,
};
use bulkhead_abi::shared_info::offset;
use bulkhead_abi::trap::{BounceFrame, BounceFrameWithError, IretFrame, TrapInfo, Vector};
use bulkhead_abi::{Errno, Hypercall, selectors};
use bulkhead_core::ids::CpuId;
use bulkhead_core::testing::World;
use bulkhead_core::vcpu::{Mode, Sysenter};

const ENTRY: u64 = 0x1300;
const HANDLER: u64 = 0x1400;
/// Where the program has just executed its call.
const AFTER: u64 = World::CODE + 2;

/// A domain that is about to run a 32-bit program, and another.
fn world() -> World {
    let world = World::booted(2);
    world.allow_programs(0);
    world
}

fn register(world: &World, kind: CallbackType, flags: u16, address: u64) -> Result<u64, Errno> {
    let record = CallbackRegister {
        callback_type: kind.raw(),
        flags,
        address,
    };
    world.write(0, World::SCRATCH, &record);
    let args = [CallbackOp::Register.raw().into(), World::SCRATCH];
    world.call(0, Hypercall::CallbackOp, &args)
}

fn unregister(world: &World, kind: CallbackType) -> Result<u64, Errno> {
    let record = CallbackUnregister {
        callback_type: kind.raw(),
        reserved: 0,
    };
    world.write(0, World::SCRATCH, &record);
    let args = [CallbackOp::Unregister.raw().into(), World::SCRATCH];
    world.call(0, Hypercall::CallbackOp, &args)
}

fn handle(world: &World, vector: Vector) {
    world.set_trap(
        0,
        TrapInfo {
            vector: vector.raw(),
            address: HANDLER,
            ..TrapInfo::default()
        },
    );
}

/// Goes to the program, which stands behind its call then.
fn run_program(world: &World) {
    let frame = IretFrame {
        rip: AFTER,
        cs: selectors::FLAT_RING3_CS32.into(),
        rflags: 0x202,
        rsp: 0x7000,
        ss: selectors::FLAT_RING3_SS.into(),
        ..IretFrame::default()
    };
    world.write(0, World::FRAME, &frame);
    world.regs_mut(0).rsp = World::FRAME;
    world.iret(0);
    assert_eq!(world.mode(0), Some(Mode::User));
}

fn upcalls_masked(world: &World) -> bool {
    world.read::<u8>(0, world.vcpu_info(0) + offset::UPCALL_MASK as u64) != 0
}

#[test]
fn a_32_bit_system_call_comes_to_its_own_callback() {
    for flags in [0, CALLBACK_MASK_EVENTS] {
        let world = world();
        register(&world, CallbackType::Syscall32, flags, ENTRY).unwrap();
        register(&world, CallbackType::Syscall, 0, 0x6666).unwrap();
        run_program(&world);
        world.compat_call(0);
        assert_eq!((world.mode(0), world.regs(0).rip), (Some(Mode::Kernel), ENTRY));
        let frame: BounceFrame = world.read(0, world.regs(0).rsp);
        let cs = u64::from(selectors::FLAT_RING3_CS32);
        assert_eq!((frame.rip, frame.cs, frame.rsp), (AFTER, cs, 0x7000));
        assert_eq!(upcalls_masked(&world), flags != 0);
        world.invariants();
    }
}

#[test]
fn without_a_callback_it_is_no_instruction() {
    let world = world();
    handle(&world, Vector::InvalidOpcode);
    register(&world, CallbackType::Syscall, 0, 0x6666).unwrap();
    register(&world, CallbackType::Syscall32, 0, ENTRY).unwrap();
    assert_eq!(unregister(&world, CallbackType::Syscall32), Ok(0));
    run_program(&world);
    world.compat_call(0);
    assert_eq!(world.regs(0).rip, HANDLER);
    let frame: BounceFrame = world.read(0, world.regs(0).rsp);
    assert_eq!(frame.rip, AFTER.wrapping_sub(2));
}

#[test]
fn sysenter_comes_to_its_callback_with_what_the_processor_has_lost_left_out() {
    let world = world();
    register(&world, CallbackType::Sysenter, CALLBACK_MASK_EVENTS, ENTRY).unwrap();
    run_program(&world);
    world.sysenter(0);
    assert_eq!((world.mode(0), world.regs(0).rip), (Some(Mode::Kernel), ENTRY));
    let frame: BounceFrame = world.read(0, world.regs(0).rsp);
    let ss = u64::from(selectors::FLAT_RING3_SS);
    assert_eq!((frame.rip, frame.cs, frame.rsp, frame.ss), (0, 3, 0, ss));
    assert_eq!(frame.rflags, 0x202);
    assert!(upcalls_masked(&world));
    world.invariants();
}

#[test]
fn sysenter_is_open_to_those_who_have_a_callback_alone() {
    let world = world();
    let sysenter = || world.sim().sysenter(CpuId::BOOT);
    handle(&world, Vector::GeneralProtection);
    assert_eq!(sysenter(), Sysenter::Closed);
    register(&world, CallbackType::Sysenter, 0, ENTRY).unwrap();
    assert_eq!(sysenter(), Sysenter::Open);
    world.yield_now(0);
    assert_eq!((world.running(0), sysenter()), (Some((2, 0)), Sysenter::Closed));
    world.yield_now(0);
    assert_eq!((world.running(0), sysenter()), (Some((1, 0)), Sysenter::Open));
    assert_eq!(unregister(&world, CallbackType::Sysenter), Ok(0));
    assert_eq!(sysenter(), Sysenter::Closed);
    run_program(&world);
    world.sysenter(0);
    assert_eq!(world.regs(0).rip, HANDLER);
    let frame: BounceFrameWithError = world.read(0, world.regs(0).rsp);
    assert_eq!((frame.rip, frame.error_code), (AFTER, 0));
}

#[test]
fn a_kernel_that_executes_sysenter_ends() {
    let world = world();
    register(&world, CallbackType::Sysenter, 0, ENTRY).unwrap();
    world.sysenter(0);
    assert_eq!(world.running(0), Some((2, 0)));
    world.invariants();
}

#[test]
fn the_other_callbacks_cannot_be_taken_away_and_an_old_one_not_be_had() {
    let world = world();
    for kind in [CallbackType::Event, CallbackType::Failsafe, CallbackType::Syscall] {
        assert_eq!(unregister(&world, kind), Err(Errno::Inval));
    }
    let old = CallbackType::SysenterDeprecated;
    assert_eq!(register(&world, old, 0, ENTRY), Err(Errno::NoSys));
    assert_eq!(unregister(&world, old), Err(Errno::NoSys));
    for kind in [CallbackType::Syscall32, CallbackType::Sysenter, CallbackType::Nmi] {
        assert_eq!(register(&world, kind, 0, 1 << 47), Err(Errno::Inval));
    }
}
