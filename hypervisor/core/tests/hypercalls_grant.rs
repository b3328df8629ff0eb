//! Grants, one rule at a time: what they allow, what is refused and how, and what the grantor sees.
#![cfg(not(loom))]
#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    reason = "a test fails by panicking"
)]

use bulkhead_abi::grant::{
    CopyEnd, GNTCOPY_DEST_GREF, GNTCOPY_SOURCE_GREF, GNTMAP_APPLICATION_MAP, GNTMAP_AVAIL_SHIFT,
    GNTMAP_CONTAINS_PTE, GNTMAP_DEVICE_MAP, GNTMAP_HOST_MAP, GNTMAP_READONLY, GTF_ACCEPT_TRANSFER,
    GTF_PERMIT_ACCESS, GTF_READING, GTF_READONLY, GTF_WRITING, GetVersion, GrantCopy, GrantEntry,
    GrantStatus, GrantTableOp, MapGrantRef, QuerySize, SetVersion, SetupTable, UnmapAndReplace,
    UnmapGrantRef,
};
use bulkhead_abi::mmu::{MmuExt, MmuExtOp};
use bulkhead_abi::start_info::StartInfo;
use bulkhead_abi::{Buffered, DomId, Errno, Hypercall, Record, pte};
use bulkhead_core::EndPolicy;
use bulkhead_core::frames::Mfn;
use bulkhead_core::grants::Limits;
use bulkhead_core::ids::CpuId;
use bulkhead_core::testing::{GuestSpec, SimConfig, World};

/// The grantor runs on the first CPU, the grantee on the second.
const GRANTOR: usize = 0;
const GRANTEE: usize = 1;

/// Their domains.
const OWNER: DomId = DomId::new(1);
const USER: DomId = DomId::new(2);

/// A page of either that is nothing in particular.
const PAGE: u64 = 600;
/// Another.
const OTHER: u64 = 601;
const GREF: u32 = 9;

const OKAY: i16 = GrantStatus::Okay.raw();

struct Pair {
    world: World,
    info: [StartInfo; 2],
}

impl Pair {
    fn new() -> Self {
        let config = SimConfig {
            free_frames: 2 * GuestSpec::FRAMES + 70,
            cpus: 2,
        };
        let world = World::new(config, EndPolicy::LastDomain);
        let info = [GRANTOR, GRANTEE].map(|cpu| {
            let guest = GuestSpec {
                home: Some(CpuId::new(u32::try_from(cpu).unwrap())),
                ..GuestSpec::default()
            };
            world.create(u16::try_from(cpu + 1).unwrap(), &guest).unwrap();
            world.enter(cpu).unwrap();
            let info = world.boot(cpu);
            world.map_grant_table(cpu);
            info
        });
        Self { world, info }
    }

    /// The frame of a page.
    fn frame(&self, cpu: usize, pfn: u64) -> Mfn {
        Mfn::new(self.world.read(cpu, self.info[cpu].mfn_list + pfn * 8)).unwrap()
    }

    /// The grantor lets the grantee use its page.
    fn grant(&self, flags: u16) {
        self.grant_frame(flags, self.frame(GRANTOR, PAGE));
    }

    fn grant_frame(&self, flags: u16, mfn: Mfn) {
        let entry = GrantEntry {
            flags,
            domid: USER,
            frame: u32::try_from(mfn.raw()).unwrap(),
        };
        self.world.set_grant(GRANTOR, GREF, entry);
    }

    /// The flags of the entry, as the grantor sees them.
    fn flags(&self) -> u16 {
        self.world.grant(GRANTOR, GREF).flags
    }

    /// The grantee maps the grant.
    fn map(&self, flags: u32, host_addr: u64) -> MapGrantRef {
        self.map_as(MapGrantRef {
            host_addr,
            flags,
            gref: GREF,
            dom: OWNER,
            ..MapGrantRef::ZERO
        })
    }

    fn map_as(&self, map: MapGrantRef) -> MapGrantRef {
        let mapped = self.world.grant_op(GRANTEE, GrantTableOp::MapGrantRef, map);
        self.world.invariants();
        mapped.unwrap()
    }

    fn mapped(&self, flags: u32, host_addr: u64) -> MapGrantRef {
        let mapped = self.map(flags, host_addr);
        assert_eq!(mapped.status, OKAY);
        mapped
    }

    /// The grantee unmaps it.
    fn unmap(&self, handle: u32, host_addr: u64, dev_bus_addr: u64) -> i16 {
        let unmap = UnmapGrantRef {
            host_addr,
            dev_bus_addr,
            handle,
            ..UnmapGrantRef::ZERO
        };
        let unmapped = self.world.grant_op(GRANTEE, GrantTableOp::UnmapGrantRef, unmap);
        self.world.invariants();
        unmapped.unwrap().status
    }

    fn copy(&self, copy: GrantCopy) -> i16 {
        let copied = self.world.grant_op(GRANTEE, GrantTableOp::Copy, copy);
        self.world.invariants();
        copied.unwrap().status
    }

