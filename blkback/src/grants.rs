//! Guests' pages for a device: what the back-end wants of grants, and the pages that it keeps.

use alloc::collections::BTreeMap;
use alloc::vec::Vec;

use bulkhead_abi::DomId;
use bulkhead_abi::grant::GrantStatus;
pub use bulkhead_backend::pins::{Map, Pin, Rights};
use bulkhead_devices::BusAddress;

/// The grants of other domains. All calls take batches, so that each is one hypercall or a few.
pub trait Grants {
    /// Pins pages for a device, without mapping them anywhere, and fills in each result.
    fn map(&mut self, maps: &mut [Map]);

    /// Gives pins back. No device uses them any more. Says how many were refused, which no guest can bring about.
    fn unmap(&mut self, pins: &[Pin]) -> usize;

    /// Copies the beginning of a page out, a page at most.
    ///
    /// # Errors
    ///
    /// What the hypervisor answers, if it did not copy.
    fn read(&mut self, domain: DomId, gref: u32, to: &mut [u8]) -> Result<(), GrantStatus>;
}

/// A page that a request uses.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Held {
    /// For this request only.
    Own(Pin),
    /// One of those that are kept.
    Kept(usize, BusAddress),
}

impl Held {
    pub(crate) const fn address(self) -> BusAddress {
        match self {
            Self::Own(Pin { address, .. }) | Self::Kept(_, address) => address,
        }
    }
}

/// Pages that stay pinned from request to request, for a front-end that says it uses the same grants again.
///
/// When it is full, a page goes that no request uses and that was not used since the hand last came by: about the one that was used least
/// recently, found in constant time on average.
#[derive(Debug)]
pub(crate) struct Kept {
    places: BTreeMap<u32, usize>,
    pages: Vec<Page>,
    hand: usize,
    limit: usize,
}

#[derive(Debug)]
struct Page {
    gref: u32,
    pin: Pin,
    users: u32,
    was_used: bool,
}

impl Kept {
    /// Keeps so many pages at most.
    pub(crate) fn new(limit: usize) -> Self {
        Self {
            places: BTreeMap::new(),
            pages: Vec::with_capacity(limit),
            hand: 0,
            limit,
        }
    }

    /// The page of a grant, if it is kept, for one more user.
    pub(crate) fn find(&mut self, gref: u32) -> Option<Held> {
        let place = *self.places.get(&gref)?;
        let page = self.pages.get_mut(place)?;
        page.users = page.users.saturating_add(1);
        page.was_used = true;
        Some(Held::Kept(place, page.pin.address))
    }

    /// Keeps a page that one request uses, if there is room. One that has to go for it is put to `leaving`.
    pub(crate) fn keep(&mut self, gref: u32, pin: Pin, leaving: &mut Vec<Pin>) -> Held {
        if self.places.contains_key(&gref) {
            return Held::Own(pin);
        }
        let page = Page {
            gref,
            pin,
            users: 1,
            was_used: true,
        };
        let place = if self.pages.len() < self.limit {
            self.pages.push(page);
            self.pages.len().saturating_sub(1)
        } else {
            let Some((place, old)) = self.least_used() else {
                return Held::Own(pin);
            };
            let old = core::mem::replace(old, page);
            self.places.remove(&old.gref);
            leaving.push(old.pin);
            place
        };
        self.places.insert(gref, place);
        Held::Kept(place, pin.address)
    }

    /// A page that can go, if there is one.
    fn least_used(&mut self) -> Option<(usize, &mut Page)> {
        let count = self.pages.len();
        // Once around forgives everyone, twice finds whoever is not in use.
        for _ in 0..count.saturating_mul(2) {
            let place = self.hand;
            self.hand = place.saturating_add(1).checked_rem(count)?;
            let page = self.pages.get_mut(place)?;
            if page.users == 0 && !core::mem::take(&mut page.was_used) {
                return self.pages.get_mut(place).map(|page| (place, page));
            }
        }
        None
    }

    /// A request no longer uses the page in this place.
    pub(crate) fn release(&mut self, place: usize) {
        if let Some(page) = self.pages.get_mut(place) {
            page.users = page.users.saturating_sub(1);
        }
    }

    /// Forgets all pages. No request uses any.
    pub(crate) fn drain(&mut self) -> impl Iterator<Item = Pin> {
        self.places.clear();
        self.hand = 0;
        self.pages.drain(..).map(|page| page.pin)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pin(number: u32) -> Pin {
        Pin {
            handle: number,
            address: BusAddress(u64::from(number) << 12),
        }
    }

    #[test]
    fn the_page_that_goes_is_one_that_was_not_used_lately_and_is_not_in_use() {
        let mut kept = Kept::new(3);
        let mut leaving = Vec::new();
        for gref in 0..3 {
            let Held::Kept(place, _) = kept.keep(gref, pin(gref), &mut leaving) else {
                panic!("there is room")
            };
            if gref != 1 {
                kept.release(place);
            }
        }
        assert!(matches!(kept.keep(3, pin(3), &mut leaving), Held::Kept(0, _)));
        assert_eq!(leaving, [pin(0)]);
        // 1 is in use, 2 was passed over and not used since.
        kept.release(0);
        assert!(matches!(kept.keep(4, pin(4), &mut leaving), Held::Kept(2, _)));
        assert_eq!(leaving, [pin(0), pin(2)]);
        assert!(kept.find(2).is_none() && kept.find(1).is_some());
        let mut all: Vec<u32> = kept.drain().map(|pin| pin.handle).collect();
        all.sort_unstable();
        assert_eq!(all, [1, 3, 4]);
    }

    #[test]
    fn when_all_pages_are_in_use_none_goes() {
        let mut kept = Kept::new(1);
        let mut leaving = Vec::new();
        kept.keep(0, pin(0), &mut leaving);
        assert!(matches!(kept.keep(1, pin(1), &mut leaving), Held::Own(_)));
        assert!(matches!(kept.keep(0, pin(9), &mut leaving), Held::Own(_)));
        assert!(leaving.is_empty());
    }
}
