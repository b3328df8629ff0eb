//! The back-end of a disk: takes requests from the rings of many front-ends, and has the disk do them.
//!
//! All work is done in [`BackEnd::round`]s, each of which
//!
//! 1. takes what the disk has completed, and goes on with requests that have several stages;
//! 2. takes requests from the rings that were [kicked](BackEnd::kick), and checks each against its VBD;
//! 3. begins as many as the disk has room for, in the order that [`share`] says: pins all their pages by one call, and cuts them as the VBD's
//!    extents and the disk's limits want it;
//! 4. hands the disk what is to be done, sorted by sector, and tells the device once;
//! 5. gives the pages of all finished requests back by one call, and only then answers them and publishes the answers.
//!
//! A front-end may end a grant as soon as it sees the response, so 5 is in this order. What a round makes known to others it leaves in
//! [`BackEnd::events`]. When it says [`Rest::Sleep`], the next one is due when a front-end's port or the disk's interrupt is raised.
//!
//! # What is ordered
//!
//! Requests that are outstanding at the same time may be done in any order; only answers keep that of the ring. A flush covers what was answered
//! before it was posted, and all of that is completed at the disk: it is handed on at once, and before the data that it may carry. A barrier
//! waits for all older requests of its ring, and younger ones wait for it; around its data it flushes a disk that has a cache. Rings of
//! one VBD have no order among each other.
//!
//! # What a guest can do to others
//!
//! A VBD's requests never reach other sectors than its own, by [`Vbd::translate`]. Memory is sized when a front-end connects: for as many requests as
//! its rings have slots. A ring whose index cannot be is not read any more, and everything else goes on. A front-end that goes away while the
//! disk works on its pages keeps them pinned until that ends; see [`BackEnd::disconnect`].
//!
//! # When the disk fails
//!
//! A request that the device fails is answered with an error. If the driver says that the device does not work any more, nothing is answered:
//! what was taken stays in the rings for a successor, which does it with a device that works. [`BackEnd::give_up`] answers it with errors
//! instead.

mod queue;
mod share;
mod work;

use alloc::collections::VecDeque;
use alloc::vec::Vec;
use core::fmt;

use bulkhead_abi::DomId;
use bulkhead_abi::blkif::{SEGMENTS_PER_INDIRECT_PAGE, Segment as RawSegment, Status};
use bulkhead_abi::{Record, grant::GrantStatus};
use bulkhead_devices::disk::{Completion, Disk, Failed, Geometry, Refused, SECTOR, Tag};
use bulkhead_ring::SharedPage;
use bulkhead_ring::descriptor::{Notify, RingError};

use crate::counters::{Counters, Fault, add};
use crate::grants::{Grants, Held, Kept, Map, Pin, Rights};
use crate::vbd::{Access, Extent, Vbd};
use crate::wire::{Ask, Layout, Request, Segment, Transfer};
use queue::{Queue, Waiting};
use share::{Account, Clock, QUANTUM, cost};
use work::{Job, Kind, Part, Stage};

/// The most segments of an indirect request. Linux uses no more, unless it is told to.
pub const MAX_INDIRECT_SEGMENTS: usize = 32;
/// The most rings of a front-end.
pub const MAX_QUEUES: usize = 8;
/// The most pages that stay pinned for a front-end with persistent grants: as many as Linux keeps for a ring.
pub const MAX_KEPT: usize = 1056;
/// The most requests that are under way, whatever the disk would take.
const MAX_JOBS: usize = 256;

/// A front-end that is connected.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct VbdId {
    place: u32,
    /// How many were in this place before.
    generation: u32,
}

/// What a front-end is connected with.
#[derive(Debug)]
pub struct Connection<P> {
    /// Its domain.
    pub domain: DomId,
    /// What it gets.
    pub vbd: Vbd,
    /// How its requests lie in the rings.
    pub layout: Layout,
    /// The pages of each ring, 1 to [`MAX_QUEUES`] of them.
    pub rings: Vec<Vec<P>>,
    /// It says that it uses grants again, so that pages stay pinned.
    pub is_persistent: bool,
}

/// Why a front-end is not connected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConnectError {
    /// It cannot have so many rings.
    Queues(usize),
    /// This ring is none.
    Ring(usize, RingError),
    /// A front-end of this domain has some of the sectors already, and one of the two writes.
    Taken(DomId),
}

impl fmt::Display for ConnectError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Queues(count) => write!(f, "{count} rings; 1 to {MAX_QUEUES} are served"),
            Self::Ring(queue, error) => write!(f, "ring {queue}: {error}"),
            Self::Taken(domain) => write!(
                f,
                "{domain} has sectors of the same disk, and one of the two may write"
            ),
        }
    }
}

impl core::error::Error for ConnectError {}

