//! What a hardware driver is to the back-ends, and what it is given to drive a device with.
//!
//! A driver is a crate of its own, in a folder beside this one. It is [given](function) a PCI function, implements a trait of this crate,
//! [`Disk`](disk::Disk) or [`Nic`](nic::Nic), and knows nothing of guests, rings and grants; the back-ends know nothing of hardware. Between them are
//! addresses as a device puts them on the bus, numbers of sectors, and bytes of frames. `driver-domain/docs/devices.md` tells how to write one.
#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

pub mod disk;
pub mod function;
pub mod nic;
mod request;
#[cfg(feature = "testing")]
pub mod testing;

/// An address of memory as a device puts it on the bus: a machine address, which an IOMMU, if there is one, lets through.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BusAddress(pub u64);