    fn update_va(&self, cpu: usize, va: u64, entry: u64) -> Result<u64, Errno> {
        let answer = self.world.call(cpu, Hypercall::UpdateVaMapping, &[va, entry, 2]);
        self.world.invariants();
        answer
    }

    /// Whether the grantee can read at `va`, and write.
    fn reaches(&self, va: u64) -> (bool, bool) {
        let _: u64 = self.world.read(GRANTEE, World::SCRATCH);
        let sim = self.world.sim();
        let can_read = sim.guest_read(va, &mut [0]).is_ok();
        (can_read, sim.guest_write(va, &[0]).is_ok())
    }

    /// The machine address of the entry that maps `va` in the grantee's first tables.
    fn slot(&self, va: u64) -> u64 {
        let mut table = self.frame(GRANTEE, self.info[GRANTEE].pt_base >> 12);
        for shift in [39, 30, 21] {
            let index = usize::try_from(va >> shift & 0x1ff).unwrap();
            let words = self.world.sim().ram().frame(table);
            table =
                Mfn::from_maddr(words[index].load(bulkhead_core::sync::Ordering::Relaxed) & pte::FRAME_MASK);
        }
        table.maddr() | (va >> 12 & 0x1ff) << 3
    }

    /// The entry itself.
    fn entry(&self, va: u64) -> u64 {
        let at = self.slot(va);
        let words = self.world.sim().ram().frame(Mfn::from_maddr(at));
        words[usize::try_from(at >> 3 & 0x1ff).unwrap()].load(bulkhead_core::sync::Ordering::Relaxed)
    }
}

fn status(status: GrantStatus) -> i16 {
    status.raw()
}

const VA: u64 = PAGE << 12;

#[test]
fn a_granted_page_is_mapped_seen_and_unmapped() {
    let pair = Pair::new();
    pair.grant(GTF_PERMIT_ACCESS);
    pair.world.write(GRANTOR, VA, &0xfeed_u64);
    let mapped = pair.mapped(GNTMAP_HOST_MAP, VA);
    assert_eq!(mapped.dev_bus_addr, 0, "no device has it");
    assert_eq!(pair.world.read::<u64>(GRANTEE, VA), 0xfeed);
    pair.world.write(GRANTEE, VA, &0xbeef_u64);
    assert_eq!(pair.world.read::<u64>(GRANTOR, VA), 0xbeef);
    assert_eq!(pair.flags(), GTF_PERMIT_ACCESS | GTF_READING | GTF_WRITING);

    assert_eq!(pair.unmap(mapped.handle, VA, 0), OKAY);
    assert_eq!(pair.flags(), GTF_PERMIT_ACCESS);
    assert_eq!(pair.entry(VA), 0);
    assert_eq!(pair.reaches(VA), (false, false), "no TLB knows it");
    assert_eq!(
        pair.unmap(mapped.handle, VA, 0),
        status(GrantStatus::BadHandle),
        "once is all"
    );
}

#[test]
fn a_grant_for_reading_is_mapped_for_reading() {
    let pair = Pair::new();
    pair.grant(GTF_PERMIT_ACCESS | GTF_READONLY);
    assert_eq!(
        pair.map(GNTMAP_HOST_MAP, VA).status,
        status(GrantStatus::GeneralError)
    );
    let mapped = pair.mapped(GNTMAP_HOST_MAP | GNTMAP_READONLY, VA);
    assert_eq!(pair.flags(), GTF_PERMIT_ACCESS | GTF_READONLY | GTF_READING);
    assert_eq!(pair.reaches(VA), (true, false));
    // Nor does it come to be written by changing the entry.
    let frame = pair.frame(GRANTOR, PAGE).maddr();
    assert_eq!(
        pair.update_va(GRANTEE, VA, frame | pte::PRESENT | pte::WRITABLE),
        Err(Errno::Busy)
    );
    assert_eq!(pair.unmap(mapped.handle, VA, 0), OKAY);
}

#[test]
fn writing_shows_only_as_long_as_somebody_may_write() {
    let pair = Pair::new();
    pair.grant(GTF_PERMIT_ACCESS);
    let reader = pair.mapped(GNTMAP_HOST_MAP | GNTMAP_READONLY, VA);
    assert_eq!(pair.flags(), GTF_PERMIT_ACCESS | GTF_READING);
    let writer = pair.mapped(GNTMAP_HOST_MAP, OTHER << 12);
    assert_eq!(pair.flags(), GTF_PERMIT_ACCESS | GTF_READING | GTF_WRITING);
    assert_eq!(pair.unmap(writer.handle, OTHER << 12, 0), OKAY);
    assert_eq!(pair.flags(), GTF_PERMIT_ACCESS | GTF_READING);
    assert_eq!(pair.unmap(reader.handle, VA, 0), OKAY);
    assert_eq!(pair.flags(), GTF_PERMIT_ACCESS);
}

