//! What becomes of frames: their beginnings are copied, the VFR decides over the copies, and they are on their way.

use alloc::vec::Vec;
use core::hash::Hasher;

use bulkhead_abi::netif::Status;
use bulkhead_devices::nic::Nic;
use bulkhead_ring::SharedPage;
use siphasher::sip::SipHasher13;

use super::job::{HEADER, Origin, Part, Sum};
use super::{BackEnd, Event, Logged, MADE, Owner, vif_in};
use crate::counters::{Fault, Loss, add};
use crate::machine::{End, Machine, PAGE};
use crate::vfr::nat::Checksum;
use crate::vfr::packet::{ETHERNET, IpLayout, Layout, TCP, UDP};
use crate::vfr::router::{Fate, Telling, UPLINK};

/// Bytes of a frame's beginning that the VFR is shown first: Ethernet, IP and TCP with the usual options.
const ENOUGH: usize = 96;

impl<N: Nic, M: Machine, P: SharedPage> BackEnd<N, M, P> {
    /// Copies the beginnings of frames.
    pub(super) fn look(&mut self) {
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
    pub(super) fn copy(&mut self) {
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
    pub(super) fn decide(&mut self) {
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
        let place = self.ports.get(usize::from(to.0)).copied().flatten();
        let receiver = place.and_then(|place| vif_in(&mut self.places, place));
        if receiver.is_some_and(|vif| vif.queues.len() > 1) {
            job.flow = flow(header, outcome.layout);
        }
        match job.admit() {
            Ok(()) => self.deliver(index, to),
            Err(loss) => self.lose(index, loss, None),
        }
    }

    /// Takes what the VFR has made, as much as there is room for: the rest waits there.
    pub(super) fn take_made(&mut self) {
        while self.made.len() < MADE
            && let Some(made) = self.vfr.next_made()
        {
            self.made.push_back(made);
        }
    }

    /// Sends the frames that the VFR has made.
    pub(super) fn deliver_made(&mut self) {
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
}

/// The number of a frame's connection: of its addresses, and of its ports if it has some. What is not IP has 0.
fn flow(header: &[u8], layout: Option<Layout>) -> u32 {
    let Some(IpLayout {
        is_ipv6,
        protocol,
        transport_at,
        ..
    }) = layout.and_then(|layout| layout.ip)
    else {
        return 0;
    };
    let (first, bytes) = if is_ipv6 { (8, 32) } else { (12, 8) };
    let first = ETHERNET.saturating_add(first);
    let addresses = header.get(first..first.saturating_add(bytes));
    let ports = header.get(transport_at..transport_at.saturating_add(4));
    let ports = ports.filter(|_| matches!(protocol, TCP | UDP));
    // Nobody else's frames go by it, so it needs no secret.
    let mut hasher = SipHasher13::new();
    hasher.write(addresses.unwrap_or_default());
    hasher.write(ports.unwrap_or_default());
    let [b0, b1, b2, b3, ..] = hasher.finish().to_le_bytes();
    u32::from_le_bytes([b0, b1, b2, b3])
}
