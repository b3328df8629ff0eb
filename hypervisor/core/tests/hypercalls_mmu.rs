//! Page-table hypercalls, one rule at a time: what is refused and how, what is done and how far, and what guests of their kind
//! depend on. The random histories of `hypercalls_hostile` look for what nobody thought of.
#![cfg(not(loom))]
#![expect(
    clippy::unwrap_used,
    clippy::arithmetic_side_effects,
    reason = "a test fails by panicking"
)]

use bulkhead_abi::memory::{MemoryExchange, MemoryOp, MemoryReservation};
use bulkhead_abi::mmu::{ForeignDom, MMU_UPDATE_PREEMPTED, MmuExt, MmuExtOp, MmuUpdate};
use bulkhead_abi::start_info::StartInfo;
use bulkhead_abi::{DomId, Errno, Hypercall, layout, pte};
use bulkhead_core::frames::{Kind, Mfn};
use bulkhead_core::ids::CpuId;
use bulkhead_core::paging::Level;
use bulkhead_core::sync::Ordering;
use bulkhead_core::testing::{GuestSpec, SimConfig, World};
use bulkhead_core::{EndPolicy, Machine};

/// A page that is nothing in particular, and where it is mapped.
const PAGE: u64 = 600;
/// Flags of a page that may be written.
const RW: u64 = pte::PRESENT | pte::WRITABLE;
const RO: u64 = pte::PRESENT;

const NORMAL: u64 = 0;
const MACHPHYS: u64 = 1;
const PRESERVE_AD: u64 = 2;

/// A world with two domains, of which the first runs.
struct Mmu {
    world: World,
    info: StartInfo,
    /// The tables of the first domain: level 4, 3, 2, and two of level 1.
    tables: [Mfn; 5],
    /// A page and a table of the second domain.
    foreign: (Mfn, Mfn),
}

impl Mmu {
    fn new() -> Self {
        let config = SimConfig {
            free_frames: 2 * GuestSpec::FRAMES + 8,
            cpus: 1,
        };
        let world = World::new(config, EndPolicy::LastDomain);
        for id in [1, 2] {
            world.create(id, &GuestSpec::default()).unwrap();
        }
        world.enter(0);
        let info = world.boot(0);
        world.yield_now(0);
        assert_eq!(world.running(0), Some((2, 0)));
        let other = world.boot(0);
        let foreign = (
            page(&world, &other, PAGE),
            page(&world, &other, other.pt_base >> 12),
        );
        world.yield_now(0);
        let first = info.pt_base >> 12;
        let tables = [0, 1, 2, 3, 4].map(|n| page(&world, &info, first + n));
        Self {
            world,
            info,
            tables,
            foreign,
        }
    }

    /// The frame of a page of the first domain.
    fn page(&self, pfn: u64) -> Mfn {
        page(&self.world, &self.info, pfn)
    }

    fn entry(&self, table: Mfn, index: usize) -> u64 {
        self.world
            .sim()
            .frame(table)
            .get(index)
            .unwrap()
            .load(Ordering::Relaxed)
    }

    fn kind(&self, mfn: Mfn) -> Kind {
        let typing = self.world.hv().memory().frames().typing(mfn).unwrap();
        typing.in_use_as()
    }

    fn update_va(&mut self, va: u64, entry: u64, flags: u64) -> Result<u64, Errno> {
        let answer = self
            .world
            .call(0, Hypercall::UpdateVaMapping, &[va, entry, flags]);
        self.world.invariants();
        answer
    }

    /// Writes entry `index` of `table` by `mmu_update`.
    fn update(&mut self, table: Mfn, index: u64, val: u64, command: u64) -> Result<u64, Errno> {
        let ptr = table.maddr() | index << 3 | command;
        self.updates(&[MmuUpdate { ptr, val }]).0
    }

    /// Makes a list of updates. Says how it ended and how many were done.
    fn updates(&mut self, list: &[MmuUpdate]) -> (Result<u64, Errno>, u32) {
        for (at, update) in (World::SCRATCH..).step_by(16).zip(list) {
            self.world.write(0, at, update);
        }
        self.list(
            Hypercall::MmuUpdate,
            list.len() as u64,
            u64::from(DomId::SELF.raw()),
        )
    }

