//! Domains made on a machine in miniature: what the guest finds, how the work is cut up, and that a build which fails or is given up leaves nothing.
#![expect(
    clippy::unwrap_used,
    clippy::arithmetic_side_effects,
    reason = "a test fails by panicking"
)]

use bulkhead_abi::control::CreateDomain;
use bulkhead_abi::errno::Failure;
use bulkhead_abi::start_info::StartInfo;
use bulkhead_abi::{DomId, Errno, Record, hypercall_page, selectors};
use bulkhead_builder::testing::{DOMAIN, Made, Model, SHARED_INFO};
use bulkhead_builder::{BuildError, BuildFailed, Built, Bytes, Call, GuestSpec, Source, SourceFailed, build};
use bulkhead_image::testing::TestKernel;
use bulkhead_image::{Image, PlanError, Segment};
use core::pin::pin;
use core::task::{Context, Poll, Waker};
use embassy_futures::block_on;
use proptest::prelude::*;

const PAGE: usize = 4096;

fn spec() -> GuestSpec<'static> {
    GuestSpec {
        domain: None,
        name: "web",
        vcpus: 2,
        weight: 256,
        cpus: 0b10,
        pages: 1500,
        most_pages: 0,
        extent: None,
        command_line: "root=/dev/xvda1 quiet",
        store: DomId::new(0),
        console: DomId::new(0),
    }
}

fn linux() -> TestKernel {
    TestKernel {
        data: (0..9000_u32).map(|n| n.to_le_bytes()[0] | 1).collect(),
        hypercall_page: Some(0xffff_ffff_8000_3000),
        ..TestKernel::like_linux()
    }
}

fn make(
    model: &mut Model,
    spec: &GuestSpec<'_>,
    kernel: &TestKernel,
    ramdisk: Option<&[u8]>,
) -> Result<Built, BuildFailed> {
    let file = kernel.build();
    let image = Image::parse(&file).unwrap();
    let mut ramdisk = ramdisk.map(Bytes);
    block_on(pin!(build(model, spec, &image, ramdisk.as_mut())))
}

/// Nothing of the domain is left, and the machine has all of its memory.
fn assert_clean(model: &Model, frames: u64) {
    assert!(model.domain.is_none());
    assert_eq!(
        model.free.iter().map(|&(_, order)| 1_u64 << order).sum::<u64>(),
        frames
    );
}

/// What the guest is told at its start, read through its own page tables.
fn start_info(made: &Made) -> StartInfo {
    let context = made.context.as_ref().unwrap();
    let bytes = made.read(context.user_regs.rsi, StartInfo::SIZE).unwrap();
    StartInfo::read_from(&bytes).unwrap()
}

/// The frame of a page, by the guest's own list.
fn listed(made: &Made, info: &StartInfo, pfn: u64) -> u64 {
    u64::read_from(&made.read(info.mfn_list + pfn * 8, 8).unwrap()).unwrap()
}

#[test]
fn the_guest_finds_kernel_ramdisk_list_and_start_info() {
    let ramdisk: Vec<u8> = (0..10_000_u32).map(|n| n.to_le_bytes()[0]).collect();
    for kernel in [linux(), TestKernel::default()] {
        let base = kernel.virt_base.unwrap_or(0);
        let mut model = Model::new(12, 9);
        let built = make(&mut model, &spec(), &kernel, Some(&ramdisk)).unwrap();
        let made = model.domain.as_ref().unwrap();
        let info = start_info(made);

        let in_memory = kernel.data.len() + usize::try_from(kernel.bss).unwrap();
        let mut expected = kernel.data.clone();
        expected.resize(in_memory, 0);
        if let Some(va) = kernel.hypercall_page {
            let at = usize::try_from(va - kernel.first()).unwrap();
            hypercall_page::fill((&mut expected[at..at + PAGE]).try_into().unwrap());
        }
        assert!(made.read(kernel.first(), in_memory).unwrap() == expected);

        assert_eq!(&info.magic[..15], b"xen-3.0-x86_64\0");
        assert_eq!(&info.cmd_line[..22], b"root=/dev/xvda1 quiet\0");
        assert_eq!((info.nr_pages, info.shared_info), (1500, SHARED_INFO << 12));
        assert_eq!((info.store_mfn, info.store_evtchn), (built.store_frame, 1));
        assert_eq!((info.console_mfn, info.console_evtchn), (built.console_frame, 2));
        assert_eq!(info.flags, if kernel.mod_start_pfn { 8 } else { 0 });
        for (pfn, expected) in made.frames.iter().map(|(frame, pfn)| (*pfn, *frame)) {
            assert_eq!(listed(made, &info, pfn), expected, "pfn {pfn:#x}");
        }

        assert_eq!(info.mod_len, 10_000);
        let found: Vec<u8> = if kernel.mod_start_pfn {
            let frames = (info.mod_start..).take(3).map(|pfn| listed(made, &info, pfn));
            frames.flat_map(|frame| made.frame(frame).unwrap()).collect()
        } else {
            made.read(info.mod_start, 3 * PAGE).unwrap()
        };
        assert!(found[..10_000] == ramdisk && found[10_000..].iter().all(|&byte| byte == 0));

        let tables = (info.pt_base - base) >> 12;
        let root = listed(made, &info, tables);
        assert_eq!(made.root, Some(root));
        for pfn in tables..tables + info.nr_pt_frames {
            let leaf = made.leaf(base + (pfn << 12)).unwrap();
            assert_eq!(
                leaf,
                listed(made, &info, pfn) << 12 | 0x21,
                "a table is read-only"
            );
        }
        for frame in [built.store_frame, built.console_frame] {
            assert!(made.frame(frame).unwrap().iter().all(|&byte| byte == 0));
            assert!(made.frames.contains_key(&frame));
        }
    }
}

