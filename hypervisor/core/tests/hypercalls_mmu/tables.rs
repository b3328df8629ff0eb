//! Whole tables: what becomes one, and where it may be used.

use super::*;

/// A level 1 table that was taken out of use may be written again; what the CPU remembers of the way to it must be gone.
#[test]
fn a_table_that_is_taken_down_is_walked_no_more() {
    let mut mmu = Mmu::new();
    let target = mmu.page(PAGE + 1).maddr() | RO;
    let table = mmu.write_table(PAGE, &[(0, target)]);
    mmu.update(mmu.tables[2], 5, table.maddr() | 0x67, NORMAL)
        .unwrap();
    let window = 5 << 21;
    assert_eq!(mmu.world.read::<u64>(0, window), 0);
    mmu.update(mmu.tables[2], 5, 0, NORMAL).unwrap();
    mmu.update_va(PAGE * 4096, table.maddr() | RW, 2).unwrap();
    // The guest writes what no validation would let through.
    mmu.world
        .write(0, PAGE * 4096 + 8, &(mmu.foreign.0.maddr() | RW | pte::USER));
    assert!(mmu.world.sim().guest_read(window, &mut [0; 8]).is_err());
    assert!(mmu.world.sim().guest_read(window + 0x1000, &mut [0; 8]).is_err());
}

#[test]
fn a_table_with_one_bad_entry_is_refused_and_holds_nothing() {
    let mut mmu = Mmu::new();
    let good = mmu.page(PAGE + 1).maddr() | RO;
    for bad in [
        mmu.foreign.0.maddr() | RO,
        mmu.page(PAGE + 1).maddr() | RO | pte::CACHE_DISABLE,
        mmu.tables[0].maddr() | RW,
        pte::FRAME_MASK | RO,
    ] {
        let table = mmu.write_table(PAGE, &[(0, good), (511, bad)]);
        assert_eq!(mmu.ext(MmuExtOp::PinL1Table, table.raw()), Err(Errno::Inval));
        assert_eq!(mmu.kind(table), Kind::None);
        // It is an ordinary page again, without further ado.
        mmu.update_va(PAGE * 4096, table.maddr() | RW, 2).unwrap();
        mmu.world.write(0, PAGE * 4096 + 511 * 8, &0_u64);
    }
}

#[test]
fn superpages_and_cacheability_are_refused_at_every_level() {
    let mut mmu = Mmu::new();
    let mfn = mmu.page(PAGE);
    for (level, bits) in [
        (4, pte::PAT),
        (4, pte::WRITE_THROUGH),
        (4, pte::CACHE_DISABLE),
        (2, pte::PAGE_SIZE_BIT),
        (2, pte::GLOBAL),
        (1, pte::PAGE_SIZE_BIT),
        (0, pte::PAGE_SIZE_BIT),
        (0, pte::GLOBAL),
    ] {
        let entry = mfn.maddr() | RO | bits;
        assert_eq!(
            mmu.update(mmu.tables[level], 200, entry, NORMAL),
            Err(Errno::Inval),
            "{bits:#x} in table {level}"
        );
    }
}

#[test]
fn the_hypervisor_s_slots_are_nobody_else_s() {
    let mut mmu = Mmu::new();
    let root = mmu.tables[0];
    for slot in layout::HYPERVISOR_L4_SLOTS {
        let before = mmu.entry(root, slot);
        for val in [0, before, mmu.tables[1].maddr() | 0x67] {
            assert_eq!(mmu.update(root, slot as u64, val, NORMAL), Err(Errno::Inval));
        }
        assert_eq!(mmu.entry(root, slot), before);
    }
    let three = mmu.tables[1].maddr() | 0x67;
    for slot in [255, 272] {
        assert_eq!(
            mmu.update(root, slot, three, NORMAL),
            Ok(0),
            "the neighbours are free"
        );
    }
}

#[test]
fn a_new_root_gets_the_hypervisor_s_slots_whatever_stood_there() {
    let mut mmu = Mmu::new();
    let own = mmu.tables[1].maddr() | 0x67;
    let root = mmu.write_table(PAGE, &[(0, own), (256, own), (258, !0), (271, 5)]);
    mmu.ext(MmuExtOp::PinL4Table, root.raw()).unwrap();
    for slot in layout::HYPERVISOR_L4_SLOTS {
        assert_eq!(mmu.entry(root, slot), mmu.world.sim().hypervisor_slot(slot));
    }
}

