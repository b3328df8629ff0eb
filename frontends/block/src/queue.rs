//! Orders and one ring: the front-end without futures.
//!
//! An order is cut into requests of as many pages as one takes. Those that the ring has no room for wait, in the order in which they were given;
//! nothing else is promised about order, so who writes and then flushes waits in between. Call [`Queue::step`] after orders and when the back-end
//! notified, and go on until [`Queue::may_sleep`] says so.
//!
//! A request's number has two parts: in the low 16 bits, its place among the outstanding ones; above, how many were posted before it. So an answer
//! that comes twice is found, also when the place has been used again.

use alloc::collections::VecDeque;
use alloc::vec::Vec;
use core::fmt;
use core::ops::Range;
use core::task::Waker;

use bulkhead_abi::Buffered;
use bulkhead_abi::blkif::{
    self, Indirect, MAX_SEGMENTS, Operation, Request, Response, SECTOR_SIZE, SECTORS_PER_PAGE, Segment, Slot,
    Status,
};
use bulkhead_ring::SharedPage;
use bulkhead_ring::descriptor::{Front, Notify, Protocol};

use crate::buffer::Buffer;
use crate::error::{Broken, Error};
use crate::properties::{Flush, Properties};
use bulkhead_frontend::{Access, Domain};

/// The rings of blkif.
#[derive(Debug)]
pub struct Blkif;

impl Protocol for Blkif {
    type Request = Slot;
    type Response = Response;
}

/// Something for a disk to do. Places are in sectors of 512 bytes.
#[derive(Debug)]
pub enum Order<D: Domain> {
    /// Reads sectors from this one on, as many as the buffer holds.
    Read(u64, Buffer<D>),
    /// Writes them.
    Write(u64, Buffer<D>),
    /// Makes everything last whose writing had ended when this was ordered.
    Flush,
    /// Forgets what sectors hold.
    Discard {
        /// The first.
        sector: u64,
        /// How many.
        sectors: u64,
        /// It is to be gone for good.
        secure: bool,
    },
}

/// Stands for an order that was given. Exchange it for the outcome, or forget it.
#[derive(Debug)]
#[must_use = "an order that is forgotten without telling keeps its buffer"]
pub struct Ticket(usize);

/// The outcome of an order, and its buffer. It has none if the disk broke while the back-end could use its pages.
pub type Outcome<D> = (Result<(), Error>, Option<Buffer<D>>);

/// Orders, and the ring by which they are done.
pub struct Queue<D: Domain> {
    domain: D,
    front: Front<D::Grant, Blkif>,
    properties: Properties,
    handle: u16,
    jobs: Slab<Job<D>>,
    /// How many of them have no outcome yet.
    pending: usize,
    /// Orders of which not all was posted.
    backlog: VecDeque<usize>,
    flights: Slab<Flight<D>>,
    /// How many requests were posted, ever.
    posted: u64,
    /// Pages for lists of segments, granted, that no request uses.
    lists: Vec<D::Grant>,
    broken: Option<Broken>,
}

