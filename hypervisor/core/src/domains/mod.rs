//! Domains: what one is, how one is built, and how one ends.
//!
//! - [`Domain`] is everything that the hypervisor keeps for one guest; [`DomainTable`] finds it by its number.
//! - [`Lifecycle`] says what a domain may do next.
//! - [`boot_list`] names the domains that start with the machine; [`image`] reads a kernel, [`plan`] lays a domain out,
//!   [`builder`] makes it.

pub mod boot_list;
pub mod builder;
pub mod image;
mod lifecycle;
pub mod plan;
mod table;

pub use lifecycle::Lifecycle;
pub use table::{DomainTable, MAX_DOMAINS};

use crate::console::Line;
use crate::events::EventTable;
use crate::frames::{FrameList, Mfn};
use crate::grants::{GrantTable, MapTrack};
use crate::ids::VcpuId;
use crate::lock::{Lock, Rank, SharedLock};
use crate::ports::PortSet;
use crate::sched::Share;
use crate::vcpu::{Spent, Vcpu};
use alloc::boxed::Box;
use bulkhead_abi::DomId;
use core::sync::atomic::AtomicU64;
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
    /// Its memory.
    pub memory: Lock<Holdings, { Rank::Holdings as u32 }>,
    /// What it may do next.
    pub lifecycle: Lock<Lifecycle, { Rank::Lifecycle as u32 }>,
    /// What its vCPUs are entitled to.
    pub share: Lock<Share, { Rank::Share as u32 }>,
    /// The I/O ports that are its own.
    pub ports: PortSet,
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
}

impl Domain {
    /// The vCPU with this number.
    #[must_use]
    pub fn vcpu(&self, id: VcpuId) -> Option<&Vcpu> {
        self.vcpus.get(id.index())
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
