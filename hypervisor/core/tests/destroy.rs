//! The end of domains: whatever a domain was doing, each of its frames comes back, its number can be had again, and its peers are told.
#![cfg(not(loom))]
#![expect(
    clippy::unwrap_used,
    clippy::arithmetic_side_effects,
    reason = "a test fails by panicking"
)]

use bulkhead_abi::control::{
    COPY_FROM, COPY_TO, ControlOp, CopyMemory, CreateDomain, DomainInfo, DomainRef, STATE_BUILDING,
    STATE_PAUSED, STATE_RUNNING, STATE_SHUT_DOWN, VcpuState,
};
use bulkhead_abi::event::{AllocUnbound, ChannelStatus, EventChannelOp, Status, Virq};
use bulkhead_abi::grant::{GrantStatus, GrantTableOp, SetupTable};
use bulkhead_abi::sched::ShutdownReason;
use bulkhead_abi::vcpu::{VGCF_IN_KERNEL, VGCF_ONLINE, VcpuGuestContext};
use bulkhead_abi::{Buffered, DomId, Errno, Hypercall};
use bulkhead_core::EndPolicy;
use bulkhead_core::ids::CpuId;
use bulkhead_core::testing::{Choices, GuestSpec, SimConfig, Stage, StageConfig, World, check_locks};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

/// The frames of a guest: its memory, shared info, and one of its grant table.
const GUEST: u64 = 1026;

/// Domain 0 on the last CPU, guests with the numbers `guests` on the first; all are made, and domain 0 has booted and runs.
fn world(guests: &[u16], cpus: u32) -> World {
    let config = SimConfig {
        free_frames: GUEST * 6,
        cpus,
    };
    let world = World::new(config, EndPolicy::ControlDomain);
    world.sim().let_waiting_pass_time(false);
    let control = CpuId::new(cpus - 1);
    let at = |home| GuestSpec {
        home: Some(home),
        ..GuestSpec::default()
    };
    world.create(0, &at(control)).unwrap();
    for &id in guests {
        world.create(id, &at(CpuId::BOOT)).unwrap();
    }
    let control = control.index();
    assert_eq!(world.enter(control), Some((0, 0)));
    world.boot(control);
    world
}

/// Domain 0, on `cpu`, asks for `op` with a record.
fn ask<T: Buffered>(world: &mut World, cpu: usize, op: ControlOp, mut record: T) -> Result<T, Errno> {
    let args = [u64::from(op.raw()), World::SCRATCH];
    world.call_with(cpu, Hypercall::Sysctl, &args, (World::SCRATCH, &mut record))?;
    Ok(record)
}

/// The same about a domain by its number alone, until it is over. Between two portions the other CPUs look up.
fn tell(world: &mut World, cpu: usize, op: ControlOp, domain: u16) -> Result<(), Errno> {
    let record = DomainRef {
        domain: DomId::new(domain),
        reserved: 0,
    };
    world.write(cpu, World::SCRATCH, &record);
    let args = [u64::from(op.raw()), World::SCRATCH];
    for _ in 0..1000 {
        if let Some(answer) = world.call_within(cpu, Hypercall::Sysctl.raw(), &args, 1) {
            return answer.map(|_| ());
        }
        for other in (0..world.sim().cpus() as usize).filter(|&other| other != cpu) {
            world.enter(other);
        }
    }
    panic!("{op} of domain {domain} is never done");
}

fn info(world: &mut World, cpu: usize, from: u16) -> Result<DomainInfo, Errno> {
    let record = DomainInfo {
        domain: DomId::new(from),
        ..DomainInfo::default()
    };
    ask(world, cpu, ControlOp::DomainInfo, record)
}

fn create(world: &mut World, cpu: usize, id: DomId) -> Result<CreateDomain, Errno> {
    let record = CreateDomain {
        domain: id,
        weight: 256,
        vcpus: 2,
        limit: 64,
        cpus: u64::MAX,
        ..CreateDomain::default()
    };
    ask(world, cpu, ControlOp::CreateDomain, record)
}

