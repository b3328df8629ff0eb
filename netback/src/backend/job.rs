//! A frame on its way: where its bytes lie, what is known of it, and what is to be answered and given back when it has come to its end.

use alloc::vec::Vec;

use bulkhead_abi::netif::Status;
use bulkhead_backend::pins::Pin;
use bulkhead_devices::nic::Ip;
use bulkhead_ring::descriptor::Ticket;

use crate::counters::Loss;
use crate::machine::{BufferId, End, PAGE, PageId};
use crate::vfr::packet::{IpLayout, Layout, TCP, UDP};

/// Bytes of a frame's beginning that are copied into private memory, at most; headers have to fit.
pub(super) const HEADER: usize = 256;
/// Bytes of private memory that a job has: its frame's beginning, and behind it what a device has put elsewhere of pages that continue a frame.
const ROOM: usize = 512;
/// The least bytes of data in a segment, as small as Linux makes them.
const LEAST_SEGMENT: u16 = 48;
/// How many jobs share a buffer.
pub(super) const JOBS_OF_BUFFER: u32 = 8;

const _: () = assert!(JOBS_OF_BUFFER as usize * ROOM == PAGE);

/// Where a frame comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Origin {
    /// The VIF in this place.
    Vif(u32),
    /// The NIC.
    Wire,
    /// The VFR, which has made it.
    Made,
}

/// A part of a frame, in one page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Part {
    pub(super) at: End,
    pub(super) bytes: usize,
}

/// A slot of the sending ring that is to be answered.
#[derive(Debug)]
pub(super) struct Slot {
    pub(super) ticket: Ticket,
    pub(super) id: u16,
    pub(super) is_extra: bool,
}

/// What a frame's checksum of TCP or UDP is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Sum {
    /// What the sender has put there.
    #[default]
    Whole,
    /// Right, as the device says.
    Checked,
    /// That of the pseudo-header alone.
    Blank,
}

/// TCP that is to be cut, or was put together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Segments {
    pub(super) ip: Ip,
    /// Bytes of data in each.
    pub(super) size: u16,
}

/// A frame on its way.
#[derive(Debug)]
pub(super) struct Job {
    pub(super) origin: Origin,
    /// Where its private memory is.
    room: (BufferId, u16),
    /// Where the private copy of its beginning is.
    pub(super) home: (BufferId, u16),
    pub(super) length: usize,
    /// How much of it is copied there.
    pub(super) copied: usize,
    /// How much of it is taken from there, now that it has been decided over; the rest is taken from the parts.
    pub(super) split: usize,
    /// All of it, as it came.
    pub(super) parts: Vec<Part>,
    /// The queue of its sender's that they are of.
    pub(super) queue: usize,
    pub(super) slots: Vec<Slot>,
    /// A number that the frames of a connection have in common, where the receiver has several queues.
    pub(super) flow: u32,
    /// Pages of the pool that it holds; they are pinned.
    pub(super) pages: Vec<PageId>,
    /// Private memory that it holds beside its own.
    pub(super) buffers: Vec<BufferId>,
    /// The guest's pages among its parts that are pinned, in their order.
    pub(super) pins: Vec<Pin>,
    pub(super) sum: Sum,
    pub(super) segments: Option<Segments>,
    pub(super) layout: Option<Layout>,
    /// What its sender is answered.
    pub(super) answer: Status,
    /// What it cost its sender when it was taken.
    pub(super) cost: usize,
    /// It is with the NIC.
    pub(super) is_sent: bool,
    /// All of it is in private memory, or will be.
    pub(super) is_soft: bool,
    /// What it is a piece of, and lies in the memory of.
    pub(super) whole: Option<u32>,
    /// Its pieces that have not come to their end, and one more while it is being cut.
    pub(super) pieces: u32,
}

impl Job {
    /// The one with this number among all.
    pub(super) fn new(number: u32) -> Self {
        let offset = (number % JOBS_OF_BUFFER).saturating_mul(512);
        let room = (
            BufferId(number / JOBS_OF_BUFFER),
            u16::try_from(offset).unwrap_or(0),
        );
        Self {
            origin: Origin::Made,
            room,
            home: room,
            length: 0,
            copied: 0,
            split: 0,
            parts: Vec::new(),
            queue: 0,
            slots: Vec::new(),
            flow: 0,
            pages: Vec::new(),
            buffers: Vec::new(),
            pins: Vec::new(),
            sum: Sum::Whole,
            segments: None,
            layout: None,
            answer: Status::Okay,
            cost: 0,
            is_sent: false,
            is_soft: false,
            whole: None,
            pieces: 0,
        }
    }

    /// Makes it ready for another frame. What it held has been given back.
    pub(super) fn clear(&mut self, origin: Origin) {
        debug_assert!(
            self.slots.is_empty() && self.pins.is_empty() && self.pages.is_empty() && self.buffers.is_empty()
        );
        self.parts.clear();
        self.origin = origin;
        self.home = self.room;
        (self.length, self.copied, self.split, self.cost) = (0, 0, 0, 0);
        (self.sum, self.segments, self.layout) = (Sum::Whole, None, None);
        self.answer = Status::Okay;
        (self.queue, self.flow) = (0, 0);
        (self.is_sent, self.is_soft) = (false, false);
        (self.whole, self.pieces) = (None, 0);
    }

