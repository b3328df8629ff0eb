//! PCI functions: who sees and changes what of them, how they come to a domain, how their messages become events, and that they are quiet before their
//! owner's memory is anybody else's.
#![cfg(not(loom))]
#![expect(
    clippy::unwrap_used,
    clippy::arithmetic_side_effects,
    reason = "a test fails by panicking"
)]

use bulkhead_abi::control::{
    ASSIGN_FRAMES, ASSIGN_PCI, ASSIGN_PORTS, AssignDevice, ControlOp, DomainRef, FAULT_WRITE, FunctionFaults,
    RESET_FUNCTION, RESET_NOT,
};
use bulkhead_abi::event::{BindPirq, Close, EventChannelOp};
use bulkhead_abi::physdev::{MapPirq, MapPirqType, PhysdevOp, SetIopl, UnmapPirq};
use bulkhead_abi::trap::Vector;
use bulkhead_abi::{Buffered, DomId, Errno, Hypercall};
use bulkhead_core::Exception;
use bulkhead_core::devices::MAX_ASSIGNED;
use bulkhead_core::dma::MAX_FUNCTIONS;
use bulkhead_core::events::Port;
use bulkhead_core::events::bits::SharedInfoView;
use bulkhead_core::frames::Mfn;
use bulkhead_core::irq::Pirq;
use bulkhead_core::machine::Machine;
use bulkhead_core::pci::message::Message;
use bulkhead_core::pci::{FunctionId, Region};
use bulkhead_core::testing::functions::{BRIDGE, CROWDED, PLAIN, PORTS, RICH};
use bulkhead_core::testing::{Access, World, check_locks};

const MS: u64 = 1_000_000;

/// The command register.
const COMMAND: u8 = 0x04;

/// Where the table's capability and the other one are in the simulated functions.
const MSI_X: u8 = 0x40;
const MSI: u8 = 0x50;

/// Domain 0 runs; domains 1 and 2 have booted, and all may use ports.
fn world() -> World {
    world_with_free(8)
}

/// The same with so many frames that are nobody's.
fn world_with_free(free: u64) -> World {
    check_locks();
    let (world, _) = World::controlled(2, free);
    for id in [1, 2, 0] {
        world.turn(id);
        ask(
            &world,
            Hypercall::PhysdevOp,
            PhysdevOp::SetIopl.raw(),
            &SetIopl { iopl: 1 },
        )
        .unwrap();
    }
    world
}

/// The running domain makes a call with a record, and sees what has become of that.
fn ask<T: Buffered>(world: &World, number: Hypercall, op: u32, record: &T) -> Result<T, Errno> {
    world.write(0, World::SCRATCH, record);
    let answer = world.call(0, number, &[op.into(), World::SCRATCH]);
    world.invariants();
    answer.map(|_| world.read(0, World::SCRATCH))
}

/// Domain 0 assigns a function to domain `owner`, and waits for its reset. Returns how that was done.
fn assign(world: &World, owner: u16, function: FunctionId) -> Result<u64, Errno> {
    world.turn(0);
    let record = AssignDevice {
        domain: DomId::new(owner),
        kind: ASSIGN_PCI,
        first: function.raw().into(),
        count: 1,
        reset: 0,
    };
    world.write(0, World::SCRATCH, &record);
    let args = [u64::from(ControlOp::AssignDevice.raw()), World::SCRATCH];
    let mut answer = world.call_within(0, Hypercall::Sysctl.raw(), &args, 1);
    for _ in 0..200 {
        world.invariants();
        if let Some(answer) = answer {
            return answer.map(|_| world.read::<AssignDevice>(0, World::SCRATCH).reset);
        }
        world.spin(0, MS);
        world.turn(0);
        answer = world.call_within(0, Hypercall::Sysctl.raw(), &args, 1);
    }
    panic!("{function} is never assigned");
}

/// Domain 0, which runs, assigns a part of a device to domain 2.
fn assign_part(world: &World, kind: u16, first: u64) -> Result<(), Errno> {
    let record = AssignDevice {
        domain: DomId::new(2),
        kind,
        first,
        count: 1,
        reset: 0,
    };
    ask(world, Hypercall::Sysctl, ControlOp::AssignDevice.raw(), &record).map(|_| ())
}

