//! Drives virtio devices on PCI, of which it knows disks.
//!
//! Of `virtio-drivers` come the steps of negotiation and the ways into a device's configuration ([`transport`]). Its own PCI transport wants raw
//! pointers to registers, its queues and drivers want references to the memory that the device uses, and it knows no MSI-X; so registers, queues
//! and the disk itself are ours: [`queue`] speaks of bus addresses alone, and a request is any list of them.
//!
//! Source of all facts: "Virtual I/O Device (VIRTIO) Version 1.2", OASIS.
#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

extern crate alloc;

mod block;
mod chains;
mod queue;
#[cfg(test)]
mod tests;
mod transport;

pub use block::{Block, drives};
pub use transport::StartError;
