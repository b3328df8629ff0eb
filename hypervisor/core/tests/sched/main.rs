//! The scheduler in simulation: shares, latency, starvation.
#![cfg(not(loom))]
#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    reason = "a test fails by panicking"
)]

mod latency;
mod random;
mod shares;
mod sim;
