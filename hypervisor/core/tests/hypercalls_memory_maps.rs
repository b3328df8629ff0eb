//! Memory for domains to come: claims on it, maps of it, and the frames of others' grant tables. What `memory_op` has for whoever builds domains.
#![cfg(not(loom))]
#![expect(
    clippy::unwrap_used,
    clippy::arithmetic_side_effects,
    reason = "a test fails by panicking"
)]

use bulkhead_abi::control::{ControlOp, CreateDomain, DomainRef};
use bulkhead_abi::memory::{
    AcquireResource, E820Entry, E820Type, ForeignMemoryMap, MAX_MAP_ENTRIES, MachphysMfnList, MemoryMap,
    MemoryOp, MemoryReservation, RESOURCE_GRANT_TABLE,
};
use bulkhead_abi::{Buffered, DomId, Errno, Hypercall, Record};
use bulkhead_core::machine::Machine;
use bulkhead_core::testing::{GuestSpec, World};

/// Frames that nobody has at first.
const SPARE: u64 = 20;
/// The domain that domain 0 makes: it may have so many frames.
const MADE: DomId = DomId::new(5);
const LIMIT: u64 = 16;

/// Domain 0 runs; domain 1 has booted, too.
fn world() -> World {
    World::controlled(1, SPARE).0
}

fn ask<T: Buffered>(world: &World, op: MemoryOp, record: &T) -> Result<u64, Errno> {
    world.write(0, World::SCRATCH, record);
    let answer = world.call(0, Hypercall::MemoryOp, &[op.raw().into(), World::SCRATCH]);
    world.invariants();
    answer
}

fn control<T: Buffered>(world: &World, op: ControlOp, record: &T) -> Result<u64, Errno> {
    world.write(0, World::SCRATCH, record);
    let answer = world.call(0, Hypercall::Sysctl, &[op.raw().into(), World::SCRATCH]);
    world.invariants();
    answer
}

fn make(world: &World) {
    let record = CreateDomain {
        domain: MADE,
        weight: 256,
        vcpus: 1,
        limit: LIMIT,
        cpus: u64::MAX,
        ..CreateDomain::default()
    };
    control(world, ControlOp::CreateDomain, &record).unwrap();
}

fn destroy(world: &World) {
    let record = DomainRef {
        domain: MADE,
        reserved: 0,
    };
    control(world, ControlOp::DestroyDomain, &record).unwrap();
}

fn claim(world: &World, domid: DomId, nr_extents: u64) -> Result<u64, Errno> {
    let record = MemoryReservation {
        nr_extents,
        domid,
        ..MemoryReservation::default()
    };
    ask(world, MemoryOp::ClaimPages, &record)
}

/// Gives a domain so many frames, and says how many it got.
fn populate(world: &World, domid: DomId, nr_extents: u64) -> u64 {
    for n in 0..nr_extents {
        world.write(0, World::LIST + n * 8, &n);
    }
    let record = MemoryReservation {
        extent_start: World::LIST,
        nr_extents,
        domid,
        ..MemoryReservation::default()
    };
    ask(world, MemoryOp::PopulatePhysmap, &record).unwrap()
}

fn free(world: &World) -> u64 {
    world.hv().memory().free_frames()
}

#[test]
fn what_is_claimed_is_there_for_its_domain_and_for_nobody_else() {
    let world = world();
    make(&world);
    let before = free(&world);
    assert_eq!(claim(&world, MADE, LIMIT), Ok(0));
    assert_eq!(free(&world), before, "it is still free");
    // Domain 1 gives back what it could take again, and does not get all of it: the limit is not what stops it.
    world.turn(1);
    world.hv().domain(DomId::new(1)).unwrap().memory.lock().limit += before;
    assert_eq!(populate(&world, DomId::SELF, before), before - LIMIT);
    world.turn(0);
    assert_eq!(populate(&world, MADE, LIMIT), LIMIT);
    assert_eq!(free(&world), 0);
    assert_eq!(claim(&world, MADE, LIMIT), Err(Errno::Inval), "it has so many");
}