#[test]
fn only_whom_it_names_maps_a_grant_and_only_while_it_is_one() {
    let pair = Pair::new();
    let refused = |gref: u32, dom: DomId, flags: u32, expected: GrantStatus| {
        let map = MapGrantRef {
            host_addr: VA,
            flags,
            gref,
            dom,
            ..MapGrantRef::ZERO
        };
        let before = pair.entry(VA);
        assert_eq!(pair.map_as(map).status, status(expected));
        assert_eq!(pair.entry(VA), before);
    };
    let general = GrantStatus::GeneralError;
    refused(GREF, OWNER, GNTMAP_HOST_MAP, general);
    pair.grant(GTF_ACCEPT_TRANSFER);
    refused(GREF, OWNER, GNTMAP_HOST_MAP, general);
    pair.grant(GTF_PERMIT_ACCESS);
    let for_another = GrantEntry {
        domid: DomId::new(3),
        ..pair.world.grant(GRANTOR, GREF)
    };
    pair.world.set_grant(GRANTOR, GREF + 1, for_another);
    refused(GREF + 1, OWNER, GNTMAP_HOST_MAP, general);
    refused(GREF, OWNER, 0, GrantStatus::BadGntref);
    refused(512, OWNER, GNTMAP_HOST_MAP, GrantStatus::BadGntref);
    refused(u32::MAX, OWNER, GNTMAP_HOST_MAP, GrantStatus::BadGntref);
    refused(GREF, DomId::new(3), GNTMAP_HOST_MAP, GrantStatus::BadDomain);
    refused(GREF, DomId::new(0x7fff), GNTMAP_HOST_MAP, GrantStatus::BadDomain);
    assert_eq!(pair.flags(), GTF_PERMIT_ACCESS);
}

#[test]
fn what_is_not_the_grantors_to_grant_is_not_granted() {
    let pair = Pair::new();
    let own = pair.frame(GRANTEE, OTHER);
    for frame in [own, Mfn::new(0).unwrap(), Mfn::new(0xffff_ffff).unwrap()] {
        pair.grant_frame(GTF_PERMIT_ACCESS, frame);
        for flags in [
            GNTMAP_HOST_MAP,
            GNTMAP_DEVICE_MAP,
            GNTMAP_HOST_MAP | GNTMAP_DEVICE_MAP,
        ] {
            assert_eq!(pair.map(flags, VA).status, status(GrantStatus::GeneralError));
        }
        assert_eq!(pair.flags(), GTF_PERMIT_ACCESS);
    }
}

#[test]
fn a_page_table_is_granted_for_reading_and_never_for_writing() {
    let pair = Pair::new();
    let table = pair.frame(GRANTOR, pair.info[GRANTOR].pt_base >> 12);
    pair.grant_frame(GTF_PERMIT_ACCESS, table);
    for flags in [GNTMAP_HOST_MAP, GNTMAP_DEVICE_MAP] {
        assert_eq!(pair.map(flags, VA).status, status(GrantStatus::GeneralError));
    }
    let mapped = pair.mapped(GNTMAP_HOST_MAP | GNTMAP_READONLY, VA);
    assert_eq!(pair.unmap(mapped.handle, VA, 0), OKAY);
}

#[test]
fn a_page_that_another_may_write_becomes_no_page_table() {
    let pair = Pair::new();
    let frame = pair.frame(GRANTOR, PAGE);
    pair.grant(GTF_PERMIT_ACCESS);
    assert_eq!(pair.update_va(GRANTOR, VA, 0), Ok(0));
    let pin = || {
        let op = MmuExt {
            cmd: MmuExtOp::PinL1Table.raw(),
            arg1: frame.raw(),
            arg2: 0,
        };
        pair.world.write(GRANTOR, World::SCRATCH, &op);
        let own = u64::from(DomId::SELF.raw());
        let args = [World::SCRATCH, 1, 0, own];
        pair.world.call(GRANTOR, Hypercall::MmuextOp, &args)
    };
    for flags in [GNTMAP_HOST_MAP, GNTMAP_DEVICE_MAP] {
        let mapped = pair.mapped(flags, VA);
        assert_eq!(pin(), Err(Errno::Inval));
        assert_eq!(pair.unmap(mapped.handle, VA, mapped.dev_bus_addr), OKAY);
    }
    assert_eq!(pin(), Ok(0));
    assert_eq!(
        pair.map(GNTMAP_HOST_MAP, VA).status,
        status(GrantStatus::GeneralError)
    );
}

#[test]
fn a_device_keeps_a_page_without_an_entry_and_without_a_flush() {
    let pair = Pair::new();
    pair.grant(GTF_PERMIT_ACCESS);
    let (entry, flushes) = (pair.entry(VA), pair.world.sim().flushes());
    let mapped = pair.mapped(GNTMAP_DEVICE_MAP, VA);
    assert_eq!(mapped.dev_bus_addr, pair.frame(GRANTOR, PAGE).maddr());
    assert_eq!(pair.flags(), GTF_PERMIT_ACCESS | GTF_READING | GTF_WRITING);
    assert_eq!(
        pair.unmap(mapped.handle, 0, mapped.dev_bus_addr + 4096),
        status(GrantStatus::BadDevAddr)
    );
    assert_eq!(pair.unmap(mapped.handle, VA, 0), OKAY, "nothing to be done");
    assert_eq!(pair.flags(), GTF_PERMIT_ACCESS | GTF_READING | GTF_WRITING);
    assert_eq!(pair.unmap(mapped.handle, 0, mapped.dev_bus_addr), OKAY);
    assert_eq!(pair.flags(), GTF_PERMIT_ACCESS);
    assert_eq!(pair.entry(VA), entry);
    assert_eq!(pair.world.sim().flushes(), flushes);
}

