//! The emulator against the CPU that the tests run on.
//!
//! Each form of each instruction that may write a page table is executed natively on random operands, and emulated on the same
//! ones: memory, registers and flags must come out alike, but for the flags that the manual leaves undefined.
//!
//! Privileged instructions cannot be executed here; their tests are in `emulate`.
#![cfg(all(not(loom), target_arch = "x86_64", target_os = "linux"))]
#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    reason = "a test fails by panicking"
)]

mod addressing;
mod forms;
mod native;
mod operands;
mod strings;
