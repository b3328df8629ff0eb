//! Local descriptors: their pages are held while a vCPU has them, and they are in its CPU while it runs, and only then.
#![cfg(not(loom))]
#![expect(
    clippy::unwrap_used,
    clippy::arithmetic_side_effects,
    reason = "a test fails by panicking"
)]

use bulkhead_abi::mmu::{MmuExt, MmuExtOp, UVMF_INVLPG};
use bulkhead_abi::selectors::{GUEST_GDT_FRAMES, MAX_GDT_ENTRIES, MAX_LDT_ENTRIES};
use bulkhead_abi::trap::{TrapInfo, Vector};
use bulkhead_abi::vcpu::{SegmentBase, VGCF_ONLINE, VcpuGuestContext, VcpuOp};
use bulkhead_abi::{Errno, Hypercall, pte};
use bulkhead_core::ids::CpuId;
use bulkhead_core::testing::{GuestSpec, SimConfig, World};
use bulkhead_core::vcpu::descriptors::LDT_FRAMES;
use bulkhead_core::{EndPolicy, Exception};

/// The pages of the table, mapped writable at first, and their addresses.
const PAGES: [u64; 2] = [600, 601];
const TABLE: u64 = PAGES[0] << 12;

/// One CPU with the domains 1 and 2, both of which have booted. Domain 1 runs.
fn world() -> World {
    let config = SimConfig {
        free_frames: 2 * GuestSpec::FRAMES,
        cpus: 1,
    };
    let world = World::new(config, EndPolicy::LastDomain);
    for id in 1..=2 {
        world.create(id, &GuestSpec::default()).unwrap();
    }
    world.enter(0);
    for _ in 1..=2 {
        let info = world.boot(0);
        let frame = |page: u64| world.read::<u64>(0, info.mfn_list + page * 8);
        for page in PAGES {
            world.write(0, page << 12, &0x0040_f200_0000_0fff_u64);
            let entry = frame(page) << 12 | pte::PRESENT;
            let args = [page << 12, entry, UVMF_INVLPG];
            world.call(0, Hypercall::UpdateVaMapping, &args).unwrap();
        }
        world.yield_now(0);
    }
    world
}

fn set(world: &World, va: u64, entries: u64) -> Result<u64, Errno> {
    let record = MmuExt {
        cmd: MmuExtOp::SetLdt.raw(),
        arg1: va,
        arg2: entries,
    };
    world.write(0, World::SCRATCH, &record);
    world.call(0, Hypercall::MmuextOp, &[World::SCRATCH, 1, 0, 0x7ff0])
}

/// How many pages and entries the CPU has.
fn loaded(world: &World) -> (usize, u16) {
    let ldt = world.sim().ldt(CpuId::BOOT);
    (ldt.frames.len(), ldt.entries)
}

#[test]
fn local_descriptors_come_and_go_with_their_vcpu() {
    let world = world();
    set(&world, TABLE, 513).unwrap();
    assert_eq!(loaded(&world), (2, 513));
    world.invariants();
    world.yield_now(0);
    assert_eq!((world.running(0), loaded(&world)), (Some((2, 0)), (0, 0)));
    world.invariants();
    world.yield_now(0);
    assert_eq!(loaded(&world), (2, 513));
    set(&world, 0, 0).unwrap();
    assert_eq!(loaded(&world), (0, 0));
    world.invariants();
}

#[test]
fn a_table_with_one_bad_page_is_refused_whole() {
    let world = world();
    set(&world, TABLE, 1).unwrap();
    // The page after the second is writable; the address after that is nobody's.
    for (va, entries) in [(TABLE, 1025), (TABLE + 4096, 513), (TABLE + 8, 1), (TABLE, 8193)] {
        assert_eq!(set(&world, va, entries), Err(Errno::Inval), "{va:#x} {entries}");
        assert_eq!(loaded(&world), (1, 1));
        world.invariants();
    }
}

