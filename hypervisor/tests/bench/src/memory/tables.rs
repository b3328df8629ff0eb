//! Whole tables: validated when they are pinned, given up when they are unpinned; and the change from one address space to another.

use alloc::vec::Vec;
use bulkhead_abi::layout::HYPERVISOR_L4_SLOTS;
use bulkhead_abi::mmu::MmuExtOp;
use bulkhead_abi::pte::{self, ENTRIES};
use bulkhead_runtime::memory::{Pfn, machine_frame};
use bulkhead_runtime::trap::probe_read;

use super::calls::extended;
use super::frames::{Frame, READ_ONLY, TABLE, WRITABLE};
use super::must;
use crate::measure::{Half, measure, measure_turns};

/// Pins and unpins of a level-1 table in a run.
const TURNS: u64 = 50;
/// Level-1 tables in the tree.
const LEAVES: usize = 16;
/// Pins and unpins of the tree in a run.
const TREE_TURNS: u64 = 5;

/// Measures them all. `root` is the level-4 table that the domain runs on.
pub(super) fn measure_all(root: Pfn) {
    let frames = Frame::several(ENTRIES);
    for (names, flags) in [
        (["pin-l1-writable", "unpin-l1-writable"], WRITABLE),
        (["pin-l1-read-only", "unpin-l1-read-only"], READ_ONLY),
    ] {
        let table = leaf(&frames, flags);
        pin_and_unpin(names, TURNS, MmuExtOp::PinL1Table, &table, || ());
    }
    tree(&frames);
    switch(root);
}

/// A full level-1 table.
fn leaf(frames: &[Frame], flags: u64) -> Frame {
    Frame::table(frames.iter().map(|frame| frame.entry(flags)))
}

/// A level-4 table over [`LEAVES`] full level-1 tables.
///
/// The hypervisor need not take a whole tree apart at its unpin: what is left, it does when the tables are wanted back. So an unpin
/// counts here until each page can be written again; and then read-only for the next pin, which is little beside it.
fn tree(frames: &[Frame]) {
    let leaves: Vec<Frame> = (0..LEAVES).map(|_| leaf(frames, WRITABLE)).collect();
    let level2 = Frame::table(leaves.iter().map(|leaf| leaf.entry(TABLE)));
    let level3 = Frame::table([level2.entry(TABLE)]);
    let level4 = Frame::table([level3.entry(TABLE)]);
    pin_and_unpin(
        ["pin-tree-of-16-l1", "unpin-tree-of-16-l1"],
        TREE_TURNS,
        MmuExtOp::PinL4Table,
        &level4,
        || {
            for table in [&level4, &level3, &level2].into_iter().chain(&leaves) {
                table.remap(table.entry(WRITABLE));
                table.remap(table.entry(READ_ONLY));
            }
        },
    );
}

/// Measures the pin of a table, and its unpin with what `reclaim` does after it.
fn pin_and_unpin(
    [pin, unpin]: [&str; 2],
    turns: u64,
    op: MmuExtOp,
    table: &Frame,
    mut reclaim: impl FnMut(),
) {
    let mfn = table.mfn();
    measure_turns(
        turns,
        1,
        Half {
            name: pin,
            operation: || {
                must(extended(op, mfn));
            },
        },
        Half {
            name: unpin,
            operation: || {
                must(extended(MmuExtOp::UnpinTable, mfn));
                reclaim();
            },
        },
    );
    // Had an unpin left the table's type behind, its page could not become writable.
    table.remap(table.entry(WRITABLE));
}

/// There and back between the domain's address space and a copy of it.
fn switch(root: Pfn) {
    let Some(own) = machine_frame(root) else {
        panic!("the level-4 table has no number");
    };
    let entry =
        |index: usize| match probe_read(root.address().wrapping_add(index.wrapping_mul(pte::ENTRY_SIZE))) {
            Ok(_) if HYPERVISOR_L4_SLOTS.contains(&index) => 0,
            Ok(entry) => entry,
            Err(fault) => panic!("the level-4 table cannot be read: {fault:?}"),
        };
    let copy = Frame::table((0..ENTRIES).map(entry));
    must(extended(MmuExtOp::PinL4Table, copy.mfn()));
    let mut roots = [own.raw(), copy.mfn()];
    measure("switch-address-space", || {
        roots.reverse();
        let [next, _] = roots;
        must(extended(MmuExtOp::NewBaseptr, next));
    });
    must(extended(MmuExtOp::NewBaseptr, own.raw()));
    must(extended(MmuExtOp::UnpinTable, copy.mfn()));
    // Were it still in use, its page could not become writable.
    copy.remap(copy.entry(WRITABLE));
}
