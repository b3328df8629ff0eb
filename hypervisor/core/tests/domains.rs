//! Domains that the hypervisor builds by itself: what a guest finds at its start (the guest ABI's section 2), and that a
//! domain which cannot be built leaves nothing behind.
#![cfg(not(loom))]
#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    reason = "a test fails by panicking"
)]

use bulkhead_abi::elfnote::ElfNote;
use bulkhead_abi::layout::{PAGE_SIZE, is_guest_range};
use bulkhead_abi::shared_info::{LEGACY_VCPUS, SharedInfo};
use bulkhead_abi::start_info::{self, StartInfo};
use bulkhead_abi::version::Feature;
use bulkhead_abi::{DomId, Record, hypercall_page, pte, selectors};
use bulkhead_core::domains::builder::BuildError;
use bulkhead_core::frames::{Kind, Mfn};
use bulkhead_core::ids::CpuId;
use bulkhead_core::paging::Level;
use bulkhead_core::sync::Ordering;
use bulkhead_core::testing::{GuestSpec, SimConfig, TestKernel, World};
use bulkhead_core::vcpu::{Regs, Segments};
use bulkhead_core::{EndPolicy, Machine};
use bulkhead_image::{ImageError, PlanError};

const PAGE: u64 = PAGE_SIZE as u64;

/// A world whose only domain has just been entered for the first time.
struct Started {
    world: World,
    regs: Regs,
    info: StartInfo,
    /// Address of page 0 in the first mapping.
    base: u64,
}

impl Started {
    fn new(id: u16, kernel: &TestKernel, guest: GuestSpec<'_>) -> Self {
        let world = World::new(SimConfig::default(), EndPolicy::LastDomain);
        let guest = GuestSpec {
            kernel: kernel.build(),
            ..guest
        };
        world.create(id, &guest).unwrap();
        world.invariants();
        assert_eq!(world.enter(0), Some((id, 0)));
        world.invariants();
        let regs = world.regs(0);
        let info = StartInfo::read_from(&read(&world, regs.rsi, StartInfo::SIZE)).unwrap();
        Self {
            world,
            regs,
            info,
            base: kernel.virt_base.unwrap_or(0),
        }
    }

    /// The page number of an address in the first mapping.
    fn pfn(&self, va: u64) -> u64 {
        (va - self.base) / PAGE
    }

    fn va(&self, pfn: u64) -> u64 {
        self.base + pfn * PAGE
    }

    /// Where the guest reads that page `pfn` is.
    fn mfn(&self, pfn: u64) -> Mfn {
        let entry = read(&self.world, self.info.mfn_list + pfn * 8, 8);
        Mfn::new(u64::read_from(&entry).unwrap()).unwrap()
    }

    /// The entry at `level` through which `va` goes, if there is a table for it.
    fn entry(&self, level: Level, va: u64) -> Option<u64> {
        let sim = self.world.sim();
        let mut table = sim.root(CpuId::BOOT).unwrap();
        for at in [Level::L4, Level::L3, Level::L2, Level::L1] {
            let entry = sim.frame(table)[at.index(va)].load(Ordering::Relaxed);
            if at == level {
                return Some(entry);
            }
            if entry & pte::PRESENT == 0 {
                return None;
            }
            table = Mfn::from_maddr(entry & pte::FRAME_MASK);
        }
        None
    }

    fn kind(&self, pfn: u64) -> Kind {
        let typing = self.world.hv().memory().frames().typing(self.mfn(pfn)).unwrap();
        if typing.count() == 0 {
            Kind::None
        } else {
            typing.kind()
        }
    }

    fn shared_info(&self) -> SharedInfo {
        let mut bytes = [0; SharedInfo::SIZE];
        let frame = Mfn::from_maddr(self.info.shared_info);
        self.world.sim().ram().read(frame, 0, &mut bytes);
        SharedInfo::read_from(&bytes).unwrap()
    }

