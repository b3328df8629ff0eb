//! Old forms of calls, which do what those of today do.
#![cfg(not(loom))]

use bulkhead_abi::event::{BindIpi, EventChannelOp, Send};
use bulkhead_abi::nmi::{NmiCallback, NmiOp};
use bulkhead_abi::physdev::{MAX_IOPL, PhysdevOp};
use bulkhead_abi::sched::{SchedOp, ShutdownReason};
use bulkhead_abi::vcpu::VcpuOp;
use bulkhead_abi::{Buffered, DomId, Errno, Hypercall};
use bulkhead_core::domains::Lifecycle;
use bulkhead_core::testing::World;

#[test]
fn old_forms_do_what_those_of_today_do() {
    let world = World::booted(2);
    let sched =
        |op: SchedOp, argument: u64| world.call(0, Hypercall::SchedOpCompat, &[op.raw().into(), argument]);
    assert_eq!(sched(SchedOp::Shutdown, 6), Err(Errno::Inval));
    assert_eq!(sched(SchedOp::Poll, 0), Err(Errno::NoSys));
    assert_eq!(sched(SchedOp::Yield, 0), Ok(0));
    world.yield_now(0);

    let event = |op: u32, record: &[u8]| {
        world.write(0, World::SCRATCH, &op);
        for (n, byte) in (4..).zip(record) {
            world.write(0, World::SCRATCH + n, byte);
        }
        world.call(0, Hypercall::EventChannelOpCompat, &[World::SCRATCH])
    };
    let bind = BindIpi::default();
    assert_eq!(
        event(EventChannelOp::BindIpi.raw(), bind.to_bytes().as_ref()),
        Ok(0)
    );
    let BindIpi { port, .. } = world.read(0, World::SCRATCH + 4);
    let send = |port| event(EventChannelOp::Send.raw(), Send { port }.to_bytes().as_ref());
    assert_eq!(send(port), Ok(0));
    assert_eq!(world.take_pending(0), [port]);
    assert_eq!(send(99), Err(Errno::Inval));
    // Younger than the form, and none.
    for op in [EventChannelOp::Reset.raw(), 99] {
        assert_eq!(event(op, &[0; 4]), Err(Errno::NoSys));
    }

    let physdev = |op: u32, argument: u32| {
        world.write(0, World::SCRATCH, &op);
        world.write(0, World::SCRATCH + 8, &argument);
        world.call(0, Hypercall::PhysdevOpCompat, &[World::SCRATCH])
    };
    assert_eq!(physdev(PhysdevOp::SetIopl.raw(), MAX_IOPL), Ok(0));
    assert_eq!(physdev(PhysdevOp::SetIopl.raw(), MAX_IOPL + 1), Err(Errno::Inval));
    assert_eq!(physdev(PhysdevOp::Eoi.raw(), 0), Err(Errno::NoSys));

    assert_eq!(
        sched(SchedOp::Shutdown, ShutdownReason::Reboot.raw().into()),
        Ok(0)
    );
    let domain = world.hv().domain(DomId::new(1)).unwrap();
    let life = *domain.lifecycle.lock();
    assert_eq!(life, Lifecycle::ShutDown(ShutdownReason::Reboot));
    world.invariants();
}

#[test]
fn a_handler_of_nmis_is_registered_by_the_old_call_as_well() {
    let world = World::booted(2);
    let nmi = |op: NmiOp| world.call(0, Hypercall::NmiOp, &[op.raw().into(), World::SCRATCH]);
    let register = |handler_address: u64| {
        let record = NmiCallback {
            handler_address,
            pad: 0,
        };
        world.write(0, World::SCRATCH, &record);
        nmi(NmiOp::RegisterCallback)
    };
    assert_eq!(register(1 << 47), Err(Errno::Inval));
    assert_eq!(register(World::NMI_CALLBACK), Ok(0));
    world.vcpu_op(0, VcpuOp::SendNmi, 0, 0).unwrap();
    assert_eq!(world.regs(0).rip, World::NMI_CALLBACK);
    assert_eq!(nmi(NmiOp::UnregisterCallback), Ok(0));
    world.invariants();
}
