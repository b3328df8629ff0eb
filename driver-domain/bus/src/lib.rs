//! xenstore from both ends: the wire protocol, and a client.
//!
//! - [`wire`]: what the messages say. Bytes from the other side become typed requests, paths and permissions there, or
//!   are refused.
//! - [`client`]: asks the store. One client serves any number of tasks, on any executor.
//!
//! The server is `bulkhead-xenstore`; how bytes cross a shared page is `bulkhead-ring`'s affair.

#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

extern crate alloc;

pub mod client;
pub mod wire;