/// GRUB for PV guests: mapped from address 0 on, with a second segment that begins in the first one's last page.
#[test]
fn segments_that_share_a_page_are_both_there() {
    let kernel = TestKernel {
        start: 0,
        data: vec![0xaa; 5000],
        bss: 0,
        ..TestKernel::default()
    };
    let file = kernel.build();
    let mut image = Image::parse(&file).unwrap();
    let modules = Segment {
        va: 5000,
        data: &[0xbb; 9000],
        size: 9100,
    };
    image.segments.push(modules).unwrap();
    image.span.end = 14_100;
    let mut model = Model::new(12, 9);
    let none = None::<&mut Bytes<'_>>;
    block_on(pin!(build(&mut model, &spec(), &image, none))).unwrap();
    let made = model.domain.unwrap();
    let found = made.read(0, 4 * PAGE).unwrap();
    assert!(found[..5000].iter().all(|&byte| byte == 0xaa));
    assert!(found[5000..14_000].iter().all(|&byte| byte == 0xbb));
    assert!(found[14_000..].iter().all(|&byte| byte == 0));
}

#[test]
fn the_first_vcpu_has_the_state_of_the_abi() {
    let mut model = Model::new(12, 9);
    make(&mut model, &spec(), &linux(), None).unwrap();
    let made = model.domain.as_ref().unwrap();
    let info = start_info(made);
    let context = made.context.as_ref().unwrap();
    let regs = context.user_regs;
    assert_eq!((regs.rip, regs.rflags), (linux().first(), 0x200));
    let stack = info.pt_base + ((info.nr_pt_frames + 1) << 12);
    assert_eq!((regs.rsp, context.kernel_sp), (stack, stack));
    assert_eq!(
        (regs.cs, regs.ss.selector),
        (selectors::FLAT_RING3_CS64, selectors::FLAT_RING3_SS)
    );
    assert_eq!((context.flags, context.gdt_ents), (0x24, 0));
    assert_eq!((info.mod_start, info.mod_len), (0, 0));
}

#[test]
fn the_domain_is_made_as_it_was_asked_for() {
    let mut model = Model::new(12, 9);
    let wanted = GuestSpec {
        domain: Some(DomId::new(9)),
        most_pages: 4000,
        extent: Some(3),
        console: DomId::new(2),
        ..spec()
    };
    let built = make(&mut model, &wanted, &linux(), None).unwrap();
    assert_eq!((built.domain, built.pages), (DOMAIN, 1500));
    assert_eq!((built.store_port, built.console_port), (1, 2));
    let made = model.domain.unwrap();
    let mut name = [0; 32];
    name[..3].copy_from_slice(b"web");
    let expected = CreateDomain {
        domain: DomId::new(9),
        weight: 256,
        vcpus: 2,
        limit: 4000,
        cpus: 0b10,
        extent: 3,
        reserved: 0,
        name,
    };
    assert_eq!(made.wanted, expected);
    assert_eq!(made.ports, [DomId::new(0), DomId::new(2)]);
    let grants: Vec<_> = made.grants.iter().collect();
    assert_eq!(
        (*grants[0].0, grants[0].1.flags, grants[0].1.domid),
        (0, 1, DomId::new(2))
    );
    assert_eq!(u64::from(grants[0].1.frame), built.console_frame);
    assert_eq!(
        (*grants[1].0, grants[1].1.flags, grants[1].1.domid),
        (1, 1, DomId::new(0))
    );
    assert_eq!(u64::from(grants[1].1.frame), built.store_frame);
}