/// As Linux does it (the guest ABI's section 2.4, f).
#[test]
fn a_guest_moves_to_tables_of_its_own_and_takes_the_builder_s_back() {
    let mut mmu = Mmu::new();
    let builders = mmu.tables[0];
    let own = mmu.write_table(PAGE, &[(0, mmu.tables[1].maddr() | 0x67)]);
    mmu.ext(MmuExtOp::PinL4Table, own.raw()).unwrap();
    mmu.ext(MmuExtOp::UnpinTable, builders.raw()).unwrap();
    assert_eq!(mmu.kind(builders), Kind::L4, "the CPU runs on it");
    mmu.ext(MmuExtOp::NewBaseptr, own.raw()).unwrap();
    assert_eq!(mmu.world.sim().root(CpuId::BOOT), Some(own));
    assert_eq!(mmu.kind(builders), Kind::None);
    let va = mmu.info.pt_base;
    mmu.update_va(va, builders.maddr() | RW, 2).unwrap();
    mmu.world.write(0, va, &0x1234_u64);
    // And on: unpinned, loaded again, its own hold is what keeps it.
    mmu.ext(MmuExtOp::UnpinTable, own.raw()).unwrap();
    mmu.ext(MmuExtOp::NewBaseptr, own.raw()).unwrap();
    assert_eq!(mmu.kind(own), Kind::L4);
}

#[test]
fn one_level_1_table_may_be_used_at_many_addresses() {
    let mut mmu = Mmu::new();
    let (l2, l1) = (mmu.tables[2], mmu.tables[4]);
    for slot in 5..9 {
        mmu.update(l2, slot, l1.maddr() | 0x67, NORMAL).unwrap();
    }
    mmu.world.write(0, PAGE * 4096, &7_u64);
    assert_eq!(mmu.world.read::<u64>(0, (8 << 21) + (PAGE - 512) * 4096), 7);
    let typing = mmu.world.hv().memory().frames().typing(l1).unwrap();
    assert_eq!((typing.kind(), typing.count()), (Kind::L1, 5));
}

#[test]
fn no_table_is_a_table_of_two_levels_nor_its_own() {
    let mut mmu = Mmu::new();
    let [l4, l3, l2, l1, _] = mmu.tables;
    for (table, target) in [
        (l2, l2),
        (l3, l3),
        (l4, l4),
        (l2, l3),
        (l2, l4),
        (l3, l1),
        (l3, l4),
        (l4, l2),
        (l4, l1),
    ] {
        assert_eq!(
            mmu.update(table, 200, target.maddr() | RO, NORMAL),
            Err(Errno::Inval),
            "{target:?} in {table:?}"
        );
    }
}

#[test]
fn a_pin_is_taken_and_given_back_once() {
    let mut mmu = Mmu::new();
    let table = mmu.write_table(PAGE, &[]);
    assert_eq!(mmu.ext(MmuExtOp::UnpinTable, table.raw()), Err(Errno::Inval));
    mmu.ext(MmuExtOp::PinL1Table, table.raw()).unwrap();
    assert_eq!(mmu.ext(MmuExtOp::PinL1Table, table.raw()), Err(Errno::Inval));
    assert_eq!(mmu.ext(MmuExtOp::PinL2Table, table.raw()), Err(Errno::Inval));
    mmu.ext(MmuExtOp::UnpinTable, table.raw()).unwrap();
    assert_eq!(mmu.ext(MmuExtOp::UnpinTable, table.raw()), Err(Errno::Inval));
    let (_, foreign) = mmu.foreign;
    for op in [MmuExtOp::UnpinTable, MmuExtOp::PinL4Table, MmuExtOp::NewBaseptr] {
        assert_eq!(mmu.ext(op, foreign.raw()), Err(Errno::Inval));
        assert_eq!(mmu.ext(op, u64::MAX), Err(Errno::Inval));
    }
}
