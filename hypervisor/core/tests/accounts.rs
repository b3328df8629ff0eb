//! What a driver domain lives on and does not own for good: memory that is kept for it and its successors, and pages that it is lent.
#![cfg(not(loom))]
#![expect(
    clippy::unwrap_used,
    clippy::arithmetic_side_effects,
    reason = "a test fails by panicking"
)]

use bulkhead_abi::control::{
    ControlOp, CreateDomain, DomainInfo, DomainRef, EXTENT_BELOW_4G, ExtentRef, KeepExtent,
};
use bulkhead_abi::grant::{
    GNTMAP_HOST_MAP, GTF_PERMIT_ACCESS, GTF_READING, GTF_WRITING, GrantEntry, GrantStatus, GrantTableOp,
    MapGrantRef,
};
use bulkhead_abi::memory::{MemoryOp, MemoryReservation};
use bulkhead_abi::start_info::StartInfo;
use bulkhead_abi::{Buffered, DomId, Errno, Hypercall, pte};
use bulkhead_core::EndPolicy;
use bulkhead_core::frames::Mfn;
use bulkhead_core::testing::{GuestSpec, SimConfig, World};

/// The domain that is made again and again.
const DRIVER: DomId = DomId::new(5);
/// The extent, and its size.
const EXTENT: u32 = 2;
const ORDER: u32 = 6;
const FRAMES: u64 = 1 << ORDER;
/// What the hypervisor shares with it.
const SHARED: u64 = 2;

/// Domain 0 runs, and there is memory for another.
fn world() -> World {
    booted().0
}

fn booted() -> (World, StartInfo) {
    let config = SimConfig {
        free_frames: GuestSpec::FRAMES * 3,
        cpus: 1,
    };
    let world = World::new(config, EndPolicy::ControlDomain);
    world.create(0, &GuestSpec::default()).unwrap();
    world.enter(0);
    let info = world.boot(0);
    (world, info)
}

fn ask<T: Buffered>(world: &World, op: ControlOp, mut record: T) -> Result<T, Errno> {
    let args = [u64::from(op.raw()), World::SCRATCH];
    world.call_with(0, Hypercall::Sysctl, &args, (World::SCRATCH, &mut record))?;
    world.invariants();
    Ok(record)
}

fn keep(world: &World, extent: u32, order: u32, flags: u64) -> Result<u64, Errno> {
    let record = KeepExtent {
        extent,
        order,
        flags,
        first: 0,
    };
    ask(world, ControlOp::KeepExtent, record).map(|kept| kept.first)
}

fn release(world: &World, extent: u32) -> Result<(), Errno> {
    let record = ExtentRef { extent, reserved: 0 };
    ask(world, ControlOp::ReleaseExtent, record).map(|_| ())
}

fn create(world: &World, extent: u32) -> Result<(), Errno> {
    let record = CreateDomain {
        domain: DRIVER,
        weight: 256,
        vcpus: 1,
        limit: 4 * FRAMES,
        cpus: u64::MAX,
        extent,
        ..CreateDomain::default()
    };
    ask(world, ControlOp::CreateDomain, record).map(|_| ())
}

fn destroy(world: &World) {
    let record = DomainRef {
        domain: DRIVER,
        reserved: 0,
    };
    ask(world, ControlOp::DestroyDomain, record).unwrap();
}

/// Gives the driver domain frames in extents of 2^`order`: those that it got.
fn populate(world: &World, count: u64, order: u32) -> Vec<u64> {
    let list = World::LIST;
    for n in 0..count {
        world.write(0, list + n * 8, &(n << order));
    }
    let record = MemoryReservation {
        extent_start: list,
        nr_extents: count,
        extent_order: order,
        mem_flags: 0,
        domid: DRIVER,
    };
    world.write(0, World::SCRATCH, &record);
    let args = [u64::from(MemoryOp::PopulatePhysmap.raw()), World::SCRATCH];
    let got = world.call(0, Hypercall::MemoryOp, &args).unwrap();
    world.invariants();
    (0..got).map(|n| world.read(0, list + n * 8)).collect()
}

fn free(world: &World) -> u64 {
    world.hv().memory().free_frames()
}

#[test]
fn the_hundredth_successor_finds_the_memory_that_the_first_had() {
    let world = world();
    let before = free(&world);
    let first = keep(&world, EXTENT, ORDER, EXTENT_BELOW_4G).unwrap();
    assert_eq!(free(&world), before - FRAMES);
    let all: Vec<u64> = (first..first + FRAMES).collect();
    for _ in 0..100 {
        create(&world, EXTENT).unwrap();
        assert_eq!(populate(&world, FRAMES, 0), all);
        assert_eq!(free(&world), before - FRAMES - SHARED);
        // What it wants beyond that, up to its limit, is like any other's.
        let more = populate(&world, 1, 0);
        assert!(more.len() == 1 && !all.contains(&more[0]), "{more:?}");
        destroy(&world);
        assert_eq!(free(&world), before - FRAMES, "none of it is the machine's");
    }
    release(&world, EXTENT).unwrap();
    assert_eq!(free(&world), before);
}

