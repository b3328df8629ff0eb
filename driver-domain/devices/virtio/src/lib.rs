//! Drives virtio devices on PCI: disks and NICs.
//!
//! Of `virtio-drivers` come the steps of negotiation and the ways into a device's configuration ([`transport`]). Its own PCI transport wants raw
//! pointers to registers, its queues and drivers want references to the memory that the device uses, and it knows no MSI-X; so registers, queues
//! and the devices themselves are ours: [`queue`] speaks of bus addresses alone, and a request is any list of them, of which [`chains`] keeps
//! account.
//!
//! Source of all facts: "Virtual I/O Device (VIRTIO) Version 1.2", OASIS.
#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

extern crate alloc;

mod block;
mod chains;
mod net;
mod queue;
#[cfg(test)]
mod tests;
mod transport;

pub use block::{Block, drives};
pub use net::{Net, drives as drives_nic};
pub use transport::StartError;