/// Destroys domain `id` in portions; others act in between.
fn destroy_between(stage: &Stage, id: u16) {
    for _ in 0..100_000 {
        match stage.world().hv().destroy_domain(DomId::new(id)) {
            Ok(()) => return,
            Err(Errno::Restart) => {
                stage.step();
            }
            Err(error) => panic!("{error:?}"),
        }
    }
    panic!("domain {id} is never destroyed");
}

#[test]
fn whatever_hostile_guests_were_doing_every_frame_comes_back() {
    for seed in 0..rounds() {
        let config = StageConfig {
            guests: 2,
            cpus: 2,
            interleaving: 0,
        };
        let stage = Stage::new(config, Choices::Seeded(seed));
        // Of each guest, what it has.
        let total = stage.world().hv().memory().free_frames() + numbers(&stage).len() as u64 * GUEST;
        for _ in 0..seed % 400 {
            stage.step();
        }
        for id in numbers(&stage) {
            destroy_between(&stage, id);
            stage.invariants();
        }
        let memory = stage.world().hv().memory();
        assert_eq!(memory.free_frames() + memory.kept_frames(), total, "seed {seed}");
    }
}

/// The domains that there are: the guests, and those that domain 0 has made.
fn numbers(stage: &Stage) -> Vec<u16> {
    let is_there = |&id: &u16| stage.world().hv().has_domain(DomId::new(id));
    (0..16).filter(is_there).collect()
}

/// How many domains are made and destroyed; more if `BULKHEAD_ROUNDS` says so.
fn rounds() -> u64 {
    let wanted = std::env::var("BULKHEAD_ROUNDS").ok();
    wanted.map_or(60, |rounds| rounds.parse().unwrap())
}

#[test]
fn the_laws_hold_after_each_portion() {
    let config = StageConfig {
        guests: 2,
        cpus: 2,
        interleaving: 0,
    };
    let stage = Stage::new(config, Choices::Seeded(7));
    for _ in 0..2000 {
        stage.step();
    }
    while stage.world().hv().destroy_domain(DomId::new(1)) == Err(Errno::Restart) {
        stage.invariants();
        stage.step();
    }
    stage.invariants();
}

#[test]
fn a_number_can_be_had_again_and_peers_wait_for_it() {
    let mut world = world(&[5], 2);
    assert_eq!(world.enter(0), Some((5, 0)));
    world.boot(0);
    let theirs = world.alloc_unbound(1, 5);
    let port = world.bind_interdomain(0, 0, theirs).unwrap();
    world.send(0, port).unwrap();
    let free = world.hv().memory().free_frames();
    tell(&mut world, 1, ControlOp::DestroyDomain, 5).unwrap();
    world.invariants();
    assert_eq!(world.hv().memory().free_frames(), free + GUEST);
    assert_eq!(tell(&mut world, 1, ControlOp::DestroyDomain, 5), Err(Errno::Srch));

    let mut status = Status {
        dom: DomId::SELF,
        port: theirs,
        ..Status::default()
    };
    let args = [u64::from(EventChannelOp::Status.raw()), World::SCRATCH];
    let record = (World::SCRATCH, &mut status);
    world
        .call_with(1, Hypercall::EventChannelOp, &args, record)
        .unwrap();
    assert_eq!(status.status, ChannelStatus::Unbound.raw());
    assert_eq!(status.bound_to, 5);

    let spec = GuestSpec {
        home: Some(CpuId::BOOT),
        ..GuestSpec::default()
    };
    world.create(5, &spec).unwrap();
    assert_eq!(world.enter(0), Some((5, 0)));
    world.boot(0);
    world.bind_interdomain(0, 0, theirs).unwrap();
    world.invariants();
}

