//! No guest entry reaches the hypervisor, another domain's frame without a grant, or a device that is not its domain's, and no page table
//! is writable.
//!
//! The second law follows from the counts, if each entry that allows writes is counted as a use as writable memory: here
//! it is.

use super::counts::Recount;
use super::devices;
use crate::frames::{Kind, Mfn};
use crate::hypervisor::Hypervisor;
use crate::machine::Machine;
use crate::paging::entry::{self, Level, is_present, is_writable};
use crate::sync::Ordering;
use crate::testing::Sim;
use bulkhead_abi::{layout, pte};

/// Checks the first `entries` entries of a table, which have been validated, and counts what they lead to.
pub(super) fn check_table(hv: &Hypervisor<Sim>, table: Mfn, entries: usize, count: &mut Recount) {
    let frames = hv.memory.frames();
    let owner = frames.refs(table).unwrap().owner();
    let level = Level::of(frames.typing(table).unwrap().kind()).unwrap();
    for (index, word) in hv.machine().frame(table).iter().enumerate().take(entries) {
        let entry = word.load(Ordering::Relaxed);
        if level == Level::L4 && layout::HYPERVISOR_L4_SLOTS.contains(&index) {
            let slot = hv.machine().hypervisor_slot(index);
            assert_eq!(entry, slot, "slot {index} of {table:?}");
            continue;
        }
        if !is_present(entry) {
            continue;
        }
        let place = (level, table, index, entry);
        let target = entry::frame(entry);
        let is_device = !hv.machine().is_ram(target);
        // How it is cached is the affair of who owns a device, and of RAM nobody's.
        let caching = if is_device { entry & pte::CACHE_MASK } else { 0 };
        assert_eq!(
            entry::adjust(level, entry & !caching),
            Ok(entry & !caching),
            "flags that no guest may have: {place:x?}"
        );
        if is_device {
            assert!(
                level == Level::L1 && devices::may_reach(hv, owner, target),
                "an entry of {owner} leads to what is no RAM: {place:x?}"
            );
            continue;
        }
        let refs = frames.refs(target);
        assert!(
            refs.is_some_and(|refs| refs.count() != 0 && (refs.owner() == owner || level == Level::L1)),
            "an entry of {owner} leads to {refs:?}: {place:x?}"
        );
        if refs.is_some_and(|refs| refs.owner() != owner) {
            count.lend((owner, target, is_writable(entry)));
        }
        match level.child() {
            Some(kind) => count.hold_as(target, kind),
            None if is_writable(entry) => count.hold_as(target, Kind::Writable),
            None => count.hold(target),
        }
    }
}
