//! Checks the laws of [`memory`](super) on the page tables in force, entry by entry, once the boot has made them.
//!
//! What builds the tables and what checks them share only the table walk's format, so that a mistake in one is
//! seen by the other.

use core::fmt;
use core::sync::atomic::Ordering;

use bulkhead_machine::layout::{DIRECT_MAP, FIRST_SLOT, LAST_SLOT, M2P_RO, PAGE_SHIFT, slot};
use x86_64::structures::paging::PageTableFlags as Flags;

use super::image;
use super::page_table::{ADDRESS_MASK, Table};

/// A law that an entry breaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Violation {
    /// The first address that the entry maps.
    address: u64,
    /// The entry.
    entry: u64,
    /// What is wrong with it.
    law: &'static str,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { address, entry, law } = self;
        write!(f, "page-table entry {entry:#x} for {address:#x}: {law}")
    }
}

/// Walks all that `l4` maps, and returns how many leaf entries there are.
///
/// # Errors
///
/// The first entry that breaks a law.
pub(super) fn check(l4: Table) -> Result<u64, Violation> {
    walk(l4, 4, 0)
}

/// Walks a table of level `level` whose first entry maps `base`.
fn walk(table: Table, level: u32, base: u64) -> Result<u64, Violation> {
    let mut leaves = 0_u64;
    for (index, entry) in (0_u64..).zip(table.entries()) {
        let entry = entry.load(Ordering::Relaxed);
        let address = extend_sign(base | index << (level.saturating_mul(9).saturating_add(3)));
        let flags = Flags::from_bits_retain(entry);
        let violation = |law| Err(Violation { address, entry, law });
        if entry == 0 {
            continue;
        }
        if !(FIRST_SLOT..=LAST_SLOT).contains(&slot(address)) {
            return violation("it is outside the hypervisor's slots");
        }
        if level > 1 && !flags.contains(Flags::HUGE_PAGE) {
            if flags.contains(Flags::USER_ACCESSIBLE) && slot(address) != slot(M2P_RO) {
                return violation("ring 3 has a way below it");
            }
            let below = Table::of_entry(entry);
            leaves = leaves.saturating_add(walk(below, level.saturating_sub(1), address)?);
            continue;
        }
        if let Some(law) = broken_law(address, entry, level) {
            return violation(law);
        }
        leaves = leaves.saturating_add(1);
    }
    Ok(leaves)
}

/// The law that the leaf `entry` at `address` breaks, if it does.
fn broken_law(address: u64, entry: u64, level: u32) -> Option<&'static str> {
    let flags = Flags::from_bits_retain(entry);
    let frame = (entry & ADDRESS_MASK) >> PAGE_SHIFT;
    let frames = frame..frame.saturating_add(1 << (level.saturating_sub(1).saturating_mul(9)));
    let writable = flags.contains(Flags::WRITABLE);
    let executable = !flags.contains(Flags::NO_EXECUTE);
    let constant = [image::text(), image::rodata()]
        .iter()
        .map(image::frames)
        .any(|kept| kept.start < frames.end && frames.start < kept.end);

    if !flags.contains(Flags::PRESENT) {
        Some("it is neither empty nor present")
    } else if flags.contains(Flags::GLOBAL) {
        Some("it is global")
    } else if executable && !image::text().contains(&address) {
        Some("it makes something but code executable")
    } else if writable && executable {
        Some("it is both writable and executable")
    } else if writable && constant {
        Some("it makes code or constants writable")
    } else if flags.contains(Flags::USER_ACCESSIBLE) && (slot(address) != slot(M2P_RO) || writable) {
        Some("ring 3 gets at it")
    } else if slot(address) >= slot(DIRECT_MAP) && address != DIRECT_MAP | frame << PAGE_SHIFT {
        Some("the direct map shows another frame there")
    } else {
        None
    }
}

/// Makes a 48-bit address canonical.
const fn extend_sign(address: u64) -> u64 {
    if address & 1 << 47 == 0 {
        address
    } else {
        address | 0xffff_0000_0000_0000
    }
}
