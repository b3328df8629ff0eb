//! One entry of a grant table, as the word of shared memory that it is: pure functions on what was read.
//!
//! An entry is one word of 8 bytes. The grantor may change it at any moment, by compare-exchange or without; the hypervisor changes it by
//! compare-exchange of the whole word, so that the frame it goes by is the one that stood beside the flags it checked.
//! Source: the guest ABI's sections 10.1 and 10.2.

use super::{GrantError, Rights};
use bulkhead_abi::DomId;
use bulkhead_abi::Record;
use bulkhead_abi::grant::{
    GTF_PERMIT_ACCESS, GTF_READING, GTF_READONLY, GTF_TYPE_MASK, GTF_WRITING, GrantEntry,
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
}
