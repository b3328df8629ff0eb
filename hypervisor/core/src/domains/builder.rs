//! Making a domain: memory, page tables, and the state that its kernel starts in.
//!
//! This is the hypervisor's own small builder, for the domains of the boot list. Source of what a guest finds at its
//! start: the guest ABI's section 2.

use super::boot_list::{Entry, MAX_VCPUS};
use super::shell::{self, Shell};
use super::{Domain, MAX_NAME};
use crate::frames::{FrameList, Kind, MAX_ORDER, Mfn, Pfn};
use crate::machine::Machine;
use crate::memory::Memory;
use crate::paging::{PagingError, Work};
use crate::schedule;
use crate::try_box::TryBox;
use crate::vcpu::{Context, Standing};
use alloc::vec::Vec;
use bulkhead_abi::layout::{PAGE_OFFSET_MASK, PAGE_SHIFT, PAGE_SIZE};
use bulkhead_abi::start_info::{self, StartInfo};
use bulkhead_abi::{Buffered, DomId, hypercall_page};
use bulkhead_image::{FirstRegisters, Image, ImageError, Plan, PlanError, StartFacts};
use core::fmt;
use core::sync::atomic::Ordering;

/// Why a domain could not be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BuildError {
    /// Its kernel is not one.
    Image(ImageError),
    /// It cannot be laid out.
    Plan(PlanError),
    /// There are not this many pages left.
    NoMemory(u64),
    /// The hypervisor has no memory for its own records.
    NoHeap,
    /// Its name is longer than [`MAX_NAME`] bytes.
    LongName,
    /// Its number is taken or too large.
    NumberTaken,
    /// It should have this many vCPUs, which is none or more than [`MAX_VCPUS`].
    Vcpus(u32),
    /// None of the CPUs that it may run on is there.
    NoCpu,
    /// The first page tables were refused: a bug in the builder.
    Tables(PagingError),
}

impl fmt::Display for BuildError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Image(error) => write!(f, "its kernel cannot be started: {error}"),
            Self::Plan(error) => write!(f, "{error}"),
            Self::NoMemory(pages) => write!(f, "there are not {}M of memory left for it", pages >> 8),
            Self::NoHeap => f.write_str("the hypervisor has no memory left for its own records"),
            Self::LongName => write!(f, "its name is longer than {MAX_NAME} bytes"),
            Self::Vcpus(vcpus) => write!(f, "it has {vcpus} vCPUs, and should have 1 to {MAX_VCPUS}"),
            Self::NoCpu => f.write_str("none of the CPUs that it may run on is there"),
            Self::NumberTaken => f.write_str("there is no free domain number"),
            Self::Tables(error) => write!(
                f,
                "its first page tables were refused ({error:?}): a bug in the builder"
            ),
        }
    }
}

/// The frame of each page while a domain is built.
struct Pages(Vec<u32>);

impl Pages {
    fn mfn(&self, pfn: u64) -> Option<Mfn> {
        Mfn::new(u64::from(*self.0.get(usize::try_from(pfn).ok()?)?))
    }
}

/// Makes a domain, ready to start, with the number `id`.
///
/// # Errors
///
/// See [`BuildError`]; nothing is left behind then.
pub fn build<M: Machine>(
    memory: &Memory<M>,
    id: DomId,
    entry: &Entry<'_>,
    kernel: &[u8],
    ramdisk: Option<&[u8]>,
) -> Result<Domain, BuildError> {
    let image = Image::parse(kernel).map_err(BuildError::Image)?;
    let plan =
        Plan::new(&image, entry.pages, ramdisk.map(|data| data.len() as u64)).map_err(BuildError::Plan)?;
    let shell = Shell {
        name: entry.name,
        vcpus: entry.vcpus,
        limit: entry.pages,
        share: schedule::share(id, entry),
        ports: entry.ports.clone(),
        extent: None,
    };
    let construction = Construction {
        memory,
        id,
        plan: &plan,
    };
    let mut frames = FrameList::new();
    let pages = construction.populate(&mut frames);
    let made = pages.and_then(|pages| Ok((shell.make(memory, id)?, pages)));
    let (domain, pages) = made.inspect_err(|_| shell::release(memory, &mut frames))?;
    let built = construction
        .furnish(&pages, domain.shared_info, &image, entry, ramdisk)
        .and_then(|start| construction.hold(&pages).map(|()| start));
    domain.memory.lock().frames = frames;
    match built {
        Ok(start) => {
            // Only the first has a state; the guest gives the others theirs.
            if let Some(vcpu) = domain.vcpus.first() {
                vcpu.park(start);
                vcpu.set_standing(Standing::Down);
            }
            Ok(domain)
        }
        Err(error) => {
            shell::discard(memory, &domain);
            Err(error)
        }
    }
}

struct Construction<'a, M> {
    memory: &'a Memory<M>,
    id: DomId,
    plan: &'a Plan,
}