#[test]
fn a_mapping_for_both_ends_in_parts() {
    let pair = Pair::new();
    let both = GNTMAP_HOST_MAP | GNTMAP_DEVICE_MAP;
    for host_first in [false, true] {
        pair.grant(GTF_PERMIT_ACCESS);
        let mapped = pair.mapped(both, VA);
        let parts = [(VA, 0), (0, mapped.dev_bus_addr)];
        let order = if host_first { [0, 1] } else { [1, 0] };
        for part in order {
            let (host, device) = parts[part];
            assert_ne!(pair.flags(), GTF_PERMIT_ACCESS);
            assert_eq!(pair.unmap(mapped.handle, host, device), OKAY);
        }
        assert_eq!(pair.flags(), GTF_PERMIT_ACCESS);
        assert_eq!(
            pair.unmap(mapped.handle, VA, mapped.dev_bus_addr),
            status(GrantStatus::BadHandle)
        );
    }
    let mapped = pair.mapped(both, VA);
    assert_eq!(pair.unmap(mapped.handle, VA, mapped.dev_bus_addr), OKAY);
    assert_eq!(pair.flags(), GTF_PERMIT_ACCESS);
    assert_eq!(
        pair.map(both, 1 << 40).status,
        status(GrantStatus::GeneralError),
        "no table there"
    );
    assert_eq!(pair.flags(), GTF_PERMIT_ACCESS, "nor is it left to the device");
}

#[test]
fn an_entry_is_named_by_its_machine_address_if_the_map_says_so() {
    let pair = Pair::new();
    pair.grant(GTF_PERMIT_ACCESS);
    let slot = pair.slot(VA);
    let by_entry = GNTMAP_HOST_MAP | GNTMAP_CONTAINS_PTE;
    for misaligned in [1, 4, 7] {
        let map = pair.map(by_entry, slot + misaligned);
        assert_eq!(map.status, status(GrantStatus::BadVirtAddr), "XSA-227");
    }
    // Not a level 1 table of its own: a page, a level 4 table, another's.
    let own_root = pair.frame(GRANTEE, pair.info[GRANTEE].pt_base >> 12);
    for place in [
        pair.frame(GRANTEE, OTHER),
        own_root,
        pair.frame(GRANTOR, OTHER),
        Mfn::new(0).unwrap(),
    ] {
        let map = pair.map(by_entry, place.maddr());
        assert_eq!(map.status, status(GrantStatus::GeneralError));
    }
    let user = pair.mapped(by_entry | GNTMAP_APPLICATION_MAP | 5 << GNTMAP_AVAIL_SHIFT, slot);
    let frame = pair.frame(GRANTOR, PAGE).maddr();
    let common = pte::PRESENT | pte::WRITABLE | pte::USER | pte::ACCESSED | pte::DIRTY;
    assert_eq!(pair.entry(VA), frame | common | pte::GLOBAL | 5 << 9);
    assert_eq!(
        pair.unmap(user.handle, slot + 8, 0),
        status(GrantStatus::GeneralError),
        "the entry beside it"
    );
    assert_eq!(pair.unmap(user.handle, slot, 0), OKAY);
    let kernel = pair.mapped(GNTMAP_HOST_MAP, VA);
    assert_eq!(pair.entry(VA), frame | common | pte::GUEST_KERNEL);
    assert_eq!(pair.unmap(kernel.handle, VA, 0), OKAY);
}

#[test]
fn nothing_but_the_mappings_own_entry_ends_it() {
    let pair = Pair::new();
    pair.grant(GTF_PERMIT_ACCESS);
    let writer = pair.mapped(GNTMAP_HOST_MAP, VA);
    let reader = pair.mapped(GNTMAP_HOST_MAP | GNTMAP_READONLY, OTHER << 12);
    for elsewhere in [OTHER << 12, (OTHER + 1) << 12, 1 << 40, 0xffff_8000_0000_0000] {
        assert_eq!(
            pair.unmap(writer.handle, elsewhere, 0),
            status(GrantStatus::GeneralError)
        );
    }
    assert_eq!(
        pair.unmap(reader.handle, VA, 0),
        status(GrantStatus::GeneralError),
        "that one allows writes"
    );
    assert_eq!(pair.unmap(writer.handle, VA, 0), OKAY);
    assert_eq!(pair.unmap(reader.handle, OTHER << 12, 0), OKAY);
}

