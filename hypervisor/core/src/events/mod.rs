//! Event channels: how domains, and the hypervisor, notify a domain.
//!
//! A domain owns up to 4095 **ports**. An open port is one end of a channel: it waits for another domain to bind to
//! it, is connected to a port of another domain, stands for an interrupt (virtual, or of a device: see [`crate::irq`]),
//! or carries interrupts between the domain's own vCPUs. Raising a port sets bits in memory shared with the guest and, if
//! the guest wants to know, makes a vCPU take an upcall. Only the two-level layout of those bits is offered.
//!
//! Two halves, which meet in [`Raise`]:
//!
//! - [`EventTable`], one per domain: who may notify whom. Pure state, no shared memory. [`Channel`] is one port's
//!   state, and every arrow between states is a method there.
//! - [`bits`]: delivery. Lock-free operations on words that the guest writes at the same time.
//!
//! # Laws
//!
//! - **No notification is made to a domain that did not agree to it.** A port is raised only by the peer that it
//!   names, by its own domain, or by an interrupt, virtual or of a device, that its domain asked for. A port that waits for a peer is
//!   never raised.
//! - **No wake-up is lost.** [`bits`] argues the order of its steps; binding raises the binder's new port once, as the
//!   other side may have sent while nobody listened.
//! - **Two connected ends name each other**, always: both change in one step, under both tables' locks.
//!
//! # Locks
//!
//! The caller keeps each table behind a lock. [`EventTable::bind_interdomain`], [`EventTable::close`] and
//! [`EventTable::sweep`] may need two tables: both locks are then held, taken in the order of the domain ids.
//! Everything else, sending included, needs one table at a time. A [`Raise`] is acted on before the lock is dropped of
//! the table that gave it, so that the port cannot meanwhile come to mean something else.

pub mod bits;
mod channel;
mod close;
mod error;
mod port;
mod ports;
mod send;
mod table;
mod virq;

pub use channel::Channel;
pub use close::{Closed, Closing, Peer, Sweep};
pub use error::EventError;
pub use port::Port;
pub use send::{Delivery, Target};
pub use table::{EventTable, Raise, Status};
pub use virq::GlobalVirqs;
