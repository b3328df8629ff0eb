//! The control domain maps another domain's frames in its own tables: by their owner's name, with the rights that their use leaves, and for as
//! long as it likes.

use super::{NORMAL, PAGE, RO, RW, index, page};
use bulkhead_abi::mmu::{ForeignDom, MmuExt, MmuExtOp, MmuUpdate};
use bulkhead_abi::start_info::StartInfo;
use bulkhead_abi::{DomId, Errno, Hypercall, pte};
use bulkhead_core::frames::Mfn;
use bulkhead_core::frames::words::RefWord;
use bulkhead_core::sync::Ordering;
use bulkhead_core::testing::{GuestSpec, SimConfig, World};
use bulkhead_core::{EndPolicy, Machine};

/// Domain 0 runs; the other one has booted.
struct Control {
    world: World,
    own: StartInfo,
    other: StartInfo,
    /// Of the other: a page, its level 4 table, the frame of its grant table.
    page: Mfn,
    table: Mfn,
    grants: Mfn,
}

const OTHER: DomId = DomId::new(1);

impl Control {
    fn new() -> Self {
        let config = SimConfig {
            free_frames: 2 * GuestSpec::FRAMES + 8,
            cpus: 1,
        };
        let world = World::new(config, EndPolicy::LastDomain);
        for id in [0, 1] {
            world.create(id, &GuestSpec::default()).unwrap();
        }
        world.enter(0);
        let own = world.boot(0);
        world.yield_now(0);
        assert_eq!(world.running(0), Some((1, 0)));
        let other = world.boot(0);
        let frames = [PAGE, other.pt_base >> 12].map(|pfn| page(&world, &other, pfn));
        let grants = world.find_grant_table(0);
        world.write(0, PAGE * 4096, &0x5a5a_u64);
        world.yield_now(0);
        Self {
            world,
            own,
            other,
            page: frames[0],
            table: frames[1],
            grants,
        }
    }

    /// Maps `entry`, a frame of `owner`'s, at a page of domain 0's.
    fn map(&self, pfn: u64, entry: u64, owner: DomId) -> Result<u64, Errno> {
        let args = [pfn * 4096, entry, 2, u64::from(owner.raw())];
        let answer = self.world.call(0, Hypercall::UpdateVaMappingOtherdomain, &args);
        self.world.invariants();
        answer
    }

    /// Writes an entry of a table of domain 0's in the name of `foreign`.
    fn update(&self, table: Mfn, index: usize, val: u64, foreign: ForeignDom) -> Result<u64, Errno> {
        let ptr = table.maddr() | (index as u64) << 3 | NORMAL;
        self.world.write(0, World::SCRATCH, &MmuUpdate { ptr, val });
        let args = [World::SCRATCH, 1, 0, u64::from(foreign.raw())];
        let answer = self.world.call(0, Hypercall::MmuUpdate, &args);
        self.world.invariants();
        answer
    }

    fn refs(&self, mfn: Mfn) -> RefWord {
        self.world.hv().memory().frames().refs(mfn).unwrap()
    }
}

#[test]
fn what_another_domain_wrote_is_read_and_written_where_it_is_mapped() {
    let control = Control::new();
    let before = control.refs(control.page).count();
    control.map(PAGE, control.page.maddr() | RW, OTHER).unwrap();
    assert_eq!(control.refs(control.page).count(), before + 1);
    assert_eq!(control.world.read::<u64>(0, PAGE * 4096), 0x5a5a);
    control.world.write(0, PAGE * 4096 + 8, &0x1234_u64);
    control.map(PAGE, 0, DomId::SELF).unwrap();
    assert_eq!(control.refs(control.page).count(), before);
    control.world.yield_now(0);
    assert_eq!(control.world.read::<u64>(0, PAGE * 4096 + 8), 0x1234);
}

#[test]
fn a_table_of_another_domain_is_read_and_never_written() {
    let control = Control::new();
    control.map(PAGE, control.table.maddr() | RO, OTHER).unwrap();
    let entry = control.world.read::<u64>(0, PAGE * 4096);
    let words = control.world.sim().frame(control.table);
    assert_eq!(entry, words.first().unwrap().load(Ordering::Relaxed));
    let writable = control.map(PAGE + 1, control.table.maddr() | RW, OTHER);
    assert_eq!(writable, Err(Errno::Inval));
}

#[test]
fn what_a_domain_has_mapped_writable_for_the_control_domain_is_no_table() {
    let control = Control::new();
    control.map(PAGE, control.page.maddr() | RW, OTHER).unwrap();
    control.world.yield_now(0);
    let pin = MmuExt {
        cmd: MmuExtOp::PinL1Table.raw(),
        arg1: control.page.raw(),
        arg2: 0,
    };
    let unmapped = [PAGE * 4096, 0, 2];
    let world = &control.world;
    world.call(0, Hypercall::UpdateVaMapping, &unmapped).unwrap();
    world.write(0, World::SCRATCH, &pin);
    let args = [World::SCRATCH, 1, 0, u64::from(DomId::SELF.raw())];
    assert_eq!(world.call(0, Hypercall::MmuextOp, &args), Err(Errno::Inval));
    world.invariants();
}

