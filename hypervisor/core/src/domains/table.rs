//! All domains, by number.

use super::Domain;
use crate::lock::{Rank, SharedLock};
use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;
use bulkhead_abi::DomId;
use core::sync::atomic::{AtomicU64, Ordering};

/// How many domains there may be at a time; their numbers lie below this.
pub const MAX_DOMAINS: u16 = 1024;

type Shelf = SharedLock<Slot, { Rank::DomainSlot as u32 }>;

/// The table. Each slot has a lock of its own: finding a domain holds up nobody who looks for another.
#[derive(Debug)]
pub struct DomainTable {
    slots: Box<[Shelf]>,
    /// A bit for each domain, so that looking for all of them does not take as many locks as there are numbers. It is set after
    /// the slot is filled, and cleared before it is emptied.
    used: [AtomicU64; WORDS],
}

/// Words of the set of numbers that are used.
const WORDS: usize = MAX_DOMAINS as usize / 64;

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
    id: DomId,
    slot: &'a Shelf,
    table: &'a DomainTable,
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
            used: [const { AtomicU64::new(0) }; WORDS],
        })
    }

    /// The lowest number from `from` on whose use is `used`.
    fn next(&self, from: u16, used: bool) -> Option<u16> {
        let (first, offset) = (usize::from(from / 64), from % 64);
        let mut mask = u64::MAX << offset;
        for (n, word) in self.used.iter().enumerate().skip(first) {
            // Acquire pairs with the Release in `fill`: who finds the bit finds the domain.
            let bits = word.load(Ordering::Acquire);
            let wanted = if used { bits } else { !bits } & mask;
            if wanted != 0 {
                let bit = n.checked_mul(64)?.checked_add(wanted.trailing_zeros() as usize)?;
                return u16::try_from(bit).ok();
            }
            mask = u64::MAX;
        }
        None
    }

    fn word(&self, id: DomId) -> Option<(&AtomicU64, u64)> {
        let word = self.used.get(usize::from(id.raw() / 64))?;
        Some((word, 1 << (id.raw() % 64)))
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
                Some(Claim {
                    id,
                    slot,
                    table: self,
                })
            }
            Slot::Claimed | Slot::Used(_) => None,
        }
    }

    /// Frees the number of a domain that is no more.
    pub(crate) fn release(&self, id: DomId) {
        if let (Some(slot), Some((word, bit))) = (self.slot(id), self.word(id)) {
            word.fetch_and(!bit, Ordering::Release);
            let former = core::mem::replace(&mut *slot.write(), Slot::Free);
            debug_assert!(matches!(former, Slot::Used(_)), "{id} was there");
        }
    }

    /// The domain with the lowest number that is not below `id`.
    #[must_use]
    pub fn first_from(&self, id: DomId) -> Option<Arc<Domain>> {
        let mut from = id.raw();
        while let Some(found) = self.next(from, true) {
            if let Some(domain) = self.get(DomId::new(found)) {
                return Some(domain);
            }
            // It was released just now.
            from = found.checked_add(1)?;
        }
        None
    }

    /// Keeps the lowest free number above that of the control domain; `None` if there is none.
    #[must_use]
    pub fn claim_any(&self) -> Option<Claim<'_>> {
        let mut from = 1;
        while let Some(free) = self.next(from, false) {
            if let Some(claim) = self.claim(DomId::new(free)) {
                return Some(claim);
            }
            // It is being made.
            from = free.checked_add(1)?;
        }
        None
    }

    /// All domains that there are, in the order of their numbers.
    pub fn iter(&self) -> impl Iterator<Item = Arc<Domain>> + '_ {
        let after = |domain: &Arc<Domain>| DomId::new(domain.id.raw().saturating_add(1));
        let first = self.first_from(DomId::new(0));
        core::iter::successors(first, move |domain| self.first_from(after(domain)))
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
    /// The number.
    #[must_use]
    pub const fn id(&self) -> DomId {
        self.id
    }

    /// Enters the domain, which was made for this number: from now on it is found.
    pub fn fill(self, domain: Arc<Domain>) {
        *self.slot.write() = Slot::Used(domain);
        if let Some((word, bit)) = self.table.word(self.id) {
            word.fetch_or(bit, Ordering::Release);
        }
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
