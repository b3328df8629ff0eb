//! Frames that change hands, by `grant_table_op.transfer` and `.flip`: the domain gives them to itself, and to one that has no room.

use bulkhead_abi::{
    DomId, Record,
    grant::{
        Flip, GNTMAP_DEVICE_MAP, GTF_ACCEPT_TRANSFER, GTF_FLIP, GTF_PERMIT_ACCESS, GTF_TRANSFER_COMMITTED,
        GTF_TRANSFER_COMPLETED, GrantStatus, GrantTableOp,
    },
    layout,
    memory::MemoryOp,
};

use crate::{
    calls::{Answer, tidy},
    frames::{Frame, WRITABLE, show},
    grants::{BEYOND, Grants, NOBODY, OKAY, Outcome, UNUSED, ends, one, read, unmap},
    memory::reserve,
    pins::{pin, unpin},
    probe::Probe,
};

/// The entry that accepts and offers frames.
const GREF: u32 = 22;
/// What it accepts in exchange.
const OFFER: u16 = GTF_ACCEPT_TRANSFER | GTF_FLIP;
/// What it has when the frame is there.
const DONE: u16 = GTF_TRANSFER_COMMITTED | GTF_TRANSFER_COMPLETED;

pub(crate) fn check(probe: &mut Probe, grants: &Grants) {
    flip(probe, grants);
    flip_refusals(probe, grants);
    held(probe, grants);
    transfer(probe, grants);
    transfer_refusals(probe, grants);
}

/// Frames that are pinned as page tables, or held for a device, are not given, nor taken for others; they are when that is over.
fn held(probe: &mut Probe, grants: &Grants) {
    let (free, table, device) = (bare(4), Frame::table(&[]), bare(5));
    let flip = |given: &Frame, offered: &Frame| {
        grants.set(GREF, OFFER, grants.own, offered.mfn());
        give(GrantTableOp::Flip, given.mfn(), DomId::SELF, GREF)
    };
    let pinned = pin(1, table.mfn());
    let given_as_table = flip(&table, &free);
    let offered_as_table = flip(&free, &table);
    tidy([pinned, unpin(table.mfn())]);
    grants.set(UNUSED, GTF_PERMIT_ACCESS, grants.own, device.mfn());
    let (mapped, map) = grants.map_gref(UNUSED, DomId::SELF, GNTMAP_DEVICE_MAP, 0);
    let given_in_use = flip(&device, &free);
    let offered_in_use = flip(&free, &device);
    let unmapped = unmap(map.handle, 0, map.dev_bus_addr);
    let (done, _) = flip(&free, &device);
    grants.set(UNUSED, 0, grants.own, 0);
    let name = "grant_table_op.flip";
    ends(
        probe,
        name,
        GrantStatus::BadPage,
        &[given_as_table.0, given_in_use.0],
    );
    ends(
        probe,
        name,
        GrantStatus::BadGntref,
        &[offered_as_table.0, offered_in_use.0],
    );
    let shown = (seen(&device, &free), seen(&free, &device));
    let is_right = [mapped, unmapped, done] == [OKAY; 3] && shown == ((Ok(0), Some(4)), (Ok(0), Some(5)));
    let result = if is_right {
        Ok(())
    } else {
        Err((mapped, unmapped, done, shown))
    };
    probe.law("a-frame-that-is-held-is-not-flipped", result);
}

/// A frame that nothing refers to, with `word` at its start.
pub(crate) fn bare(word: u64) -> Frame {
    let frame = Frame::new();
    frame.set(0, word);
    tidy([show(frame.address(), 0)]);
    frame
}

/// Gives a frame away, and says which came for it.
fn give(op: GrantTableOp, mfn: u64, domid: DomId, gref: u32) -> (Outcome, u64) {
    // The records of both operations are alike.
    let mut record = Flip {
        mfn,
        domid,
        gref,
        ..Flip::ZERO
    };
    let answer = one(op, &mut record);
    ((answer, record.status), record.mfn)
}

/// The page number of a frame, as the hypervisor shows it.
fn number(frame: &Frame) -> Option<u64> {
    read(layout::M2P.start.wrapping_add(frame.mfn().wrapping_mul(8)))
}

/// What the page of one frame says when it shows another.
fn seen(page: &Frame, frame: &Frame) -> (Answer, Option<u64>) {
    let shown = show(page.address(), frame.entry(WRITABLE));
    (shown, read(page.address()))
}

fn flip(probe: &mut Probe, grants: &Grants) {
    let (given, offered) = (bare(0x6769_7665), bare(0x6f66_6665));
    grants.set(GREF, OFFER, grants.own, offered.mfn());
    let (outcome, came) = give(GrantTableOp::Flip, given.mfn(), DomId::SELF, GREF);
    let entry = grants.entry(GREF);
    let numbers = [number(&given), number(&offered)];
    let words = [seen(&offered, &given), seen(&given, &offered)];
    let is_right = (outcome, came) == (OKAY, offered.mfn())
        && (entry.flags, u64::from(entry.frame)) == (OFFER | DONE, given.mfn())
        && numbers == [Some(offered.pfn()), Some(given.pfn())]
        && words == [(Ok(0), Some(0x6769_7665)), (Ok(0), Some(0x6f66_6665))];
    let result = if is_right {
        Ok(())
    } else {
        Err((outcome, came, entry, numbers, words))
    };
    probe.good("grant_table_op.flip", result);
}