/// The control domain prepares the channels of a domain before that runs, as its console's, and is told when it is no more.
#[test]
fn channels_are_made_in_the_name_of_a_domain_and_wait_for_its_successor() {
    let mut world = world(&[], 1);
    let told = world.bind_virq(0, Virq::DomExc).unwrap();
    let id = create(&mut world, 0, DomId::INVALID).unwrap().domain;
    let prepared = AllocUnbound {
        dom: id,
        remote_dom: DomId::new(0),
        port: 0,
    };
    let theirs = world.event_op(0, EventChannelOp::AllocUnbound, prepared);
    let theirs = theirs.unwrap().port;
    assert_eq!(theirs, 1, "it is the first of the new domain's");
    let ours = world.bind_interdomain(0, id.raw(), theirs).unwrap();
    world.invariants();
    assert!(!world.is_pending(0, told));
    tell(&mut world, 0, ControlOp::DestroyDomain, id.raw()).unwrap();
    world.invariants();
    assert!(world.is_pending(0, told), "it is told that something has ended");
    let status = |world: &World| {
        let record = Status {
            dom: DomId::SELF,
            port: ours,
            ..Status::default()
        };
        let found = world.event_op(0, EventChannelOp::Status, record).unwrap();
        (found.status, found.bound_to)
    };
    let waits = (ChannelStatus::Unbound.raw(), u32::from(id.raw()));
    assert_eq!(status(&world), waits);
    assert_eq!(world.send(0, ours), Ok(()), "nobody hears it");
    assert_eq!(
        world
            .event_op(0, EventChannelOp::AllocUnbound, prepared)
            .map(|_| ()),
        Err(Errno::Srch)
    );
    create(&mut world, 0, id).unwrap();
    assert_eq!(status(&world), waits, "the successor has to bind it");
    world.invariants();
}

#[test]
fn a_domain_that_runs_elsewhere_leaves_its_cpu_first() {
    let mut world = world(&[3], 2);
    assert_eq!(world.enter(0), Some((3, 0)));
    let id = DomId::new(3);
    assert_eq!(world.hv().destroy_domain(id), Err(Errno::Restart));
    world.invariants();
    assert_eq!(
        info(&mut world, 1, 3).unwrap().pages,
        1024,
        "nothing is taken from under it"
    );
    assert_eq!(world.enter(0), None);
    while world.hv().destroy_domain(id).is_err() {
        world.invariants();
    }
    assert_eq!(info(&mut world, 1, 1), Err(Errno::Srch));
}

#[test]
fn nothing_is_given_to_a_domain_that_is_being_destroyed() {
    let mut world = world(&[3], 2);
    assert_eq!(world.enter(0), Some((3, 0)));
    let free = world.hv().memory().free_frames();
    let id = DomId::new(3);
    // It has not left its CPU, so that this is only the beginning.
    assert_eq!(world.hv().destroy_domain(id), Err(Errno::Restart));
    let copy = CopyMemory {
        domain: id,
        direction: COPY_TO,
        ..CopyMemory::default()
    };
    assert_eq!(ask(&mut world, 1, ControlOp::CopyMemory, copy), Err(Errno::Srch));
    let state = VcpuState {
        domain: id,
        vcpu: 0,
        context: World::SCRATCH,
    };
    assert_eq!(ask(&mut world, 1, ControlOp::SetVcpu, state), Err(Errno::Srch));
    let mut setup = SetupTable {
        dom: id,
        nr_frames: 2,
        frame_list: World::SCRATCH + 512,
        ..SetupTable::default()
    };
    let args = [u64::from(GrantTableOp::SetupTable.raw()), World::SCRATCH, 1];
    let record = (World::SCRATCH, &mut setup);
    world
        .call_with(1, Hypercall::GrantTableOp, &args, record)
        .unwrap();
    assert_eq!(setup.status, GrantStatus::BadDomain.raw());
    world.invariants();
    tell(&mut world, 1, ControlOp::DestroyDomain, 3).unwrap();
    world.invariants();
    assert_eq!(world.hv().memory().free_frames(), free + GUEST);
}

