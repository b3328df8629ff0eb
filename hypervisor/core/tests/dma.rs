//! What devices reach, one rule at a time: what is mapped for them and what their domain has pinned, and nothing else, for exactly as long.
#![cfg(not(loom))]
#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    reason = "a test fails by panicking"
)]

use bulkhead_abi::extension::{DMA_LIST, DMA_READ_ONLY, DmaRange, ExtensionOp};
use bulkhead_abi::grant::{
    GNTMAP_DEVICE_MAP, GNTMAP_HOST_MAP, GNTMAP_READONLY, GTF_ACCEPT_TRANSFER, GTF_FLIP, GTF_PERMIT_ACCESS,
    GrantEntry, GrantStatus, GrantTableOp, MapGrantRef, Transfer, UnmapGrantRef,
};
use bulkhead_abi::memory::{MemoryOp, MemoryReservation};
use bulkhead_abi::mmu::{MmuExt, MmuExtOp};
use bulkhead_abi::start_info::StartInfo;
use bulkhead_abi::{DomId, Errno, Hypercall, Record};
use bulkhead_core::EndPolicy;
use bulkhead_core::frames::Mfn;
use bulkhead_core::ids::CpuId;
use bulkhead_core::pci::FunctionId;
use bulkhead_core::testing::{Access, GuestSpec, SimConfig, World, check_locks};

/// The domain of the devices runs on the first CPU, one that grants it pages on the second.
const DRIVER: usize = 0;
const GUEST: usize = 1;

/// The number of the domain of devices, and that of the other.
const OWNER: u16 = 1;
const OTHER: u16 = 2;

/// Pages that are nothing in particular, of either.
const PAGE: u64 = 600;
const GREF: u32 = 9;

/// A function that the driver has.
const FUNCTION: FunctionId = FunctionId::new(0x0123);

const OKAY: i16 = GrantStatus::Okay.raw();

struct Pair {
    world: World,
    info: [StartInfo; 2],
}

impl Pair {
    /// With so many frames that are nobody's.
    fn with_free(free: u64) -> Self {
        check_locks();
        let config = SimConfig {
            free_frames: 2 * GuestSpec::FRAMES + free,
            cpus: 2,
        };
        let world = World::new(config, EndPolicy::LastDomain);
        let info = [DRIVER, GUEST].map(|cpu| {
            let guest = GuestSpec {
                home: Some(CpuId::new(u32::try_from(cpu).unwrap())),
                ..GuestSpec::default()
            };
            world.create(u16::try_from(cpu + 1).unwrap(), &guest).unwrap();
            world.enter(cpu).unwrap();
            let info = world.boot(cpu);
            world.map_grant_table(cpu);
            info
        });
        Self { world, info }
    }

    /// The driver has its function.
    fn new() -> Self {
        let pair = Self::with_free(64);
        pair.world.attach(FUNCTION, OWNER);
        pair
    }

    fn frame(&self, cpu: usize, pfn: u64) -> Mfn {
        Mfn::new(self.world.read(cpu, self.info[cpu].mfn_list + pfn * 8)).unwrap()
    }

    /// Whether the function can read a frame, and write it. It remembers what it may do.
    fn reaches(&self, frame: Mfn) -> (bool, bool) {
        let reached =
            [Access::Read, Access::Write].map(|access| self.world.sim().dma(FUNCTION, frame, access));
        self.world.invariants();
        (reached[0], reached[1])
    }

    /// The guest lets the driver use its page.
    fn grant(&self) -> Mfn {
        let frame = self.frame(GUEST, PAGE);
        self.grant_frame(GTF_PERMIT_ACCESS, frame);
        frame
    }

    fn grant_frame(&self, flags: u16, frame: Mfn) {
        let entry = GrantEntry {
            flags,
            domid: DomId::new(OWNER),
            frame: u32::try_from(frame.raw()).unwrap(),
        };
        self.world.set_grant(GUEST, GREF, entry);
    }

    fn map_at(&self, flags: u32, host_addr: u64) -> MapGrantRef {
        let map = MapGrantRef {
            host_addr,
            flags,
            gref: GREF,
            dom: DomId::new(OTHER),
            ..MapGrantRef::ZERO
        };
        let mapped = self.world.grant_op(DRIVER, GrantTableOp::MapGrantRef, map);
        self.world.invariants();
        mapped.unwrap()
    }

