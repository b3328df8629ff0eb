//! I/O ports: who may use them, who owns them, and what happens to the data.
#![cfg(not(loom))]
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use bulkhead_abi::physdev::{PhysdevOp, SetIobitmap, SetIopl};
use bulkhead_abi::trap::{PF_WRITE, TrapInfo, Vector};
use bulkhead_abi::{Errno, Hypercall, layout};
use bulkhead_core::ports::PortSet;
use bulkhead_core::testing::{GuestSpec, SimConfig, World};
use bulkhead_core::{EndPolicy, Exception};

/// Where faults arrive.
const GENERAL: u64 = 0x1200;
const PAGE: u64 = 0x1300;
const DEBUG: u64 = 0x1400;

const IN_AL_DX: &[u8] = &[0xec];
const IN_EAX_DX: &[u8] = &[0xed];
const OUT_DX_EAX: &[u8] = &[0xef];
const REP_INSB: &[u8] = &[0xf3, 0x6c];
const OUTSD: &[u8] = &[0x6f];

/// One domain that owns the ports 0x70 to 0x73, has handlers for faults, and has not asked for anything yet.
fn world() -> World {
    let world = World::new(SimConfig::default(), EndPolicy::LastDomain);
    let mut ports = PortSet::new();
    assert!(ports.insert(0x70, 0x73));
    let spec = GuestSpec {
        ports,
        ..GuestSpec::default()
    };
    world.create(1, &spec).unwrap();
    world.enter(0);
    world.boot(0);
    for (vector, address) in [
        (Vector::GeneralProtection, GENERAL),
        (Vector::PageFault, PAGE),
        (Vector::Debug, DEBUG),
    ] {
        let vector = vector.raw();
        world.set_trap(
            0,
            TrapInfo {
                vector,
                address,
                ..TrapInfo::default()
            },
        );
    }
    world
}

fn set_iopl(world: &World, iopl: u32) {
    world.write(0, World::SCRATCH, &SetIopl { iopl });
    let args = [u64::from(PhysdevOp::SetIopl.raw()), World::SCRATCH];
    world.call(0, Hypercall::PhysdevOp, &args).unwrap();
}

fn set_bitmap(world: &World, bitmap: u64, nr_ports: u32) -> Result<u64, Errno> {
    world.write(0, World::SCRATCH, &SetIobitmap { bitmap, nr_ports });
    let args = [u64::from(PhysdevOp::SetIobitmap.raw()), World::SCRATCH];
    world.call(0, Hypercall::PhysdevOp, &args)
}

/// The guest executes an instruction on port `dx`; where it goes on, relative to the instruction if that is near.
fn execute(world: &World, code: &[u8], dx: u64) -> u64 {
    world.sim().guest_write(World::CODE, code).unwrap();
    {
        let mut regs = world.regs_mut(0);
        (regs.rip, regs.rdx) = (World::CODE, dx);
    }
    let exception = Exception {
        vector: Vector::GeneralProtection.raw(),
        error_code: 0,
        address: 0,
    };
    world.raise(0, exception);
    match world.regs(0).rip {
        rip @ (GENERAL | PAGE | DEBUG) => rip,
        rip => rip.wrapping_sub(World::CODE),
    }
}

#[test]
fn who_may_not_use_ports_gets_a_fault_owned_or_not() {
    for port in [0x70, 0x60] {
        let world = world();
        assert_eq!(execute(&world, IN_AL_DX, port), GENERAL);
        assert_eq!(world.sim().port(0x70), 0);
    }
}

#[test]
fn at_an_owned_port_the_device_answers_and_at_others_nothing() {
    let world = world();
    set_iopl(&world, 1);
    world.regs_mut(0).rax = 0x1234_5678;
    assert_eq!(execute(&world, OUT_DX_EAX, 0x70), 1);
    assert_eq!(world.sim().port(0x70), 0x1234_5678);
    world.regs_mut(0).rax = 0;
    assert_eq!(execute(&world, IN_EAX_DX, 0x70), 1);
    assert_eq!(world.regs(0).rax, 0x1234_5678);
    // One byte of the four is beyond what it owns.
    assert_eq!(execute(&world, OUT_DX_EAX, 0x71), 1);
    assert_eq!(world.sim().port(0x71), 0);
    assert_eq!(execute(&world, IN_EAX_DX, 0x71), 1);
    assert_eq!(world.regs(0).rax, 0xffff_ffff);
}

