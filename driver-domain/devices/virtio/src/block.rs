//! A disk (section 5.2).
//!
//! A request is a chain of a header, the segments and a byte for the status. In a queue without tables a request of a page takes three descriptors,
//! and a queue of 256 is full with 85.

use alloc::collections::VecDeque;
use core::{iter, slice};

use bitflags::bitflags;
use bulkhead_devices::disk::{
    Completion, Discard, Disk, Failed, Geometry, MAX_SECTORS, Operation, Refused, SECTOR, Segment, Tag,
};
use bulkhead_devices::function::{Clock, Function};
use bulkhead_pci::FunctionInfo;
use virtio_drivers::transport::{DeviceType, Transport as Negotiation};

use crate::chains::{Chains, Layout};
use crate::queue::WRITE;
use crate::transport::{StartError, Transport};

bitflags! {
    /// What device and driver can agree on. What is not listed is never agreed on, as several queues, or zeros to be written.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    struct Features: u64 {
        const SIZE_MAX = 1 << 1;
        const SEG_MAX = 1 << 2;
        const READ_ONLY = 1 << 5;
        const BLOCK_SIZE = 1 << 6;
        const FLUSH = 1 << 9;
        const TOPOLOGY = 1 << 10;
        const DISCARD = 1 << 13;
        const INDIRECT = 1 << 28;
        const EVENT_INDEX = 1 << 29;
        const VERSION_1 = 1 << 32;
        /// The device reaches memory as other devices of the machine do: through the IOMMU, if there is one.
        const ACCESS_PLATFORM = 1 << 33;
        /// The device wants memory ordered as other devices do, and so it is.
        const ORDER_PLATFORM = 1 << 36;
    }
}

/// Offsets in the configuration (section 5.2.4).
mod config {
    pub(super) const CAPACITY: usize = 0;
    pub(super) const SIZE_MAX: usize = 8;
    pub(super) const SEG_MAX: usize = 12;
    pub(super) const BLOCK_SIZE: usize = 20;
    pub(super) const PHYSICAL_BLOCK: usize = 24;
    pub(super) const MAX_DISCARD: usize = 36;
    pub(super) const DISCARD_ALIGNMENT: usize = 44;
}

/// Kinds of requests (section 5.2.6).
mod kind {
    pub(super) const READ: u32 = 0;
    pub(super) const WRITE: u32 = 1;
    pub(super) const FLUSH: u32 = 4;
    pub(super) const DISCARD: u32 = 11;
}

/// What the device says of a request that is done.
mod status {
    pub(super) const OK: u8 = 0;
    pub(super) const IO_ERROR: u8 = 1;
    pub(super) const UNSUPPORTED: u8 = 2;
    /// What no device says.
    pub(super) const NONE: u8 = 0xff;
}

/// The queue's length with indirect descriptors: as many requests as can be outstanding.
const INDIRECT_SIZE: u16 = 128;
/// Without.
const DIRECT_SIZE: u16 = 256;

/// Sectors of a page, which is the largest segment.
const PAGE_SECTORS: u32 = 8;

/// Where things are in a slot; behind them, with indirect descriptors, a table that has room for 59 segments.
mod slot {
    pub(super) const HEADER: usize = 0;
    pub(super) const RANGE: usize = 16;
    pub(super) const STATUS: usize = 32;
    pub(super) const TABLE: usize = 48;
    /// Bytes of one without a table, and of one with.
    pub(super) const DIRECT_BYTES: usize = 64;
    pub(super) const INDIRECT_BYTES: usize = 1024;
}

/// Whether this driver drives such functions: virtio disks that know virtio 1.
#[must_use]
pub fn drives(info: &FunctionInfo) -> bool {
    const VENDOR: u16 = 0x1af4;
    const DISK: u16 = 0x1042;
    /// One that also knows what was before virtio 1.
    const TRANSITIONAL_DISK: u16 = 0x1001;
    info.vendor == VENDOR && matches!(info.device, DISK | TRANSITIONAL_DISK)
}

/// A request that the device has.
#[derive(Clone, Copy, Debug)]
struct Request {
    tag: Tag,
    /// Bytes that the device is to write, the status among them.
    writes: u32,
}

