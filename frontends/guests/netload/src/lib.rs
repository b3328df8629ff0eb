//! What the network tool decides, without a network: these parts run on the host, too, and are tested there.

#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

extern crate alloc;

pub mod orders;
pub mod rubbish;
