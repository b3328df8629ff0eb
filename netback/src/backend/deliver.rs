//! To guests: into pages that they have posted, or by pages that become theirs.

use bulkhead_abi::grant::GrantStatus;
use bulkhead_abi::netif::{
    ExtraType, Gso, GsoType, RX_CSUM_BLANK, RX_DATA_VALIDATED, RX_EXTRA_INFO, RX_MORE_DATA, RxResponse,
    RxSlot, Status,
};
use bulkhead_devices::nic::{Ip, Nic};
use bulkhead_ring::SharedPage;
use bulkhead_ring::descriptor::Ticket;

use super::job::{Job, Origin, Part, Segments, Sum};
use super::vif::takes;
use super::{BackEnd, Owner, vif_in};
use crate::counters::{Fault, Loss, add};
use crate::machine::{Copy, End, Flip, Machine, PAGE, PageId};
use crate::negotiation::Mode;
use crate::vfr::classify::PortId;

/// A frame on its way into slots of a receiving ring.
#[derive(Debug)]
pub(super) struct Delivery {
    job: u32,
    place: u32,
    queue: usize,
    /// Its slots, among all that were taken in this round.
    first: usize,
    slots: usize,
    is_extra: bool,
    /// Who is at fault that it does not arrive: the receiver, or else the sender.
    failed: Option<bool>,
}

/// A slot of a receiving ring, and what goes into it.
#[derive(Debug)]
pub(super) struct Taken {
    ticket: Option<Ticket>,
    id: u16,
    gref: u32,
    /// The page that becomes the receiver's, and whether devices have it now.
    page: Option<(PageId, bool)>,
    offset: usize,
    bytes: usize,
}

impl<N: Nic, M: Machine, P: SharedPage> BackEnd<N, M, P> {
    /// A frame goes to the front-end in this place.
    pub(super) fn give(&mut self, index: u32, place: u32, to: PortId) {
        let (Some(job), Some(vif)) = (self.jobs.get(index), vif_in(&mut self.places, place)) else {
            return;
        };
        let is_v6 = job.ip().is_some_and(|ip| ip.is_ipv6);
        let takes_blank = takes(&vif.features, is_v6);
        let takes_segments = match job.segments {
            None => true,
            Some(Segments { ip: Ip::V4, .. }) => vif.features.segments_v4 && takes_blank,
            Some(Segments { ip: Ip::V6, .. }) => vif.features.segments_v6 && takes_blank,
        };
        let is_blank = job.sum == Sum::Blank && !takes_blank;
        if (is_blank || !takes_segments) && !job.is_soft {
            return self.soften(index, to);
        }
        let is_long = job.segments.is_none() && job.length > self.nic.info().max_frame() as usize;
        let is_wide = job.length > PAGE && !vif.features.several_slots;
        if is_long || is_wide {
            return self.lose(index, Loss::TooLong, Some(place));
        }
        let is_extra = job.segments.is_some();
        let is_own = vif.mode == Mode::Flip && !job.pages.is_empty();
        let pages = if is_own {
            job.pages.len()
        } else {
            job.length.div_ceil(PAGE)
        };
        if vif.mode == Mode::Flip && !is_own && pages > self.pool.spare.len() {
            if !self.deliveries.is_empty() {
                // What is exchanged now gives as many pages back as it takes.
                self.carry();
                self.exchange();
                return self.give(index, place, to);
            }
            return self.lose(index, Loss::NoMemory, Some(place));
        }
        let slots = pages.saturating_add(usize::from(is_extra));
        let first = self.taken.len();
        let number = vif.queue_of(job.flow);
        let Some(queue) = vif.queues.get_mut(number) else {
            return;
        };
        match queue.receive.waiting() {
            Ok(waiting) if waiting as usize >= slots && !vif.is_deaf => {}
            Ok(_) => return self.lose(index, Loss::NoPage, Some(place)),
            Err(error) => {
                self.fault(place, Fault::Producer(error));
                return self.lose(index, Loss::NoPage, Some(place));
            }
        }
        while self.taken.len() < first.saturating_add(slots) {
            // There are as many, and a front-end that says otherwise now is told so with the next frame.
            let Ok(Some((ticket, request))) = queue.receive.take() else {
                break;
            };
            self.taken.push(Taken {
                ticket: Some(ticket),
                id: request.id,
                gref: request.gref,
                page: None,
                offset: 0,
                bytes: 0,
            });
        }
        let found = self.taken.len().saturating_sub(first);
        let has_all = found == slots;
        self.deliveries.push(Delivery {
            job: index,
            place,
            queue: number,
            first,
            slots: found,
            is_extra,
            failed: (!has_all).then_some(true),
        });
        if has_all {
            self.watch(index, to);
            self.fill(is_own);
        }
    }

