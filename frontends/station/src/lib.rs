//! What Rust guests are made of: xenstore, the first disk, a place on a network, and what tools have in common.
//!
//! - [`store`] connects to xenstore.
//! - [`Station::start`] connects the first interface, and sets a TCP/IP stack up over it: by the addresses that stand beside the interface in xenstore, or else by DHCP.
//! - [`Disk`] is the guest's first disk, as a [`Store`] of files.
//! - [`asked_to_end`] waits for the operator's word.
//! - [`orders`] reads the words of a tool's command line, and [`rogue`] is for tools that break protocols.
//!
//! All of them are leaked: they are there for as long as the guest is.

#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

extern crate alloc;

mod disk;
pub mod orders;
pub mod rogue;
mod settings;

use alloc::boxed::Box;
use alloc::string::{String, ToString};
use core::fmt;
use core::future::pending;

use bulkhead_bus::client::{Error, RingTransport};
use bulkhead_netfront::{self as netfront, Broken, Device, Interface, Options, Peer};
use bulkhead_ring::{End, Role};
use bulkhead_runtime::event::Port;
use bulkhead_runtime::time::{Duration, Instant, Timer, with_timeout};
use bulkhead_runtime::{Environment, Spawner, println};
use bulkhead_stack::smoltcp::time::Instant as StackInstant;
use bulkhead_stack::{Place, Stack};
use embassy_sync::blocking_mutex::raw::NoopRawMutex;

pub use bulkhead_stack::archive::Store;
pub use disk::Disk;
pub use settings::{Stated, read as stated};

/// The connection to xenstore.
pub type Client = bulkhead_bus::client::Client<NoopRawMutex>;

/// This guest, as the place of a stack.
#[derive(Clone, Copy, Debug)]
pub struct Here;

impl Place for Here {
    type Device = Device<'static, Peer>;

    fn now(&self) -> StackInstant {
        let micros = Instant::now().as_micros();
        StackInstant::from_micros(i64::try_from(micros).unwrap_or(i64::MAX))
    }

    async fn sleep_until(&self, time: StackInstant) {
        let micros = u64::try_from(time.total_micros()).unwrap_or(0);
        Timer::at(Instant::from_micros(micros)).await;
    }
}

/// Connects to xenstore, with a task of its own. `None` if nobody serves it.
#[must_use]
pub fn store(environment: &'static Environment, spawner: Spawner) -> Option<&'static Client> {
    let (page, port) = environment.store()?;
    let client: &'static Client = Box::leak(Box::new(Client::new()));
    spawner.spawn(async move {
        let end = End::new(Role::StoreGuest, page);
        let broken = client.run(RingTransport::new(end, Notified(port))).await;
        println!("xenstore is gone: {broken}");
    });
    Some(client)
}

/// The event channel as the client wants it.
struct Notified(Port);

impl bulkhead_bus::client::Port for Notified {
    fn notify(&mut self) {
        // There is nobody to be told that it failed.
        let _ = self.0.notify();
    }

    fn notified(&mut self) -> impl Future<Output = ()> {
        self.0.wait()
    }
}

/// An interface, and a stack over it.
pub struct Station {
    client: &'static Client,
    interface: &'static Interface<Peer>,
    stack: &'static Stack<Here>,
}

/// How long the back-end has to close, on a machine whose hundred guests all end at once.
const PATIENCE: Duration = Duration::from_secs(60);

impl Station {
    /// Connects the interface with the lowest number, and begins to run it and the stack.
    ///
    /// # Errors
    ///
    /// A sentence that says why there is no connection.
    pub async fn start(
        client: &'static Client,
        spawner: Spawner,
        options: Options,
        uses_dhcp: bool,
    ) -> Result<Self, String> {
        let directory = netfront::first_interface(client).await;
        let directory = directory.map_err(|error| error.to_string())?;
        let directory = directory.ok_or("this domain has no network interface")?;
        let interface = netfront::connect(client, &directory, options, Peer).await;
        let interface = interface.map_err(|error| error.to_string())?;
        let interface: &'static Interface<Peer> = Box::leak(Box::new(interface));
        spawner.spawn(async move {
            let broken = interface.run(client).await;
            if broken != Broken::Closed {
                println!("the network interface: {broken}");
            }
        });
        let mut settings = settings::read(client, &directory)
            .await
            .map_err(|error| error.to_string())?;
        settings.mac = interface.properties().mac;
        settings.seed = Instant::now().as_ticks();
        if uses_dhcp {
            // What it says is used instead of what xenstore says; IPv6 it does not know.
            settings.forget_v4();
        }
        let settings = settings.finish();
        let stack = Stack::new(Here, Device::new(interface), &settings);
        let stack: &'static Stack<Here> = Box::leak(Box::new(stack));
        spawner.spawn(async move { stack.run(async || changed(interface).await).await });
        Ok(Self {
            client,
            interface,
            stack,
        })
    }

    /// The stack.
    #[must_use]
    pub const fn stack(&self) -> &'static Stack<Here> {
        self.stack
    }

    /// The interface.
    #[must_use]
    pub const fn interface(&self) -> &'static Interface<Peer> {
        self.interface
    }

    /// Closes the connection to the back-end.
    ///
    /// # Errors
    ///
    /// A sentence that says why it cannot be.
    pub async fn close(&self) -> Result<(), String> {
        match with_timeout(PATIENCE, self.interface.close(self.client)).await {
            Ok(closed) => closed.map_err(|error| error.to_string()),
            Err(_) => Err("the back-end does not close".into()),
        }
    }
}

impl fmt::Debug for Station {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Station")
            .field("interface", self.interface)
            .finish_non_exhaustive()
    }
}

/// Waits until the stack can go on.
async fn changed(interface: &Interface<Peer>) {
    // Frames wait as long as there is no room for answers to them.
    let waited = if interface.has_room() {
        interface.readable().await
    } else {
        interface.writable().await
    };
    if waited.is_err() {
        // Who runs the interface says why.
        pending().await
    }
}

/// Waits until the guest is asked to power off, and says that it will.
///
/// # Errors
///
/// If xenstore does not answer as it should.
pub async fn asked_to_end(client: &Client) -> Result<(), Error> {
    client.write("control/feature-poweroff", b"1").await?;
    let mut asked = client.watch("control/shutdown").await?;
    loop {
        asked.next().await?;
        if client.read("control/shutdown").await? == b"poweroff" {
            // The answer is that the word is taken away.
            client.write("control/shutdown", b"").await?;
            return Ok(());
        }
    }
}