/// What others have to know after a round.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// The front-end is to be notified by the port of this ring.
    Notify(VbdId, usize),
    /// The first fault of its kind. If it is [`Fault::Producer`], the front-end is not served any more.
    Fault(VbdId, Fault),
    /// The front-end is gone, and nothing of it is in use any more. This is what was done for it.
    Closed(VbdId, Counters),
    /// The first flaw of its kind.
    Flaw(Flaw),
}

/// What no guest can bring about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flaw {
    /// The device does not work any more: nothing is answered.
    Broken,
    /// The driver says that something is complete that was not submitted.
    Unasked(Tag),
    /// The hypervisor refused to take so many pins back.
    Unpin(usize),
}

/// Whether another round is due at once.
#[must_use = "who sleeps when there is work is not woken"]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rest {
    /// There is more to do.
    Again,
    /// Not before somebody says so.
    Sleep,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Health {
    Well,
    /// The disk does not work, and what is unanswered is somebody else's to do.
    Broken,
    /// The disk does not work, and everything is answered with an error.
    Gone,
}

/// A front-end that is connected.
#[derive(Debug)]
struct Export<P> {
    domain: DomId,
    vbd: Vbd,
    queues: Vec<Queue<P>>,
    /// Whose turn it is among them.
    turn: usize,
    kept: Option<Kept>,
    account: Account,
    counters: Counters,
    /// Its rings are not read any more.
    is_deaf: bool,
    /// It ends when nothing of it is under way.
    is_leaving: bool,
}

impl<P: SharedPage> Export<P> {
    /// Its ring whose request is next, if there is one that can be begun, and what that costs.
    fn next(&mut self) -> Option<(usize, u64)> {
        let count = self.queues.len();
        for _ in 0..count {
            let turn = self.turn;
            if let Some(cost) = self.queues.get(turn).and_then(Queue::next_cost) {
                return Some((turn, cost));
            }
            self.pass();
        }
        None
    }

    /// It is the next ring's turn.
    fn pass(&mut self) {
        self.turn = self
            .turn
            .saturating_add(1)
            .checked_rem(self.queues.len())
            .unwrap_or(0);
    }

    fn is_idle(&self) -> bool {
        self.queues.iter().all(|queue| queue.active == 0)
    }
}

#[derive(Debug)]
struct Place<P> {
    generation: u32,
    export: Option<Export<P>>,
}

/// The back-end of a disk.
#[derive(Debug)]
pub struct BackEnd<D, G, P> {
    disk: D,
    grants: G,
    health: Health,
    places: Vec<Place<P>>,
    /// All requests that can be under way.
    jobs: Vec<Job>,
    free_jobs: Vec<u32>,
    /// For each tag that is with the disk: whose part it is.
    tags: Vec<Option<u32>>,
    free_tags: Vec<u32>,
    clock: Clock,
    /// VBDs that have requests to begin, in the order of their turns.
    turns: VecDeque<u32>,
    /// Rings to look at.
    kicked: VecDeque<(u32, usize)>,
    /// Rings that have been looked at in this round.
    looked: Vec<(u32, usize)>,
    /// Parts for the disk, as it is to see them; and those of this round, not sorted.
    ready: VecDeque<(u32, Part)>,
    parts: Vec<(u32, Part)>,
    /// Jobs that were begun in this round, and those that have come to their end.
    fresh: Vec<u32>,
    done: Vec<u32>,
    asked: Vec<Asked>,
    maps: Vec<Map>,
    /// Pins to give back.
    pins: Vec<Pin>,
    touched: Vec<(u32, usize)>,
    leaving: Vec<u32>,
    events: Vec<Event>,
    flaws: [u64; 3],
}

/// A page of a job that is begun.
#[derive(Clone, Copy, Debug)]
enum Asked {
    Kept(Held),
    Map,
}

impl<D: Disk, G: Grants, P: SharedPage> BackEnd<D, G, P> {
    /// A back-end that serves nobody yet.
    pub fn new(disk: D, grants: G) -> Self {
        let depth = usize::from(disk.geometry().depth).clamp(1, MAX_JOBS);
        let numbers = || (0..).take(depth).collect::<Vec<u32>>();
        Self {
            disk,
            grants,
            health: Health::Well,
            places: Vec::new(),
            jobs: core::iter::repeat_with(Job::new).take(depth).collect(),
            free_jobs: numbers(),
            tags: alloc::vec![None; depth],
            free_tags: numbers(),
            clock: Clock::default(),
            turns: VecDeque::new(),
            kicked: VecDeque::new(),
            looked: Vec::new(),
            ready: VecDeque::new(),
            parts: Vec::new(),
            fresh: Vec::new(),
            done: Vec::new(),
            asked: Vec::new(),
            maps: Vec::new(),
            pins: Vec::new(),
            touched: Vec::new(),
            leaving: Vec::new(),
            events: Vec::new(),
            flaws: [0; 3],
        }
    }

