//! Copies from and to grants.

use super::*;

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
