//! What no device does for a frame: completing its checksum, and cutting it into segments.

use alloc::vec::Vec;

use bulkhead_devices::nic::Nic;
use bulkhead_ring::SharedPage;

use super::job::{HEADER, Job, Origin, Part, Segments, Sum, cut};
use super::vif::takes;
use super::{BackEnd, Health, Owner, vif_in};
use crate::counters::{Loss, add};
use crate::machine::{End, Machine, PAGE};
use crate::vfr::checksum;
use crate::vfr::classify::PortId;
use crate::vfr::packet::{ETHERNET, IpLayout, TCP, tcp_flags};
use crate::vfr::router::UPLINK;

impl<N: Nic, M: Machine, P: SharedPage> BackEnd<N, M, P> {
    /// Has a frame's payload copied into private memory, before it goes to a port.
    pub(super) fn soften(&mut self, index: u32, to: PortId) {
        let Some(job) = self.jobs.get_mut(index) else {
            return;
        };
        let payload = job.payload();
        let buffers = payload.div_ceil(PAGE);
        let first = job.buffers.len();
        job.is_soft = true;
        if self.pool.take_buffers(buffers, &mut job.buffers).is_none() {
            return self.lose(index, Loss::NoMemory, None);
        }
        let buffers = job.buffers.iter().skip(first).copied();
        let places = buffers.map(|buffer| Part {
            at: End::Buffer(buffer, 0),
            bytes: PAGE,
        });
        let pieces = cut(job.parts.iter().copied(), job.split, job.length);
        self.batch.pour(Owner::Soft(index), pieces, places);
        if let Origin::Vif(place) = job.origin
            && let Some(vif) = vif_in(&mut self.places, place)
        {
            add(&mut vif.counters.copied, payload as u64);
        }
        self.soft.push((index, to));
    }

    /// Does it, for all frames whose payload has been copied, and sends them on.
    pub(super) fn do_soft(&mut self) {
        for (index, to) in core::mem::take(&mut self.soft) {
            let Some(job) = self.jobs.get_mut(index).filter(|job| job.length > 0) else {
                continue;
            };
            let (buffer, offset) = job.home;
            let payload = job.buffers.len().saturating_sub(job.payload().div_ceil(PAGE));
            job.parts.clear();
            job.parts.push(Part {
                at: End::Buffer(buffer, offset),
                bytes: job.split,
            });
            let copied = job.buffers.iter().skip(payload).map(|buffer| Part {
                at: End::Buffer(*buffer, 0),
                bytes: PAGE,
            });
            job.parts.extend(copied);
            let Some(ip) = job.ip() else {
                self.lose(index, Loss::Blank, None);
                continue;
            };
            let offloads = self.nic.info().offloads;
            match (job.segments, job.tcp()) {
                (Some(segments), Some((_, headers))) if to != UPLINK || !offloads.cuts(segments.ip) => {
                    job.pieces = 1;
                    self.cutting.push_back(Cutting {
                        whole: index,
                        to,
                        from: headers,
                    });
                }
                _ => {
                    if job.sum == Sum::Blank && !self.takes_blank(to, ip.is_ipv6) {
                        self.sum(index);
                    }
                    self.deliver(index, to);
                }
            }
        }
    }

    /// Whether a frame may go to a port with a checksum that is to be completed.
    fn takes_blank(&mut self, to: PortId, is_v6: bool) -> bool {
        let place = self.at_port(to).filter(|_| to != UPLINK);
        match place.and_then(|place| vif_in(&mut self.places, place)) {
            Some(vif) => takes(&vif.features, is_v6),
            None => self.nic.info().offloads.checksum,
        }
    }

