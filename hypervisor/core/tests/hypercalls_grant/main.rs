//! Grants, one rule at a time: what they allow, what is refused and how, and what the grantor sees.
#![cfg(not(loom))]
#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    reason = "a test fails by panicking"
)]

mod copies;
mod giving;
mod mappings;
mod table;

use bulkhead_abi::grant::{
    CopyEnd, Flip, GNTCOPY_DEST_GREF, GNTCOPY_SOURCE_GREF, GNTMAP_APPLICATION_MAP, GNTMAP_AVAIL_SHIFT,
    GNTMAP_CONTAINS_PTE, GNTMAP_DEVICE_MAP, GNTMAP_HOST_MAP, GNTMAP_READONLY, GTF_ACCEPT_TRANSFER, GTF_FLIP,
    GTF_PERMIT_ACCESS, GTF_READING, GTF_READONLY, GTF_TRANSFER_COMMITTED, GTF_TRANSFER_COMPLETED,
    GTF_WRITING, GetVersion, GrantCopy, GrantEntry, GrantStatus, GrantTableOp, MapGrantRef, QuerySize,
    SetVersion, SetupTable, SwapGrantRef, UnmapAndReplace, UnmapGrantRef,
};
use bulkhead_abi::mmu::{MmuExt, MmuExtOp};
use bulkhead_abi::start_info::StartInfo;
use bulkhead_abi::{Buffered, DomId, Errno, Hypercall, Record, pte};
use bulkhead_core::EndPolicy;
use bulkhead_core::frames::Mfn;
use bulkhead_core::grants::Limits;
use bulkhead_core::ids::CpuId;
use bulkhead_core::testing::{GuestSpec, SimConfig, World};

/// The grantor runs on the first CPU, the grantee on the second.
const GRANTOR: usize = 0;
const GRANTEE: usize = 1;

/// Their domains.
const OWNER: DomId = DomId::new(1);
const USER: DomId = DomId::new(2);

/// A page of either that is nothing in particular.
const PAGE: u64 = 600;
/// Another.
const OTHER: u64 = 601;
const GREF: u32 = 9;

const OKAY: i16 = GrantStatus::Okay.raw();

struct Pair {
    world: World,
    info: [StartInfo; 2],
}

impl Pair {
    fn new() -> Self {
        let config = SimConfig {
            free_frames: 2 * GuestSpec::FRAMES + 70,
            cpus: 2,
        };
        let world = World::new(config, EndPolicy::LastDomain);
        let info = [GRANTOR, GRANTEE].map(|cpu| {
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

    /// The frame of a page.
    fn frame(&self, cpu: usize, pfn: u64) -> Mfn {
        Mfn::new(self.world.read(cpu, self.info[cpu].mfn_list + pfn * 8)).unwrap()
    }

    /// The grantor lets the grantee use its page.
    fn grant(&self, flags: u16) {
        self.grant_frame(flags, self.frame(GRANTOR, PAGE));
    }

    fn grant_frame(&self, flags: u16, mfn: Mfn) {
        let entry = GrantEntry {
            flags,
            domid: USER,
            frame: u32::try_from(mfn.raw()).unwrap(),
        };
        self.world.set_grant(GRANTOR, GREF, entry);
    }

    /// The flags of the entry, as the grantor sees them.
    fn flags(&self) -> u16 {
        self.world.grant(GRANTOR, GREF).flags
    }

    /// The grantee maps the grant.
    fn map(&self, flags: u32, host_addr: u64) -> MapGrantRef {
        self.map_as(MapGrantRef {
            host_addr,
            flags,
            gref: GREF,
            dom: OWNER,
            ..MapGrantRef::ZERO
        })
    }

    fn map_as(&self, map: MapGrantRef) -> MapGrantRef {
        let mapped = self.world.grant_op(GRANTEE, GrantTableOp::MapGrantRef, map);
        self.world.invariants();
        mapped.unwrap()
    }

    fn mapped(&self, flags: u32, host_addr: u64) -> MapGrantRef {
        let mapped = self.map(flags, host_addr);
        assert_eq!(mapped.status, OKAY);
        mapped
    }

    /// The grantee unmaps it.
    fn unmap(&self, handle: u32, host_addr: u64, dev_bus_addr: u64) -> i16 {
        let unmap = UnmapGrantRef {
            host_addr,
            dev_bus_addr,
            handle,
            ..UnmapGrantRef::ZERO
        };
        let unmapped = self.world.grant_op(GRANTEE, GrantTableOp::UnmapGrantRef, unmap);
        self.world.invariants();
        unmapped.unwrap().status
    }

    fn copy(&self, copy: GrantCopy) -> i16 {
        let copied = self.world.grant_op(GRANTEE, GrantTableOp::Copy, copy);
        self.world.invariants();
        copied.unwrap().status
    }

    fn update_va(&self, cpu: usize, va: u64, entry: u64) -> Result<u64, Errno> {
        let answer = self.world.call(cpu, Hypercall::UpdateVaMapping, &[va, entry, 2]);
        self.world.invariants();
        answer
    }

    /// Whether the grantee can read at `va`, and write.
    fn reaches(&self, va: u64) -> (bool, bool) {
        let _: u64 = self.world.read(GRANTEE, World::SCRATCH);
        let sim = self.world.sim();
        let can_read = sim.guest_read(va, &mut [0]).is_ok();
        (can_read, sim.guest_write(va, &[0]).is_ok())
    }

    /// The machine address of the entry that maps `va` in the grantee's first tables.
    fn slot(&self, va: u64) -> u64 {
        let mut table = self.frame(GRANTEE, self.info[GRANTEE].pt_base >> 12);
        for shift in [39, 30, 21] {
            let index = usize::try_from(va >> shift & 0x1ff).unwrap();
            let words = self.world.sim().ram().frame(table);
            table =
                Mfn::from_maddr(words[index].load(bulkhead_core::sync::Ordering::Relaxed) & pte::FRAME_MASK);
        }
        table.maddr() | (va >> 12 & 0x1ff) << 3
    }

    /// The entry itself.
    fn entry(&self, va: u64) -> u64 {
        let at = self.slot(va);
        let words = self.world.sim().ram().frame(Mfn::from_maddr(at));
        words[usize::try_from(at >> 3 & 0x1ff).unwrap()].load(bulkhead_core::sync::Ordering::Relaxed)
    }
}

fn status(status: GrantStatus) -> i16 {
    status.raw()
}

const VA: u64 = PAGE << 12;
