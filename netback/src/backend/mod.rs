//! The back-end of a network: takes frames from guests' rings and from the NIC, has the VFR decide, and delivers them.
//!
//! All work is done in [`BackEnd::round`]s, each of which
//!
//! 1. takes what the NIC has received and sent, and frames from the rings of front-ends whose turn it is (`share`);
//! 2. copies the beginnings of all these frames into private memory, by one call;
//! 3. has the VFR decide over the copies, which it changes to what is sent on;
//! 4. copies by one call what has to be copied: into the pages that receivers have posted, or around frames in pages that will be theirs;
//! 5. exchanges those pages: takes them from the devices, flips them, and gives what came to the devices, by one call each;
//! 6. pins the pages of frames that go out by the NIC, by one call, and hands it all of them;
//! 7. gives pins of frames that were sent back by one call, and only then answers; publishes all answers, and asks for one notification for each channel.
//!
//! So the number of hypercalls does not depend on the number of frames. Answers of a frame are never seen in part, so a successor never begins inside of one; what it finds of a sent
//! frame that was half answered by somebody else's back-end looks like a frame, and is decided over as one. When a round says [`Rest::Sleep`], the next is due when a front-end's port or the
//! NIC's interrupt is raised, or at the time that it tells.
//!
//! # Headers are private
//!
//! What was checked is what is sent on: the beginning of a frame goes out from the private copy, as far as anything of it was looked at, and the rest from where it
//! came. A guest can change what it has lent at any time; nobody has decided by it. A frame that is all copied needs no pages of
//! its sender any more. Where the checksum is and what segments are made of is taken from the copy, too.
//!
//! # Pages that change hands
//!
//! The pages of the pool are received into, and go to guests for pages of theirs. What is in those is their last owner's: before a page leaves, everything in it
//! beyond the frame is made zeros, so nobody sees anything of another's.
//!
//! # What a guest can do to others
//!
//! Memory is as large as it was when the back-end was made. A ring whose index cannot be is not read any more. Whoever sends a lot waits for its turn, and has its share
//! of what is under way. Frames for one that posts no pages are lost at once; nobody waits for it.
//!
//! # Death
//!
//! Answers are published in the order of the ring, those of a frame together. A successor does what is not answered: a frame that was sent may be sent again,
//! which networks allow; a page that was exchanged already is refused by the hypervisor, and its slot answered with an error, with which the
//! front-end finds the page that came in its grant's entry.
//!
//! When the NIC fails, nothing that was to go out by it is answered.

mod batch;
mod capture;
mod deliver;
mod job;
mod log;
mod pool;
mod share;
mod soft;
mod transmit;
mod vif;
mod wire;

use alloc::collections::VecDeque;
use alloc::vec::Vec;
use core::fmt;

use bulkhead_abi::DomId;
use bulkhead_abi::netif::{Status, TxResponse};
use bulkhead_backend::pins::{Map, Pin};
use bulkhead_devices::nic::{Nic, Segment};
use bulkhead_ring::SharedPage;
use bulkhead_ring::descriptor::{Notify, RingError};

use crate::counters::{Counters, Fault, Loss, Totals, add};
use crate::machine::{End, Flip, Machine, PAGE, PageId};
use crate::negotiation::{Features, Mode, Offer};
use crate::pcap::Captured;
use crate::vfr::classify::{NetworkId, PortId};
use crate::vfr::nat::Checksum;
use crate::vfr::packet::Packet;
use crate::vfr::router::{Fate, Telling, UPLINK, Vfr};
use batch::Batch;
use capture::Captures;
use deliver::{Delivery, Taken};
use job::{HEADER, JOBS_OF_BUFFER, Jobs, Origin, Part, Sum};
use log::Log;
use pool::Pool;
use share::{QUANTUM, UNDER_WAY, cost};
use vif::Vif;

/// The most frames that are under way.
const MAX_JOBS: u32 = 512;
/// The most frames that are taken from rings in a round, and bytes of them.
const FRAMES: usize = 128;
const BYTES: usize = 512 << 10;
/// Jobs that frames from rings leave for others.
const RESERVED: usize = wire::FRAMES + 16;
/// The most frames of the VFR's own that wait, and that are sent in a round.
const MADE: usize = 256;
/// Bytes of a frame's beginning that the VFR is shown first: Ethernet, IP and TCP with the usual options.
const ENOUGH: usize = 96;
/// The least bytes of data in a segment, as small as Linux makes them.
const LEAST_SEGMENT: u16 = 48;

/// A front-end that is connected.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct VifId {
    place: u32,
    /// How many were in this place before.
    generation: u32,
}

