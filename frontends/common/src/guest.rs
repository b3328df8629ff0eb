//! A guest on `bulkhead-runtime`.

use bulkhead_runtime::{
    DomId, event,
    extension::{self, GRANT_FLIP},
    grant::{self, Grant, Offer},
    memory::Page,
};

use crate::domain::{Access, Domain, Flips, Port, Withdrawn};

/// This domain, as far as a back-end in the domain with this number is concerned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Peer(pub DomId);

impl Domain for Peer {
    type Page = Page;
    type Grant = Grant;
    type Port = event::Port;

    fn page(&self) -> Option<Page> {
        Page::zeroed()
    }

    fn grant(&self, page: Page, access: Access) -> Result<Grant, Page> {
        let access = match access {
            Access::ReadOnly => grant::Access::ReadOnly,
            Access::ReadWrite => grant::Access::ReadWrite,
        };
        Grant::new(page, self.0, access).map_err(|(page, _)| page)
    }

    fn reference(&self, grant: &Grant) -> u32 {
        grant.reference().raw()
    }

    fn revoke(&self, grant: Grant) -> Result<Page, Grant> {
        grant.revoke()
    }

    fn port(&self) -> Option<event::Port> {
        event::Port::alloc_unbound(self.0).ok()
    }
}

impl Flips for Peer {
    type Offer = Offer;

    fn can_flip(&self) -> bool {
        extension::features() & GRANT_FLIP != 0
    }

    fn offer(&self, page: Page) -> Result<Offer, Page> {
        Offer::new(page, self.0).map_err(|(page, _)| page)
    }

    fn offered(&self, offer: &Offer) -> u32 {
        offer.reference().raw()
    }

    fn withdraw(&self, offer: Offer) -> Result<Withdrawn<Page>, Offer> {
        Ok(match offer.withdraw()? {
            grant::Withdrawn::Same(page) => Withdrawn::Same(page),
            grant::Withdrawn::Other(page) => Withdrawn::Other(page),
        })
    }
}

impl Port for event::Port {
    fn number(&self) -> u32 {
        event::Port::number(self)
    }

    fn notify(&self) {
        // A back-end that is gone is told nothing; its successor looks at the ring.
        let _ = event::Port::notify(self);
    }

    fn notified(&self) -> impl Future<Output = ()> {
        self.wait()
    }
}
