//! Making a domain out of a kernel. Source of what a guest finds at its start: the guest ABI's section 2.

use crate::memory::{self, NoMemory};
use crate::source::{Source, SourceFailed};
use crate::target::Target;
use alloc::vec::Vec;
use bulkhead_abi::control::{CreateDomain, NAME_LEN};
use bulkhead_abi::errno::Failure;
use bulkhead_abi::grant::{GTF_PERMIT_ACCESS, GrantEntry, RESERVED_CONSOLE, RESERVED_XENSTORE};
use bulkhead_abi::layout::{PAGE_OFFSET_MASK, PAGE_SHIFT, PAGE_SIZE};
use bulkhead_abi::selectors::{FLAT_RING3_CS64, FLAT_RING3_SS};
use bulkhead_abi::vcpu::{UserRegs, VGCF_IN_KERNEL, VGCF_ONLINE, VcpuGuestContext};
use bulkhead_abi::{Buffered, DomId, Errno, hypercall_page};
use bulkhead_image::{FirstRegisters, Image, MAX_COMMAND_LINE, Plan, PlanError, StartFacts};
use core::fmt;

/// A guest that is to be made.
#[derive(Clone, Copy, Debug)]
pub struct GuestSpec<'a> {
    /// Its number, or any if `None`.
    pub domain: Option<DomId>,
    /// Its name: at most 32 bytes.
    pub name: &'a str,
    /// How many vCPUs it has.
    pub vcpus: u32,
    /// Each vCPU's part of a CPU relative to others': 1 to 65535.
    pub weight: u16,
    /// The physical CPUs that it may run on, a bit each.
    pub cpus: u64,
    /// How many pages it has at first.
    pub pages: u64,
    /// How many it may have later, if that is more.
    pub most_pages: u64,
    /// The kept extent that it has its memory from, if not the machine's free memory.
    pub extent: Option<u32>,
    /// The kernel's command line: at most 1023 bytes, without a zero.
    pub command_line: &'a str,
    /// The domain that serves its xenstore ring.
    pub store: DomId,
    /// The domain that serves its console ring.
    pub console: DomId,
}

/// A guest that was made. It does not run until it is unpaused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Built {
    /// Its number.
    pub domain: DomId,
    /// How many pages it has.
    pub pages: u64,
    /// The frame of its xenstore ring: zeros.
    pub store_frame: u64,
    /// Its port for xenstore, for the domain that serves it to bind to.
    pub store_port: u32,
    /// The frame of its console ring: zeros.
    pub console_frame: u64,
    /// Its port for the console, for the domain that serves it to bind to.
    pub console_port: u32,
}

/// What was asked of the target when it refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Call {
    /// To make the domain.
    Create,
    /// To tell its shared frame.
    SharedInfo,
    /// To give it memory.
    Populate,
    /// To write to its memory.
    Write,
    /// To allocate a port.
    AllocUnbound,
    /// To write to its grant table.
    SeedGrant,
    /// To pin its page tables.
    PinRoot,
    /// To give its first vCPU a state.
    SetVcpu,
}

impl fmt::Display for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Create => "make the domain",
            Self::SharedInfo => "tell its shared frame",
            Self::Populate => "give it memory",
            Self::Write => "write to its memory",
            Self::AllocUnbound => "allocate a port",
            Self::SeedGrant => "write to its grant table",
            Self::PinRoot => "pin its page tables",
            Self::SetVcpu => "start its first vCPU",
        })
    }
}

/// Why a guest could not be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BuildError {
    /// Its name is empty, or longer than 32 bytes.
    Name,
    /// Its command line is longer than 1023 bytes, or has a zero in it.
    CommandLine,
    /// It cannot be laid out.
    Plan(PlanError),
    /// There is no memory for the builder's own list of frames.
    NoMemory(NoMemory),
    /// The machine had only so many pages left for it.
    NoFrames {
        /// What there was.
        found: u64,
        /// What it takes.
        wanted: u64,
    },
    /// The machine gave a frame whose number has more than 32 bits.
    Frame(u64),
    /// Its ramdisk cannot be read.
    Ramdisk(SourceFailed),
    /// The hypervisor refused this.
    Refused(Call, Failure),
}

impl fmt::Display for BuildError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name => write!(
                f,
                "a domain's name has 1 to {NAME_LEN} bytes, and no zero among them"
            ),
            Self::CommandLine => write!(
                f,
                "a command line has at most {MAX_COMMAND_LINE} bytes, and no zero among them"
            ),
            Self::Plan(error) => error.fmt(f),
            Self::NoMemory(error) => error.fmt(f),
            Self::NoFrames { found, wanted } => write!(
                f,
                "the machine has only {}M of memory left for it, not {}M",
                found >> 8,
                wanted.div_ceil(256)
            ),
            Self::Frame(frame) => write!(f, "frame {frame:#x} is beyond what the builder can use"),
            Self::Ramdisk(error) => error.fmt(f),
            Self::Refused(call, failure) => write!(f, "the hypervisor refused to {call}: {failure}"),
        }
    }
}

