//! To the NIC and from it.

use bulkhead_abi::grant::GrantStatus;
use bulkhead_abi::netif::Status;
use bulkhead_backend::pins::{Map, Rights};
use bulkhead_devices::BusAddress;
use bulkhead_devices::nic::{
    self, Checksum, Event, Failed, Nic, Offload, Received, Refused, Segment, Segmentation, Tag,
};
use bulkhead_ring::SharedPage;

use super::job::{HEADER, Job, Origin, Part, Segments, Sum};
use super::{BackEnd, Flaw, Health, vif_in};
use crate::counters::{Fault, Loss, add};
use crate::machine::{End, Machine, PAGE, PageId};
use crate::vfr::classify::PortId;
use crate::vfr::router::UPLINK;

/// The most frames that are received in a round.
pub(super) const FRAMES: usize = 64;
const PAGE_BYTES: u32 = 4096;
/// The most pages of a received frame: so many that the largest fits, whatever is left free in each.
const MAX_PAGES: usize = 17;

impl<N: Nic, M: Machine, P: SharedPage> BackEnd<N, M, P> {
    /// Takes what the NIC has done.
    pub(super) fn complete(&mut self) {
        // A driver that always has one more would keep us here.
        let mut left = FRAMES.saturating_add(self.jobs.count());
        while self.health == Health::Well && self.fresh.len() < FRAMES && left > 0 {
            left = left.saturating_sub(1);
            match self.nic.take() {
                None => return,
                Some(Event::Sent { tag, result }) => self.sent(tag.0, result),
                Some(Event::Received(received)) => self.received(&received),
                Some(Event::Returned(tag)) => {
                    self.flaw(Flaw::Broken);
                    self.pool.set_posted(PageId(tag.0), false);
                }
            }
        }
    }

    fn sent(&mut self, index: u32, result: Result<(), Failed>) {
        let Some(job) = self.jobs.get_mut(index).filter(|job| job.is_sent) else {
            return self.flaw(Flaw::Unasked(index));
        };
        match result {
            // Whether it was sent is unknown: it is not answered, and its pages stay pinned.
            Err(Failed::Broken) => self.flaw(Flaw::Broken),
            Ok(()) => {
                job.is_sent = false;
                self.end(index, Status::Okay);
            }
            Err(Failed::Device(_) | Failed::Unsupported) => {
                job.is_sent = false;
                self.lose(index, Loss::Device, None);
            }
        }
    }

    fn received(&mut self, received: &Received) {
        let page = PageId(received.tag.0);
        if !self.pool.set_posted(page, false) {
            return self.flaw(Flaw::Unasked(page.0));
        }
        let index = match self.arriving.take() {
            Some(index) => Some(index),
            None => self.jobs.open(Origin::Wire).map(|(index, job)| {
                set_offload(job, &received.offload);
                index
            }),
        };
        let Some((index, job)) = index.and_then(|index| Some((index, self.jobs.get_mut(index)?))) else {
            self.totals.lose(Loss::NoMemory);
            return self.pool.ready.push(page);
        };
        job.pages.push(page);
        let bytes = received.bytes as usize;
        let offset = self.nic.info().front;
        let fits = usize::from(offset).saturating_add(bytes) <= PAGE && job.pages.len() <= MAX_PAGES;
        let front = job.front(job.pages.len().saturating_sub(1));
        if fits
            && !received.front.is_empty()
            && let Some((buffer, at)) = front
        {
            self.machine.write(buffer, at.into(), &received.front);
            job.parts.push(Part {
                at: End::Buffer(buffer, at),
                bytes: received.front.len(),
            });
        }
        if fits && bytes > 0 {
            job.parts.push(Part {
                at: End::Pool(page, offset),
                bytes,
            });
        }
        job.length = job.parts.iter().map(|part| part.bytes).sum();
        if received.has_more && job.pages.len() <= MAX_PAGES {
            self.arriving = Some(index);
            return;
        }
        add(&mut self.totals.from_wire, 1);
        // A page without a part would be taken for another.
        let filled = job.parts.iter().filter(|part| matches!(part.at, End::Pool(..)));
        let is_whole = !received.has_more && filled.count() == job.pages.len();
        if is_whole {
            self.fresh.push(index);
        } else {
            self.lose(index, Loss::Received, None);
        }
    }

    /// A frame goes to a port.
    pub(super) fn deliver(&mut self, index: u32, to: PortId) {
        if to == UPLINK {
            return self.send_out(index);
        }
        match self.at_port(to) {
            Some(place) => self.give(index, place, to),
            None => self.lose(index, Loss::NoReceiver, None),
        }
    }