#[test]
fn an_entry_that_was_written_over_leaves_its_mapping_open_and_holds_nothing() {
    let pair = Pair::new();
    pair.grant(GTF_PERMIT_ACCESS);
    let mapped = pair.mapped(GNTMAP_HOST_MAP, VA);
    assert_eq!(pair.update_va(GRANTEE, VA, 0), Ok(0));
    assert_ne!(pair.flags(), GTF_PERMIT_ACCESS, "it cannot be known to be unused");
    assert_eq!(
        pair.unmap(mapped.handle, VA, 0),
        status(GrantStatus::GeneralError)
    );
    // Nor can the entry be made again by hand.
    let frame = pair.frame(GRANTOR, PAGE).maddr();
    assert_eq!(
        pair.update_va(GRANTEE, VA, frame | pte::PRESENT | pte::WRITABLE),
        Err(Errno::Busy)
    );
    let again = pair.mapped(GNTMAP_HOST_MAP, VA);
    assert_eq!(
        pair.unmap(mapped.handle, VA, 0),
        OKAY,
        "any entry that leads there will do"
    );
    assert_eq!(pair.unmap(again.handle, VA, 0), status(GrantStatus::GeneralError));
    let domain = pair.world.hv().domain(USER).unwrap();
    assert_eq!(pair.world.hv().end_mappings(&domain, 0), None);
    assert_eq!(pair.flags(), GTF_PERMIT_ACCESS, "until the domain ends");
    pair.world.invariants();
}

#[test]
fn a_domain_that_ends_gives_all_grants_back_in_portions() {
    let pair = Pair::new();
    pair.grant(GTF_PERMIT_ACCESS);
    let maps = 200;
    for n in 0..maps {
        let flags = if n % 2 == 0 {
            GNTMAP_DEVICE_MAP
        } else {
            GNTMAP_DEVICE_MAP | GNTMAP_READONLY
        };
        assert_eq!(pair.mapped(flags, 0).handle, n);
    }
    let domain = pair.world.hv().domain(USER).unwrap();
    let mut from = Some(0);
    let mut goes = 0;
    while let Some(at) = from {
        from = pair.world.hv().end_mappings(&domain, at);
        goes += 1;
        pair.world.invariants();
    }
    assert!(goes < 10, "{goes} portions");
    assert_eq!(pair.flags(), GTF_PERMIT_ACCESS);
}

#[test]
fn a_grant_is_used_no_more_often_than_can_be_counted() {
    let pair = Pair::new();
    pair.grant(GTF_PERMIT_ACCESS);
    for _ in 0..255 {
        pair.mapped(GNTMAP_DEVICE_MAP, 0);
    }
    let refused = pair.map(GNTMAP_DEVICE_MAP, 0);
    assert_eq!(refused.status, status(GrantStatus::GeneralError));
    pair.mapped(GNTMAP_DEVICE_MAP | GNTMAP_READONLY, 0);
}

#[test]
fn a_frame_in_use_is_the_one_that_was_granted_first() {
    let pair = Pair::new();
    pair.grant(GTF_PERMIT_ACCESS);
    let first = pair.mapped(GNTMAP_DEVICE_MAP, 0);
    let (one, other) = (pair.frame(GRANTOR, PAGE), pair.frame(GRANTOR, OTHER));
    let marks = GTF_READING | GTF_WRITING;
    // The laws would not like this: the grantor changes an entry that is in use.
    pair.grant_frame(GTF_PERMIT_ACCESS | marks, other);
    let map = MapGrantRef {
        flags: GNTMAP_DEVICE_MAP,
        gref: GREF,
        dom: OWNER,
        ..MapGrantRef::ZERO
    };
    let second = pair
        .world
        .grant_op(GRANTEE, GrantTableOp::MapGrantRef, map)
        .unwrap();
    assert_eq!(second.dev_bus_addr, one.maddr());
    pair.grant_frame(GTF_PERMIT_ACCESS | marks, one);
    assert_eq!(pair.unmap(first.handle, 0, one.maddr()), OKAY);
    assert_eq!(pair.unmap(second.handle, 0, one.maddr()), OKAY);
}

#[test]
fn a_domain_maps_its_own_grants_too() {
    let pair = Pair::new();
    let frame = pair.frame(GRANTEE, OTHER);
    let entry = GrantEntry {
        flags: GTF_PERMIT_ACCESS,
        domid: USER,
        frame: u32::try_from(frame.raw()).unwrap(),
    };
    pair.world.set_grant(GRANTEE, GREF, entry);
    for dom in [DomId::SELF, USER] {
        let map = MapGrantRef {
            host_addr: VA,
            flags: GNTMAP_HOST_MAP,
            gref: GREF,
            dom,
            ..MapGrantRef::ZERO
        };
        let mapped = pair.map_as(map);
        assert_eq!(mapped.status, OKAY);
        pair.world.write(GRANTEE, OTHER << 12, &77_u64);
        assert_eq!(pair.world.read::<u64>(GRANTEE, VA), 77);
        assert_eq!(pair.unmap(mapped.handle, VA, 0), OKAY);
    }
}