/// A virtio disk at work. Dropping it resets the device: it does not reach memory any more.
#[derive(Debug)]
pub struct Block<F: Function> {
    /// The first to be dropped.
    transport: Transport<F>,
    chains: Chains<F, Request>,
    geometry: Geometry,
    /// How many requests can be outstanding, or done and not taken.
    room: usize,
    /// What has come to its end without the device. There is room for all requests.
    done: VecDeque<Completion>,
    is_broken: bool,
    /// It was said that who uses this may sleep, and nothing has completed since.
    is_idle: bool,
}

impl<F: Function> Block<F> {
    /// Brings a device to work that [this driver drives](drives).
    ///
    /// # Errors
    ///
    /// [`StartError`].
    pub async fn start(function: F, clock: &impl Clock) -> Result<Self, StartError> {
        let mut transport = Transport::reset(function, DeviceType::Block, clock).await?;
        let features = transport.negotiate(Features::all())?;
        if !features.contains(Features::VERSION_1) {
            return Err(StartError::Features);
        }
        let mut geometry = read_geometry(&transport, features).ok_or(StartError::Geometry)?;
        let (size, slot, table) = if features.contains(Features::INDIRECT) {
            (INDIRECT_SIZE, slot::INDIRECT_BYTES, Some(slot::TABLE))
        } else {
            (DIRECT_SIZE, slot::DIRECT_BYTES, None)
        };
        let layout = Layout {
            size,
            slot,
            table,
            has_event_index: features.contains(Features::EVENT_INDEX),
        };
        let chains = Chains::new(&mut transport, 0, layout)?;
        // In a queue without tables a request must find room.
        geometry.max_segments = geometry.max_segments.min(chains.max_parts().saturating_sub(2));
        geometry.max_sectors = u32::from(geometry.max_segments).saturating_mul(PAGE_SECTORS);
        geometry.depth = chains.depth(3);
        if geometry.max_segments == 0 || geometry.depth == 0 {
            return Err(StartError::Queue);
        }
        transport.finish_init();
        let room = chains.depth(1).into();
        Ok(Self {
            transport,
            chains,
            geometry,
            room,
            done: VecDeque::with_capacity(room),
            is_broken: false,
            is_idle: false,
        })
    }

    /// The device does not do what it should: it is stopped, and all that it had ends.
    #[cold]
    fn break_down(&mut self, why: &str) {
        self.transport.give_up(why);
        self.is_broken = true;
        self.done
            .extend(self.chains.abandon().map(|request| broken(request.tag)));
    }
}

/// The end of a request of a device that is broken.
fn broken(tag: Tag) -> Completion {
    Completion {
        tag,
        result: Err(Failed::Broken),
    }
}

/// How a request has ended; `None` if none can end so.
fn outcome(status: u8, bytes: u32, writes: u32) -> Option<Result<(), Failed>> {
    match status {
        status::OK if bytes == writes => Some(Ok(())),
        // What was to be read is not all there, though the device does not mind.
        status::OK | status::IO_ERROR if bytes <= writes => Some(Err(Failed::Device(status.into()))),
        status::UNSUPPORTED if bytes <= writes => Some(Err(Failed::Unsupported)),
        _ => None,
    }
}

impl<F: Function> Disk for Block<F> {
    fn geometry(&self) -> &Geometry {
        &self.geometry
    }

    fn submit(&mut self, tag: Tag, operation: Operation<'_>) -> Result<(), Refused> {
        if self.is_broken {
            return Err(Refused::Broken);
        }
        if !self.geometry.admits(&operation) {
            return Err(Refused::Invalid);
        }
        if usize::from(self.chains.outstanding()).saturating_add(self.done.len()) >= self.room {
            return Err(Refused::Full);
        }
        let slot = self.chains.slot()?;
        let range;
        let (kind, first, data, flags): (_, _, &[Segment], _) = match operation {
            Operation::Read(first, segments) => (kind::READ, first, segments, WRITE),
            Operation::Write(first, segments) => (kind::WRITE, first, segments, 0),
            Operation::Discard(first, sectors) => {
                slot.store64(slot::RANGE, first);
                slot.store64(slot::RANGE.wrapping_add(8), sectors.into());
                range = slot.segment(slot::RANGE, 16);
                (kind::DISCARD, 0, slice::from_ref(&range), 0)
            }
            Operation::Flush if self.geometry.write_cache => (kind::FLUSH, 0, &[], 0),
            Operation::Flush => {
                let result = Ok(());
                self.done.push_back(Completion { tag, result });
                return Ok(());
            }
        };
        slot.store64(slot::HEADER, kind.into());
        slot.store64(slot::HEADER.wrapping_add(8), first);
        slot.store8(slot::STATUS, status::NONE);
        let mut writes = 1_u32;
        if flags == WRITE {
            writes = data
                .iter()
                .fold(writes, |sum, segment| sum.saturating_add(segment.bytes));
        }
        let header = (slot.segment(slot::HEADER, 16), 0);
        let status = (slot.segment(slot::STATUS, 1), WRITE);
        let data = data.iter().map(|segment| (*segment, flags));
        let parts = iter::once(header).chain(data).chain(iter::once(status));
        self.chains.offer(Request { tag, writes }, parts)
    }