/// What a front-end is connected with.
#[derive(Debug)]
pub struct Connection<P> {
    /// Its domain.
    pub domain: DomId,
    /// The VFR's port that it is; not the uplink.
    pub port: PortId,
    /// The page of the ring of frames that it sends.
    pub transmit: P,
    /// The page of the ring of frames that it receives.
    pub receive: P,
    /// Each ring has an event channel of its own.
    pub is_split: bool,
    /// How it receives.
    pub mode: Mode,
    /// What it takes.
    pub features: Features,
    /// How many bytes a second it may send; 0 for as many as it can.
    pub rate: u64,
}

/// Why a front-end is not connected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConnectError {
    /// The ring of frames that it sends is none.
    Transmit(RingError),
    /// The ring of frames that it receives is none.
    Receive(RingError),
    /// The VFR has no such port for a VIF.
    Port(PortId),
    /// The port has a front-end already, of this domain.
    Taken(DomId),
}

impl fmt::Display for ConnectError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Transmit(error) => write!(f, "the sending ring: {error}"),
            Self::Receive(error) => write!(f, "the receiving ring: {error}"),
            Self::Port(PortId(port)) => write!(f, "port {port} should be one that the VFR has for a VIF"),
            Self::Taken(domain) => write!(f, "{domain} has the port already"),
        }
    }
}

impl core::error::Error for ConnectError {}

/// An event channel of a front-end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Channel {
    /// That of both rings, where they have one.
    Both,
    /// That of the sending ring.
    Transmit,
    /// That of the receiving ring.
    Receive,
}

/// What others have to know after a round.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// The front-end is to be notified. There is one of these at most for each of its channels in a round.
    Notify(VifId, Channel),
    /// The first fault of its kind. If it is [`Fault::Producer`], the front-end is not served any more.
    Fault(VifId, Fault),
    /// The front-end is gone, and nothing of it is in use any more. This is what was done for it.
    Closed(VifId, Counters),
    /// The first flaw of its kind.
    Flaw(Flaw),
    /// A rule wants the packet told in the log. There are 32 of these at once, and 32 a second.
    Log(Logged),
    /// So many packets more that rules want told in the log, which would be too many to tell. There is one of these a second at most.
    NotLogged(u64),
}

/// A packet that a rule wants told in the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Logged {
    /// Where it came from.
    pub from: PortId,
    /// What it says, before anything was changed.
    pub packet: Packet,
    /// What became of it.
    pub fate: Fate,
    /// The network whose rules decided, and the rule, counted from 0.
    pub rule: Option<(NetworkId, usize)>,
}

/// What no guest can bring about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flaw {
    /// The NIC does not work any more: what was taken to be sent is not answered, and nothing is received by it.
    Broken,
    /// The driver says that something has happened to what it was not given.
    Unasked(u32),
    /// The hypervisor refused to take so many pins of guests' pages back.
    Unmap(usize),
    /// The hypervisor refused to pin this page of the pool, or to unpin it: it is not used any more.
    Page(PageId),
}

/// Whether another round is due at once.
#[must_use = "who sleeps when there is work is not woken"]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rest {
    /// There is more to do.
    Again,
    /// Not before a port is raised, or the NIC's interrupt, or it is this time (ns), if one is told.
    Sleep(Option<u64>),
}

/// What is in nobody's use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Idle {
    /// How many more frames can be under way, and how many can be at most.
    pub jobs: (usize, usize),
    /// Buffers for what no device does.
    pub buffers: usize,
    /// Pages of the pool, but for those that the NIC has to receive into.
    pub pages: usize,
    /// Those.
    pub posted: usize,
}

/// What a capture listens to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tap {
    /// All frames from and to a port: those that come from it as they come, those that go to it as they go.
    Port(PortId),
    /// The packets that rules mirror, as they come.
    Mirror,
}

/// A capture.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CaptureId(u32);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Health {
    Well,
    /// The NIC does not work, and what was to go out by it is somebody else's to do.
    Broken,
}

#[derive(Debug)]
struct Place<P> {
    generation: u32,
    vif: Option<Vif<P>>,
}

/// Whom a copy is for.
#[derive(Clone, Copy, Debug)]
enum Owner {
    /// The beginning of a job's frame.
    Head(u32),
    /// A delivery.
    Delivery(usize),
    /// Private memory of a job, for work that no device does.
    Soft(u32),
}

