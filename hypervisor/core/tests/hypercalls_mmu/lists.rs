//! Lists of operations, other domains, and what cannot be reached.

use super::*;

#[test]
fn a_write_to_an_ordinary_page_is_made_and_one_to_another_s_is_not() {
    let mut mmu = Mmu::new();
    let mfn = mmu.page(PAGE);
    mmu.update(mfn, 3, 0x1234_5678, NORMAL).unwrap();
    assert_eq!(mmu.world.read::<u64>(0, PAGE * 4096 + 24), 0x1234_5678);
    // One that is only read, too: nothing uses it as anything.
    mmu.update_va(PAGE * 4096, mfn.maddr() | RO, 2).unwrap();
    mmu.update(mfn, 3, 0x9abc, NORMAL).unwrap();
    assert_eq!(mmu.world.read::<u64>(0, PAGE * 4096 + 24), 0x9abc);
    for command in [NORMAL, MACHPHYS, PRESERVE_AD] {
        assert_eq!(mmu.update(mmu.foreign.0, 3, 1, command), Err(Errno::Inval));
    }
}

#[test]
fn accessed_and_dirty_bits_that_the_cpu_set_are_kept_if_asked_for() {
    let mut mmu = Mmu::new();
    let (mfn, table) = (mmu.page(PAGE), mmu.tables[4]);
    let bits = pte::ACCESSED | pte::DIRTY;
    for (command, kept) in [(NORMAL, 0), (PRESERVE_AD, bits), (3, 0)] {
        mmu.update_va(PAGE * 4096, mfn.maddr() | RW, 2).unwrap();
        mmu.world.write(0, PAGE * 4096, &1_u64);
        assert_eq!(mmu.entry(table, index(PAGE)) & bits, bits);
        mmu.update(table, index(PAGE) as u64, mfn.maddr() | RO, command)
            .unwrap();
        assert_eq!(mmu.entry(table, index(PAGE)) & bits, kept, "command {command}");
    }
    mmu.update_va(PAGE * 4096, mfn.maddr() | RW, 2).unwrap();
    mmu.world.write(0, PAGE * 4096, &1_u64);
    mmu.update(table, index(PAGE) as u64, 0, PRESERVE_AD).unwrap();
    assert_eq!(
        mmu.entry(table, index(PAGE)),
        0,
        "an entry that leads nowhere is as written"
    );
}

#[test]
fn the_m2p_entry_of_an_own_frame_is_the_guest_s_to_set() {
    let mut mmu = Mmu::new();
    let (mfn, (page, _)) = (mmu.page(PAGE), mmu.foreign);
    mmu.update(mfn, 0, 0x7777, MACHPHYS).unwrap();
    assert_eq!(
        mmu.world.read::<u64>(0, layout::M2P.start + mfn.raw() * 8),
        0x7777
    );
    assert_eq!(mmu.update(page, 0, 0x7777, MACHPHYS), Err(Errno::Inval));
    assert_eq!(mmu.world.sim().m2p(page), PAGE);
    let beyond = Mfn::new(mmu.world.hv().memory().frames().limit()).unwrap();
    assert_eq!(mmu.update(beyond, 0, 0x7777, MACHPHYS), Err(Errno::Inval));
}

#[test]
fn a_list_stops_at_the_first_error_and_says_how_far_it_came() {
    let mut mmu = Mmu::new();
    let (mfn, table) = (mmu.page(PAGE), mmu.tables[4]);
    let write = |index: u64, val| MmuUpdate {
        ptr: table.maddr() | index << 3,
        val,
    };
    let good = |index| write(index, mfn.maddr() | RO);
    let bad = write(202, mmu.foreign.0.maddr() | RO);
    let (answer, done) = mmu.updates(&[good(200), good(201), bad, good(203)]);
    assert_eq!((answer, done), (Err(Errno::Busy), 2));
    assert_eq!(mmu.entry(table, 201) & pte::FRAME_MASK, mfn.maddr());
    assert_ne!(mmu.entry(table, 203) & pte::FRAME_MASK, mfn.maddr());
    assert_eq!(mmu.updates(&[]), (Ok(0), 0));
}

#[test]
fn a_long_list_is_worked_off_in_parts_and_counted_as_one() {
    let mut mmu = Mmu::new();
    let page = mmu.page(PAGE);
    let write = |n: u64| MmuUpdate {
        ptr: page.maddr() | n << 3,
        val: n + 1,
    };
    let list: Vec<_> = (0..250).map(write).collect();
    assert_eq!(mmu.updates(&list), (Ok(0), 250));
    for n in 0..250 {
        assert_eq!(mmu.world.read::<u64>(0, PAGE * 4096 + n * 8), n + 1);
    }
    let mut list = list;
    list.truncate(201);
    list.last_mut().unwrap().ptr = mmu.foreign.0.maddr();
    assert_eq!(mmu.updates(&list), (Err(Errno::Inval), 200));
}