#[test]
fn a_claim_shrinks_as_its_domain_gets_frames_and_ends_with_it() {
    let world = world();
    make(&world);
    let before = free(&world);
    assert_eq!(populate(&world, MADE, 2), 2);
    assert_eq!(claim(&world, MADE, LIMIT), Ok(0));
    assert_eq!(claim(&world, MADE, LIMIT), Err(Errno::Inval), "it has one");
    assert_eq!(populate(&world, MADE, 4), 4);
    let lacks = LIMIT - 6;
    // All that is left beside it can be claimed by another, and no more.
    let rest = before - 6 - lacks;
    let has = world
        .hv()
        .domain(DomId::new(1))
        .unwrap()
        .memory
        .lock()
        .frames
        .len();
    world.hv().domain(DomId::new(1)).unwrap().memory.lock().limit += before;
    assert_eq!(claim(&world, DomId::new(1), has + rest + 1), Err(Errno::NoMem));
    assert_eq!(claim(&world, DomId::new(1), has + rest), Ok(0));
    assert_eq!(claim(&world, DomId::new(1), 0), Ok(0));
    destroy(&world);
    assert_eq!(
        claim(&world, DomId::new(1), has + before),
        Ok(0),
        "all of it is free again"
    );
}

#[test]
fn a_claim_that_makes_no_sense_is_refused() {
    let world = world();
    make(&world);
    assert_eq!(
        claim(&world, MADE, LIMIT + 1),
        Err(Errno::Inval),
        "beyond its limit"
    );
    assert_eq!(claim(&world, DomId::new(77), 1), Err(Errno::Inval), "nobody");
    for spoil in [0, 1, 2] {
        let record = MemoryReservation {
            extent_start: u64::from(spoil == 0),
            extent_order: u32::from(spoil == 1),
            mem_flags: u32::from(spoil == 2),
            nr_extents: 1,
            domid: MADE,
        };
        assert_eq!(ask(&world, MemoryOp::ClaimPages, &record), Err(Errno::Inval));
    }
    world.turn(1);
    assert_eq!(claim(&world, DomId::SELF, 0), Err(Errno::Perm));
}

fn range(addr: u64, size: u64) -> E820Entry {
    E820Entry {
        addr,
        size,
        range_type: E820Type::Ram.raw(),
    }
}

/// Sets the map of a domain to as many entries as are said, which stand at [`World::LIST`].
fn set_map(world: &World, domid: DomId, entries: &[E820Entry], nr_entries: u32) -> Result<u64, Errno> {
    for (n, entry) in (0..).zip(entries) {
        world.write(0, World::LIST + n * E820Entry::SIZE as u64, entry);
    }
    let record = ForeignMemoryMap {
        domid,
        map: MemoryMap {
            nr_entries,
            buffer: World::LIST,
        },
    };
    ask(world, MemoryOp::SetMemoryMap, &record)
}

/// What the running domain is told of a map, with room for so many entries.
fn told(world: &World, op: MemoryOp, room: u32) -> Result<Vec<E820Entry>, Errno> {
    let record = MemoryMap {
        nr_entries: room,
        buffer: World::LIST,
    };
    ask(world, op, &record)?;
    let MemoryMap { nr_entries, .. } = world.read(0, World::SCRATCH);
    let entry = |n: u64| world.read(0, World::LIST + n * E820Entry::SIZE as u64);
    Ok((0..u64::from(nr_entries)).map(entry).collect())
}

#[test]
fn a_domain_is_told_the_map_that_was_set_for_it() {
    let world = world();
    let map = [range(0, 0x9f000), range(0x10_0000, 0x30_0000)];
    assert_eq!(set_map(&world, DomId::new(1), &map, 2), Ok(0));
    assert_eq!(
        told(&world, MemoryOp::MemoryMap, 8).unwrap().len(),
        1,
        "domain 0's own"
    );
    world.turn(1);
    assert_eq!(told(&world, MemoryOp::MemoryMap, 8), Ok(map.to_vec()));
    assert_eq!(told(&world, MemoryOp::MemoryMap, 1), Ok(map[..1].to_vec()));
    assert_eq!(told(&world, MemoryOp::MemoryMap, 0), Ok(Vec::new()));
    assert_eq!(set_map(&world, DomId::new(0), &map, 2), Err(Errno::Perm));
    // Its own it may set; and take away, by which it is as it was.
    assert_eq!(set_map(&world, DomId::SELF, &map[..1], 1), Ok(0));
    assert_eq!(told(&world, MemoryOp::MemoryMap, 8), Ok(map[..1].to_vec()));
    assert_eq!(set_map(&world, DomId::SELF, &[], 0), Ok(0));
    let first = told(&world, MemoryOp::MemoryMap, 8).unwrap();
    assert_eq!(first, [range(0, GuestSpec::default().pages << 12)]);
}

#[test]
fn a_map_has_its_bounds() {
    let world = world();
    let set = |count| set_map(&world, DomId::new(1), &[], count);
    assert_eq!(set(MAX_MAP_ENTRIES + 1), Err(Errno::Inval));
    assert_eq!(set(u32::MAX), Err(Errno::Inval));
    assert_eq!(set(MAX_MAP_ENTRIES), Ok(0));
    assert_eq!(set_map(&world, DomId::new(77), &[], 1), Err(Errno::Srch));
}