/// Destroys a domain, and lets 10 ms pass as often as that takes. Returns how often.
fn destroy(world: &World, id: u16) -> u64 {
    let mut waited = 0;
    world.turn(0);
    for _ in 0..20_000 {
        match world.hv().destroy_domain(DomId::new(id)) {
            Ok(()) => return waited,
            Err(error) => assert_eq!(error, Errno::Restart),
        }
        world.invariants();
        if world.hv().functions_of(DomId::new(id)) != 0 {
            world.spin(0, 10 * MS);
            waited += 1;
        }
    }
    panic!("domain {id} never ends");
}

/// The guest's kernel executes IN or OUT at port `dx` with the accumulator; returns the accumulator.
fn execute(world: &World, code: &[u8], dx: u16, eax: u32) -> u32 {
    world.sim().guest_write(World::CODE, code).unwrap();
    {
        let mut regs = world.regs_mut(0);
        (regs.rip, regs.rdx, regs.rax) = (World::CODE, dx.into(), eax.into());
    }
    let exception = Exception {
        vector: Vector::GeneralProtection.raw(),
        error_code: 0,
        address: 0,
    };
    world.raise(0, exception);
    world.invariants();
    assert_eq!(world.regs(0).rip, World::CODE + code.len() as u64);
    u32::try_from(world.regs(0).rax).unwrap()
}

fn aim(world: &World, function: FunctionId, offset: u8) {
    let address = 1 << 31 | u32::from(function.raw()) << 8 | u32::from(offset & 0xfc);
    execute(world, &[0xef], 0xcf8, address);
}

/// The running domain reads configuration space as drivers do.
fn read(world: &World, function: FunctionId, offset: u8) -> u32 {
    aim(world, function, offset);
    execute(world, &[0xed], 0xcfc, 0)
}

/// The running domain writes to it.
fn write(world: &World, function: FunctionId, offset: u8, value: u32) {
    aim(world, function, offset);
    execute(world, &[0xef], 0xcfc, value);
}

/// What the function itself says.
fn raw(world: &World, function: FunctionId, offset: u8) -> u32 {
    world.sim().config_read(function, offset)
}

