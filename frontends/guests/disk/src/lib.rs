//! What the disk tool decides, without the disk: these parts run on the host, too, and are tested there.

#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

extern crate alloc;

pub mod orders;
pub mod pattern;
pub mod pool;
pub mod rate;
pub mod rubbish;