/// An order at work.
#[derive(Debug)]
struct Job<D: Domain> {
    kind: Kind,
    sector: u64,
    buffer: Buffer<D>,
    /// How many of its pages were posted.
    posted: usize,
    /// How many of its requests are outstanding.
    flying: usize,
    /// It is in the backlog.
    waits: bool,
    progress: Progress,
    error: Option<Error>,
    /// Who waits for it.
    waker: Option<Waker>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// [`Operation::Read`] or [`Operation::Write`], and what the back-end has to do with the pages for it.
    Transfer(Operation, Access),
    Flush,
    Discard {
        sectors: u64,
        secure: bool,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Progress {
    Going,
    Done,
    /// Nobody wants the outcome.
    Forgotten,
}

/// A request that was posted and not answered.
#[derive(Debug)]
struct Flight<D: Domain> {
    id: u64,
    job: usize,
    /// What the answer must be about.
    operation: Operation,
    /// Pages of the order's buffer.
    pages: Range<usize>,
    /// The page with its segments, if it has one.
    list: Option<D::Grant>,
}

/// What became of an attempt to post.
enum Posting {
    Posted,
    /// There is no room now; there will be.
    Later,
    /// Nothing can be posted at all.
    Failed(Error),
}

impl<D: Domain> Queue<D> {
    /// The queue of a ring that the back-end has, for a disk with these properties. `handle` is the low half of its number.
    pub fn new(domain: D, front: Front<D::Grant, Blkif>, properties: Properties, handle: u16) -> Self {
        Self {
            domain,
            front,
            properties,
            handle,
            jobs: Slab::new(),
            pending: 0,
            backlog: VecDeque::new(),
            flights: Slab::new(),
            posted: 0,
            lists: Vec::new(),
            broken: None,
        }
    }

    /// The disk has another size now.
    pub fn set_sectors(&mut self, sectors: u64) {
        self.properties.sectors = sectors;
    }

    /// How many orders have no outcome yet.
    #[must_use]
    pub const fn pending(&self) -> usize {
        self.pending
    }

    /// Why nothing works any more, if that is so.
    #[must_use]
    pub const fn broken(&self) -> Option<Broken> {
        self.broken
    }

    /// Gives an order. It is posted with the next [`step`](Self::step); if it cannot be, that is its outcome.
    pub fn order(&mut self, order: Order<D>) -> Ticket {
        let (kind, sector, buffer) = match order {
            Order::Read(sector, buffer) => {
                (Kind::Transfer(Operation::Read, Access::ReadWrite), sector, buffer)
            }
            Order::Write(sector, buffer) => {
                (Kind::Transfer(Operation::Write, Access::ReadOnly), sector, buffer)
            }
            Order::Flush => (Kind::Flush, 0, Buffer::default()),
            Order::Discard {
                sector,
                sectors,
                secure,
            } => (Kind::Discard { sectors, secure }, sector, Buffer::default()),
        };
        let error = self.check(kind, sector, buffer.len()).err();
        // Of a disk that makes every write last, a flush asks nothing.
        let is_nothing = kind == Kind::Flush && self.properties.flush == Flush::Never;
        let progress = if error.is_some() || is_nothing {
            Progress::Done
        } else {
            Progress::Going
        };
        let index = self.jobs.insert(Job {
            kind,
            sector,
            buffer,
            posted: 0,
            flying: 0,
            waits: progress == Progress::Going,
            progress,
            error,
            waker: None,
        });
        if progress == Progress::Going {
            self.pending = self.pending.saturating_add(1);
            self.backlog.push_back(index);
        }
        Ticket(index)
    }

    /// Whether the disk does this.
    fn check(&self, kind: Kind, sector: u64, bytes: usize) -> Result<(), Error> {
        if let Some(broken) = self.broken {
            return Err(broken.into());
        }
        let Properties {
            sectors: size,
            sector_size,
            ..
        } = self.properties;
        let sectors = match kind {
            Kind::Flush => return Ok(()),
            Kind::Transfer(..) => (bytes / SECTOR_SIZE) as u64,
            Kind::Discard { sectors, .. } => sectors,
        };
        match (kind, &self.properties.discard) {
            (Kind::Discard { .. }, None) => return Err(Error::Unsupported),
            (Kind::Discard { secure: true, .. }, Some(discard)) if !discard.is_secure => {
                return Err(Error::Unsupported);
            }
            (Kind::Transfer(Operation::Write, _) | Kind::Discard { .. }, _)
                if self.properties.is_read_only() =>
            {
                return Err(Error::ReadOnly);
            }
            _ => {}
        }
        let unit = u64::from(sector_size).div_ceil(SECTOR_SIZE as u64);
        if sectors == 0 || !sector.is_multiple_of(unit) || !sectors.is_multiple_of(unit) {
            return Err(Error::Unaligned(sector_size));
        }
        match sector.checked_add(sectors) {
            Some(end) if end <= size => Ok(()),
            _ => Err(Error::OutOfDisk {
                sector,
                sectors,
                size,
            }),
        }
    }

    /// The outcome of an order, if it is there.
    ///
    /// # Errors
    ///
    /// The ticket, if it is not; `waker` is kept, to be woken then.
    pub fn poll(&mut self, ticket: Ticket, waker: &Waker) -> Result<Outcome<D>, Ticket> {
        let done = match self.jobs.get_mut(ticket.0) {
            Some(job) if job.progress == Progress::Going => {
                match &mut job.waker {
                    Some(kept) => kept.clone_from(waker),
                    kept => *kept = Some(waker.clone()),
                }
                return Err(ticket);
            }
            _ => self.jobs.take(ticket.0),
        };
        let Some(Job { error, buffer, .. }) = done else {
            return Ok((Ok(()), None));
        };
        let buffer = (buffer.pages() > 0).then_some(buffer);
        Ok((error.map_or(Ok(()), Err), buffer))
    }

    /// Forgets an order whose outcome was not given: what is posted of it may still be done, what is not is not posted.
    pub fn forget(&mut self, ticket: Ticket) {
        let Some(job) = self.jobs.get_mut(ticket.0) else {
            return;
        };
        if job.progress == Progress::Done {
            self.jobs.take(ticket.0);
            return;
        }
        job.progress = Progress::Forgotten;
        self.stop(ticket.0, None);
    }

    /// Takes the answers that there are, and posts what there is room for. The back-end is to be notified if it says so.
    ///
    /// # Errors
    ///
    /// [`Broken`] if the disk is; all orders have failed then.
    pub fn step(&mut self) -> Result<Notify, Broken> {
        self.broken.map_or(Ok(()), Err)?;
        while let Some(response) = self.front.take().map_err(|error| self.fail(error.into()))? {
            self.answer(response).map_err(|broken| self.fail(broken))?;
        }
        let before = self.posted;
        while let Some(&index) = self.backlog.front() {
            match self.post(index) {
                Posting::Posted => {}
                Posting::Later => break,
                Posting::Failed(error) => self.stop(index, Some(error)),
            }
        }
        Ok(if self.posted == before {
            Notify::No
        } else {
            self.front.push()
        })
    }

    /// Whether to wait for the back-end's notification, or for an order. [`step`](Self::step) first.
    ///
    /// # Errors
    ///
    /// [`Broken`] if the disk is; all orders have failed then.
    pub fn may_sleep(&mut self) -> Result<bool, Broken> {
        self.broken.map_or(Ok(()), Err)?;
        self.front.may_sleep().map_err(|error| self.fail(error.into()))
    }

    /// Gives the disk up: all orders fail, now and later. Pages that the back-end could use do not come back to who ordered. Returns why.
    pub fn fail(&mut self, broken: Broken) -> Broken {
        if self.broken.is_some() {
            return broken;
        }
        self.broken = Some(broken);
        self.backlog.clear();
        for index in 0..self.jobs.len() {
            let Some(job) = self.jobs.get_mut(index) else {
                continue;
            };
            if job.flying > 0 {
                job.buffer = Buffer::default();
                job.flying = 0;
            }
            job.waits = false;
            if job.progress != Progress::Done {
                self.stop(index, Some(broken.into()));
            }
        }
        self.flights = Slab::new();
        broken
    }

    /// No more of an order is posted. When nothing of it is outstanding either, it is done.
    fn stop(&mut self, index: usize, error: Option<Error>) {
        let Some(job) = self.jobs.get_mut(index) else {
            return;
        };
        job.error = job.error.or(error);
        if core::mem::take(&mut job.waits) {
            self.backlog.retain(|waiting| *waiting != index);
        }
        if job.flying > 0 {
            return;
        }
        self.pending = self.pending.saturating_sub(1);
        if job.progress == Progress::Forgotten {
            self.jobs.take(index);
            return;
        }
        job.progress = Progress::Done;
        if let Some(waker) = job.waker.take() {
            waker.wake();
        }
    }

    /// Posts a request of an order.
    fn post(&mut self, index: usize) -> Posting {
        let Some(job) = self.jobs.get_mut(index) else {
            return Posting::Failed(Error::Failed);
        };
        if self.flights.used() >= self.front.size() as usize {
            return Posting::Later;
        }
        let place = self.flights.next();
        let id = self.posted << 16 | place as u64;
        let (slot, operation, pages, list) = match job.kind {
            Kind::Flush => {
                let operation = match self.properties.flush {
                    Flush::Barrier => Operation::WriteBarrier,
                    Flush::Cache | Flush::Never => Operation::FlushDiskcache,
                };
                let request = Request {
                    operation: operation.raw(),
                    handle: self.handle,
                    id,
                    ..Request::default()
                };
                (Slot::holding(&request), operation, 0..1, None)
            }
            Kind::Discard { sectors, secure } => {
                let request = blkif::Discard {
                    operation: Operation::Discard.raw(),
                    flag: if secure { blkif::DISCARD_SECURE } else { 0 },
                    handle: self.handle,
                    id,
                    sector_number: job.sector,
                    nr_sectors: sectors,
                };
                (Slot::holding(&request), Operation::Discard, 0..1, None)
            }
            Kind::Transfer(operation, access) => {
                let left = job.buffer.pages().saturating_sub(job.posted);
                let list = (left > MAX_SEGMENTS && usize::from(self.properties.segments) > MAX_SEGMENTS)
                    .then(|| list_page(&self.domain, &mut self.lists))
                    .flatten();
                let most = if list.is_some() {
                    self.properties.segments.into()
                } else {
                    MAX_SEGMENTS
                };
                let segments = lend(&mut job.buffer, job.posted, left.min(most), access);
                if segments.is_empty() {
                    self.lists.extend(list);
                    // What is answered gives grants back.
                    return if self.flights.used() > 0 {
                        Posting::Later
                    } else {
                        Posting::Failed(Error::NoMemory)
                    };
                }
                let pages = job.posted..job.posted.saturating_add(segments.len());
                let skipped = (job.posted as u64).saturating_mul(SECTORS_PER_PAGE.into());
                let sector_number = job.sector.saturating_add(skipped);
                let slot = match &list {
                    Some(list) => indirect(
                        Indirect {
                            indirect_op: operation.raw(),
                            id,
                            sector_number,
                            handle: self.handle,
                            ..Indirect::default()
                        },
                        &segments,
                        (list, self.domain.reference(list)),
                    ),
                    None => direct(
                        Request {
                            operation: operation.raw(),
                            handle: self.handle,
                            id,
                            sector_number,
                            ..Request::default()
                        },
                        &segments,
                    ),
                };
                (slot, operation, pages, list)
            }
        };
        job.posted = pages.end;
        job.waits = job.posted < job.buffer.pages();
        let is_last = !job.waits;
        job.flying = job.flying.saturating_add(1);
        self.posted = self.posted.wrapping_add(1);
        self.flights.insert(Flight {
            id,
            job: index,
            operation,
            pages,
            list,
        });
        // There is room: no more are outstanding than there are slots.
        let _ = self.front.post(&slot);
        if is_last {
            self.backlog.pop_front();
        }
        Posting::Posted
    }

    /// Takes an answer for what it claims to be.
    fn answer(&mut self, response: Response) -> Result<(), Broken> {
        let place = place_of(response.id);
        let flight = self
            .flights
            .get_mut(place)
            .map(|flight| (flight.id, flight.operation));
        let Some((_, asked)) = flight.filter(|(id, _)| *id == response.id) else {
            return Err(Broken::NotAsked(response.id));
        };
        let Some(flight) = self.flights.take(place) else {
            return Err(Broken::NotAsked(response.id));
        };
        // Back-ends repeat what was asked of an indirect request, as Linux wants it, or that it was one.
        let is_indirect = flight.list.is_some() && response.operation == Operation::Indirect.raw();
        if response.operation != asked.raw() && !is_indirect {
            return Err(Broken::Operation {
                asked: asked.raw(),
                answered: response.operation,
            });
        }
        self.lists.extend(flight.list);
        let Some(job) = self.jobs.get_mut(flight.job) else {
            return Ok(());
        };
        for page in flight.pages {
            job.buffer.take_back(page).map_err(Broken::KeepsPage)?;
        }
        job.flying = job.flying.saturating_sub(1);
        let error = match Status::from_raw(response.status) {
            Some(Status::Okay) => None,
            Some(Status::Eopnotsupp) => Some(Error::Unsupported),
            Some(Status::Error) | None => Some(Error::Failed),
        };
        if error.is_some() || !job.waits {
            self.stop(flight.job, error);
        }
        Ok(())
    }
}

impl<D: Domain> fmt::Debug for Queue<D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Queue")
            .field("backlog", &self.backlog)
            .field("outstanding", &self.flights.used())
            .field("broken", &self.broken)
            .finish_non_exhaustive()
    }
}

