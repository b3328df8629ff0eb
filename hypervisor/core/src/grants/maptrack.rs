//! A grantee's mappings, by handle.
//!
//! A handle that somebody is at is *taken*: nobody else finds it until it is put back or freed. So two vCPUs cannot end the
//! same mapping at once, and none can end a mapping that is still being made.

use super::{GrantError, Rights};
use crate::domains::Domain;
use crate::frames::Mfn;
use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;

/// Slots that are allocated together: 4 KiB.
const PAGE: usize = 128;

/// Ends the list of free slots.
const END: u32 = u32::MAX;

/// The mappings of one domain. Finding a free handle, and giving one back, takes the same short time however many there are.
#[derive(Debug)]
pub struct MapTrack {
    pages: Vec<Box<[Slot]>>,
    /// The first free slot.
    free: u32,
    limit: u32,
}

#[derive(Debug)]
enum Slot {
    /// Nobody's; and the next such slot.
    Free(u32),
    /// Somebody is at it.
    Taken,
    /// A mapping.
    Used(Mapping),
}

/// A grant that is mapped, for its domain, for a device, or both.
#[derive(Clone, Debug)]
pub(crate) struct Mapping {
    /// The grantor. It stays, even after its end, as long as its frames are mapped.
    pub(crate) grantor: Arc<Domain>,
    /// The grantor's entry.
    pub(crate) gref: u32,
    /// The frame, which was the grantor's as the mapping was made.
    pub(crate) frame: Mfn,
    /// How it is used.
    pub(crate) rights: Rights,
    /// How a page-table entry leads to it, if one does.
    pub(crate) host: Option<Names>,
    /// Whether it is held for a device.
    pub(crate) device: bool,
}

/// How the operations on a mapping name its page-table entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Names {
    /// By the address that is mapped.
    Address,
    /// By the machine address of the entry itself.
    Entry,
}

impl Mapping {
    /// Whether nothing is left of it.
    pub(crate) const fn is_over(&self) -> bool {
        self.host.is_none() && !self.device
    }
}

impl MapTrack {
    /// No mappings; as many as `limit` are allowed.
    #[must_use]
    pub const fn new(limit: u32) -> Self {
        Self {
            pages: Vec::new(),
            free: END,
            limit,
        }
    }

    fn slot(&mut self, handle: u32) -> Option<&mut Slot> {
        let handle = handle as usize;
        self.pages.get_mut(handle / PAGE)?.get_mut(handle % PAGE)
    }

    /// Takes a free handle.
    ///
    /// # Errors
    ///
    /// [`GrantError::NoHandle`].
    pub(crate) fn reserve(&mut self) -> Result<u32, GrantError> {
        if self.free == END {
            self.grow().ok_or(GrantError::NoHandle)?;
        }
        let handle = self.free;
        let slot = self.slot(handle).ok_or(GrantError::NoHandle)?;
        let Slot::Free(next) = *slot else {
            return Err(GrantError::NoHandle);
        };
        *slot = Slot::Taken;
        self.free = next;
        Ok(handle)
    }

    /// Makes another page of slots, all free. `None` if there may be none, or there is no memory for it.
    fn grow(&mut self) -> Option<()> {
        let first = self.pages.len().checked_mul(PAGE)?;
        let first = u32::try_from(first).ok().filter(|&first| first < self.limit)?;
        let len = PAGE.min(self.limit.saturating_sub(first) as usize);
        let mut page = Vec::new();
        page.try_reserve_exact(len).ok()?;
        self.pages.try_reserve(1).ok()?;
        page.extend((first.saturating_add(1)..).map(Slot::Free).take(len));
        if let Some(last) = page.last_mut() {
            *last = Slot::Free(END);
        }
        self.pages.push(page.into_boxed_slice());
        self.free = first;
        Some(())
    }

    /// Takes a mapping.
    ///
    /// # Errors
    ///
    /// [`GrantError::NoMapping`] if there is none, or somebody else is at it.
    pub(crate) fn take(&mut self, handle: u32) -> Result<Mapping, GrantError> {
        let slot = self.slot(handle).ok_or(GrantError::NoMapping)?;
        match core::mem::replace(slot, Slot::Taken) {
            Slot::Used(mapping) => Ok(mapping),
            other @ (Slot::Free(_) | Slot::Taken) => {
                *slot = other;
                Err(GrantError::NoMapping)
            }
        }
    }

    /// Puts a mapping to a handle that the caller has taken.
    pub(crate) fn put(&mut self, handle: u32, mapping: Mapping) {
        if let Some(slot) = self.slot(handle) {
            *slot = Slot::Used(mapping);
        }
    }

    /// Frees a handle that the caller has taken.
    pub(crate) fn free(&mut self, handle: u32) {
        let next = self.free;
        if let Some(slot) = self.slot(handle) {
            *slot = Slot::Free(next);
            self.free = handle;
        }
    }

    /// How many handles there are, free ones included.
    pub(crate) fn handles(&self) -> u32 {
        let slots: usize = self.pages.iter().map(|page| page.len()).sum();
        u32::try_from(slots).unwrap_or(u32::MAX)
    }

    /// The mappings, with their handles, but for those that somebody is at.
    #[cfg(any(test, feature = "testing"))]
    pub(crate) fn mappings(&self) -> impl Iterator<Item = (u32, &Mapping)> {
        let slots = (0..).zip(self.pages.iter().flatten());
        slots.filter_map(|(handle, slot)| match slot {
            Slot::Used(mapping) => Some((handle, mapping)),
            Slot::Free(_) | Slot::Taken => None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn handles_are_given_up_to_the_limit_and_again_when_they_are_free() {
        let mut maps = MapTrack::new(200);
        let handles: Vec<u32> = (0..200).map(|_| maps.reserve().unwrap()).collect();
        assert_eq!(handles, (0..200).collect::<Vec<_>>());
        assert_eq!(maps.reserve(), Err(GrantError::NoHandle));
        for handle in [7, 150, 199] {
            maps.free(handle);
        }
        let again: Vec<u32> = (0..3).map(|_| maps.reserve().unwrap()).collect();
        assert_eq!(again, [199, 150, 7], "the last given back comes first");
        assert_eq!(maps.reserve(), Err(GrantError::NoHandle));
        assert_eq!(maps.handles(), 200);
    }

    #[test]
    fn a_handle_that_somebody_is_at_is_nobody_elses() {
        let mut maps = MapTrack::new(1);
        let handle = maps.reserve().unwrap();
        for bad in [handle, 1, u32::MAX] {
            assert!(matches!(maps.take(bad), Err(GrantError::NoMapping)));
        }
        maps.free(handle);
        assert!(matches!(maps.take(handle), Err(GrantError::NoMapping)));
    }
}