    /// The page after the last that is mapped from the base on.
    fn end(&self) -> u64 {
        let is_mapped = |pfn: &u64| {
            self.entry(Level::L1, self.va(*pfn))
                .is_some_and(|entry| entry & pte::PRESENT != 0)
        };
        (0..).take_while(is_mapped).count() as u64
    }
}

/// Reads guest memory on CPU 0. The pages of the guest's kernel are read, not marked dirty.
fn read(world: &World, at: u64, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    world.sim().act_as(CpuId::BOOT);
    world.sim().guest_read(at, &mut bytes).unwrap();
    bytes
}

fn linux(ramdisk: Option<&[u8]>) -> Started {
    let guest = GuestSpec {
        ramdisk: ramdisk.map(<[u8]>::to_vec),
        pages: 1500,
        vcpus: 3,
        cmdline: "root=/dev/xvda1 quiet",
        ..GuestSpec::default()
    };
    Started::new(7, &TestKernel::like_linux(), guest)
}

fn plain(ramdisk: Option<&[u8]>) -> Started {
    let guest = GuestSpec {
        ramdisk: ramdisk.map(<[u8]>::to_vec),
        ..GuestSpec::default()
    };
    Started::new(0, &TestKernel::default(), guest)
}

#[test]
fn the_first_vcpu_starts_with_the_registers_of_the_abi() {
    let guest = linux(None);
    let stack = guest.pfn(guest.regs.rsp - 1);
    assert_eq!(stack, guest.pfn(guest.info.pt_base) + guest.info.nr_pt_frames);
    let expected = Regs {
        rip: 0xffff_ffff_8000_1000,
        rsp: guest.va(stack + 1),
        rsi: guest.va(guest.pfn(guest.regs.rsi)),
        cs: u64::from(selectors::FLAT_RING3_CS64),
        ss: u64::from(selectors::FLAT_RING3_SS),
        // Interrupts on, and the bit that always reads one.
        rflags: 0x202,
        ..Regs::default()
    };
    assert_eq!(guest.regs, expected);
    assert_eq!(guest.world.sim().segments(), Segments::default());
}

#[test]
fn the_first_cr3_is_the_table_that_start_info_names() {
    for guest in [linux(None), plain(None)] {
        let root = guest.mfn(guest.pfn(guest.info.pt_base));
        assert_eq!(guest.world.sim().root(CpuId::BOOT), Some(root));
    }
}

#[test]
fn start_info_of_a_kernel_like_linux() {
    let ramdisk = vec![0xd1; 5000];
    let guest = linux(Some(&ramdisk));
    let info = guest.info;
    assert_eq!(&info.magic[..15], b"xen-3.0-x86_64\0");
    assert_eq!(info.nr_pages, 1500);
    assert_eq!(info.flags, start_info::SIF_MOD_START_PFN);
    assert_eq!(&info.cmd_line[..22], b"root=/dev/xvda1 quiet\0");
    assert!(info.cmd_line[22..].iter().all(|&byte| byte == 0));
    assert_eq!(info.mfn_list, 0x80_0000_0000);
    assert_eq!((info.store_evtchn, info.console_evtchn), (0, 0));
    // Kernel to page 2, start info, store, console, then tables, stack, and what is not mapped.
    assert_eq!(guest.pfn(guest.regs.rsi), 3);
    assert_eq!(info.store_mfn, guest.mfn(4).raw());
    assert_eq!(info.console_mfn, guest.mfn(5).raw());
    assert_eq!((guest.pfn(info.pt_base), info.nr_pt_frames), (6, 5));
    assert_eq!(guest.end(), 1024);
    assert_eq!((info.mod_start, info.mod_len), (1024, 5000));
    // 1500 entries of 8 bytes are 3 pages; three tables map them.
    assert_eq!((info.first_p2m_pfn, info.nr_p2m_frames), (1026, 6));
}