/// The place among the outstanding requests that is in a request's number.
fn place_of(id: u64) -> usize {
    let [low, high, ..] = id.to_le_bytes();
    u16::from_le_bytes([low, high]).into()
}

/// A page for a list of segments: one that was used before, or a new one.
fn list_page<D: Domain>(domain: &D, lists: &mut Vec<D::Grant>) -> Option<D::Grant> {
    lists
        .pop()
        .or_else(|| domain.grant(domain.page()?, Access::ReadOnly).ok())
}

/// Lends pages from `first` on, `count` or as many as there are grants for; their segments.
fn lend<D: Domain>(buffer: &mut Buffer<D>, first: usize, count: usize, access: Access) -> Vec<Segment> {
    (first..first.saturating_add(count))
        .map_while(|page| {
            let sectors = buffer.bytes_of(page) / SECTOR_SIZE;
            Some(Segment {
                gref: buffer.lend(page, access)?,
                first_sect: 0,
                last_sect: u8::try_from(sectors.checked_sub(1)?).ok()?,
            })
        })
        .collect()
}

/// A request with these segments in it.
fn direct(mut request: Request, segments: &[Segment]) -> Slot {
    for (to, from) in request.seg.iter_mut().zip(segments) {
        *to = *from;
        request.nr_segments = request.nr_segments.saturating_add(1);
    }
    Slot::holding(&request)
}

