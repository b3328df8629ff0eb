//! Virtual firewall-routers (VFRs), and the back-end that serves VIFs with them.
//!
//! - [`vfr`]: what becomes of a packet: rules, connections, address translation, routing.
//! - [`services`]: addresses and names for guests: DHCP, DNS, router advertisements; and the uplink's own.
//! - [`backend`]: takes frames from guests' rings and from the NIC, has the VFR decide, and delivers them.
//! - [`machine`]: what that wants of the machine it runs on.
//! - [`negotiation`]: what a back-end writes into the store and reads there, as data.
//! - [`told`]: what the control domain tells of networks, as text.
//! - [`counters`]: what is counted, and why frames are lost.
//! - [`pcap`]: captures as files.
//! - `testing`: a simulated machine with guests that check themselves (feature `testing`).
//!
//! Nothing here knows the hardware, the hypervisor or the store, and nothing reads a clock.

#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]
#![cfg_attr(
    test,
    expect(clippy::arithmetic_side_effects, reason = "a test fails by panicking")
)]

extern crate alloc;

pub mod backend;
pub mod counters;
pub mod machine;
pub mod negotiation;
pub mod pcap;
mod reasons;
pub mod services;
#[cfg(feature = "testing")]
pub mod testing;
pub mod told;
pub mod vfr;