#[test]
fn a_paused_domain_does_not_run_until_it_is_let() {
    let mut world = world(&[3], 2);
    assert_eq!(world.enter(0), Some((3, 0)));
    let boot = world.boot(0);
    assert_eq!(boot.nr_pages, 1024);
    tell(&mut world, 1, ControlOp::PauseDomain, 3).unwrap();
    world.invariants();
    assert_eq!(world.enter(0), None);
    assert_eq!(info(&mut world, 1, 3).unwrap().state, STATE_PAUSED);
    tell(&mut world, 1, ControlOp::UnpauseDomain, 3).unwrap();
    assert_eq!(info(&mut world, 1, 3).unwrap().state, STATE_RUNNING);
    assert_eq!(world.enter(0), Some((3, 0)));
    world.shut_down(0, ShutdownReason::Reboot);
    let ended = info(&mut world, 1, 3).unwrap();
    assert_eq!(
        (ended.state, ended.reason),
        (STATE_SHUT_DOWN, ShutdownReason::Reboot.raw())
    );
    tell(&mut world, 1, ControlOp::DestroyDomain, 3).unwrap();
    world.invariants();
}

#[test]
fn the_registers_of_a_vcpu_that_rests_are_read() {
    let mut world = world(&[3], 2);
    let state = |vcpu| VcpuState {
        domain: DomId::new(3),
        vcpu,
        context: World::SCRATCH + 1024,
    };
    // Two pages that lie side by side.
    let read = |world: &mut World, vcpu| {
        ask(world, 1, ControlOp::GetVcpu, state(vcpu))?;
        Ok::<VcpuGuestContext, Errno>(world.read(1, World::SCRATCH + 1024))
    };
    assert_eq!(world.enter(0), Some((3, 0)));
    world.boot(0);
    assert_eq!(read(&mut world, 0), Err(Errno::Busy), "it runs");
    world.regs_mut(0).r12 = 0x1234_5678_9abc;
    let regs = world.regs(0);
    tell(&mut world, 1, ControlOp::PauseDomain, 3).unwrap();
    let seen = read(&mut world, 0).unwrap();
    assert_eq!(
        (seen.user_regs.r12, seen.user_regs.rip, seen.user_regs.rsp),
        (regs.r12, regs.rip, regs.rsp)
    );
    assert_eq!(
        seen.flags & (VGCF_ONLINE | VGCF_IN_KERNEL),
        VGCF_ONLINE | VGCF_IN_KERNEL
    );
    assert_eq!(read(&mut world, 1), Err(Errno::NoEnt));
    tell(&mut world, 1, ControlOp::UnpauseDomain, 3).unwrap();
    assert_eq!(world.enter(0), Some((3, 0)));
    assert_eq!(world.regs(0).r12, regs.r12, "it goes on as it was");
    world.shut_down(0, ShutdownReason::Crash);
    let ended = read(&mut world, 0).unwrap();
    assert_eq!(ended.user_regs.r12, regs.r12);
    assert_eq!(ended.flags & VGCF_ONLINE, 0);
    let made = create(&mut world, 1, DomId::new(7)).unwrap();
    let blank = VcpuState {
        domain: made.domain,
        ..state(0)
    };
    assert_eq!(ask(&mut world, 1, ControlOp::GetVcpu, blank), Err(Errno::NoData));
    world.invariants();
}

#[test]
fn what_slept_when_its_domain_was_paused_sleeps_on_and_what_was_woken_runs() {
    let mut world = world(&[3], 2);
    assert_eq!(world.enter(0), Some((3, 0)));
    world.boot(0);
    let theirs = world.alloc_unbound(1, 3);
    world.bind_interdomain(0, 0, theirs).unwrap();
    // That the port is bound is the first event.
    world.unmask_upcalls(0);
    world.take_upcall(0);
    world.block(0);
    assert_eq!(world.enter(0), None, "it sleeps");
    for _ in 0..2 {
        tell(&mut world, 1, ControlOp::PauseDomain, 3).unwrap();
        world.invariants();
        tell(&mut world, 1, ControlOp::UnpauseDomain, 3).unwrap();
        world.invariants();
        assert_eq!(world.enter(0), None, "nothing has woken it");
    }
    tell(&mut world, 1, ControlOp::PauseDomain, 3).unwrap();
    world.send(1, theirs).unwrap();
    assert_eq!(world.enter(0), None, "it may not run");
    world.invariants();
    tell(&mut world, 1, ControlOp::UnpauseDomain, 3).unwrap();
    assert_eq!(world.enter(0), Some((3, 0)));
    assert!(world.is_in_upcall(0));
    world.invariants();
}

