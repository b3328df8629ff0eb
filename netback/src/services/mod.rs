//! What a VFR does for guests beside carrying their packets, and for itself on the uplink.
//!
//! - [`dhcp`]: tells guests their addresses.
//! - [`dhcp_client`]: asks for the uplink's.
//! - [`dns`]: hands guests' questions for names on.
//! - [`ra`]: tells guests of IPv6.
//!
//! Each knows messages and time alone: ports, addresses and frames are the [router](crate::vfr::router)'s.

pub mod dhcp;
pub mod dhcp_client;
pub mod dns;
mod message;
pub mod ra;