/// The back-end of a network: a NIC, a VFR, and the front-ends of its VIFs.
#[derive(Debug)]
pub struct BackEnd<N, M, P> {
    nic: N,
    machine: M,
    vfr: Vfr,
    health: Health,
    /// What front-ends may send.
    offered: Features,
    now: u64,
    places: Vec<Place<P>>,
    /// By port: whose it is.
    ports: Vec<Option<u32>>,
    jobs: Jobs,
    pool: Pool,
    captures: Captures,
    totals: Totals,
    events: Vec<Event>,
    log: Log,
    flaws: [u64; 4],
    /// VIFs that may have something to send, in the order of their turns.
    turns: VecDeque<u32>,
    /// VIFs that wait for a time.
    held: Vec<(u64, u32)>,
    /// VIFs whose rings had no more.
    looked: Vec<u32>,
    /// Jobs to be decided over in this round.
    fresh: Vec<u32>,
    /// Frames that the VFR has made.
    made: VecDeque<(PortId, Vec<u8>)>,
    batch: Batch<Owner>,
    /// A frame of which the NIC has not received all pages.
    arriving: Option<u32>,
    deliveries: Vec<Delivery>,
    taken: Vec<Taken>,
    /// Jobs whose frames wait in private memory for what no device does, and where they go.
    soft: Vec<(u32, PortId)>,
    flips: Vec<Flip>,
    pages: Vec<PageId>,
    /// Jobs for the wire: without pins, and how many of `maps` are theirs; and with them.
    sending: Vec<(u32, usize)>,
    waiting: VecDeque<u32>,
    maps: Vec<Map>,
    segments: Vec<Segment>,
    done: Vec<u32>,
    pins: Vec<Pin>,
    touched: Vec<u32>,
    leaving: Vec<u32>,
    /// For the copy of a frame's beginning that is decided over: as much as there may be.
    room: Vec<u8>,
}

impl<N: Nic, M: Machine, P: SharedPage> BackEnd<N, M, P> {
    /// A back-end that serves nobody yet. The pages of the pool go to the NIC with the first round. Of the buffers up to 64 are for the beginnings of
    /// frames, and as many as those at least should be there for what no device does: for whole frames of 64 KiB.
    pub fn new(nic: N, machine: M, vfr: Vfr) -> Self {
        let buffers = machine.buffers();
        let heads = (buffers / 2).clamp(1, MAX_JOBS / JOBS_OF_BUFFER);
        Self {
            health: Health::Well,
            offered: Offer::of(nic.info(), true).features,
            now: 0,
            places: Vec::new(),
            ports: Vec::new(),
            jobs: Jobs::new(heads.saturating_mul(JOBS_OF_BUFFER)),
            pool: Pool::new(machine.pages(), heads..buffers),
            captures: Captures::default(),
            totals: Totals::default(),
            events: Vec::new(),
            log: Log::default(),
            flaws: [0; 4],
            turns: VecDeque::new(),
            held: Vec::new(),
            looked: Vec::new(),
            fresh: Vec::new(),
            made: VecDeque::new(),
            batch: Batch::new(),
            arriving: None,
            deliveries: Vec::new(),
            taken: Vec::new(),
            soft: Vec::new(),
            flips: Vec::new(),
            pages: Vec::new(),
            sending: Vec::new(),
            waiting: VecDeque::new(),
            maps: Vec::new(),
            segments: Vec::new(),
            done: Vec::new(),
            pins: Vec::new(),
            touched: Vec::new(),
            leaving: Vec::new(),
            room: alloc::vec![0; PAGE],
            nic,
            machine,
            vfr,
        }
    }

    /// The NIC.
    pub const fn nic(&mut self) -> &mut N {
        &mut self.nic
    }

    /// The machine.
    pub const fn machine(&mut self) -> &mut M {
        &mut self.machine
    }

    /// The VFR.
    pub const fn vfr(&self) -> &Vfr {
        &self.vfr
    }

    /// The VFR, to be changed.
    pub const fn vfr_mut(&mut self) -> &mut Vfr {
        &mut self.vfr
    }

    /// What was done for a front-end that is connected.
    pub fn counters(&self, id: VifId) -> Option<&Counters> {
        let place = self.places.get(id.place as usize)?;
        let vif = place.vif.as_ref().filter(|_| place.generation == id.generation);
        vif.map(|vif| &vif.counters)
    }

    /// What was done in all.
    pub const fn totals(&self) -> &Totals {
        &self.totals
    }

    /// What is in nobody's use now.
    pub fn idle(&self) -> Idle {
        Idle {
            jobs: (self.jobs.left(), self.jobs.count()),
            buffers: self.pool.buffers_left(),
            pages: self.pool.spare.len().saturating_add(self.pool.ready.len()),
            posted: self.pool.count,
        }
    }

