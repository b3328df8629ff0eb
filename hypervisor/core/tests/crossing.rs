//! Crossings between a guest's kernel and its programs: each on its own tables, its own GS and the right stack.
#![cfg(not(loom))]
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use bulkhead_abi::shared_info::offset;
use bulkhead_abi::trap::{BounceFrame, BounceFrameWithError, IretFrame, PF_USER, PF_WRITE, TrapInfo, Vector};
use bulkhead_abi::vcpu::SegmentBase;
use bulkhead_abi::{Hypercall, selectors};
use bulkhead_core::machine::Outcome;
use bulkhead_core::testing::{GuestSpec, SimConfig, World};
use bulkhead_core::{EndPolicy, Exception};

const SYSCALL_CALLBACK: u64 = 0x1300;
const HANDLER: u64 = 0x1200;
/// The kernel's stack, for entries from programs: the end of a free page.
const KERNEL_SP: u64 = World::STACK;
const PROGRAM: u64 = 0x5000;
const PROGRAM_SP: u64 = 0x3f_3000;
/// The interrupt flag.
const IF: u64 = 1 << 9;
const KERNEL_GS: u64 = 0xffff_8880_1000_0000;
const USER_GS: u64 = 0x7f00_0000_1000;

/// A world whose domain 1 has booted, with a kernel stack and bases of GS; it has no tables for programs.
fn world() -> World {
    let world = World::new(SimConfig::default(), EndPolicy::LastDomain);
    world.create(1, &GuestSpec::default()).unwrap();
    world.enter(0);
    world.boot(0);
    let callbacks = [World::EVENT_CALLBACK, 0, SYSCALL_CALLBACK];
    world.call(0, Hypercall::SetCallbacks, &callbacks).unwrap();
    let stack = [u64::from(selectors::FLAT_RING3_SS), KERNEL_SP];
    world.call(0, Hypercall::StackSwitch, &stack).unwrap();
    for (which, base) in [(SegmentBase::GsKernel, KERNEL_GS), (SegmentBase::GsUser, USER_GS)] {
        let args = [u64::from(which.raw()), base];
        world.call(0, Hypercall::SetSegmentBase, &args).unwrap();
    }
    world
}

/// The same with tables for programs: those of its kernel, which will do.
fn world_with_programs() -> World {
    let world = world();
    world.allow_programs(0);
    world
}

/// The kernel starts a program at `rip`.
fn start_program(world: &World, rip: u64) {
    let frame = IretFrame {
        rip,
        cs: u64::from(selectors::FLAT_RING3_CS64),
        rflags: IF,
        rsp: PROGRAM_SP,
        ss: u64::from(selectors::FLAT_RING3_SS),
        ..IretFrame::default()
    };
    let at = KERNEL_SP - 256;
    world.write(0, at, &frame);
    world.regs_mut(0).rsp = at;
    world.iret(0);
}

fn gs(world: &World) -> (u64, u64) {
    let segments = world.sim().segments();
    (segments.gs_base, segments.gs_base_other)
}

#[test]
fn a_program_runs_with_its_own_gs_and_its_system_calls_reach_the_kernel() {
    let world = world_with_programs();
    assert_eq!(gs(&world), (KERNEL_GS, USER_GS));
    start_program(&world, PROGRAM);
    assert_eq!((world.regs(0).rip, world.regs(0).rsp), (PROGRAM, PROGRAM_SP));
    assert_eq!(gs(&world), (USER_GS, KERNEL_GS));
    world.invariants();

    // The number would be a hypercall's, if the kernel had made it.
    let _ = world.call(0, Hypercall::SetCallbacks, &[0, 0, 0]);
    assert_eq!(world.regs(0).rip, SYSCALL_CALLBACK);
    assert_eq!(world.regs(0).rax, Hypercall::SetCallbacks.raw());
    assert_eq!(world.regs(0).rsp, KERNEL_SP - 56);
    let frame: BounceFrame = world.read(0, world.regs(0).rsp);
    assert_eq!(frame.cs & 3, 3, "a program's privilege shows");
    assert_eq!(frame.rsp, PROGRAM_SP);
    assert_eq!(gs(&world), (KERNEL_GS, USER_GS));
    world.invariants();
}