#[test]
fn a_table_with_a_granted_page_can_be_taken_down_and_not_built_again() {
    let pair = Pair::new();
    pair.grant(GTF_PERMIT_ACCESS);
    // A level 1 table of its own, with one entry, under the pin that holds it.
    let table = pair.frame(GRANTEE, OTHER);
    assert_eq!(pair.update_va(GRANTEE, OTHER << 12, 0), Ok(0));
    let ext = |op: MmuExtOp| {
        let op = MmuExt {
            cmd: op.raw(),
            arg1: table.raw(),
            arg2: 0,
        };
        pair.world.write(GRANTEE, World::SCRATCH, &op);
        let own = u64::from(DomId::SELF.raw());
        let answer = pair
            .world
            .call(GRANTEE, Hypercall::MmuextOp, &[World::SCRATCH, 1, 0, own]);
        pair.world.invariants();
        answer
    };
    assert_eq!(ext(MmuExtOp::PinL1Table), Ok(0));
    let slot = table.maddr() | 5 << 3;
    let mapped = pair.mapped(GNTMAP_HOST_MAP | GNTMAP_CONTAINS_PTE, slot);
    assert_eq!(ext(MmuExtOp::UnpinTable), Ok(0));
    assert_ne!(pair.flags(), GTF_PERMIT_ACCESS);
    assert_eq!(
        ext(MmuExtOp::PinL1Table),
        Err(Errno::Inval),
        "the entry still stands there"
    );
    assert_eq!(
        pair.unmap(mapped.handle, slot, 0),
        status(GrantStatus::GeneralError),
        "that is no table"
    );
}

#[test]
fn a_mapping_moves_into_the_place_of_a_grant() {
    let pair = Pair::new();
    pair.grant(GTF_PERMIT_ACCESS);
    let mapped = pair.mapped(GNTMAP_HOST_MAP, VA);
    let replace = |host_addr: u64, new_addr: u64| {
        let unmap = UnmapAndReplace {
            host_addr,
            new_addr,
            handle: mapped.handle,
            ..UnmapAndReplace::ZERO
        };
        let done = pair.world.grant_op(GRANTEE, GrantTableOp::UnmapAndReplace, unmap);
        pair.world.invariants();
        done.unwrap().status
    };
    let (from, moved) = (OTHER << 12, pair.entry(OTHER << 12));
    let general = status(GrantStatus::GeneralError);
    assert_eq!(replace(VA, 1 << 40), general);
    assert_eq!(replace(from, VA), general);
    assert_eq!(replace(VA, VA), general);
    assert_ne!(pair.flags(), GTF_PERMIT_ACCESS);
    assert_eq!(replace(VA, from), OKAY);
    assert_eq!((pair.entry(VA), pair.entry(from)), (moved, 0));
    assert_eq!(pair.flags(), GTF_PERMIT_ACCESS);
    assert_eq!(replace(VA, from), status(GrantStatus::BadHandle));
}

#[test]
fn many_are_unmapped_with_few_flushes() {
    let pair = Pair::new();
    pair.grant(GTF_PERMIT_ACCESS);
    let count = 40_u64;
    let list = PAGE << 12;
    let handles: Vec<u32> = (0..count)
        .map(|n| pair.mapped(GNTMAP_HOST_MAP, (700 + n) << 12).handle)
        .collect();
    for (n, handle) in (0..).zip(handles) {
        let unmap = UnmapGrantRef {
            host_addr: (700 + n) << 12,
            handle,
            status: 99,
            ..UnmapGrantRef::ZERO
        };
        pair.world.write(GRANTEE, list + n * 24, &unmap);
    }
    let flushes = pair.world.sim().flushes();
    let args = [u64::from(GrantTableOp::UnmapGrantRef.raw()), list, count];
    assert_eq!(pair.world.call(GRANTEE, Hypercall::GrantTableOp, &args), Ok(0));
    assert_eq!(pair.world.sim().flushes() - flushes, 2);
    for n in 0..count {
        assert_eq!(
            pair.world.read::<UnmapGrantRef>(GRANTEE, list + n * 24).status,
            OKAY
        );
    }
    assert_eq!(pair.flags(), GTF_PERMIT_ACCESS);
    pair.world.invariants();
}

#[test]
fn a_list_that_ends_in_nothing_is_done_up_to_there() {
    let pair = Pair::new();
    pair.grant(GTF_PERMIT_ACCESS);
    let mapped = pair.mapped(GNTMAP_HOST_MAP, VA);
    assert_eq!(pair.update_va(GRANTEE, (OTHER + 1) << 12, 0), Ok(0));
    let at = ((OTHER + 1) << 12) - UnmapGrantRef::SIZE as u64;
    let unmap = UnmapGrantRef {
        host_addr: VA,
        handle: mapped.handle,
        ..UnmapGrantRef::ZERO
    };
    pair.world.write(GRANTEE, at, &unmap);
    let args = [u64::from(GrantTableOp::UnmapGrantRef.raw()), at, 2];
    assert_eq!(
        pair.world.call(GRANTEE, Hypercall::GrantTableOp, &args),
        Err(Errno::Fault)
    );
    assert_eq!(pair.flags(), GTF_PERMIT_ACCESS);
    pair.world.invariants();
}

