//! Pins, roots, flushes, pages cleared and copied: `mmuext_op`.

use bulkhead_abi::{
    DomId, Errno, Hypercall,
    mmu::{MmuExt, MmuExtOp},
    pte::ENTRIES,
};

use crate::{
    calls::{Answer, call, in_out, input},
    frames::{Frame, READ_ONLY, TABLE, WRITABLE},
    probe::{Direction, Probe},
    window::Window,
};

/// A frame number that no machine has.
const NO_FRAME: u64 = (1 << 40) - 1;

pub(crate) fn check(probe: &mut Probe, window: &Window) {
    lists(probe);
    pinned(probe, window);
    roots(probe, window);
    flushes(probe);
    pages(probe, window);
}

/// Makes one operation.
pub(crate) fn extended(op: MmuExtOp, arg1: u64, arg2: u64) -> Answer {
    let element = MmuExt {
        cmd: op.raw(),
        arg1,
        arg2,
    };
    list(input(&element), 1, 0, DomId::SELF.raw().into())
}

fn list(elements: u64, count: u64, done: u64, foreign: u64) -> Answer {
    call(Hypercall::MmuextOp, [elements, count, done, foreign])
}

/// Pins a frame as a table of a level.
pub(crate) fn pin(level: u32, mfn: u64) -> Answer {
    let op = match level {
        1 => MmuExtOp::PinL1Table,
        2 => MmuExtOp::PinL2Table,
        3 => MmuExtOp::PinL3Table,
        _ => MmuExtOp::PinL4Table,
    };
    extended(op, mfn, 0)
}

/// Takes the pin off.
pub(crate) fn unpin(mfn: u64) -> Answer {
    extended(MmuExtOp::UnpinTable, mfn, 0)
}

/// A table of each level, each leading to the one before.
pub(crate) fn tree() -> [Frame; 4] {
    let page = Frame::new();
    let level1 = Frame::table(&[page.entry(WRITABLE), page.entry(READ_ONLY)]);
    let level2 = Frame::table(&[level1.entry(TABLE)]);
    let level3 = Frame::table(&[level2.entry(TABLE)]);
    let level4 = Frame::table(&[level3.entry(TABLE)]);
    [level1, level2, level3, level4]
}

/// A level-4 table that shows what the running one does.
pub(crate) fn root(window: &Window) -> Frame {
    let root = Frame::new();
    for index in 0..ENTRIES {
        root.set(index, window.root_entry(index));
    }
    root.protect();
    root
}

fn lists(probe: &mut Probe) {
    let own = u64::from(DomId::SELF.raw());
    let flush = MmuExt {
        cmd: MmuExtOp::TlbFlushLocal.raw(),
        arg1: 0,
        arg2: 0,
    };
    let many = [flush; 300];
    let mut done = 0_u32;
    let made = list(input(&many), 300, in_out(&mut done), own);
    let result = if made == Ok(0) && done == 300 {
        Ok(())
    } else {
        Err((made, done))
    };
    probe.good("mmuext_op", result);
    probe.faults("mmuext_op", Direction::In, |at| list(at, 1, 0, own));
    probe.faults("mmuext_op", Direction::InOut, |done| {
        list(input(&many), 1, done, own)
    });
    let page = Frame::new();
    probe.refused("mmuext_op", Errno::Inval, pin(1, page.mfn()));
    let about = |dom: u64| list(input(&many), 1, 0, dom);
    if probe.is_control() {
        probe.all_refused("mmuext_op", Errno::Srch, &[about(77), about(78 << 16 | own)]);
    } else {
        probe.all_refused("mmuext_op", Errno::Perm, &[about(0), about(1 << 16 | own)]);
    }
}

fn pinned(probe: &mut Probe, window: &Window) {
    let ops = [
        ("mmuext_op.pin_l1_table", MmuExtOp::PinL1Table),
        ("mmuext_op.pin_l2_table", MmuExtOp::PinL2Table),
        ("mmuext_op.pin_l3_table", MmuExtOp::PinL3Table),
        ("mmuext_op.pin_l4_table", MmuExtOp::PinL4Table),
    ];
    let mut unpinned = [Ok(0); 4];
    for (level, (name, op)) in ops.into_iter().enumerate() {
        let tables = tree();
        let Some(table) = tables.get(level) else { continue };
        probe.good(name, extended(op, table.mfn(), 0));
        let mut bad = [
            // Pinned already; no frame; writable; somebody else's level; not made up for one.
            extended(op, table.mfn(), 0),
            extended(op, NO_FRAME, 0),
            extended(op, u64::MAX, 0),
            extended(op, Frame::new().mfn(), 0),
            extended(op, window.level2.mfn(), 0),
        ];
        if op == MmuExtOp::PinL2Table {
            // That table is of level 2: another will do.
            bad[4] = extended(op, window.level1.mfn(), 0);
        }
        probe.all_refused(name, Errno::Inval, &bad);
        if let Some(result) = unpinned.get_mut(level) {
            // What was a table can be written again at once.
            *result = unpin(table.mfn()).and_then(|_| table.remap(WRITABLE));
        }
    }
    let result = if unpinned == [Ok(0); 4] {
        Ok(())
    } else {
        Err(unpinned)
    };
    probe.good("mmuext_op.unpin_table", result);
    let bad = [
        unpin(window.level1.mfn()),
        unpin(Frame::new().mfn()),
        unpin(NO_FRAME),
        unpin(u64::MAX),
    ];
    probe.all_refused("mmuext_op.unpin_table", Errno::Inval, &bad);
}

