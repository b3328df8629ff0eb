//! Virtual block devices, and the back-end that serves them over blkif's rings.
//!
//! - [`vbd`]: which sectors of a disk a guest may use, and how.
//! - [`gpt`]: the partitions of a disk, by name.
//! - [`wire`]: what the bytes of a request ask for, in both layouts.
//! - [`backend`]: takes requests from rings, has the disk do them, and answers.
//! - [`counters`]: what is counted of it, and why requests fail.
//! - [`negotiation`]: what it says to a front-end through the store, and what it reads there.
//!
//! Nothing here knows the hardware, the hypervisor or the store: a disk is a [`Disk`](bulkhead_devices::disk::Disk), the grants of other domains
//! are [`grants::Grants`], and a ring's page is a [`SharedPage`](bulkhead_ring::SharedPage).

#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

extern crate alloc;

pub mod backend;
pub mod counters;
pub mod gpt;
pub mod grants;
pub mod negotiation;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
pub mod vbd;
pub mod wire;