#[test]
fn start_info_of_a_kernel_without_notes_for_list_and_ramdisk() {
    let ramdisk = vec![0xd1; 5000];
    let guest = plain(Some(&ramdisk));
    let info = guest.info;
    assert_eq!(
        info.flags,
        start_info::SIF_PRIVILEGED | start_info::SIF_INITDOMAIN
    );
    assert_eq!((info.mod_start, info.mod_len), (guest.va(3), 5000));
    assert_eq!(info.mfn_list, guest.va(5));
    assert_eq!(guest.pfn(guest.regs.rsi), 7);
    assert_eq!(info.store_mfn, guest.mfn(8).raw());
    assert_eq!(info.console_mfn, guest.mfn(9).raw());
    assert_eq!((guest.pfn(info.pt_base), info.nr_pt_frames), (10, 5));
    assert_eq!((info.first_p2m_pfn, info.nr_p2m_frames), (0, 0));
}

#[test]
fn a_domain_without_ramdisk_is_told_of_none() {
    for guest in [linux(None), plain(None)] {
        assert_eq!((guest.info.mod_start, guest.info.mod_len), (0, 0));
        assert_eq!(guest.info.flags & start_info::SIF_MOD_START_PFN, 0);
    }
}

#[test]
fn the_kernel_lies_where_its_physical_address_says_and_the_rest_is_zero() {
    let guest = plain(None);
    assert_eq!(read(&guest.world, 0x1000, 12), b"the kernel\0\0");
    let all = read(&guest.world, 0x1000, 2 * PAGE_SIZE);
    assert!(all[10..].iter().all(|&byte| byte == 0));
    for pfn in [0, guest.end() - 1] {
        let page = read(&guest.world, guest.va(pfn), PAGE_SIZE);
        assert!(page.iter().all(|&byte| byte == 0));
    }
}

#[test]
fn a_kernel_whose_physical_addresses_have_an_offset_is_put_at_its_base() {
    let base = 0xffff_ffff_8000_0000;
    let kernel = TestKernel {
        virt_base: Some(base),
        paddr_offset: Some(0x1_0000),
        start: 0x1_2000,
        entry: Some(base + 0x2000),
        ..TestKernel::default()
    };
    let guest = Started::new(1, &kernel, GuestSpec::default());
    assert_eq!(guest.regs.rip, base + 0x2000);
    assert_eq!(read(&guest.world, base + 0x2000, 10), b"the kernel");
}

#[test]
fn the_ramdisk_is_whole_wherever_it_lies() {
    let ramdisk: Vec<u8> = (0..10_000_u32).map(|n| n.to_le_bytes()[0]).collect();
    let guest = plain(Some(&ramdisk));
    assert_eq!(read(&guest.world, guest.info.mod_start, ramdisk.len()), ramdisk);
    let guest = linux(Some(&ramdisk));
    let mut found = Vec::new();
    for pfn in guest.info.mod_start..guest.info.mod_start + 3 {
        let mut page = vec![0; PAGE_SIZE];
        guest.world.sim().ram().read(guest.mfn(pfn), 0, &mut page);
        found.extend(page);
    }
    assert_eq!(found[..ramdisk.len()], ramdisk);
    assert_eq!(
        guest.entry(Level::L2, guest.va(guest.info.mod_start)).unwrap(),
        0,
        "not mapped"
    );
}

#[test]
fn list_and_m2p_say_the_same_of_every_page() {
    for guest in [linux(None), plain(None)] {
        let mut seen = std::collections::BTreeSet::new();
        for pfn in 0..guest.info.nr_pages {
            let mfn = guest.mfn(pfn);
            assert!(seen.insert(mfn), "{mfn:?} is there twice");
            assert_eq!(guest.world.sim().m2p(mfn), pfn);
        }
        let shared_info = Mfn::from_maddr(guest.info.shared_info);
        assert_eq!(guest.world.sim().m2p(shared_info), u64::MAX);
        assert!(!seen.contains(&shared_info));
    }
}