    /// Private memory for what comes before the bytes of its part number `part` in the page, which is a later one.
    pub(super) fn front(&self, part: usize) -> Option<(BufferId, u16)> {
        let (buffer, offset) = self.room;
        let behind = part.checked_mul(bulkhead_devices::nic::MAX_FRONT)?;
        let at = HEADER.checked_add(behind)?;
        let fits = at.saturating_add(bulkhead_devices::nic::MAX_FRONT) <= ROOM;
        let at = u16::try_from(at).ok().filter(|_| fits)?;
        Some((buffer, offset.saturating_add(at)))
    }

    /// Where its bytes lie, of which the beginning is the private copy.
    pub(super) fn pieces(&self) -> impl Iterator<Item = Part> {
        let home = Some(self.beginning()).filter(|part| part.bytes > 0);
        home.into_iter().chain(self.rest())
    }

    /// The private copy of its beginning.
    pub(super) fn beginning(&self) -> Part {
        let (buffer, offset) = self.home;
        Part {
            at: End::Buffer(buffer, offset),
            bytes: self.split,
        }
    }

    /// Where the bytes behind that lie.
    pub(super) fn rest(&self) -> impl Iterator<Item = Part> {
        cut(self.parts.iter().copied(), self.split, self.length)
    }

    /// Bytes that do not come from the private copy.
    pub(super) const fn payload(&self) -> usize {
        self.length.saturating_sub(self.split)
    }

    /// Where the parts of its packet lie, if it is an IP packet that has been decided over.
    pub(super) fn ip(&self) -> Option<IpLayout> {
        self.layout?.ip
    }

    /// Where the checksum of TCP or UDP is: what is summed begins at the first, and the second is how far behind that it is.
    pub(super) fn checksum(&self) -> Option<(usize, usize)> {
        let ip = self.ip()?;
        match ip.protocol {
            TCP => Some((ip.transport_at, 16)),
            UDP => Some((ip.transport_at, 6)),
            _ => None,
        }
    }

    /// Checks what is said of a frame beside its bytes against its headers. What is behind the packet goes, if there is a checksum to be completed, which would
    /// cover it.
    pub(super) fn admit(&mut self) -> Result<(), Loss> {
        if self.sum == Sum::Blank {
            let Some((ip, _)) = self.ip().zip(self.checksum()) else {
                return Err(Loss::Blank);
            };
            self.length = self.length.min(ip.end);
            self.split = self.split.min(self.length);
        }
        if let Some(Segments { ip, size }) = self.segments {
            let Some((_, headers)) = self.tcp().filter(|(found, _)| *found == ip) else {
                return Err(Loss::Segments);
            };
            if size < LEAST_SEGMENT {
                return Err(Loss::Segments);
            }
            if self.length.saturating_sub(headers) <= size.into() {
                self.segments = None;
            }
        }
        Ok(())
    }

    /// Over which IP it is TCP, and where its data begin.
    pub(super) fn tcp(&self) -> Option<(Ip, usize)> {
        let headers = self.layout?.headers;
        let ip = self.ip().filter(|ip| ip.protocol == TCP)?;
        Some((if ip.is_ipv6 { Ip::V6 } else { Ip::V4 }, headers))
    }
}

/// The bytes from `from` to `to` of what lies in these parts.
pub(super) fn cut(parts: impl Iterator<Item = Part>, from: usize, to: usize) -> impl Iterator<Item = Part> {
    let (mut skip, mut left) = (from, to.saturating_sub(from));
    parts.filter_map(move |part| {
        let skipped = skip.min(part.bytes);
        skip = skip.saturating_sub(skipped);
        let bytes = part.bytes.saturating_sub(skipped).min(left);
        left = left.saturating_sub(bytes);
        (bytes > 0).then_some(Part {
            at: forward(part.at, skipped),
            bytes,
        })
    })
}

/// The place so many bytes further on in the same page.
pub(super) fn forward(end: End, by: usize) -> End {
    let on = |offset: u16| offset.saturating_add(u16::try_from(by).unwrap_or(u16::MAX));
    match end {
        End::Guest { domain, gref, offset } => End::Guest {
            domain,
            gref,
            offset: on(offset),
        },
        End::Pool(page, offset) => End::Pool(page, on(offset)),
        End::Buffer(buffer, offset) => End::Buffer(buffer, on(offset)),
        End::Zeros => End::Zeros,
    }
}

/// All jobs, and which of them are free.
#[derive(Debug)]
pub(super) struct Jobs {
    all: Vec<Job>,
    free: Vec<u32>,
}

impl Jobs {
    pub(super) fn new(count: u32) -> Self {
        Self {
            all: (0..count).map(Job::new).collect(),
            free: (0..count).rev().collect(),
        }
    }

    /// How many are free.
    pub(super) fn left(&self) -> usize {
        self.free.len()
    }

    /// How many there are.
    pub(super) fn count(&self) -> usize {
        self.all.len()
    }

    pub(super) fn get(&self, index: u32) -> Option<&Job> {
        self.all.get(index as usize)
    }

    pub(super) fn get_mut(&mut self, index: u32) -> Option<&mut Job> {
        self.all.get_mut(index as usize)
    }

    /// One for a frame that comes from there.
    pub(super) fn open(&mut self, origin: Origin) -> Option<(u32, &mut Job)> {
        let index = self.free.pop()?;
        let job = self.all.get_mut(index as usize)?;
        job.clear(origin);
        Some((index, job))
    }

    /// Gives one back.
    pub(super) fn close(&mut self, index: u32) {
        self.free.push(index);
    }
}
