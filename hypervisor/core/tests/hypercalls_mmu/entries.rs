//! Single entries: what they may say, and when a change to one is seen.

use super::*;

#[test]
fn an_entry_reads_back_as_it_was_adjusted() {
    let mut mmu = Mmu::new();
    let (mfn, table) = (mmu.page(PAGE), mmu.tables[4]);
    for (flags, read_back) in [
        (RW, 0x10_0000_0000_0007),
        (RO, 0x10_0000_0000_0005),
        (RW | pte::USER, 0x107),
        (RO | pte::NO_EXECUTE | 1 << 9, 0x8010_0000_0000_0205),
    ] {
        mmu.update_va(PAGE * 4096, mfn.maddr() | flags, 2).unwrap();
        assert_eq!(mmu.entry(table, index(PAGE)), mfn.maddr() | read_back);
    }
    let nonsense = 0xdead_beef_dead_beee;
    mmu.update_va(PAGE * 4096, nonsense, 2).unwrap();
    assert_eq!(
        mmu.entry(table, index(PAGE)),
        nonsense,
        "not present: stands as written"
    );
}

#[test]
fn a_page_that_is_mapped_anew_is_seen_after_its_flush() {
    let mut mmu = Mmu::new();
    let (first, second) = (mmu.page(PAGE), mmu.page(PAGE + 1));
    mmu.world.write(0, PAGE * 4096, &1_u64);
    mmu.world.write(0, (PAGE + 1) * 4096, &2_u64);
    for (flags, expected) in [(0, 1), (1, 2), (2, 2), (5, 2), (6, 2)] {
        mmu.update_va(PAGE * 4096, first.maddr() | RW, 2).unwrap();
        assert_eq!(mmu.world.read::<u64>(0, PAGE * 4096), 1);
        mmu.update_va(PAGE * 4096, second.maddr() | RW, flags).unwrap();
        assert_eq!(mmu.world.read::<u64>(0, PAGE * 4096), expected, "flags {flags}");
    }
}

#[test]
fn an_invlpg_shows_the_page_and_leaves_the_others() {
    let mut mmu = Mmu::new();
    mmu.world.write(0, (PAGE + 1) * 4096, &2_u64);
    assert_eq!(mmu.world.read::<u64>(0, PAGE * 4096), 0);
    let target = mmu.page(PAGE + 1).maddr() | RW;
    mmu.update_va(PAGE * 4096, target, 0).unwrap();
    for op in [MmuExtOp::InvlpgLocal, MmuExtOp::InvlpgAll] {
        mmu.ext(op, (PAGE + 1) * 4096).unwrap();
        assert_eq!(mmu.world.read::<u64>(0, PAGE * 4096), 0);
    }
    assert_eq!(mmu.ext(MmuExtOp::InvlpgLocal, 1 << 47), Ok(0), "nothing is there");
    mmu.ext(MmuExtOp::InvlpgLocal, PAGE * 4096 + 0x123).unwrap();
    assert_eq!(mmu.world.read::<u64>(0, PAGE * 4096), 2);
}

#[test]
fn a_flush_of_the_tlb_shows_every_page() {
    for op in [MmuExtOp::TlbFlushLocal, MmuExtOp::TlbFlushAll] {
        let mut mmu = Mmu::new();
        mmu.world.write(0, (PAGE + 1) * 4096, &2_u64);
        assert_eq!(mmu.world.read::<u64>(0, PAGE * 4096), 0);
        let target = mmu.page(PAGE + 1).maddr() | RW;
        mmu.update_va(PAGE * 4096, target, 0).unwrap();
        mmu.ext(op, 0).unwrap();
        assert_eq!(mmu.world.read::<u64>(0, PAGE * 4096), 2);
    }
}

