//! What guests have beside the ABI: software interrupts that the CPU delivers by itself, an alarm on virtual time, and an account of costs.
#![cfg(not(loom))]
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use bulkhead_abi::event::Virq;
use bulkhead_abi::extension::{
    DIRECT_GATE_VECTORS, DIRECT_GATES, DMA_PINS, ExtensionOp, GRANT_FLIP, VCPU_COSTS, VIRTUAL_ALARM,
    VcpuCosts,
};
use bulkhead_abi::sched::ShutdownReason;
use bulkhead_abi::vcpu::{RunstateInfo, VcpuOp};
use bulkhead_abi::{Errno, Hypercall, layout};
use bulkhead_core::Machine;
use bulkhead_core::ids::CpuId;
use bulkhead_core::testing::World;
use bulkhead_core::vcpu::Gates;
use bulkhead_core::vcpu::gates::Gate;

const US: u64 = 1000;
const MS: u64 = 1_000_000;

fn extension(world: &World, op: ExtensionOp, args: [u64; 2]) -> Result<u64, Errno> {
    let [a, b] = args;
    let answer = world.call(0, Hypercall::ExtensionOp, &[u64::from(op.raw()), a, b]);
    world.invariants();
    answer
}

fn set_gate(world: &World, vector: u64, address: u64) -> Result<u64, Errno> {
    extension(world, ExtensionOp::SetDirectGate, [vector, address])
}

fn set_alarm(world: &World, at: u64) {
    assert_eq!(extension(world, ExtensionOp::SetVirtualAlarm, [at, 0]), Ok(0));
}

/// The gates of a vCPU that has one.
fn gates(vector: u8, address: u64) -> Gates {
    let mut gates = Gates::NONE;
    gates.set(vector, Some(Gate::new(address).unwrap())).unwrap();
    gates
}

const VECTOR: u8 = *DIRECT_GATE_VECTORS.start();
const HANDLER: u64 = 0x40_1234;

#[test]
fn a_guest_is_told_which_extensions_there_are() {
    let world = World::booted(1);
    let features = || extension(&world, ExtensionOp::Features, [0; 2]);
    assert_eq!(
        features(),
        Ok(DIRECT_GATES | VIRTUAL_ALARM | GRANT_FLIP | DMA_PINS | VCPU_COSTS)
    );
    world.sim().have_direct_gates(false);
    assert_eq!(features(), Ok(VIRTUAL_ALARM | GRANT_FLIP | DMA_PINS | VCPU_COSTS));
}

#[test]
fn direct_gates_are_in_force_while_their_vcpu_runs_and_at_no_other_time() {
    let world = World::booted(2);
    let in_force = || world.sim().gates(CpuId::BOOT);
    assert_eq!(set_gate(&world, VECTOR.into(), HANDLER), Ok(0));
    assert_eq!(in_force(), gates(VECTOR, HANDLER));
    world.yield_now(0);
    assert_eq!((world.running(0), in_force()), (Some((2, 0)), Gates::NONE));
    world.yield_now(0);
    assert_eq!(
        (world.running(0), in_force()),
        (Some((1, 0)), gates(VECTOR, HANDLER))
    );
    world.shut_down(0, ShutdownReason::Poweroff);
    assert_eq!((world.running(0), in_force()), (Some((2, 0)), Gates::NONE));
    world.invariants();
}

#[test]
fn a_direct_gate_can_be_moved_and_taken_away() {
    let world = World::booted(1);
    let in_force = || world.sim().gates(CpuId::BOOT);
    assert_eq!(set_gate(&world, VECTOR.into(), HANDLER), Ok(0));
    assert_eq!(set_gate(&world, VECTOR.into(), HANDLER + 1), Ok(0));
    assert_eq!(in_force(), gates(VECTOR, HANDLER + 1));
    assert_eq!(set_gate(&world, VECTOR.into(), 0), Ok(0));
    assert_eq!(in_force(), Gates::NONE);
}

#[test]
fn a_gate_that_must_not_be_is_refused_and_changes_nothing() {
    let world = World::booted(1);
    assert_eq!(set_gate(&world, VECTOR.into(), HANDLER), Ok(0));
    let others =
        (0..=255).filter(|&vector| u8::try_from(vector).is_ok_and(|v| !DIRECT_GATE_VECTORS.contains(&v)));
    for vector in others.chain([
        256,
        u64::from(VECTOR) + 256,
        1 << 32 | u64::from(VECTOR),
        u64::MAX,
    ]) {
        assert_eq!(
            set_gate(&world, vector, HANDLER),
            Err(Errno::Inval),
            "{vector:#x}"
        );
    }
    for address in [
        layout::HYPERVISOR.start,
        layout::HYPERVISOR.end - 1,
        1 << 47,
        1 << 63,
    ] {
        let refused = set_gate(&world, VECTOR.into(), address);
        assert_eq!(refused, Err(Errno::Inval), "{address:#x}");
    }
    assert_eq!(world.sim().gates(CpuId::BOOT), gates(VECTOR, HANDLER));
    world.sim().have_direct_gates(false);
    assert_eq!(set_gate(&world, VECTOR.into(), HANDLER), Err(Errno::OpNotSupp));
    assert_eq!(set_gate(&world, VECTOR.into(), 0), Err(Errno::OpNotSupp));
}

