//! What all front-ends have in common.
//!
//! - [`Domain`] is what a front-end needs of the domain it runs in, [`Flips`] what one that exchanges pages needs besides; [`Peer`] is that of a guest on `bulkhead-runtime`.
//! - [`directory`] reads and writes the two directories of a connection, and waits for states there.
//! - [`ConnectError`] says why there is no connection.
//! - `testing` has a domain in private memory, and a store, for tests of front-ends.

#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

extern crate alloc;

pub mod directory;
mod domain;
mod error;
mod guest;
#[cfg(feature = "testing")]
pub mod testing;

pub use domain::{Access, Domain, Flips, Port, Withdrawn, ring_page};
pub use error::{BadKey, ConnectError};
pub use guest::Peer;
