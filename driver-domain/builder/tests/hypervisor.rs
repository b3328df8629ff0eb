//! Domains made by hypercalls, on the simulated machine with the whole hypervisor: it accepts what the builder does, and finds the guest as if it had
//! built it itself.
#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    reason = "a test fails by panicking"
)]

use bulkhead_abi::control::{COPY_TO, ControlOp, CopyMemory, CreateDomain, DomainInfo, DomainRef, VcpuState};
use bulkhead_abi::errno::Failure;
use bulkhead_abi::event::{AllocUnbound, EventChannelOp};
use bulkhead_abi::grant::{GrantEntry, GrantStatus, GrantTableOp, SetupTable};
use bulkhead_abi::memory::{MemoryOp, MemoryReservation};
use bulkhead_abi::mmu::{ForeignDom, MmuExt, MmuExtOp};
use bulkhead_abi::start_info::StartInfo;
use bulkhead_abi::vcpu::VcpuGuestContext;
use bulkhead_abi::{Buffered, DomId, Errno, Hypercall, Record, pte};
use bulkhead_builder::{BuildFailed, Built, Bytes, GuestSpec, Target, build};
use bulkhead_core::frames::Mfn;
use bulkhead_core::ids::CpuId;
use bulkhead_core::testing::{GuestSpec as BootSpec, SimConfig, TestKernel, World};
use bulkhead_core::vcpu::{Regs, Segments};
use bulkhead_core::{EndPolicy, Machine};
use bulkhead_image::Image;
use core::pin::pin;
use core::task::{Context, Poll, Waker};
use embassy_futures::{block_on, yield_now};
use std::collections::BTreeMap;

const GUEST: DomId = DomId::new(1);

/// Where the control domain has what its records name: free memory behind its boot stack.
const BUFFER: u64 = 0x20_0000;

/// The control domain, which runs on the only CPU. One of its calls may fail before it is made.
struct Control<'w> {
    world: &'w World,
    calls: u32,
    failing: Option<u32>,
}

impl<'w> Control<'w> {
    fn new(world: &'w World) -> Self {
        Self {
            world,
            calls: 0,
            failing: None,
        }
    }

    fn call<T: Buffered>(&mut self, number: Hypercall, args: &[u64], record: &mut T) -> Result<u64, Failure> {
        let this = self.calls;
        self.calls += 1;
        if self.failing == Some(this) {
            return Err(Errno::Io.into());
        }
        Ok(self.world.call_with(0, number, args, (World::SCRATCH, record))?)
    }

    fn control<T: Buffered>(&mut self, op: ControlOp, record: &mut T) -> Result<u64, Failure> {
        self.call(Hypercall::Sysctl, &[op.raw().into(), World::SCRATCH], record)
    }

    fn lend(&self, bytes: &[u8]) {
        self.world.sim().act_as(CpuId::BOOT);
        self.world.sim().guest_write(BUFFER, bytes).unwrap();
    }

    fn take<const N: usize>(&self) -> [u64; N] {
        std::array::from_fn(|n| self.world.read(0, BUFFER + 8 * n as u64))
    }
}