#[test]
fn a_system_call_that_nobody_takes_is_an_invalid_opcode_at_the_instruction() {
    let mut world = world_with_programs();
    world
        .call(0, Hypercall::SetCallbacks, &[World::EVENT_CALLBACK, 0, 0])
        .unwrap();
    handle(&mut world, Vector::InvalidOpcode);
    start_program(&world, PROGRAM);
    let _ = world.call(0, Hypercall::XenVersion, &[0]);
    assert_eq!(world.regs(0).rip, HANDLER);
    let frame: BounceFrame = world.read(0, world.regs(0).rsp);
    // It stands behind the instruction as it makes the call.
    assert_eq!(frame.rip, PROGRAM - 2);
}

fn handle(world: &mut World, vector: Vector) {
    let trap = TrapInfo {
        vector: vector.raw(),
        cs: selectors::FLAT_RING3_CS64,
        address: HANDLER,
        ..TrapInfo::default()
    };
    world.set_trap(0, trap);
}

/// Whatever the CPU says of who made the access: an emulator may take a far return's for its own.
#[test]
fn a_programs_fault_is_told_as_one() {
    for error_code in [PF_USER | PF_WRITE, PF_WRITE] {
        let mut world = world_with_programs();
        handle(&mut world, Vector::PageFault);
        start_program(&world, PROGRAM);
        world.raise(
            0,
            Exception {
                vector: Vector::PageFault.raw(),
                error_code,
                address: 0x1234,
            },
        );
        assert_eq!((world.regs(0).rip, world.regs(0).rsp), (HANDLER, KERNEL_SP - 64));
        let frame: BounceFrameWithError = world.read(0, world.regs(0).rsp);
        assert_eq!(
            (frame.error_code, frame.rip),
            (u64::from(PF_USER | PF_WRITE), PROGRAM)
        );
        let cr2: u64 = world.read(0, World::SHARED_INFO + offset::CR2 as u64);
        assert_eq!(cr2, 0x1234);
    }
}

#[test]
fn an_event_takes_a_program_to_the_kernel() {
    let world = world_with_programs();
    let port = world.alloc_unbound(0, 1);
    let local = world.bind_interdomain(0, 1, port).unwrap();
    // Binding raises the port; events are masked until the program is started.
    start_program(&world, PROGRAM);
    assert!(world.is_in_upcall(0) && world.is_pending(0, local));
    assert_eq!(world.regs(0).rsp, KERNEL_SP - 56);
    let frame: BounceFrame = world.read(0, world.regs(0).rsp);
    assert_eq!(frame.rip, PROGRAM);
}

#[test]
fn a_program_that_is_switched_away_finds_its_tables_and_gs_again() {
    let world = world_with_programs();
    world.create(2, &GuestSpec::default()).unwrap();
    start_program(&world, PROGRAM);
    world.spin(0, 100_000_000);
    while world.running(0) != Some((1, 0)) {
        world.yield_now(0);
    }
    assert_eq!(world.regs(0).rip, PROGRAM);
    assert_eq!(gs(&world), (USER_GS, KERNEL_GS));
    world.invariants();
}

#[test]
fn a_program_that_goes_where_no_cpu_goes_is_its_kernels_affair() {
    let mut world = world_with_programs();
    handle(&mut world, Vector::GeneralProtection);
    start_program(&world, 1 << 47);
    assert_eq!(world.regs(0).rip, HANDLER);
    let frame: BounceFrameWithError = world.read(0, world.regs(0).rsp);
    assert_eq!((frame.error_code, frame.rip, frame.cs & 3), (0, 1 << 47, 3));
    assert_eq!(world.sim().stopped(), None);
}

#[test]
fn a_guest_without_tables_for_programs_cannot_start_one() {
    let world = world();
    start_program(&world, PROGRAM);
    assert_eq!(world.sim().stopped(), Some(Outcome::DomainCrashed));
}