impl core::error::Error for BuildError {}

/// A guest that could not be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BuildFailed {
    /// Why.
    pub cause: BuildError,
    /// The domain that is left behind, and why it could not be destroyed. `None` as a rule: nothing is left.
    pub left: Option<(DomId, Failure)>,
}

impl From<BuildError> for BuildFailed {
    fn from(cause: BuildError) -> Self {
        Self { cause, left: None }
    }
}

impl fmt::Display for BuildFailed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.cause.fmt(f)?;
        match self.left {
            Some((domain, failure)) => {
                write!(
                    f,
                    "; what there is of it, {domain}, could not be destroyed: {failure}"
                )
            }
            None => Ok(()),
        }
    }
}

impl core::error::Error for BuildFailed {}

/// Makes a guest of `kernel`, which finds `ramdisk` if there is one. It is ready to be unpaused then.
///
/// There is a pause after each portion of work: some hundred pages given, or written. Pinning the page tables is one call, as is
/// destroying the domain if something fails; the hypervisor interrupts both when it must. A build that is dropped while it pauses
/// leaves nothing behind either.
///
/// # Errors
///
/// [`BuildFailed`]; the domain is destroyed then.
pub async fn build<T: Target, R: Source>(
    target: &mut T,
    spec: &GuestSpec<'_>,
    kernel: &Image<'_>,
    ramdisk: Option<&mut R>,
) -> Result<Built, BuildFailed> {
    let wanted = record(spec)?;
    let ramdisk_len = ramdisk.as_ref().map(|source| source.len());
    let plan = Plan::new(kernel, spec.pages, ramdisk_len).map_err(BuildError::Plan)?;
    let frames = usize::try_from(plan.pages).map_err(|_| NoMemory(usize::MAX));
    let frames = frames.and_then(memory::vector).map_err(BuildError::NoMemory)?;
    let domain = target.create(&wanted).map_err(refused(Call::Create))?;

    let mut site = Site {
        target,
        domain,
        frames,
        work: 0,
        is_finished: false,
    };
    let built = site.furnish(spec, &plan, kernel, ramdisk).await;
    built.map_err(|cause| BuildFailed {
        cause,
        left: site.clear().err().map(|failure| (domain, failure)),
    })
}

/// What to tell the hypervisor of a guest.
fn record(spec: &GuestSpec<'_>) -> Result<CreateDomain, BuildError> {
    let name = spec.name.as_bytes();
    if !(1..=NAME_LEN).contains(&name.len()) || name.contains(&0) {
        return Err(BuildError::Name);
    }
    let command_line = spec.command_line.as_bytes();
    if command_line.len() > MAX_COMMAND_LINE || command_line.contains(&0) {
        return Err(BuildError::CommandLine);
    }
    let mut record = CreateDomain {
        domain: spec.domain.unwrap_or(DomId::INVALID),
        weight: spec.weight,
        vcpus: spec.vcpus,
        limit: spec.pages.max(spec.most_pages),
        cpus: spec.cpus,
        extent: spec.extent.unwrap_or(0),
        ..CreateDomain::default()
    };
    for (to, from) in record.name.iter_mut().zip(name) {
        *to = *from;
    }
    Ok(record)
}

fn refused(call: Call) -> impl Fn(Failure) -> BuildError {
    move |failure| BuildError::Refused(call, failure)
}

/// The largest extents that are asked for, as a power of two: 2 MiB.
const MAX_ORDER: u32 = 9;

/// How many frames are asked for at a time.
const FRAMES_AT_A_TIME: usize = 1 << MAX_ORDER;

/// How many pages are written between two pauses.
const PAGES_AT_A_TIME: u32 = 64;

/// A domain under construction. It is destroyed when this is dropped before it is finished.
struct Site<'t, T: Target> {
    target: &'t mut T,
    domain: DomId,
    /// Of each page, as many as there are yet.
    frames: Vec<u32>,
    /// Pages written since the last pause.
    work: u32,
    is_finished: bool,
}

impl<T: Target> Drop for Site<'_, T> {
    fn drop(&mut self) {
        if !self.is_finished {
            // Nobody waits for the build any more who could be told.
            let _ = self.clear();
        }
    }
}

