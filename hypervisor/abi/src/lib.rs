//! The guest ABI of Bulkhead: the numbers and records that guests and hypervisor share.
//!
//! The ABI is Xen's 64-bit PV ABI, interface 4.17, so that kernels which exist boot unmodified. This
//! crate says what the values are and how they lie in memory; what they *mean*, and who may use them,
//! is decided in `bulkhead-core`. Both sides use it: the hypervisor decodes records from bytes that it
//! has copied out of a guest ([`Record::read_from`]), the guest runtime passes `&record` to a hypercall.
//!
//! Conventions
//! - One module per hypercall or shared structure. Sub-operations are enums made by [`numbers!`],
//!   records are made by [`record!`], which pins the size and every offset at compile time.
//! - A hypercall record's field says **In** (the guest fills it), **Out** (the hypervisor does) or
//!   **In/out**. A field of shared memory says **Guest**, **Hypervisor** or **Both**: who writes it
//!   while the other side looks.
//! - Everything is little-endian. `va` is a guest virtual address in the current guest-kernel page
//!   tables, `maddr` a machine address in bytes, `mfn` a machine frame number.
//! - Nothing here trusts or checks a value. A number that a guest sent becomes an enum through
//!   `from_raw`, which refuses what it does not know.

#![no_std]
#![forbid(unsafe_code)]

#[cfg(test)]
extern crate std;

pub mod blkif;
pub mod callback;
pub mod console;
pub mod control;
pub mod cpuid;
pub mod domid;
pub mod elfnote;
pub mod errno;
pub mod event;
pub mod extension;
pub mod grant;
pub mod hypercall;
pub mod hypercall_page;
pub mod layout;
pub mod memory;
pub mod mmu;
pub mod msr;
pub mod multicall;
pub mod netif;
pub mod nmi;
pub mod numbers;
pub mod physdev;
pub mod pte;
mod pvclock;
pub mod record;
pub mod sched;
pub mod selectors;
pub mod shared_info;
pub mod start_info;
pub mod trap;
pub mod vcpu;
pub mod version;
pub mod xenstore;

#[cfg(test)]
mod tests;

pub use domid::DomId;
pub use errno::Errno;
pub use hypercall::Hypercall;
pub use record::{Buffered, Record};