    /// What the disk is like.
    pub fn geometry(&self) -> &Geometry {
        self.disk.geometry()
    }

    /// The disk.
    pub const fn disk(&mut self) -> &mut D {
        &mut self.disk
    }

    /// The grants.
    pub const fn grants(&mut self) -> &mut G {
        &mut self.grants
    }

    /// What was done for a front-end that is connected.
    pub fn counters(&self, id: VbdId) -> Option<&Counters> {
        Some(&self.export(id)?.counters)
    }

    /// Connects a front-end: goes on in its rings where its last back-end was when it ended. The predecessor must be gone, and what its device did
    /// for it with it. Run a round afterwards; it has a notification for each ring, because the predecessor may have died before its own.
    ///
    /// # Errors
    ///
    /// [`ConnectError`] says what is wrong. Nothing has changed, but the rings' pages are dropped.
    pub fn connect(&mut self, connection: Connection<P>) -> Result<VbdId, ConnectError> {
        let Connection {
            domain,
            vbd,
            layout,
            rings,
            is_persistent,
        } = connection;
        if rings.is_empty() || rings.len() > MAX_QUEUES {
            return Err(ConnectError::Queues(rings.len()));
        }
        let others = self.places.iter().filter_map(|place| place.export.as_ref());
        for other in others {
            let may_share = [&vbd, &other.vbd].map(Vbd::access) == [Access::ReadOnly; 2];
            if !may_share && vbd.overlaps(&other.vbd) {
                return Err(ConnectError::Taken(other.domain));
            }
        }
        let queues = rings
            .into_iter()
            .enumerate()
            .map(|(index, pages)| {
                Queue::adopt(layout, pages).map_err(|error| ConnectError::Ring(index, error))
            })
            .collect::<Result<Vec<_>, _>>()?;
        let count = queues.len();
        let export = Export {
            domain,
            vbd,
            queues,
            turn: 0,
            kept: is_persistent.then(|| Kept::new(MAX_KEPT)),
            account: Account::default(),
            counters: Counters::default(),
            is_deaf: false,
            is_leaving: false,
        };
        let free = self.places.iter().position(|place| place.export.is_none());
        let index = free.unwrap_or(self.places.len());
        match self.places.get_mut(index) {
            Some(place) => place.export = Some(export),
            None => self.places.push(Place {
                generation: 0,
                export: Some(export),
            }),
        }
        let id = VbdId {
            // There are no more places than front-ends, and no more of these than domains have devices.
            place: u32::try_from(index).unwrap_or(u32::MAX),
            generation: self.places.get(index).map_or(0, |place| place.generation),
        };
        for queue in 0..count {
            self.events.push(Event::Notify(id, queue));
            self.kick(id, queue);
        }
        Ok(id)
    }

    /// Ends the service for a front-end: what it has asked for and what is not with the disk yet is dropped, what is with the disk is awaited. When
    /// nothing of it is in use any more, a round says [`Event::Closed`].
    pub fn disconnect(&mut self, id: VbdId) {
        if self.export(id).is_none_or(|export| export.is_leaving) {
            return;
        }
        let Self { places, clock, .. } = self;
        if let Some(export) = export_in(places, id.place) {
            export.is_leaving = true;
            export.account.give_up(clock);
            for queue in &mut export.queues {
                queue.waiting.clear();
            }
            self.leaving.push(id.place);
        }
    }

    /// A front-end has notified us by the port of a ring, or may have.
    pub fn kick(&mut self, id: VbdId, queue: usize) {
        if self.export(id).is_some() {
            kick(&mut self.places, &mut self.kicked, id.place, queue);
        }
    }

    /// Does what there is to do, once around.
    pub fn round(&mut self) -> Rest {
        self.complete();
        self.take();
        self.begin();
        self.submit();
        self.finish();
        self.rest()
    }

    /// What happened in the rounds since this was called last.
    pub fn events(&mut self) -> impl Iterator<Item = Event> {
        self.events.drain(..)
    }

    /// Answers everything with an error, now and from now on: the disk does not work any more, and nobody will take its place. Nothing that the
    /// disk was asked for may be under way any more.
    pub fn give_up(&mut self) {
        self.health = Health::Gone;
        self.ready.clear();
        self.parts.clear();
        self.tags.fill(None);
        self.free_tags.clear();
        for (index, job) in (0..).zip(&mut self.jobs) {
            if job.ticket.is_some() {
                job.left = 0;
                job.fail(Fault::Gone);
                self.done.push(index);
            }
        }
        for (index, place) in (0..).zip(&mut self.places) {
            let Some(export) = &mut place.export else {
                continue;
            };
            export.account.give_up(&self.clock);
            for (number, queue) in export.queues.iter_mut().enumerate() {
                queue.has_barrier = false;
                for Waiting { ticket, request, .. } in queue.waiting.drain(..) {
                    export.counters.fault(&Fault::Gone);
                    queue.ring.complete(ticket, request.answer(Status::Error));
                    touch(&mut queue.is_touched, &mut self.touched, (index, number));
                }
                if !core::mem::replace(&mut queue.is_kicked, true) {
                    self.kicked.push_back((index, number));
                }
            }
        }
        self.finish();
    }