impl Target for Control<'_> {
    fn create(&mut self, wanted: &CreateDomain) -> Result<DomId, Failure> {
        let mut record = *wanted;
        self.control(ControlOp::CreateDomain, &mut record)?;
        Ok(record.domain)
    }

    fn destroy(&mut self, domain: DomId) -> Result<(), Failure> {
        self.failing = None;
        let mut record = DomainRef { domain, reserved: 0 };
        self.control(ControlOp::DestroyDomain, &mut record).map(|_| ())
    }

    fn shared_info(&mut self, domain: DomId) -> Result<u64, Failure> {
        let mut record = DomainInfo {
            domain,
            ..DomainInfo::ZERO
        };
        self.control(ControlOp::DomainInfo, &mut record)?;
        Ok(record.shared_info)
    }

    fn populate(&mut self, domain: DomId, pages: &mut [u64], order: u32) -> Result<u64, Failure> {
        let words: Vec<u8> = pages.iter().flat_map(|page| page.to_le_bytes()).collect();
        self.lend(&words);
        let mut record = MemoryReservation {
            extent_start: BUFFER,
            nr_extents: pages.len() as u64,
            extent_order: order,
            mem_flags: 0,
            domid: domain,
        };
        let op = u64::from(MemoryOp::PopulatePhysmap.raw());
        let done = self.call(Hypercall::MemoryOp, &[op, World::SCRATCH], &mut record)?;
        pages.copy_from_slice(&self.take::<512>()[..pages.len()]);
        Ok(done)
    }

    fn write(&mut self, domain: DomId, frame: u64, offset: u32, bytes: &[u8]) -> Result<(), Failure> {
        self.lend(bytes);
        let mut record = CopyMemory {
            domain,
            direction: COPY_TO,
            offset,
            len: bytes.len() as u64,
            frame,
            buffer: BUFFER,
        };
        self.control(ControlOp::CopyMemory, &mut record).map(|_| ())
    }

    fn alloc_unbound(&mut self, domain: DomId, remote: DomId) -> Result<u32, Failure> {
        let mut record = AllocUnbound {
            dom: domain,
            remote_dom: remote,
            port: 0,
        };
        let op = u64::from(EventChannelOp::AllocUnbound.raw());
        self.call(Hypercall::EventChannelOp, &[op, World::SCRATCH], &mut record)?;
        Ok(record.port)
    }

    fn seed_grant(&mut self, domain: DomId, reference: u32, entry: &GrantEntry) -> Result<(), Failure> {
        let mut record = SetupTable {
            dom: domain,
            nr_frames: 1,
            frame_list: BUFFER,
            ..SetupTable::ZERO
        };
        let op = u64::from(GrantTableOp::SetupTable.raw());
        self.call(Hypercall::GrantTableOp, &[op, World::SCRATCH, 1], &mut record)?;
        assert_eq!(record.status, GrantStatus::Okay.raw());
        let [frame] = self.take();
        self.write(domain, frame, reference * 8, entry.to_bytes().as_ref())
    }

    fn pin_root(&mut self, domain: DomId, frame: u64) -> Result<(), Failure> {
        let mut record = MmuExt {
            cmd: MmuExtOp::PinL4Table.raw(),
            arg1: frame,
            arg2: 0,
        };
        let foreign = ForeignDom {
            page_owner: domain,
            table_owner: None,
        };
        self.call(
            Hypercall::MmuextOp,
            &[World::SCRATCH, 1, 0, foreign.raw().into()],
            &mut record,
        )
        .map(|_| ())
    }

    fn set_vcpu(&mut self, domain: DomId, vcpu: u32, context: &VcpuGuestContext) -> Result<(), Failure> {
        self.lend(context.to_bytes().as_ref());
        let mut record = VcpuState {
            domain,
            vcpu,
            context: BUFFER,
        };
        self.control(ControlOp::SetVcpu, &mut record).map(|_| ())
    }

    async fn pause(&mut self) {
        yield_now().await;
    }
}

const PAGES: u64 = 1500;

/// The control domain runs, and there is memory for a guest.
fn world() -> World {
    let config = SimConfig {
        free_frames: BootSpec::FRAMES + PAGES + 2,
        cpus: 1,
    };
    let world = World::new(config, EndPolicy::LastDomain);
    world.create(0, &BootSpec::default()).unwrap();
    assert_eq!(world.enter(0), Some((0, 0)));
    world.boot(0);
    world
}

const COMMAND_LINE: &str = "root=/dev/xvda1 quiet";

fn spec() -> GuestSpec<'static> {
    GuestSpec {
        domain: Some(GUEST),
        name: "guest",
        vcpus: 3,
        weight: 256,
        cpus: u64::MAX,
        pages: PAGES,
        most_pages: 0,
        extent: None,
        command_line: COMMAND_LINE,
        store: DomId::new(0),
        console: DomId::new(0),
    }
}

fn kernel() -> TestKernel {
    TestKernel {
        data: (0..9000_u32).map(|n| n.to_le_bytes()[0] | 1).collect(),
        hypercall_page: Some(0xffff_ffff_8000_3000),
        ..TestKernel::like_linux()
    }
}

const RAMDISK: [u8; 9000] = [0xd1; 9000];

