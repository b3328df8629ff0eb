//! What the back-end wants of the machine: guests' pages, pages of its own that change hands, and memory that devices read.

use bulkhead_abi::DomId;
use bulkhead_abi::grant::GrantStatus;
use bulkhead_backend::pins::{Map, Pin};
use bulkhead_devices::BusAddress;

/// Bytes of a page of the pool, and of a buffer.
pub const PAGE: usize = 4096;

/// A page of the pool: frames are received into it, and it can go to a guest for one of the guest's. It is never mapped. It keeps its number
/// whatever frame it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PageId(pub u32);

/// A page of private memory, which the devices of this domain read. It never goes anywhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BufferId(pub u32);

/// One side of a copy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// A page that a domain has granted.
    Guest {
        /// Whose page it is.
        domain: DomId,
        /// The grant.
        gref: u32,
        /// Bytes into the page.
        offset: u16,
    },
    /// A page of the pool, and bytes into it.
    Pool(PageId, u16),
    /// Private memory, and bytes into the page.
    Buffer(BufferId, u16),
    /// Zeros. Nothing is copied to them.
    Zeros,
}

/// Bytes that are to be copied, and what came of it. They lie in one page on either side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Copy {
    /// From where.
    pub from: End,
    /// To where.
    pub to: End,
    /// How many, 1 at least.
    pub bytes: u16,
    /// Filled in by [`Machine::copy`].
    pub result: Result<(), GrantStatus>,
}

/// A page of the pool that is to go to a domain for one of that domain's, and what came of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flip {
    /// What is given. When it is done, this is the page that came.
    pub page: PageId,
    /// To whom.
    pub domain: DomId,
    /// By which of its offers.
    pub gref: u32,
    /// Filled in by [`Machine::flip`].
    pub result: Result<(), GrantStatus>,
}

/// The machine. All calls take batches, so that each is one hypercall or a few, and are made with nothing only if a caller has nothing better to do.
pub trait Machine {
    /// How many pages the pool has, numbered from 0. None is pinned to begin with.
    fn pages(&self) -> u32;

    /// How many buffers there are, numbered from 0. All are pinned, always.
    fn buffers(&self) -> u32;

    /// Where a device finds a page of the pool, while that is pinned and until it is flipped.
    fn page_address(&self, page: PageId) -> BusAddress;

    /// Where a device finds a buffer.
    fn buffer_address(&self, buffer: BufferId) -> BusAddress;

    /// Copies bytes out of a buffer. They lie in it.
    fn read(&self, buffer: BufferId, offset: usize, to: &mut [u8]);

    /// Copies bytes into a buffer. They lie in it.
    fn write(&mut self, buffer: BufferId, offset: usize, from: &[u8]);

    /// Pins guests' pages for a device, without mapping them anywhere, and fills in each result.
    fn map(&mut self, maps: &mut [Map]);

    /// Gives those pins back. No device uses them any more. Says how many were refused, which no guest can bring about.
    fn unmap(&mut self, pins: &[Pin]) -> usize;

    /// Copies, in this order, and fills in each result.
    fn copy(&mut self, copies: &mut [Copy]);

    /// Exchanges pages of the pool, which are not pinned, and fills in each result. One that fails stays what it was.
    fn flip(&mut self, flips: &mut [Flip]);

    /// Pins pages of the pool for devices to write. Says how many, from the first on: what stops it no guest can bring about.
    fn pin(&mut self, pages: &[PageId]) -> usize;

    /// Takes those pins off. No device uses the pages any more. Says how many, from the first on, as [`pin`](Self::pin) does.
    fn unpin(&mut self, pages: &[PageId]) -> usize;
}
