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
mod decide;
mod deliver;
mod finish;
mod job;
mod log;
mod pool;
mod records;
mod share;
mod soft;
mod transmit;
mod turns;
mod vif;
mod wire;

use alloc::collections::VecDeque;
use alloc::vec::Vec;

use bulkhead_backend::pins::{Map, Pin};
use bulkhead_devices::nic::{Nic, Segment};
use bulkhead_ring::SharedPage;

use crate::counters::{Counters, Loss, Totals};
use crate::machine::{Flip, Machine, PAGE, PageId};
use crate::pcap::Captured;
use crate::vfr::classify::PortId;
use crate::vfr::router::{UPLINK, Vfr};
use batch::Batch;
use capture::Captures;
use deliver::{Delivery, Taken};
use job::{JOBS_OF_BUFFER, Jobs};
use log::Log;
use pool::Pool;
pub use records::{
    CaptureId, Channel, ConnectError, Connection, Event, Flaw, Idle, Logged, Rest, Rings, Tap, VifId,
};
use soft::Cutting;
use vif::Vif;

/// The most frames that are under way.
const MAX_JOBS: u32 = 512;
/// The most frames of the VFR's own that wait, and that are sent in a round.
const MADE: usize = 256;

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
    /// Frames that are being cut into segments, in their order.
    cutting: VecDeque<Cutting>,
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
            cutting: VecDeque::new(),
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
        vif.is_touched = true;
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
        self.touched.push(number);
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
        if !matches!(channel, Channel::Receive(_)) && self.counters(id).is_some() {
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

    /// A VIF has answers to publish in the queue with this number.
    fn touch(&mut self, place: u32, queue: usize) {
        if let Some(vif) = vif_in(&mut self.places, place) {
            if let Some(queue) = vif.queues.get_mut(queue) {
                queue.is_touched = true;
            }
            if !core::mem::replace(&mut vif.is_touched, true) {
                self.touched.push(place);
            }
        }
    }
}

fn vif_in<P>(places: &mut [Place<P>], index: u32) -> Option<&mut Vif<P>> {
    places.get_mut(index as usize)?.vif.as_mut()
}