#[test]
fn the_first_mapping_has_every_page_at_its_place_with_the_flags_of_the_abi() {
    for guest in [linux(None), plain(None)] {
        let tables = guest.pfn(guest.info.pt_base);
        let tables = tables..tables + guest.info.nr_pt_frames;
        for pfn in 0..guest.end() {
            let entry = guest.entry(Level::L1, guest.va(pfn)).unwrap();
            let flags = if tables.contains(&pfn) {
                0x10_0000_0000_0025
            } else {
                0x10_0000_0000_0027
            };
            assert_eq!(entry, guest.mfn(pfn).maddr() | flags, "pfn {pfn:#x}");
            for level in [Level::L4, Level::L3, Level::L2] {
                let entry = guest.entry(level, guest.va(pfn)).unwrap();
                assert_eq!(entry & !pte::FRAME_MASK, 0x067, "{level:?}");
            }
        }
        assert_eq!(guest.end() % 1024, 0, "it ends at a multiple of 4 MiB");
        let stack = guest.pfn(guest.regs.rsp - 1);
        assert!(guest.end() - stack > 128, "512 KiB are left behind the stack");
    }
}

#[test]
fn nothing_else_is_mapped() {
    let guest = linux(None);
    let sim = guest.world.sim();
    let root = sim.root(CpuId::BOOT).unwrap();
    for (index, word) in sim.frame(root).iter().enumerate() {
        let entry = word.load(Ordering::Relaxed);
        match index {
            256..=271 => assert_eq!(entry, sim.hypervisor_slot(index)),
            1 | 511 => assert_eq!(entry & pte::PRESENT, pte::PRESENT),
            _ => assert_eq!(entry, 0, "slot {index}"),
        }
    }
    assert_eq!(guest.entry(Level::L2, guest.va(guest.end())), Some(0));
    assert_eq!(guest.entry(Level::L3, guest.base - PAGE), Some(0));
}

#[test]
fn the_list_has_a_mapping_of_its_own_that_reaches_no_further() {
    let guest = linux(None);
    let first = guest.info.first_p2m_pfn;
    for n in 0..3 {
        let entry = guest.entry(Level::L1, guest.info.mfn_list + n * PAGE).unwrap();
        assert_eq!(entry, guest.mfn(first + n).maddr() | 0x10_0000_0000_0027);
    }
    assert_eq!(guest.entry(Level::L1, guest.info.mfn_list + 3 * PAGE), Some(0));
    let kinds: Vec<_> = (3..6).map(|n| guest.kind(first + n)).collect();
    assert_eq!(kinds, [Kind::L3, Kind::L2, Kind::L1]);
}

#[test]
fn page_tables_are_typed_and_the_first_is_pinned() {
    let guest = plain(None);
    let tables = guest.pfn(guest.info.pt_base);
    let kinds: Vec<_> = (tables..tables + guest.info.nr_pt_frames)
        .map(|pfn| guest.kind(pfn))
        .collect();
    assert_eq!(kinds, [Kind::L4, Kind::L3, Kind::L2, Kind::L1, Kind::L1]);
    let frames = guest.world.hv().memory().frames();
    let root = frames.typing(guest.mfn(tables)).unwrap();
    assert!(root.is_pinned());
    assert_eq!(root.count(), 2, "the pin and the vCPU");
    assert_eq!(guest.kind(0), Kind::Writable);
}

#[test]
fn shared_info_is_zero_but_for_the_upcall_masks_and_the_wall_clock() {
    let guest = linux(None);
    let shared = guest.shared_info();
    let mut expected = SharedInfo {
        wc_version: 2,
        wc_sec: 1_700_000_000,
        wc_nsec: 123_456_789,
        ..SharedInfo::default()
    };
    for vcpu in &mut expected.vcpu_info {
        vcpu.evtchn_upcall_mask = 1;
    }
    assert_eq!(expected.vcpu_info.len(), LEGACY_VCPUS);
    // The clock of the vCPU that has been entered was written by that; its version is even.
    let time = shared.vcpu_info[0].time;
    assert_eq!((time.version, time.system_time_ns), (2, 1_000_000));
    assert_eq!(time.system_time_ns_at(time.tsc_timestamp + 500), 1_000_500);
    expected.vcpu_info[0].time = time;
    assert_eq!(shared, expected);
}

