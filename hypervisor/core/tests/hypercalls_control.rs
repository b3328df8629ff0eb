//! `sysctl`: who may call it, what it refuses, and that a share which changes counts from then on.
#![cfg(not(loom))]
#![expect(
    clippy::unwrap_used,
    clippy::arithmetic_side_effects,
    reason = "a test fails by panicking"
)]

use bulkhead_abi::control::{
    CONFINED_DMA, CONFINED_INTERRUPTS, CONTROL_VERSION, ControlOp, DomainRef, DomainTimes, MAX_READ,
    MachineInfo, ReadFile, ReadLog, ReadTrace, Schedule,
};
use bulkhead_abi::event::Virq;
use bulkhead_abi::sched::ShutdownReason;
use bulkhead_abi::{Buffered, DomId, Errno, Hypercall, layout};
use bulkhead_core::ids::CpuId;
use bulkhead_core::machine::Outcome;
use bulkhead_core::testing::{GuestSpec, Sim, SimConfig, World};
use bulkhead_core::{EndPolicy, Machine};

const MS: u64 = 1_000_000;

/// Domain 0 on the last of `cpus` CPUs, and the others on the first; all have booted. Domain 0 runs.
fn world(others: u16, cpus: u32) -> World {
    world_with(others, cpus, EndPolicy::LastDomain)
}

fn world_with(others: u16, cpus: u32, end: EndPolicy) -> World {
    let config = SimConfig {
        free_frames: GuestSpec::FRAMES * u64::from(others + 1),
        cpus,
    };
    let world = World::new(config, end);
    world.sim().let_waiting_pass_time(cpus == 1);
    for id in 0..=others {
        let home = if id == 0 {
            CpuId::new(cpus - 1)
        } else {
            CpuId::BOOT
        };
        let spec = GuestSpec {
            home: Some(home),
            ..GuestSpec::default()
        };
        world.create(id, &spec).unwrap();
    }
    let control = control_cpu(&world);
    world.enter(control);
    world.boot(control);
    let port = world.bind_virq(control, Virq::Timer);
    port.unwrap();
    world
}

/// The CPU of domain 0.
fn control_cpu(world: &World) -> usize {
    usize::try_from(world.sim().cpus()).unwrap() - 1
}

/// The guest on `cpu` asks for `op` with a record.
fn ask<T: Buffered>(world: &mut World, cpu: usize, op: ControlOp, mut record: T) -> Result<T, Errno> {
    let args = [u64::from(op.raw()), World::SCRATCH];
    world.call_with(cpu, Hypercall::Sysctl, &args, (World::SCRATCH, &mut record))?;
    Ok(record)
}

fn schedule(world: &mut World, domain: u16) -> Schedule {
    let cpu = control_cpu(world);
    let record = Schedule {
        domain: DomId::new(domain),
        ..Schedule::default()
    };
    ask(world, cpu, ControlOp::GetSchedule, record).unwrap()
}

fn set_schedule(world: &mut World, schedule: Schedule) -> Result<Schedule, Errno> {
    let cpu = control_cpu(world);
    let answer = ask(world, cpu, ControlOp::SetSchedule, schedule);
    world.invariants();
    answer
}

/// The nanoseconds of CPU that a domain has had.
fn cpu_time(world: &mut World, domain: u16) -> u64 {
    let cpu = control_cpu(world);
    let record = DomainTimes {
        domain: DomId::new(domain),
        ..DomainTimes::default()
    };
    let times = ask(world, cpu, ControlOp::DomainTimes, record).unwrap();
    times.user_ns + times.kernel_ns + times.hypervisor_ns
}

/// Domain 0, alone with its guests on one CPU, sleeps for `ns`; they compute meanwhile.
fn sleep(world: &mut World, ns: u64) {
    world.unmask_upcalls(0);
    world.set_timer(0, world.sim().now() + ns, 0).unwrap();
    world.block(0);
    while !matches!(world.running(0), Some((0, _))) {
        world.spin(0, MS / 10);
    }
    world.take_upcall(0);
    world.invariants();
}

#[test]
fn nobody_but_the_control_domain_is_answered() {
    let world = world(1, 2);
    assert_eq!(world.enter(0), Some((1, 0)));
    let known = ControlOp::ALL.iter().map(|op| op.raw());
    for op in known.chain([99]) {
        let args = [u64::from(op), World::SCRATCH];
        assert_eq!(
            world.call(0, Hypercall::Sysctl, &args),
            Err(Errno::Perm),
            "operation {op}"
        );
    }
    let version = [u64::from(ControlOp::Version.raw())];
    assert_eq!(
        world.call(1, Hypercall::Sysctl, &version),
        Ok(u64::from(CONTROL_VERSION))
    );
    assert_eq!(world.call(1, Hypercall::Sysctl, &[99]), Err(Errno::NoSys));
}

