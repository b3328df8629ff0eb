//! The block front-end: a disk that a back-end in another domain serves over a shared ring (blkif).
//!
//! - [`connect()`] finds the back-end by xenstore and agrees with it on rings, ports and features; the result is a [`Disk`].
//! - [`Disk`] is what tasks use: any number of them read, write, flush and discard at the same time. One more task runs [`Disk::run`], which
//!   moves requests and responses, and nothing happens without it.
//! - [`Queue`] is the same without futures, for one ring: it cuts orders into requests, lends pages, and checks what the back-end answers.
//! - [`Domain`] is what it needs of the domain it runs in; [`Peer`] is that of a guest on `bulkhead-runtime`.
//!
//! Data lie in [`Buffer`]s, whole pages that move: a buffer is its owner's until it is ordered, then the queue's, and comes back with the result.
//! Its pages are granted for the time of a request. Where both ends have `feature-persistent` they are granted once and stay so, and buffers
//! that are dropped leave their pages for the next ones.
//!
//! # Laws
//!
//! 1. **An order ends once**, with what became of it, when all its requests were answered or the disk is broken.
//! 2. **A page that the back-end may still use is nobody's**: a buffer comes back with pages that were taken from the back-end, by the grant
//!    table's word and not by the response's, unless they stay granted by agreement.
//! 3. **A back-end that breaks the protocol breaks the disk**: [`Broken`] says how. Answers to what was not asked, or was answered, of another
//!    operation than asked, more of them than there can be, pages kept: none of it can panic, loop, or reach an order that it is not about.
//! 4. **The front-end does nothing when its back-end is made anew** under the same domain number: rings, grants and port stay as they are, and
//!    `state` of the back-end, going to 2 and 4 again or missing meanwhile, says nothing. Only 5 and 6 end a connection.

#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

extern crate alloc;

mod buffer;
mod connect;
mod disk;
mod error;
mod properties;
mod queue;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
#[cfg(test)]
mod tests;

pub use buffer::{Buffer, Pool};
pub use bulkhead_frontend::{Access, BadKey, ConnectError, Domain, Peer, Port};
pub use connect::{Agreement, Link, Options, agree, connect, first_disk};
pub use disk::Disk;
pub use error::{Broken, Error};
pub use properties::{Discard, Flush, Properties};
pub use queue::{Blkif, Order, Outcome, Queue, Ticket};
