//! One entry of this domain's grant table, as the word of shared memory that it is.
//!
//! The hypervisor marks its use, by compare-exchange of the whole word; we write it so too, and see a use that begins at the same moment.
//! Source: the ABI's sections 10.1 and 10.2.

use core::sync::atomic::{AtomicU64, Ordering};

use bulkhead_abi::{
    Buffered, DomId, Record,
    grant::{
        GTF_ACCEPT_TRANSFER, GTF_FLIP, GTF_PERMIT_ACCESS, GTF_READING, GTF_READONLY, GTF_TRANSFER_COMMITTED,
        GTF_TRANSFER_COMPLETED, GTF_WRITING, GrantEntry,
    },
};

use super::Access;

/// Lets `domain` use a frame by an entry that nobody uses.
pub(super) fn permit(entry: &AtomicU64, domain: DomId, frame: u32, access: Access) {
    let kind = match access {
        Access::ReadOnly => GTF_PERMIT_ACCESS | GTF_READONLY,
        Access::ReadWrite => GTF_PERMIT_ACCESS,
    };
    let word = GrantEntry {
        flags: kind,
        domid: domain,
        frame,
    };
    // Release: who finds the grant finds what was written to the page before. The hypervisor reads all of the word at once.
    entry.store(u64::from_le_bytes(word.to_bytes()), Ordering::Release);
}

/// Whether somebody uses it now.
pub(super) fn is_in_use(entry: &AtomicU64) -> bool {
    is_marked(entry.load(Ordering::Acquire))
}

/// Ends the grant, unless it is in use. Says whether it has ended.
pub(super) fn revoke(entry: &AtomicU64) -> bool {
    // Acquire pairs with the Release by which the hypervisor takes its marks off: whatever was done by the grant is seen
    // in the page.
    entry
        .fetch_update(Ordering::AcqRel, Ordering::Acquire, |word| {
            (!is_marked(word)).then_some(0)
        })
        .is_ok()
}

/// What became of a frame that was offered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Offered {
    /// Nobody took it, and nobody will.
    Untouched,
    /// It is gone, and the domain has this frame instead.
    Exchanged(u32),
    /// That is being decided now.
    UnderWay,
}

/// Offers a frame to `domain` in exchange for one of its own, by an entry that nobody uses.
pub(super) fn offer(entry: &AtomicU64, domain: DomId, frame: u32) {
    let word = GrantEntry {
        flags: GTF_ACCEPT_TRANSFER | GTF_FLIP,
        domid: domain,
        frame,
    };
    // Release, as for a grant.
    entry.store(u64::from_le_bytes(word.to_bytes()), Ordering::Release);
}

/// Takes an offer back, unless it was taken. An entry that tells of an exchange stays as it is.
pub(super) fn withdraw(entry: &AtomicU64) -> Offered {
    const TAKEN: u16 = GTF_TRANSFER_COMMITTED | GTF_TRANSFER_COMPLETED;
    // Acquire pairs with the Release by which the hypervisor completes: what the giver wrote is seen in the frame that came.
    let withdrawn = entry.fetch_update(Ordering::AcqRel, Ordering::Acquire, |word| {
        (word & u64::from(TAKEN) == 0).then_some(0)
    });
    let Err(word) = withdrawn else {
        return Offered::Untouched;
    };
    match GrantEntry::read_from(&word.to_le_bytes()) {
        Some(GrantEntry { flags, frame, .. }) if flags & TAKEN == TAKEN => Offered::Exchanged(frame),
        _ => Offered::UnderWay,
    }
}

/// Makes an entry that nobody uses offer and grant nothing.
pub(super) fn clear(entry: &AtomicU64) {
    entry.store(0, Ordering::Release);
}

fn is_marked(word: u64) -> bool {
    word & u64::from(GTF_READING | GTF_WRITING) != 0
}

#[cfg(test)]
mod tests {
    use super::*;

    const PEER: DomId = DomId::new(7);

    fn granted(access: Access) -> AtomicU64 {
        let entry = AtomicU64::new(0);
        permit(&entry, PEER, 0x1234, access);
        entry
    }

    #[test]
    fn an_entry_says_who_may_use_which_frame_and_how() {
        assert_eq!(granted(Access::ReadWrite).into_inner(), 0x0000_1234_0007_0001);
        assert_eq!(granted(Access::ReadOnly).into_inner(), 0x0000_1234_0007_0005);
    }

    #[test]
    fn a_grant_ends_unless_somebody_uses_it() {
        for mark in [GTF_READING, GTF_READING | GTF_WRITING] {
            let entry = granted(Access::ReadWrite);
            assert!(!is_in_use(&entry));
            entry.fetch_or(mark.into(), Ordering::Relaxed);
            assert!(is_in_use(&entry) && !revoke(&entry));
            entry.fetch_and(!u64::from(mark), Ordering::Relaxed);
            assert!(!is_in_use(&entry) && revoke(&entry));
            assert_eq!(entry.into_inner(), 0, "it grants nothing any more");
        }
    }

    #[test]
    fn an_offer_is_withdrawn_until_it_is_taken_and_tells_what_came() {
        let entry = AtomicU64::new(0);
        offer(&entry, PEER, 0x1234);
        assert_eq!(entry.load(Ordering::Relaxed), 0x0000_1234_0007_8002);
        assert_eq!(withdraw(&entry), Offered::Untouched);
        assert_eq!(entry.load(Ordering::Relaxed), 0, "it offers nothing any more");
        offer(&entry, PEER, 0x1234);
        entry.fetch_or(GTF_TRANSFER_COMMITTED.into(), Ordering::Relaxed);
        assert_eq!(withdraw(&entry), Offered::UnderWay);
        entry.store(0x0000_5678_0007_800e, Ordering::Relaxed);
        assert_eq!(withdraw(&entry), Offered::Exchanged(0x5678));
        assert_eq!(withdraw(&entry), Offered::Exchanged(0x5678), "that stays known");
        clear(&entry);
        assert_eq!(withdraw(&entry), Offered::Untouched);
    }
}