#[test]
fn a_software_interrupt_is_found_in_the_segment_that_runs() {
    const HANDLER: u64 = 0x1200;
    let world = world();
    // Code of 32 bits that begins at the scratch page: descriptor 1 of the local table.
    let descriptor = 0x0040_fa00_0000_0fff | World::SCRATCH << 16;
    set(&world, TABLE, 2).unwrap();
    let frame = world.sim().ldt(CpuId::BOOT).frames[0];
    world
        .call(0, Hypercall::UpdateDescriptor, &[frame.maddr() | 8, descriptor])
        .unwrap();
    world.set_trap(
        0,
        TrapInfo {
            vector: 0x80,
            flags: 3,
            address: HANDLER,
            ..TrapInfo::default()
        },
    );
    world.write(0, World::SCRATCH + 0x100, &0x80cd_u16);
    world.regs_mut(0).rip = 0x100;
    world.regs_mut(0).cs = 0xf;
    world.raise(
        0,
        Exception {
            vector: Vector::GeneralProtection.raw(),
            error_code: 0x80 << 3 | 2,
            address: 0,
        },
    );
    assert_eq!(world.regs(0).rip, HANDLER);
    let returns_to: u64 = world.read(0, world.regs(0).rsp + 16);
    assert_eq!(returns_to, 0x102, "in the segment");
}

#[test]
fn a_vcpu_begins_with_the_local_descriptors_of_its_first_state() {
    let config = SimConfig {
        free_frames: GuestSpec::FRAMES,
        cpus: 2,
    };
    let world = World::new(config, EndPolicy::LastDomain);
    world.sim().let_waiting_pass_time(false);
    let guest = GuestSpec {
        vcpus: 2,
        ..GuestSpec::default()
    };
    world.create(1, &guest).unwrap();
    world.enter(0);
    let info = world.boot(0);
    for page in PAGES {
        world.write(0, (page << 12) + 8, &0x0040_f200_0000_0fff_u64);
        let frame: u64 = world.read(0, info.mfn_list + page * 8);
        let args = [page << 12, frame << 12 | pte::PRESENT, UVMF_INVLPG];
        world.call(0, Hypercall::UpdateVaMapping, &args).unwrap();
    }
    let mut state = world.first_state(0);
    state.flags |= VGCF_ONLINE;
    state.user_regs.fs.selector = 0xf;
    // The page after the second is writable; the address after that is nobody's; the last has too many.
    for (va, entries) in [
        (TABLE, 1025),
        (TABLE + 4096, 513),
        (TABLE + 8, 1),
        (1 << 47, 1),
        (TABLE, 8193),
    ] {
        (state.ldt_base, state.ldt_ents) = (va, entries);
        assert_eq!(
            world.initialise(0, 1, &state),
            Err(Errno::Inval),
            "{va:#x} {entries}"
        );
        world.invariants();
    }
    (state.ldt_base, state.ldt_ents) = (TABLE, 513);
    assert_eq!(world.initialise(0, 1, &state), Ok(0));
    assert_eq!(world.enter(1), Some((1, 1)));
    let ldt = world.sim().ldt(CpuId::new(1));
    assert_eq!((ldt.frames.len(), ldt.entries), (2, 513));
    assert_eq!(
        world.sim().segments().fs,
        0xf,
        "it was loaded, and nobody told of a failure"
    );
    assert_eq!(world.regs(1).rip, World::SECOND_ENTRY);
    assert_eq!(loaded(&world), (0, 0), "the first has none");
    world.invariants();
}

/// The first of as many pages as there may be of local descriptors, and of others.
const LDT_PAGE: u64 = 640;
const GDT_PAGE: u64 = 700;

/// A domain that has two vCPUs, and all these pages, none of which it can write. Their frames, without those of local descriptors.
fn with_all_pages() -> (World, [u64; GUEST_GDT_FRAMES]) {
    let config = SimConfig {
        free_frames: GuestSpec::FRAMES,
        cpus: 1,
    };
    let world = World::new(config, EndPolicy::LastDomain);
    let guest = GuestSpec {
        vcpus: 2,
        ..GuestSpec::default()
    };
    world.create(1, &guest).unwrap();
    world.enter(0);
    let info = world.boot(0);
    let protect = |page: u64| {
        let frame: u64 = world.read(0, info.mfn_list + page * 8);
        let args = [page << 12, frame << 12 | pte::PRESENT, UVMF_INVLPG];
        world.call(0, Hypercall::UpdateVaMapping, &args).unwrap();
        frame
    };
    for page in (LDT_PAGE..).take(LDT_FRAMES) {
        protect(page);
    }
    let frames = std::array::from_fn(|n| protect(GDT_PAGE + n as u64));
    (world, frames)
}

