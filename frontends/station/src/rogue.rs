//! For guests that break protocols: a domain whose granted pages it keeps a hand on, so that what is in a ring can be changed behind the ring's back.

use alloc::boxed::Box;
use alloc::format;
use alloc::rc::Rc;
use alloc::vec::Vec;
use core::cell::RefCell;

use bulkhead_abi::netif::key;
use bulkhead_abi::xenstore::XenbusState;
use bulkhead_frontend::{Access, Domain, Flips, Peer, Withdrawn};
use bulkhead_ring::SharedPage;
use bulkhead_runtime::event::Port;
use bulkhead_runtime::grant::Grant;
use bulkhead_runtime::memory::Page;
use bulkhead_runtime::time::{Duration, with_timeout};

use crate::Client;

/// Such a domain.
#[derive(Clone, Debug)]
pub struct Rogue {
    peer: Peer,
    /// All that it granted, in order.
    granted: Rc<RefCell<Vec<Kept>>>,
}

impl Rogue {
    /// One beside this peer.
    #[must_use]
    pub fn new(peer: Peer) -> Self {
        Self {
            peer,
            granted: Rc::default(),
        }
    }

    /// All that it granted, in order: when rings were made, their pages.
    #[must_use]
    pub fn granted(&self) -> Vec<Kept> {
        self.granted.borrow().clone()
    }
}

/// A granted page, of several hands.
#[derive(Clone, Debug)]
pub struct Kept(Rc<Grant>);

impl SharedPage for Kept {
    fn load(&self, offset: usize) -> u32 {
        self.0.load(offset)
    }

    fn store(&self, offset: usize, value: u32) {
        self.0.store(offset, value);
    }

    fn read(&self, offset: usize, to: &mut [u8]) {
        self.0.read(offset, to);
    }

    fn write(&self, offset: usize, from: &[u8]) {
        self.0.write(offset, from);
    }
}

impl Domain for Rogue {
    type Page = Page;
    type Grant = Kept;
    type Port = Port;

    fn page(&self) -> Option<Page> {
        self.peer.page()
    }

    fn grant(&self, page: Page, access: Access) -> Result<Kept, Page> {
        let kept = Kept(Rc::new(self.peer.grant(page, access)?));
        self.granted.borrow_mut().push(kept.clone());
        Ok(kept)
    }

    fn reference(&self, grant: &Kept) -> u32 {
        grant.0.reference().raw()
    }

    /// It keeps all.
    fn revoke(&self, grant: Kept) -> Result<Page, Kept> {
        Err(grant)
    }

    fn port(&self) -> Option<Port> {
        self.peer.port()
    }
}

impl Flips for Rogue {
    /// It has none.
    type Offer = core::convert::Infallible;

    fn can_flip(&self) -> bool {
        false
    }

    fn offer(&self, page: Page) -> Result<Self::Offer, Page> {
        Err(page)
    }

    fn offered(&self, offer: &Self::Offer) -> u32 {
        match *offer {}
    }

    fn withdraw(&self, offer: Self::Offer) -> Result<Withdrawn<Page>, Self::Offer> {
        Err(offer)
    }
}

/// Waits until the back-end with this directory closes, but not longer than `limit`. What its state is then; `None` if it says nothing.
pub async fn closing(client: &Client, backend: &str, limit: Duration) -> Option<XenbusState> {
    let state = format!("{backend}/{}", key::STATE);
    let closing = async {
        let mut changes = client.watch(&state).await.ok()?;
        loop {
            let raw = client.read(&state).await.ok()?;
            let raw = core::str::from_utf8(&raw).ok()?.parse().ok()?;
            let state = XenbusState::from_raw(raw)?;
            if matches!(state, XenbusState::Closing | XenbusState::Closed) {
                return Some(state);
            }
            changes.next().await.ok()?;
        }
    };
    with_timeout(limit, Box::pin(closing)).await.ok().flatten()
}
