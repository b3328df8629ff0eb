//! Interrupt lines of devices: the control domain assigns them, their owner binds them to ports, and devices raise these.
#![cfg(not(loom))]
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use bulkhead_abi::control::{ASSIGN_LINES, AssignDevice, ControlOp};
use bulkhead_abi::event::{BindPirq, BindVcpu, ChannelStatus, Close, EventChannelOp, Send, Status};
use bulkhead_abi::physdev::{
    Eoi, GetFreePirq, IRQ_STATUS_NEEDS_EOI, IrqStatusQuery, MapPirq, MapPirqType, PhysdevOp, SetupGsi,
    UnmapPirq,
};
use bulkhead_abi::{Buffered, DomId, Errno, Hypercall};
use bulkhead_core::events::Port;
use bulkhead_core::events::bits::SharedInfoView;
use bulkhead_core::irq::Gsi;
use bulkhead_core::machine::Machine;
use bulkhead_core::testing::World;

/// A line that is triggered by edge, and one that is by level: both may be assigned.
const EDGE: u32 = 16;
const LEVEL: u32 = 17;
/// A line that is the hypervisor's.
const TAKEN: u32 = 4;

/// Domain 0 runs; domains 1 and 2 have booted, and domain 1 has both lines.
fn world() -> World {
    let (world, _) = World::controlled(2, 8);
    assert_eq!(assign(&world, 1, EDGE, 2), Ok(0));
    world
}

/// The running domain makes a call with a record, and sees what has become of that.
fn ask<T: Buffered>(world: &World, number: Hypercall, op: u32, record: &T) -> Result<T, Errno> {
    world.write(0, World::SCRATCH, record);
    let answer = world.call(0, number, &[op.into(), World::SCRATCH]);
    world.invariants();
    answer.map(|_| world.read(0, World::SCRATCH))
}

/// Domain 0 assigns lines to `owner`.
fn assign(world: &World, owner: u16, first: u32, count: u64) -> Result<u64, Errno> {
    world.turn(0);
    let record = AssignDevice {
        domain: DomId::new(owner),
        kind: ASSIGN_LINES,
        first: first.into(),
        count,
        reset: 0,
    };
    ask(world, Hypercall::Sysctl, ControlOp::AssignDevice.raw(), &record).map(|_| 0)
}

fn map(world: &World, gsi: u32) -> Result<i32, Errno> {
    let record = MapPirq {
        domid: DomId::SELF,
        map_type: MapPirqType::Gsi.raw(),
        index: gsi.cast_signed(),
        pirq: -1,
        ..MapPirq::default()
    };
    let op = PhysdevOp::MapPirq.raw();
    ask(world, Hypercall::PhysdevOp, op, &record).map(|record| record.pirq)
}

fn unmap(world: &World, pirq: u32) -> Result<(), Errno> {
    let record = UnmapPirq {
        domid: DomId::SELF,
        pirq,
    };
    ask(world, Hypercall::PhysdevOp, PhysdevOp::UnmapPirq.raw(), &record).map(|_| ())
}

fn bind(world: &World, pirq: u32) -> Result<u32, Errno> {
    let record = BindPirq {
        pirq,
        flags: 0,
        port: 0,
    };
    let op = EventChannelOp::BindPirq.raw();
    ask(world, Hypercall::EventChannelOp, op, &record).map(|record| record.port)
}

fn close(world: &World, port: u32) -> Result<(), Errno> {
    let op = EventChannelOp::Close.raw();
    ask(world, Hypercall::EventChannelOp, op, &Close { port }).map(|_| ())
}

fn eoi(world: &World, irq: u32) -> Result<(), Errno> {
    ask(world, Hypercall::PhysdevOp, PhysdevOp::Eoi.raw(), &Eoi { irq }).map(|_| ())
}

fn flags(world: &World, irq: u32) -> Result<u32, Errno> {
    let op = PhysdevOp::IrqStatusQuery.raw();
    ask(world, Hypercall::PhysdevOp, op, &IrqStatusQuery { irq, flags: 9 }).map(|record| record.flags)
}

/// Whether the controller lets a line through.
fn is_open(world: &World, gsi: u32) -> bool {
    world.sim().is_line_open(Gsi::new(gsi).unwrap())
}

/// A device interrupts. Says whether `port` of domain `id` is pending then, and takes note of it.
fn interrupt(world: &World, gsi: u32, id: u16, port: u32) -> bool {
    world.interrupt(0, Gsi::new(gsi).unwrap());
    world.invariants();
    let domain = world.hv().domain(DomId::new(id)).unwrap();
    let frame = world.sim().frame(domain.shared_info);
    let (view, port) = (SharedInfoView::new(frame), Port::new(port).unwrap());
    let was_pending = view.is_pending(port);
    view.clear_pending(port);
    was_pending
}

