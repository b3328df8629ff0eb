//! A store between front-end and back-end.

extern crate std;

use std::cell::RefCell;
use std::format;
use std::pin::pin;
use std::rc::Rc;
use std::string::String;
use std::task::{Context, Poll, Waker};
use std::vec;

use bulkhead_abi::DomId;
use bulkhead_bus::client::{self, Client, Transport};
use bulkhead_xenstore::{Access as May, Path, Perm, Perms, Place, Store, Tx};
use embassy_futures::join::join;
use embassy_futures::select::{Either, select};
use embassy_futures::yield_now;
use embassy_sync::blocking_mutex::raw::NoopRawMutex;

/// The guest.
pub const GUEST: DomId = DomId::new(7);

/// Polls a future until it is ready, which it must be after so many turns.
///
/// # Panics
///
/// If it is not.
pub fn run<F: Future>(future: F) -> F::Output {
    let mut future = pin!(future);
    for _ in 0..100_000 {
        if let Poll::Ready(output) = future.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            return output;
        }
    }
    panic!("it waits for what does not come");
}

/// The store, with the guest's directory as a toolstack makes it, and the guest's connection to it.
#[derive(Clone)]
pub struct Machine {
    store: Rc<RefCell<Store>>,
    frontend: &'static str,
    backend: &'static str,
}

impl std::fmt::Debug for Machine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Machine")
            .field("frontend", &self.frontend)
            .finish_non_exhaustive()
    }
}

impl Machine {
    /// The two directories of a device, of domain 7 and domain 3, with these nodes beside what every device has in the front-end's.
    ///
    /// # Panics
    ///
    /// If they are no paths of these domains.
    #[must_use]
    pub fn new(frontend: &'static str, backend: &'static str, nodes: &[(&str, &str)]) -> Self {
        let machine = Self {
            store: Rc::new(RefCell::new(Store::new())),
            frontend,
            backend,
        };
        machine.store.borrow_mut().introduce(GUEST).unwrap();
        // What is below it takes after it.
        machine.make("/local/domain/7", Perm::new(May::None, DomId::new(0)), GUEST);
        machine.make(frontend, Perm::new(May::None, GUEST), DomId::new(3));
        let all = [("backend", backend), ("backend-id", "3"), ("state", "1")];
        for (key, value) in all.iter().chain(nodes) {
            machine.write(&format!("{frontend}/{key}"), value);
        }
        machine.offer();
        machine
    }

    /// A directory of this owner, which another may read.
    fn make(&self, path: &str, owner: Perm, reader: DomId) {
        let path = parse(path);
        let perms = Perms {
            owner,
            listed: vec![Perm::new(May::Read, reader)],
        };
        let mut store = self.store.borrow_mut();
        store.mkdir(Tx::NONE, &path).unwrap();
        store.set_perms(Tx::NONE, &Place::Node(path), perms).unwrap();
    }

    /// Makes the back-end's directory, as a toolstack does.
    pub fn offer(&self) {
        self.make(self.backend, Perm::new(May::None, DomId::new(3)), GUEST);
        for (key, value) in [
            ("frontend", self.frontend),
            ("frontend-id", "7"),
            ("online", "1"),
            ("state", "1"),
        ] {
            self.write(&format!("{}/{key}", self.backend), value);
        }
    }

    /// Removes the back-end's directory.
    ///
    /// # Panics
    ///
    /// If it is not there.
    pub fn remove(&self) {
        self.store
            .borrow_mut()
            .rm(Tx::NONE, &parse(self.backend))
            .unwrap();
    }

    /// Writes a node, as the control domain.
    ///
    /// # Panics
    ///
    /// If the store refuses it.
    pub fn write(&self, path: &str, value: &str) {
        self.store
            .borrow_mut()
            .write(Tx::NONE, &parse(path), value.as_bytes())
            .unwrap();
    }

    /// Writes nodes of the back-end's directory.
    pub fn tell(&self, values: &[(&str, &str)]) {
        for (key, value) in values {
            self.write(&format!("{}/{key}", self.backend), value);
        }
    }

    /// What a node says.
    ///
    /// # Panics
    ///
    /// If it is no text.
    #[must_use]
    pub fn read(&self, path: &str) -> Option<String> {
        let value = self.store.borrow_mut().read(Tx::NONE, &parse(path)).ok()?;
        Some(String::from_utf8(value.to_vec()).unwrap())
    }

    /// What a node of the front-end's directory says.
    #[must_use]
    pub fn front(&self, key: &str) -> Option<String> {
        self.read(&format!("{}/{key}", self.frontend))
    }

    /// The number that one says.
    ///
    /// # Panics
    ///
    /// If it says none.
    #[must_use]
    pub fn number(&self, key: &str) -> u32 {
        self.front(key).unwrap().parse().unwrap()
    }

    /// Waits until this holds.
    pub async fn until(&self, mut holds: impl FnMut() -> bool) {
        while !holds() {
            yield_now().await;
        }
    }

    /// Waits until the front-end is in this state.
    pub async fn until_front_is(&self, state: &str) {
        self.until(|| self.front("state").as_deref() == Some(state)).await;
    }
}

fn parse(path: &str) -> Path {
    Path::parse(path.as_bytes(), DomId::new(0)).unwrap()
}

/// The guest's connection. It does not wait: who runs it looks again and again.
impl Transport for Machine {
    fn send(&mut self, bytes: &[u8]) -> Result<usize, client::Broken> {
        let mut store = self.store.borrow_mut();
        if !store.wants_input(GUEST) {
            return Ok(0);
        }
        store.feed(GUEST, bytes);
        Ok(bytes.len())
    }

    fn receive(&mut self, buffer: &mut [u8]) -> Result<usize, client::Broken> {
        Ok(self.store.borrow_mut().take_output(GUEST, buffer))
    }

    fn notified(&mut self) -> impl Future<Output = ()> {
        yield_now()
    }
}

/// Does `guest` with a connection to the store, and `back_end` beside it, until both are done.
///
/// # Panics
///
/// If the connection breaks.
pub fn together<T>(
    machine: &Machine,
    guest: impl AsyncFnOnce(&Client<NoopRawMutex>) -> T,
    back_end: impl Future<Output = ()>,
) -> T {
    let client = Client::new();
    run(async {
        let both = join(guest(&client), back_end);
        match select(client.run(machine.clone()), both).await {
            Either::First(broken) => panic!("{broken}"),
            Either::Second((done, ())) => done,
        }
    })
}