fn grant_end(offset: u16) -> CopyEnd {
    CopyEnd {
        frame: u64::from(GREF),
        domid: OWNER,
        offset,
    }
}

fn own_end(frame: Mfn, offset: u16) -> CopyEnd {
    CopyEnd {
        frame: frame.raw(),
        domid: DomId::SELF,
        offset,
    }
}

#[test]
fn bytes_are_copied_from_a_grant_and_to_one() {
    let pair = Pair::new();
    let own = pair.frame(GRANTEE, OTHER);
    pair.grant(GTF_PERMIT_ACCESS);
    pair.world.write(GRANTOR, VA + 4090, &0x1234_5678_u32);
    let from = GrantCopy {
        source: grant_end(4090),
        dest: own_end(own, 3),
        len: 6,
        flags: GNTCOPY_SOURCE_GREF,
        ..GrantCopy::ZERO
    };
    assert_eq!(pair.copy(from), OKAY);
    assert_eq!(pair.world.read::<u32>(GRANTEE, (OTHER << 12) + 3), 0x1234_5678);
    assert_eq!(pair.flags(), GTF_PERMIT_ACCESS);

    pair.world.write(GRANTEE, OTHER << 12, &0xabcd_u16);
    let to = GrantCopy {
        source: own_end(own, 0),
        dest: grant_end(4094),
        len: 2,
        flags: GNTCOPY_DEST_GREF,
        ..GrantCopy::ZERO
    };
    assert_eq!(pair.copy(to), OKAY);
    assert_eq!(pair.world.read::<u16>(GRANTOR, VA + 4094), 0xabcd);
    assert_eq!(pair.flags(), GTF_PERMIT_ACCESS);

    let within = GrantCopy {
        source: grant_end(4090),
        dest: grant_end(4092),
        len: 4,
        flags: GNTCOPY_SOURCE_GREF | GNTCOPY_DEST_GREF,
        ..GrantCopy::ZERO
    };
    assert_eq!(pair.copy(within), OKAY);
    assert_eq!(pair.world.read::<u32>(GRANTOR, VA + 4092), 0x1234_5678);
    let own_to_own = GrantCopy {
        source: own_end(own, 0),
        dest: own_end(own, 8),
        len: 2,
        ..GrantCopy::ZERO
    };
    assert_eq!(pair.copy(own_to_own), OKAY);
    assert_eq!(pair.world.read::<u16>(GRANTEE, (OTHER << 12) + 8), 0xabcd);
}

#[test]
fn no_copy_leaves_its_frames_or_goes_where_the_caller_may_not_write() {
    let pair = Pair::new();
    let own = pair.frame(GRANTEE, OTHER);
    pair.grant(GTF_PERMIT_ACCESS | GTF_READONLY);
    let from = GrantCopy {
        source: grant_end(0),
        dest: own_end(own, 0),
        len: 16,
        flags: GNTCOPY_SOURCE_GREF,
        ..GrantCopy::ZERO
    };
    assert_eq!(pair.copy(from), OKAY);
    let refused = |copy: GrantCopy, expected: GrantStatus| {
        assert_eq!(pair.copy(copy), status(expected), "{copy:x?}");
        assert_eq!(pair.flags(), GTF_PERMIT_ACCESS | GTF_READONLY);
    };
    for (offset, len) in [(4096, 1), (4095, 2), (1, 4096), (0, 4097), (u16::MAX, u16::MAX)] {
        let source = grant_end(offset);
        refused(GrantCopy { source, len, ..from }, GrantStatus::BadCopyArg);
        let dest = own_end(own, offset);
        refused(GrantCopy { dest, len, ..from }, GrantStatus::BadCopyArg);
    }
    let back = GrantCopy {
        source: own_end(own, 0),
        dest: grant_end(0),
        flags: GNTCOPY_DEST_GREF,
        ..from
    };
    refused(back, GrantStatus::GeneralError);
    let table = pair.frame(GRANTEE, pair.info[GRANTEE].pt_base >> 12);
    let dest = own_end(table, 0);
    refused(GrantCopy { dest, ..from }, GrantStatus::GeneralError);
    for frame in [pair.frame(GRANTOR, OTHER), Mfn::new(0).unwrap()] {
        let dest = own_end(frame, 0);
        refused(GrantCopy { dest, ..from }, GrantStatus::BadPage);
    }
    let dest = CopyEnd {
        frame: 1 << 60,
        ..from.dest
    };
    refused(GrantCopy { dest, ..from }, GrantStatus::BadPage);
    let dest = CopyEnd {
        domid: OWNER,
        ..from.dest
    };
    refused(GrantCopy { dest, ..from }, GrantStatus::PermissionDenied);
    let source = CopyEnd {
        domid: DomId::new(9),
        ..from.source
    };
    refused(GrantCopy { source, ..from }, GrantStatus::BadDomain);
    let source = CopyEnd {
        frame: 512,
        ..from.source
    };
    refused(GrantCopy { source, ..from }, GrantStatus::BadGntref);
}