#[test]
fn a_record_that_cannot_be_reached_is_a_fault() {
    let world = world(0, 1);
    let records = [
        ControlOp::DomainTimes,
        ControlOp::ReadTrace,
        ControlOp::GetSchedule,
        ControlOp::SetSchedule,
    ];
    for op in records {
        for address in [layout::HYPERVISOR.start, 1 << 46] {
            let args = [u64::from(op.raw()), address];
            assert_eq!(
                world.call(0, Hypercall::Sysctl, &args),
                Err(Errno::Fault),
                "{op} at {address:#x}"
            );
        }
    }
}

#[test]
fn a_domain_or_a_cpu_that_is_not_there_is_refused() {
    let mut world = world(0, 1);
    let domain = DomId::new(7);
    let times = DomainTimes {
        domain,
        ..DomainTimes::default()
    };
    assert_eq!(
        ask(&mut world, 0, ControlOp::DomainTimes, times),
        Err(Errno::Srch)
    );
    let share = Schedule {
        domain,
        ..schedule(&mut world, 0)
    };
    assert_eq!(
        ask(&mut world, 0, ControlOp::GetSchedule, share),
        Err(Errno::Srch)
    );
    assert_eq!(set_schedule(&mut world, share), Err(Errno::Srch));
    let trace = ReadTrace {
        cpu: 1,
        ..ReadTrace::default()
    };
    assert_eq!(ask(&mut world, 0, ControlOp::ReadTrace, trace), Err(Errno::NoEnt));
}

#[test]
fn a_share_reads_back_as_it_was_set_and_one_that_makes_no_sense_changes_nothing() {
    let mut world = world(1, 1);
    let share = Schedule {
        weight: 300,
        warp_ns: 5_000_000,
        warp_limit_ns: 2_000_000,
        unwarp_ns: 9_000_000,
        cpus: 0b11,
        ..schedule(&mut world, 1)
    };
    set_schedule(&mut world, share).unwrap();
    assert_eq!(schedule(&mut world, 1), share);
    for nonsense in [
        Schedule { weight: 0, ..share },
        Schedule { cpus: 0, ..share },
        // The machine has no such CPU.
        Schedule {
            cpus: 1 << 63,
            ..share
        },
        Schedule {
            reserved: [0, 1],
            ..share
        },
    ] {
        assert_eq!(
            set_schedule(&mut world, nonsense),
            Err(Errno::Inval),
            "{nonsense:?}"
        );
        assert_eq!(schedule(&mut world, 1), share);
    }
}

#[test]
fn a_weight_that_changes_while_domains_run_counts_from_then_on() {
    let mut world = world(2, 1);
    for (weight, expected) in [(512, 200), (256, 100), (64, 25)] {
        let share = Schedule {
            weight,
            ..schedule(&mut world, 2)
        };
        set_schedule(&mut world, share).unwrap();
        let before = [1, 2].map(|domain| cpu_time(&mut world, domain));
        sleep(&mut world, 500 * MS);
        let after = [1, 2].map(|domain| cpu_time(&mut world, domain));
        let [first, second] = [after[0] - before[0], after[1] - before[1]];
        let percent = second * 100 / first;
        assert!(
            percent.abs_diff(expected) <= 2,
            "weights 256 and {weight}: {first} and {second} ns"
        );
    }
}

#[test]
fn a_domain_whose_cpus_change_leaves_the_one_that_it_may_not_use_any_longer() {
    let mut world = world(2, 2);
    world.enter(0);
    let [running, waiting] = match world.running(0) {
        Some((1, _)) => [1, 2],
        other => {
            assert_eq!(other, Some((2, 0)));
            [2, 1]
        }
    };
    for domain in [running, waiting] {
        let share = Schedule {
            cpus: 0b10,
            ..schedule(&mut world, domain)
        };
        set_schedule(&mut world, share).unwrap();
    }
    for _ in 0..3 {
        world.enter(0);
        world.enter(1);
        world.invariants();
    }
    assert_eq!(world.running(0), None);
    let mut seen = [false; 3];
    for _ in 0..3 {
        let (domain, _) = world.running(1).unwrap();
        *seen.get_mut(usize::from(domain)).unwrap() = true;
        world.yield_now(1);
    }
    assert_eq!(seen, [true; 3], "all share the second CPU");
}