    fn export(&self, id: VbdId) -> Option<&Export<P>> {
        let place = self.places.get(id.place as usize)?;
        place
            .export
            .as_ref()
            .filter(|_| place.generation == id.generation)
    }

    /// Takes what the disk has completed.
    fn complete(&mut self) {
        if self.health != Health::Well {
            return;
        }
        // A driver that always has one more would keep us here.
        for _ in 0..self.tags.len() {
            let Some(Completion { tag, result }) = self.disk.take() else {
                return;
            };
            let Some(index) = self.tags.get_mut(tag.0 as usize).and_then(Option::take) else {
                self.flaw(Flaw::Unasked(tag));
                continue;
            };
            let Some(job) = self.jobs.get_mut(index as usize) else {
                continue;
            };
            match result {
                Err(Failed::Broken) => {
                    // Whether it was done is unknown: it is not answered, and its pages stay pinned.
                    self.flaw(Flaw::Broken);
                    continue;
                }
                Err(Failed::Device(status)) => job.fail(Fault::Device(status)),
                Err(Failed::Unsupported) => job.fail(Fault::Unsupported),
                Ok(()) => {}
            }
            self.free_tags.push(tag.0);
            job.left = job.left.saturating_sub(1);
            self.proceed(index);
        }
    }

    /// Goes on with a job, if nothing is left of its stage.
    fn proceed(&mut self, index: u32) {
        let Self {
            jobs,
            places,
            disk,
            parts,
            done,
            ..
        } = self;
        let Some(job) = jobs.get_mut(index as usize) else {
            return;
        };
        if let Some(export) = export_in(places, job.vbd) {
            job.advance(&export.vbd, disk.geometry(), |part| parts.push((index, part)));
        }
        if job.is_over() {
            done.push(index);
        }
    }

    /// Takes what is in the rings that were kicked.
    fn take(&mut self) {
        let Self {
            disk,
            health,
            places,
            clock,
            turns,
            kicked,
            looked,
            touched,
            events,
            ..
        } = self;
        for (index, number) in kicked.drain(..) {
            let Some(place) = places.get_mut(index as usize) else {
                continue;
            };
            let id = VbdId {
                place: index,
                generation: place.generation,
            };
            let Some(export) = &mut place.export else {
                continue;
            };
            let Some(queue) = export.queues.get_mut(number) else {
                continue;
            };
            queue.is_kicked = false;
            if export.is_deaf || export.is_leaving {
                continue;
            }
            looked.push((index, number));
            while !queue.has_barrier {
                let (ticket, request) = match queue.ring.take() {
                    Ok(Some(taken)) => taken,
                    Ok(None) => break,
                    Err(error) => {
                        export.is_deaf = true;
                        fault(&mut export.counters, events, id, Fault::Producer(error));
                        break;
                    }
                };
                let admitted = if *health == Health::Gone {
                    Err(Fault::Gone)
                } else {
                    admit(&request, &export.vbd, disk.geometry())
                };
                match admitted {
                    Ok((ask, cost)) => {
                        queue.has_barrier = is_barrier(&ask);
                        queue.waiting.push_back(Waiting {
                            ticket,
                            request,
                            ask,
                            cost,
                        });
                        export.account.arrive(cost, clock);
                        if !core::mem::replace(&mut export.account.is_listed, true) {
                            turns.push_back(index);
                        }
                    }
                    Err(why) => {
                        queue.ring.complete(ticket, request.answer(status(&why)));
                        touch(&mut queue.is_touched, touched, (index, number));
                        fault(&mut export.counters, events, id, why);
                    }
                }
            }
        }
    }

    /// Begins requests, as many as the disk has room for.
    fn begin(&mut self) {
        if self.health != Health::Well {
            return;
        }
        self.choose();
        self.pin();
        let Self {
            disk,
            places,
            jobs,
            fresh,
            parts,
            done,
            ..
        } = self;
        for index in fresh.drain(..) {
            let Some(job) = jobs.get_mut(index as usize) else {
                continue;
            };
            let Some(export) = export_in(places, job.vbd) else {
                continue;
            };
            if job.fault.is_none()
                && let Err(why) = job.plan(&export.vbd, disk.geometry())
            {
                job.fail(why);
            }
            job.advance(&export.vbd, disk.geometry(), |part| parts.push((index, part)));
            if job.is_over() {
                done.push(index);
            }
        }
    }