    fn commit(&mut self) {
        if !self.is_broken {
            self.chains.commit();
        }
    }

    fn take(&mut self) -> Option<Completion> {
        if let Some(done) = self.done.pop_front() {
            return Some(done);
        }
        if self.is_broken {
            return None;
        }
        match self.chains.take() {
            Ok(Some(done)) => {
                self.is_idle = false;
                let Request { tag, writes } = done.request;
                let status = done.slot.load8(slot::STATUS);
                if let Some(result) = outcome(status, done.bytes, writes) {
                    return Some(Completion { tag, result });
                }
                self.done.push_back(broken(tag));
                self.break_down("the disk completed a request in no way known");
            }
            Ok(None) => {
                // Somebody was woken, and nothing is done: perhaps the device has something else to say.
                let is_awaited = core::mem::take(&mut self.is_idle) && self.chains.outstanding() != 0;
                if is_awaited && self.transport.needs_reset() {
                    self.break_down("the disk says that it cannot go on");
                }
            }
            Err(_) => self.break_down("the disk completed what was not asked of it"),
        }
        self.done.pop_front()
    }

    fn may_sleep(&mut self) -> bool {
        self.is_idle = self.done.is_empty() && (self.is_broken || self.chains.may_sleep());
        self.is_idle
    }
}

/// What the disk is like, as far as its configuration says; `None` if that makes no sense.
fn read_geometry<T: Negotiation>(transport: &T, features: Features) -> Option<Geometry> {
    let read32 = |offset, feature| {
        if features.contains(feature) {
            transport.read_config_space::<u32>(offset)
        } else {
            Ok(0)
        }
    };
    let read = || {
        let low = transport.read_config_space::<u32>(config::CAPACITY)?;
        let high = transport.read_config_space::<u32>(config::CAPACITY.wrapping_add(4))?;
        let physical = if features.contains(Features::TOPOLOGY) {
            transport.read_config_space::<u8>(config::PHYSICAL_BLOCK)?
        } else {
            0
        };
        Ok((
            u64::from(high) << 32 | u64::from(low),
            read32(config::SIZE_MAX, Features::SIZE_MAX)?,
            read32(config::SEG_MAX, Features::SEG_MAX)?,
            read32(config::BLOCK_SIZE, Features::BLOCK_SIZE)?,
            physical,
            read32(config::MAX_DISCARD, Features::DISCARD)?,
            read32(config::DISCARD_ALIGNMENT, Features::DISCARD)?,
        ))
    };
    let (sectors, size_max, seg_max, block, physical, max_discard, alignment) =
        transport.read_consistent(read).ok()?;
    // A disk that says nothing of its blocks has sectors.
    let logical_block = if block == 0 { SECTOR } else { block };
    let physical_block = logical_block.checked_shl(physical.into())?;
    let is_block = logical_block.is_power_of_two() && (SECTOR..=4096).contains(&logical_block);
    // A segment is a page at most, and not split.
    let takes_pages = size_max == 0 || size_max >= 4096;
    if !is_block || physical_block < logical_block || !takes_pages || sectors > MAX_SECTORS {
        return None;
    }
    Some(Geometry {
        // Of a block that is not whole nothing can be read.
        sectors: sectors & !u64::from(logical_block / SECTOR).wrapping_sub(1),
        logical_block,
        physical_block,
        read_only: features.contains(Features::READ_ONLY),
        write_cache: features.contains(Features::FLUSH),
        discard: (max_discard != 0).then_some(Discard {
            max_sectors: max_discard,
            granularity: alignment.max(1),
        }),
        max_segments: u16::try_from(seg_max).unwrap_or(u16::MAX).max(1),
        max_sectors: 0,
        depth: 0,
    })
}