/// Two guests on one CPU, the first of which listens to its alarm and has just begun to run.
fn listening() -> (World, u32) {
    let world = World::booted(2);
    let port = world.bind_virq(0, Virq::VirtualAlarm).unwrap();
    world.take_pending(0);
    (world, port)
}

/// How long the guest on the CPU has run in all.
fn ran(world: &World) -> u64 {
    let op = u64::from(VcpuOp::GetRunstateInfo.raw());
    world
        .call(0, Hypercall::VcpuOp, &[op, 0, World::SCRATCH])
        .unwrap();
    let info: RunstateInfo = world.read(0, World::SCRATCH);
    let [ran, ..] = info.time_ns;
    ran
}

#[test]
fn an_alarm_rings_when_its_vcpu_has_run_for_so_long_to_the_nanosecond() {
    let (world, port) = listening();
    let at = ran(&world) + 123 * US + 4;
    set_alarm(&world, at);
    world.spin(0, 123 * US + 3);
    assert_eq!((world.running(0), ran(&world)), (Some((1, 0)), at - 1));
    assert!(!world.is_pending(0, port));
    world.spin(0, 1);
    assert_eq!((world.running(0), ran(&world)), (Some((1, 0)), at));
    assert_eq!(world.take_pending(0), [port]);
    // Once.
    world.spin(0, 2 * MS);
    assert!(!world.is_pending(0, port));
}

#[test]
fn an_alarm_stands_still_while_its_vcpu_waits_and_while_it_sleeps() {
    let (world, port) = listening();
    world.bind_virq(0, Virq::Timer).unwrap();
    set_alarm(&world, ran(&world) + 100 * US);
    world.spin(0, 60 * US);
    world.yield_now(0);
    assert_eq!(world.running(0), Some((2, 0)));
    world.sim().advance(700 * US);
    world.invariants();
    world.yield_now(0);
    assert_eq!(world.running(0), Some((1, 0)));
    assert!(!world.is_pending(0, port));
    world.yield_now(0);
    world.block(0);
    assert_eq!(world.running(0), Some((1, 0)));
    world.unmask_upcalls(0);
    world.set_timer(0, world.sim().now() + 5 * MS, 0).unwrap();
    world.block(0);
    world.take_upcall(0);
    assert!(!world.is_pending(0, port));
    world.spin(0, 39 * US);
    assert!(!world.is_pending(0, port));
    world.spin(0, US);
    assert!(world.is_pending(0, port));
}

#[test]
fn an_alarm_that_is_due_rings_before_its_vcpu_rests() {
    let (world, port) = listening();
    set_alarm(&world, ran(&world) + 10 * US);
    // The interrupt has not been taken when the guest enters the hypervisor to block.
    world.sim().advance(10 * US);
    world.unmask_upcalls(0);
    world.block(0);
    assert_eq!(world.running(0), Some((1, 0)));
    assert_eq!(world.take_upcall(0), [port]);
}

#[test]
fn an_alarm_in_the_past_rings_at_once_and_one_that_is_taken_back_never() {
    let (world, port) = listening();
    world.spin(0, US);
    set_alarm(&world, 1);
    world.enter(0);
    assert_eq!(world.take_pending(0), [port]);
    set_alarm(&world, ran(&world) + US);
    set_alarm(&world, 0);
    world.spin(0, MS / 2);
    assert!(!world.is_pending(0, port));
}

#[test]
fn a_vcpu_is_told_what_it_has_cost_and_its_times_are_those_that_it_ran() {
    let world = World::booted(2);
    let costs = || -> VcpuCosts {
        let answer = extension(&world, ExtensionOp::VcpuCosts, [World::SCRATCH, 0]);
        assert_eq!(answer, Ok(0));
        world.read(0, World::SCRATCH)
    };
    let sum = |costs: &VcpuCosts| costs.user_ns + costs.kernel_ns + costs.hypervisor_ns;
    let before = costs();
    assert_eq!(before.user_ns, 0);
    assert_eq!(sum(&before), ran(&world));
    world.spin(0, 100 * US);
    let after = costs();
    assert_eq!(after.kernel_ns, before.kernel_ns + 100 * US);
    assert_eq!((sum(&after), after.flushes), (ran(&world), before.flushes));
    // The other one has its turn.
    world.spin(0, 50 * MS);
    while world.running(0) != Some((1, 0)) {
        world.spin(0, MS);
    }
    let later = costs();
    assert!(later.flushes > after.flushes);
    assert_eq!(sum(&later), ran(&world));
    let nowhere = extension(&world, ExtensionOp::VcpuCosts, [layout::HYPERVISOR.start, 0]);
    assert_eq!(nowhere, Err(Errno::Fault));
}
