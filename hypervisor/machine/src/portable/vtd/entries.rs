//! Entries of the root table, which has one for each bus, and of context tables, which have one for each function of a bus.
//!
//! Both have two words. All zeros is "not present": DMA of the function is blocked, and reported as a fault.
//!
//! Source: the specification, sections 9.1 (root entry) and 9.3 (context entry).

use bulkhead_core::frames::Mfn;

use super::capabilities::Depth;

/// Bit 0 of every entry that is in force.
const PRESENT: u64 = 1 << 0;
/// Context entry: faults of this function are not reported. It counts in entries that are not present, too.
const UNREPORTED: u64 = 1 << 1;

/// Words of an entry.
pub const WORDS: usize = 2;

/// A root entry: functions of this bus have their entries in `table`.
#[must_use]
pub const fn root(table: Mfn) -> [u64; WORDS] {
    [table.maddr() | PRESENT, 0]
}

/// A context entry: the function walks the tree with the root `root`, which the unit knows by the number `tag`. Only
/// addresses that are to be translated are accepted from it.
#[must_use]
pub const fn context(root: Mfn, depth: Depth, tag: u16) -> [u64; WORDS] {
    [root.maddr() | PRESENT, (tag as u64) << 8 | depth.code()]
}

/// A context entry: all DMA of the function is blocked, and reported.
pub const BLOCKED: [u64; WORDS] = [0, 0];

/// The same entry of a function, blocked or not, whose faults are no longer reported.
#[must_use]
pub const fn unreported([low, high]: [u64; WORDS]) -> [u64; WORDS] {
    [low | UNREPORTED, high]
}

/// The number of the tree that a context entry lets its function walk, if it does.
#[must_use]
#[expect(clippy::cast_possible_truncation, reason = "the tag has 16 bits")]
pub const fn tag([low, high]: [u64; WORDS]) -> Option<u16> {
    if low & PRESENT == 0 {
        None
    } else {
        Some((high >> 8) as u16)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_have_the_bits_of_the_specification() {
        let frame = Mfn::from_u32(0x12345);
        assert_eq!(root(frame), [0x1234_5001, 0]);
        assert_eq!(context(frame, Depth::Three, 0xabcd), [0x1234_5001, 0xab_cd01]);
        assert_eq!(context(frame, Depth::Four, 1), [0x1234_5001, 0x102]);
        assert_eq!(unreported(BLOCKED), [2, 0]);
    }

    #[test]
    fn a_function_that_is_not_reported_keeps_its_tree() {
        let entry = context(Mfn::from_u32(1), Depth::Four, 7);
        assert_eq!(unreported(entry), [0x1003, 0x702]);
        assert_eq!(tag(unreported(entry)), Some(7));
        assert_eq!(tag(unreported(BLOCKED)), None);
    }
}
