//! Non-maskable interrupts that vCPUs send: each comes once, whatever is masked, and none in the middle of another.
#![cfg(not(loom))]
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use bulkhead_abi::callback::{CallbackOp, CallbackRegister, CallbackType, CallbackUnregister};
use bulkhead_abi::shared_info::offset;
use bulkhead_abi::trap::{BounceFrame, TrapInfo, Vector};
use bulkhead_abi::vcpu::{Runstate, RunstateInfo, VcpuOp};
use bulkhead_abi::{Errno, Hypercall};
use bulkhead_core::testing::{World, check_locks};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::{AtomicBool, AtomicUsize};

/// Two CPUs, and a domain whose two vCPUs run on them.
fn world() -> World {
    let world = World::started(2);
    assert_eq!(world.enter(1), Some((1, 1)));
    world
}

fn callback(world: &World, cpu: usize) {
    let record = CallbackRegister {
        callback_type: CallbackType::Nmi.raw(),
        flags: 0,
        address: World::NMI_CALLBACK,
    };
    world.write(cpu, World::SCRATCH, &record);
    let args = [CallbackOp::Register.raw().into(), World::SCRATCH];
    world.call(cpu, Hypercall::CallbackOp, &args).unwrap();
}

fn send(world: &World, cpu: usize, vcpu: u32) -> Result<u64, Errno> {
    world.vcpu_op(cpu, VcpuOp::SendNmi, vcpu, 0)
}

#[test]
fn one_that_is_sent_to_oneself_comes_before_the_next_instruction_and_masks_events() {
    let world = world();
    callback(&world, 0);
    world.unmask_upcalls(0);
    let before = world.regs(0);
    assert_eq!(send(&world, 0, 2), Err(Errno::NoEnt));
    assert_eq!(world.regs(0).rip, before.rip);
    send(&world, 0, 0).unwrap();
    assert_eq!(world.regs(0).rip, World::NMI_CALLBACK);
    let frame: BounceFrame = world.read(0, world.regs(0).rsp);
    assert_eq!((frame.rip, frame.rsp), (before.rip, before.rsp));
    let mask: u8 = world.read(0, world.vcpu_info(0) + offset::UPCALL_MASK as u64);
    assert_eq!(mask, 1);
    world.invariants();
}

#[test]
fn one_that_is_sent_to_another_cpu_comes_there_though_events_are_masked() {
    let world = world();
    callback(&world, 1);
    let before = world.regs(1).rip;
    send(&world, 0, 1).unwrap();
    assert_eq!(world.regs(1).rip, before);
    world.enter(1);
    assert_eq!(world.regs(1).rip, World::NMI_CALLBACK);
    world.invariants();
}

#[test]
fn two_that_come_together_are_one_and_the_next_waits_for_the_return() {
    let world = world();
    callback(&world, 1);
    let before = world.regs(1);
    send(&world, 0, 1).unwrap();
    send(&world, 0, 1).unwrap();
    world.enter(1);
    let handler = world.regs(1);
    send(&world, 0, 1).unwrap();
    send(&world, 0, 1).unwrap();
    world.enter(1);
    assert_eq!(world.regs(1), handler, "not in the middle of the first");
    world.invariants();
    world.finish_handler(1);
    assert_eq!(world.regs(1).rip, World::NMI_CALLBACK, "the second");
    world.finish_handler(1);
    assert_eq!((world.regs(1).rip, world.regs(1).rsp), (before.rip, before.rsp));
    world.enter(1);
    assert_eq!(world.regs(1).rip, before.rip, "there is no third");
}

#[test]
fn a_vcpu_that_rests_is_woken_for_it() {
    let world = world();
    callback(&world, 1);
    world.block(1);
    assert_eq!(world.running(1), None);
    send(&world, 0, 1).unwrap();
    assert_eq!(world.enter(1), Some((1, 1)));
    assert_eq!(world.regs(1).rip, World::NMI_CALLBACK);
    world.invariants();
}

/// Whenever it comes while the vCPU goes to rest, it comes.
#[test]
fn a_vcpu_that_is_about_to_rest_does_not_sleep_through_it() {
    check_locks();
    let mut moments = 0;
    for moment in 0..100 {
        let world = world();
        callback(&world, 1);
        let weak = world.downgrade();
        let (sent, count) = (Arc::new(AtomicBool::new(false)), AtomicUsize::new(0));
        let is_sent = Arc::clone(&sent);
        world.sim().set_interruption(move |_| {
            if count.fetch_add(1, Relaxed) == moment {
                send(&weak.upgrade().unwrap(), 0, 1).unwrap();
                is_sent.store(true, Relaxed);
            }
        });
        world.sim().allow_interruption(true);
        world.block(1);
        world.sim().allow_interruption(false);
        if !sent.load(Relaxed) {
            break;
        }
        moments += 1;
        assert_eq!(world.enter(1), Some((1, 1)), "at moment {moment}");
        assert_eq!(world.regs(1).rip, World::NMI_CALLBACK, "at moment {moment}");
        world.invariants();
    }
    assert!((5..100).contains(&moments), "{moments}");
}

#[test]
fn a_vcpu_that_is_down_finds_it_when_it_comes_up() {
    let world = world();
    callback(&world, 1);
    world.vcpu_op(0, VcpuOp::Down, 1, 0).unwrap();
    assert_eq!(world.enter(1), None);
    send(&world, 0, 1).unwrap();
    assert_eq!(world.enter(1), None);
    world
        .vcpu_op(0, VcpuOp::GetRunstateInfo, 1, World::SCRATCH)
        .unwrap();
    let info: RunstateInfo = world.read(0, World::SCRATCH);
    assert_eq!(info.state, Runstate::Offline.raw());
    world.vcpu_op(0, VcpuOp::Up, 1, 0).unwrap();
    assert_eq!(world.enter(1), Some((1, 1)));
    assert_eq!(world.regs(1).rip, World::NMI_CALLBACK);
}

#[test]
fn one_that_nobody_handles_is_gone() {
    let world = world();
    let before = world.regs(0).rip;
    send(&world, 0, 0).unwrap();
    assert_eq!(world.regs(0).rip, before);
    callback(&world, 0);
    assert_eq!(world.regs(0).rip, before, "it does not wait for a handler");
    let record = CallbackUnregister {
        callback_type: CallbackType::Nmi.raw(),
        reserved: 0,
    };
    world.write(0, World::SCRATCH, &record);
    let args = [CallbackOp::Unregister.raw().into(), World::SCRATCH];
    assert_eq!(world.call(0, Hypercall::CallbackOp, &args), Ok(0));
    send(&world, 0, 0).unwrap();
    assert_eq!(world.regs(0).rip, before);
}

#[test]
fn its_handler_is_that_of_vector_2() {
    let world = world();
    world.set_trap(
        0,
        TrapInfo {
            vector: Vector::Nmi.raw(),
            address: World::NMI_CALLBACK,
            ..TrapInfo::default()
        },
    );
    send(&world, 0, 0).unwrap();
    assert_eq!(world.regs(0).rip, World::NMI_CALLBACK);
}
