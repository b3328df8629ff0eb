//! The store over a ring, for tests: a domain with the bus's client, and the owner that serves it. What other domains do is done to the store directly.
#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a test fails by panicking"
)]

extern crate std;

use core::cell::{Cell, RefCell};

use bulkhead_abi::DomId;
use bulkhead_bus::client::{Client, Port, RingTransport};
use bulkhead_ring::testing::Page;
use bulkhead_ring::{End, Role};
use embassy_futures::join::join;
use embassy_futures::select::{Either, select};
use embassy_futures::{block_on, yield_now};
use embassy_sync::blocking_mutex::raw::NoopRawMutex;
use embassy_sync::signal::Signal;

use crate::Store;

/// An event channel between the domain and the store's owner.
#[derive(Default)]
pub(crate) struct Channel {
    pub(crate) to_guest: Signal<NoopRawMutex, ()>,
    pub(crate) to_store: Signal<NoopRawMutex, ()>,
}

impl Port for &Channel {
    fn notify(&mut self) {
        self.to_store.signal(());
    }

    fn notified(&mut self) -> impl Future<Output = ()> {
        self.to_guest.wait()
    }
}

/// A domain, and the store, which its owner shares with the test.
#[expect(missing_debug_implementations, reason = "the bus's client has none")]
pub struct Connected {
    domain: DomId,
    /// The store. Whoever changes it [says so](Connected::look).
    pub store: RefCell<Store>,
    pub(crate) page: Page,
    pub(crate) channel: Channel,
    /// The domain's client.
    pub client: Client<NoopRawMutex>,
    rounds: Cell<usize>,
}

impl Connected {
    /// A domain that the store knows already.
    #[must_use]
    pub fn new(store: Store, domain: DomId) -> Self {
        Self {
            domain,
            store: RefCell::new(store),
            page: Page::new(),
            channel: Channel::default(),
            client: Client::new(),
            rounds: Cell::new(0),
        }
    }

    /// How often the owner moved bytes.
    pub fn rounds(&self) -> usize {
        self.rounds.get()
    }

    /// The store was changed: the owner looks whom to tell.
    pub fn look(&self) {
        self.channel.to_store.signal(());
    }

    /// Plays the owner of the ring, as the crate's description has it.
    async fn serve(&self) {
        let mut end = End::new(Role::StoreServer, self.page.clone());
        loop {
            let mut moved = 0_usize;
            {
                let mut store = self.store.borrow_mut();
                let mut bytes = [0; 1024];
                let room = end.room().unwrap();
                let sent = store.take_output(self.domain, &mut bytes[..room]);
                assert_eq!(end.send(&bytes[..sent]), Ok(sent));
                moved = moved.saturating_add(sent);
                if store.wants_input(self.domain) {
                    let received = end.receive(&mut bytes).unwrap();
                    store.feed(self.domain, &bytes[..received]);
                    moved = moved.saturating_add(received);
                }
            }
            if moved > 0 {
                self.rounds.set(self.rounds.get().saturating_add(1));
                self.channel.to_guest.signal(());
                yield_now().await;
            } else {
                self.channel.to_store.wait().await;
            }
        }
    }

    /// Runs the domain's `work` beside the two that move bytes.
    ///
    /// # Panics
    ///
    /// If the connection breaks.
    pub fn run<T>(&self, work: impl Future<Output = T>) -> T {
        let transport = RingTransport::new(End::new(Role::StoreGuest, self.page.clone()), &self.channel);
        match block_on(select(work, join(self.client.run(transport), self.serve()))) {
            Either::First(done) => done,
            Either::Second((broken, ())) => panic!("{broken}"),
        }
    }
}