impl<T: Target> Site<'_, T> {
    /// Takes down what there is.
    fn clear(&mut self) -> Result<(), Failure> {
        self.is_finished = true;
        self.target.destroy(self.domain)
    }

    async fn furnish<R: Source>(
        &mut self,
        spec: &GuestSpec<'_>,
        plan: &Plan,
        kernel: &Image<'_>,
        ramdisk: Option<&mut R>,
    ) -> Result<Built, BuildError> {
        let shared_info = self
            .target
            .shared_info(self.domain)
            .map_err(refused(Call::SharedInfo))?;
        // In this order: guests and tools know the ports by their numbers, 1 and 2.
        let store_port = self.port(spec.store)?;
        let console_port = self.port(spec.console)?;
        self.populate(plan.pages).await?;
        let built = Built {
            domain: self.domain,
            pages: plan.pages,
            store_frame: self.frame(plan.store)?,
            store_port,
            console_frame: self.frame(plan.console)?,
            console_port,
        };

        let mut page = memory::vector(PAGE_SIZE).map_err(BuildError::NoMemory)?;
        page.resize(PAGE_SIZE, 0);
        let place = |va: u64| va.wrapping_sub(plan.virt_base);
        for segment in &kernel.segments {
            self.write(place(segment.va), segment.data).await?;
        }
        if let Some(va) = kernel.hypercall_page {
            if let Some(stubs) = page.first_chunk_mut() {
                hypercall_page::fill(stubs);
            }
            self.write(place(va), &page).await?;
        }
        let mut ramdisk_len = 0;
        if let (Some(source), Some(place)) = (ramdisk, &plan.ramdisk) {
            ramdisk_len = source.len();
            self.ramdisk(place.start, source, &mut page).await?;
        }
        self.page_list(plan, &mut page).await?;
        self.tables(plan, &mut page).await?;
        let info = plan.start_info(&StartFacts {
            shared_info: shared_info << PAGE_SHIFT,
            store_frame: built.store_frame,
            store_port,
            console_frame: built.console_frame,
            console_port,
            flags: 0,
            ramdisk_len,
            command_line: spec.command_line.as_bytes(),
        });
        self.write(plan.start_info << PAGE_SHIFT, info.to_bytes().as_ref())
            .await?;
        self.seed(RESERVED_CONSOLE, spec.console, built.console_frame)?;
        self.seed(RESERVED_XENSTORE, spec.store, built.store_frame)?;

        let root = self.frame(plan.root())?;
        self.target
            .pin_root(self.domain, root)
            .map_err(refused(Call::PinRoot))?;
        self.start(plan.first_registers(), root)?;
        self.is_finished = true;
        Ok(built)
    }

    fn port(&mut self, remote: DomId) -> Result<u32, BuildError> {
        self.target
            .alloc_unbound(self.domain, remote)
            .map_err(refused(Call::AllocUnbound))
    }

    /// Gives the domain `total` frames, in the largest extents that there are.
    async fn populate(&mut self, total: u64) -> Result<(), BuildError> {
        let mut largest = MAX_ORDER;
        loop {
            let found = self.frames.len() as u64;
            let left = total.saturating_sub(found).min(FRAMES_AT_A_TIME as u64);
            let Some(order) = left.checked_ilog2().map(|order| order.min(largest)) else {
                return Ok(());
            };
            if !self.take(left >> order, order)? {
                let no_frames = BuildError::NoFrames {
                    found: self.frames.len() as u64,
                    wanted: total,
                };
                largest = order.checked_sub(1).ok_or(no_frames)?;
            }
            self.target.pause().await;
        }
    }

    /// Gives the domain frames for its next pages: `count` extents, at most [`FRAMES_AT_A_TIME`]. Returns whether there were so many.
    fn take(&mut self, count: u64, order: u32) -> Result<bool, BuildError> {
        let mut extents = [0; FRAMES_AT_A_TIME];
        let count = usize::try_from(count).unwrap_or(usize::MAX);
        let extents = extents.get_mut(..count).unwrap_or_default();
        let next = self.frames.len() as u64;
        for (n, extent) in (0_u64..).zip(extents.iter_mut()) {
            *extent = next.saturating_add(n << order);
        }
        let given = self
            .target
            .populate(self.domain, extents, order)
            .map_err(refused(Call::Populate))?;
        let given = usize::try_from(given).unwrap_or(usize::MAX).min(count);
        for &first in extents.iter().take(given) {
            for frame in (0..1_u64 << order).map(|n| first.saturating_add(n)) {
                // There is room: as many were reserved as are asked for.
                self.frames
                    .push(u32::try_from(frame).map_err(|_| BuildError::Frame(frame))?);
            }
        }
        Ok(given == count)
    }

    fn frame(&self, pfn: u64) -> Result<u64, BuildError> {
        let frame = usize::try_from(pfn).ok().and_then(|pfn| self.frames.get(pfn));
        // The plan has every part inside the domain.
        frame.map(|&frame| u64::from(frame)).ok_or(BuildError::Frame(pfn))
    }

    /// Copies `data` to the pages from byte `at` of the domain's memory on.
    async fn write(&mut self, at: u64, data: &[u8]) -> Result<(), BuildError> {
        let (mut at, mut rest) = (at, data);
        while !rest.is_empty() {
            let offset = u32::try_from(at & PAGE_OFFSET_MASK).unwrap_or(0);
            let room = PAGE_SIZE.saturating_sub(offset as usize).min(rest.len());
            let (now, later) = rest.split_at_checked(room).unwrap_or((rest, &[]));
            let frame = self.frame(at >> PAGE_SHIFT)?;
            self.target
                .write(self.domain, frame, offset, now)
                .map_err(refused(Call::Write))?;
            at = at.saturating_add(room as u64);
            rest = later;
            self.work = self.work.saturating_add(1);
            if self.work >= PAGES_AT_A_TIME {
                self.work = 0;
                self.target.pause().await;
            }
        }
        Ok(())
    }

    async fn ramdisk<R: Source>(
        &mut self,
        first: u64,
        source: &mut R,
        page: &mut [u8],
    ) -> Result<(), BuildError> {
        let len = source.len();
        for at in (0..len).step_by(PAGE_SIZE) {
            let size = usize::try_from(len.saturating_sub(at)).unwrap_or(PAGE_SIZE);
            let size = size.min(page.len());
            let piece = page.get_mut(..size).unwrap_or_default();
            source.read(piece).await.map_err(BuildError::Ramdisk)?;
            self.write((first << PAGE_SHIFT).saturating_add(at), piece)
                .await?;
        }
        Ok(())
    }

    /// Writes the list of all frames, by page number.
    async fn page_list(&mut self, plan: &Plan, page: &mut [u8]) -> Result<(), BuildError> {
        for (nth, pfn) in plan.p2m.clone().enumerate() {
            let entries = self.frames.chunks(PAGE_SIZE / 8).nth(nth).unwrap_or_default();
            page.fill(0);
            for (word, frame) in page.chunks_exact_mut(8).zip(entries) {
                word.copy_from_slice(&u64::from(*frame).to_le_bytes());
            }
            self.write(pfn << PAGE_SHIFT, page).await?;
        }
        Ok(())
    }

    /// Writes the first page tables, each whole. Nobody can once they are pinned.
    async fn tables(&mut self, plan: &Plan, page: &mut [u8]) -> Result<(), BuildError> {
        page.fill(0);
        let mut table = plan.root();
        for entry in plan.entries() {
            if entry.table != table {
                self.write(table << PAGE_SHIFT, page).await?;
                page.fill(0);
                table = entry.table;
            }
            let word = self.frame(entry.child)? << PAGE_SHIFT | entry.flags;
            if let Some(place) = page.chunks_exact_mut(8).nth(entry.index) {
                place.copy_from_slice(&word.to_le_bytes());
            }
        }
        self.write(table << PAGE_SHIFT, page).await
    }

    /// Grants a ring's frame to the domain that serves it, under the number by which that knows it.
    fn seed(&mut self, reference: u32, server: DomId, frame: u64) -> Result<(), BuildError> {
        let entry = GrantEntry {
            flags: GTF_PERMIT_ACCESS,
            domid: server,
            frame: u32::try_from(frame).map_err(|_| BuildError::Frame(frame))?,
        };
        match self.target.seed_grant(self.domain, reference, &entry) {
            Ok(()) | Err(Failure::Errno(Errno::OpNotSupp)) => Ok(()),
            Err(failure) => Err(BuildError::Refused(Call::SeedGrant, failure)),
        }
    }

    /// Gives the first vCPU the state of the guest ABI's section 2.5. The guest gives the others theirs.
    fn start(&mut self, registers: FirstRegisters, root: u64) -> Result<(), BuildError> {
        const EVENTS_ON: u64 = 1 << 9;
        const CR0: u64 = 0x8005_0033;
        const CR4: u64 = 0x660;
        const DR6: u64 = 0xffff_0ff0;
        const DR7: u64 = 0x400;
        let FirstRegisters { rip, rsp, rsi } = registers;
        let context = VcpuGuestContext {
            flags: VGCF_IN_KERNEL | VGCF_ONLINE,
            user_regs: UserRegs {
                rip,
                rsp,
                rsi,
                rflags: EVENTS_ON,
                cs: FLAT_RING3_CS64,
                ss: FLAT_RING3_SS.into(),
                ..UserRegs::default()
            },
            kernel_ss: FLAT_RING3_SS.into(),
            kernel_sp: rsp,
            ctrlreg: [CR0, 0, 0, root << PAGE_SHIFT, CR4, 0, 0, 0],
            debugreg: [0, 0, 0, 0, 0, 0, DR6, DR7],
            ..VcpuGuestContext::default()
        };
        self.target
            .set_vcpu(self.domain, 0, &context)
            .map_err(refused(Call::SetVcpu))
    }
}