    fn mapped(&self, flags: u32) -> MapGrantRef {
        let mapped = self.map_at(flags | GNTMAP_DEVICE_MAP, 0);
        assert_eq!(mapped.status, OKAY);
        mapped
    }

    fn unmap(&self, mapped: MapGrantRef) {
        let unmap = UnmapGrantRef {
            dev_bus_addr: mapped.dev_bus_addr,
            handle: mapped.handle,
            ..UnmapGrantRef::ZERO
        };
        let unmapped = self.world.grant_op(DRIVER, GrantTableOp::UnmapGrantRef, unmap);
        self.world.invariants();
        assert_eq!(unmapped.unwrap().status, OKAY);
    }

    /// The driver pins or unpins frames. Returns what is left to be done.
    fn pins(&self, op: ExtensionOp, range: DmaRange) -> (Result<u64, Errno>, DmaRange) {
        self.world.write(DRIVER, World::SCRATCH, &range);
        let args = [u64::from(op.raw()), World::SCRATCH];
        let answer = self.world.call(DRIVER, Hypercall::ExtensionOp, &args);
        self.world.invariants();
        (answer, self.world.read(DRIVER, World::SCRATCH))
    }

    fn pin(&self, first: Mfn, count: u64, flags: u32) -> (Result<u64, Errno>, DmaRange) {
        let range = DmaRange {
            first: first.raw(),
            count,
            flags,
            reserved: 0,
        };
        self.pins(ExtensionOp::DmaPin, range)
    }

    fn unpin(&self, first: Mfn, count: u64) -> (Result<u64, Errno>, DmaRange) {
        let range = DmaRange {
            first: first.raw(),
            count,
            ..DmaRange::default()
        };
        self.pins(ExtensionOp::DmaUnpin, range)
    }

    fn pinned(&self, frame: Mfn, flags: u32) {
        assert_eq!(self.pin(frame, 1, flags).0, Ok(0));
    }

    /// Takes the driver's page out of its tables.
    fn unshow(&self, page: u64) {
        let bared = self
            .world
            .call(DRIVER, Hypercall::UpdateVaMapping, &[page << 12, 0, 2]);
        assert_eq!(bared, Ok(0));
    }

    /// The driver makes a page table of a frame.
    fn make_table(&self, frame: Mfn) -> Result<u64, Errno> {
        let op = MmuExt {
            cmd: MmuExtOp::PinL1Table.raw(),
            arg1: frame.raw(),
            arg2: 0,
        };
        self.world.write(DRIVER, World::SCRATCH, &op);
        let own = u64::from(DomId::SELF.raw());
        self.world
            .call(DRIVER, Hypercall::MmuextOp, &[World::SCRATCH, 1, 0, own])
    }

    fn free(&self) -> u64 {
        self.world.hv().memory().free_frames()
    }

    fn destroy(&self, id: u16) {
        let destroy = || self.world.hv().destroy_domain(DomId::new(id));
        for _ in 0..1000 {
            let ended = destroy();
            self.world.invariants();
            if ended.is_ok() {
                return;
            }
            for cpu in [DRIVER, GUEST] {
                self.world.enter(cpu);
            }
        }
        panic!("domain {id} is never destroyed");
    }
}

#[test]
fn a_device_reaches_nothing_that_was_not_given_to_it() {
    let pair = Pair::new();
    for cpu in [DRIVER, GUEST] {
        let table = pair.frame(cpu, pair.info[cpu].pt_base >> 12);
        for frame in [pair.frame(cpu, PAGE), table] {
            assert_eq!(pair.reaches(frame), (false, false));
        }
    }
    for raw in [0, 1 << 26, 1 << 27, 1 << 39] {
        assert_eq!(pair.reaches(Mfn::new(raw).unwrap()), (false, false));
    }
}