    /// Has the slots of the last delivery filled, with the pages that the frame came in if it `is_own`.
    fn fill(&mut self, is_own: bool) {
        let number = self.deliveries.len().saturating_sub(1);
        let Some(delivery) = self.deliveries.last() else {
            return;
        };
        let (Some(job), Some(vif)) = (
            self.jobs.get_mut(delivery.job),
            vif_in(&mut self.places, delivery.place),
        ) else {
            return;
        };
        let owner = Owner::Delivery(number);
        // The second slot is an extra's, if there is one.
        let slots = self.taken.iter_mut().skip(delivery.first).enumerate();
        let skipped = usize::from(delivery.is_extra);
        let slots = slots
            .filter(|(at, _)| *at != skipped || skipped == 0)
            .map(|(_, slot)| slot);
        if is_own {
            let mut parts = job.parts.iter();
            for (page, slot) in job.pages.drain(..).zip(slots) {
                slot.page = Some((page, true));
                // A part in private memory comes right before the page that it belongs to.
                let mut front = None;
                for part in parts.by_ref() {
                    match part.at {
                        End::Pool(_, offset) => {
                            let front: Part = match front.take() {
                                Some(front) => front,
                                None => Part {
                                    at: part.at,
                                    bytes: 0,
                                },
                            };
                            slot.offset = usize::from(offset).saturating_sub(front.bytes);
                            slot.bytes = part.bytes.saturating_add(front.bytes);
                            let start = End::Pool(page, u16::try_from(slot.offset).unwrap_or(0));
                            self.batch.push(owner, front.at, start, front.bytes);
                            break;
                        }
                        End::Guest { .. } | End::Buffer(..) | End::Zeros => front = Some(*part),
                    }
                }
                let end = slot.offset.saturating_add(slot.bytes);
                self.batch
                    .clear_around(owner, End::Pool(page, 0), slot.offset, end);
            }
            let header = core::iter::once(job.beginning());
            self.batch.pour(owner, header, job.parts.iter().copied());
            return;
        }
        let mut left = job.length;
        let spare = &mut self.pool.spare;
        let (domain, mode) = (vif.domain, vif.mode);
        let batch = &mut self.batch;
        let mut tail = None;
        let mut places = slots.map_while(|slot| {
            slot.bytes = left.min(PAGE);
            left = left.saturating_sub(slot.bytes);
            let at = match mode {
                Mode::Copy => End::Guest {
                    domain,
                    gref: slot.gref,
                    offset: 0,
                },
                Mode::Flip => {
                    let page = spare.pop()?;
                    slot.page = Some((page, false));
                    tail = Some((End::Pool(page, 0), slot.bytes));
                    End::Pool(page, 0)
                }
            };
            Some(Part {
                at,
                bytes: slot.bytes,
            })
        });
        if job.length <= PAGE {
            if let Some(place) = places.next() {
                batch.gather(owner, job, place.at);
            }
        } else {
            batch.pour(owner, job.pieces(), places);
        }
        if let Some((page, bytes)) = tail {
            batch.clear_around(owner, page, 0, bytes);
        }
        let headers = job.layout.map_or(job.length, |layout| layout.headers);
        add(
            &mut vif.counters.copied,
            job.length.saturating_sub(headers) as u64,
        );
    }

    /// A copy for a delivery has failed.
    pub(super) fn fail(&mut self, number: usize, copy: &Copy, status: GrantStatus) {
        let Some(delivery) = self.deliveries.get_mut(number) else {
            return;
        };
        // If both ends are guests', it is the receiver that a header could not be copied to.
        let is_receivers = match (copy.from, copy.to) {
            (End::Guest { .. }, End::Guest { .. }) => delivery.failed.unwrap_or(false),
            (End::Guest { .. }, _) => false,
            _ => true,
        };
        delivery.failed = Some(is_receivers);
        let gref = match (copy.from, copy.to) {
            (_, End::Guest { gref, .. }) if is_receivers => Some((delivery.place, gref)),
            (End::Guest { gref, .. }, _) if !is_receivers => {
                match self.jobs.get(delivery.job).map(|job| job.origin) {
                    Some(Origin::Vif(place)) => Some((place, gref)),
                    Some(Origin::Wire | Origin::Made) | None => None,
                }
            }
            _ => None,
        };
        if let Some((place, gref)) = gref {
            self.fault(place, Fault::Grant { gref, status });
        }
    }

    /// Copies what is to be copied, and does what no device does.
    pub(super) fn carry(&mut self) {
        self.copy();
        if !self.soft.is_empty() || !self.cutting.is_empty() {
            self.do_soft();
            self.cut_on();
            self.copy();
        }
    }