impl<M: Machine> Construction<'_, M> {
    /// Takes the domain's frames, in blocks as large as there are, and numbers them.
    fn populate(&self, frames: &mut FrameList) -> Result<Pages, BuildError> {
        let total = self.plan.pages;
        let mut pages = Vec::new();
        pages
            .try_reserve_exact(usize::try_from(total).unwrap_or(usize::MAX))
            .map_err(|_| BuildError::NoHeap)?;
        let mut largest = MAX_ORDER;
        loop {
            let left = total.saturating_sub(pages.len() as u64);
            if left == 0 {
                return Ok(Pages(pages));
            }
            let order = largest.min(u8::try_from(left.ilog2()).unwrap_or(0));
            let Some(first) = self.memory.allocate(order, self.id, frames) else {
                largest = order.checked_sub(1).ok_or(BuildError::NoMemory(total))?;
                continue;
            };
            for mfn in (0..1_u64 << order).filter_map(|n| first.offset(n)) {
                self.memory.set_pfn(mfn, Pfn::new(pages.len() as u64));
                // The frame table ends below 2^32 frames.
                pages.push(u32::try_from(mfn.raw()).unwrap_or(u32::MAX));
            }
        }
    }

    /// Fills the domain's memory, and returns the state of its first vCPU.
    ///
    /// Nothing is held yet but the frames themselves, so that a failure leaves nothing else to be given back.
    fn furnish(
        &self,
        pages: &Pages,
        shared_info: Mfn,
        image: &Image<'_>,
        entry: &Entry<'_>,
        ramdisk: Option<&[u8]>,
    ) -> Result<TryBox<Context>, BuildError> {
        for segment in &image.segments {
            self.write(pages, segment.va.wrapping_sub(self.plan.virt_base), segment.data);
        }
        if let Some(va) = image.hypercall_page {
            let mut stubs = [0; PAGE_SIZE];
            hypercall_page::fill(&mut stubs);
            self.write(pages, va.wrapping_sub(self.plan.virt_base), &stubs);
        }
        if let (Some(data), Some(place)) = (ramdisk, &self.plan.ramdisk) {
            self.write(pages, place.start << PAGE_SHIFT, data);
        }
        for (n, mfn) in pages.0.iter().enumerate() {
            let at = (self.plan.p2m.start << PAGE_SHIFT).saturating_add((n as u64).saturating_mul(8));
            self.write(pages, at, &u64::from(*mfn).to_le_bytes());
        }

        let root = self.tables(pages)?;
        let info = self.start_info(pages, shared_info, entry, ramdisk)?;
        self.write(
            pages,
            self.plan.start_info << PAGE_SHIFT,
            info.to_bytes().as_ref(),
        );
        let FirstRegisters { rip, rsp, rsi } = self.plan.first_registers();
        TryBox::new(Context::at_start(root, rip, rsp, rsi)).ok_or(BuildError::NoHeap)
    }

    /// Takes the holds that a running domain has: the last step, after everything that may fail for want of memory.
    fn hold(&self, pages: &Pages) -> Result<(), BuildError> {
        let root = pages
            .mfn(self.plan.root())
            .ok_or(BuildError::Tables(PagingError::NotMapped))?;
        let memory = self.memory;
        memory
            .pin(self.id, root, Kind::L4, &mut Work::unlimited())
            .map_err(BuildError::Tables)?;
        // The pin is the guest's, to take off when it likes; the vCPU has a hold of its own.
        memory
            .get_as(root, self.id, Kind::L4, &mut Work::unlimited())
            .map_err(|error| {
                // As fresh from the pin, so that this cannot fail.
                let unpinned = memory.unpin(self.id, root, &mut Work::unlimited());
                debug_assert_eq!(unpinned, Ok(()), "it was pinned just now");
                BuildError::Tables(error)
            })?;
        Ok(())
    }

    /// Copies `data` to the pages from byte `at` of the domain's memory on.
    fn write(&self, pages: &Pages, at: u64, data: &[u8]) {
        let (mut at, mut rest) = (at, data);
        while !rest.is_empty() {
            let offset = usize::try_from(at & PAGE_OFFSET_MASK).unwrap_or(0);
            let room = PAGE_SIZE.saturating_sub(offset).min(rest.len());
            let (now, later) = rest.split_at_checked(room).unwrap_or((rest, &[]));
            // The plan has every part inside the domain.
            if let Some(mfn) = pages.mfn(at >> PAGE_SHIFT) {
                self.memory.machine().write_frame(mfn, offset, now);
            }
            at = at.saturating_add(room as u64);
            rest = later;
        }
    }

    /// Writes the first page tables as the guest itself would; pinning validates them. Returns the level 4 table.
    fn tables(&self, pages: &Pages) -> Result<Mfn, BuildError> {
        let written = self.plan.entries().try_for_each(|entry| {
            let words = self.memory.machine().frame(pages.mfn(entry.table)?);
            let child = pages.mfn(entry.child)?.maddr();
            words
                .get(entry.index)?
                .store(child | entry.flags, Ordering::Relaxed);
            Some(())
        });
        written
            .and_then(|()| pages.mfn(self.plan.root()))
            .ok_or(BuildError::Tables(PagingError::NotMapped))
    }

    fn start_info(
        &self,
        pages: &Pages,
        shared_info: Mfn,
        entry: &Entry<'_>,
        ramdisk: Option<&[u8]>,
    ) -> Result<StartInfo, BuildError> {
        let broken = BuildError::Tables(PagingError::NotMapped);
        let is_control = self.id == DomId::new(0);
        let flags = if is_control {
            start_info::SIF_PRIVILEGED | start_info::SIF_INITDOMAIN
        } else {
            0
        };
        Ok(self.plan.start_info(&StartFacts {
            shared_info: shared_info.maddr(),
            store_frame: pages.mfn(self.plan.store).ok_or(broken)?.raw(),
            console_frame: pages.mfn(self.plan.console).ok_or(broken)?.raw(),
            flags,
            ramdisk_len: ramdisk.map_or(0, |data| data.len() as u64),
            command_line: entry.cmdline.as_bytes(),
            ..StartFacts::default()
        }))
    }
}
