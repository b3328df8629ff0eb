//! All domains, by number.

use super::Domain;
use crate::lock::{Rank, SharedLock};
use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;
use bulkhead_abi::DomId;

/// How many domains there may be at a time; their numbers lie below this.
pub const MAX_DOMAINS: u16 = 1024;

type Shelf = SharedLock<Slot, { Rank::DomainSlot as u32 }>;

/// The table. Each slot has a lock of its own: finding a domain holds up nobody who looks for another.
#[derive(Debug)]
pub struct DomainTable {
    slots: Box<[Shelf]>,
}

/// What a number names.
#[derive(Debug)]
enum Slot {
    /// Nothing.
    Free,
    /// A domain that is being made: nobody finds it yet, and nobody else can have the number.
    Claimed,
    /// A domain.
    Used(Arc<Domain>),
}

/// A number that is kept for a domain that is being made. Dropped, it is free again.
#[derive(Debug)]
pub struct Claim<'a> {
    slot: &'a Shelf,
}

impl DomainTable {
    /// An empty table, or `None` if there is no memory for one.
    #[must_use]
    pub fn new() -> Option<Self> {
        let mut slots = Vec::new();
        slots.try_reserve_exact(usize::from(MAX_DOMAINS)).ok()?;
        slots.extend((0..MAX_DOMAINS).map(|_| SharedLock::new(Slot::Free)));
        Some(Self {
            slots: slots.into_boxed_slice(),
        })
    }

    fn slot(&self, id: DomId) -> Option<&Shelf> {
        self.slots.get(usize::from(id.raw()))
    }

    /// The domain with this number.
    #[must_use]
    pub fn get(&self, id: DomId) -> Option<Arc<Domain>> {
        self.slot(id)?.read().domain()
    }

    /// Keeps a number for a domain that is yet to be made; `None` if it is taken or too large.
    #[must_use]
    pub fn claim(&self, id: DomId) -> Option<Claim<'_>> {
        let slot = self.slot(id)?;
        let mut claimed = slot.write();
        match *claimed {
            Slot::Free => {
                *claimed = Slot::Claimed;
                Some(Claim { slot })
            }
            Slot::Claimed | Slot::Used(_) => None,
        }
    }

    /// All domains that there are, in the order of their numbers.
    pub fn iter(&self) -> impl Iterator<Item = Arc<Domain>> + '_ {
        self.slots.iter().filter_map(|slot| slot.read().domain())
    }
}

impl Slot {
    fn domain(&self) -> Option<Arc<Domain>> {
        match self {
            Self::Used(domain) => Some(Arc::clone(domain)),
            Self::Free | Self::Claimed => None,
        }
    }
}

impl Claim<'_> {
    /// Enters the domain, which was made for this number: from now on it is found.
    pub fn fill(self, domain: Arc<Domain>) {
        *self.slot.write() = Slot::Used(domain);
    }
}

impl Drop for Claim<'_> {
    fn drop(&mut self) {
        let mut slot = self.slot.write();
        if matches!(*slot, Slot::Claimed) {
            *slot = Slot::Free;
        }
    }
}
