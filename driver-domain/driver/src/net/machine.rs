//! The machine as the networks' back-end wants it: a pool of pages that change hands, memory for headers, and guests' grants.

use alloc::vec::Vec;

use bulkhead_backend::pins::{Map, Pin};
use bulkhead_devices::{BusAddress, function::DmaMemory as _};
use bulkhead_netback::machine::{BufferId, Copy, End, Flip, Machine, PAGE, PageId};
use bulkhead_runtime::{
    device::{DeviceMemory, Exchange, FlipPool},
    grant::{self, GrantRef, Place, Remote},
};

use crate::pins::{GuestPins, status};

/// What the back-end of one NIC has of the machine.
#[derive(Debug)]
pub(crate) struct NetMachine {
    pins: GuestPins,
    pool: FlipPool,
    /// Buffers, and a page of zeros behind the last.
    memory: DeviceMemory,
    /// What came of a batch, kept for its memory.
    results: Vec<Result<(), bulkhead_abi::grant::GrantStatus>>,
}

const fn index(number: u32) -> usize {
    number as usize
}

impl NetMachine {
    /// With memory for devices, all but the last page of which are buffers.
    pub(crate) fn new(pool: FlipPool, memory: DeviceMemory) -> Self {
        Self {
            pins: GuestPins::default(),
            pool,
            memory,
            results: Vec::new(),
        }
    }

    /// Where a buffer's byte is in memory.
    const fn at(buffer: BufferId, offset: usize) -> usize {
        index(buffer.0).saturating_mul(PAGE).saturating_add(offset)
    }

    fn place(&self, end: End) -> Place<'_> {
        match end {
            End::Guest { domain, gref, offset } => Place::Remote(Remote {
                domain,
                reference: GrantRef::new(gref),
                offset,
            }),
            End::Pool(page, offset) => Place::Pool(&self.pool, index(page.0), offset),
            End::Buffer(buffer, offset) => Place::Device(&self.memory, Self::at(buffer, offset.into())),
            End::Zeros => Place::Device(&self.memory, Self::at(BufferId(self.buffers()), 0)),
        }
    }
}

impl Machine for NetMachine {
    fn pages(&self) -> u32 {
        u32::try_from(self.pool.len()).unwrap_or(u32::MAX)
    }

    fn buffers(&self) -> u32 {
        let pages = self.memory.bytes().checked_div(PAGE).unwrap_or(0);
        u32::try_from(pages).unwrap_or(u32::MAX).saturating_sub(1)
    }

    fn page_address(&self, page: PageId) -> BusAddress {
        // Of a page that there is not nobody asks.
        self.pool.address(index(page.0)).unwrap_or(BusAddress(0))
    }

    fn buffer_address(&self, buffer: BufferId) -> BusAddress {
        self.memory.address_of(Self::at(buffer, 0))
    }

    fn read(&self, buffer: BufferId, offset: usize, to: &mut [u8]) {
        self.memory.read(Self::at(buffer, offset), to);
    }

    fn write(&mut self, buffer: BufferId, offset: usize, from: &[u8]) {
        self.memory.write(Self::at(buffer, offset), from);
    }

    fn map(&mut self, maps: &mut [Map]) {
        self.pins.map(maps);
    }

    fn unmap(&mut self, pins: &[Pin]) -> usize {
        GuestPins::unmap(pins)
    }

    fn copy(&mut self, copies: &mut [Copy]) {
        let mut results = core::mem::take(&mut self.results);
        results.clear();
        let asked = copies.iter().map(|copy| grant::Copy {
            from: self.place(copy.from),
            to: self.place(copy.to),
            len: copy.bytes,
        });
        grant::copy_each(asked, |result| results.push(result.map_err(status)));
        for (copy, result) in copies.iter_mut().zip(&results) {
            copy.result = *result;
        }
        self.results = results;
    }

    fn flip(&mut self, flips: &mut [Flip]) {
        let results = &mut self.results;
        results.clear();
        let asked = flips.iter().map(|flip| Exchange {
            page: index(flip.page.0),
            domain: flip.domain,
            reference: GrantRef::new(flip.gref),
        });
        self.pool
            .flip(asked, |result| results.push(result.map_err(status)));
        for (flip, result) in flips.iter_mut().zip(results) {
            flip.result = *result;
        }
    }

    fn pin(&mut self, pages: &[PageId]) -> usize {
        self.pool.pin(pages.iter().map(|page| index(page.0)))
    }

    fn unpin(&mut self, pages: &[PageId]) -> usize {
        self.pool.unpin(pages.iter().map(|page| index(page.0)))
    }
}