#[test]
fn the_control_domain_is_told_what_the_machine_has() {
    let mut world = world(1, 1);
    let info = ask(&mut world, 0, ControlOp::MachineInfo, MachineInfo::default()).unwrap();
    assert_eq!((info.cpus, info.domains), (1, 2));
    assert_eq!(info.free, world.hv().memory().free_frames());
    assert_eq!(info.ram, world.sim().ram_frames());
    assert_eq!(info.flags, CONFINED_DMA | CONFINED_INTERRUPTS);
}

/// Where a guest has what it reads.
const BUFFER: u64 = World::SCRATCH + 512;

#[test]
fn a_file_of_the_boot_archive_is_read_in_parts() {
    let mut world = world(0, 1);
    let mut read = |index, offset, count| {
        let request = ReadFile {
            index,
            offset,
            count,
            buffer: BUFFER,
            ..ReadFile::default()
        };
        let read = ask(&mut world, 0, ControlOp::ReadFile, request)?;
        let name = read.name.split(|&byte| byte == 0).next().unwrap_or_default();
        let name = String::from_utf8(name.to_vec()).unwrap();
        Ok::<_, Errno>((name, read.size, read.count, world.read::<u64>(0, BUFFER)))
    };
    for (index, (name, content)) in (0..).zip(Sim::FILES) {
        let (name, size) = (name.to_string(), content.len() as u64);
        let start = u64::from_le_bytes(*content.first_chunk().unwrap());
        assert_eq!(read(index, 0, 8), Ok((name.clone(), size, 8, start)));
        let last = u64::from(content[content.len() - 1]) | start & !0xff;
        assert_eq!(read(index, size - 1, 99), Ok((name.clone(), size, 1, last)));
        assert_eq!(read(index, size, 8), Ok((name.clone(), size, 0, last)));
        assert_eq!(read(index, u64::MAX, 8), Ok((name, size, 0, last)));
    }
    assert_eq!(read(2, 0, 8), Err(Errno::NoEnt));
    assert_eq!(read(u32::MAX, 0, 8), Err(Errno::NoEnt));
}

#[test]
fn one_call_reads_no_more_than_so_much_of_a_file() {
    let mut world = world(0, 1);
    let request = ReadFile {
        index: 1,
        count: u32::MAX,
        buffer: BUFFER,
        ..ReadFile::default()
    };
    let read = ask(&mut world, 0, ControlOp::ReadFile, request).unwrap();
    assert_eq!((read.count, read.size), (MAX_READ, Sim::FILES[1].1.len() as u64));
    assert!(read.size > u64::from(MAX_READ));
}

#[test]
fn the_log_is_read_to_its_end_and_not_twice() {
    let mut world = world(0, 1);
    let end = Sim::LOG.len() as u64;
    let mut from = 0;
    let mut text = Vec::new();
    loop {
        let request = ReadLog {
            count: 8,
            from,
            buffer: BUFFER,
            ..ReadLog::default()
        };
        let read = ask(&mut world, 0, ControlOp::ReadLog, request).unwrap();
        assert_eq!((read.end, read.from), (end, from + u64::from(read.count)));
        if read.count == 0 {
            break;
        }
        let bytes = world.read::<u64>(0, BUFFER).to_le_bytes();
        text.extend_from_slice(&bytes[..read.count as usize]);
        from = read.from;
    }
    assert_eq!(text, Sim::LOG);
}

#[test]
fn who_reads_the_operators_line_is_told_that_there_is_something() {
    let world = world(0, 1);
    let port = world.bind_virq(0, Virq::Console).unwrap();
    world.hv().console_input();
    assert!(world.is_pending(0, port));
}

#[test]
fn without_control_a_machine_on_which_nothing_runs_stops() {
    let mut world = world_with(1, 1, EndPolicy::ControlDomain);
    let guest = DomainRef {
        domain: DomId::new(1),
        reserved: 0,
    };
    ask(&mut world, 0, ControlOp::PauseDomain, guest).unwrap();
    world.shut_down(0, ShutdownReason::Crash);
    assert_eq!(world.sim().stopped(), Some(Outcome::DomainCrashed));
}

#[test]
fn guests_run_on_when_the_control_domain_crashes_and_not_when_it_leaves() {
    for (reason, stopped) in [
        (ShutdownReason::Crash, None),
        (ShutdownReason::Poweroff, Some(Outcome::Clean)),
        (ShutdownReason::Reboot, Some(Outcome::Clean)),
    ] {
        let world = world_with(1, 1, EndPolicy::ControlDomain);
        world.shut_down(0, reason);
        assert_eq!(world.sim().stopped(), stopped, "{reason}");
        if stopped.is_none() {
            assert_eq!(world.running(0), Some((1, 0)));
            world.shut_down(0, ShutdownReason::Poweroff);
            assert_eq!(world.sim().stopped(), Some(Outcome::DomainCrashed));
        }
    }
}