    /// Goes on cutting frames, as far as there are jobs for the pieces: the rest waits until others have come to their end.
    pub(super) fn cut_on(&mut self) {
        let mut cutting = core::mem::take(&mut self.cutting);
        while self.has_jobs_for_pieces()
            && let Some(first) = cutting.front_mut()
        {
            let Cutting { whole, to, .. } = *first;
            if to == UPLINK && self.health == Health::Broken {
                // What is left of it is a successor's, to which the whole frame is left.
                cutting.pop_front();
            } else if self.cut(first) {
                cutting.pop_front();
                self.piece_ended(whole);
            }
        }
        // Pieces need no more to be done: nothing was put there meanwhile.
        self.cutting = cutting;
    }

    /// Completes the checksum of a frame that is all in private memory.
    fn sum(&mut self, index: u32) {
        let Some(job) = self.jobs.get_mut(index) else {
            return;
        };
        let Some((start, offset)) = job.checksum() else {
            return;
        };
        let sum = sum(&self.machine, job, start);
        let (buffer, home) = job.home;
        let at = usize::from(home).saturating_add(start).saturating_add(offset);
        // UDP knows no zero; TCP does not mind.
        let sum = if sum == 0 { 0xffff } else { sum };
        self.machine.write(buffer, at, &sum.to_be_bytes());
        job.sum = Sum::Whole;
    }

    /// Cuts a frame that is all in private memory into segments, as many as there are jobs for, and sends these on. Whether that was all.
    fn cut(&mut self, cutting: &mut Cutting) -> bool {
        let Cutting { whole, to, .. } = *cutting;
        let Some(job) = self.jobs.get(whole) else {
            return true;
        };
        let (Some(Segments { size, .. }), Some(ip), Some((_, headers))) = (job.segments, job.ip(), job.tcp())
        else {
            return true;
        };
        let mut header = [0; HEADER];
        let Some(header) = header.get_mut(..headers) else {
            return true;
        };
        let (buffer, offset) = job.home;
        self.machine.read(buffer, offset.into(), header);
        let (length, layout, flow) = (job.length, job.layout, job.flow);
        let parts: Vec<Part> = job.parts.clone();
        // Who is at the port may be another than when the first piece went there.
        let takes_blank = self.takes_blank(to, ip.is_ipv6);
        while cutting.from < length {
            if !self.has_jobs_for_pieces() {
                return false;
            }
            let Some((piece, job)) = self.jobs.open(Origin::Made) else {
                return false;
            };
            let from = cutting.from;
            let end = from.saturating_add(size.into()).min(length);
            let mut own = [0; HEADER];
            let Some(own) = own.get_mut(..headers) else {
                return true;
            };
            own.copy_from_slice(header);
            let is_last = end == length;
            change(
                own,
                &ip,
                from.saturating_sub(headers),
                size,
                end.saturating_sub(from),
                is_last,
            );
            let (buffer, offset) = job.home;
            self.machine.write(buffer, offset.into(), own);
            (job.layout, job.whole, job.is_soft) = (layout, Some(whole), true);
            (job.copied, job.split, job.flow) = (headers, headers, flow);
            job.length = headers.saturating_add(end).saturating_sub(from);
            job.parts.push(Part {
                at: End::Buffer(buffer, offset),
                bytes: headers,
            });
            job.parts.extend(cut(parts.iter().copied(), from, end));
            job.sum = Sum::Blank;
            if let Some(job) = self.jobs.get_mut(whole) {
                job.pieces = job.pieces.saturating_add(1);
            }
            if !takes_blank {
                self.sum(piece);
            }
            self.deliver(piece, to);
            cutting.from = end;
        }
        true
    }
}

/// A frame that is being cut into segments, all of it in private memory.
#[derive(Clone, Copy, Debug)]
pub(super) struct Cutting {
    whole: u32,
    /// Where its pieces go.
    to: PortId,
    /// Where the next begins.
    from: usize,
}

