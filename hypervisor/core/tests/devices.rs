//! Parts of devices: the control domain assigns them, their owner uses them, and whoever comes after it begins with none.
#![cfg(not(loom))]
#![expect(clippy::arithmetic_side_effects, reason = "a test fails by panicking")]

use bulkhead_abi::control::{ASSIGN_FRAMES, ASSIGN_PORTS, AssignDevice, ControlOp};
use bulkhead_abi::mmu::{ForeignDom, MmuUpdate};
use bulkhead_abi::physdev::{PhysdevOp, SetIopl};
use bulkhead_abi::start_info::StartInfo;
use bulkhead_abi::{DomId, Errno, Hypercall, pte};
use bulkhead_core::frames::Mfn;
use bulkhead_core::ports::PortSet;
use bulkhead_core::sync::Ordering;
use bulkhead_core::testing::{GuestSpec, SimConfig, World};
use bulkhead_core::{EndPolicy, Exception, Machine};

const PAGE: u64 = 600;
/// A page of a device, as drivers map it.
const DEVICE: u64 = pte::PRESENT | pte::WRITABLE | pte::CACHE_DISABLE | pte::WRITE_THROUGH;

/// Domain 0 runs; domains 1 and 2 have booted.
fn world() -> (World, Vec<StartInfo>) {
    World::controlled(2, 8)
}

/// Domain 0 assigns `count` of a kind to `owner`.
fn assign(world: &World, owner: u16, kind: u16, first: u64, count: u64) -> Result<u64, Errno> {
    let record = AssignDevice {
        domain: DomId::new(owner),
        kind,
        first,
        count,
        reset: 0,
    };
    world.write(0, World::SCRATCH, &record);
    let args = [u64::from(ControlOp::AssignDevice.raw()), World::SCRATCH];
    let answer = world.call(0, Hypercall::Sysctl, &args);
    world.invariants();
    answer
}

/// The running domain maps an entry at a page of its own.
fn map(world: &World, page: u64, entry: u64) -> Result<u64, Errno> {
    let answer = world.call(0, Hypercall::UpdateVaMapping, &[page * 4096, entry, 2]);
    world.invariants();
    answer
}

fn destroy(world: &World, id: u16) {
    while let Err(error) = world.hv().destroy_domain(DomId::new(id)) {
        assert_eq!(error, Errno::Restart);
        world.invariants();
    }
    world.invariants();
}

#[test]
fn a_device_is_mapped_by_its_owner_alone_and_cached_as_it_likes() {
    let (world, _) = world();
    // Those of functions come with them.
    let is_apart = |mfn: &Mfn| world.hv().function_with(*mfn).is_none();
    for mfn in world.sim().device_frames().into_iter().filter(is_apart) {
        let entry = mfn.maddr() | DEVICE;
        world.turn(1);
        assert!(map(&world, PAGE, entry).is_err(), "{mfn:?} is nobody's");
        world.turn(0);
        assert_eq!(assign(&world, 1, ASSIGN_FRAMES, mfn.raw(), 1), Ok(0));
        // Whoever assigns it does not have it, not even in the owner's name.
        assert!(map(&world, PAGE, entry).is_err());
        let foreign = [PAGE * 4096, entry, 2, 1];
        let number = Hypercall::UpdateVaMappingOtherdomain;
        assert!(world.call(0, number, &foreign).is_err());
        world.turn(2);
        assert!(map(&world, PAGE, entry).is_err());
        world.turn(1);
        assert_eq!(map(&world, PAGE, entry), Ok(0));
        world.sim().guest_write(PAGE * 4096, &[1; 8]).unwrap();
        world.invariants();
        for caching in [0, pte::CACHE_DISABLE, pte::PAT, pte::CACHE_MASK] {
            let entry = mfn.maddr() | pte::PRESENT | caching;
            assert_eq!(map(&world, PAGE, entry), Ok(0), "{caching:#x}");
        }
        assert_eq!(map(&world, PAGE, 0), Ok(0));
    }
}

#[test]
fn ram_is_never_cached_in_another_way() {
    let (world, infos) = world();
    let device = world.sim().device_frames()[0];
    assert_eq!(assign(&world, 1, ASSIGN_FRAMES, device.raw(), 1), Ok(0));
    world.turn(1);
    let own: u64 = world.read(0, infos[1].mfn_list + PAGE * 8);
    for caching in [pte::CACHE_DISABLE, pte::WRITE_THROUGH, pte::PAT] {
        let entry = own << 12 | pte::PRESENT | caching;
        assert_eq!(map(&world, PAGE, entry), Err(Errno::Inval));
    }
}

#[test]
fn a_table_with_a_device_in_it_comes_and_goes() {
    let (world, infos) = world();
    let device = world.sim().device_frames()[3];
    assert_eq!(assign(&world, 1, ASSIGN_FRAMES, device.raw(), 1), Ok(0));
    world.turn(1);
    let table: u64 = world.read(0, infos[1].mfn_list + PAGE * 8);
    world.write(0, PAGE * 4096 + 8, &(device.maddr() | DEVICE));
    assert_eq!(map(&world, PAGE, table << 12 | pte::PRESENT), Ok(0));
    // Hung below a level 2 table, seen, and taken out again.
    let level2: u64 = world.read(0, infos[1].mfn_list + ((infos[1].pt_base >> 12) + 2) * 8);
    for entry in [table << 12 | 0x67, 0] {
        let update = MmuUpdate {
            ptr: level2 << 12 | 4 << 3,
            val: entry,
        };
        world.write(0, World::SCRATCH, &update);
        let own = ForeignDom {
            page_owner: DomId::SELF,
            table_owner: None,
        };
        let args = [World::SCRATCH, 1, 0, u64::from(own.raw())];
        assert_eq!(world.call(0, Hypercall::MmuUpdate, &args), Ok(0));
        world.invariants();
    }
    assert_eq!(
        map(&world, PAGE, table << 12 | pte::PRESENT | pte::WRITABLE),
        Ok(0)
    );
    let words = world.sim().frame(Mfn::new(table).unwrap());
    assert_ne!(words[1].load(Ordering::Relaxed), 0);
}

