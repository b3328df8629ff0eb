//! Trees of tables that are let go of: they are taken down before the call answers.

use super::*;
use std::sync::atomic::Ordering;

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

/// Has something in every entry of these tables that leads nowhere: to look at each takes its time.
fn fill(mmu: &Mmu, tables: &[Mfn]) {
    const ELSEWHERE: u64 = pte::WRITABLE;
    let machine = mmu.world.hv().memory().machine();
    for &table in tables {
        for word in machine.frame(table).iter() {
            let _ = word.compare_exchange(0, ELSEWHERE, Ordering::Relaxed, Ordering::Relaxed);
        }
    }
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
    fill(&mmu, &[level1, level2, level3, level4]);
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
    fill(&mmu, &[other3, root]);
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
    fill(&mmu, &[theirs]);
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
        fill(&mmu, &[level1]);
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
