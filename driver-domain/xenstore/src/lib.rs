//! The xenstore server, as a state machine: bytes in, bytes out, and no ring, event or clock of its own.
//!
//! Domains keep small values in one tree, each node with an owner and permissions; they watch for changes, and change
//! several nodes at once in transactions. [`bulkhead_bus::wire`] has the protocol. Domain 0 is always connected: it uses
//! the methods of [`Store`] directly ([`Store::read`], [`Store::watch`], ...), which do what a message would.
//!
//! # For who owns the rings
//!
//! [`Store::introduce`] a domain when its ring is mapped, [`Store::release`] it when it is gone. When its event channel
//! fires, and once more whenever [`Store::next_ready`] names it:
//!
//! ```
//! # use bulkhead_abi::DomId;
//! # use bulkhead_xenstore::Store;
//! # struct Ring;
//! # impl Ring {
//! #     fn receive(&mut self, _: &mut [u8]) -> usize { 0 }
//! #     fn room(&self) -> usize { 1024 }
//! #     fn send(&mut self, _: &[u8]) {}
//! #     fn notify(&mut self) {}
//! #     fn mark_broken(&mut self) {}
//! # }
//! fn serve(store: &mut Store, domain: DomId, ring: &mut Ring) {
//!     loop {
//!         // Out first: a domain that does not read its replies is not asked for more requests.
//!         let mut bytes = [0; 1024];
//!         let room = ring.room();
//!         let sent = store.take_output(domain, &mut bytes[..room]);
//!         ring.send(&bytes[..sent]);
//!         let mut received = 0;
//!         if store.wants_input(domain) {
//!             received = ring.receive(&mut bytes);
//!             store.feed(domain, &bytes[..received]);
//!         }
//!         if sent + received == 0 {
//!             break;
//!         }
//!         ring.notify();
//!     }
//!     if store.broken(domain).is_some() {
//!         ring.mark_broken();
//!     }
//! }
//! # serve(&mut Store::new(), DomId::new(1), &mut Ring);
//! ```
//!
//! What the store wants done outside (a ring mapped because a message introduced a domain) comes out of
//! [`Store::next_action`].
//!
//! # Laws
//!
//! - **A request is refused, or done whole.** A refused one changed nothing.
//! - **A transaction is as if all of it happened at its end.** It ends with EAGAIN if anything that it looked at (a value,
//!   permissions, that a node is missing, a list of children) has changed since it began. Two that touch different nodes
//!   do not disturb each other.
//! - **Who may not read a node learns nothing of it**: neither value nor change.
//! - **A guest costs a bounded amount** of memory, and of time for each request: [`Quotas`] has the numbers, [`Store::feed`]
//!   the cost of each request.
//!
//! # How it is built
//!
//! `tree` is a persistent tree: a snapshot is a reference to the root, and a change copies the nodes on its way only while
//! somebody has a snapshot. `transaction` is a snapshot with a log of what was looked at; `watches` knows who is
//! to be told, `events` keeps what was not told yet. `requests` does what domains ask, for the wire and for domain 0 alike.

#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

extern crate alloc;

mod connection;
mod control;
mod events;
mod introduce;
mod quotas;
mod requests;
mod serve;
mod store;
mod transaction;
mod tree;
mod view;
mod watches;

pub use bulkhead_bus::wire::{Access, End, Path, PathError, Perm, Perms, Place, Special};
pub use control::{Event, Tx};
pub use introduce::IntroduceError;
pub use quotas::Quotas;
pub use store::{Action, Store};

#[cfg(any(test, fuzzing))]
mod invariants;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
#[cfg(test)]
mod tests;
