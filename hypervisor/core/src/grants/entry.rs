//! One entry of a grant table, as the word of shared memory that it is: pure functions on what was read.
//!
//! An entry is one word of 8 bytes. The grantor may change it at any moment, by compare-exchange or without; the hypervisor changes it by
//! compare-exchange of the whole word, so that the frame it goes by is the one that stood beside the flags it checked.
//! Source: the guest ABI's sections 10.1 and 10.2.

use super::{GrantError, Rights};
use bulkhead_abi::DomId;
use bulkhead_abi::Record;
use bulkhead_abi::grant::{
    GTF_ACCEPT_TRANSFER, GTF_FLIP, GTF_PERMIT_ACCESS, GTF_READING, GTF_READONLY, GTF_TRANSFER_COMMITTED,
    GTF_TRANSFER_COMPLETED, GTF_TYPE_MASK, GTF_WRITING, GrantEntry,
};

/// Reads an entry.
pub(super) fn decode(word: u64) -> GrantEntry {
    GrantEntry::read_from(&word.to_le_bytes()).unwrap_or(GrantEntry::ZERO)
}

/// The word that `entry` is.
#[cfg(test)]
fn encode(entry: GrantEntry) -> u64 {
    u64::from_le_bytes(bulkhead_abi::Buffered::to_bytes(&entry))
}

/// The bits that tell the grantor of a use.
pub(super) const fn marks(rights: Rights) -> u16 {
    match rights {
        Rights::ReadOnly => GTF_READING,
        Rights::ReadWrite => GTF_READING | GTF_WRITING,
    }
}

/// What an entry becomes when `user` begins to use the frame.
///
/// # Errors
///
/// [`GrantError::NotGranted`].
pub(super) fn begin_use(word: u64, user: DomId, rights: Rights) -> Result<u64, GrantError> {
    let GrantEntry { flags, domid, .. } = decode(word);
    let is_for_reading = flags & GTF_READONLY != 0;
    if flags & GTF_TYPE_MASK != GTF_PERMIT_ACCESS
        || domid != user && !mutant!(GrantedToAnyone)
        || rights == Rights::ReadWrite && is_for_reading && !mutant!(WrittenThroughReadOnlyGrant)
    {
        return Err(GrantError::NotGranted);
    }
    Ok(word | u64::from(marks(rights)))
}

/// How a frame changes hands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Handover {
    /// For nothing.
    Transfer,
    /// For the frame that the entry names.
    Flip,
}

/// The flags that say what an entry accepts, and how far that has come.
const HANDOVER: u16 = GTF_TYPE_MASK | GTF_FLIP | GTF_TRANSFER_COMMITTED | GTF_TRANSFER_COMPLETED;

impl Handover {
    /// What [`HANDOVER`] must be for a frame to be accepted like this.
    const fn flags(self) -> u16 {
        match self {
            Self::Transfer => GTF_ACCEPT_TRANSFER,
            Self::Flip => GTF_ACCEPT_TRANSFER | GTF_FLIP,
        }
    }
}

/// What an entry becomes when `giver` commits a frame to it.
///
/// # Errors
///
/// [`GrantError::NotOffered`].
pub(super) fn commit(word: u64, giver: DomId, handover: Handover) -> Result<u64, GrantError> {
    let GrantEntry { flags, domid, .. } = decode(word);
    if flags & HANDOVER != handover.flags() || domid != giver {
        return Err(GrantError::NotOffered);
    }
    Ok(word | u64::from(GTF_TRANSFER_COMMITTED))
}

/// Whether a frame is committed to an entry. If it is not, its owner has written over it since.
fn is_committed(word: u64) -> bool {
    let progress = decode(word).flags & HANDOVER & !GTF_FLIP;
    progress == GTF_ACCEPT_TRANSFER | GTF_TRANSFER_COMMITTED
}

/// What a committed entry becomes when nothing comes of it; `None` if it is not committed any more.
pub(super) fn uncommit(word: u64) -> Option<u64> {
    is_committed(word).then_some(word & !u64::from(GTF_TRANSFER_COMMITTED))
}

