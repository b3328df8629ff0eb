//! The laws of page types, route by route.

use bulkhead_abi::{Errno, mmu::MmuExtOp, pte};

use crate::{
    calls::{Answer, refusal, tidy},
    frames::{Frame, READ_ONLY, TABLE, WRITABLE, show},
    pins::{self, extended, pin, unpin},
    probe::Probe,
    window::{EMPTY_SLOT, Window, update},
};

pub(crate) fn check(probe: &mut Probe, window: &mut Window) {
    tables_are_never_writable(probe, window);
    bad_entries(probe, window);
    shapes(probe, window);
}

/// All must be refused as invalid.
fn all_invalid<const N: usize>(answers: [Answer; N]) -> Result<(), [Answer; N]> {
    if answers == [refusal(Errno::Inval); N] {
        Ok(())
    } else {
        Err(answers)
    }
}

/// All must succeed.
fn all_good<const N: usize>(answers: [Answer; N]) -> Result<(), [Answer; N]> {
    if answers.iter().all(Result::is_ok) {
        Ok(())
    } else {
        Err(answers)
    }
}

fn tables_are_never_writable(probe: &mut Probe, window: &mut Window) {
    let index = window.skip();
    let (slot, address) = (window.level1.word_maddr(index), Window::address(index));
    let tables = pins::tree();
    let [level1, level2, level3, level4] = &tables;
    let hung = pin(4, level4.mfn());
    let routes = tables.each_ref().map(|table| {
        let new_table = Frame::table(&[table.entry(WRITABLE)]);
        let itself = Frame::new();
        itself.set(0, table.entry(WRITABLE));
        let answers = [
            table.remap(WRITABLE),
            show(address, table.entry(WRITABLE)),
            update(slot, table.entry(WRITABLE)),
            pin(1, new_table.mfn()),
            update(window.level2.word_maddr(2), new_table.entry(TABLE)),
            extended(MmuExtOp::ClearPage, table.mfn(), 0),
            extended(MmuExtOp::CopyPage, table.mfn(), itself.mfn()),
        ];
        // The hypervisor makes some stores to tables in the guest's place; not this one.
        let is_written = table.try_set(9, table.entry(WRITABLE));
        (all_invalid(answers), is_written, table.get(9))
    });
    let is_kept = routes.iter().all(|route| *route == (Ok(()), false, 0));
    probe.law(
        "a-page-table-cannot-be-written-by-any-route",
        if is_kept && hung == Ok(0) {
            Ok(())
        } else {
            Err(routes)
        },
    );
    let own = Frame::new();
    own.set(0, own.entry(WRITABLE));
    own.protect();
    probe.law(
        "a-table-cannot-show-itself-writable",
        all_invalid([pin(1, own.mfn())]),
    );
    own.remap(WRITABLE).ok();
    own.set(0, own.entry(READ_ONLY));
    own.protect();
    probe.law(
        "a-table-may-show-itself-read-only",
        all_good([pin(1, own.mfn()), unpin(own.mfn())]),
    );
    probe.law(
        "a-writable-page-cannot-become-a-table",
        all_invalid([1, 2, 3, 4].map(|level| pin(level, Frame::new().mfn()))),
    );
    // One right to write is enough, wherever it is.
    let shown = Frame::table(&[]);
    let before = update(slot, shown.entry(WRITABLE));
    let pinned = pin(1, shown.mfn());
    let after = update(slot, shown.entry(READ_ONLY)).and_then(|_| pin(1, shown.mfn()));
    probe.law(
        "a-page-becomes-a-table-when-its-last-right-to-write-goes",
        all_invalid([pinned]).and(all_good([before]).and(all_good([after]))),
    );
    probe.law(
        "a-table-has-one-level-at-a-time",
        all_invalid([
            pin(2, level1.mfn()),
            pin(1, level2.mfn()),
            pin(4, level3.mfn()),
            pin(3, level4.mfn()),
        ]),
    );
    let unpinned = unpin(level4.mfn());
    let down = tables.each_ref().map(|table| table.remap(WRITABLE));
    probe.law(
        "a-tree-that-is-unpinned-can-be-written",
        all_good([unpinned]).and(all_good(down).map_err(|_| [unpinned])),
    );
    tidy([update(slot, 0)]);
}