    /// Makes jobs of the requests whose turn it is.
    fn choose(&mut self) {
        let Self {
            grants,
            disk,
            places,
            clock,
            jobs,
            free_jobs,
            free_tags,
            turns,
            ready,
            parts,
            fresh,
            ..
        } = self;
        clock.turn(
            (0..).zip(places.iter_mut()).filter_map(|(index, place)| {
                place.export.as_mut().map(|export| (index, &mut export.account))
            }),
        );
        let mut room = free_tags
            .len()
            .saturating_sub(ready.len())
            .saturating_sub(parts.len());
        while room > 0
            && !free_jobs.is_empty()
            && let Some(&vbd) = turns.front()
        {
            let Some(export) = export_in(places, vbd) else {
                turns.pop_front();
                continue;
            };
            let next = export.next();
            let next = next.filter(|(_, cost)| export.account.has_room(*cost, clock.bound(vbd)));
            let Some((number, cost)) = next else {
                // Its next request is waited for, or one that is under way.
                turns.pop_front();
                export.account.is_listed = false;
                continue;
            };
            if export.account.deficit < cost {
                export.account.deficit = export.account.deficit.saturating_add(QUANTUM);
                turns.rotate_left(1);
                continue;
            }
            let Some(queue) = export.queues.get_mut(number) else {
                continue;
            };
            let (Some(waiting), Some(index)) = (queue.waiting.pop_front(), free_jobs.pop()) else {
                continue;
            };
            queue.active = queue.active.saturating_add(1);
            export.account.deficit = export.account.deficit.saturating_sub(cost);
            export.account.begin(cost);
            export.pass();
            room = room.saturating_sub(1);
            if let Some(job) = jobs.get_mut(index as usize) {
                let ask = open(job, (vbd, number), waiting);
                if let Err(why) = gather(job, &ask, export, grants, disk.geometry()) {
                    job.fail(why);
                }
                fresh.push(index);
            }
        }
    }

    /// Pins the pages of all jobs that were begun in this round.
    fn pin(&mut self) {
        let Self {
            grants,
            places,
            jobs,
            fresh,
            asked,
            maps,
            pins,
            ..
        } = self;
        asked.clear();
        maps.clear();
        for index in &*fresh {
            let Some(job) = jobs.get_mut(*index as usize).filter(|job| job.fault.is_none()) else {
                continue;
            };
            let Some(export) = export_in(places, job.vbd) else {
                continue;
            };
            // A grant that is kept serves for both ways.
            let rights = if job.writes() && export.kept.is_none() {
                Rights::Read
            } else {
                Rights::Write
            };
            for Segment { gref, .. } in &job.segments {
                let kept = export.kept.as_mut().and_then(|kept| kept.find(*gref));
                if let Some(held) = kept {
                    add(&mut export.counters.kept, 1);
                    asked.push(Asked::Kept(held));
                    continue;
                }
                asked.push(Asked::Map);
                maps.push(Map {
                    domain: export.domain,
                    gref: *gref,
                    rights,
                    result: Err(GrantStatus::GeneralError),
                });
            }
        }
        if !maps.is_empty() {
            grants.map(maps);
        }
        let mut asked = asked.drain(..);
        let mut maps = maps.drain(..);
        for index in &*fresh {
            let Some(job) = jobs.get_mut(*index as usize).filter(|job| job.fault.is_none()) else {
                continue;
            };
            let Some(export) = export_in(places, job.vbd) else {
                continue;
            };
            for _ in 0..job.segments.len() {
                let held = match asked.next() {
                    Some(Asked::Kept(held)) => held,
                    Some(Asked::Map) => match maps.next() {
                        Some(Map {
                            gref,
                            result: Ok(pin),
                            ..
                        }) => {
                            add(&mut export.counters.pins, 1);
                            match &mut export.kept {
                                Some(kept) => kept.keep(gref, pin, pins),
                                None => Held::Own(pin),
                            }
                        }
                        Some(Map {
                            gref,
                            result: Err(status),
                            ..
                        }) => {
                            job.fail(Fault::Grant { gref, status });
                            continue;
                        }
                        None => continue,
                    },
                    None => continue,
                };
                job.held.push(held);
            }
        }
    }

