//! A disk's server: runs its back-end whenever a guest or the disk says that there is something to do.

use alloc::{rc::Rc, vec::Vec};
use core::cell::RefCell;
use core::fmt;

use bulkhead_abi::DomId;
use bulkhead_blkback::backend::{BackEnd, ConnectError, Connection, Event, Flaw, Rest, VbdId};
use bulkhead_devices::disk::Geometry;
use bulkhead_pci::Address;
use bulkhead_runtime::{Spawner, event::Port, grant::Mapping};
use embassy_futures::{select::select, yield_now};

use super::grants::GuestGrants;
use crate::{
    device::AnyDisk,
    links::{Links, Wake},
};

/// A disk, and the guests that it is served to.
pub(crate) struct Server {
    address: Address,
    back_end: RefCell<BackEnd<AnyDisk, GuestGrants, Mapping>>,
    /// The guests, and their rings by number.
    links: Links<VbdId, usize, DomId>,
    /// There is something to do.
    wake: Wake,
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Server")
            .field("address", &self.address)
            .finish_non_exhaustive()
    }
}

impl Server {
    /// A server of a disk that nobody else uses.
    pub(crate) fn new(address: Address, disk: AnyDisk) -> Self {
        Self {
            address,
            back_end: RefCell::new(BackEnd::new(disk, GuestGrants::default())),
            links: Links::default(),
            wake: Wake::new(),
        }
    }

    /// Where the disk is.
    pub(crate) const fn address(&self) -> Address {
        self.address
    }

    /// What the disk is like.
    pub(crate) fn geometry(&self) -> Geometry {
        *self.back_end.borrow().geometry()
    }

    /// Serves, for ever. `interrupt` is the disk's.
    pub(crate) async fn run(&self, interrupt: Port) {
        loop {
            let rest = self.back_end.borrow_mut().round();
            let events: Vec<Event> = self.back_end.borrow_mut().events().collect();
            for event in events {
                self.take(event);
            }
            match rest {
                // Others have their turn in between.
                Rest::Again => yield_now().await,
                Rest::Sleep => {
                    select(interrupt.wait(), self.wake.wait()).await;
                }
            }
        }
    }

    fn take(&self, event: Event) {
        match event {
            Event::Notify(id, ring) => self.links.notify(id, ring),
            Event::Fault(id, fault) => {
                let guest = self.links.get(id).map_or(DomId::INVALID, |link| link.about);
                log::warn!("{}: a disk of {guest}: {fault}; told once", self.address);
            }
            Event::Closed(id, counters) => {
                let guest = self.links.closed(id).map_or(DomId::INVALID, |link| link.about);
                if counters.all_faults() > 0 {
                    log::info!("{}: refused {guest}: {}", self.address, counters.reasons());
                }
                log::info!("{}: served {guest}: {counters}", self.address);
            }
            Event::Flaw(Flaw::Broken) => log::error!("{}: the disk does not work any more", self.address),
            Event::Flaw(flaw) => log::error!("{}: {flaw:?}", self.address),
        }
    }

    /// Serves a guest's rings from now on. `ports` are theirs, in the same order.
    ///
    /// # Errors
    ///
    /// [`ConnectError`]: they are not served.
    pub(crate) fn connect(
        self: &Rc<Self>,
        spawner: Spawner,
        connection: Connection<Mapping>,
        ports: Vec<Port>,
    ) -> Result<VbdId, ConnectError> {
        let guest = connection.domain;
        let id = self.back_end.borrow_mut().connect(connection)?;
        let server = Rc::clone(self);
        let kick = move |ring| {
            server.back_end.borrow_mut().kick(id, ring);
            server.wake.signal(());
        };
        let rings = (0..).zip(ports).collect();
        self.links.add(spawner, id, guest, rings, kick);
        self.wake.signal(());
        Ok(id)
    }

    /// Serves a guest's rings no longer. Returns when nothing of them is in use any more.
    pub(crate) async fn disconnect(&self, id: VbdId) {
        let disconnect = || {
            self.back_end.borrow_mut().disconnect(id);
            self.wake.signal(());
        };
        self.links.end(id, disconnect).await;
    }
}
