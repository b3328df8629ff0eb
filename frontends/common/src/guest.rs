//! A guest on `bulkhead-runtime`.

use bulkhead_runtime::{
    DomId, event,
    grant::{self, Grant},
    memory::Page,
};

use crate::domain::{Access, Domain, Port};

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