    /// Connects a front-end: goes on in its rings where its last back-end was when it ended. The predecessor must be gone, and what its device did
    /// for it with it. Run a round afterwards; it has a notification for each channel, because the predecessor may have died before its own.
    ///
    /// # Errors
    ///
    /// [`ConnectError`] says what is wrong. Nothing has changed, but the rings' pages are dropped.
    pub fn connect(&mut self, connection: Connection<P>) -> Result<VifId, ConnectError> {
        let port = connection.port;
        if port == UPLINK || self.vfr.drops(port).is_none() {
            return Err(ConnectError::Port(port));
        }
        if let Some(vif) = self
            .at_port(port)
            .and_then(|place| vif_in(&mut self.places, place))
        {
            return Err(ConnectError::Taken(vif.domain));
        }
        let mut vif = Vif::adopt(connection)?;
        vif.notify = (true, true);
        let free = self.places.iter().position(|place| place.vif.is_none());
        let index = free.unwrap_or(self.places.len());
        if free.is_none() {
            self.places.push(Place {
                generation: 0,
                vif: None,
            });
        }
        // There are no more places than ports.
        let number = u32::try_from(index).unwrap_or(u32::MAX);
        let Some(place) = self.places.get_mut(index) else {
            return Err(ConnectError::Port(port));
        };
        place.vif = Some(vif);
        let id = VifId {
            place: number,
            generation: place.generation,
        };
        let at = usize::from(port.0);
        if at >= self.ports.len() {
            self.ports.resize(at.saturating_add(1), None);
        }
        if let Some(place) = self.ports.get_mut(at) {
            *place = Some(number);
        }
        self.touch(number);
        self.list(number);
        Ok(id)
    }

    /// Changes how many bytes a second a front-end may send; 0 for as many as it can.
    pub fn set_rate(&mut self, id: VifId, rate: u64) {
        if self.counters(id).is_some()
            && let Some(vif) = vif_in(&mut self.places, id.place)
        {
            vif.rate = share::Rate::new(rate);
            vif.is_held = false;
            self.held.retain(|(_, place)| *place != id.place);
            self.list(id.place);
        }
    }

    /// Ends the service for a front-end: its rings are not looked at any more, and what the NIC still reads of its pages is awaited. When nothing of it is
    /// in use any more, a round says [`Event::Closed`]. Its port is free at once.
    pub fn disconnect(&mut self, id: VifId) {
        if self.counters(id).is_none() {
            return;
        }
        let Some(vif) = vif_in(&mut self.places, id.place).filter(|vif| !vif.is_leaving) else {
            return;
        };
        vif.is_leaving = true;
        if let Some(place) = self.ports.get_mut(usize::from(vif.port.0)) {
            *place = None;
        }
        self.leaving.push(id.place);
    }

    /// A front-end has notified us by one of its channels, or may have.
    pub fn kick(&mut self, id: VifId, channel: Channel) {
        // Whether pages were posted is looked at when there is a frame.
        if channel != Channel::Receive && self.counters(id).is_some() {
            self.list(id.place);
        }
    }

    /// Sends a frame of the VFR's own, with the next round. It is lost if too many wait already.
    pub fn send_made(&mut self, to: PortId, frame: Vec<u8>) {
        if self.made.len() < MADE {
            self.made.push_back((to, frame));
        } else {
            self.totals.lose(Loss::NoMemory);
        }
    }

    /// Does what there is to do, once around, at this time (ns).
    pub fn round(&mut self, now: u64) -> Rest {
        self.now = now;
        self.captures.end_gone(|port| self.vfr.serial(port));
        self.complete();
        self.take();
        self.look();
        self.decide();
        self.deliver_made();
        self.carry();
        self.exchange();
        self.drive();
        self.finish();
        self.events.extend(self.log.missed(now).map(Event::NotLogged));
        self.rest()
    }

    /// What happened in the rounds since this was called last.
    pub fn events(&mut self) -> impl Iterator<Item = Event> {
        self.events.drain(..)
    }

    /// Begins a capture that keeps at most `snap` bytes of a frame, [`MAX_SNAP`](crate::pcap::MAX_SNAP) at most; `None` if there are as many as there may be.
    pub fn start_capture(&mut self, tap: Tap, snap: usize) -> Option<CaptureId> {
        let serial = match tap {
            Tap::Port(port) => self.vfr.serial(port),
            Tap::Mirror => None,
        };
        self.captures.start(tap, serial, snap)
    }

    /// The oldest frame of a capture that was not taken.
    pub fn captured(&mut self, id: CaptureId) -> Option<Captured> {
        self.captures.take(id)
    }

    /// Whether a capture can still get frames: one of a VIF ends with that.
    pub fn is_capturing(&self, id: CaptureId) -> bool {
        self.captures.is_listening(id)
    }

    /// Ends a capture, or does nothing if there is none such. Says how many frames it has lost, because nobody took them.
    pub fn stop_capture(&mut self, id: CaptureId) -> u64 {
        self.captures.stop(id)
    }

    /// Who is connected to a port.
    fn at_port(&self, port: PortId) -> Option<u32> {
        self.ports.get(usize::from(port.0)).copied().flatten()
    }