#[test]
fn what_a_domain_owned_is_nobodys_when_it_is_gone() {
    let (world, _) = world();
    let device = world.sim().device_frames()[0];
    assert_eq!(assign(&world, 1, ASSIGN_FRAMES, device.raw(), 2), Ok(0));
    assert_eq!(assign(&world, 1, ASSIGN_PORTS, 0x100, 8), Ok(0));
    world.turn(1);
    assert_eq!(map(&world, PAGE, device.maddr() | DEVICE), Ok(0));
    world.turn(0);
    for owner in [1, 2] {
        assert_eq!(
            assign(&world, owner, ASSIGN_FRAMES, device.raw() + 1, 1),
            Err(Errno::Exist)
        );
        assert_eq!(assign(&world, owner, ASSIGN_PORTS, 0xff, 2), Err(Errno::Exist));
    }
    destroy(&world, 1);
    world.create(1, &GuestSpec::default()).unwrap();
    world.turn(1);
    world.boot(0);
    assert!(
        map(&world, PAGE, device.maddr() | DEVICE).is_err(),
        "a successor begins with nothing"
    );
    world.turn(0);
    assert_eq!(assign(&world, 2, ASSIGN_FRAMES, device.raw(), 2), Ok(0));
    assert_eq!(assign(&world, 2, ASSIGN_PORTS, 0xff, 2), Ok(0));
}

#[test]
fn neither_ram_nor_what_is_the_hypervisors_is_assigned() {
    let (world, _) = world();
    let device = world.sim().device_frames()[0].raw();
    for (kind, first, count, error) in [
        (ASSIGN_FRAMES, 300, 1, Errno::Acces),
        (ASSIGN_FRAMES, device - 1, 2, Errno::Acces),
        (ASSIGN_FRAMES, device, 0, Errno::Inval),
        (ASSIGN_FRAMES, u64::MAX, 2, Errno::Inval),
        (ASSIGN_FRAMES, Mfn::LIMIT, 1, Errno::Inval),
        (ASSIGN_PORTS, 0x20, 1, Errno::Acces),
        (ASSIGN_PORTS, 0xffff, 2, Errno::Inval),
        (9, 0x100, 1, Errno::Inval),
    ] {
        assert_eq!(
            assign(&world, 1, kind, first, count),
            Err(error),
            "{kind} {first:#x} {count}"
        );
    }
    for owner in [0, DomId::SELF.raw()] {
        assert_eq!(assign(&world, owner, ASSIGN_FRAMES, device, 1), Err(Errno::Inval));
    }
    assert_eq!(assign(&world, 9, ASSIGN_FRAMES, device, 1), Err(Errno::Srch));
    world.turn(1);
    assert_eq!(assign(&world, 1, ASSIGN_FRAMES, device, 1), Err(Errno::Perm));
}

#[test]
fn ports_answer_whom_they_are_assigned_to() {
    let (world, _) = world();
    assert_eq!(assign(&world, 1, ASSIGN_PORTS, 0x100, 2), Ok(0));
    for (id, answer) in [(1, 0x5a), (2, 0)] {
        world.turn(id);
        world.write(0, World::SCRATCH, &SetIopl { iopl: 1 });
        let args = [u64::from(PhysdevOp::SetIopl.raw()), World::SCRATCH];
        world.call(0, Hypercall::PhysdevOp, &args).unwrap();
        for port in [0x101, 0x102] {
            // out dx, al
            world.sim().guest_write(World::CODE, &[0xee]).unwrap();
            {
                let mut regs = world.regs_mut(0);
                (regs.rip, regs.rdx, regs.rax) = (World::CODE, port, answer);
            }
            world.raise(
                0,
                Exception {
                    vector: 13,
                    error_code: 0,
                    address: 0,
                },
            );
            assert_eq!(world.regs(0).rip, World::CODE + 1);
        }
    }
    assert_eq!(world.sim().port(0x101), 0x5a, "the other's writes are lost");
    assert_eq!(world.sim().port(0x102), 0);
}

#[test]
fn ports_of_the_boot_list_are_their_domains_as_long_as_it_lives() {
    let config = SimConfig {
        free_frames: 3 * GuestSpec::FRAMES,
        cpus: 1,
    };
    let world = World::new(config, EndPolicy::ControlDomain);
    let mut ports = PortSet::new();
    assert!(ports.insert(0x70, 0x73) && ports.insert(0x100, 0x1ff));
    let listed = GuestSpec {
        ports,
        ..GuestSpec::default()
    };
    for (id, spec) in [
        (0, &GuestSpec::default()),
        (1, &listed),
        (2, &GuestSpec::default()),
    ] {
        world.create(id, spec).unwrap();
    }
    world.turn(0);
    world.boot(0);
    for owner in [1, 2] {
        assert_eq!(assign(&world, owner, ASSIGN_PORTS, 0x73, 1), Err(Errno::Exist));
        assert_eq!(
            assign(&world, owner, ASSIGN_PORTS, 0x60, 0x200),
            Err(Errno::Exist)
        );
    }
    assert_eq!(assign(&world, 2, ASSIGN_PORTS, 0x74, 1), Ok(0));
    destroy(&world, 1);
    assert_eq!(assign(&world, 2, ASSIGN_PORTS, 0x73, 1), Ok(0));
}