/// A request with these segments in a page.
fn indirect(mut request: Indirect, segments: &[Segment], (list, reference): (&impl SharedPage, u32)) -> Slot {
    for (segment, offset) in segments.iter().zip((0..).step_by(size_of::<Segment>())) {
        list.write(offset, segment.to_bytes().as_ref());
        request.nr_segments = request.nr_segments.saturating_add(1);
    }
    request.operation = Operation::Indirect.raw();
    let [first, ..] = &mut request.indirect_grefs;
    *first = reference;
    Slot::holding(&request)
}

/// Values by small numbers, which are used again.
#[derive(Debug)]
struct Slab<T> {
    values: Vec<Option<T>>,
    free: Vec<usize>,
}

impl<T> Slab<T> {
    const fn new() -> Self {
        Self {
            values: Vec::new(),
            free: Vec::new(),
        }
    }

    /// The number that the next value gets.
    fn next(&self) -> usize {
        self.free.last().copied().unwrap_or(self.values.len())
    }

    fn insert(&mut self, value: T) -> usize {
        let index = self.next();
        self.free.pop();
        match self.values.get_mut(index) {
            Some(place) => *place = Some(value),
            None => self.values.push(Some(value)),
        }
        index
    }

    fn get_mut(&mut self, index: usize) -> Option<&mut T> {
        self.values.get_mut(index)?.as_mut()
    }

    fn take(&mut self, index: usize) -> Option<T> {
        let value = self.values.get_mut(index)?.take()?;
        self.free.push(index);
        Some(value)
    }

    /// How many numbers there have been.
    fn len(&self) -> usize {
        self.values.len()
    }

    /// How many values there are.
    fn used(&self) -> usize {
        self.values.len().saturating_sub(self.free.len())
    }
}