#[test]
fn an_edge_is_told_each_time_and_a_level_once_for_each_eoi() {
    let world = world();
    world.turn(1);
    assert_eq!([EDGE, LEVEL].map(|gsi| map(&world, gsi)), [Ok(16), Ok(17)]);
    assert_eq!(
        [EDGE, LEVEL].map(|gsi| flags(&world, gsi)),
        [Ok(0), Ok(IRQ_STATUS_NEEDS_EOI)]
    );
    assert!(!is_open(&world, EDGE), "nobody listens yet");
    let [edge, level] = [EDGE, LEVEL].map(|gsi| bind(&world, gsi).unwrap());
    // Whoever runs meanwhile, it is the owner that is told.
    for id in [1, 0, 2, 1] {
        world.turn(id);
        assert!(interrupt(&world, EDGE, 1, edge) && is_open(&world, EDGE));
    }
    for _ in 0..3 {
        assert!(interrupt(&world, LEVEL, 1, level) && !is_open(&world, LEVEL));
        assert!(!interrupt(&world, LEVEL, 1, level), "it is masked");
        world.turn(2);
        assert_eq!(eoi(&world, LEVEL), Err(Errno::Inval), "not his");
        world.turn(1);
        assert_eq!([eoi(&world, LEVEL), eoi(&world, LEVEL)], [Ok(()); 2]);
        assert!(is_open(&world, LEVEL));
    }
    assert_eq!(eoi(&world, EDGE), Ok(()));
}

#[test]
fn a_line_is_its_owners_alone() {
    let world = world();
    for id in [0, 2] {
        world.turn(id);
        assert_eq!(map(&world, EDGE), Err(Errno::Perm));
        assert_eq!(bind(&world, EDGE), Err(Errno::Perm));
        assert_eq!(unmap(&world, EDGE), Err(Errno::Inval));
        assert_eq!(flags(&world, EDGE), Err(Errno::Inval));
    }
    world.turn(1);
    assert_eq!(bind(&world, EDGE), Err(Errno::Perm), "it is no pirq yet");
    assert_eq!(map(&world, EDGE), Ok(16));
    assert_eq!(map(&world, EDGE), Ok(16), "again");
    assert_eq!(eoi(&world, EDGE), Err(Errno::Inval), "not bound");
    let port = bind(&world, EDGE).unwrap();
    assert_eq!(bind(&world, EDGE), Err(Errno::Exist));
    assert_eq!(unmap(&world, EDGE), Err(Errno::Busy));
    let op = EventChannelOp::Send.raw();
    let sent = ask(&world, Hypercall::EventChannelOp, op, &Send { port });
    assert_eq!(sent.map(|_| ()), Err(Errno::Inval));
    let record = Status {
        dom: DomId::SELF,
        port,
        ..Status::default()
    };
    let op = EventChannelOp::Status.raw();
    let status = ask(&world, Hypercall::EventChannelOp, op, &record).unwrap();
    assert_eq!(
        (status.status, status.bound_to),
        (ChannelStatus::Pirq.raw(), EDGE)
    );
    let op = EventChannelOp::BindVcpu.raw();
    assert!(ask(&world, Hypercall::EventChannelOp, op, &BindVcpu { port, vcpu: 0 }).is_ok());
    assert_eq!(close(&world, port), Ok(()));
    assert!(!is_open(&world, EDGE));
    assert!(!interrupt(&world, EDGE, 1, port), "nobody listens any more");
    assert_eq!(unmap(&world, EDGE), Ok(()));
    assert_eq!(bind(&world, EDGE), Err(Errno::Perm));
}

#[test]
fn what_makes_no_sense_is_refused() {
    let world = world();
    for taken in [TAKEN, 24] {
        assert_eq!(assign(&world, 1, taken, 1), Err(Errno::Acces));
    }
    assert_eq!(assign(&world, 2, LEVEL, 1), Err(Errno::Exist));
    assert_eq!(assign(&world, 2, u32::from(Gsi::LIMIT), 1), Err(Errno::Inval));
    world.turn(1);
    let good = MapPirq {
        domid: DomId::new(1),
        map_type: MapPirqType::Gsi.raw(),
        index: 16,
        pirq: 16,
        ..MapPirq::default()
    };
    let map = |record: &MapPirq| {
        let mapped = ask(&world, Hypercall::PhysdevOp, PhysdevOp::MapPirq.raw(), record);
        mapped.map(|_| ())
    };
    for (record, error) in [
        (
            MapPirq {
                domid: DomId::new(0),
                ..good
            },
            Errno::Perm,
        ),
        (
            MapPirq {
                map_type: MapPirqType::Msi.raw(),
                ..good
            },
            Errno::Inval,
        ),
        (MapPirq { map_type: 99, ..good }, Errno::Inval),
        (
            MapPirq {
                index: -1,
                pirq: -1,
                ..good
            },
            Errno::Inval,
        ),
        (
            MapPirq {
                index: 1 << 20,
                pirq: -1,
                ..good
            },
            Errno::Inval,
        ),
        (MapPirq { pirq: 17, ..good }, Errno::Inval),
        (MapPirq { pirq: -2, ..good }, Errno::Inval),
        (
            MapPirq {
                index: 4,
                pirq: 4,
                ..good
            },
            Errno::Perm,
        ),
    ] {
        assert_eq!(map(&record), Err(error), "{record:?}");
    }
    assert_eq!(map(&good), Ok(()));
    let bind = |pirq: u32, flags: u32| {
        let record = BindPirq { pirq, flags, port: 0 };
        let op = EventChannelOp::BindPirq.raw();
        ask(&world, Hypercall::EventChannelOp, op, &record).map(|_| ())
    };
    assert_eq!(bind(EDGE, 2), Err(Errno::Inval));
    assert_eq!(bind(u32::MAX, 0), Err(Errno::Inval));
    assert_eq!(bind(EDGE, 1), Ok(()), "to be ready to share is no harm");
    assert_eq!([eoi(&world, u32::MAX), eoi(&world, 4)], [Err(Errno::Inval); 2]);
}

