//! The state machines of the hypervisor: safe, portable, tested on the host.
//!
//! Nothing here touches hardware. Each module owns one kind of state and keeps one law about it; the machine layer
//! calls in, and acts on the values that it gets back. Memory that a guest caused to be allocated is bounded, and
//! its allocation may fail.
#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

extern crate alloc;

pub mod events;
pub mod ids;
pub mod sched;
pub mod sync;