fn make(control: &mut Control<'_>, kernel: &TestKernel) -> Result<Built, BuildFailed> {
    let file = kernel.build();
    let image = Image::parse(&file).unwrap();
    block_on(pin!(build(control, &spec(), &image, Some(&mut Bytes(&RAMDISK)))))
}

/// What a guest has, by its own page numbers: frames that are named are told as the pages that they are.
#[derive(Debug, PartialEq)]
struct Guest {
    pages: BTreeMap<u64, Vec<u64>>,
    regs: Regs,
    segments: Segments,
    info: StartInfo,
}

impl Guest {
    /// The domain that has just been entered for the first time.
    fn look(world: &World) -> Self {
        assert_eq!(world.running(0), Some((GUEST.raw(), 0)));
        let frames = world.hv().memory().frames();
        let regs = world.regs(0);
        let mut info: StartInfo = world.read(0, regs.rsi);
        let pfn = |mfn: u64| world.sim().m2p(Mfn::new(mfn).unwrap());
        let base = 0xffff_ffff_8000_0000;
        let root = (info.pt_base - base) >> 12;
        let list = info.first_p2m_pfn..info.first_p2m_pfn + PAGES.div_ceil(512);
        let tables = [
            root..root + info.nr_pt_frames,
            list.end..info.first_p2m_pfn + info.nr_p2m_frames,
        ];
        let mut pages = BTreeMap::new();
        for mfn in (0..frames.limit()).filter_map(Mfn::new) {
            let is_guests = frames
                .refs(mfn)
                .is_some_and(|refs| refs.owner() == GUEST && !refs.is_hypervisors());
            if !is_guests {
                continue;
            }
            let number = pfn(mfn.raw());
            let mut bytes = [0; 4096];
            world.sim().ram().read(mfn, 0, &mut bytes);
            let words = bytes.chunks_exact(8).map(|word| u64::read_from(word).unwrap());
            let words = words.enumerate().map(|(index, word)| {
                // The hypervisor's own part of a level 4 table.
                if number == root && (256..272).contains(&index) {
                    return 0;
                }
                if word & pte::PRESENT == 0 || !tables.iter().any(|tables| tables.contains(&number)) {
                    return word;
                }
                pfn((word & pte::FRAME_MASK) >> 12) << 12 | word & !pte::FRAME_MASK
            });
            assert!(
                pages.insert(number, words.collect()).is_none(),
                "{number:#x} twice"
            );
        }
        // The list: numbers of frames, each of the page that has this place.
        for (nth, page) in list.enumerate() {
            let mut words = Vec::new();
            let first = nth as u64 * 512;
            for n in first..PAGES.min(first + 512) {
                let word: u64 = world.read(0, info.mfn_list + n * 8);
                assert_eq!(pfn(word), n, "the list and the hypervisor agree");
                words.push(n);
            }
            pages.insert(page, words);
        }
        // Told by itself.
        pages.remove(&((regs.rsi - base) >> 12));
        assert_eq!(
            Mfn::from_maddr(info.shared_info),
            world.hv().domain(GUEST).unwrap().shared_info
        );
        info.shared_info = 0;
        info.store_mfn = pfn(info.store_mfn);
        info.console_mfn = pfn(info.console_mfn);
        Self {
            pages,
            regs,
            segments: world.sim().segments(),
            info,
        }
    }
}

#[test]
fn the_hypervisor_finds_the_guest_as_if_it_had_built_it_itself() {
    let world = world();
    let mut control = Control::new(&world);
    let built = make(&mut control, &kernel()).unwrap();
    world.invariants();
    assert_eq!((built.store_port, built.console_port), (1, 2));
    control
        .control(
            ControlOp::UnpauseDomain,
            &mut DomainRef {
                domain: GUEST,
                reserved: 0,
            },
        )
        .unwrap();
    world.yield_now(0);
    world.invariants();
    let by_hypercalls = Guest::look(&world);

    let other = World::new(
        SimConfig {
            free_frames: PAGES + 2,
            cpus: 1,
        },
        EndPolicy::LastDomain,
    );
    let guest = BootSpec {
        kernel: kernel().build(),
        ramdisk: Some(RAMDISK.to_vec()),
        pages: PAGES,
        vcpus: 3,
        cmdline: COMMAND_LINE,
        ..BootSpec::default()
    };
    other.create(GUEST.raw(), &guest).unwrap();
    other.enter(0);
    let mut expected = Guest::look(&other);
    assert_eq!((expected.info.store_evtchn, expected.info.console_evtchn), (0, 0));
    (expected.info.store_evtchn, expected.info.console_evtchn) = (1, 2);
    assert_eq!(by_hypercalls.pages.len() as u64, PAGES - 1);
    for (pfn, page) in &expected.pages {
        assert!(by_hypercalls.pages[pfn] == *page, "page {pfn:#x}");
    }
    assert_eq!(by_hypercalls, expected);
}