#[test]
fn shared_info_is_the_domain_s_and_can_never_be_a_table() {
    let guest = plain(None);
    let frames = guest.world.hv().memory().frames();
    let shared_info = Mfn::from_maddr(guest.info.shared_info);
    let refs = frames.refs(shared_info).unwrap();
    assert_eq!((refs.owner(), refs.is_hypervisors()), (DomId::new(0), true));
    let typing = frames.typing(shared_info).unwrap();
    assert_eq!((typing.kind(), typing.count()), (Kind::Writable, 1));
}

#[test]
fn the_hypercall_page_is_filled() {
    let kernel = TestKernel {
        hypercall_page: Some(0x2000),
        ..TestKernel::default()
    };
    let guest = Started::new(1, &kernel, GuestSpec::default());
    let mut stubs = [0; PAGE_SIZE];
    hypercall_page::fill(&mut stubs);
    assert_eq!(read(&guest.world, 0x2000, PAGE_SIZE), stubs);
    assert_eq!(
        read(&guest.world, 0x1000, 10),
        b"the kernel",
        "the page before is untouched"
    );
}

#[test]
fn only_the_first_vcpu_runs() {
    let guest = linux(None);
    assert_eq!(guest.world.running(0), Some((7, 0)));
    guest.world.spin(0, 1_000_000_000);
    assert_eq!(guest.world.running(0), Some((7, 0)));
}

/// Tries to make a domain that cannot be made, and checks that nothing is left of it.
fn refused(free_frames: u64, guest: &GuestSpec<'_>) -> BuildError {
    let config = SimConfig {
        free_frames,
        ..SimConfig::default()
    };
    let world = World::new(config, EndPolicy::LastDomain);
    let error = world.create(3, guest).unwrap_err();
    assert_eq!(world.hv().memory().free_frames(), free_frames, "{error:?}");
    world.invariants();
    assert_eq!(world.enter(0), None, "{error:?}");
    error
}

#[test]
fn a_domain_that_does_not_fit_into_memory_leaves_nothing_behind() {
    let guest = GuestSpec::default();
    for missing in [1, 2, 3, 100, 512, 1023, 1024] {
        assert_eq!(refused(1024 - missing, &guest), BuildError::NoMemory(1024));
    }
    assert_eq!(
        refused(1025, &guest),
        BuildError::NoMemory(1),
        "shared info and the grant table are two more"
    );
}

#[test]
fn a_domain_that_just_fits_is_made() {
    let config = SimConfig {
        free_frames: GuestSpec::FRAMES,
        ..SimConfig::default()
    };
    let world = World::new(config, EndPolicy::LastDomain);
    assert_eq!(world.create(1, &GuestSpec::default()), Ok(()));
    assert_eq!(world.hv().memory().free_frames(), 0);
    world.invariants();
}

#[test]
fn a_number_that_is_taken_leaves_the_first_domain_and_nothing_of_the_second() {
    let world = World::new(SimConfig::default(), EndPolicy::LastDomain);
    world.create(1, &GuestSpec::default()).unwrap();
    let free = world.hv().memory().free_frames();
    for taken in [1, 1024, DomId::SELF.raw(), u16::MAX] {
        assert_eq!(
            world.create(taken, &GuestSpec::default()),
            Err(BuildError::NumberTaken)
        );
        assert_eq!(world.hv().memory().free_frames(), free, "number {taken}");
        world.invariants();
    }
    assert_eq!(world.enter(0), Some((1, 0)));
}

#[test]
fn a_domain_on_a_cpu_that_does_not_exist_is_refused() {
    let guest = GuestSpec {
        home: Some(CpuId::new(1)),
        ..GuestSpec::default()
    };
    assert_eq!(refused(2000, &guest), BuildError::NoCpu);
}

