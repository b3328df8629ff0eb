//! Exchanges of frames, as far as page tables and TLBs stand in their way.

use super::*;

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
