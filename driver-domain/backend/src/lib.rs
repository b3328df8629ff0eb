//! What back-ends have in common, whatever they serve.
//!
//! - [`directory`]: a guest's device in xenstore, from its beginning to its end.
//! - [`negotiation`]: how one finds together with a front-end, as data.
//! - [`pins`]: guests' pages for a device.
//! - `testing`: numbers that look random.

#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

extern crate alloc;

pub mod directory;
pub mod negotiation;
pub mod pins;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