    /// Hands the disk what it has room for.
    fn submit(&mut self) {
        self.parts.sort_by_key(|(_, part)| part.sector());
        self.ready.extend(self.parts.drain(..));
        if self.health != Health::Well {
            return;
        }
        let mut is_any = false;
        while let Some((index, part)) = self.ready.pop_front() {
            let Some(job) = self.jobs.get_mut(index as usize) else {
                continue;
            };
            let is_leaving = export_in(&mut self.places, job.vbd).is_none_or(|export| export.is_leaving);
            if is_leaving || job.fault.is_some() {
                // Nobody waits for it any more.
                job.left = job.left.saturating_sub(1);
                job.fail(Fault::Gone);
                self.proceed(index);
                continue;
            }
            let Some(tag) = self.free_tags.pop() else {
                self.ready.push_front((index, part));
                break;
            };
            let submitted = match job.operation(part) {
                Some(operation) => self.disk.submit(Tag(tag), operation),
                None => Err(Refused::Invalid),
            };
            match submitted {
                Ok(()) => {
                    if let Some(owner) = self.tags.get_mut(tag as usize) {
                        *owner = Some(index);
                    }
                    is_any = true;
                    continue;
                }
                Err(Refused::Invalid) => {
                    self.free_tags.push(tag);
                    job.left = job.left.saturating_sub(1);
                    job.fail(Fault::Driver);
                    self.proceed(index);
                    continue;
                }
                Err(Refused::Full) if self.tags.iter().any(Option::is_some) => {}
                // A disk that is full of nothing takes nothing ever.
                Err(Refused::Full | Refused::Broken) => self.flaw(Flaw::Broken),
            }
            self.free_tags.push(tag);
            self.ready.push_front((index, part));
            break;
        }
        if is_any {
            self.disk.commit();
        }
    }

    /// Gives back the pages of jobs that have come to their end, and then answers these.
    fn finish(&mut self) {
        self.release();
        if !self.pins.is_empty() {
            let refused = self.grants.unmap(&self.pins);
            self.pins.clear();
            if refused > 0 {
                self.flaw(Flaw::Unpin(refused));
            }
        }
        self.answer();
        for (index, number) in self.touched.drain(..) {
            let Some(place) = self.places.get_mut(index as usize) else {
                continue;
            };
            let id = VbdId {
                place: index,
                generation: place.generation,
            };
            let queue = place
                .export
                .as_mut()
                .and_then(|export| export.queues.get_mut(number));
            if let Some(queue) = queue {
                queue.is_touched = false;
                if queue.ring.publish() == Notify::Yes {
                    self.events.push(Event::Notify(id, number));
                }
            }
        }
        self.close();
    }

    /// Collects the pins of jobs that have come to their end, and of front-ends that go.
    fn release(&mut self) {
        let Self {
            places,
            jobs,
            done,
            pins,
            leaving,
            ..
        } = self;
        for index in &*done {
            let Some(job) = jobs.get_mut(*index as usize) else {
                continue;
            };
            let mut export = export_in(places, job.vbd);
            for held in job.held.drain(..) {
                match held {
                    Held::Own(pin) => pins.push(pin),
                    Held::Kept(place, _) => {
                        if let Some(kept) = export.as_mut().and_then(|export| export.kept.as_mut()) {
                            kept.release(place);
                        }
                    }
                }
            }
            if let Some(queue) = export.and_then(|export| export.queues.get_mut(job.queue)) {
                queue.active = queue.active.saturating_sub(1);
            }
        }
        for index in &*leaving {
            if let Some(export) = export_in(places, *index)
                && export.is_idle()
                && let Some(kept) = &mut export.kept
            {
                pins.extend(kept.drain());
            }
        }
    }

    /// Answers jobs that have come to their end. Their pages have been given back.
    fn answer(&mut self) {
        let Self {
            places,
            jobs,
            free_jobs,
            clock,
            turns,
            kicked,
            done,
            touched,
            events,
            ..
        } = self;
        for index in done.drain(..) {
            let Some(job) = jobs.get_mut(index as usize) else {
                continue;
            };
            let Some(ticket) = job.ticket.take() else {
                continue;
            };
            free_jobs.push(index);
            let (vbd, number) = (job.vbd, job.queue);
            clock.pass(job.cost);
            let generation = places.get(vbd as usize).map_or(0, |place| place.generation);
            let Some(export) = export_in(places, vbd) else {
                continue;
            };
            match job.fault {
                None => count(&mut export.counters, job),
                Some(why) => {
                    job.answer.status = status(&why);
                    let id = VbdId {
                        place: vbd,
                        generation,
                    };
                    if !export.is_leaving {
                        fault(&mut export.counters, events, id, why);
                    }
                }
            }
            export.account.end(job.cost, clock);
            if !export.is_leaving && !core::mem::replace(&mut export.account.is_listed, true) {
                turns.push_back(vbd);
            }
            if let Some(queue) = export.queues.get_mut(number) {
                queue.ring.complete(ticket, job.answer);
                touch(&mut queue.is_touched, touched, (vbd, number));
                if job.is_barrier() {
                    queue.has_barrier = false;
                    if !core::mem::replace(&mut queue.is_kicked, true) {
                        kicked.push_back((vbd, number));
                    }
                }
            }
            job.clear();
        }
    }