/// Makes a call one go at a time, and looks at all laws in between: how many goes it took.
fn goes(world: &World, number: Hypercall, args: &[u64]) -> (usize, Result<u64, Errno>) {
    for go in 1..100 {
        if let Some(answer) = world.call_within(0, number.raw(), args, 1) {
            return (go, answer);
        }
        world.invariants();
    }
    panic!("it does not come to an end");
}

#[test]
fn tables_with_all_their_pages_take_several_goes_and_come_to_an_end() {
    let (world, frames) = with_all_pages();
    for (n, frame) in frames.iter().enumerate() {
        world.write(0, World::SCRATCH + n as u64 * 8, frame);
    }
    let args = [World::SCRATCH, u64::from(MAX_GDT_ENTRIES)];
    let (took, answer) = goes(&world, Hypercall::SetGdt, &args);
    assert_eq!(answer, Ok(0));
    assert!(took > 5, "{took} goes");
    let record = MmuExt {
        cmd: MmuExtOp::SetLdt.raw(),
        arg1: LDT_PAGE << 12,
        arg2: u64::from(MAX_LDT_ENTRIES),
    };
    world.write(0, World::SCRATCH, &record);
    let (took, answer) = goes(&world, Hypercall::MmuextOp, &[World::SCRATCH, 1, 0, 0x7ff0]);
    assert_eq!((answer, loaded(&world)), (Ok(0), (LDT_FRAMES, 8192)));
    assert!(took > 5, "{took} goes");
    world.invariants();
}

#[test]
fn a_first_state_with_all_its_pages_takes_several_goes_and_comes_to_an_end() {
    let (world, frames) = with_all_pages();
    let mut state = world.first_state(0);
    state.gdt_frames[..GUEST_GDT_FRAMES].copy_from_slice(&frames);
    state.gdt_ents = u64::from(MAX_GDT_ENTRIES);
    (state.ldt_base, state.ldt_ents) = (LDT_PAGE << 12, u64::from(MAX_LDT_ENTRIES));
    let initialise = |state: &VcpuGuestContext| {
        world.write(0, World::STATE, state);
        let args = [u64::from(VcpuOp::Initialise.raw()), 1, World::STATE];
        goes(&world, Hypercall::VcpuOp, &args)
    };
    // Refused when all has been looked at, and nothing of it remains.
    state.event_callback_eip = 1 << 47;
    let (took, answer) = initialise(&state);
    assert_eq!(answer, Err(Errno::Inval));
    assert!(took > 10, "{took} goes");
    world.invariants();
    state.event_callback_eip = 0;
    let (took, answer) = initialise(&state);
    assert_eq!(answer, Ok(0));
    assert!(took > 10, "{took} goes");
    world.invariants();
}

#[test]
fn a_kernel_loads_gs_for_its_programs_and_keeps_its_own_base() {
    let world = world();
    let set_base = |which: SegmentBase, value: u64| {
        let args = [u64::from(which.raw()), value];
        world.call(0, Hypercall::SetSegmentBase, &args).unwrap();
    };
    set(&world, TABLE, 2).unwrap();
    let frame = world.sim().ldt(CpuId::BOOT).frames[0];
    let descriptor = 0x1240_f334_5678_ffff;
    world
        .call(0, Hypercall::UpdateDescriptor, &[frame.maddr() | 8, descriptor])
        .unwrap();
    set_base(SegmentBase::GsKernel, 0xffff_8880_0000_0000);
    // Whatever the privilege that it asks for.
    for selector in [0xf, 0xc] {
        set_base(SegmentBase::GsUser, 1);
        set_base(SegmentBase::GsUserSel, selector);
        let found = world.sim().segments();
        assert_eq!(
            (found.gs, found.gs_base_other),
            (0xf, 0x1234_5678),
            "{selector:#x}"
        );
        assert_eq!(found.gs_base, 0xffff_8880_0000_0000);
    }
    // Not there, ring 0's, and none.
    for selector in [0x17, 0xe010, 0xe008, 0xe040, 0xffff, 0, 3] {
        set_base(SegmentBase::GsUserSel, 0xf);
        set_base(SegmentBase::GsUserSel, selector);
        let found = world.sim().segments();
        assert_eq!(found.gs & !3, 0, "{selector:#x}");
        assert_eq!(found.gs_base, 0xffff_8880_0000_0000);
    }
    world.invariants();
}