#[test]
fn the_lines_of_a_domain_that_is_destroyed_are_masked_and_another_may_have_them() {
    let world = world();
    world.turn(1);
    for gsi in [EDGE, LEVEL] {
        map(&world, gsi).unwrap();
        bind(&world, gsi).unwrap();
    }
    assert!(is_open(&world, EDGE) && is_open(&world, LEVEL));
    world.turn(0);
    while let Err(error) = world.hv().destroy_domain(DomId::new(1)) {
        assert_eq!(error, Errno::Restart);
        // A device does not wait.
        world.interrupt(0, Gsi::new(EDGE).unwrap());
        world.invariants();
    }
    assert!(!is_open(&world, EDGE) && !is_open(&world, LEVEL));
    assert_eq!(assign(&world, 2, EDGE, 2), Ok(0));
    world.turn(2);
    assert_eq!(map(&world, LEVEL), Ok(17));
    let port = bind(&world, LEVEL).unwrap();
    assert!(interrupt(&world, LEVEL, 2, port));
}

#[test]
fn the_control_domain_says_how_a_line_is_wired_that_raises_no_port() {
    let world = world();
    let wire = |gsi: u32, triggering: u8, polarity: u8| {
        let record = SetupGsi {
            gsi,
            triggering,
            polarity,
        };
        ask(&world, Hypercall::PhysdevOp, PhysdevOp::SetupGsi.raw(), &record).map(|_| ())
    };
    world.turn(1);
    assert_eq!(wire(EDGE, 1, 1), Err(Errno::Perm));
    map(&world, LEVEL).unwrap();
    bind(&world, LEVEL).unwrap();
    world.turn(0);
    for (gsi, triggering, polarity) in [(TAKEN, 0, 0), (96, 0, 0), (EDGE, 2, 0), (EDGE, 0, 2)] {
        assert_eq!(wire(gsi, triggering, polarity), Err(Errno::Inval), "{gsi}");
    }
    assert_eq!(wire(LEVEL, 0, 0), Err(Errno::Exist), "it is bound");
    assert_eq!(wire(EDGE, 1, 1), Ok(()));
    world.turn(1);
    map(&world, EDGE).unwrap();
    assert_eq!(flags(&world, EDGE), Ok(IRQ_STATUS_NEEDS_EOI));
    world.turn(0);
    assert_eq!(wire(EDGE, 0, 0), Err(Errno::Perm), "it is a pirq of another");
    world.turn(1);
    let port = bind(&world, EDGE).unwrap();
    assert!(interrupt(&world, EDGE, 1, port) && !is_open(&world, EDGE));
    assert_eq!(eoi(&world, EDGE), Ok(()));
    assert!(is_open(&world, EDGE));
}

#[test]
fn a_free_pirq_is_a_line_of_the_callers_that_is_none_yet() {
    let world = world();
    let free = |kind: MapPirqType| {
        let record = GetFreePirq {
            map_type: kind.raw(),
            pirq: 0,
        };
        let op = PhysdevOp::GetFreePirq.raw();
        ask(&world, Hypercall::PhysdevOp, op, &record).map(|record| record.pirq)
    };
    let gsi = MapPirqType::Gsi;
    assert_eq!(free(gsi), Err(Errno::NoSpc), "the control domain has none");
    world.turn(1);
    assert_eq!(free(MapPirqType::Msi), Err(Errno::Inval));
    assert_eq!(free(gsi), Ok(EDGE));
    assert_eq!(map(&world, EDGE), Ok(16));
    assert_eq!(free(gsi), Ok(LEVEL));
    assert_eq!(map(&world, LEVEL), Ok(17));
    assert_eq!(free(gsi), Err(Errno::NoSpc));
}