#[test]
fn a_bitmap_permits_port_by_port() {
    /// The first ports that the bitmap covers stand in a page of the kernel's.
    const BITMAP: u64 = World::LIST;
    let world = world();
    let outcome = |port: u64| {
        let before = world.regs(0);
        let outcome = execute(&world, IN_AL_DX, port);
        *world.regs_mut(0) = before;
        outcome
    };
    world.write(0, BITMAP, &u64::MAX);
    world.write(0, BITMAP + 8, &!(1_u64 << 0x30 | 1 << 0x20));
    set_bitmap(&world, BITMAP, 0x80).unwrap();
    assert_eq!([0x70, 0x60, 0x71, 0x80].map(outcome), [1, 1, GENERAL, GENERAL]);
    set_bitmap(&world, BITMAP, 0x70).unwrap();
    assert_eq!(outcome(0x70), GENERAL, "not covered any more");
    assert_eq!(set_bitmap(&world, layout::HYPERVISOR.start, 8), Err(Errno::Inval));
    assert_eq!(set_bitmap(&world, BITMAP, 65_537), Err(Errno::Inval));
}

#[test]
fn a_string_of_bytes_goes_to_memory_one_at_a_time() {
    let world = world();
    set_iopl(&world, 1);
    world.regs_mut(0).rax = 0x5a;
    execute(&world, OUT_DX_EAX, 0x70);
    {
        let mut regs = world.regs_mut(0);
        (regs.rdi, regs.rcx) = (World::LIST, 2);
    }
    assert_eq!(execute(&world, REP_INSB, 0x70), 0, "one of two");
    assert_eq!(execute(&world, REP_INSB, 0x70), 2);
    assert_eq!(world.read::<u64>(0, World::LIST) & 0xff_ffff, 0x5a5a);
    assert_eq!((world.regs(0).rdi, world.regs(0).rcx), (World::LIST + 2, 0));
}

#[test]
fn memory_that_is_not_there_is_a_page_fault_and_the_device_is_left_alone() {
    const NOWHERE: u64 = 0x7000_0000_0000;
    let world = world();
    set_iopl(&world, 1);
    let before = world.regs(0);
    world.regs_mut(0).rsi = NOWHERE;
    assert_eq!(execute(&world, OUTSD, 0x70), PAGE);
    assert_eq!(world.sim().port(0x70), 0);
    *world.regs_mut(0) = before;
    world.regs_mut(0).rdi = NOWHERE;
    world.regs_mut(0).rcx = 1;
    assert_eq!(execute(&world, REP_INSB, 0x70), PAGE);
    let error_code: u64 = world.read(0, world.regs(0).rsp + 16);
    assert_eq!(error_code, u64::from(PF_WRITE));
}

#[test]
fn a_breakpoint_on_a_port_strikes_after_the_access() {
    const MOV_CR4_RAX: &[u8] = &[0x0f, 0x22, 0xe0];
    let world = world();
    set_iopl(&world, 1);
    world.regs_mut(0).rax = 1 << 3;
    assert_eq!(execute(&world, MOV_CR4_RAX, 0), 3);
    for (number, value) in [(0, 0x72), (7, 0x2_0401)] {
        world.call(0, Hypercall::SetDebugreg, &[number, value]).unwrap();
    }
    world.regs_mut(0).rax = 7;
    assert_eq!(execute(&world, OUT_DX_EAX, 0x70), DEBUG);
    assert_eq!(world.sim().port(0x70), 7);
    assert_eq!(world.call(0, Hypercall::GetDebugreg, &[6]), Ok(0xffff_0ff1));
    let returns_to: u64 = world.read(0, world.regs(0).rsp + 16);
    assert_eq!(returns_to, World::CODE + 1, "the access is over");
}
