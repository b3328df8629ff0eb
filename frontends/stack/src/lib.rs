//! TCP/IP for tasks, over any device of smoltcp's, and what programs on both ends of a network do with it.
//!
//! - [`Stack`] is smoltcp with futures: [`Tcp`], [`Udp`], [`Pinger`], [`Stack::resolve`]. One task runs [`Stack::run`], and nothing moves without it. Where
//!   the stack is, a [`Place`] says: whose clock it has, and which device.
//! - [`http`] serves files and fetches them; [`archive`] reads files from a tar archive; [`load`] sends and takes streams and datagrams, and counts.
//! - [`speed`] moves bytes that mean nothing, and measures how fast they go.
//! - [`frames`] makes frames byte for byte, bad ones above all.
//! - [`Pattern`] is the bytes that are sent where any would do: both ends know them.
//!
//! What comes from the network is anything. Nothing of it can panic, loop, or take more memory than the sockets' buffers and the bounds that
//! stand as constants here.

#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

extern crate alloc;

pub mod archive;
mod error;
pub mod frames;
pub mod http;
pub mod load;
mod names;
mod pattern;
mod ping;
pub mod speed;
mod stack;
mod tcp;
#[cfg(test)]
mod tests;
mod udp;

pub use error::Trouble;
pub use pattern::Pattern;
pub use ping::{Pinger, RoundTrips};
pub use smoltcp;
pub use stack::{Place, Settings, Stack, within};
pub use tcp::Tcp;
pub use udp::Udp;