fn flip_refusals(probe: &mut Probe, grants: &Grants) {
    let name = "grant_table_op.flip";
    let (given, offered, in_use) = (bare(1), bare(2), Frame::new());
    let flip = |mfn: u64, domid: DomId, gref: u32| give(GrantTableOp::Flip, mfn, domid, gref).0;
    let offer = |flags: u16, domid: DomId, frame: u64| {
        grants.set(GREF, flags, domid, frame);
        flip(given.mfn(), DomId::SELF, GREF)
    };
    let bad = [
        offer(0, grants.own, offered.mfn()),
        offer(GTF_PERMIT_ACCESS, grants.own, offered.mfn()),
        offer(GTF_ACCEPT_TRANSFER, grants.own, offered.mfn()),
        offer(OFFER | GTF_TRANSFER_COMMITTED, grants.own, offered.mfn()),
        offer(OFFER | DONE, grants.own, offered.mfn()),
        offer(OFFER, NOBODY, offered.mfn()),
        offer(OFFER, grants.own, in_use.mfn()),
        // The frame itself, and two that are nobody's to give.
        offer(OFFER, grants.own, given.mfn()),
        offer(OFFER, grants.own, 0),
        offer(OFFER, grants.own, u64::from(u32::MAX)),
        flip(given.mfn(), DomId::SELF, BEYOND),
    ];
    ends(probe, name, GrantStatus::BadGntref, &bad);
    grants.set(GREF, OFFER, grants.own, offered.mfn());
    let bad = [in_use.mfn(), 0, u64::MAX].map(|mfn| flip(mfn, DomId::SELF, GREF));
    ends(probe, name, GrantStatus::BadPage, &bad);
    let bad = [NOBODY, DomId::IO, DomId::INVALID].map(|domid| flip(given.mfn(), domid, GREF));
    ends(probe, name, GrantStatus::BadDomain, &bad);
    let left = (
        grants.entry(GREF).flags,
        seen(&given, &given),
        seen(&offered, &offered),
    );
    let is_right = left == (OFFER, (Ok(0), Some(1)), (Ok(0), Some(2)));
    probe.law(
        "a-flip-that-is-refused-changes-nothing",
        if is_right { Ok(()) } else { Err(left) },
    );
}

fn transfer(probe: &mut Probe, grants: &Grants) {
    let given = bare(0x6769_7665);
    grants.set(GREF, GTF_ACCEPT_TRANSFER, grants.own, 0);
    let (outcome, _) = give(GrantTableOp::Transfer, given.mfn(), DomId::SELF, GREF);
    let entry = grants.entry(GREF);
    let word = seen(&given, &given);
    let is_right = outcome == OKAY
        && (entry.flags, u64::from(entry.frame)) == (GTF_ACCEPT_TRANSFER | DONE, given.mfn())
        && word == (Ok(0), Some(0x6769_7665));
    let result = if is_right {
        Ok(())
    } else {
        Err((outcome, entry, word))
    };
    probe.good("grant_table_op.transfer", result);
}

/// Transfers a frame that is lost by that, takes another in its place, and says what came of the transfer.
fn lose(probe: &mut Probe, domid: DomId, gref: u32) -> Outcome {
    let frame = bare(0);
    let (outcome, _) = give(GrantTableOp::Transfer, frame.mfn(), domid, gref);
    let shown = show(frame.address(), frame.entry(WRITABLE));
    let taken = reserve(MemoryOp::PopulatePhysmap, &mut [frame.pfn()], 0);
    let is_right = shown.is_err() && taken == Ok(1);
    let result = if is_right { Ok(()) } else { Err((shown, taken)) };
    probe.law("a-frame-that-nobody-accepts-is-lost", result);
    outcome
}

fn transfer_refusals(probe: &mut Probe, grants: &Grants) {
    let name = "grant_table_op.transfer";
    grants.set(GREF, OFFER, grants.own, 0);
    grants.set(UNUSED, 0, grants.own, 0);
    let bad = [GREF, UNUSED, BEYOND].map(|gref| lose(probe, DomId::SELF, gref));
    ends(probe, name, GrantStatus::BadGntref, &bad);
    grants.set(GREF, GTF_ACCEPT_TRANSFER, grants.own, 0);
    let transfer = |mfn: u64, domid: DomId| give(GrantTableOp::Transfer, mfn, domid, GREF).0;
    let in_use = Frame::new();
    let bad = [in_use.mfn(), 0, u64::MAX].map(|mfn| transfer(mfn, DomId::SELF));
    ends(probe, name, GrantStatus::BadPage, &bad);
    let kept = bare(3);
    let bad = [NOBODY, DomId::IO, DomId::INVALID].map(|domid| transfer(kept.mfn(), domid));
    ends(probe, name, GrantStatus::BadDomain, &bad);
    let left = (grants.entry(GREF).flags, seen(&kept, &kept));
    let is_right = left == (GTF_ACCEPT_TRANSFER, (Ok(0), Some(3)));
    probe.law(
        "a-frame-that-is-refused-is-kept",
        if is_right { Ok(()) } else { Err(left) },
    );
}

/// Gives a frame to a domain that has all that it may have.
pub(crate) fn to_the_full(probe: &mut Probe, domain: DomId) {
    let outcome = lose(probe, domain, GREF);
    ends(
        probe,
        "grant_table_op.transfer",
        GrantStatus::GeneralError,
        &[outcome],
    );
}