fn roots(probe: &mut Probe, window: &Window) {
    let set = |mfn: u64| extended(MmuExtOp::NewBaseptr, mfn, 0);
    let first = window.root() >> 12;
    let root = root(window);
    let there = set(root.mfn());
    let again = set(root.mfn());
    // It runs on the new root, and so the new root cannot be written, pinned or not.
    let written = root.remap(WRITABLE);
    let pinned = pin(4, root.mfn()).and_then(|_| unpin(root.mfn()));
    let still = root.remap(WRITABLE);
    let back = set(first);
    let free = root.remap(WRITABLE);
    let all = [there, again, pinned, back, free];
    probe.good(
        "mmuext_op.new_baseptr",
        if all == [Ok(0); 5] { Ok(()) } else { Err(all) },
    );
    let invalid = crate::calls::refusal(Errno::Inval);
    let law = if [written, still] == [invalid; 2] {
        Ok(())
    } else {
        Err([written, still])
    };
    probe.law("a-table-in-use-cannot-be-written-when-its-pin-is-off", law);
    let bad = [
        set(NO_FRAME),
        set(u64::MAX),
        set(0),
        set(window.level3.mfn()),
        set(root.mfn()),
    ];
    probe.all_refused("mmuext_op.new_baseptr", Errno::Inval, &bad);

    let user = |mfn: u64| extended(MmuExtOp::NewUserBaseptr, mfn, 0);
    let [_one, _two, _three, four] = tree();
    let all = [user(four.mfn()), user(four.mfn()), user(0), four.remap(WRITABLE)];
    probe.good(
        "mmuext_op.new_user_baseptr",
        if all == [Ok(0); 4] { Ok(()) } else { Err(all) },
    );
    let bad = [
        user(NO_FRAME),
        user(u64::MAX),
        user(four.mfn()),
        user(window.level1.mfn()),
    ];
    probe.all_refused("mmuext_op.new_user_baseptr", Errno::Inval, &bad);
}

fn flushes(probe: &mut Probe) {
    let vcpus = [1_u64];
    let bitmap = input(&vcpus);
    let page = Window::address(0);
    for (name, op) in [
        ("mmuext_op.tlb_flush_local", MmuExtOp::TlbFlushLocal),
        ("mmuext_op.tlb_flush_multi", MmuExtOp::TlbFlushMulti),
        ("mmuext_op.tlb_flush_all", MmuExtOp::TlbFlushAll),
        ("mmuext_op.invlpg_local", MmuExtOp::InvlpgLocal),
        ("mmuext_op.invlpg_multi", MmuExtOp::InvlpgMulti),
        ("mmuext_op.invlpg_all", MmuExtOp::InvlpgAll),
    ] {
        // An address that no processor takes, or that is not the guest's, has nothing to forget.
        let answers = [page, 1 << 47, bulkhead_abi::layout::HYPERVISOR.start, u64::MAX]
            .map(|address| extended(op, address, bitmap));
        probe.good(
            name,
            if answers == [Ok(0); 4] {
                Ok(())
            } else {
                Err(answers)
            },
        );
    }
    for (name, op) in [
        ("mmuext_op.tlb_flush_multi", MmuExtOp::TlbFlushMulti),
        ("mmuext_op.invlpg_multi", MmuExtOp::InvlpgMulti),
    ] {
        probe.faults(name, Direction::In, |at| extended(op, page, at));
    }
    let flush = extended(MmuExtOp::FlushCache, 0, 0);
    probe.refused("mmuext_op.flush_cache", Errno::Acces, flush);
    let flush = extended(MmuExtOp::FlushCacheGlobal, 0, 0);
    probe.refused("mmuext_op.flush_cache_global", Errno::Perm, flush);
    let page = Frame::new();
    let mark = extended(MmuExtOp::MarkSuper, page.mfn(), 0);
    probe.refused("mmuext_op.mark_super", Errno::OpNotSupp, mark);
    let unmark = extended(MmuExtOp::UnmarkSuper, page.mfn(), 0);
    probe.refused("mmuext_op.unmark_super", Errno::OpNotSupp, unmark);
}

fn pages(probe: &mut Probe, window: &Window) {
    let frame = Frame::new();
    frame.set(3, 0x33);
    frame.set(511, 0x511);
    let copy = Frame::new();
    let copied = extended(MmuExtOp::CopyPage, copy.mfn(), frame.mfn());
    let found = (copied, copy.get(3), copy.get(511));
    probe.good(
        "mmuext_op.copy_page",
        if found == (Ok(0), 0x33, 0x511) {
            Ok(())
        } else {
            Err(found)
        },
    );
    let cleared = extended(MmuExtOp::ClearPage, frame.mfn(), 0);
    let found = (cleared, frame.get(3), frame.get(511));
    probe.good(
        "mmuext_op.clear_page",
        if found == (Ok(0), 0, 0) {
            Ok(())
        } else {
            Err(found)
        },
    );

    let clear = |mfn: u64| extended(MmuExtOp::ClearPage, mfn, 0);
    let bad = [
        clear(window.level1.mfn()),
        clear(NO_FRAME),
        clear(u64::MAX),
        clear(0),
    ];
    probe.all_refused("mmuext_op.clear_page", Errno::Inval, &bad);
    let copy = |to: u64, from: u64| extended(MmuExtOp::CopyPage, to, from);
    let bad = [
        copy(window.level1.mfn(), frame.mfn()),
        copy(NO_FRAME, frame.mfn()),
        copy(frame.mfn(), NO_FRAME),
        copy(frame.mfn(), u64::MAX),
        copy(frame.mfn(), 0),
    ];
    probe.all_refused("mmuext_op.copy_page", Errno::Inval, &bad);
}