#[test]
fn memory_comes_in_the_largest_extents_that_there_are() {
    let calls = |free: Vec<(u64, u32)>, largest| {
        let mut model = Model {
            free,
            largest,
            ..Model::default()
        };
        make(&mut model, &spec(), &TestKernel::default(), None).unwrap();
        assert_eq!(model.domain.as_ref().unwrap().frames.len(), 1500);
        let pages: Vec<_> = model.domain.as_ref().unwrap().frames.values().copied().collect();
        let mut sorted = pages.clone();
        sorted.sort_unstable();
        assert!(sorted.into_iter().eq(0..1500), "each page has a frame");
        model.calls
    };
    let few = calls(vec![(0x1000, 12)], 9);
    // 2 of 512 pages, then 256, 128, 64, 16, 8, 4. In the other case five orders are refused first, and then it is 2 of 512, 464, 8, 4.
    assert_eq!(calls(vec![(0x1000, 12)], 4), few - 8 + 5 + 5);
    // Frames here and there, and none beside another.
    let scattered = (0..3000).map(|n| (0x8000 + 2 * n, 0)).collect();
    assert!(calls(scattered, 9) > few);
    let mixed = (0..56_u32)
        .map(|n| (0x8000 + (u64::from(n) << 8), n % 8))
        .collect();
    let _ = calls(mixed, 9);
}

#[test]
fn a_guest_that_does_not_fit_is_told_how_much_there_was() {
    let mut model = Model {
        free: vec![(0x1000, 10), (0x4000, 8), (0x8000, 1)],
        largest: 9,
        ..Model::default()
    };
    let failed = make(&mut model, &spec(), &linux(), None).unwrap_err();
    let expected = BuildError::NoFrames {
        found: 1282,
        wanted: 1500,
    };
    assert_eq!(failed, BuildFailed::from(expected));
    assert_eq!(
        failed.to_string(),
        "the machine has only 5M of memory left for it, not 6M"
    );
    assert_clean(&model, 1282);
}

#[test]
fn a_failure_at_any_call_leaves_nothing_behind() {
    let ramdisk = [7; 9000];
    let mut seen = std::collections::BTreeSet::new();
    for failing in 0.. {
        let mut model = Model {
            failing: Some(failing),
            ..Model::new(12, 9)
        };
        match make(&mut model, &spec(), &linux(), Some(&ramdisk)) {
            Ok(_) => {
                assert_eq!(model.calls, failing, "all calls have failed once");
                break;
            }
            Err(failed) => {
                assert_eq!(failed.left, None);
                let BuildError::Refused(call, failure) = failed.cause else {
                    panic!("{failed:?}");
                };
                assert_eq!(failure, Failure::Errno(Errno::Io));
                seen.insert(call.to_string());
                assert_clean(&model, 1 << 12);
            }
        }
    }
    assert_eq!(seen.len(), 8, "every kind of call: {seen:?}");
}

#[test]
fn a_build_that_is_given_up_leaves_nothing_behind() {
    let file = linux().build();
    let image = Image::parse(&file).unwrap();
    let mut pauses = 0;
    loop {
        let mut model = Model::new(12, 4);
        let spec = spec();
        let mut ramdisk = Bytes(&[1; 300_000]);
        let is_over = {
            let mut building = pin!(build(&mut model, &spec, &image, Some(&mut ramdisk)));
            let mut context = Context::from_waker(Waker::noop());
            (0..=pauses).any(|_| matches!(building.as_mut().poll(&mut context), Poll::Ready(Ok(_))))
        };
        if is_over {
            assert!(model.domain.is_some());
            break;
        }
        assert_clean(&model, 1 << 12);
        pauses += 1;
    }
    assert!(pauses > 4, "{pauses}");
}

#[test]
fn a_domain_that_cannot_be_destroyed_is_told_of() {
    let mut model = Model {
        destroying: Some(Errno::Again),
        ..Model::new(8, 9)
    };
    let failed = make(&mut model, &spec(), &linux(), None).unwrap_err();
    assert_eq!(failed.left, Some((DOMAIN, Failure::Errno(Errno::Again))));
    assert_eq!(
        failed.to_string(),
        "the machine has only 1M of memory left for it, not 6M; what there is of it, d5, could not be destroyed: EAGAIN"
    );
}

/// A ramdisk that ends before it should, or says that it is endless.
struct Broken {
    says: u64,
    has: u64,
}

impl Source for Broken {
    fn len(&self) -> u64 {
        self.says
    }

    async fn read(&mut self, piece: &mut [u8]) -> Result<(), SourceFailed> {
        self.has = self.has.checked_sub(piece.len() as u64).ok_or(SourceFailed)?;
        piece.fill(0x5a);
        Ok(())
    }
}