/// What a committed entry becomes when the frame is there; `None` if it is not committed any more.
pub(super) fn complete(word: u64, frame: u32) -> Option<u64> {
    let flags = word & 0xffff_ffff | u64::from(GTF_TRANSFER_COMPLETED);
    is_committed(word).then_some(flags | u64::from(frame) << 32)
}

#[cfg(test)]
mod tests {
    use super::*;

    const USER: DomId = DomId::new(7);

    fn granted(flags: u16) -> u64 {
        encode(GrantEntry {
            flags,
            domid: USER,
            frame: 0x1234,
        })
    }

    #[test]
    fn an_entry_is_a_word_with_its_flags_lowest() {
        assert_eq!(granted(GTF_PERMIT_ACCESS), 0x0000_1234_0007_0001);
        assert_eq!(encode(decode(0x1122_3344_5566_7788)), 0x1122_3344_5566_7788);
    }

    #[test]
    fn use_is_marked_and_nothing_else_changes() {
        let entry = granted(GTF_PERMIT_ACCESS);
        assert_eq!(begin_use(entry, USER, Rights::ReadOnly), Ok(entry | 0x08));
        assert_eq!(begin_use(entry, USER, Rights::ReadWrite), Ok(entry | 0x18));
        assert_eq!(
            begin_use(entry | 0x08, USER, Rights::ReadWrite),
            Ok(entry | 0x18),
            "a reader comes to write"
        );
    }

    #[test]
    fn a_grant_for_reading_is_not_written_through() {
        let entry = granted(GTF_PERMIT_ACCESS | GTF_READONLY);
        assert_eq!(begin_use(entry, USER, Rights::ReadOnly), Ok(entry | 0x08));
        assert_eq!(
            begin_use(entry, USER, Rights::ReadWrite),
            Err(GrantError::NotGranted)
        );
    }

    #[test]
    fn only_whom_it_names_may_use_a_grant_and_only_of_its_type() {
        let entry = granted(GTF_PERMIT_ACCESS);
        assert_eq!(
            begin_use(entry, DomId::new(8), Rights::ReadOnly),
            Err(GrantError::NotGranted)
        );
        for other_type in [0, 2, 3] {
            assert_eq!(
                begin_use(granted(other_type), USER, Rights::ReadOnly),
                Err(GrantError::NotGranted)
            );
        }
    }

    #[test]
    fn a_frame_is_committed_to_an_entry_once_and_only_as_it_is_accepted() {
        let accepts = granted(GTF_ACCEPT_TRANSFER);
        let offers = granted(GTF_ACCEPT_TRANSFER | GTF_FLIP);
        for (entry, handover, other) in [
            (accepts, Handover::Transfer, Handover::Flip),
            (offers, Handover::Flip, Handover::Transfer),
        ] {
            let committed = commit(entry, USER, handover).unwrap();
            assert_eq!(committed, entry | 4);
            assert_eq!(commit(entry, USER, other), Err(GrantError::NotOffered));
            assert_eq!(
                commit(entry, DomId::new(8), handover),
                Err(GrantError::NotOffered)
            );
            assert_eq!(commit(committed, USER, handover), Err(GrantError::NotOffered));
            assert_eq!(uncommit(committed), Some(entry));
            let completed = complete(committed, 0x77).unwrap();
            assert_eq!(decode(completed).frame, 0x77);
            assert_eq!(completed & 0xffff_ffff, (entry | 0xc) & 0xffff_ffff);
            assert_eq!(commit(completed, USER, handover), Err(GrantError::NotOffered));
        }
    }

    #[test]
    fn an_entry_that_its_owner_wrote_over_is_left_alone() {
        for entry in [
            0,
            granted(GTF_PERMIT_ACCESS),
            granted(GTF_PERMIT_ACCESS | 4),
            granted(GTF_ACCEPT_TRANSFER),
        ] {
            assert_eq!(complete(entry, 1), None);
            assert_eq!(uncommit(entry), None);
        }
    }
}
