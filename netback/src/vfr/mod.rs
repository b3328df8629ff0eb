//! The virtual firewall-router: decides over a private copy of a frame's headers; it never sees payload.
//!
//! - [`packet`]: what the headers say, and where their parts lie.
//! - [`reason`]: why frames are dropped, with a counter each.
//! - [`rules`]: what an operator wants of it, one line each.
//! - [`classify`]: a list of rules, ready to decide over packets; with a [`bucket`] for rates.
//! - [`flow`]: the connections that were accepted.
//! - [`ledger`]: what of them outlives who knows them.
//! - [`nat`]: addresses and ports of packets that are changed.
//! - [`made`]: frames of its own.
//! - [`router`]: the VFR with its ports and networks, which uses all of these.
//! - [`show`]: its tables as text.
//!
//! Time is an argument wherever it matters, in nanoseconds from any beginning that does not change.

pub mod bucket;
pub(crate) use bulkhead_checksum as checksum;
pub mod classify;
pub mod flow;
pub mod ledger;
pub mod made;
pub mod nat;
pub mod packet;
pub mod reason;
pub mod router;
pub mod rules;
pub mod show;
#[cfg(test)]
pub(crate) mod testing;
