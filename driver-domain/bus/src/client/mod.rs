//! Asks the store.
//!
//! [`Client`] is what tasks use: any number of them at the same time, on any executor. One more task runs
//! [`Client::run`], which moves bytes between the client and its [`Transport`], and nothing happens without it.
//! [`Core`] is the same without futures: it assigns request numbers, matches replies and queues watch events.
//!
//! ```
//! # use bulkhead_bus::client::{Client, Error};
//! # use embassy_sync::blocking_mutex::raw::NoopRawMutex;
//! async fn follow(client: &Client<NoopRawMutex>) -> Result<(), Error> {
//!     let mut devices = client.watch("device").await?;
//!     loop {
//!         let changed = devices.next().await?; // the first event comes at once
//!         println!("{changed}: now {:?}", client.directory("device").await?);
//!     }
//! }
//! ```

mod core;
mod error;
mod tasks;
mod transport;
mod turns;

pub use self::core::{Core, EVENTS_MAX};
pub use error::{Broken, Error};
pub use tasks::{Client, Transaction, Watch};
pub use transport::{Port, RingTransport, Transport};

#[cfg(test)]
mod tests;