#[test]
fn a_guest_that_says_it_was_interrupted_goes_on_counting_where_it_was() {
    let mut mmu = Mmu::new();
    let update = MmuUpdate {
        ptr: mmu.page(PAGE).maddr(),
        val: 1,
    };
    mmu.world.write(0, World::SCRATCH, &update);
    let count = u64::from(MMU_UPDATE_PREEMPTED) | 1;
    let (answer, done) = mmu.list(Hypercall::MmuUpdate, count, u64::from(DomId::SELF.raw()));
    assert_eq!((answer, done), (Ok(0), 0x56));
}

#[test]
fn another_domain_s_tables_and_pages_are_out_of_reach() {
    let mut mmu = Mmu::new();
    let own = DomId::new(1);
    for (page_owner, table_owner, expected) in [
        (DomId::SELF, None, Ok(0)),
        (own, None, Ok(0)),
        (own, Some(own), Ok(0)),
        (DomId::new(2), None, Err(Errno::Perm)),
        (DomId::new(9), None, Err(Errno::Perm)),
        (DomId::XEN, None, Err(Errno::Perm)),
        (DomId::IO, None, Err(Errno::Perm)),
        (own, Some(DomId::new(2)), Err(Errno::Perm)),
        (DomId::new(0xffff), None, Err(Errno::Perm)),
    ] {
        let raw = ForeignDom {
            page_owner,
            table_owner,
        }
        .raw();
        for number in [Hypercall::MmuUpdate, Hypercall::MmuextOp] {
            let (answer, _) = mmu.list(number, 0, u64::from(raw));
            assert_eq!(answer, expected, "{page_owner} {table_owner:?}");
        }
    }
}

/// Who may know which domains there are is told apart; who may not is refused alike.
#[test]
fn the_control_domain_learns_that_a_domain_is_not_there() {
    let config = SimConfig {
        free_frames: 2 * GuestSpec::FRAMES,
        cpus: 1,
    };
    let world = World::new(config, EndPolicy::LastDomain);
    for id in [0, 1] {
        world.create(id, &GuestSpec::default()).unwrap();
    }
    world.enter(0);
    assert_eq!(world.running(0), Some((0, 0)));
    for number in [Hypercall::MmuUpdate, Hypercall::MmuextOp] {
        for (id, pages, tables) in [
            (0, Ok(0), Ok(0)),
            // It works on the pages of others, and on their tables if these lead to their own pages.
            (1, Ok(0), Err(Errno::Perm)),
            (9, Err(Errno::Srch), Err(Errno::Srch)),
        ] {
            let own_tables = ForeignDom {
                page_owner: DomId::new(id),
                table_owner: None,
            };
            let own_pages = ForeignDom {
                page_owner: DomId::SELF,
                table_owner: Some(DomId::new(id)),
            };
            for (foreign, answer) in [(own_tables, pages), (own_pages, tables)] {
                let arguments = [World::SCRATCH, 0, 0, u64::from(foreign.raw())];
                assert_eq!(
                    world.call(0, number, &arguments),
                    answer,
                    "{number:?} {foreign:?}"
                );
            }
        }
    }
}

#[test]
fn a_list_that_cannot_be_read_or_counted_is_a_fault() {
    let mmu = Mmu::new();
    let owner = u64::from(DomId::SELF.raw());
    for number in [Hypercall::MmuUpdate, Hypercall::MmuextOp] {
        for at in [0x40_0000, 1 << 47, layout::HYPERVISOR.start, u64::MAX - 3] {
            let list = [at, 1, 0, owner];
            assert_eq!(mmu.world.call(0, number, &list), Err(Errno::Fault), "{at:#x}");
            let done = [World::SCRATCH, 0, at, owner];
            assert_eq!(mmu.world.call(0, number, &done), Err(Errno::Fault), "{at:#x}");
        }
    }
}

#[test]
fn an_address_without_a_table_cannot_be_mapped() {
    let mut mmu = Mmu::new();
    let entry = mmu.page(PAGE).maddr() | RO;
    for va in [
        0x40_0000,
        0x8000_0000,
        0x80_0000_0000,
        1 << 47,
        layout::M2P.start,
        layout::HYPERVISOR.end - 1,
        layout::HYPERVISOR.end,
        u64::MAX,
    ] {
        assert_eq!(mmu.update_va(va, entry, 0), Err(Errno::Inval), "{va:#x}");
        assert_eq!(mmu.update_va(va, 0, 0), Err(Errno::Inval), "{va:#x}");
    }
}

#[test]
fn what_the_guest_reads_of_its_tables_it_may_write_back() {
    let mut mmu = Mmu::new();
    let levels = [Level::L4, Level::L3, Level::L2, Level::L1];
    for (table, level) in mmu.tables.into_iter().zip(levels) {
        let entry = mmu.entry(table, level.index(0x1000));
        assert_eq!(
            mmu.update(table, level.index(0x1000) as u64, entry, NORMAL),
            Ok(0),
            "{level:?}"
        );
        assert_eq!(
            mmu.entry(table, level.index(0x1000)) | pte::ACCESSED,
            entry | pte::ACCESSED
        );
    }
}