/// The sum of all bytes of a frame from `start` on, complemented, where the frame is all in private memory. Headers end at an even place, and all
/// pieces of the payload but the last have an even length.
fn sum<M: Machine>(machine: &M, job: &Job, start: usize) -> u16 {
    let mut bytes = [0; PAGE];
    let mut total = 0_u16;
    let mut carried = None;
    for Part { at, bytes: length } in cut(job.parts.iter().copied(), start, job.length) {
        let (End::Buffer(buffer, offset), Some(bytes)) = (at, bytes.get_mut(..length)) else {
            continue;
        };
        machine.read(buffer, offset.into(), bytes);
        let bytes = match carried.take() {
            // The other half of a word that the piece before has begun.
            Some(high) => {
                let Some((low, rest)) = bytes.split_first() else {
                    continue;
                };
                total = !checksum::of(&[&total.to_be_bytes(), &[high, *low]]);
                rest
            }
            None => bytes,
        };
        let (even, odd) = bytes.split_at(bytes.len() & !1);
        carried = odd.first().copied();
        total = !checksum::of(&[&total.to_be_bytes(), even]);
    }
    match carried {
        Some(high) => checksum::of(&[&total.to_be_bytes(), &[high, 0]]),
        None => !total,
    }
}

/// Makes the headers of a frame those of a segment with `bytes` bytes of its data, from `from` on. Its checksum is that of the pseudo-header.
fn change(header: &mut [u8], ip: &IpLayout, from: usize, size: u16, bytes: usize, is_last: bool) {
    let low = |number: usize| u16::try_from(number).unwrap_or(u16::MAX);
    let headers = header.len();
    let transport = headers.saturating_sub(ip.transport_at).saturating_add(bytes);
    let addresses = if ip.is_ipv6 {
        let payload = headers
            .saturating_add(bytes)
            .saturating_sub(ETHERNET)
            .saturating_sub(40);
        put(header, ETHERNET.saturating_add(4), &low(payload).to_be_bytes());
        ETHERNET.saturating_add(8)..ETHERNET.saturating_add(40)
    } else {
        let total = ip.transport_at.saturating_sub(ETHERNET).saturating_add(transport);
        put(header, ETHERNET.saturating_add(2), &low(total).to_be_bytes());
        put(header, ETHERNET.saturating_add(10), &[0, 0]);
        ETHERNET.saturating_add(12)..ETHERNET.saturating_add(20)
    };
    let length = low(transport).to_be_bytes();
    let addresses = header.get(addresses).unwrap_or_default();
    let pseudo = !checksum::of(&[addresses, &[0, TCP], &length]);
    let tcp = ip.transport_at;
    put(header, tcp.saturating_add(16), &pseudo.to_be_bytes());
    let sequence = header.get(tcp.saturating_add(4)..).and_then(<[u8]>::first_chunk);
    let sequence = sequence.map_or(0, |bytes| u32::from_be_bytes(*bytes));
    let sequence = sequence.wrapping_add(u32::try_from(from).unwrap_or(0));
    put(header, tcp.saturating_add(4), &sequence.to_be_bytes());
    if let Some(flags) = header.get_mut(tcp.saturating_add(13)) {
        /// The sender has slowed down: to be said once.
        const CWR: u8 = 0x80;
        if !is_last {
            *flags &= !(tcp_flags::FIN | tcp_flags::PSH);
        }
        if from > 0 {
            *flags &= !CWR;
        }
    }
    if !ip.is_ipv6 {
        let identification = header
            .get(ETHERNET.saturating_add(4)..)
            .and_then(<[u8]>::first_chunk);
        let identification = identification.map_or(0, |bytes| u16::from_be_bytes(*bytes));
        let number = from.checked_div(size.into()).unwrap_or(0);
        let identification = identification.wrapping_add(low(number));
        put(header, ETHERNET.saturating_add(4), &identification.to_be_bytes());
        let sum = checksum::of(&[header.get(ETHERNET..tcp).unwrap_or_default()]);
        put(header, ETHERNET.saturating_add(10), &sum.to_be_bytes());
    }
}

fn put(header: &mut [u8], at: usize, field: &[u8]) {
    let place = header.get_mut(at..at.saturating_add(field.len()));
    if let Some(place) = place {
        place.copy_from_slice(field);
    }
}