    fn list(&mut self, number: Hypercall, count: u64, domain: u64) -> (Result<u64, Errno>, u32) {
        let done = World::SCRATCH + 0xff8;
        self.world.write(0, done, &0x55_u32);
        let answer = self.world.call(0, number, &[World::SCRATCH, count, done, domain]);
        self.world.invariants();
        (answer, self.world.read(0, done))
    }

    fn ext(&mut self, op: MmuExtOp, arg1: u64) -> Result<u64, Errno> {
        let record = MmuExt {
            cmd: op.raw(),
            arg1,
            arg2: 0,
        };
        self.world.write(0, World::SCRATCH, &record);
        self.list(Hypercall::MmuextOp, 1, u64::from(DomId::SELF.raw())).0
    }

    /// Fills a page by writing it, and maps it read-only.
    fn write_table(&mut self, pfn: u64, entries: &[(u64, u64)]) -> Mfn {
        for (index, entry) in entries {
            self.world.write(0, pfn * 4096 + index * 8, entry);
        }
        let mfn = self.page(pfn);
        self.update_va(pfn * 4096, mfn.maddr() | RO, 2).unwrap();
        mfn
    }
}

fn page(world: &World, info: &StartInfo, pfn: u64) -> Mfn {
    Mfn::new(world.read(0, info.mfn_list + pfn * 8)).unwrap()
}

/// The index of a page of the first mapping in its level 1 table.
fn index(pfn: u64) -> usize {
    usize::try_from(pfn % 512).unwrap()
}

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

/// Makes an exchange of `given` for extents of 2^`order` frames, numbered from [`PAGE`] on. Says how it ended, how many extents
/// were given, and what was got.
fn exchange(mmu: &Mmu, given: &[Mfn], order: u32) -> (Result<u64, Errno>, u64, Vec<Mfn>) {
    let (given_at, taken_at) = (World::SCRATCH + 0x100, World::SCRATCH + 0x200);
    let extents = given.len() as u64 >> order;
    for (at, mfn) in (given_at..).step_by(8).zip(given) {
        mmu.world.write(0, at, &mfn.raw());
    }
    for (at, n) in (taken_at..).step_by(8).zip(0..extents) {
        mmu.world.write(0, at, &(PAGE + (n << order)));
    }
    let reservation = |extent_start, nr_extents, extent_order| MemoryReservation {
        extent_start,
        nr_extents,
        extent_order,
        mem_flags: 0,
        domid: DomId::SELF,
    };
    let record = MemoryExchange {
        input: reservation(given_at, given.len() as u64, 0),
        output: reservation(taken_at, extents, order),
        nr_exchanged: 0,
    };
    mmu.world.write(0, World::SCRATCH, &record);
    let args = [u64::from(MemoryOp::Exchange.raw()), World::SCRATCH];
    let answer = mmu.world.call(0, Hypercall::MemoryOp, &args);
    mmu.world.invariants();
    let record: MemoryExchange = mmu.world.read(0, World::SCRATCH);
    let done = record.nr_exchanged >> order;
    let taken = (taken_at..).step_by(8).take(usize::try_from(done).unwrap());
    let taken = taken.map(|at| Mfn::new(mmu.world.read(0, at)).unwrap()).collect();
    (answer, record.nr_exchanged, taken)
}

#[test]
fn an_exchange_gives_other_frames_for_those_that_nothing_refers_to() {
    let mut mmu = Mmu::new();
    let given = [mmu.page(PAGE), mmu.page(PAGE + 1)];
    for n in 0..2 {
        mmu.world.write(0, (PAGE + n) * 4096, &0x5ec3e7_u64);
        mmu.update_va((PAGE + n) * 4096, 0, 0).unwrap();
    }
    let free = mmu.world.hv().memory().free_frames();
    let (answer, done, taken) = exchange(&mmu, &given, 1);
    assert_eq!((answer, done, taken.len()), (Ok(0), 2, 1));
    assert_eq!(mmu.world.hv().memory().free_frames(), free);
    for n in 0..2 {
        let mfn = taken.first().unwrap().offset(n).unwrap();
        assert_eq!(mmu.world.sim().m2p_entry(mfn), PAGE + n);
        assert_eq!(mmu.entry(mfn, 0), 0, "it is clean");
        mmu.update_va((PAGE + n) * 4096, mfn.maddr() | RW, 2).unwrap();
    }
}

