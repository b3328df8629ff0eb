//! A disk's server: runs its back-end whenever a guest or the disk says that there is something to do.

use alloc::{collections::BTreeMap, rc::Rc, vec::Vec};
use core::cell::{Cell, RefCell};
use core::fmt;

use bulkhead_abi::DomId;
use bulkhead_blkback::backend::{BackEnd, ConnectError, Connection, Event, Flaw, Rest, VbdId};
use bulkhead_devices::disk::Geometry;
use bulkhead_pci::Address;
use bulkhead_runtime::{Spawner, event::Port, grant::Mapping};
use embassy_futures::{
    select::{Either, select},
    yield_now,
};
use embassy_sync::{blocking_mutex::raw::NoopRawMutex, signal::Signal};

use super::grants::GuestGrants;
use crate::device::AnyDisk;

/// A disk, and the guests that it is served to.
pub(crate) struct Server {
    address: Address,
    back_end: RefCell<BackEnd<AnyDisk, GuestGrants, Mapping>>,
    /// By guest's disk: what is woken, and what wakes.
    links: RefCell<BTreeMap<VbdId, Rc<Link>>>,
    /// There is something to do.
    wake: Signal<NoopRawMutex, ()>,
}

/// A guest's disk that is connected.
struct Link {
    guest: DomId,
    /// The ports of its rings.
    ports: Vec<Port>,
    /// It is to end: who waits for a port ends.
    ends: Cell<bool>,
    stops: Vec<Signal<NoopRawMutex, ()>>,
    /// Nothing of it is in use any more.
    closed: Signal<NoopRawMutex, ()>,
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
            links: RefCell::new(BTreeMap::new()),
            wake: Signal::new(),
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
            Event::Notify(id, ring) => {
                if let Some(port) = self.link(id).as_ref().and_then(|link| link.ports.get(ring)) {
                    // A guest that is gone is not told.
                    let _ = port.notify();
                }
            }
            Event::Fault(id, fault) => {
                let guest = self.link(id).map_or(DomId::INVALID, |link| link.guest);
                log::warn!("{}: a disk of {guest}: {fault}; told once", self.address);
            }
            Event::Closed(id, counters) => {
                if let Some(link) = self.links.borrow_mut().remove(&id) {
                    if counters.all_faults() > 0 {
                        log::info!("{}: refused {}: {}", self.address, link.guest, counters.reasons());
                    }
                    log::info!("{}: served {}: {counters}", self.address, link.guest);
                    link.closed.signal(());
                }
            }
            Event::Flaw(Flaw::Broken) => log::error!("{}: the disk does not work any more", self.address),
            Event::Flaw(flaw) => log::error!("{}: {flaw:?}", self.address),
        }
    }

    fn link(&self, id: VbdId) -> Option<Rc<Link>> {
        self.links.borrow().get(&id).cloned()
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
        let link = Rc::new(Link {
            guest,
            stops: ports.iter().map(|_| Signal::new()).collect(),
            ports,
            ends: Cell::new(false),
            closed: Signal::new(),
        });
        for ring in 0..link.ports.len() {
            let (server, link) = (Rc::clone(self), Rc::clone(&link));
            spawner.spawn(async move { server.listen(id, &link, ring).await });
        }
        self.links.borrow_mut().insert(id, link);
        self.wake.signal(());
        Ok(id)
    }

    /// Has the back-end look whenever the guest says that there is something in a ring.
    async fn listen(&self, id: VbdId, link: &Link, ring: usize) {
        let (Some(port), Some(stop)) = (link.ports.get(ring), link.stops.get(ring)) else {
            return;
        };
        while !link.ends.get() {
            if let Either::First(()) = select(port.wait(), stop.wait()).await {
                self.back_end.borrow_mut().kick(id, ring);
                self.wake.signal(());
            }
        }
    }

    /// Serves a guest's rings no longer. Returns when nothing of them is in use any more.
    pub(crate) async fn disconnect(&self, id: VbdId) {
        let Some(link) = self.link(id) else { return };
        link.ends.set(true);
        link.stops.iter().for_each(|stop| stop.signal(()));
        self.back_end.borrow_mut().disconnect(id);
        self.wake.signal(());
        link.closed.wait().await;
    }
}