#[test]
fn the_control_domain_is_told_the_machines_map() {
    let world = world();
    let map = told(&world, MemoryOp::MachineMemoryMap, 8).unwrap();
    let expected: Vec<_> = (0..).map_while(|n| world.sim().memory_map(n)).collect();
    assert!(expected.len() > 1);
    assert_eq!(map, expected);
    let room = u32::try_from(expected.len()).unwrap();
    assert_eq!(
        told(&world, MemoryOp::MachineMemoryMap, room - 1),
        Err(Errno::Inval)
    );
    let count = MemoryMap::default();
    assert_eq!(ask(&world, MemoryOp::MachineMemoryMap, &count), Ok(0));
    assert_eq!(world.read::<u32>(0, World::SCRATCH), room);
    world.turn(1);
    assert_eq!(told(&world, MemoryOp::MachineMemoryMap, 8), Err(Errno::Perm));
}

#[test]
fn anybody_is_told_the_frames_of_the_array_that_all_may_read() {
    let world = world();
    world.turn(1);
    let list = |max_extents| {
        let record = MachphysMfnList {
            max_extents,
            extent_start: World::LIST,
            nr_extents: 99,
        };
        ask(&world, MemoryOp::MachphysMfnList, &record).unwrap();
        let MachphysMfnList { nr_extents, .. } = world.read(0, World::SCRATCH);
        nr_extents
    };
    assert_eq!(list(0), 0);
    assert_eq!(list(8), 1);
    let first = world.sim().m2p_frame(0).unwrap();
    assert_eq!(world.read::<u64>(0, World::LIST), first.raw());
}

fn acquire(world: &World, record: AcquireResource) -> Result<u32, Errno> {
    ask(world, MemoryOp::AcquireResource, &record)?;
    let AcquireResource { nr_frames, .. } = world.read(0, World::SCRATCH);
    Ok(nr_frames)
}

#[test]
fn the_control_domain_is_told_the_frames_of_anothers_grant_table() {
    let world = world();
    let wanted = AcquireResource {
        domid: DomId::new(1),
        resource_type: RESOURCE_GRANT_TABLE,
        nr_frames: 2,
        frame: 1,
        frame_list: World::LIST,
        ..AcquireResource::default()
    };
    assert_eq!(acquire(&world, wanted), Ok(2));
    let frames: Vec<u64> = {
        let domain = world.hv().domain(DomId::new(1)).unwrap();
        let grants = domain.grants.lock();
        grants.frames().map(|mfn| mfn.raw()).collect()
    };
    assert_eq!(frames.len(), 3, "it has become so large");
    let found = [0, 8].map(|at| world.read::<u64>(0, World::LIST + at));
    assert_eq!(found[..], frames[1..]);
    let size = AcquireResource {
        nr_frames: 0,
        frame_list: 0,
        ..wanted
    };
    let limit = acquire(&world, size).unwrap();
    assert_eq!(limit, 64);
    let refused = |record, error| assert_eq!(acquire(&world, record), Err(error), "{record:?}");
    refused(
        AcquireResource {
            reserved: 1,
            ..wanted
        },
        Errno::Inval,
    );
    refused(AcquireResource { id: 1, ..wanted }, Errno::Inval);
    refused(
        AcquireResource {
            nr_frames: 0,
            ..wanted
        },
        Errno::Inval,
    );
    refused(AcquireResource { frame: 63, ..wanted }, Errno::Inval);
    refused(
        AcquireResource {
            frame: u64::MAX,
            ..wanted
        },
        Errno::Inval,
    );
    refused(
        AcquireResource {
            frame_list: 0,
            ..wanted
        },
        Errno::Inval,
    );
    refused(
        AcquireResource {
            resource_type: 0,
            ..wanted
        },
        Errno::OpNotSupp,
    );
    refused(
        AcquireResource {
            domid: DomId::SELF,
            ..wanted
        },
        Errno::Perm,
    );
    refused(
        AcquireResource {
            domid: DomId::new(77),
            ..wanted
        },
        Errno::Srch,
    );
    refused(
        AcquireResource {
            nr_frames: 63,
            ..wanted
        },
        Errno::NoMem,
    );
    world.turn(1);
    let others = AcquireResource {
        domid: DomId::new(0),
        ..wanted
    };
    assert_eq!(acquire(&world, others), Err(Errno::Perm));
}
