//! The network front-end: an interface that a back-end in another domain serves over shared rings (netif).
//!
//! - [`connect()`] finds the back-end by xenstore and agrees with it on rings, port and features; the result is an [`Interface`].
//! - [`Interface`] is what tasks use to send and receive. One more task runs [`Interface::run`], which moves frames, and nothing happens without
//!   it.
//! - [`Transmit`] and [`Receive`] are the same without futures, a ring each: they lend pages, and check what the back-end answers.
//! - [`Device`] is an interface for the TCP/IP stack smoltcp.
//!
//! A [`Frame`] is parts of pages. It is its owner's until it is sent; what was received is the owner's as well. Frames are received in one of two ways, as both
//! ends agree ([`Mode`]): the back-end copies into pages that are granted to it, or it exchanges pages for its own, by Bulkhead's extension.
//!
//! # Laws
//!
//! 1. **A page that the back-end may still use is nobody's**: it is in a frame, or used again, when it was taken from the back-end, by the grant
//!    table's word and not by the response's.
//! 2. **A back-end that breaks the protocol breaks the interface**: [`Broken`] says how. Answers to what was not asked, or out of turn, data that leave their
//!    page, extras that make no sense, pages kept or not exchanged: none of it can panic, loop, or take more memory than the rings have pages.
//! 3. **What a frame holds is anything.** Nothing of it was checked but its length, 14 to 65535.
//! 4. **The front-end does nothing when its back-end is made anew** under the same domain number: rings, grants and port stay as they are, and
//!    `state` of the back-end, going to 2 and 4 again or missing meanwhile, says nothing. Only 5 and 6 end a connection. A frame that the old one had begun and not ended is
//!    the new one's to end: best by a response that reports an error, with which it is dropped.
//!
//! There is one pair of rings, with one port.

#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

extern crate alloc;

mod connect;
mod error;
mod frame;
mod interface;
mod offload;
mod phy;
mod receive;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
#[cfg(test)]
mod tests;
mod transmit;

pub use bulkhead_frontend::{Access, BadKey, ConnectError, Domain, Flips, Peer, Port};
pub use connect::{Agreement, Options, Properties, agree, connect, first_interface};
pub use error::{Broken, Refused, SendError};
pub use frame::{Frame, Pool};
pub use interface::Interface;
pub use offload::{Checksum, Features, Ip, Offload, Segments};
pub use phy::{Device, RxToken, TxToken};
pub use receive::{Counts, Mode, Receive, Received, Rx};
pub use transmit::{Sent, Transmit, Tx};