#[test]
fn an_empty_domain_is_made_filled_looked_into_and_taken_away() {
    let mut world = world(&[], 1);
    let free = world.hv().memory().free_frames();
    let made = create(&mut world, 0, DomId::INVALID).unwrap();
    assert_eq!(made.domain, DomId::new(1));
    assert_eq!(create(&mut world, 0, DomId::new(1)), Err(Errno::Exist));
    let found = info(&mut world, 0, 1).unwrap();
    assert_eq!((found.state, found.vcpus, found.online), (STATE_BUILDING, 2, 0));
    assert_eq!((found.pages, found.limit), (0, 64));
    world.invariants();

    // Shared info is a frame of the domain's like any other.
    let frame = found.shared_info;
    let mut copy = CopyMemory {
        domain: made.domain,
        direction: COPY_TO,
        offset: 4000,
        len: 96,
        frame,
        buffer: World::SCRATCH + 512,
    };
    for n in 0..12 {
        world.write(0, World::SCRATCH + 512 + n * 8, &(n * 0x0101));
    }
    ask(&mut world, 0, ControlOp::CopyMemory, copy).unwrap();
    copy.direction = COPY_FROM;
    copy.buffer = World::SCRATCH + 1024;
    ask(&mut world, 0, ControlOp::CopyMemory, copy).unwrap();
    for n in 0..12 {
        assert_eq!(world.read::<u64>(0, World::SCRATCH + 1024 + n * 8), n * 0x0101);
    }
    copy.len = 97;
    assert_eq!(ask(&mut world, 0, ControlOp::CopyMemory, copy), Err(Errno::Inval));

    tell(&mut world, 0, ControlOp::DestroyDomain, 1).unwrap();
    world.invariants();
    assert_eq!(world.hv().memory().free_frames(), free);
}

#[test]
fn the_control_domain_does_nothing_of_this_to_itself() {
    let mut world = world(&[], 1);
    for op in [
        ControlOp::PauseDomain,
        ControlOp::UnpauseDomain,
        ControlOp::DestroyDomain,
    ] {
        for id in [0, DomId::SELF.raw()] {
            assert_eq!(tell(&mut world, 0, op, id), Err(Errno::Inval), "{op}");
        }
        assert_eq!(tell(&mut world, 0, op, 9), Err(Errno::Srch), "{op}");
    }
}

/// Whenever the pause comes while a vCPU goes to sleep: it sleeps on afterwards, and is said to.
#[test]
fn a_vcpu_that_is_paused_as_it_goes_to_sleep_sleeps_on() {
    check_locks();
    let mut slept = 0;
    for moment in 0..100 {
        let mut world = world(&[5], 2);
        assert_eq!(world.enter(0), Some((5, 0)));
        world.boot(0);
        let record = DomainRef {
            domain: DomId::new(5),
            reserved: 0,
        };
        world.write(1, World::SCRATCH, &record);
        let (weak, count) = (world.downgrade(), AtomicUsize::new(0));
        let is_paused = Arc::new(AtomicBool::new(false));
        let says_so = Arc::clone(&is_paused);
        world.sim().set_interruption(move |_| {
            if count.fetch_add(1, Ordering::Relaxed) == moment {
                let args = [u64::from(ControlOp::PauseDomain.raw()), World::SCRATCH];
                let _ = weak
                    .upgrade()
                    .unwrap()
                    .call_within(1, Hypercall::Sysctl.raw(), &args, 1);
                says_so.store(true, Ordering::Relaxed);
            }
        });
        world.sim().allow_interruption(true);
        world.block(0);
        world.sim().allow_interruption(false);
        if !is_paused.load(Ordering::Relaxed) {
            break;
        }
        world.enter(0);
        tell(&mut world, 1, ControlOp::PauseDomain, 5).unwrap();
        tell(&mut world, 1, ControlOp::UnpauseDomain, 5).unwrap();
        // Its virtual time has to agree with its queue.
        world.invariants();
        slept += u32::from(world.enter(0).is_none());
    }
    assert!(slept > 0, "it never slept on");
}