#[test]
fn the_owner_must_be_named_and_be_there() {
    let control = Control::new();
    let entry = control.page.maddr() | RO;
    assert_eq!(control.map(PAGE, entry, DomId::SELF), Err(Errno::Busy));
    assert_eq!(control.map(PAGE, entry, DomId::new(9)), Err(Errno::Srch));
    let own = page(&control.world, &control.own, PAGE).maddr() | RO;
    assert_eq!(control.map(PAGE, own, OTHER), Err(Errno::Busy));
    assert_eq!(control.map(PAGE, entry | pte::PAT, OTHER), Err(Errno::Inval));
    assert_eq!(
        control.map(1 << 27, entry, OTHER),
        Err(Errno::Inval),
        "no table there"
    );
    let all = [PAGE * 4096, entry, 2 | 1 << 47, u64::from(OTHER.raw())];
    let number = Hypercall::UpdateVaMappingOtherdomain;
    assert_eq!(control.world.call(0, number, &all), Err(Errno::Fault));
    control.world.yield_now(0);
    for whom in [0, 9, DomId::IO.raw()] {
        let args = [PAGE * 4096, entry, 2, u64::from(whom)];
        assert_eq!(
            control.world.call(0, number, &args),
            Err(Errno::Perm),
            "{whom:#x}"
        );
    }
    control.world.invariants();
}

#[test]
fn tables_are_not_shared() {
    let control = Control::new();
    let pages_of = |page_owner| ForeignDom {
        page_owner,
        table_owner: None,
    };
    let [root, level1] = [0, 4].map(|n| page(&control.world, &control.own, (control.own.pt_base >> 12) + n));
    let entry = control.page.maddr() | RO;
    let slot = index(PAGE);
    control.update(level1, slot, entry, pages_of(OTHER)).unwrap();
    assert_eq!(control.world.read::<u64>(0, PAGE * 4096), 0x5a5a);
    let theirs = page_of_other(&control, 1);
    let upper = control.update(root, 3, theirs.maddr() | RW, pages_of(OTHER));
    assert_eq!(upper, Err(Errno::Inval));
    // Whoever wants to change the other's own tables says that they are its own.
    let their_tables = ForeignDom {
        page_owner: OTHER,
        table_owner: Some(OTHER),
    };
    assert_eq!(
        control.update(control.table, 3, theirs.maddr() | RW, their_tables),
        Ok(0)
    );
    assert_eq!(control.update(control.table, 3, 0, their_tables), Ok(0));
    let their_table_own_pages = ForeignDom {
        page_owner: DomId::SELF,
        table_owner: Some(OTHER),
    };
    let refused = control.update(control.table, 3, 0, their_table_own_pages);
    assert_eq!(refused, Err(Errno::Perm));
}

/// Table `n` of those that the other domain began with.
fn page_of_other(control: &Control, n: u64) -> Mfn {
    let world = &control.world;
    world.yield_now(0);
    let mfn = page(world, &control.other, (control.other.pt_base >> 12) + n);
    world.yield_now(0);
    mfn
}

#[test]
fn what_outlives_its_domain_is_nobodys_until_it_is_unmapped() {
    let control = Control::new();
    let world = &control.world;
    let shared = Mfn::from_maddr(control.other.shared_info);
    let mapped = [control.page, shared, control.grants];
    for (pfn, mfn) in (PAGE..).zip(mapped) {
        control.map(pfn, mfn.maddr() | RW, OTHER).unwrap();
    }
    let free = world.hv().memory().free_frames();
    while let Err(error) = world.hv().destroy_domain(OTHER) {
        assert_eq!(error, Errno::Restart);
        world.invariants();
    }
    world.invariants();
    let kept = mapped.len() as u64;
    assert_eq!(world.hv().memory().free_frames(), free + GuestSpec::FRAMES - kept);
    for mfn in mapped {
        assert_eq!(
            (control.refs(mfn).owner(), control.refs(mfn).count()),
            (RefWord::NOBODY, 1)
        );
    }
    assert_eq!(world.read::<u64>(0, PAGE * 4096), 0x5a5a);
    // A successor under the same number has nothing to do with them.
    world.create(1, &GuestSpec::default()).unwrap();
    assert_eq!(
        control.map(PAGE + 3, control.page.maddr() | RO, OTHER),
        Err(Errno::Busy)
    );
    for pfn in (PAGE..).take(mapped.len()) {
        control.map(pfn, 0, DomId::SELF).unwrap();
    }
    assert_eq!(world.hv().memory().free_frames(), free);
}