fn bad_entries(probe: &mut Probe, window: &mut Window) {
    let frame = Frame::table(&[]);
    let page = |flags: u64| update(window.level1.word_maddr(3), frame.entry(flags));
    let superpage = |table: &Frame| update(table.word_maddr(3), frame.entry(TABLE | pte::PAGE_SIZE_BIT));
    probe.law(
        "no-superpage-is-accepted",
        all_invalid([
            superpage(&window.level2),
            superpage(&window.level3),
            update(
                window.root_word(EMPTY_SLOT),
                frame.entry(TABLE | pte::PAGE_SIZE_BIT),
            ),
        ]),
    );
    probe.law(
        "cacheability-is-not-the-guests",
        all_invalid(
            [pte::WRITE_THROUGH, pte::CACHE_DISABLE, pte::PAT, pte::CACHE_MASK]
                .map(|bits| page(READ_ONLY | bits)),
        ),
    );
    probe.law(
        "no-reserved-address-bit-is-accepted",
        all_invalid([47, 48, 50, 51].map(|bit| page(READ_ONLY | 1 << bit))),
    );
    // The local APIC, the I/O APIC, and the last page below 4 GiB.
    let devices = [0xfee0_0000_u64, 0xfec0_0000, 0xffff_f000]
        .map(|maddr| update(window.level1.word_maddr(3), maddr | WRITABLE));
    probe.law("no-device-can-be-mapped", all_invalid(devices));
    let entry = window.level3.entry(TABLE);
    let slots = (256..=271).map(|slot| update(window.root_word(slot), entry));
    let cleared = (256..=271).map(|slot| update(window.root_word(slot), 0));
    let wrong: alloc::vec::Vec<_> = slots
        .chain(cleared)
        .filter(|answer| *answer != refusal(Errno::Inval))
        .collect();
    probe.law(
        "the-hypervisors-slots-cannot-be-changed",
        if wrong.is_empty() { Ok(()) } else { Err(wrong) },
    );
    let root = window.root();
    probe.law(
        "no-table-leads-to-its-own-level",
        all_invalid([
            update(window.root_word(EMPTY_SLOT), root | TABLE),
            update(window.root_word(EMPTY_SLOT), root | READ_ONLY),
            update(window.level3.word_maddr(4), window.level3.entry(TABLE)),
            update(window.level2.word_maddr(4), window.level2.entry(TABLE)),
            update(window.level3.word_maddr(4), window.level1.entry(TABLE)),
        ]),
    );
}

/// Tables that hang together in unusual ways, and the hypervisor's part of a new root.
fn shapes(probe: &mut Probe, window: &Window) {
    let [level1, _, _, _] = pins::tree();
    let two = Frame::table(&[level1.entry(TABLE), 0, level1.entry(TABLE)]);
    let other = Frame::table(&[level1.entry(TABLE)]);
    let pinned = [pin(2, two.mfn()), pin(2, other.mfn()), unpin(two.mfn())];
    // One of three is left.
    let held = level1.remap(WRITABLE);
    let last = unpin(other.mfn());
    let free = level1.remap(WRITABLE);
    let result = (all_good(pinned), all_invalid([held]), all_good([last, free]));
    probe.law(
        "a-table-stays-one-until-its-last-use-goes",
        if result == (Ok(()), Ok(()), Ok(())) {
            Ok(())
        } else {
            Err(result)
        },
    );

    // A guest that writes the hypervisor's slots before it pins finds the hypervisor's own afterwards.
    let root = Frame::new();
    for slot in 256..272 {
        root.set(slot, window.level3.entry(TABLE));
    }
    root.protect();
    let pinned = pin(4, root.mfn());
    let is_overwritten = (256..272).all(|slot| root.get(slot) != window.level3.entry(TABLE));
    probe.law(
        "a-new-root-gets-the-hypervisors-slots",
        if pinned == Ok(0) && is_overwritten {
            Ok(())
        } else {
            Err(pinned)
        },
    );
    tidy([unpin(root.mfn())]);

    // What fails halfway gives back what it took.
    let good = Frame::table(&[]);
    let bad = Frame::table(&[good.entry(READ_ONLY), good.entry(WRITABLE), 1 << 51 | READ_ONLY]);
    let refused = pin(1, bad.mfn());
    let unharmed = [pin(1, good.mfn()), unpin(good.mfn()), bad.remap(WRITABLE)];
    let result = (all_invalid([refused]), all_good(unharmed));
    probe.law(
        "a-pin-that-fails-leaves-nothing-behind",
        if result == (Ok(()), Ok(())) {
            Ok(())
        } else {
            Err(result)
        },
    );
}
