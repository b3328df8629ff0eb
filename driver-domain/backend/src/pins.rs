//! Guests' pages for a device.

use bulkhead_abi::DomId;
use bulkhead_abi::grant::GrantStatus;
use bulkhead_devices::BusAddress;

/// What a device may do with a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rights {
    /// Read it: it is data to be written to a disk, or sent. A grant for reading is enough.
    Read,
    /// Write it, and read it.
    Write,
}

/// A page that is pinned for a device. Whoever has it gives it back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pin {
    /// The grant table's name for it.
    pub handle: u32,
    /// Where a device finds the page.
    pub address: BusAddress,
}

/// A page that is to be pinned, and what came of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Map {
    /// Whose page it is.
    pub domain: DomId,
    /// The grant.
    pub gref: u32,
    /// For what.
    pub rights: Rights,
    /// Filled in by whoever pins.
    pub result: Result<Pin, GrantStatus>,
}
