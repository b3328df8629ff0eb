//! What the control domain decides, without the hypercalls by which it does it: these parts run on the host, too, and are tested there.

#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

extern crate alloc;

pub mod allowance;
pub mod directory;
pub mod functions;
pub mod log;
pub mod networks;
pub mod offers;
pub mod packets;
pub mod pcap;
pub mod questions;
pub mod restarts;
pub mod served;
pub mod vbds;