    /// A VIF may have something to send.
    fn list(&mut self, place: u32) {
        let vif = vif_in(&mut self.places, place);
        if let Some(vif) = vif.filter(|vif| !vif.is_held)
            && !core::mem::replace(&mut vif.is_listed, true)
        {
            vif.is_blocked = false;
            self.turns.push_back(place);
        }
    }

    /// A VIF has answers to publish, or is to be notified.
    fn touch(&mut self, place: u32) {
        if let Some(vif) = vif_in(&mut self.places, place)
            && !core::mem::replace(&mut vif.is_touched, true)
        {
            self.touched.push(place);
        }
    }

    /// Takes frames from the rings of front-ends, in turns.
    fn take(&mut self) {
        let now = self.now;
        let mut due = core::mem::take(&mut self.held);
        due.retain(|(at, place)| {
            let is_due = *at <= now;
            if is_due && let Some(vif) = vif_in(&mut self.places, *place) {
                vif.is_held = false;
                self.list(*place);
            }
            !is_due
        });
        self.held = due;
        if self.turns.is_empty() {
            return;
        }
        let busy = self.places.iter().filter_map(|place| place.vif.as_ref());
        let busy = busy.filter(|vif| vif.is_busy()).count().max(1);
        let most_bytes = UNDER_WAY.checked_div(busy).unwrap_or(0);
        let most_jobs = self
            .jobs
            .count()
            .saturating_sub(RESERVED)
            .checked_div(busy)
            .unwrap_or(0);
        let most = (most_jobs.max(1), most_bytes.max(1));
        // Each frame may need a buffer, if the NIC completes no checksums.
        let most_frames = match self.nic.info().offloads.checksum {
            true => FRAMES,
            false => FRAMES.min(self.pool.buffers_left()),
        };
        let mut room = (most_frames, BYTES);
        while room.0 > 0
            && room.1 > 0
            && self.has_jobs()
            && let Some(place) = self.turns.pop_front()
        {
            if let Some(vif) = vif_in(&mut self.places, place) {
                vif.is_listed = false;
                vif.deficit = vif.deficit.saturating_add(QUANTUM).min(QUANTUM);
            }
            self.turn(place, most, &mut room);
        }
    }

    /// Whether there is a job for a frame from a ring.
    fn has_jobs(&self) -> bool {
        self.jobs.left() > RESERVED.min(self.jobs.count() / 2)
    }

    /// A VIF's turn. It has no more than so many jobs and bytes under way.
    fn turn(&mut self, place: u32, most: (usize, usize), room: &mut (usize, usize)) {
        loop {
            let has_jobs = self.has_jobs();
            let Some(vif) = vif_in(&mut self.places, place).filter(|vif| !vif.is_deaf && !vif.is_leaving)
            else {
                return;
            };
            if vif.jobs >= most.0 || vif.under_way >= most.1 {
                vif.is_blocked = true;
                return;
            }
            if let Some(at) = vif.rate.wait(self.now) {
                add(&mut vif.counters.held, 1);
                vif.is_held = true;
                self.held.push((at, place));
                return;
            }
            let is_out = room.0 == 0 || room.1 == 0 || !has_jobs;
            if vif.deficit <= 0 || is_out {
                return self.list(place);
            }
            match vif.transmit.take() {
                Ok(Some((ticket, slot))) => {
                    if !vif.assembly.take(ticket, &slot) {
                        continue;
                    }
                }
                Ok(None) => {
                    vif.deficit = 0;
                    self.looked.push(place);
                    return;
                }
                Err(error) => return self.fault(place, Fault::Producer(error)),
            }
            let Some((index, job)) = self.jobs.open(Origin::Vif(place)) else {
                return;
            };
            let finished = vif.assembly.finish(job, vif.domain, &self.offered);
            job.cost = cost(job.length);
            vif.jobs = vif.jobs.saturating_add(1);
            vif.under_way = vif.under_way.saturating_add(job.cost);
            vif.deficit = vif.deficit.saturating_sub_unsigned(job.cost as u64);
            vif.rate.pay(job.length, self.now);
            *room = (room.0.saturating_sub(1), room.1.saturating_sub(job.cost));
            match finished {
                Ok(()) => {
                    add(&mut vif.counters.sent, 1);
                    add(&mut vif.counters.sent_bytes, job.length as u64);
                    self.fresh.push(index);
                }
                Err(loss) => self.lose(index, loss, None),
            }
        }
    }

    /// Copies the beginnings of frames.
    fn look(&mut self) {
        for index in &self.fresh {
            let Some(job) = self.jobs.get_mut(*index) else {
                continue;
            };
            job.copied = job.length.min(HEADER);
            let (buffer, offset) = job.home;
            let home = Part {
                at: End::Buffer(buffer, offset),
                bytes: job.copied,
            };
            let owner = Owner::Head(*index);
            match job.parts.first() {
                // As in nearly all.
                Some(first) if first.bytes >= job.copied => {
                    self.batch.push(owner, first.at, home.at, job.copied);
                }
                _ => {
                    let parts = job.parts.iter().copied();
                    self.batch.pour(owner, parts, core::iter::once(home));
                }
            }
        }
        self.copy();
    }