#[test]
fn a_table_grows_up_to_its_limit_and_is_the_guests_to_map() {
    let pair = Pair::new();
    let limit = Limits::default().frames;
    let query = |dom: DomId| {
        let query = QuerySize {
            dom,
            ..QuerySize::ZERO
        };
        pair.world
            .grant_op(GRANTEE, GrantTableOp::QuerySize, query)
            .unwrap()
    };
    let setup = |nr_frames: u32, frame_list: u64| {
        let setup = SetupTable {
            dom: USER,
            nr_frames,
            frame_list,
            ..SetupTable::ZERO
        };
        let done = pair
            .world
            .grant_op(GRANTEE, GrantTableOp::SetupTable, setup)
            .unwrap();
        pair.world.invariants();
        done.status
    };
    let own = query(DomId::SELF);
    assert_eq!((own.status, own.nr_frames, own.max_nr_frames), (OKAY, 1, limit));
    assert_eq!(query(OWNER).status, status(GrantStatus::PermissionDenied));
    assert_eq!(setup(limit + 1, VA), status(GrantStatus::GeneralError));
    assert_eq!(setup(limit, 1 << 40), status(GrantStatus::BadVirtAddr));
    assert_eq!(setup(limit, VA), OKAY);
    assert_eq!(query(USER).nr_frames, limit);
    assert_eq!(setup(2, VA), OKAY, "it never shrinks");
    assert_eq!(query(USER).nr_frames, limit);
    let last: u64 = pair.world.read(GRANTEE, VA + u64::from(limit - 1) * 8);
    let map = last << 12 | pte::PRESENT | pte::WRITABLE;
    assert_eq!(pair.update_va(GRANTEE, OTHER << 12, map), Ok(0));
    pair.world.write(GRANTEE, (OTHER << 12) + 4088, &0_u64);
}

#[test]
fn there_is_version_one_and_no_other() {
    let pair = Pair::new();
    let set = |version: u32| {
        pair.world
            .grant_op(GRANTEE, GrantTableOp::SetVersion, SetVersion { version })
    };
    assert_eq!(set(1), Ok(SetVersion { version: 1 }));
    for version in [0, 2, 3, u32::MAX] {
        assert_eq!(set(version), Err(Errno::Inval));
    }
    let get = |dom: DomId| {
        let asked = GetVersion {
            dom,
            ..GetVersion::ZERO
        };
        pair.world
            .grant_op(GRANTEE, GrantTableOp::GetVersion, asked)
            .map(|answer| answer.version)
    };
    assert_eq!(get(DomId::SELF), Ok(1));
    assert_eq!(get(OWNER), Err(Errno::Perm));
}

#[test]
fn one_record_is_all_that_an_operation_on_a_table_takes() {
    let pair = Pair::new();
    for op in [
        GrantTableOp::SetupTable,
        GrantTableOp::QuerySize,
        GrantTableOp::SetVersion,
        GrantTableOp::GetVersion,
    ] {
        for count in [0, 2] {
            let args = [u64::from(op.raw()), World::SCRATCH, count];
            pair.world.write(GRANTEE, World::SCRATCH, &1_u32);
            assert_eq!(
                pair.world.call(GRANTEE, Hypercall::GrantTableOp, &args),
                Err(Errno::Inval)
            );
        }
    }
}

#[test]
fn mappings_are_limited() {
    let pair = Pair::new();
    let limit = Limits::default().maps;
    let frame = pair.frame(GRANTOR, PAGE);
    let per_grant = 255;
    let mut left = limit;
    let mut gref = 8;
    while left > 0 {
        let entry = GrantEntry {
            flags: GTF_PERMIT_ACCESS,
            domid: USER,
            frame: u32::try_from(frame.raw()).unwrap(),
        };
        pair.world.set_grant(GRANTOR, gref, entry);
        let count = left.min(per_grant).min(100);
        let map = MapGrantRef {
            flags: GNTMAP_DEVICE_MAP,
            gref,
            dom: OWNER,
            ..MapGrantRef::ZERO
        };
        let bytes = map.to_bytes();
        let _: u64 = pair.world.read(GRANTEE, VA);
        for n in 0..u64::from(count) {
            pair.world
                .sim()
                .guest_write(VA + n * MapGrantRef::SIZE as u64, bytes.as_ref())
                .unwrap();
        }
        let args = [u64::from(GrantTableOp::MapGrantRef.raw()), VA, u64::from(count)];
        assert_eq!(pair.world.call(GRANTEE, Hypercall::GrantTableOp, &args), Ok(0));
        left -= count;
        gref += 1;
    }
    pair.grant(GTF_PERMIT_ACCESS | GTF_READING | GTF_WRITING);
    assert_eq!(
        pair.map(GNTMAP_DEVICE_MAP, 0).status,
        status(GrantStatus::NoSpace)
    );
}