#[test]
fn a_device_reaches_a_grant_while_it_is_mapped_for_it_and_as_it_is() {
    let pair = Pair::new();
    let frame = pair.grant();
    let to_read = pair.mapped(GNTMAP_READONLY);
    assert_eq!(pair.reaches(frame), (true, false));
    let to_write = pair.mapped(0);
    assert_eq!(
        pair.reaches(frame),
        (true, true),
        "what it remembers allowed less"
    );
    let again = pair.mapped(0);
    pair.unmap(to_write);
    assert_eq!(pair.reaches(frame), (true, true), "mapped for writing still");
    pair.unmap(again);
    assert_eq!(pair.reaches(frame), (true, false));
    pair.unmap(to_read);
    assert_eq!(pair.reaches(frame), (false, false));
}

#[test]
fn a_grant_that_is_mapped_for_the_domain_alone_is_out_of_its_devices_reach() {
    let pair = Pair::new();
    let frame = pair.grant();
    assert_eq!(pair.map_at(GNTMAP_HOST_MAP, PAGE << 12).status, OKAY);
    assert_eq!(pair.reaches(frame), (false, false));
    // Nor is one whose other part is refused.
    let refused = pair.map_at(GNTMAP_HOST_MAP | GNTMAP_DEVICE_MAP, 1 << 40);
    assert_eq!(refused.status, GrantStatus::GeneralError.raw());
    assert_eq!(pair.reaches(frame), (false, false));
}

#[test]
fn a_batch_of_unmappings_costs_one_flush_and_mapping_none() {
    let pair = Pair::new();
    pair.grant();
    let before = pair.world.sim().dma_flushes();
    let mapped: Vec<MapGrantRef> = (0..20).map(|_| pair.mapped(0)).collect();
    let flushes = || pair.world.sim().dma_flushes() - before;
    assert_eq!(flushes(), 0);
    let unmap = |mapped: &MapGrantRef| UnmapGrantRef {
        dev_bus_addr: mapped.dev_bus_addr,
        handle: mapped.handle,
        ..UnmapGrantRef::ZERO
    };
    for (n, element) in (0..).zip(mapped.iter().map(unmap)) {
        pair.world
            .write(DRIVER, World::LIST + n * UnmapGrantRef::SIZE as u64, &element);
    }
    let args = [
        u64::from(GrantTableOp::UnmapGrantRef.raw()),
        World::LIST,
        mapped.len() as u64,
    ];
    assert_eq!(pair.world.call(DRIVER, Hypercall::GrantTableOp, &args), Ok(0));
    pair.world.invariants();
    assert_eq!(flushes(), 1, "for the last of them");
}

#[test]
fn a_device_reaches_what_its_domain_has_pinned_and_as_it_did() {
    let pair = Pair::new();
    let first = pair.frame(DRIVER, PAGE);
    let frames: Vec<Mfn> = (0..100).map(|n| first.offset(n).unwrap()).collect();
    assert_eq!(pair.frame(DRIVER, PAGE + 99), frames[99], "they lie together");
    let done = DmaRange {
        first: first.raw() + 100,
        ..DmaRange::default()
    };
    assert_eq!(pair.pin(first, 100, 0), (Ok(0), done));
    for &frame in &frames {
        assert_eq!(pair.reaches(frame), (true, true));
    }
    assert_eq!(pair.reaches(first.offset(100).unwrap()), (false, false));
    let flushes = pair.world.sim().dma_flushes();
    assert_eq!(pair.unpin(first, 100), (Ok(0), done));
    assert_eq!(pair.world.sim().dma_flushes() - flushes, 4, "a portion each");
    for &frame in &frames {
        assert_eq!(pair.reaches(frame), (false, false));
    }
    pair.pinned(first, DMA_READ_ONLY);
    assert_eq!(pair.reaches(first), (true, false));
}