    /// Has more of a frame copied, whose data a service of the VFR wants to see.
    fn look_further(&mut self, index: u32, bytes: usize) {
        let Some(job) = self.jobs.get_mut(index) else {
            return;
        };
        let is_enough = bytes <= PAGE && job.copied < bytes && bytes <= job.length;
        if !is_enough || self.pool.take_buffers(1, &mut job.buffers).is_none() {
            return self.lose(index, Loss::NoMemory, None);
        }
        if let Some(buffer) = job.buffers.last().copied() {
            (job.home, job.copied) = ((buffer, 0), bytes);
            let home = Part {
                at: End::Buffer(buffer, 0),
                bytes,
            };
            self.batch.pour(
                Owner::Head(index),
                job.parts.iter().copied(),
                core::iter::once(home),
            );
            self.fresh.push(index);
        }
    }

    /// Makes the copies that were asked for.
    fn copy(&mut self) {
        if self.batch.is_empty() {
            return;
        }
        let Self {
            batch,
            machine,
            totals,
            ..
        } = self;
        let mut failed = Vec::new();
        batch.run(machine, totals, |owner, copy, status| {
            failed.push((owner, *copy, status))
        });
        for (owner, copy, status) in failed {
            match owner {
                Owner::Head(index) | Owner::Soft(index) => {
                    let origin = self.jobs.get(index).map(|job| job.origin);
                    if let (Some(Origin::Vif(place)), End::Guest { gref, .. }) = (origin, copy.from) {
                        self.fault(place, Fault::Grant { gref, status });
                    }
                    let is_known = self.jobs.get(index).is_some_and(|job| job.length == 0);
                    if !is_known {
                        self.lose(index, Loss::Grant, None);
                    }
                    // Nothing more is to be done with it.
                    if let Some(job) = self.jobs.get_mut(index) {
                        job.length = 0;
                    }
                }
                Owner::Delivery(number) => self.fail(number, &copy, status),
            }
        }
    }

    /// Has the VFR decide over all frames that were copied; over a few a second time, when more of them is.
    fn decide(&mut self) {
        let mut fresh = core::mem::take(&mut self.fresh);
        while !fresh.is_empty() {
            for index in fresh.drain(..) {
                if self.jobs.get(index).is_some_and(|job| job.length > 0) {
                    let mut room = core::mem::take(&mut self.room);
                    self.judge(index, &mut room);
                    self.room = room;
                }
            }
            if !self.fresh.is_empty() {
                self.copy();
            }
            core::mem::swap(&mut fresh, &mut self.fresh);
        }
        self.fresh = fresh;
    }

    /// Has the VFR decide over a frame. There is room for what was copied of it.
    fn judge(&mut self, index: u32, room: &mut [u8]) {
        let Some(job) = self.jobs.get_mut(index) else {
            return;
        };
        let (buffer, offset) = job.home;
        let from = match job.origin {
            Origin::Vif(place) => match vif_in(&mut self.places, place) {
                Some(vif) => vif.port,
                None => return,
            },
            Origin::Wire | Origin::Made => UPLINK,
        };
        let Some(header) = room.get_mut(..job.copied) else {
            return;
        };
        let checksum = match job.sum {
            Sum::Blank => Checksum::ToComplete,
            Sum::Whole | Sum::Checked => Checksum::Whole,
        };
        // For most frames the VFR need not see all that was copied.
        let is_watched = !self.captures.is_empty();
        let enough = job.copied.min(if is_watched { usize::MAX } else { ENOUGH });
        let (begin, more) = header.split_at_mut(enough);
        self.machine.read(buffer, offset.into(), begin);
        let before = is_watched.then(|| begin.to_vec());
        // Not again, if it is looked at further.
        if job.copied <= HEADER {
            add(&mut self.totals.frames, 1);
            if let Some(before) = &before {
                self.captures.see(self.now, from, true, job.length, before);
            }
        }
        let known = self.vfr.pass(from, begin, job.length, checksum, self.now);
        let outcome = if let Some(outcome) = known {
            outcome
        } else {
            let at = usize::from(offset).saturating_add(enough);
            self.machine.read(buffer, at, more);
            self.vfr.handle(from, header, job.length, checksum, self.now)
        };
        if let Some(telling) = outcome.log.filter(|_| self.log.admits(self.now)) {
            let (fate, Telling { packet, rule }) = (outcome.fate, *telling);
            self.events.push(Event::Log(Logged {
                from,
                packet,
                fate,
                rule,
            }));
        }
        if let Some(before) = before.filter(|_| outcome.mirror) {
            self.captures.mirror(self.now, job.length, &before);
        }
        job.layout = outcome.layout;
        let to = match outcome.fate {
            Fate::Forward(to) => to,
            Fate::Taken => return self.end(index, Status::Okay),
            Fate::More(bytes) => return self.look_further(index, bytes),
            Fate::Drop(_) => return self.end(index, Status::Dropped),
        };
        // Nothing behind the headers was changed, nor perhaps read.
        let headers = outcome.layout.map_or(0, |layout| layout.headers);
        let changed = header.get(..headers).unwrap_or(header);
        self.machine.write(buffer, offset.into(), changed);
        job.split = if job.copied < job.length {
            changed.len()
        } else {
            job.copied
        };
        match job.admit() {
            Ok(()) => self.deliver(index, to),
            Err(loss) => self.lose(index, loss, None),
        }
    }

