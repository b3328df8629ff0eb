//! A domain as it begins: a number, vCPUs without a state, the page that it shares with the hypervisor, and no memory.
//!
//! Source of what stands in shared info: the guest ABI's section 2.3.

use super::boot_list::MAX_VCPUS;
use super::builder::BuildError;
use super::{Domain, Holdings, Lifecycle};
use crate::console::Line;
use crate::dma::Space;
use crate::events::EventTable;
use crate::frames::{FrameList, Mfn};
use crate::grants::{GrantError, Limits, MapTrack};
use crate::ids::VcpuId;
use crate::lock::{Lock, SharedLock};
use crate::machine::Machine;
use crate::memory::Memory;
use crate::pci::config::Latch;
use crate::ports::PortSet;
use crate::sched::Share;
use crate::vcpu::{InfoPlace, Vcpu};
use alloc::vec::Vec;
use bulkhead_abi::{DomId, shared_info};
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use heapless::String;

/// What a domain is made from before it has anything.
#[derive(Clone, Debug)]
pub struct Shell<'a> {
    /// What the operator calls it.
    pub name: &'a str,
    /// How many vCPUs it has.
    pub vcpus: u32,
    /// How many frames it may have.
    pub limit: u64,
    /// What its vCPUs are entitled to.
    pub share: Share,
    /// The I/O ports that are its own.
    pub ports: PortSet,
    /// The kept extent that it has its memory from, if it is not the machine's free memory.
    pub extent: Option<u32>,
}

impl Shell<'_> {
    /// Makes the domain, with the number `id`.
    ///
    /// # Errors
    ///
    /// [`BuildError::LongName`], [`BuildError::Vcpus`], [`BuildError::NoHeap`], [`BuildError::NoMemory`]; nothing is left behind then.
    pub fn make<M: Machine>(&self, memory: &Memory<M>, id: DomId) -> Result<Domain, BuildError> {
        let name = String::try_from(self.name).map_err(|_| BuildError::LongName)?;
        if !(1..=MAX_VCPUS).contains(&self.vcpus) {
            return Err(BuildError::Vcpus(self.vcpus));
        }
        let events = EventTable::new(id, self.vcpus).map_err(|_| BuildError::NoHeap)?;
        let mut vcpus = Vec::new();
        vcpus
            .try_reserve_exact(self.vcpus as usize)
            .map_err(|_| BuildError::NoHeap)?;
        let limits = Limits::default();
        let shared_info = memory.share(id).ok_or(BuildError::NoMemory(1))?;
        // The last thing that may fail.
        let grants = memory.new_table(id, limits.frames).map_err(|error| {
            memory.unshare(shared_info);
            if error == GrantError::NoHeap {
                BuildError::NoHeap
            } else {
                BuildError::NoMemory(1)
            }
        })?;
        fill_in(memory, shared_info);
        let now = memory.machine().now();
        vcpus.extend((0..self.vcpus).map(|n| {
            let place = InfoPlace {
                frame: shared_info,
                word: u16::try_from(n.saturating_mul(8)).unwrap_or(0),
            };
            Vcpu::new(VcpuId::new(n), place, now)
        }));
        Ok(Domain {
            id,
            name,
            shared_info,
            // There is no more room than they need, so that nothing is moved.
            vcpus: vcpus.into_boxed_slice(),
            events: SharedLock::new(events),
            memory: Lock::new(Holdings {
                frames: FrameList::new(),
                limit: self.limit,
                kept: 0,
                awaited: 0,
                claim: 0,
                map: Vec::new(),
                is_closed: false,
            }),
            lifecycle: Lock::new(Lifecycle::Building),
            teardown: Lock::new(None),
            visitors: AtomicU32::new(0),
            share: Lock::new(self.share),
            ports: self.ports.clone(),
            config: Latch::default(),
            extent: self.extent,
            grants: Lock::new(grants),
            maps: Lock::new(MapTrack::new(limits.maps)),
            dma: Lock::new(Space::new(limits.leaves)),
            assists: AtomicU64::new(0),
            console: Lock::new(Line::new()),
        })
    }
}

/// Gives back what a domain has that has never run, and holds nothing but itself.
pub(super) fn discard<M: Machine>(memory: &Memory<M>, domain: &Domain) {
    let mut frames = core::mem::take(&mut domain.memory.lock().frames);
    release(memory, &mut frames);
    while memory.shrink_table(domain) {}
    memory.unshare(domain.shared_info);
}

/// Gives back frames that nobody has used.
pub(super) fn release<M: Machine>(memory: &Memory<M>, frames: &mut FrameList) {
    while let Some(mfn) = frames.pop(memory.frames()) {
        memory.put(mfn);
    }
}

/// Writes what stands in shared info at first.
fn fill_in<M: Machine>(memory: &Memory<M>, mfn: Mfn) {
    let words = memory.machine().frame(mfn);
    for slot in words.iter().step_by(8).take(shared_info::LEGACY_VCPUS) {
        slot.store(1 << 8, Ordering::Relaxed);
    }
    drop(words);
    let (seconds, nanoseconds) = memory.machine().wall_clock_at_start();
    let [low, high] = [seconds & 0xffff_ffff, seconds >> 32].map(|half| u32::try_from(half).unwrap_or(0));
    let fields = [
        (shared_info::offset::WC_VERSION, 2),
        (shared_info::offset::WC_SEC, low),
        (shared_info::offset::WC_NSEC, nanoseconds),
        (shared_info::offset::WC_SEC_HI, high),
    ];
    for (offset, value) in fields {
        memory
            .machine()
            .write_frame(mfn, offset, &u32::to_le_bytes(value));
    }
}