#[test]
fn pieces_of_an_extent_are_contiguous_and_what_is_given_back_is_had_again() {
    let world = world();
    let first = keep(&world, EXTENT, ORDER, 0).unwrap();
    create(&world, EXTENT).unwrap();
    assert_eq!(populate(&world, 1, 4), [first]);
    assert_eq!(populate(&world, 4, 2), [16, 20, 24, 28].map(|n| first + n));
    let record = MemoryReservation {
        extent_start: World::LIST,
        nr_extents: 1,
        extent_order: 4,
        mem_flags: 0,
        domid: DRIVER,
    };
    world.write(0, World::LIST, &first);
    world.write(0, World::SCRATCH, &record);
    let args = [u64::from(MemoryOp::DecreaseReservation.raw()), World::SCRATCH];
    assert_eq!(world.call(0, Hypercall::MemoryOp, &args), Ok(1));
    world.invariants();
    assert_eq!(populate(&world, 1, 4), [first]);
    destroy(&world);
    release(&world, EXTENT).unwrap();
}

#[test]
fn an_extent_that_somebody_uses_or_nobody_keeps_is_not_given_up() {
    let world = world();
    assert_eq!(create(&world, EXTENT), Err(Errno::NoEnt));
    assert_eq!(release(&world, EXTENT), Err(Errno::NoEnt));
    for (number, order, flags) in [(0, 0, 0), (17, 0, 0), (1, 15, 0), (1, 0, 2)] {
        assert_eq!(keep(&world, number, order, flags), Err(Errno::Inval));
    }
    assert_eq!(keep(&world, 1, 14, 0), Err(Errno::NoMem));
    keep(&world, EXTENT, ORDER, 0).unwrap();
    assert_eq!(keep(&world, EXTENT, 0, 0), Err(Errno::Exist));
    create(&world, EXTENT).unwrap();
    assert_eq!(release(&world, EXTENT), Err(Errno::Busy), "a domain may want it");
    let frames = populate(&world, 1, 0);
    // Domain 0 looks into it when the domain is no more.
    let entry = frames.first().unwrap() << 12 | pte::PRESENT;
    let map = |entry: u64, owner: DomId| {
        let args = [600 * 4096, entry, 2, u64::from(owner.raw())];
        world.call(0, Hypercall::UpdateVaMappingOtherdomain, &args)
    };
    assert_eq!(map(entry, DRIVER), Ok(0));
    destroy(&world);
    assert_eq!(
        release(&world, EXTENT),
        Err(Errno::Busy),
        "a frame is not at home"
    );
    assert_eq!(map(0, DomId::SELF), Ok(0));
    world.invariants();
    assert_eq!(release(&world, EXTENT), Ok(()));
}

#[test]
fn an_extent_below_four_gibibytes_is_found_however_small() {
    let world = world();
    for number in 1..=16 {
        let first = keep(&world, number, 0, EXTENT_BELOW_4G).unwrap();
        assert!(first < 1 << 20);
    }
    for number in 1..=16 {
        release(&world, number).unwrap();
    }
}

/// Lending needs no more than grants: domain 0 grants its pages, and they stay its own whatever becomes of the borrower.
#[test]
fn pages_that_a_dead_driver_was_lent_and_what_is_in_them_are_lent_to_its_successor() {
    const GREF: u32 = 8;
    const PAGE: u64 = 600;
    let (world, info) = booted();
    world.map_grant_table(0);
    let frame: u64 = world.read(0, info.mfn_list + PAGE * 8);
    let entry = GrantEntry {
        flags: GTF_PERMIT_ACCESS,
        domid: DRIVER,
        frame: u32::try_from(frame).unwrap(),
    };
    world.set_grant(0, GREF, entry);
    world.write(0, PAGE * 4096, &0_u64);
    for life in 0..3_u64 {
        world.create(DRIVER.raw(), &GuestSpec::default()).unwrap();
        world.yield_now(0);
        assert_eq!(world.running(0), Some((DRIVER.raw(), 0)));
        world.boot(0);
        let map = MapGrantRef {
            host_addr: PAGE * 4096,
            flags: GNTMAP_HOST_MAP,
            gref: GREF,
            dom: DomId::new(0),
            ..MapGrantRef::default()
        };
        let mapped = world.grant_op(0, GrantTableOp::MapGrantRef, map).unwrap();
        assert_eq!(mapped.status, GrantStatus::Okay.raw());
        assert_eq!(
            world.read::<u64>(0, PAGE * 4096),
            life,
            "what its predecessor left"
        );
        world.write(0, PAGE * 4096, &(life + 1));
        world.invariants();
        world.yield_now(0);
        assert_eq!(world.running(0), Some((0, 0)));
        let used: GrantEntry = world.read(0, World::GRANT_TABLE + u64::from(GREF) * 8);
        assert_eq!(
            used.flags & (GTF_READING | GTF_WRITING),
            GTF_READING | GTF_WRITING
        );
        destroy(&world);
        let unused: GrantEntry = world.read(0, World::GRANT_TABLE + u64::from(GREF) * 8);
        assert_eq!(unused, entry, "nobody has it, and it is still granted");
        assert_eq!(world.read::<u64>(0, PAGE * 4096), life + 1);
        let owner = world.hv().memory().frames().refs(Mfn::new(frame).unwrap());
        assert_eq!(owner.unwrap().owner(), DomId::new(0));
    }
    let record = DomainInfo {
        domain: DRIVER,
        ..DomainInfo::default()
    };
    assert_eq!(ask(&world, ControlOp::DomainInfo, record), Err(Errno::Srch));
}