    /// Takes what the VFR has made, as much as there is room for: the rest waits there.
    fn take_made(&mut self) {
        while self.made.len() < MADE
            && let Some(made) = self.vfr.next_made()
        {
            self.made.push_back(made);
        }
    }

    /// Sends the frames that the VFR has made.
    fn deliver_made(&mut self) {
        self.take_made();
        for _ in 0..self.made.len() {
            let Some((to, frame)) = self.made.pop_front() else {
                return;
            };
            let Some((index, job)) = self.jobs.open(Origin::Made) else {
                self.totals.lose(Loss::NoMemory);
                continue;
            };
            (job.length, job.copied, job.split) = (frame.len(), frame.len(), frame.len());
            let is_large = frame.len() > HEADER;
            if is_large && (frame.len() > PAGE || self.pool.take_buffers(1, &mut job.buffers).is_none()) {
                self.lose(index, Loss::NoMemory, None);
                continue;
            }
            if let Some(buffer) = job.buffers.last() {
                job.home = (*buffer, 0);
            }
            let (buffer, offset) = job.home;
            self.machine.write(buffer, offset.into(), &frame);
            add(&mut self.totals.frames, 1);
            self.deliver(index, to);
        }
    }

    /// A frame is lost: by the fault of this receiver, or else by its own.
    fn lose(&mut self, index: u32, loss: Loss, receiver: Option<u32>) {
        let origin = self.jobs.get(index).map(|job| job.origin);
        if let Some(vif) = receiver.and_then(|place| vif_in(&mut self.places, place)) {
            vif.counters.lose_received(loss);
        } else {
            match origin {
                Some(Origin::Vif(place)) if loss.is_fault() => self.fault(place, Fault::Frame(loss)),
                Some(Origin::Vif(place)) => {
                    if let Some(vif) = vif_in(&mut self.places, place) {
                        vif.counters.lose_sent(loss);
                    }
                }
                Some(Origin::Wire | Origin::Made) | None => self.totals.lose(loss),
            }
        }
        let is_fault = loss.is_fault() && receiver.is_none();
        self.end(index, if is_fault { Status::Error } else { Status::Dropped });
    }

    /// A job has come to its end.
    fn end(&mut self, index: u32, answer: Status) {
        if let Some(job) = self.jobs.get_mut(index) {
            job.answer = answer;
            self.done.push(index);
        }
    }

    /// Counts a fault, and tells of it if it is the first of its kind.
    fn fault(&mut self, place: u32, why: Fault) {
        let Some(Place {
            generation,
            vif: Some(vif),
        }) = self.places.get_mut(place as usize)
        else {
            return;
        };
        vif.is_deaf |= matches!(why, Fault::Producer(_));
        if vif.counters.fault(&why) {
            let generation = *generation;
            self.events.push(Event::Fault(VifId { place, generation }, why));
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
            Flaw::Unmap(_) => 2,
            Flaw::Page(_) => 3,
        };
        if let Some(count) = self.flaws.get_mut::<usize>(kind) {
            add(count, 1);
            if *count == 1 {
                self.events.push(Event::Flaw(flaw));
            }
        }
    }

    /// Takes what jobs hold that have come to their end.
    fn release(&mut self) {
        for index in &self.done {
            if let Some(job) = self.jobs.get_mut(*index) {
                // Most jobs hold one kind of these, or none.
                if !job.pins.is_empty() {
                    self.pins.append(&mut job.pins);
                }
                if !job.pages.is_empty() {
                    self.pool.ready.append(&mut job.pages);
                }
                if !job.buffers.is_empty() {
                    self.pool.give_buffers(&mut job.buffers);
                }
            }
        }
    }