#[test]
fn a_domain_with_no_vcpu_or_too_many_is_refused() {
    for vcpus in [0, 33, u32::MAX] {
        let guest = GuestSpec {
            vcpus,
            ..GuestSpec::default()
        };
        assert_eq!(refused(2000, &guest), BuildError::Vcpus(vcpus));
    }
}

#[test]
fn what_is_no_kernel_is_refused_by_what_is_wrong_with_it() {
    let good = TestKernel::default();
    let first = good.first();
    let cases = [
        (
            TestKernel {
                elf_machine: 183,
                ..good.clone()
            },
            ImageError::NotX86_64,
        ),
        (
            TestKernel {
                xen_version: "xen-4.0",
                ..good.clone()
            },
            ImageError::WrongAbi,
        ),
        (
            TestKernel {
                features: Some("!auto_translated_physmap"),
                ..good.clone()
            },
            ImageError::Feature(Feature::AutoTranslatedPhysmap),
        ),
        (
            TestKernel {
                entry: Some(first - 1),
                ..good.clone()
            },
            ImageError::BadAddress(ElfNote::Entry),
        ),
        (
            TestKernel {
                hypercall_page: Some(0x3000),
                ..good.clone()
            },
            ImageError::BadAddress(ElfNote::HypercallPage),
        ),
        (
            TestKernel {
                hypercall_page: Some(0x1008),
                ..good.clone()
            },
            ImageError::BadAddress(ElfNote::HypercallPage),
        ),
        (
            TestKernel {
                virt_base: Some(0xffff_8000_0000_0000),
                ..good.clone()
            },
            ImageError::BadAddress(ElfNote::VirtBase),
        ),
        (
            TestKernel {
                init_p2m: Some(0xffff_8100_0000_0000),
                ..good.clone()
            },
            ImageError::BadAddress(ElfNote::InitP2m),
        ),
        (
            TestKernel {
                bss: u64::MAX - 0x1000,
                ..good.clone()
            },
            ImageError::BadSegment,
        ),
    ];
    for (kernel, error) in cases {
        let guest = GuestSpec {
            kernel: kernel.build(),
            ..GuestSpec::default()
        };
        assert_eq!(refused(1100, &guest), BuildError::Image(error));
    }
}

#[test]
fn a_kernel_that_is_cut_off_anywhere_is_refused() {
    let whole = TestKernel::default().build();
    let config = SimConfig {
        free_frames: 1100,
        ..SimConfig::default()
    };
    let world = World::new(config, EndPolicy::LastDomain);
    for len in 0..whole.len() {
        let guest = GuestSpec {
            kernel: whole[..len].to_vec(),
            ..GuestSpec::default()
        };
        let refused = world.create(1, &guest);
        assert!(
            matches!(refused, Err(BuildError::Image(_))),
            "cut at {len}: {refused:?}"
        );
    }
    assert_eq!(world.hv().memory().free_frames(), 1100);
}

#[test]
fn a_domain_that_cannot_be_laid_out_is_refused() {
    let small = GuestSpec {
        pages: 1023,
        ..GuestSpec::default()
    };
    assert_eq!(refused(2000, &small), BuildError::Plan(PlanError::TooSmall(1024)));
    let overlapping = TestKernel {
        init_p2m: Some(0x40_0000_0000),
        ..TestKernel::default()
    };
    let guest = GuestSpec {
        kernel: overlapping.build(),
        ..GuestSpec::default()
    };
    assert_eq!(refused(2000, &guest), BuildError::Plan(PlanError::P2mOverlaps));
}

#[test]
fn no_part_of_the_hypervisor_is_within_a_guest_s_reach() {
    let guest = linux(None);
    for slot in 257..272_u64 {
        let va = (slot << 39) | 0xffff_0000_0000_0000;
        assert!(!is_guest_range(va, 1));
        assert!(guest.world.sim().guest_read(va, &mut [0]).is_err());
    }
}
