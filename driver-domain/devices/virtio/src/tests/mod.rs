//! The drivers against simulated devices.
#![expect(clippy::arithmetic_side_effects, reason = "a test fails by panicking")]

mod block;
mod device;
mod disk;
mod net;
mod nic;