/// The frame that was given first is free, and thus the next that the allocator hands out: it is not the guest's to give again.
#[test]
fn an_exchange_cannot_give_what_it_gets() {
    let mut mmu = Mmu::new();
    let mfn = mmu.page(PAGE);
    mmu.update_va(PAGE * 4096, 0, 2).unwrap();
    let (answer, done, taken) = exchange(&mmu, &[mfn, mfn], 0);
    assert_eq!((answer, done), (Err(Errno::Inval), 1));
    assert!(!taken.contains(&mfn));
    mmu.update_va(PAGE * 4096, taken.first().unwrap().maddr() | RW, 2)
        .unwrap();
}

/// A frame that an exchange took and gave back, because another could not be had, is what it was before: writable memory, which
/// some TLB may still know as such.
#[test]
fn a_stale_right_to_write_does_not_outlive_an_exchange_that_failed() {
    let mut mmu = Mmu::new();
    let (mfn, busy) = (mmu.page(PAGE), mmu.page(PAGE + 1));
    mmu.world.write(0, PAGE * 4096 + 8, &0_u64);
    mmu.update_va(PAGE * 4096, 0, 0).unwrap();
    let (answer, ..) = exchange(&mmu, &[mfn, busy], 1);
    assert_eq!(answer, Err(Errno::Inval), "the second page is mapped");
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

/// A table of each level from page `first` on, each in the first and the last entry of the one above: what is dropped last is also what
/// was left. The table of `bad_level`, if there is one, has a second entry that cannot be had.
fn tall_tree(mmu: &mut Mmu, first: u64, bad_level: Option<u64>) -> [Mfn; 4] {
    let foreign = mmu.foreign.0.maddr() | RO;
    let mut below = mmu.page(PAGE).maddr() | RO;
    [1, 2, 3, 4].map(|level| {
        let second = if bad_level == Some(level) { foreign } else { 0 };
        let table = mmu.write_table(first + level - 1, &[(0, below), (1, second), (511, below)]);
        below = table.maddr() | RW;
        table
    })
}

/// Page `first` and those after it are ordinary pages, as the guest sees it.
fn assert_can_be_written(mmu: &mut Mmu, first: u64, tables: &[Mfn]) {
    for (page, &mfn) in (first..).zip(tables) {
        assert_eq!(mmu.kind(mfn), Kind::None, "page {page}");
        assert_eq!(
            mmu.update_va(page * 4096, mfn.maddr() | RW, 2),
            Ok(0),
            "page {page}"
        );
    }
}

/// A tree is more work than one go: the call ends when every table in it is an ordinary page, not when the first is.
#[test]
fn a_tree_that_is_unpinned_can_be_written_at_once() {
    let mut mmu = Mmu::new();
    let tree = tall_tree(&mut mmu, PAGE + 1, None);
    mmu.ext(MmuExtOp::PinL4Table, tree[3].raw()).unwrap();
    mmu.ext(MmuExtOp::UnpinTable, tree[3].raw()).unwrap();
    assert_can_be_written(&mut mmu, PAGE + 1, &tree);
}

#[test]
fn a_root_that_is_left_can_be_written_at_once_and_all_below_it() {
    let mut mmu = Mmu::new();
    let tree = tall_tree(&mut mmu, PAGE + 1, None);
    mmu.ext(MmuExtOp::NewUserBaseptr, tree[3].raw()).unwrap();
    mmu.ext(MmuExtOp::NewUserBaseptr, 0).unwrap();
    assert_can_be_written(&mut mmu, PAGE + 1, &tree);
}

#[test]
fn what_was_below_an_entry_that_is_cleared_can_be_written_at_once() {
    let mut mmu = Mmu::new();
    let [one, two, three, _] = tall_tree(&mut mmu, PAGE + 1, None);
    let root = mmu.tables[0];
    mmu.update(root, 300, three.maddr() | RW, NORMAL).unwrap();
    mmu.update(root, 300, 0, NORMAL).unwrap();
    assert_can_be_written(&mut mmu, PAGE + 1, &[one, two, three]);
}

/// The refusal is what the guest hears, as late as it is; whichever level it comes from.
#[test]
fn a_tree_that_is_refused_can_be_written_at_once() {
    for bad_level in 1..=4 {
        let mut mmu = Mmu::new();
        let tree = tall_tree(&mut mmu, PAGE + 1, Some(bad_level));
        let refused = mmu.ext(MmuExtOp::PinL4Table, tree[3].raw());
        assert_eq!(refused, Err(Errno::Inval), "bad at level {bad_level}");
        assert_can_be_written(&mut mmu, PAGE + 1, &tree);
    }
}

/// What comes after an operation that let go of a tree waits until that is taken down; and what was done is counted once.
#[test]
fn a_list_goes_on_when_a_tree_is_taken_down() {
    let mut mmu = Mmu::new();
    let [one, two, three, _] = tall_tree(&mut mmu, PAGE + 1, None);
    let root = mmu.tables[0];
    mmu.update(root, 300, three.maddr() | RW, NORMAL).unwrap();
    let clear = MmuUpdate {
        ptr: root.maddr() | 300 << 3,
        val: 0,
    };
    let write = |mfn: Mfn| MmuUpdate {
        ptr: mfn.maddr(),
        val: 7,
    };
    let list = [clear, write(one), write(two), write(three)];
    assert_eq!(mmu.updates(&list), (Ok(0), 4));
    for page in 1..4 {
        assert_eq!(mmu.world.read::<u64>(0, (PAGE + page) * 4096), 7);
    }
}

/// A table that was left half done awaits one below it. The guest makes something else of that one: a root that is left half done in its
/// turn. It is none of the first table's business then; helping it would follow a chain as long as the guest likes.
#[test]
fn what_a_half_done_table_awaits_may_become_a_root_and_is_left_alone() {
    let mut mmu = Mmu::new();
    // A table of each level, each in the first entry of the one above.
    let page = mmu.page(PAGE);
    let level1 = mmu.write_table(PAGE, &[(0, page.maddr() | RO)]);
    let level2 = mmu.write_table(PAGE + 1, &[(0, level1.maddr() | RW)]);
    let level3 = mmu.write_table(PAGE + 2, &[(0, level2.maddr() | RW)]);
    let level4 = mmu.write_table(PAGE + 3, &[(0, level3.maddr() | RW)]);
    let is_half_done = |mmu: &Mmu, mfn| {
        let typing = mmu.world.hv().memory().frames().typing(mfn).unwrap();
        typing.is_partial()
    };
    // A pin that is given up in the middle, and a mapping that is too: nobody goes on with what they leave.
    let leave_half_taken_down = |mmu: &mut Mmu, pfn: u64, root: Mfn, below: Mfn| {
        let record = MmuExt {
            cmd: MmuExtOp::PinL4Table.raw(),
            arg1: root.raw(),
            arg2: 0,
        };
        mmu.world.write(0, World::SCRATCH, &record);
        let pin = [World::SCRATCH, 1, 0, u64::from(DomId::SELF.raw())];
        while !is_half_done(mmu, root) {
            let answer = mmu.world.call_within(0, Hypercall::MmuextOp.raw(), &pin, 1);
            mmu.world.invariants();
            assert_eq!(answer, None, "it was to take more goes");
        }
        let map = [pfn * 4096, root.maddr() | RW, 0];
        while !is_half_done(mmu, below) {
            let answer = mmu
                .world
                .call_within(0, Hypercall::UpdateVaMapping.raw(), &map, 1);
            mmu.world.invariants();
            assert_eq!(answer, None, "it was to take more goes");
        }
        assert!(is_half_done(mmu, root));
    };
    leave_half_taken_down(&mut mmu, PAGE + 3, level4, level3);

    // What was the table of level 3 becomes a root.
    mmu.update_va((PAGE + 2) * 4096, level3.maddr() | RW, 2).unwrap();
    let other3 = mmu.write_table(PAGE + 4, &[(0, level2.maddr() | RW)]);
    let root = mmu.write_table(PAGE + 2, &[(0, other3.maddr() | RW)]);
    leave_half_taken_down(&mut mmu, PAGE + 2, root, other3);

    mmu.update_va((PAGE + 3) * 4096, level4.maddr() | RW, 2).unwrap();
    assert!(!is_half_done(&mmu, level4));
    assert!(is_half_done(&mmu, root), "the other root was taken down besides");
    mmu.update_va((PAGE + 2) * 4096, root.maddr() | RW, 2).unwrap();
}

/// The page named as descriptors is a tree that is half taken down: the rest of that is more than one go.
/// Its owner may never go on with it: nobody else's call may wait for that.
#[test]
fn a_refused_table_does_not_await_what_another_domain_left_half_done() {
    let mut mmu = Mmu::new();
    let (theirs, _) = mmu.foreign;
    let pin = |op: MmuExtOp, mfn: Mfn| MmuExt {
        cmd: op.raw(),
        arg1: mfn.raw(),
        arg2: 0,
    };
    let call = |world: &World, record: &MmuExt, goes: usize| {
        world.write(0, World::SCRATCH, record);
        let args = [World::SCRATCH, 1, 0, u64::from(DomId::SELF.raw())];
        world.call_within(0, Hypercall::MmuextOp.raw(), &args, goes)
    };
    mmu.world.yield_now(0);
    let read_only = [PAGE * 4096, theirs.maddr() | RO, 2];
    mmu.world.call(0, Hypercall::UpdateVaMapping, &read_only).unwrap();
    let given_up = call(&mmu.world, &pin(MmuExtOp::PinL2Table, theirs), 1);
    assert_eq!(given_up, None, "it is more than one go");
    mmu.world.yield_now(0);
    let table = mmu.write_table(PAGE, &[(0, theirs.maddr() | RW | pte::USER)]);
    let refused = call(&mmu.world, &pin(MmuExtOp::PinL3Table, table), 10);
    assert_eq!(refused, Some(Err(Errno::Inval)));
    assert_can_be_written(&mut mmu, PAGE, &[table]);
}

#[test]
fn a_descriptor_table_that_was_a_large_tree_takes_several_goes() {
    let mut mmu = Mmu::new();
    let page = mmu.page(PAGE);
    let mut tables = vec![];
    for n in 0..8 {
        let level1 = mmu.write_table(PAGE + n, &[(0, page.maddr() | RO)]);
        tables.push((n, level1.maddr() | RW));
    }
    let level2 = mmu.write_table(PAGE + 8, &tables);
    mmu.ext(MmuExtOp::PinL2Table, level2.raw()).unwrap();
    let record = MmuExt {
        cmd: MmuExtOp::UnpinTable.raw(),
        arg1: level2.raw(),
        arg2: 0,
    };
    mmu.world.write(0, World::SCRATCH, &record);
    let args = [World::SCRATCH, 1, 0, u64::from(DomId::SELF.raw())];
    let unpinned = mmu.world.call_within(0, Hypercall::MmuextOp.raw(), &args, 1);
    assert_eq!(unpinned, None);

    mmu.world.write(0, World::SCRATCH, &level2.raw());
    let args = [World::SCRATCH, 8];
    let set = mmu.world.call_within(0, Hypercall::SetGdt.raw(), &args, 1);
    mmu.world.invariants();
    assert_eq!(set, None, "it was to take several goes");
    // Its entries happen to be descriptors that do no harm.
    assert_eq!(mmu.world.call(0, Hypercall::SetGdt, &args), Ok(0));
    mmu.world.invariants();
}

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
