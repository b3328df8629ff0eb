//! A domain in private memory, and its back-end's view of it, for tests.
#![expect(
    clippy::unwrap_used,
    clippy::arithmetic_side_effects,
    reason = "a test that goes wrong fails"
)]

extern crate std;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::vec::Vec;

use bulkhead_abi::Record;
use bulkhead_abi::blkif::{
    Discard, Indirect, Operation, Request, Response, SECTOR_SIZE, Segment, Slot, Status,
};
use bulkhead_ring::SharedPage;
use bulkhead_ring::descriptor::{Back, Notify, Ticket};
use bulkhead_ring::testing;
use embassy_sync::blocking_mutex::raw::NoopRawMutex;
use embassy_sync::signal::Signal;

use crate::domain::{Access, Domain, Port};
use crate::queue::Blkif;

/// A domain with a grant table and one port. Clones are the same domain.
#[derive(Clone, Debug, Default)]
pub struct Memory(Rc<RefCell<Table>>);

#[derive(Debug, Default)]
struct Table {
    grants: BTreeMap<u32, Entry>,
    last: u32,
    /// How many more pages and grants there are; `None` if they never end.
    pages_left: Option<u32>,
    grants_left: Option<u32>,
    ports: Vec<Bell>,
}

#[derive(Debug)]
struct Entry {
    page: testing::Page,
    access: Access,
    in_use: bool,
}

impl Memory {
    /// A domain with nothing granted.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The page of a grant, as the back-end sees it, if it may use it so.
    #[must_use]
    pub fn page_for(&self, reference: u32, access: Access) -> Option<testing::Page> {
        let table = self.0.borrow();
        let entry = table.grants.get(&reference)?;
        (access == Access::ReadOnly || entry.access == Access::ReadWrite).then(|| entry.page.clone())
    }

    /// The back-end begins, or ends, to use a grant. Nothing if there is none.
    pub fn set_in_use(&self, reference: u32, in_use: bool) {
        if let Some(entry) = self.0.borrow_mut().grants.get_mut(&reference) {
            entry.in_use = in_use;
        }
    }

    /// How many grants there are.
    #[must_use]
    pub fn grants(&self) -> usize {
        self.0.borrow().grants.len()
    }

    /// There are so many more pages, and so many more grants.
    pub fn limit(&self, pages: Option<u32>, grants: Option<u32>) {
        let mut table = self.0.borrow_mut();
        (table.pages_left, table.grants_left) = (pages, grants);
    }

    /// The port with this number.
    ///
    /// # Panics
    ///
    /// If there is none.
    #[must_use]
    pub fn bell(&self, number: u32) -> Bell {
        let found = self
            .0
            .borrow()
            .ports
            .iter()
            .find(|bell| bell.number() == number)
            .cloned();
        found.unwrap()
    }
}

/// Takes one of so many.
fn take_one(left: &mut Option<u32>) -> Option<()> {
    if let Some(left) = left {
        *left = left.checked_sub(1)?;
    }
    Some(())
}

/// A granted page. Dropping it ends the grant, unless it is in use.
#[derive(Debug)]
pub struct Grant {
    page: testing::Page,
    reference: u32,
    memory: Memory,
}

impl Drop for Grant {
    fn drop(&mut self) {
        let mut table = self.memory.0.borrow_mut();
        if table
            .grants
            .get(&self.reference)
            .is_some_and(|entry| !entry.in_use)
        {
            table.grants.remove(&self.reference);
            if let Some(left) = &mut table.grants_left {
                *left = left.saturating_add(1);
            }
        }
    }
}

impl SharedPage for Grant {
    fn load(&self, offset: usize) -> u32 {
        self.page.load(offset)
    }

    fn store(&self, offset: usize, value: u32) {
        self.page.store(offset, value);
    }

    fn read(&self, offset: usize, to: &mut [u8]) {
        self.page.read(offset, to);
    }

    fn write(&self, offset: usize, from: &[u8]) {
        self.page.write(offset, from);
    }
}

impl Domain for Memory {
    type Page = testing::Page;
    type Grant = Grant;
    type Port = Bell;

    fn page(&self) -> Option<testing::Page> {
        take_one(&mut self.0.borrow_mut().pages_left)?;
        Some(testing::Page::new())
    }

    fn grant(&self, page: testing::Page, access: Access) -> Result<Grant, testing::Page> {
        let mut table = self.0.borrow_mut();
        if take_one(&mut table.grants_left).is_none() {
            return Err(page);
        }
        let reference = table.last.wrapping_add(1);
        table.last = reference;
        let entry = Entry {
            page: page.clone(),
            access,
            in_use: false,
        };
        table.grants.insert(reference, entry);
        Ok(Grant {
            page,
            reference,
            memory: self.clone(),
        })
    }

    fn reference(&self, grant: &Grant) -> u32 {
        grant.reference
    }

    fn revoke(&self, grant: Grant) -> Result<testing::Page, Grant> {
        let in_use = self
            .0
            .borrow()
            .grants
            .get(&grant.reference)
            .is_some_and(|entry| entry.in_use);
        if in_use {
            return Err(grant);
        }
        // Dropped, it ends.
        Ok(grant.page.clone())
    }

    fn port(&self) -> Option<Bell> {
        let mut table = self.0.borrow_mut();
        let number = u32::try_from(table.ports.len()).ok()?.checked_add(10)?;
        let bell = Bell(Rc::new(Channel {
            number,
            front: Signal::new(),
            back: Signal::new(),
        }));
        table.ports.push(bell.clone());
        Some(bell)
    }
}

/// Both ends of an event channel. Clones are the same channel.
#[derive(Clone)]
pub struct Bell(Rc<Channel>);

struct Channel {
    number: u32,
    /// The end of the front-end has fired.
    front: Signal<NoopRawMutex, ()>,
    /// That of the back-end has.
    back: Signal<NoopRawMutex, ()>,
}

impl std::fmt::Debug for Bell {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Bell").field(&self.0.number).finish()
    }
}

impl Bell {
    /// The back-end notifies the front-end.
    pub fn ring(&self) {
        self.0.front.signal(());
    }

    /// The back-end waits until it is notified.
    pub async fn rung(&self) {
        self.0.back.wait().await;
    }
}

impl Port for Bell {
    fn number(&self) -> u32 {
        self.0.number
    }

    fn notify(&self) {
        self.0.back.signal(());
    }

    fn notified(&self) -> impl Future<Output = ()> {
        self.0.front.wait()
    }
}

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
