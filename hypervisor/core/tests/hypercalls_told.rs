//! What a guest is told when it asks who and where it is: `xen_version`, the questions of `memory_op`, `vm_assist`.
#![cfg(not(loom))]
#![expect(
    clippy::unwrap_used,
    clippy::arithmetic_side_effects,
    reason = "a test fails by panicking"
)]

use bulkhead_abi::memory::{E820Entry, E820Type, MachphysMapping, MemoryMap, MemoryOp};
use bulkhead_abi::mmu::{VmAssistOp, VmAssistType};
use bulkhead_abi::version::{
    FeatureInfo, PlatformParameters, REPORTED_FEATURES, REPORTED_VERSION, VersionOp,
};
use bulkhead_abi::{DomId, Errno, Hypercall, layout};
use bulkhead_core::EndPolicy;
use bulkhead_core::testing::{GuestSpec, Sim, SimConfig, World};

/// An address that nothing is mapped at.
const NOTHING: u64 = 0x7000_0000_0000;

/// A world with one guest, which has booted.
fn world(id: u16) -> World {
    let world = World::new(SimConfig::default(), EndPolicy::LastDomain);
    world.create(id, &GuestSpec::default()).unwrap();
    world.enter(0);
    world.boot(0);
    world
}

fn version(world: &World, op: VersionOp, at: u64) -> Result<u64, Errno> {
    world.call(0, Hypercall::XenVersion, &[u64::from(op.raw()), at])
}

/// The text in a field of `len` bytes, which was full of something else before.
fn text(world: &World, op: VersionOp, len: u64) -> String {
    for n in 0..=len {
        world.write(0, World::SCRATCH + n, &0xff_u8);
    }
    assert_eq!(version(world, op, World::SCRATCH), Ok(0));
    let bytes: Vec<u8> = (0..len).map(|n| world.read(0, World::SCRATCH + n)).collect();
    let text = String::from_utf8(bytes).unwrap();
    let told = text.trim_end_matches('\0').to_owned();
    assert!(
        !told.contains('\0') && told.len() < text.len(),
        "padded with zeros"
    );
    assert_eq!(world.read::<u8>(0, World::SCRATCH + len), 0xff, "and no further");
    told
}

#[test]
fn the_control_domain_alone_is_told_which_build_it_runs_on() {
    let control = world(0);
    let id = Sim::BUILD_ID;
    let len = u32::try_from(id.len()).unwrap();
    let ask = |room: u32| {
        control.write(0, World::SCRATCH, &room);
        version(&control, VersionOp::BuildId, World::SCRATCH)
    };
    assert_eq!(version(&control, VersionOp::BuildId, 0), Ok(len.into()));
    assert_eq!(ask(0), Err(Errno::Inval));
    assert_eq!(ask(len - 1), Err(Errno::NoBufs));
    assert_eq!(ask(len + 9), Ok(len.into()));
    assert_eq!(control.read::<u32>(0, World::SCRATCH), len);
    for (n, byte) in (4..).zip(id) {
        assert_eq!(control.read::<u8>(0, World::SCRATCH + n), *byte);
    }
    assert_eq!(version(&control, VersionOp::BuildId, NOTHING), Err(Errno::Fault));
    let guest = world(1);
    assert_eq!(version(&guest, VersionOp::BuildId, 0), Err(Errno::Perm));
}

#[test]
fn the_version_is_that_of_the_abi_and_its_end_says_who_we_are() {
    let world = world(1);
    assert_eq!(
        version(&world, VersionOp::Version, 0),
        Ok(u64::from(REPORTED_VERSION))
    );
    assert_eq!(text(&world, VersionOp::Extraversion, 16), "-bulkhead");
    assert_eq!(text(&world, VersionOp::Capabilities, 1024), "xen-3.0-x86_64 ");
}

#[test]
fn parameters_features_and_page_size_are_told() {
    let world = world(1);
    assert_eq!(
        version(&world, VersionOp::PlatformParameters, World::SCRATCH),
        Ok(0)
    );
    let parameters: PlatformParameters = world.read(0, World::SCRATCH);
    assert_eq!(parameters.virt_start, layout::HYPERVISOR.start);
    world.write(0, World::SCRATCH, &FeatureInfo::default());
    assert_eq!(version(&world, VersionOp::GetFeatures, World::SCRATCH), Ok(0));
    assert_eq!(
        world.read::<FeatureInfo>(0, World::SCRATCH).submap,
        REPORTED_FEATURES
    );
    assert_eq!(version(&world, VersionOp::Pagesize, 0), Ok(4096));
}

#[test]
fn a_feature_word_that_does_not_exist_and_an_address_for_the_page_size_are_refused() {
    let world = world(1);
    let second = FeatureInfo {
        submap_idx: 1,
        ..FeatureInfo::default()
    };
    world.write(0, World::SCRATCH, &second);
    assert_eq!(
        version(&world, VersionOp::GetFeatures, World::SCRATCH),
        Err(Errno::Inval)
    );
    assert_eq!(
        version(&world, VersionOp::Pagesize, World::SCRATCH),
        Err(Errno::Inval)
    );
}

