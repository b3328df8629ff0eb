//! A back-end with a disk in private memory, for tests.
#![expect(
    clippy::unwrap_used,
    clippy::arithmetic_side_effects,
    reason = "a test that goes wrong fails"
)]

extern crate std;

use std::vec::Vec;

use bulkhead_abi::Record;
use bulkhead_abi::blkif::{
    Discard, Indirect, Operation, Request, Response, SECTOR_SIZE, Segment, Slot, Status,
};
use bulkhead_frontend::Access;
pub use bulkhead_frontend::testing::{Bell, Grant, Memory};
use bulkhead_ring::SharedPage;
use bulkhead_ring::descriptor::{Back, Notify, Ticket};
use bulkhead_ring::testing;

use crate::queue::Blkif;

/// A back-end with a disk in private memory.
#[derive(Debug)]
pub struct Server {
    memory: Memory,
    back: Back<testing::Page, Blkif>,
    /// The disk.
    pub disk: Vec<u8>,
    /// All requests that it took.
    pub taken: Vec<Slot>,
    /// Answers that it has not given.
    waiting: Vec<(Ticket, Response)>,
    /// It goes on using the pages of requests.
    pub keeps_pages: bool,
}

impl Server {
    /// A back-end that adopts the ring in these pages of `memory`.
    ///
    /// # Panics
    ///
    /// If they are not granted for writing, or are no ring.
    #[must_use]
    pub fn adopt(memory: &Memory, ring: &[u32], disk: Vec<u8>) -> Self {
        let pages = ring
            .iter()
            .map(|reference| memory.page_for(*reference, Access::ReadWrite).unwrap());
        Self {
            memory: memory.clone(),
            back: Back::adopt(pages.collect()).unwrap(),
            disk,
            taken: Vec::new(),
            waiting: Vec::new(),
            keeps_pages: false,
        }
    }

    /// Takes the requests that there are, does them, and asks to be told of the next.
    ///
    /// # Panics
    ///
    /// If the front-end's index cannot be.
    pub fn take(&mut self) {
        loop {
            while let Some((ticket, slot)) = self.back.take().unwrap() {
                let response = self.perform(&slot);
                self.taken.push(slot);
                self.waiting.push((ticket, response));
            }
            if self.back.may_sleep().unwrap() {
                return;
            }
        }
    }

    /// Answers all requests that were taken, having changed their answers, or exchanged them for each other.
    pub fn answer(&mut self, change: impl FnOnce(&mut [Response])) -> Notify {
        let (tickets, mut responses): (Vec<_>, Vec<_>) = self.waiting.drain(..).unzip();
        change(&mut responses);
        for (ticket, response) in tickets.into_iter().zip(responses) {
            self.back.complete(ticket, response);
        }
        self.back.publish()
    }

    /// Takes, does and answers what there is.
    pub fn serve(&mut self) -> Notify {
        self.take();
        self.answer(|_| {})
    }

    fn perform(&mut self, slot: &Slot) -> Response {
        let request: Request = slot.read();
        let (operation, done) = match slot.operation() {
            Some(Operation::Indirect) => {
                let indirect: Indirect = slot.read();
                (
                    indirect.indirect_op,
                    self.segments(&indirect).and_then(|segments| {
                        self.transfer(indirect.indirect_op, indirect.sector_number, &segments)
                    }),
                )
            }
            Some(Operation::Read | Operation::Write) => {
                let segments = request.seg.get(..request.nr_segments.into());
                let done = segments
                    .and_then(|segments| self.transfer(request.operation, request.sector_number, segments));
                (request.operation, done)
            }
            Some(Operation::Discard) => {
                let discard: Discard = slot.read();
                let first = usize::try_from(discard.sector_number).unwrap();
                let count = usize::try_from(discard.nr_sectors).unwrap();
                let bytes = self.disk.chunks_mut(SECTOR_SIZE).skip(first).take(count);
                bytes.for_each(|sector| sector.fill(0));
                (request.operation, Some(()))
            }
            Some(_) | None => (request.operation, Some(())),
        };
        Response {
            id: request.id,
            operation,
            status: done.map_or(Status::Error, |()| Status::Okay).raw(),
        }
    }

    fn segments(&self, indirect: &Indirect) -> Option<Vec<Segment>> {
        let page = self
            .memory
            .page_for(indirect.indirect_grefs[0], Access::ReadOnly)?;
        let read = |index: usize| {
            let mut bytes = [0; 8];
            page.read(index * 8, &mut bytes);
            Segment::read_from(&bytes)
        };
        (0..indirect.nr_segments.into()).map(read).collect()
    }

    fn transfer(&mut self, operation: u8, sector: u64, segments: &[Segment]) -> Option<()> {
        let mut place = usize::try_from(sector).ok()? * SECTOR_SIZE;
        for segment in segments {
            let (first, last) = (usize::from(segment.first_sect), usize::from(segment.last_sect));
            let offset = first * SECTOR_SIZE;
            let length = (last + 1).checked_sub(first)? * SECTOR_SIZE;
            let bytes = self.disk.get_mut(place..place + length)?;
            if operation == Operation::Write.raw() {
                self.memory
                    .page_for(segment.gref, Access::ReadOnly)?
                    .read(offset, bytes);
            } else {
                self.memory
                    .page_for(segment.gref, Access::ReadWrite)?
                    .write(offset, bytes);
            }
            self.memory.set_in_use(segment.gref, self.keeps_pages);
            place += length;
        }
        Some(())
    }
}
