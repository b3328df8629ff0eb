//! Page-table hypercalls, one rule at a time: what is refused and how, what is done and how far, and what guests of their kind
//! depend on. The random histories of `hypercalls_hostile` look for what nobody thought of.
#![cfg(not(loom))]
#![expect(
    clippy::unwrap_used,
    clippy::arithmetic_side_effects,
    reason = "a test fails by panicking"
)]

mod entries;
mod exchanges;
mod foreign;
mod lists;
mod tables;
mod taken_down;

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
