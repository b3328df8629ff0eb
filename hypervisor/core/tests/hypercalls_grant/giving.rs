//! Giving frames away: transfers and flips.

use super::*;

const DONE: u16 = GTF_ACCEPT_TRANSFER | GTF_TRANSFER_COMMITTED | GTF_TRANSFER_COMPLETED;

impl Pair {
    /// The grantee unmaps a page of its own, so that nothing refers to it. Returns the frame.
    fn bare(&self, cpu: usize, pfn: u64) -> Mfn {
        let frame = self.frame(cpu, pfn);
        assert_eq!(self.update_va(cpu, pfn << 12, 0), Ok(0));
        frame
    }

    fn give(&self, op: GrantTableOp, mfn: Mfn, gref: u32, domid: DomId) -> (i16, u64) {
        let flip = Flip {
            mfn: mfn.raw(),
            domid,
            gref,
            ..Flip::ZERO
        };
        let done = self.world.grant_op(GRANTEE, op, flip).unwrap();
        self.world.invariants();
        (done.status, done.mfn)
    }

    fn owner(&self, mfn: Mfn) -> Option<DomId> {
        let refs = self.world.hv().memory().frames().refs(mfn).unwrap();
        (refs.count() != 0).then_some(refs.owner())
    }
}

#[test]
fn frames_are_flipped_with_their_numbers_and_totals_stay() {
    let pair = Pair::new();
    pair.world.write(GRANTEE, OTHER << 12, &0xfeed_u64);
    let (given, offered) = (pair.bare(GRANTEE, OTHER), pair.bare(GRANTOR, PAGE));
    pair.grant_frame(GTF_ACCEPT_TRANSFER | GTF_FLIP, offered);
    assert_eq!(
        pair.give(GrantTableOp::Flip, given, GREF, OWNER),
        (OKAY, offered.raw())
    );
    assert_eq!(
        [given, offered].map(|mfn| pair.owner(mfn)),
        [Some(OWNER), Some(USER)]
    );
    let entry = pair.world.grant(GRANTOR, GREF);
    assert_eq!(
        (entry.flags, u64::from(entry.frame)),
        (DONE | GTF_FLIP, given.raw())
    );
    assert_eq!(pair.world.sim().m2p_entry(given), PAGE);
    assert_eq!(pair.world.sim().m2p_entry(offered), OTHER);
    let map = given.maddr() | pte::PRESENT | pte::WRITABLE;
    assert_eq!(pair.update_va(GRANTOR, VA, map), Ok(0));
    assert_eq!(pair.world.read::<u64>(GRANTOR, VA), 0xfeed, "it comes as it is");
    // Once is all.
    let next = pair.bare(GRANTEE, OTHER + 1);
    assert_eq!(
        pair.give(GrantTableOp::Flip, next, GREF, OWNER).0,
        status(GrantStatus::BadGntref)
    );
    assert_eq!(pair.owner(next), Some(USER));
}

#[test]
fn a_flip_that_is_refused_changes_nothing() {
    let pair = Pair::new();
    let offer = GTF_ACCEPT_TRANSFER | GTF_FLIP;
    let (given, offered) = (pair.bare(GRANTEE, OTHER), pair.bare(GRANTOR, PAGE));
    let refused = |mfn: Mfn, domid: DomId, expected: GrantStatus| {
        let before = pair.world.grant(GRANTOR, GREF);
        assert_eq!(
            pair.give(GrantTableOp::Flip, mfn, GREF, domid),
            (status(expected), mfn.raw())
        );
        assert_eq!(pair.world.grant(GRANTOR, GREF), before);
        assert_eq!(pair.owner(given), Some(USER));
    };
    for flags in [
        0,
        GTF_PERMIT_ACCESS,
        GTF_ACCEPT_TRANSFER,
        offer | GTF_TRANSFER_COMMITTED,
    ] {
        pair.grant_frame(flags, offered);
        refused(given, OWNER, GrantStatus::BadGntref);
    }
    pair.grant_frame(offer, offered);
    refused(given, DomId::new(9), GrantStatus::BadDomain);
    refused(pair.frame(GRANTEE, PAGE), OWNER, GrantStatus::BadPage);
    refused(offered, OWNER, GrantStatus::BadGntref);
    refused(Mfn::new(0).unwrap(), OWNER, GrantStatus::BadPage);
    // What is offered is in use, somebody else's, or no frame: each is found before anything else has happened.
    let table = pair.frame(GRANTOR, pair.info[GRANTOR].pt_base >> 12);
    for bad in [pair.frame(GRANTOR, OTHER), table, given, Mfn::new(0).unwrap()] {
        pair.grant_frame(offer, bad);
        refused(given, OWNER, GrantStatus::BadGntref);
    }
    // A device holds it.
    pair.grant(GTF_PERMIT_ACCESS);
    let mapped = pair.mapped(GNTMAP_DEVICE_MAP, 0);
    let entry = GrantEntry {
        flags: offer,
        domid: USER,
        frame: u32::try_from(offered.raw()).unwrap(),
    };
    pair.world.set_grant(GRANTOR, GREF + 1, entry);
    assert_eq!(
        pair.give(GrantTableOp::Flip, given, GREF + 1, OWNER).0,
        status(GrantStatus::BadGntref)
    );
    assert_eq!(pair.unmap(mapped.handle, 0, offered.maddr()), OKAY);
    assert_eq!(
        pair.give(GrantTableOp::Flip, given, GREF + 1, OWNER),
        (OKAY, offered.raw())
    );
}