    /// A frame goes out, with the pages that it lies in.
    fn send_out(&mut self, index: u32) {
        let Some(job) = self.jobs.get(index) else { return };
        let info = self.nic.info();
        let is_long = job.segments.is_none() && job.length > info.max_frame() as usize;
        let is_blank = job.sum == Sum::Blank && !info.offloads.checksum;
        let is_uncut = job
            .segments
            .is_some_and(|segments| !info.offloads.cuts(segments.ip));
        // What is to be pinned, unless something else is to be done first.
        let before = self.maps.len();
        let mut pieces = 0_usize;
        job.pieces().for_each(|part| {
            pieces = pieces.saturating_add(1);
            if let End::Guest { domain, gref, .. } = part.at {
                self.maps.push(Map {
                    domain,
                    gref,
                    rights: Rights::Read,
                    result: Err(GrantStatus::GeneralError),
                });
            }
        });
        let pins = self.maps.len().saturating_sub(before);
        let is_scattered = pieces > info.max_segments.into();
        let is_soft = (is_blank || is_uncut || is_scattered) && !job.is_soft;
        // Nobody does it again.
        let is_lost = self.health == Health::Broken && !matches!(job.origin, Origin::Vif(_));
        if is_long || is_soft || is_lost {
            self.maps.truncate(before);
            return match (is_long, is_soft) {
                (true, _) => self.lose(index, Loss::TooLong, None),
                (false, true) => self.soften(index, UPLINK),
                (false, false) => self.lose(index, Loss::Device, None),
            };
        }
        self.watch(index, UPLINK);
        self.sending.push((index, pins));
    }

    /// Pins the pages of frames for the wire, hands the NIC what it takes, and gives it pages to receive into.
    pub(super) fn drive(&mut self) {
        self.pin();
        if self.health == Health::Well {
            // Pages that were received into can be again.
            self.release();
            let is_any = self.send();
            if self.feed() || is_any {
                self.nic.commit();
                add(&mut self.totals.commits, 1);
            }
        }
    }

    /// Hands the NIC frames. Whether it took any.
    fn send(&mut self) -> bool {
        let mut is_any = false;
        while let Some(index) = self.waiting.front().copied() {
            let Some(job) = self.jobs.get_mut(index) else {
                self.waiting.pop_front();
                continue;
            };
            self.segments.clear();
            let mut pins = job.pins.iter();
            job.pieces().for_each(|Part { at, bytes }| {
                let (address, offset) = match at {
                    End::Guest { offset, .. } => (pins.next().map(|pin| pin.address), offset),
                    End::Pool(page, offset) => (Some(self.machine.page_address(page)), offset),
                    End::Buffer(buffer, offset) => (Some(self.machine.buffer_address(buffer)), offset),
                    End::Zeros => (None, 0),
                };
                // All pages of guests' were pinned.
                let Some(BusAddress(page)) = address else { return };
                self.segments.push(Segment {
                    address: BusAddress(page.saturating_add(offset.into())),
                    bytes: u32::try_from(bytes).unwrap_or(0),
                });
            });
            match self.nic.send(Tag(index), &self.segments, &offload(job)) {
                Ok(()) => {
                    job.is_sent = true;
                    is_any = true;
                    add(&mut self.totals.to_wire, 1);
                }
                Err(Refused::Full) => break,
                Err(Refused::Invalid) => self.lose(index, Loss::Device, None),
                Err(Refused::Broken) => {
                    self.flaw(Flaw::Broken);
                    break;
                }
            }
            self.waiting.pop_front();
        }
        is_any
    }

    /// Pins the pages of frames for the wire, by one call.
    fn pin(&mut self) {
        if self.sending.is_empty() {
            return;
        }
        if !self.maps.is_empty() {
            self.machine.map(&mut self.maps);
            add(&mut self.totals.maps.0, 1);
            add(&mut self.totals.maps.1, self.maps.len() as u64);
        }
        let maps = core::mem::take(&mut self.maps);
        let mut results = maps.iter();
        let mut sending = core::mem::take(&mut self.sending);
        for (index, count) in sending.drain(..) {
            let Some(job) = self.jobs.get_mut(index) else {
                continue;
            };
            let mut wrong = None;
            for Map { gref, result, .. } in results.by_ref().take(count) {
                match *result {
                    Ok(pin) => job.pins.push(pin),
                    Err(status) => wrong = Some(Fault::Grant { gref: *gref, status }),
                }
            }
            let origin = job.origin;
            if let Origin::Vif(place) = origin
                && let Some(vif) = vif_in(&mut self.places, place)
            {
                add(&mut vif.counters.pins, job.pins.len() as u64);
            }
            match (wrong, origin) {
                (Some(why), Origin::Vif(place)) => {
                    self.fault(place, why);
                    self.lose(index, Loss::Grant, None);
                }
                (Some(_), Origin::Wire | Origin::Made) => self.lose(index, Loss::Grant, None),
                (None, _) => self.waiting.push_back(index),
            }
        }
        self.sending = sending;
        self.maps = maps;
        self.maps.clear();
    }