#[test]
fn a_pin_that_is_refused_says_where() {
    let pair = Pair::new();
    let first = pair.frame(DRIVER, PAGE);
    let second = first.offset(1).unwrap();
    let left = |first: Mfn, count: u64| DmaRange {
        first: first.raw(),
        count,
        ..DmaRange::default()
    };
    pair.pinned(second, DMA_READ_ONLY);
    for flags in [0, DMA_READ_ONLY] {
        let expected = DmaRange {
            flags,
            ..left(second, 1)
        };
        assert_eq!(pair.pin(first, 2, flags), (Err(Errno::Exist), expected));
        assert_eq!(pair.unpin(first, 1).0, Ok(0), "it was done");
    }
    assert_eq!(pair.reaches(second), (true, false), "as it was");
    assert_eq!(pair.unpin(first, 2), (Err(Errno::NoEnt), left(first, 2)));
    let others = pair.frame(GUEST, PAGE);
    let device = pair.world.sim().device_frames()[0];
    for frame in [others, device, Mfn::new(1 << 30).unwrap()] {
        for flags in [0, DMA_READ_ONLY] {
            let refused = DmaRange {
                flags,
                ..left(frame, 1)
            };
            assert_eq!(pair.pin(frame, 1, flags), (Err(Errno::Inval), refused));
        }
        assert_eq!(pair.unpin(frame, 1), (Err(Errno::NoEnt), left(frame, 1)));
    }
    for (first, flags, reserved) in [(u64::MAX, 0, 0), (first.raw(), 4, 0), (first.raw(), 0, 1)] {
        let range = DmaRange {
            first,
            count: 1,
            flags,
            reserved,
        };
        for op in [ExtensionOp::DmaPin, ExtensionOp::DmaUnpin] {
            assert_eq!(pair.pins(op, range), (Err(Errno::Inval), range));
        }
    }
    assert_eq!(pair.pin(first, 0, 0).0, Ok(0), "nothing to do");
    for op in [ExtensionOp::DmaPin, ExtensionOp::DmaUnpin] {
        let args = [u64::from(op.raw()), 1 << 40];
        let answer = pair.world.call(DRIVER, Hypercall::ExtensionOp, &args);
        assert_eq!(answer, Err(Errno::Fault));
    }
}

#[test]
fn frames_of_a_list_are_pinned_wherever_they_lie_until_one_is_refused() {
    /// Where the list is.
    const LIST: u64 = World::SCRATCH + 0x100;
    let pair = Pair::new();
    let frames = [PAGE, PAGE + 2, PAGE + 1].map(|page| pair.frame(DRIVER, page));
    let numbers = frames.map(Mfn::raw);
    pair.world.write(DRIVER, LIST, &numbers[0]);
    pair.world.write(DRIVER, LIST + 8, &numbers[1]);
    pair.world.write(DRIVER, LIST + 16, &numbers[2]);
    let list = |done: u64, count| DmaRange {
        first: LIST + 8 * done,
        count,
        flags: DMA_LIST,
        reserved: 0,
    };
    assert_eq!(pair.pins(ExtensionOp::DmaPin, list(0, 3)), (Ok(0), list(3, 0)));
    assert!(frames.iter().all(|frame| pair.reaches(*frame) == (true, true)));
    assert_eq!(pair.unpin(frames[1], 1).0, Ok(0));
    let refused = (Err(Errno::NoEnt), list(1, 2));
    assert_eq!(pair.pins(ExtensionOp::DmaUnpin, list(0, 3)), refused);
    let reached = frames.map(|frame| pair.reaches(frame).0);
    assert_eq!(reached, [false, false, true]);
    let to_read = DmaRange {
        flags: DMA_LIST | DMA_READ_ONLY,
        ..list(0, 1)
    };
    assert_eq!(pair.pins(ExtensionOp::DmaPin, to_read).0, Ok(0));
    assert_eq!(pair.reaches(frames[0]), (true, false));
    let nowhere = DmaRange {
        first: 1 << 40,
        ..list(0, 1)
    };
    for op in [ExtensionOp::DmaPin, ExtensionOp::DmaUnpin] {
        assert_eq!(pair.pins(op, nowhere), (Err(Errno::Fault), nowhere));
    }
}

#[test]
fn a_page_table_is_pinned_to_be_read_and_what_is_pinned_to_be_written_becomes_none() {
    let pair = Pair::new();
    let table = pair.frame(DRIVER, pair.info[DRIVER].pt_base >> 12);
    assert_eq!(pair.pin(table, 1, 0).0, Err(Errno::Inval));
    pair.pinned(table, DMA_READ_ONLY);
    assert_eq!(pair.reaches(table), (true, false));
    let frame = pair.frame(DRIVER, PAGE);
    pair.pinned(frame, 0);
    pair.unshow(PAGE);
    assert_eq!(pair.make_table(frame), Err(Errno::Inval));
    assert_eq!(pair.unpin(frame, 1).0, Ok(0));
    assert_eq!(pair.make_table(frame), Ok(0));
    assert_eq!(pair.pin(frame, 1, 0).0, Err(Errno::Inval));
}