#[test]
fn an_answer_that_cannot_be_written_is_a_fault() {
    let world = world(1);
    for op in [
        VersionOp::Extraversion,
        VersionOp::Capabilities,
        VersionOp::PlatformParameters,
        VersionOp::GetFeatures,
    ] {
        for at in [NOTHING, layout::HYPERVISOR.start, u64::MAX - 3] {
            assert_eq!(version(&world, op, at), Err(Errno::Fault), "{op} at {at:#x}");
        }
    }
}

fn memory(world: &World, op: MemoryOp, at: u64) -> Result<u64, Errno> {
    world.call(0, Hypercall::MemoryOp, &[u64::from(op.raw()), at])
}

#[test]
fn a_domain_is_told_what_it_has_and_may_have() {
    let world = world(1);
    for domain in [DomId::SELF, DomId::new(1)] {
        world.write(0, World::SCRATCH, &domain);
        assert_eq!(
            memory(&world, MemoryOp::CurrentReservation, World::SCRATCH),
            Ok(1024)
        );
        assert_eq!(
            memory(&world, MemoryOp::MaximumReservation, World::SCRATCH),
            Ok(1024)
        );
        let info = memory(&world, MemoryOp::MaximumGpfn, World::SCRATCH).unwrap();
        assert_eq!(info, world.read::<u64>(0, World::SHARED_INFO + 0x908).max(info));
    }
    let last = world.sim().ram().limit() - 1;
    assert_eq!(memory(&world, MemoryOp::MaximumRamPage, 0), Ok(last));
    assert_eq!(memory(&world, MemoryOp::MachphysMapping, World::SCRATCH), Ok(0));
    let mapping: MachphysMapping = world.read(0, World::SCRATCH);
    let expected = (layout::M2P.start, layout::M2P.end, last);
    assert_eq!((mapping.v_start, mapping.v_end, mapping.max_mfn), expected);
}

#[test]
fn others_are_the_control_domains_affair_alone() {
    for (caller, other, answer) in [
        (1, 2, Err(Errno::Perm)),
        (0, 2, Err(Errno::Srch)),
        (0, 0, Ok(1024)),
    ] {
        let world = world(caller);
        world.write(0, World::SCRATCH, &DomId::new(other));
        let ops = [MemoryOp::CurrentReservation, MemoryOp::MaximumReservation];
        for op in ops {
            assert_eq!(
                memory(&world, op, World::SCRATCH),
                answer,
                "{op} of {other} for {caller}"
            );
        }
        assert_eq!(memory(&world, MemoryOp::MaximumGpfn, NOTHING), Err(Errno::Fault));
    }
}

#[test]
fn the_memory_map_is_one_range_as_large_as_the_domain_may_become() {
    let world = world(1);
    let ask = |nr_entries| {
        let map = MemoryMap {
            nr_entries,
            buffer: World::LIST,
        };
        world.write(0, World::SCRATCH, &map);
        memory(&world, MemoryOp::MemoryMap, World::SCRATCH)
    };
    assert_eq!(ask(10), Ok(0));
    assert_eq!(world.read::<MemoryMap>(0, World::SCRATCH).nr_entries, 1);
    let E820Entry {
        addr,
        size,
        range_type,
    } = world.read(0, World::LIST);
    assert_eq!((addr, size, range_type), (0, 1024 * 4096, E820Type::Ram.raw()));
    assert_eq!(ask(0), Ok(0), "there is no room for it, and none is used");
    assert_eq!(world.read::<MemoryMap>(0, World::SCRATCH).nr_entries, 0);
    assert_eq!(memory(&world, MemoryOp::MemoryMap, NOTHING), Err(Errno::Fault));
}

#[test]
fn a_question_that_says_how_far_it_has_come_is_not_understood() {
    let world = world(1);
    let begun = u64::from(MemoryOp::MaximumRamPage.raw()) | 1 << 6;
    assert_eq!(world.call(0, Hypercall::MemoryOp, &[begun, 0]), Err(Errno::NoSys));
    assert_eq!(world.call(0, Hypercall::MemoryOp, &[63, 0]), Err(Errno::NoSys));
}

#[test]
fn assistance_is_asked_for_by_known_names_only() {
    let world = world(1);
    let assist = |op: u32, kind: u32| world.call(0, Hypercall::VmAssist, &[u64::from(op), u64::from(kind)]);
    let flag = VmAssistType::RunstateUpdateFlag.raw();
    assert_eq!(assist(VmAssistOp::Enable.raw(), flag), Ok(0));
    assert_eq!(assist(VmAssistOp::Disable.raw(), flag), Ok(0));
    assert_eq!(assist(VmAssistOp::Enable.raw(), 31), Err(Errno::Inval));
    assert_eq!(assist(9, flag), Err(Errno::NoSys));
}