#[test]
fn the_rings_are_granted_by_the_first_two_entries() {
    let world = world();
    let mut control = Control::new(&world);
    let built = make(&mut control, &TestKernel::default()).unwrap();
    let mut record = SetupTable {
        dom: GUEST,
        nr_frames: 1,
        frame_list: BUFFER,
        ..SetupTable::ZERO
    };
    let op = u64::from(GrantTableOp::SetupTable.raw());
    control
        .call(Hypercall::GrantTableOp, &[op, World::SCRATCH, 1], &mut record)
        .unwrap();
    let [frame] = control.take();
    let mut table = [0; 24];
    world.sim().ram().read(Mfn::new(frame).unwrap(), 0, &mut table);
    let entry = |frame: u64| GrantEntry {
        flags: 1,
        domid: DomId::new(0),
        frame: u32::try_from(frame).unwrap(),
    };
    let entries = <[GrantEntry; 3]>::read_from(&table).unwrap();
    assert_eq!(
        entries,
        [
            entry(built.console_frame),
            entry(built.store_frame),
            GrantEntry::default()
        ]
    );
}

/// That the machine has all of its memory, and no domain but domain 0.
fn assert_clean(control: &mut Control<'_>, free: u64) {
    let mut record = DomainInfo {
        domain: GUEST,
        ..DomainInfo::ZERO
    };
    let found = control.control(ControlOp::DomainInfo, &mut record);
    assert_eq!(found, Err(Errno::Srch.into()));
    assert_eq!(control.world.hv().memory().free_frames(), free);
    control.world.invariants();
}

#[test]
fn a_failure_at_any_hypercall_leaves_nothing_behind() {
    let world = world();
    let free = world.hv().memory().free_frames();
    for failing in 0.. {
        let mut control = Control::new(&world);
        control.failing = Some(failing);
        let made = make(&mut control, &kernel());
        if made.is_ok() {
            assert_eq!(control.calls, failing);
            assert!(failing > 20, "all calls have failed once");
            return;
        }
        control.failing = None;
        assert_clean(&mut control, free);
    }
}

#[test]
fn a_build_that_is_given_up_leaves_nothing_behind() {
    let world = world();
    let free = world.hv().memory().free_frames();
    let file = kernel().build();
    let image = Image::parse(&file).unwrap();
    let mut control = Control::new(&world);
    for pauses in 0..4 {
        {
            let spec = spec();
            let mut ramdisk = Bytes(&RAMDISK);
            let mut building = pin!(build(&mut control, &spec, &image, Some(&mut ramdisk)));
            let mut context = Context::from_waker(Waker::noop());
            for _ in 0..=pauses {
                assert!(matches!(building.as_mut().poll(&mut context), Poll::Pending));
            }
        }
        assert_clean(&mut control, free);
    }
}

#[test]
fn a_guest_larger_than_the_machine_leaves_nothing_behind() {
    let world = world();
    let free = world.hv().memory().free_frames();
    let file = kernel().build();
    let image = Image::parse(&file).unwrap();
    let mut control = Control::new(&world);
    let large = GuestSpec {
        pages: PAGES + 1,
        ..spec()
    };
    let none = None::<&mut Bytes<'_>>;
    let failed = block_on(pin!(build(&mut control, &large, &image, none))).unwrap_err();
    assert_eq!(
        failed.to_string(),
        "the machine has only 5M of memory left for it, not 6M"
    );
    assert_clean(&mut control, free);
}