#[test]
fn what_is_pinned_is_not_given_away() {
    let pair = Pair::new();
    let frame = pair.frame(DRIVER, PAGE);
    pair.pinned(frame, DMA_READ_ONLY);
    pair.unshow(PAGE);
    pair.grant_frame(GTF_ACCEPT_TRANSFER, Mfn::new(0).unwrap());
    let given = |op: GrantTableOp| {
        let transfer = Transfer {
            mfn: frame.raw(),
            domid: DomId::new(OTHER),
            gref: GREF,
            ..Transfer::ZERO
        };
        let answer = pair.world.grant_op(DRIVER, op, transfer).unwrap();
        pair.world.invariants();
        answer.status
    };
    let bad_page = GrantStatus::BadPage.raw();
    assert_eq!(given(GrantTableOp::Transfer), bad_page);
    let offered = pair.frame(GUEST, PAGE);
    pair.grant_frame(GTF_ACCEPT_TRANSFER | GTF_FLIP, offered);
    let bared = pair
        .world
        .call(GUEST, Hypercall::UpdateVaMapping, &[PAGE << 12, 0, 2]);
    assert_eq!(bared, Ok(0));
    assert_eq!(given(GrantTableOp::Flip), bad_page);
    let back = MemoryReservation {
        extent_start: World::LIST,
        nr_extents: 1,
        domid: DomId::SELF,
        ..MemoryReservation::default()
    };
    pair.world.write(DRIVER, World::LIST, &frame.raw());
    pair.world.write(DRIVER, World::SCRATCH, &back);
    let decrease = [u64::from(MemoryOp::DecreaseReservation.raw()), World::SCRATCH];
    let give_back = || pair.world.call(DRIVER, Hypercall::MemoryOp, &decrease);
    assert_eq!(give_back(), Ok(0), "none");
    assert_eq!(pair.reaches(frame), (true, false));
    assert_eq!(pair.unpin(frame, 1).0, Ok(0));
    assert_eq!(given(GrantTableOp::Flip), OKAY);
    assert_eq!(pair.reaches(frame), (false, false));
}

#[test]
fn a_frame_that_was_pinned_and_mapped_is_reached_until_both_have_ended() {
    let pair = Pair::new();
    let frame = pair.frame(DRIVER, PAGE);
    pair.pinned(frame, DMA_READ_ONLY);
    // It grants it to itself.
    let entry = GrantEntry {
        flags: GTF_PERMIT_ACCESS,
        domid: DomId::new(OWNER),
        frame: u32::try_from(frame.raw()).unwrap(),
    };
    pair.world.set_grant(DRIVER, GREF, entry);
    let map = MapGrantRef {
        flags: GNTMAP_DEVICE_MAP,
        gref: GREF,
        dom: DomId::SELF,
        ..MapGrantRef::ZERO
    };
    assert_eq!(pair.reaches(frame), (true, false));
    let mapped = pair
        .world
        .grant_op(DRIVER, GrantTableOp::MapGrantRef, map)
        .unwrap();
    assert_eq!(pair.reaches(frame), (true, true));
    assert_eq!(pair.unpin(frame, 1).0, Ok(0));
    assert_eq!(pair.reaches(frame), (true, true));
    pair.unmap(mapped);
    assert_eq!(pair.reaches(frame), (false, false));
}

#[test]
fn when_its_domain_ends_a_device_reaches_nothing_and_every_frame_comes_back() {
    for has_function in [false, true] {
        let pair = Pair::with_free(64);
        let free = pair.free();
        if has_function {
            pair.world.attach(FUNCTION, OWNER);
        }
        let granted = pair.grant();
        pair.mapped(0);
        pair.mapped(GNTMAP_READONLY);
        let own = pair.frame(DRIVER, PAGE);
        assert_eq!(pair.pin(own, 300, 0).0, Ok(0));
        assert_eq!(pair.pin(own.offset(300).unwrap(), 20, DMA_READ_ONLY).0, Ok(0));
        assert_eq!(pair.reaches(granted).1, has_function);
        assert_eq!(pair.reaches(own).1, has_function);
        assert!(pair.free() < free, "the tree is of these");
        pair.destroy(OWNER);
        assert_eq!(pair.free(), free + GuestSpec::FRAMES);
        assert_eq!(pair.reaches(granted), (false, false));
        assert_eq!(pair.world.sim().attached(), []);
        assert_eq!(pair.world.sim().dma_cached(), []);
    }
}