#[test]
fn a_ramdisk_that_cannot_be_read_or_does_not_fit_leaves_nothing_behind() {
    let file = linux().build();
    let image = Image::parse(&file).unwrap();
    for (says, has, expected) in [
        (9000, 8999, BuildError::Ramdisk(SourceFailed)),
        (9000, 0, BuildError::Ramdisk(SourceFailed)),
        (u64::MAX, 0, BuildError::Plan(PlanError::TooSmall(0))),
        (2 << 20, 0, BuildError::Plan(PlanError::TooSmall(0))),
    ] {
        let mut model = Model::new(12, 9);
        let mut ramdisk = Broken { says, has };
        let failed = block_on(pin!(build(&mut model, &spec(), &image, Some(&mut ramdisk)))).unwrap_err();
        let is_expected = match (failed.cause, expected) {
            (BuildError::Plan(PlanError::TooSmall(_)), BuildError::Plan(_)) => model.calls == 0,
            (cause, expected) => cause == expected,
        };
        assert!(is_expected, "{failed:?}");
        assert_clean(&model, 1 << 12);
    }
}

#[test]
fn what_cannot_be_told_to_the_guest_is_refused_before_anything_is_made() {
    let long = "x".repeat(1024);
    for (refused, expected) in [
        (GuestSpec { name: "", ..spec() }, BuildError::Name),
        (
            GuestSpec {
                name: &long[..33],
                ..spec()
            },
            BuildError::Name,
        ),
        (
            GuestSpec {
                name: "a\0b",
                ..spec()
            },
            BuildError::Name,
        ),
        (
            GuestSpec {
                command_line: &long,
                ..spec()
            },
            BuildError::CommandLine,
        ),
        (
            GuestSpec {
                command_line: "a\0b",
                ..spec()
            },
            BuildError::CommandLine,
        ),
    ] {
        let mut model = Model::new(12, 9);
        let failed = make(&mut model, &refused, &linux(), None).unwrap_err();
        assert_eq!((failed.cause, model.calls), (expected, 0));
    }
    let longest = GuestSpec {
        name: &long[..32],
        command_line: &long[..1023],
        ..spec()
    };
    let mut model = Model::new(12, 9);
    assert!(make(&mut model, &longest, &linux(), None).is_ok());
    assert_eq!(start_info(model.domain.as_ref().unwrap()).cmd_line[1022], b'x');
}

#[test]
fn a_target_that_cannot_seed_grants_gets_a_guest_without() {
    let seeds = |errno| {
        let mut model = Model {
            seeding: Some(errno),
            ..Model::new(12, 9)
        };
        make(&mut model, &spec(), &linux(), None).map_err(|failed| failed.cause)
    };
    assert!(seeds(Errno::OpNotSupp).is_ok());
    assert_eq!(
        seeds(Errno::Perm),
        Err(BuildError::Refused(Call::SeedGrant, Failure::Errno(Errno::Perm)))
    );
}

#[test]
fn a_gibibyte_is_given_and_written_in_portions() {
    let mut model = Model::new(18, 9);
    let large = GuestSpec {
        pages: 1 << 18,
        ..spec()
    };
    let ramdisk = vec![0x11; 8 << 20];
    make(&mut model, &large, &linux(), Some(&ramdisk)).unwrap();
    assert!(
        model.longest <= 512 + 64,
        "{} pages without a pause",
        model.longest
    );
    assert!(model.pauses >= 512 + (2048 + 512) / 64);
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, cases: 400, ..ProptestConfig::default() })]

    /// Any word of the headers and notes of a kernel: it is made whole, or refused and nothing is left.
    #[test]
    fn a_kernel_with_hostile_headers_leaves_all_or_nothing(
        changes in prop::collection::vec((0_usize..420, any::<u64>(), 0_u32..4), 1..4)
    ) {
        let mut file = linux().build();
        for (at, value, kind) in changes {
            let value = match kind {
                0 => value,
                1 => value & 0xffff,
                2 => value << 32 >> 32 << 12,
                _ => !(value & 0xff_ffff),
            };
            file[at..at + 8].copy_from_slice(&value.to_le_bytes());
        }
        hostile(&file);
    }
}

/// Makes a guest of whatever this is.
fn hostile(file: &[u8]) {
    let Ok(image) = Image::parse(file) else { return };
    let mut model = Model::new(12, 9);
    let mut ramdisk = Bytes(&[3; 5000]);
    let built = block_on(pin!(build(&mut model, &spec(), &image, Some(&mut ramdisk))));
    match built {
        Ok(_) => assert!(model.domain.is_some()),
        Err(_) => assert_clean(&model, 1 << 12),
    }
}

#[test]
fn no_flipped_byte_and_no_prefix_of_a_kernel_does_harm() {
    let good = linux().build();
    let headers = good.len() - linux().data.len();
    for at in 0..headers {
        for flip in [1, 0x80, 0xff] {
            let mut bad = good.clone();
            bad[at] ^= flip;
            hostile(&bad);
        }
    }
    for len in 0..good.len() {
        assert!(Image::parse(&good[..len]).is_err(), "{len}");
    }
}