    /// Gives the NIC pages to receive into. Whether it took any.
    fn feed(&mut self) -> bool {
        let info = self.nic.info();
        let (front, depth) = (info.front, usize::from(info.receive_depth));
        let wanted = self.pool.wanted(depth).saturating_sub(self.pool.count);
        if wanted == 0 {
            return false;
        }
        let missing = wanted.saturating_sub(self.pool.ready.len());
        let first = self.pool.spare.len().saturating_sub(missing);
        self.pages.extend(self.pool.spare.drain(first..));
        self.change_pins(true);
        let mut is_any = false;
        for _ in 0..wanted {
            let Some(page) = self.pool.ready.pop() else { break };
            let BusAddress(address) = self.machine.page_address(page);
            let segment = Segment {
                address: BusAddress(address.saturating_add(front.into())),
                bytes: PAGE_BYTES.saturating_sub(front.into()),
            };
            match self.nic.post(Tag(page.0), segment) {
                Ok(()) => {
                    self.pool.set_posted(page, true);
                    is_any = true;
                }
                Err(refused) => {
                    self.pool.ready.push(page);
                    if refused == Refused::Broken {
                        self.flaw(Flaw::Broken);
                    }
                    break;
                }
            }
        }
        is_any
    }

    /// Pins all of `pages`, by one call, or takes their pins off; they are ready then, or spare. One that the hypervisor refuses is nobody's any more.
    pub(super) fn change_pins(&mut self, pin: bool) {
        while !self.pages.is_empty() {
            let (done, calls) = if pin {
                (self.machine.pin(&self.pages), &mut self.totals.pins)
            } else {
                (self.machine.unpin(&self.pages), &mut self.totals.unpins)
            };
            add(&mut calls.0, 1);
            add(&mut calls.1, done as u64);
            let to = if pin {
                &mut self.pool.ready
            } else {
                &mut self.pool.spare
            };
            to.extend(self.pages.drain(..done.min(self.pages.len())));
            if !self.pages.is_empty() {
                let page = self.pages.remove(0);
                self.flaw(Flaw::Page(page));
            }
        }
    }

    /// Tells captures of a frame that goes to a port.
    pub(super) fn watch(&mut self, index: u32, to: PortId) {
        if self.captures.is_empty() {
            return;
        }
        let Some(job) = self.jobs.get(index) else { return };
        let mut seen = [0; HEADER];
        let kept = job.copied.min(job.length).min(seen.len());
        let (buffer, offset) = job.home;
        let seen = seen.get_mut(..kept).unwrap_or_default();
        self.machine.read(buffer, offset.into(), seen);
        self.captures.see(self.now, to, false, job.length, seen);
    }
}

/// What the device says of a frame that it has received.
fn set_offload(job: &mut Job, offload: &Offload) {
    job.sum = match offload.checksum {
        Checksum::Unchecked => Sum::Whole,
        Checksum::Checked => Sum::Checked,
        Checksum::Partial { .. } => Sum::Blank,
    };
    job.segments = offload
        .segmentation
        .map(|Segmentation { ip, size, .. }| Segments { ip, size });
}

/// What the device is told of a frame that it is to send.
fn offload(job: &Job) -> Offload {
    let low = |number: usize| u16::try_from(number).unwrap_or(u16::MAX);
    let checksum = job.checksum().filter(|_| job.sum == Sum::Blank);
    let headers = job.tcp().map_or(0, |(_, headers)| headers);
    Offload {
        checksum: checksum.map_or(Checksum::Unchecked, |(start, offset)| Checksum::Partial {
            start: low(start),
            offset: low(offset),
        }),
        segmentation: job.segments.map(|Segments { ip, size }| nic::Segmentation {
            ip,
            size,
            headers: low(headers),
        }),
    }
}