    /// Ends front-ends that go and have nothing under way.
    fn close(&mut self) {
        let Self {
            places,
            turns,
            kicked,
            looked,
            leaving,
            events,
            ..
        } = self;
        leaving.retain(|index| {
            let Some(place) = places.get_mut(*index as usize) else {
                return false;
            };
            let Some(export) = place.export.take_if(|export| export.is_idle()) else {
                return true;
            };
            let id = VbdId {
                place: *index,
                generation: place.generation,
            };
            place.generation = place.generation.wrapping_add(1);
            turns.retain(|vbd| vbd != index);
            kicked.retain(|(vbd, _)| vbd != index);
            looked.retain(|(vbd, _)| vbd != index);
            events.push(Event::Closed(id, export.counters));
            false
        });
    }

    /// Whether everybody who has something for us will say so.
    fn rest(&mut self) -> Rest {
        for (index, number) in core::mem::take(&mut self.looked) {
            let Some(place) = self.places.get_mut(index as usize) else {
                continue;
            };
            let id = VbdId {
                place: index,
                generation: place.generation,
            };
            let Some(export) = place.export.as_mut().filter(|export| !export.is_deaf) else {
                continue;
            };
            let Some(queue) = export.queues.get_mut(number) else {
                continue;
            };
            // Behind a barrier nothing is taken; when it is done, the ring is looked at again.
            if queue.has_barrier || queue.is_kicked {
                continue;
            }
            match queue.ring.may_sleep() {
                Ok(true) => {}
                Ok(false) => {
                    queue.is_kicked = true;
                    self.kicked.push_back((index, number));
                }
                Err(error) => {
                    export.is_deaf = true;
                    fault(&mut export.counters, &mut self.events, id, Fault::Producer(error));
                }
            }
        }
        let is_well = self.health == Health::Well;
        let has_room = self.ready.is_empty() && !self.free_jobs.is_empty() && !self.free_tags.is_empty();
        let is_more = !self.kicked.is_empty() || is_well && has_room && !self.turns.is_empty();
        if is_more || is_well && !self.disk.may_sleep() {
            Rest::Again
        } else {
            Rest::Sleep
        }
    }

    /// Counts a flaw, and tells of it if it is the first of its kind.
    fn flaw(&mut self, flaw: Flaw) {
        let kind = match flaw {
            Flaw::Broken => {
                self.health = Health::Broken;
                0
            }
            Flaw::Unasked(_) => 1,
            Flaw::Unpin(_) => 2,
        };
        if let Some(count) = self.flaws.get_mut::<usize>(kind) {
            add(count, 1);
            if *count == 1 {
                self.events.push(Event::Flaw(flaw));
            }
        }
    }
}

fn export_in<P>(places: &mut [Place<P>], index: u32) -> Option<&mut Export<P>> {
    places.get_mut(index as usize)?.export.as_mut()
}

fn kick<P>(places: &mut [Place<P>], kicked: &mut VecDeque<(u32, usize)>, index: u32, number: usize) {
    let queue = export_in(places, index).and_then(|export| export.queues.get_mut(number));
    if let Some(queue) = queue
        && !core::mem::replace(&mut queue.is_kicked, true)
    {
        kicked.push_back((index, number));
    }
}

/// Notes that a ring has answers to publish.
fn touch(is_touched: &mut bool, touched: &mut Vec<(u32, usize)>, place: (u32, usize)) {
    if !core::mem::replace(is_touched, true) {
        touched.push(place);
    }
}

/// Counts a fault, and tells of it if it is the first of its kind.
fn fault(counters: &mut Counters, events: &mut Vec<Event>, id: VbdId, why: Fault) {
    if counters.fault(&why) {
        events.push(Event::Fault(id, why));
    }
}

/// Counts a request that was done.
fn count(counters: &mut Counters, job: &Job) {
    let bytes = job.range.sectors.saturating_mul(SECTOR.into());
    match job.kind {
        Kind::Move(Transfer::Read) => {
            add(&mut counters.reads, 1);
            add(&mut counters.bytes_read, bytes);
        }
        Kind::Move(transfer) => {
            if transfer == Transfer::Flush {
                add(&mut counters.flushes, 1);
            } else {
                add(&mut counters.writes, 1);
            }
            if transfer == Transfer::Barrier {
                add(&mut counters.barriers, 1);
            }
            add(&mut counters.bytes_written, bytes);
        }
        Kind::Discard => add(&mut counters.discards, 1),
    }
    if job.is_indirect {
        add(&mut counters.indirect, 1);
    }
}

/// What the response to a request says that failed so.
const fn status(why: &Fault) -> Status {
    match why {
        Fault::Malformed(malformed) => malformed.status(),
        Fault::Unsupported => Status::Eopnotsupp,
        Fault::Outside { .. }
        | Fault::ReadOnly
        | Fault::Unaligned { .. }
        | Fault::Grant { .. }
        | Fault::IndirectGrant { .. }
        | Fault::Producer(_)
        | Fault::Device(_)
        | Fault::Driver
        | Fault::Gone => Status::Error,
    }
}

const fn is_barrier(ask: &Ask) -> bool {
    matches!(
        ask,
        Ask::Move {
            transfer: Transfer::Barrier,
            ..
        }
    )
}

