//! Domains: what one is, how one is built, and how one ends.
//!
//! - [`Domain`] is everything that the hypervisor keeps for one guest; [`DomainTable`] finds it by its number.
//! - [`Lifecycle`] says what a domain may do next.
//! - [`boot_list`] names the domains that start with the machine; [`builder`] makes one.

pub mod boot_list;
pub mod builder;
mod lifecycle;
mod shell;
mod table;
mod teardown;

pub use lifecycle::Lifecycle;
pub use shell::Shell;
pub use table::{Claim, DomainTable, MAX_DOMAINS};
pub use teardown::Teardown;

use crate::console::Line;
use crate::dma::Space;
use crate::events::EventTable;
use crate::frames::{FrameList, Mfn};
use crate::grants::{GrantTable, MapTrack};
use crate::ids::VcpuId;
use crate::lock::{Lock, Rank, SharedLock};
use crate::pci::config::Latch;
use crate::ports::PortSet;
use crate::sched::Share;
use crate::vcpu::{Spent, Vcpu};
use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;
use bulkhead_abi::DomId;
use bulkhead_abi::memory::E820Entry;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use heapless::String;

/// The longest name of a domain, in bytes.
pub const MAX_NAME: usize = 32;

/// One guest.
#[derive(Debug)]
pub struct Domain {
    /// Its number.
    pub id: DomId,
    /// What the operator calls it.
    pub name: String<MAX_NAME>,
    /// The frame that it shares with the hypervisor.
    pub shared_info: Mfn,
    /// Its virtual CPUs, by number.
    pub vcpus: Box<[Vcpu]>,
    /// Its event channels.
    pub events: SharedLock<EventTable, { Rank::Events as u32 }>,
    /// What it grants others.
    pub grants: Lock<GrantTable, { Rank::Grants as u32 }>,
    /// What it has mapped of others' grants.
    pub maps: Lock<MapTrack, { Rank::Maps as u32 }>,
    /// What its devices may reach.
    pub dma: Lock<Space, { Rank::DmaSpace as u32 }>,
    /// Its memory.
    pub memory: Lock<Holdings, { Rank::Holdings as u32 }>,
    /// What it may do next.
    pub lifecycle: Lock<Lifecycle, { Rank::Lifecycle as u32 }>,
    /// How far its end has come; empty before it, and while somebody is at it.
    pub teardown: Lock<Option<Teardown>, { Rank::Teardown as u32 }>,
    /// How many work on its memory on behalf of the control domain; see [`Visit`].
    pub visitors: AtomicU32,
    /// The kept extent that it has its memory from first, if it is not the machine's free memory alone.
    pub extent: Option<u32>,
    /// What its vCPUs are entitled to.
    pub share: Lock<Share, { Rank::Share as u32 }>,
    /// The I/O ports that are its own.
    pub ports: PortSet,
    /// Where it accesses configuration space.
    pub(crate) config: Latch,
    /// How it wants to be treated: a bit for each type of `vm_assist`.
    pub assists: AtomicU64,
    /// What it has written of a line so far.
    pub console: Lock<Line, { Rank::ConsoleLine as u32 }>,
}

/// The frames that a domain owns.
#[derive(Debug)]
pub struct Holdings {
    /// All of them, but for those that the hypervisor keeps for it.
    pub frames: FrameList,
    /// How many it may have.
    pub limit: u64,
    /// How many it had when that was last changed: it keeps them, if they are more.
    pub kept: u64,
    /// How many are on their way to it: there is room for them.
    pub awaited: u64,
    /// How many more of the machine's free frames it has a claim on: nobody else gets them.
    pub claim: u64,
    /// The memory map that it is told, if not that of all that it may have: no entry means none.
    pub map: Vec<E820Entry>,
    /// Whether nothing comes or goes any more: the domain is being destroyed.
    pub is_closed: bool,
}

impl Holdings {
    /// Whether the domain may have `count` frames more.
    #[must_use]
    pub fn has_room(&self, count: u64) -> bool {
        let wanted = self
            .frames
            .len()
            .checked_add(self.awaited)
            .and_then(|wanted| wanted.checked_add(count));
        !self.is_closed && wanted.is_some_and(|wanted| wanted <= self.limit || mutant!(NoLimit))
    }
}

/// Work on the memory of a domain on behalf of the control domain. While it lasts, none of what the domain holds is taken back.
#[derive(Debug)]
pub struct Visit(Arc<Domain>);

impl Visit {
    /// Begins. `None` if the domain is being destroyed.
    #[must_use]
    pub fn new(domain: Arc<Domain>) -> Option<Self> {
        // Sequentially consistent, as the look at it: whoever destroys the domain first says so and then looks for visitors, these first
        // enter and then look whether anybody has said so.
        domain.visitors.fetch_add(1, Ordering::SeqCst);
        let visit = Self(domain);
        let is_dying = *visit.0.lifecycle.lock() == Lifecycle::Dying;
        (!is_dying).then_some(visit)
    }

    /// The domain.
    #[must_use]
    pub fn domain(&self) -> &Domain {
        &self.0
    }
}

impl Drop for Visit {
    fn drop(&mut self) {
        self.0.visitors.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Domain {
    /// The vCPU with this number.
    #[must_use]
    pub fn vcpu(&self, id: VcpuId) -> Option<&Vcpu> {
        self.vcpus.get(id.index())
    }

    /// Whether it is one that runs when it can: it has been let run, and is neither paused nor at its end.
    #[must_use]
    pub fn can_run(&self) -> bool {
        let life = *self.lifecycle.lock();
        life == Lifecycle::Running && !self.vcpus.iter().any(Vcpu::is_held)
    }

    /// Where the time of its vCPUs went, in ticks of the time-stamp counter: of each up to when its CPU last chose whom to run.
    #[must_use]
    pub fn spent(&self) -> Spent {
        self.vcpus.iter().map(Vcpu::spent).fold([0; 3], |all, one| {
            let mut parts = all.into_iter().zip(one).map(|(a, b)| u64::wrapping_add(a, b));
            core::array::from_fn(|_| parts.next().unwrap_or(0))
        })
    }

    /// Whether this is the control domain.
    #[must_use]
    pub fn is_control(&self) -> bool {
        self.id == DomId::new(0)
    }
}
