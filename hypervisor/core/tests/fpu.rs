//! The FPU of each vCPU is its own: loaded at the first use, switched with it, and never left behind.
#![cfg(not(loom))]
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use bulkhead_abi::Hypercall;
use bulkhead_abi::trap::{TrapInfo, Vector};
use bulkhead_core::testing::{GuestSpec, SimConfig, World};
use bulkhead_core::vcpu::FpuState;
use bulkhead_core::{EndPolicy, Exception};

/// One CPU with the domains 1 and 2, both of which have booted. Domain 1 runs.
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
        world.boot(0);
        world.yield_now(0);
    }
    assert_eq!(world.running(0), Some((1, 0)));
    world
}

/// The guest on CPU 0 uses its FPU: what a CPU would do first if it is withheld.
fn touch(world: &mut World) -> Option<FpuState> {
    if world.sim().fpu().is_none() {
        world.raise(
            0,
            Exception {
                vector: Vector::DeviceNotAvailable.raw(),
                error_code: 0,
                address: 0,
            },
        );
    }
    world.sim().fpu()
}

fn state(fill: u8) -> FpuState {
    FpuState::from_guest([fill; 512])
}

#[test]
fn the_first_use_finds_the_registers_as_after_a_reset() {
    let mut world = world();
    let rip = world.regs(0).rip;
    assert_eq!(world.sim().fpu(), None);
    assert_eq!(touch(&mut world), Some(FpuState::at_start()));
    assert_eq!(world.regs(0).rip, rip, "the instruction is tried again");
}

#[test]
fn each_domain_finds_its_own_registers_again() {
    let mut world = world();
    touch(&mut world);
    world.sim().set_fpu(state(0x11));
    world.yield_now(0);
    assert_eq!(world.running(0), Some((2, 0)));
    // The second has never used its own: nothing is in the CPU for it.
    assert_eq!(world.sim().fpu(), None);
    assert_eq!(touch(&mut world), Some(FpuState::at_start()));
    world.sim().set_fpu(state(0x22));
    world.yield_now(0);
    assert_eq!(world.sim().fpu(), Some(state(0x11)));
    world.yield_now(0);
    assert_eq!(world.sim().fpu(), Some(state(0x22)));
    world.invariants();
}

#[test]
fn a_kernel_that_asked_is_told_of_the_next_use_once() {
    const HANDLER: u64 = 0x1200;
    let mut world = world();
    world.set_trap(
        0,
        TrapInfo {
            vector: Vector::DeviceNotAvailable.raw(),
            address: HANDLER,
            ..TrapInfo::default()
        },
    );
    touch(&mut world);
    world.sim().set_fpu(state(0x33));
    world.call(0, Hypercall::FpuTaskswitch, &[1]).unwrap();
    // It asks for that and is switched away meanwhile.
    world.yield_now(0);
    world.yield_now(0);
    assert_eq!(world.sim().fpu(), None);
    let rip = world.regs(0).rip;
    assert_eq!(touch(&mut world), Some(state(0x33)));
    assert_eq!(world.regs(0).rip, HANDLER);
    world.finish_handler(0);
    assert_eq!((world.regs(0).rip, touch(&mut world)), (rip, Some(state(0x33))));
    assert_eq!(world.regs(0).rip, rip);
}

#[test]
fn a_kernel_that_changed_its_mind_is_not_told() {
    let mut world = world();
    let rip = world.regs(0).rip;
    world.call(0, Hypercall::FpuTaskswitch, &[1]).unwrap();
    let after_call = world.regs(0).rip;
    world.call(0, Hypercall::FpuTaskswitch, &[0]).unwrap();
    assert_eq!(touch(&mut world), Some(FpuState::at_start()));
    assert!(
        world.regs(0).rip >= after_call && after_call >= rip,
        "no handler was entered"
    );
}

/// The guest on CPU 0 executes an instruction that its CPU refuses, with these registers.
fn execute(world: &World, code: &[u8], rax: u64, rcx: u64, rdx: u64) {
    world.sim().guest_write(World::CODE, code).unwrap();
    {
        let mut regs = world.regs_mut(0);
        (regs.rip, regs.rax, regs.rcx, regs.rdx) = (World::CODE, rax, rcx, rdx);
    }
    world.raise(
        0,
        Exception {
            vector: Vector::GeneralProtection.raw(),
            error_code: 0,
            address: 0,
        },
    );
}

const XSETBV: &[u8] = &[0x0f, 0x01, 0xd1];
const MOV_CR4_RAX: &[u8] = &[0x0f, 0x22, 0xe0];
const OSXSAVE: u64 = 1 << 18;

fn handle(world: &World, vector: Vector, address: u64) {
    world.set_trap(
        0,
        TrapInfo {
            vector: vector.raw(),
            address,
            ..TrapInfo::default()
        },
    );
}

#[test]
fn what_a_guest_enables_is_enabled_while_it_runs() {
    let world = world();
    execute(&world, MOV_CR4_RAX, OSXSAVE, 0, 0);
    execute(&world, XSETBV, 7, 0, 0);
    assert_eq!((world.regs(0).rip, world.sim().xcr0()), (World::CODE + 3, 7));
    world.yield_now(0);
    assert_eq!((world.running(0), world.sim().xcr0()), (Some((2, 0)), 1));
    world.yield_now(0);
    assert_eq!(world.sim().xcr0(), 7);
}

#[test]
fn what_a_cpu_would_refuse_to_enable_is_refused() {
    const HANDLER: u64 = 0x1200;
    let world = world();
    handle(&world, Vector::InvalidOpcode, HANDLER);
    execute(&world, XSETBV, 7, 0, 0);
    assert_eq!(world.regs(0).rip, HANDLER, "the instruction is none yet");
    for (rax, rcx, rdx) in [(0, 0, 0), (5, 0, 0), (7, 1, 0), (7 | 1 << 9, 0, 0), (7, 0, 1)] {
        let world = self::world();
        execute(&world, MOV_CR4_RAX, OSXSAVE, 0, 0);
        handle(&world, Vector::GeneralProtection, HANDLER);
        execute(&world, XSETBV, rax, rcx, rdx);
        assert_eq!(world.regs(0).rip, HANDLER, "{rax:#x} {rcx} {rdx}");
        assert_eq!(world.sim().xcr0(), 1);
    }
}
