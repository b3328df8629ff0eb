//! All domains, by number.

use super::Domain;
use crate::lock::{Rank, SharedLock};
use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;
use bulkhead_abi::DomId;

/// How many domains there may be at a time; their numbers lie below this.
pub const MAX_DOMAINS: u16 = 1024;

type Slot = SharedLock<Option<Arc<Domain>>, { Rank::DomainSlot as u32 }>;

/// The table. Each slot has a lock of its own: finding a domain holds up nobody who looks for another.
#[derive(Debug)]
pub struct DomainTable {
    slots: Box<[Slot]>,
}

impl DomainTable {
    /// An empty table, or `None` if there is no memory for one.
    #[must_use]
    pub fn new() -> Option<Self> {
        let mut slots = Vec::new();
        slots.try_reserve_exact(usize::from(MAX_DOMAINS)).ok()?;
        slots.extend((0..MAX_DOMAINS).map(|_| SharedLock::new(None)));
        Some(Self {
            slots: slots.into_boxed_slice(),
        })
    }

    fn slot(&self, id: DomId) -> Option<&Slot> {
        self.slots.get(usize::from(id.raw()))
    }

    /// The domain with this number.
    #[must_use]
    pub fn get(&self, id: DomId) -> Option<Arc<Domain>> {
        self.slot(id)?.read().clone()
    }

    /// Enters a domain under its number; gives it back if the number is taken or too large.
    ///
    /// # Errors
    ///
    /// The domain itself.
    pub fn insert(&self, domain: Arc<Domain>) -> Result<(), Arc<Domain>> {
        let Some(slot) = self.slot(domain.id) else {
            return Err(domain);
        };
        let mut slot = slot.write();
        if slot.is_some() {
            return Err(domain);
        }
        *slot = Some(domain);
        Ok(())
    }

    /// All domains that there are, in the order of their numbers.
    pub fn iter(&self) -> impl Iterator<Item = Arc<Domain>> + '_ {
        self.slots.iter().filter_map(|slot| slot.read().clone())
    }
}
