//! Virtual firewall-routers (VFRs), and the back-end that will serve VIFs with them.
//!
//! - [`vfr`]: what becomes of a packet: rules, connections, address translation, routing.
//!
//! Nothing here knows the hardware, the hypervisor or the store, and nothing reads a clock.

#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]
#![cfg_attr(
    test,
    expect(clippy::arithmetic_side_effects, reason = "a test fails by panicking")
)]

extern crate alloc;

pub mod vfr;
