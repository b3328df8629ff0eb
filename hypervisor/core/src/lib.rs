//! The state machines of the Bulkhead hypervisor: who owns a frame, what it may be used as, which
//! event goes where, who runs next, what a hypercall means.
//!
//! Everything here is safe Rust and runs anywhere. The hardware stands behind one trait, [`Machine`]; the
//! bare-metal binary implements it with page tables and interrupt controllers, the host tests with a
//! simulation. [`Hypervisor`] ties the modules together: the machine layer calls it when a guest enters
//! (a hypercall, an exception, an interrupt) and it leaves by [`Hypervisor::leave`].
//!
//! The order of locks is in [`lock::Rank`]. Frame counts and types are atomics and take no lock.

#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

extern crate alloc;
#[cfg(any(test, feature = "testing"))]
extern crate std;

#[macro_use]
mod mutants;
mod nmi;

pub mod console;
mod crossing;
pub mod devices;
pub mod dma;
pub mod domains;
pub mod emulate;
pub mod events;
mod faults;
pub mod frames;
pub mod grants;
pub mod hypercalls;
mod hypervisor;
pub mod ids;
#[cfg(any(test, feature = "testing"))]
mod invariants;
pub mod irq;
pub mod lock;
pub mod machine;
pub mod memory;
pub mod paging;
pub mod pci;
pub mod policy;
pub mod ports;
mod privileged;
pub mod sched;
mod schedule;
mod stretch;
pub mod sync;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
pub mod time;
mod traps;
pub mod try_box;
pub mod vcpu;

pub use hypervisor::{Cpu, EndPolicy, Hypervisor, Shared};
pub use machine::Machine;
pub use traps::Exception;