#[test]
fn many_frames_are_flipped_with_one_flush() {
    let pair = Pair::new();
    let list = World::SCRATCH;
    for n in 0..20 {
        let (given, offered) = (pair.bare(GRANTEE, 700 + n), pair.bare(GRANTOR, 700 + n));
        let gref = 100 + u32::try_from(n).unwrap();
        let entry = GrantEntry {
            flags: GTF_ACCEPT_TRANSFER | GTF_FLIP,
            domid: USER,
            frame: u32::try_from(offered.raw()).unwrap(),
        };
        pair.world.set_grant(GRANTOR, gref, entry);
        let flip = Flip {
            mfn: given.raw(),
            domid: OWNER,
            gref,
            status: 99,
        };
        pair.world.write(GRANTEE, list + n * 24, &flip);
    }
    let flushes = pair.world.sim().flushes();
    let args = [u64::from(GrantTableOp::Flip.raw()), list, 20];
    assert_eq!(pair.world.call(GRANTEE, Hypercall::GrantTableOp, &args), Ok(0));
    assert_eq!(pair.world.sim().flushes() - flushes, 1);
    for n in 0..20 {
        assert_eq!(pair.world.read::<Flip>(GRANTEE, list + n * 24).status, OKAY);
    }
    pair.world.invariants();
}

#[test]
fn a_frame_is_transferred_to_who_has_room_and_accepts_it() {
    let pair = Pair::new();
    let transfer = |mfn: Mfn| pair.give(GrantTableOp::Transfer, mfn, GREF, OWNER).0;
    assert_eq!(transfer(pair.frame(GRANTEE, PAGE)), status(GrantStatus::BadPage));
    pair.grant_frame(GTF_ACCEPT_TRANSFER, Mfn::new(0).unwrap());
    let lost = pair.bare(GRANTEE, PAGE);
    assert_eq!(transfer(lost), status(GrantStatus::GeneralError), "no room");
    assert_eq!(
        pair.owner(lost),
        None,
        "the giver has lost it, as the ABI wants it"
    );
    // The receiver makes room.
    let gone = pair.bare(GRANTOR, PAGE);
    let reservation = bulkhead_abi::memory::MemoryReservation {
        extent_start: World::LIST,
        nr_extents: 1,
        extent_order: 0,
        mem_flags: 0,
        domid: DomId::SELF,
    };
    pair.world.write(GRANTOR, World::LIST, &gone.raw());
    pair.world.write(GRANTOR, World::SCRATCH, &reservation);
    let args = [
        u64::from(bulkhead_abi::memory::MemoryOp::DecreaseReservation.raw()),
        World::SCRATCH,
    ];
    assert_eq!(pair.world.call(GRANTOR, Hypercall::MemoryOp, &args), Ok(1));
    let given = pair.bare(GRANTEE, OTHER);
    pair.grant_frame(GTF_ACCEPT_TRANSFER | GTF_FLIP, gone);
    let wasted = pair.bare(GRANTEE, OTHER + 1);
    assert_eq!(
        transfer(wasted),
        status(GrantStatus::BadGntref),
        "that entry wants a flip"
    );
    pair.grant_frame(GTF_ACCEPT_TRANSFER, Mfn::new(0).unwrap());
    assert_eq!(transfer(given), OKAY);
    assert_eq!(pair.owner(given), Some(OWNER));
    let entry = pair.world.grant(GRANTOR, GREF);
    assert_eq!((entry.flags, u64::from(entry.frame)), (DONE, given.raw()));
    assert_eq!(
        transfer(given),
        status(GrantStatus::BadPage),
        "it is not the giver's any more"
    );
    let kept = pair.bare(GRANTEE, OTHER + 2);
    let nowhere = pair.give(GrantTableOp::Transfer, kept, GREF, DomId::new(9));
    assert_eq!(nowhere.0, status(GrantStatus::BadDomain));
    assert_eq!(pair.owner(kept), Some(USER));
}

#[test]
fn who_is_being_destroyed_takes_no_frames_and_loses_none_to_others() {
    let pair = Pair::new();
    let (given, offered) = (pair.bare(GRANTEE, OTHER), pair.bare(GRANTOR, PAGE));
    pair.grant_frame(GTF_ACCEPT_TRANSFER | GTF_FLIP, offered);
    let end = || pair.world.hv().destroy_domain(OWNER);
    // It leaves its CPU first, and what it has is taken from it then, in portions.
    assert_eq!(end(), Err(Errno::Restart));
    assert_eq!(pair.world.enter(GRANTOR), None);
    assert_eq!(end(), Err(Errno::Restart));
    loop {
        let (outcome, _) = pair.give(GrantTableOp::Flip, given, GREF, OWNER);
        assert!(
            [GrantStatus::BadGntref, GrantStatus::BadDomain]
                .map(status)
                .contains(&outcome),
            "{outcome}"
        );
        assert_eq!(pair.owner(given), Some(USER));
        let end = end();
        pair.world.invariants();
        if end.is_ok() {
            break;
        }
    }
    assert_eq!(pair.owner(offered), None);
}