#[test]
fn no_entry_leads_to_what_is_not_the_guest_s() {
    let mut mmu = Mmu::new();
    let limit = mmu.world.hv().memory().frames().limit();
    let (page, table) = mmu.foreign;
    let own_shared_info = Mfn::from_maddr(mmu.info.shared_info);
    let hypervisors = Mfn::new(16).unwrap();
    assert!(mmu.world.sim().is_hypervisors(hypervisors));
    let cases = [
        (page, Errno::Busy),
        (table, Errno::Busy),
        (hypervisors, Errno::Busy),
        // No RAM, but below the limit; beyond the limit; beyond all limits.
        (Mfn::new(3).unwrap(), Errno::Busy),
        (Mfn::new(limit).unwrap(), Errno::Inval),
        (Mfn::new(Mfn::LIMIT - 1).unwrap(), Errno::Inval),
    ];
    let before = mmu.entry(mmu.tables[4], index(PAGE));
    for (mfn, error) in cases {
        for flags in [RO, RW] {
            assert_eq!(
                mmu.update_va(PAGE * 4096, mfn.maddr() | flags, 2),
                Err(error),
                "{mfn:?}"
            );
        }
        for (level, command) in [(4, NORMAL), (2, PRESERVE_AD), (0, 3)] {
            let table = mmu.tables[level];
            assert_eq!(
                mmu.update(table, 200, mfn.maddr() | 0x67, command),
                Err(error),
                "{mfn:?} in table {level}"
            );
        }
    }
    assert_eq!(mmu.entry(mmu.tables[4], index(PAGE)), before);
    assert_eq!(mmu.update_va(PAGE * 4096, own_shared_info.maddr() | RW, 2), Ok(0));
    assert_eq!(
        mmu.update(mmu.tables[2], 5, own_shared_info.maddr() | 0x67, NORMAL),
        Err(Errno::Inval),
        "shared info is no table"
    );
}

#[test]
fn no_table_can_be_mapped_writable_and_every_one_read_only() {
    let mut mmu = Mmu::new();
    for table in mmu.tables {
        assert_eq!(
            mmu.update_va(PAGE * 4096, table.maddr() | RW, 2),
            Err(Errno::Inval)
        );
        assert_eq!(mmu.update_va(PAGE * 4096, table.maddr() | RO, 2), Ok(0));
        let index = if table == mmu.tables[0] { 0 } else { 511 };
        assert_eq!(
            mmu.world.read::<u64>(0, PAGE * 4096 + index * 8),
            mmu.entry(table, usize::try_from(index).unwrap())
        );
        assert!(mmu.world.sim().guest_write(PAGE * 4096, &[0]).is_err());
    }
}

#[test]
fn no_page_becomes_a_table_while_it_can_be_written() {
    let mut mmu = Mmu::new();
    let mfn = mmu.page(PAGE);
    for op in [
        MmuExtOp::PinL1Table,
        MmuExtOp::PinL2Table,
        MmuExtOp::PinL3Table,
        MmuExtOp::PinL4Table,
    ] {
        assert_eq!(mmu.ext(op, mfn.raw()), Err(Errno::Inval));
    }
    assert_eq!(
        mmu.update(mmu.tables[2], 5, mfn.maddr() | 0x67, NORMAL),
        Err(Errno::Inval)
    );
    assert_eq!(mmu.ext(MmuExtOp::NewBaseptr, mfn.raw()), Err(Errno::Inval));
}

/// A writable translation that the guest did not flush must be gone when the page is a table: the guest would write it.
#[test]
fn a_stale_right_to_write_does_not_outlive_the_change_to_a_table() {
    let mut mmu = Mmu::new();
    let mfn = mmu.page(PAGE);
    mmu.world.write(0, PAGE * 4096 + 8, &0_u64);
    mmu.update_va(PAGE * 4096, mfn.maddr() | RO, 0).unwrap();
    mmu.world.write(0, PAGE * 4096 + 8, &0_u64);
    mmu.ext(MmuExtOp::PinL1Table, mfn.raw()).unwrap();
    let evil = mmu.tables[0].maddr() | RW;
    assert!(
        mmu.world
            .sim()
            .guest_write(PAGE * 4096 + 8, &evil.to_le_bytes())
            .is_err()
    );
    assert_eq!(mmu.entry(mfn, 1), 0);
}
