//! Mapping grants, and ending mappings.

use super::*;

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
    assert_eq!(pair.world.hv().end_a_portion_of_mappings(&domain, 0), None);
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
        from = pair.world.hv().end_a_portion_of_mappings(&domain, at);
        goes += 1;
        pair.world.invariants();
    }
    assert!(goes < 20, "{goes} portions");
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
