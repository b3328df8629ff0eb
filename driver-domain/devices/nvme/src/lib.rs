//! Drives NVMe disks: one controller, its first namespace, one pair of queues.
//!
//! The driver is ours. `nvme-driver` (0.8), which is there for kernels without one, moves requests that own their buffers, as memory of its own
//! allocator, and takes the controller's registers by a raw pointer; the back-end's requests are bus addresses of other domains' pages, to which
//! no reference can exist, and a driver here has no `unsafe`. What is left of a driver without these is commands and queues, which are short.
//!
//! Source of all facts: "NVM Express Base Specification, Revision 2.0" (sections named with B) and "NVM Command Set Specification, Revision 1.0" (with C).
#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

extern crate alloc;

mod command;
mod controller;
mod disk;
mod identity;
mod queue;
mod split;
#[cfg(test)]
mod tests;

pub use controller::StartError;
pub use disk::{Nvme, drives};
