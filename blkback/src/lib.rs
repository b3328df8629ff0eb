//! Virtual block devices, and the back-end that serves them over blkif's rings.
//!
//! - [`vbd`]: which sectors of a disk a guest may use, and how.
//! - [`gpt`]: the partitions of a disk, by name.
//! - [`wire`]: what the bytes of a request ask for, in both layouts.
//!
//! Nothing here knows the hardware, the hypervisor or the store: a disk is a [`Disk`](bulkhead_devices::disk::Disk).

#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

extern crate alloc;

pub mod gpt;
pub mod vbd;
pub mod wire;
