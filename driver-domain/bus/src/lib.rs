//! xenstore from both ends: the wire protocol, byte rings over a shared page, and a client.
//!
//! - [`wire`]: what the messages say. Bytes from the other side become typed requests, paths and permissions there, or
//!   are refused.
//! - [`ring`]: how bytes cross a page that two domains write at the same time. The console's page works the same way, so
//!   both are here.
//! - [`client`]: asks the store. One client serves any number of tasks, on any executor.
//!
//! The server is `bulkhead-xenstore`. Numbers and offsets come from [`bulkhead_abi::xenstore`] and
//! [`bulkhead_abi::console`].

#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

extern crate alloc;

pub mod client;
pub mod ring;
pub mod wire;