    /// Exchanges the pages that become guests', and answers the slots that they go into.
    pub(super) fn exchange(&mut self) {
        if self.deliveries.is_empty() {
            return;
        }
        for delivery in self
            .deliveries
            .iter()
            .filter(|delivery| delivery.failed.is_none())
        {
            let Some(vif) = vif_in(&mut self.places, delivery.place) else {
                continue;
            };
            for slot in self.taken.iter().skip(delivery.first).take(delivery.slots) {
                if let Some((page, is_pinned)) = slot.page {
                    if is_pinned {
                        self.pages.push(page);
                    }
                    self.flips.push(Flip {
                        page,
                        domain: vif.domain,
                        gref: slot.gref,
                        result: Err(GrantStatus::GeneralError),
                    });
                }
            }
        }
        if !self.flips.is_empty() {
            // Where they go is decided below.
            let before = self.pool.spare.len();
            self.change_pins(false);
            self.pool.spare.truncate(before);
            self.machine.flip(&mut self.flips);
            add(&mut self.totals.flips.0, 1);
            add(&mut self.totals.flips.1, self.flips.len() as u64);
        }
        let mut flips = core::mem::take(&mut self.flips);
        let mut results = flips.drain(..);
        for number in 0..self.deliveries.len() {
            self.settle(number, &mut results);
        }
        drop(results);
        self.flips = flips;
        self.deliveries.clear();
        self.taken.clear();
    }

    /// Answers the slots of a delivery, and ends its job.
    fn settle(&mut self, number: usize, results: &mut impl Iterator<Item = Flip>) {
        let Some(delivery) = self.deliveries.get_mut(number) else {
            return;
        };
        let (index, place, number) = (delivery.job, delivery.place, delivery.queue);
        let range = delivery.first..delivery.first.saturating_add(delivery.slots);
        let slots = self.taken.get_mut(range).unwrap_or_default();
        let mut flips = 0_u64;
        let mut refused = None;
        for slot in slots.iter_mut() {
            let Some((page, is_pinned)) = slot.page else {
                continue;
            };
            let flip = match delivery.failed {
                // It was not tried.
                Some(_) => None,
                None => results.next(),
            };
            match flip.map(|flip| flip.result) {
                Some(Ok(())) => {
                    flips = flips.saturating_add(1);
                    self.pool.spare.push(page);
                }
                Some(Err(status)) => {
                    refused = Some((slot.gref, status));
                    self.pool.spare.push(page);
                }
                None if is_pinned => self.pool.ready.push(page),
                None => self.pool.spare.push(page),
            }
        }
        if refused.is_some() {
            delivery.failed = Some(true);
        }
        let (failed, is_extra) = (delivery.failed, delivery.is_extra);
        let (Some(job), Some(vif)) = (self.jobs.get_mut(index), vif_in(&mut self.places, place)) else {
            return;
        };
        add(&mut vif.counters.flips, flips);
        let Some(queue) = vif.queues.get_mut(number) else {
            return;
        };
        let count = u32::try_from(slots.len()).unwrap_or(u32::MAX);
        queue.make_room(count);
        let last = slots.len().saturating_sub(1);
        for (at, slot) in slots.iter_mut().enumerate() {
            let Some(ticket) = slot.ticket.take() else {
                continue;
            };
            let answer = match (failed, job.segments) {
                (None, Some(segments)) if at == 1 && is_extra => extra(segments),
                (None, _) => response(slot, job, at, last, is_extra),
                (Some(_), _) => RxSlot::holding(&RxResponse {
                    id: slot.id,
                    status: Status::Error.raw(),
                    ..RxResponse::default()
                }),
            };
            queue.receive.complete(ticket, answer);
        }
        if failed.is_none() {
            add(&mut vif.counters.received, 1);
            add(&mut vif.counters.received_bytes, job.length as u64);
        }
        self.touch(place, number);
        if let Some((gref, status)) = refused {
            self.fault(place, Fault::Grant { gref, status });
        }
        match failed {
            None => self.end(index, Status::Okay),
            Some(true) => self.lose(index, Loss::PostedGrant, Some(place)),
            Some(false) => self.lose(index, Loss::Grant, None),
        }
    }
}

/// The response to a request that has got data.
fn response(slot: &Taken, job: &Job, at: usize, last: usize, is_extra: bool) -> RxSlot {
    let mut flags = if at == last { 0 } else { RX_MORE_DATA };
    if at == 0 {
        flags |= match job.sum {
            Sum::Whole => 0,
            Sum::Checked => RX_DATA_VALIDATED,
            Sum::Blank => RX_CSUM_BLANK | RX_DATA_VALIDATED,
        };
        if is_extra {
            flags |= RX_EXTRA_INFO;
            // The last slot may be the extra.
            if last <= 1 {
                flags &= !RX_MORE_DATA;
            }
        }
    }
    let low = |number: usize| u16::try_from(number).unwrap_or(0);
    RxSlot::holding(&RxResponse {
        id: slot.id,
        offset: low(slot.offset),
        flags,
        status: i16::try_from(slot.bytes).unwrap_or(0),
    })
}

/// The extra that tells of segments.
fn extra(segments: Segments) -> RxSlot {
    RxSlot::holding(&Gso {
        extra_type: ExtraType::Gso.raw(),
        flags: 0,
        size: segments.size,
        gso_type: match segments.ip {
            Ip::V4 => GsoType::Tcpv4.raw(),
            Ip::V6 => GsoType::Tcpv6.raw(),
        },
        features: 0,
    })
}