fn map_message(world: &World, function: FunctionId, entry: i32, table_base: u64) -> Result<u32, Errno> {
    let record = MapPirq {
        domid: DomId::SELF,
        map_type: MapPirqType::Msi.raw(),
        index: -1,
        pirq: -1,
        bus: function.bus().into(),
        devfn: function.devfn().into(),
        entry_nr: entry,
        table_base,
    };
    let op = PhysdevOp::MapPirq.raw();
    ask(world, Hypercall::PhysdevOp, op, &record).map(|record| record.pirq.cast_unsigned())
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

/// A message arrives. Says whether `port` of domain `id` is pending then, and takes note of it.
fn message(world: &World, pirq: u32, id: u16, port: u32) -> bool {
    world.message(0, Pirq::new(pirq).unwrap());
    world.invariants();
    let domain = world.hv().domain(DomId::new(id)).unwrap();
    let frame = world.sim().frame(domain.shared_info);
    let (view, port) = (SharedInfoView::new(frame), Port::new(port).unwrap());
    let was_pending = view.is_pending(port);
    view.clear_pending(port);
    was_pending
}

/// The machine address of the table of `RICH`, and of its registers.
fn rich_registers(world: &World) -> u64 {
    u64::from(raw(world, RICH, 0x10))
}

#[test]
fn what_firmware_let_at_memory_is_not_when_domains_run() {
    let world = world();
    for function in [RICH, PLAIN, CROWDED] {
        assert_eq!(
            raw(&world, function, COMMAND) & 7,
            3,
            "{function} answers, and does no more"
        );
    }
    assert_eq!(raw(&world, BRIDGE, COMMAND) & 7, 7, "others are behind it");
}

#[test]
fn the_control_domain_sees_all_functions_and_an_owner_its_own() {
    let world = world();
    assert_eq!(assign(&world, 1, RICH), Ok(RESET_FUNCTION));
    let seen = |world: &World| {
        [BRIDGE, RICH, PLAIN, FunctionId::new(0x30)].map(|function| read(world, function, 0) == 0x1234_1af4)
    };
    assert_eq!(seen(&world), [true, true, true, false]);
    world.turn(1);
    assert_eq!(seen(&world), [false, true, false, false]);
    world.turn(2);
    assert_eq!(seen(&world), [false; 4]);
}

#[test]
fn ports_of_configuration_space_are_as_on_a_pc() {
    let world = world();
    assert_eq!(read(&world, RICH, 0), 0x1234_1af4);
    // By bytes and halves; and the address reads back.
    for (code, port, expected) in [
        (&[0xec][..], 0xcfc, 0xf4),
        (&[0xec], 0xcff, 0x12),
        (&[0x66, 0xed], 0xcfe, 0x1234),
        (&[0xed], 0xcf8, 1 << 31 | 0x18 << 8),
        // Beyond the word, and at the port for resets.
        (&[0x66, 0xed], 0xcff, 0xffff),
        (&[0xec], 0xcf9, 0xff),
    ] {
        assert_eq!(execute(&world, code, port, 0), expected, "{port:#x}");
    }
    execute(&world, &[0xef], 0xcf8, 0x18 << 8);
    assert_eq!(execute(&world, &[0xed], 0xcfc, 0), u32::MAX, "not enabled");
    // Each domain has an address of its own.
    aim(&world, RICH, 0);
    assert_eq!(assign(&world, 1, PLAIN), Ok(RESET_NOT));
    for (id, expected) in [(1, 0), (2, u32::MAX)] {
        world.turn(id);
        assert_eq!(
            execute(&world, &[0xed], 0xcf8, 0),
            expected,
            "nothing at all for who has no function"
        );
    }
}

#[test]
fn base_addresses_are_sized_without_the_function_hearing_of_it() {
    let world = world();
    assign(&world, 1, RICH).unwrap();
    assign(&world, 1, PLAIN).unwrap();
    let before = [
        raw(&world, RICH, 0x10),
        raw(&world, RICH, 0x14),
        raw(&world, PLAIN, 0x18),
    ];
    for id in [0, 1] {
        world.turn(id);
        for (function, offset, mask) in [
            (RICH, 0x10, 0xffff_e000),
            (RICH, 0x14, 0xffff_ffe1),
            (RICH, 0x20, 0),
            (PLAIN, 0x18, 0xffff_f004),
            (PLAIN, 0x1c, 0xffff_ffff),
            (RICH, 0x30, 0),
        ] {
            let value = read(&world, function, offset);
            write(&world, function, offset, u32::MAX);
            assert_eq!(read(&world, function, offset), mask, "{function} {offset:#x}");
            write(&world, function, offset, 0x5000_0000);
            assert_eq!(read(&world, function, offset), value, "it stays where it is");
        }
    }
    // Both halves at once, as some do; and one forgets it with another function.
    write(&world, PLAIN, 0x18, u32::MAX);
    write(&world, PLAIN, 0x1c, u32::MAX);
    assert_eq!(
        [read(&world, PLAIN, 0x18), read(&world, PLAIN, 0x1c)],
        [0xffff_f004, u32::MAX]
    );
    let _ = read(&world, RICH, 0);
    assert_eq!(read(&world, PLAIN, 0x18), before[2]);
    let after = [
        raw(&world, RICH, 0x10),
        raw(&world, RICH, 0x14),
        raw(&world, PLAIN, 0x18),
    ];
    assert_eq!(before, after);
}

#[test]
fn an_owner_changes_the_command_register_and_nothing_else() {
    let world = world();
    assign(&world, 1, RICH).unwrap();
    assign(&world, 2, PLAIN).unwrap();
    let whole =
        |world: &World, function| -> Vec<u32> { (0..64).map(|n| raw(world, function, n * 4)).collect() };
    let before = [whole(&world, RICH), whole(&world, PLAIN)];
    for (id, function) in [(0, RICH), (2, RICH), (0, BRIDGE), (1, PLAIN)] {
        world.turn(id);
        for n in 0..64 {
            write(&world, function, n * 4, 0x0000_ffff);
        }
    }
    assert_eq!([whole(&world, RICH), whole(&world, PLAIN)], before, "not theirs");
    world.turn(1);
    for n in (0..64).filter(|&n| n != 1) {
        write(&world, RICH, n * 4, 0x5555_5555);
        write(&world, RICH, n * 4, u32::MAX);
    }
    assert_eq!(whole(&world, RICH), before[0]);
    write(&world, RICH, COMMAND, u32::MAX);
    assert_eq!(raw(&world, RICH, COMMAND), 0x0010_0547);
    assert!(world.sim().is_master(RICH));
    // A byte of it.
    aim(&world, RICH, COMMAND);
    execute(&world, &[0xee], 0xcfc, 0x02);
    assert_eq!(raw(&world, RICH, COMMAND), 0x0010_0502);
}

#[test]
fn a_function_is_assigned_whole_but_for_the_table_of_its_messages() {
    let world = world();
    let registers = rich_registers(&world);
    let frame = registers >> 12;
    assert_eq!(assign(&world, 1, RICH), Ok(RESET_FUNCTION));
    assert_eq!(world.sim().resets(RICH), 1);
    assert_eq!(rich_registers(&world), registers, "the reset took it away");
    assert_eq!(assign(&world, 2, RICH), Err(Errno::Exist));
    assert_eq!(assign(&world, 2, PLAIN), Ok(RESET_NOT));
    assert_eq!(assign(&world, 1, BRIDGE), Err(Errno::Acces));
    assert_eq!(assign(&world, 1, CROWDED), Err(Errno::Acces));
    assert_eq!(assign(&world, 1, FunctionId::new(0x33)), Err(Errno::Inval));
    let owns = |kind, first| assign_part(&world, kind, first) == Err(Errno::Exist);
    let ports = u64::from(PORTS);
    assert!(
        owns(ASSIGN_PORTS, ports) && owns(ASSIGN_PORTS, ports + 0x1f) && !owns(ASSIGN_PORTS, ports + 0x20)
    );
    assert!(owns(ASSIGN_FRAMES, frame));
    assert_eq!(
        assign_part(&world, ASSIGN_FRAMES, frame + 1),
        Err(Errno::Acces),
        "the table"
    );
    world.turn(1);
    let map = |frame: u64| world.call(0, Hypercall::UpdateVaMapping, &[600 * 4096, frame << 12 | 3, 2]);
    assert_eq!(map(frame), Ok(0));
    assert!(map(frame + 1).is_err(), "the table");
}

#[test]
fn a_message_of_a_table_becomes_an_event() {
    let world = world();
    let table = rich_registers(&world) + 0x1000;
    let entry = |n: u64| [0, 4, 8, 12].map(|at| world.sim().register_read(table + 16 * n + at));
    assign(&world, 1, RICH).unwrap();
    for id in [0, 2] {
        world.turn(id);
        assert_eq!(map_message(&world, RICH, 0, table), Err(Errno::Perm));
    }
    world.turn(1);
    assert_eq!(
        map_message(&world, RICH, 4, table),
        Err(Errno::Inval),
        "there are four"
    );
    assert_eq!(map_message(&world, RICH, -1, table), Err(Errno::Inval));
    assert_eq!(
        map_message(&world, RICH, 0, 0),
        Err(Errno::Inval),
        "it has but a table"
    );
    assert_eq!(map_message(&world, PLAIN, 0, 0), Err(Errno::Perm));
    assert_eq!(map_message(&world, RICH, 2, table), Ok(96));
    assert_eq!(map_message(&world, RICH, 3, table), Ok(97));
    assert_eq!(map_message(&world, RICH, 2, table), Ok(96), "again");
    assert_eq!(entry(2)[3], 1);
    let sender = || world.sim().sender(Message::new(0).unwrap());
    assert_eq!(sender(), None);
    let port = bind(&world, 96).unwrap();
    assert_eq!(sender(), Some(RICH));
    assert_eq!(entry(2), [0xfee0_0000, 0, 0x100, 0]);
    assert_eq!(entry(3)[3], 1);
    assert_eq!(raw(&world, RICH, MSI_X) & 0xc000_0000, 0x8000_0000);
    assert_ne!(raw(&world, RICH, COMMAND) & 0x400, 0, "its line is not used");
    for id in [1, 0, 2] {
        world.turn(id);
        assert!(message(&world, 96, 1, port));
        assert!(!message(&world, 97, 1, port));
    }
    world.turn(1);
    assert_eq!(unmap(&world, 96), Err(Errno::Busy));
    let close = EventChannelOp::Close.raw();
    ask(&world, Hypercall::EventChannelOp, close, &Close { port }).unwrap();
    assert_eq!(entry(2)[3], 1, "masked again");
    assert_eq!(sender(), None, "whoever sends it");
    assert!(!message(&world, 96, 1, port), "one that was on its way");
    assert_eq!(
        [unmap(&world, 96), unmap(&world, 96)],
        [Ok(()), Err(Errno::Inval)]
    );
    assert_eq!(map_message(&world, RICH, 0, table), Ok(96), "the number is free");
}

#[test]
fn the_message_of_a_capability_becomes_an_event() {
    let world = world();
    assign(&world, 2, PLAIN).unwrap();
    world.turn(2);
    assert_eq!(map_message(&world, PLAIN, 1, 0), Ok(96));
    assert_eq!(
        map_message(&world, PLAIN, 2, 0),
        Err(Errno::Inval),
        "one is offered"
    );
    let port = bind(&world, 96).unwrap();
    let words = [0, 4, 8, 12, 16].map(|at| raw(&world, PLAIN, MSI + at));
    assert_eq!(words, [0x0181_0005, 0xfee0_0000, 0, 0x100, !1]);
    assert!(message(&world, 96, 2, port));
    let close = EventChannelOp::Close.raw();
    ask(&world, Hypercall::EventChannelOp, close, &Close { port }).unwrap();
    assert_eq!(raw(&world, PLAIN, MSI + 16) & 1, 1);
}

#[test]
fn what_a_function_tried_in_vain_is_told_to_the_control_domain() {
    let world = world();
    let faults = |function: FunctionId| {
        let request = FunctionFaults {
            function: function.raw(),
            ..FunctionFaults::default()
        };
        ask(
            &world,
            Hypercall::Sysctl,
            ControlOp::FunctionFaults.raw(),
            &request,
        )
    };
    let none = faults(RICH).unwrap();
    assert_eq!((none.domain, none.count), (DomId::INVALID, 0));
    assert_eq!(faults(FunctionId::new(u16::MAX)), Err(Errno::NoEnt));
    assign(&world, 1, RICH).unwrap();
    world.turn(1);
    write(&world, RICH, COMMAND, 4);
    world.turn(0);
    let frame = Mfn::new(5).unwrap();
    for access in [Access::Read, Access::Write] {
        assert!(!world.sim().dma(RICH, frame, access));
    }
    let two = faults(RICH).unwrap();
    assert_eq!((two.domain, two.count, two.address), (DomId::new(1), 2, 0x5000));
    assert_eq!(two.flags, FAULT_WRITE);
    assert_eq!(faults(PLAIN).unwrap().count, 0);
    destroy(&world, 1);
    assert_eq!(faults(RICH).unwrap(), two, "whoever asks later");
    assign(&world, 2, RICH).unwrap();
    let none = faults(RICH).unwrap();
    assert_eq!((none.domain, none.count), (DomId::new(2), 0));
}

#[test]
fn a_function_is_quiet_before_its_owners_memory_is_anybodys() {
    let world = world();
    assign(&world, 1, RICH).unwrap();
    let free = world.hv().memory().free_frames();
    world.turn(1);
    let table = rich_registers(&world) + 0x1000;
    map_message(&world, RICH, 0, table).unwrap();
    bind(&world, 96).unwrap();
    write(&world, RICH, COMMAND, 7);
    assert!(world.sim().is_master(RICH));
    world.sim().set_pending(true);
    world.turn(0);
    assert_eq!(world.hv().destroy_domain(DomId::new(1)), Err(Errno::Restart));
    assert!(!world.sim().is_master(RICH), "first of all");
    assert_eq!(assign(&world, 2, RICH), Err(Errno::Exist));
    // It waits for what it has asked for, as long as that may take, and then for the reset.
    assert_eq!(world.hv().memory().free_frames(), free);
    assert!(destroy(&world, 1) >= 19);
    assert_eq!(world.sim().resets(RICH), 2);
    assert!(world.hv().memory().free_frames() > free);
    world.sim().set_pending(false);
    assert_eq!(assign(&world, 2, RICH), Ok(RESET_FUNCTION));
    assert_eq!(world.sim().resets(RICH), 3, "for whoever comes next");
    world.turn(2);
    assert_eq!(map_message(&world, RICH, 0, table), Ok(96));
    // What has answered is not waited for, and what cannot be reset is not either.
    assign(&world, 2, PLAIN).unwrap();
    let waited = destroy(&world, 2);
    assert!((10..=12).contains(&waited), "{waited}");
}

/// Domain 0 makes a call, which has to wait for a reset, and sleeps meanwhile: it does not run before 100 ms are over.
fn sleeps_for_reset<T: Buffered>(world: &World, op: ControlOp, record: &T) {
    world.write(0, World::SCRATCH, record);
    let args = [u64::from(op.raw()), World::SCRATCH];
    let go = || world.call_within(0, Hypercall::Sysctl.raw(), &args, 1);
    // The end of a domain begins with other things.
    let goes = (0..10).find(|_| {
        assert_eq!(go(), None);
        world.running(0) != Some((0, 0))
    });
    assert!(goes.is_some(), "it never sleeps");
    for n in 0..99 {
        assert_ne!(world.running(0), Some((0, 0)), "after {n} ms");
        world.spin(0, MS);
    }
    world.turn(0);
    assert_eq!(world.call(0, Hypercall::Sysctl, &args), Ok(0));
}

#[test]
fn who_waits_for_a_reset_sleeps_until_it_is_over() {
    let world = world();
    let (domain, first) = (DomId::new(1), RICH.raw().into());
    let assign = AssignDevice {
        domain,
        kind: ASSIGN_PCI,
        first,
        count: 1,
        reset: 0,
    };
    sleeps_for_reset(&world, ControlOp::AssignDevice, &assign);
    assert_eq!(world.hv().functions_of(domain), 1);
    sleeps_for_reset(
        &world,
        ControlOp::DestroyDomain,
        &DomainRef { domain, reserved: 0 },
    );
    assert!(world.hv().domain(domain).is_none());
}

#[test]
fn what_a_function_is_read_from_is_what_it_says() {
    let world = world();
    let registers = rich_registers(&world);
    let regions = |function| world.hv().regions_of(function);
    assert_eq!(
        regions(RICH),
        [Region::Memory(registers, 0x2000), Region::Ports(PORTS, 0x20)]
    );
    assert_eq!(regions(PLAIN), [Region::Memory(registers + 0x2000, 0x1000)]);
    assert_eq!(regions(BRIDGE), []);
}

/// A function that cannot be assigned is nobody's as before, reaches nothing, and has nothing: invariants see to that after each call. It can be assigned to others.
fn assert_refused(world: &World, function: FunctionId, error: Errno) {
    assert_eq!(assign(world, 1, function), Err(error));
    assert_eq!(assign(world, 1, function), Err(error), "again");
    assert_eq!(world.hv().functions_of(DomId::new(1)), 0);
    assert!(
        world
            .sim()
            .attached()
            .iter()
            .all(|&(other, ..)| other != function)
    );
    assert_eq!(raw(world, function, COMMAND) & 4, 0);
}

#[test]
fn a_function_for_whose_ranges_there_is_no_room_is_not_assigned() {
    let world = world();
    // All but one of the ranges that there can be; the function has registers and ports.
    for n in 0..MAX_ASSIGNED as u64 - 1 {
        assign_part(&world, ASSIGN_PORTS, 0x1000 + n).unwrap();
    }
    assert_refused(&world, RICH, Errno::NoSpc);
    assert_eq!(assign(&world, 2, PLAIN), Ok(RESET_NOT), "one is left");
    assert_eq!(assign_part(&world, ASSIGN_PORTS, 0x2000), Err(Errno::NoSpc));
    assert_eq!(assign_part(&world, ASSIGN_PORTS, PORTS.into()), Err(Errno::NoSpc));
}

#[test]
fn a_function_of_which_somebody_has_a_part_is_not_assigned() {
    let world = world();
    assign_part(&world, ASSIGN_PORTS, u64::from(PORTS) + 3).unwrap();
    assert_refused(&world, RICH, Errno::Exist);
    destroy(&world, 2);
    assert_eq!(assign(&world, 1, RICH), Ok(RESET_FUNCTION));
    assert_eq!(world.sim().resets(RICH), 1, "nobody had it since");
}

#[test]
fn a_domain_with_as_many_functions_as_it_can_have_gets_no_other() {
    let world = world();
    for n in 0..u16::try_from(MAX_FUNCTIONS).unwrap() {
        world.attach(FunctionId::new(0x100 + n), 1);
    }
    for function in [RICH, PLAIN] {
        assert_refused(&world, function, Errno::NoSpc);
    }
    assert_eq!(assign(&world, 2, RICH), Ok(RESET_FUNCTION));
    assert_eq!(assign(&world, 2, PLAIN), Ok(RESET_NOT));
}

#[test]
fn a_function_for_which_the_hypervisor_has_no_memory_is_not_assigned() {
    let world = world_with_free(0);
    for function in [RICH, PLAIN] {
        assert_refused(&world, function, Errno::NoMem);
    }
    destroy(&world, 2);
    assert_eq!(assign(&world, 1, RICH), Ok(RESET_FUNCTION));
    assert_eq!(assign(&world, 1, PLAIN), Ok(RESET_NOT));
}
