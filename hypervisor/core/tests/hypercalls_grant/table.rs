//! The table itself, and the limits.

use super::*;

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
fn entries_are_swapped_while_nobody_uses_them() {
    let pair = Pair::new();
    let swap = |ref_a: u32, ref_b: u32| {
        let swap = SwapGrantRef {
            ref_a,
            ref_b,
            ..SwapGrantRef::ZERO
        };
        let done = pair.world.grant_op(GRANTOR, GrantTableOp::SwapGrantRef, swap);
        pair.world.invariants();
        done.unwrap().status
    };
    pair.grant(GTF_PERMIT_ACCESS);
    let [granted, empty] = [GREF, 11].map(|gref| pair.world.grant(GRANTOR, gref));
    assert_eq!(swap(GREF, 11), OKAY);
    assert_eq!(
        [GREF, 11].map(|gref| pair.world.grant(GRANTOR, gref)),
        [empty, granted]
    );
    assert_eq!(swap(11, GREF), OKAY);
    assert_eq!(swap(GREF, GREF), OKAY);
    assert_eq!(pair.world.grant(GRANTOR, GREF), granted);
    for (one, other) in [(GREF, 512), (u32::MAX, GREF)] {
        assert_eq!(swap(one, other), status(GrantStatus::BadGntref));
    }
    let mapped = pair.mapped(GNTMAP_HOST_MAP, VA);
    for (one, other) in [(GREF, 11), (11, GREF), (GREF, GREF)] {
        assert_eq!(swap(one, other), status(GrantStatus::Eagain));
    }
    assert_eq!(pair.unmap(mapped.handle, VA, 0), OKAY);
    assert_eq!(swap(GREF, 11), OKAY);
    assert_eq!(pair.world.grant(GRANTOR, 11), granted);
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