#[test]
fn what_a_device_still_holds_of_a_guest_that_ends_is_nobodys_until_it_lets_go() {
    let pair = Pair::new();
    let frame = pair.grant();
    let mapped = pair.mapped(0);
    let free = pair.free();
    pair.destroy(OTHER);
    assert_eq!(pair.free(), free + GuestSpec::FRAMES - 1);
    assert_eq!(pair.reaches(frame), (true, true));
    pair.unmap(mapped);
    assert_eq!(pair.free(), free + GuestSpec::FRAMES);
    assert_eq!(pair.reaches(frame), (false, false));
}

#[test]
fn where_there_is_no_memory_for_the_tree_it_is_said_and_nothing_is_held() {
    // Of the first tree, three levels and counts need four frames.
    for free in 0..4 {
        let pair = Pair::with_free(free);
        let frame = pair.grant();
        let own = pair.frame(DRIVER, PAGE);
        let map = pair.map_at(GNTMAP_DEVICE_MAP, 0);
        assert_eq!(map.status, GrantStatus::NoDeviceSpace.raw());
        let left = DmaRange {
            first: own.raw(),
            count: 2,
            ..DmaRange::default()
        };
        assert_eq!(pair.pin(own, 2, 0), (Err(Errno::NoMem), left));
        let refs = |frame: Mfn| pair.world.hv().memory().frames().refs(frame).unwrap().count();
        assert_eq!(
            (refs(frame), refs(own)),
            (2, 2),
            "its domain's, and that of the page table's entry"
        );
        pair.destroy(OWNER);
        assert_eq!(pair.free(), free + GuestSpec::FRAMES);
    }
}

#[test]
fn a_function_that_is_taken_away_reaches_nothing_and_its_next_domain_only_its_own() {
    let pair = Pair::new();
    let frame = pair.frame(DRIVER, PAGE);
    pair.pinned(frame, 0);
    assert_eq!(pair.reaches(frame), (true, true));
    pair.world.attach(FUNCTION, OTHER);
    assert_eq!(pair.reaches(frame), (false, false));
    pair.world.attach(FUNCTION, OWNER);
    assert_eq!(pair.reaches(frame), (true, true), "as it was left");
}

#[test]
fn a_device_reaches_what_it_is_given_where_hardware_remembers_that_there_was_nothing() {
    let pair = Pair::new();
    pair.world.sim().remember_no_dma();
    let [granted, own] = [pair.grant(), pair.frame(DRIVER, PAGE)];
    assert_eq!(pair.reaches(granted), (false, false));
    assert_eq!(pair.reaches(own), (false, false));
    let mapped = pair.mapped(0);
    pair.pinned(own, 0);
    assert_eq!(pair.reaches(granted), (true, true));
    assert_eq!(pair.reaches(own), (true, true));
    pair.unmap(mapped);
    assert_eq!(pair.reaches(granted), (false, false));
    pair.mapped(GNTMAP_READONLY);
    assert_eq!(pair.reaches(granted), (true, false));
}

#[test]
fn a_function_that_nothing_confines_is_nobodys_where_others_are_confined() {
    let pair = Pair::with_free(64);
    let sim = pair.world.sim();
    sim.leave_unconfined(FUNCTION);
    let memory = pair.world.hv().memory();
    let owner = pair.world.hv().domain(DomId::new(OWNER)).unwrap();
    assert_eq!(memory.attach_function(&owner, FUNCTION), Err(Errno::Acces));
    assert_eq!(sim.attached(), []);
    pair.world.invariants();
    let another = FunctionId::new(0x0124);
    assert_eq!(memory.attach_function(&owner, another), Ok(()));
    assert_eq!(sim.attached().len(), 1);
}