/// Checks what can be checked of a request before its turn comes; says what it costs.
fn admit(request: &Request, vbd: &Vbd, geometry: &Geometry) -> Result<(Ask, u64), Fault> {
    use crate::wire::Malformed;
    let ask = request.ask.map_err(Fault::Malformed)?;
    let may_write = vbd.access() == Access::ReadWrite && !geometry.read_only;
    let bytes = match ask {
        Ask::Move {
            transfer,
            sector,
            count,
            ref segments,
        } => {
            if !may_write && transfer != Transfer::Read && count > 0 {
                return Err(Fault::ReadOnly);
            }
            let sectors = total(segments.get(..count.into()).unwrap_or_default());
            if count > 0 {
                check_range(sector, sectors, vbd, geometry)?;
            }
            if matches!(transfer, Transfer::Flush | Transfer::Barrier) {
                // Time, and not bytes: as dear as the largest request.
                QUANTUM
            } else {
                sectors.saturating_mul(SECTOR.into())
            }
        }
        Ask::MoveIndirect { transfer, count, .. } => {
            if !may_write && transfer != Transfer::Read {
                return Err(Fault::ReadOnly);
            }
            if usize::from(count) > MAX_INDIRECT_SEGMENTS {
                return Err(Fault::Malformed(Malformed::Segments(count)));
            }
            // What it is at most: its pages are read when its turn comes.
            u64::from(count).saturating_mul(4096)
        }
        Ask::Discard { sector, sectors } => {
            if geometry.discard.is_none() {
                return Err(Fault::Unsupported);
            }
            if !may_write {
                return Err(Fault::ReadOnly);
            }
            check_range(sector, sectors, vbd, geometry)?;
            QUANTUM
        }
    };
    Ok((ask, cost(bytes)))
}

/// Sectors of all segments.
fn total(segments: &[Segment]) -> u64 {
    segments.iter().map(|segment| u64::from(segment.sectors)).sum()
}

fn check_range(sector: u64, sectors: u64, vbd: &Vbd, geometry: &Geometry) -> Result<(), Fault> {
    if vbd.translate(sector, sectors).is_none() {
        return Err(Fault::Outside { sector, sectors });
    }
    let block = u64::from(geometry.logical_block / SECTOR).max(1);
    if !sector.is_multiple_of(block) || !sectors.is_multiple_of(block) {
        return Err(Fault::Unaligned { sector, sectors });
    }
    Ok(())
}

/// Makes a job of a request: what it asks for, and its segments.
fn open(job: &mut Job, place: (u32, usize), waiting: Waiting) -> Ask {
    let Waiting {
        ticket,
        request,
        ask,
        cost,
    } = waiting;
    (job.vbd, job.queue) = place;
    job.ticket = Some(ticket);
    job.answer = request.answer(Status::Okay);
    job.cost = cost;
    job.stage = Stage::Before;
    job.is_indirect = matches!(ask, Ask::MoveIndirect { .. });
    ask
}

/// Notes what a job is to do. Reads its segments, if they are in pages of their own, and checks them.
fn gather<P>(
    job: &mut Job,
    ask: &Ask,
    export: &mut Export<P>,
    grants: &mut impl Grants,
    geometry: &Geometry,
) -> Result<(), Fault> {
    match *ask {
        Ask::Move {
            transfer,
            sector,
            count,
            ref segments,
        } => {
            let segments = segments.get(..count.into()).unwrap_or_default();
            job.kind = Kind::Move(transfer);
            job.segments.extend_from_slice(segments);
            job.range = Extent {
                first: sector,
                sectors: total(segments),
            };
        }
        Ask::MoveIndirect {
            transfer,
            sector,
            count,
            pages: [gref, ..],
        } => {
            job.kind = Kind::Move(transfer);
            // All that are allowed are in the first page.
            let mut buffer = [0; MAX_INDIRECT_SEGMENTS * RawSegment::SIZE];
            let length = usize::from(count).saturating_mul(RawSegment::SIZE);
            let bytes = buffer.get_mut(..length).unwrap_or_default();
            let read = grants.read(export.domain, gref, bytes);
            add(&mut export.counters.copied, length as u64);
            read.map_err(|status| Fault::IndirectGrant { gref, status })?;
            for segment in Segment::decode(bytes) {
                job.segments.push(segment.map_err(Fault::Malformed)?);
            }
            job.range = Extent {
                first: sector,
                sectors: total(&job.segments),
            };
            check_range(sector, job.range.sectors, &export.vbd, geometry)?;
        }
        Ask::Discard { sector, sectors } => {
            job.kind = Kind::Discard;
            job.range = Extent {
                first: sector,
                sectors,
            };
        }
    }
    Ok(())
}

const _: () = assert!(MAX_INDIRECT_SEGMENTS <= SEGMENTS_PER_INDIRECT_PAGE);