    /// Gives back what jobs hold that have come to their end, then answers, and tells those who are to be told.
    fn finish(&mut self) {
        self.release();
        if !self.pins.is_empty() {
            add(&mut self.totals.unmaps.0, 1);
            add(&mut self.totals.unmaps.1, self.pins.len() as u64);
            let refused = self.machine.unmap(&self.pins);
            self.pins.clear();
            if refused > 0 {
                self.flaw(Flaw::Unmap(refused));
            }
        }
        if !self.done.is_empty() {
            add(&mut self.totals.rounds, 1);
        }
        // The lists are kept for their memory: nothing is put to them meanwhile.
        let mut done = core::mem::take(&mut self.done);
        done.drain(..).for_each(|index| self.answer(index));
        self.done = done;
        let mut touched = core::mem::take(&mut self.touched);
        touched.drain(..).for_each(|place| self.publish(place));
        self.touched = touched;
        self.close();
    }

    /// Answers the slots of a job that has come to its end.
    fn answer(&mut self, index: u32) {
        let Some(job) = self.jobs.get_mut(index) else {
            return;
        };
        let (origin, cost, status) = (job.origin, job.cost, job.answer);
        if let Origin::Vif(place) = origin
            && let Some(vif) = vif_in(&mut self.places, place)
        {
            for slot in job.slots.drain(..) {
                let status = if slot.is_extra { Status::Null } else { status };
                let response = TxResponse {
                    id: slot.id,
                    status: status.raw(),
                };
                vif.transmit.complete(slot.ticket, response);
            }
            vif.jobs = vif.jobs.saturating_sub(1);
            vif.under_way = vif.under_way.saturating_sub(cost);
            let is_blocked = vif.is_blocked;
            self.touch(place);
            if is_blocked {
                self.list(place);
            }
        }
        self.jobs.close(index);
    }

    /// Publishes a VIF's answers, and has it notified.
    fn publish(&mut self, place: u32) {
        let Some(Place {
            generation,
            vif: Some(vif),
        }) = self.places.get_mut(place as usize)
        else {
            return;
        };
        vif.is_touched = false;
        vif.notify.0 |= vif.transmit.publish() == Notify::Yes;
        vif.publish_received();
        let generation = *generation;
        let id = VifId { place, generation };
        let channels = match core::mem::take(&mut vif.notify) {
            (false, false) => [None, None],
            _ if !vif.is_split => [Some(Channel::Both), None],
            (transmit, receive) => [
                transmit.then_some(Channel::Transmit),
                receive.then_some(Channel::Receive),
            ],
        };
        for channel in channels.into_iter().flatten() {
            add(&mut self.totals.notifications, 1);
            self.events.push(Event::Notify(id, channel));
        }
    }

    /// Ends front-ends that go and have nothing under way.
    fn close(&mut self) {
        if self.leaving.is_empty() {
            return;
        }
        let mut leaving = core::mem::take(&mut self.leaving);
        leaving.retain(|index| {
            let Some(place) = self.places.get_mut(*index as usize) else {
                return false;
            };
            let Some(vif) = place.vif.take_if(|vif| vif.jobs == 0) else {
                return true;
            };
            let id = VifId {
                place: *index,
                generation: place.generation,
            };
            place.generation = place.generation.wrapping_add(1);
            self.turns.retain(|other| other != index);
            self.looked.retain(|other| other != index);
            self.held.retain(|(_, other)| other != index);
            self.events.push(Event::Closed(id, vif.counters));
            false
        });
        self.leaving = leaving;
    }

    /// Whether everybody who has something for us will say so.
    fn rest(&mut self) -> Rest {
        let mut looked = core::mem::take(&mut self.looked);
        for place in looked.drain(..) {
            let Some(vif) = vif_in(&mut self.places, place).filter(|vif| !vif.is_deaf && !vif.is_leaving)
            else {
                continue;
            };
            match vif.transmit.may_sleep() {
                Ok(true) => {}
                Ok(false) => self.list(place),
                Err(error) => self.fault(place, Fault::Producer(error)),
            }
        }
        self.looked = looked;
        // When there is no job or buffer left for frames from rings, the NIC has them.
        let can_take = self.has_jobs() && (self.nic.info().offloads.checksum || self.pool.buffers_left() > 0);
        let due = self.vfr.tick(self.now);
        self.take_made();
        let is_more = !self.made.is_empty() || can_take && !self.turns.is_empty();
        if is_more || self.health == Health::Well && !self.nic.may_sleep() {
            return Rest::Again;
        }
        let held = self.held.iter().map(|(at, _)| *at);
        Rest::Sleep(held.chain(due).chain(self.log.due()).min())
    }
}

fn vif_in<P>(places: &mut [Place<P>], index: u32) -> Option<&mut Vif<P>> {
    places.get_mut(index as usize)?.vif.as_mut()
}
