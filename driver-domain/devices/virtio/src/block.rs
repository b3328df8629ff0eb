//! A disk (section 5.2).
//!
//! Requests are chains of descriptors: a header, the segments, a byte for the status. Where the device takes indirect descriptors a chain is one
//! descriptor of the queue that leads to a table: so the queue is as deep as it is long, whatever the requests are. Without them a request
//! of a page takes three, and a queue of 256 is full with 85. Each head has a slot, in which its table, header and status are.

use alloc::boxed::Box;
use alloc::collections::VecDeque;
use alloc::vec::Vec;
use core::slice;

use bitflags::bitflags;
use bulkhead_devices::disk::{
    Completion, Discard, Disk, Failed, Geometry, MAX_SECTORS, Operation, Refused, SECTOR, Segment, Tag,
};
use bulkhead_devices::function::{Clock, Denied, DmaMemory, Function};
use bulkhead_pci::FunctionInfo;
use virtio_drivers::transport::{DeviceType, Transport as Negotiation};

use crate::queue::{DESCRIPTOR, Descriptor, INDIRECT, NEXT, Queue, Used, WRITE};
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

/// The most segments of a request, so that its slot takes a quarter of a page at most.
const MAX_SEGMENTS: u16 = 59;

/// Bytes of a page, which is what pieces of memory with slots are.
const PAGE: usize = 4096;
/// Sectors of a page, which is the largest segment.
const PAGE_SECTORS: u32 = 8;

/// Where things are in a slot; behind them, with indirect descriptors, a table.
mod slot {
    pub(super) const HEADER: usize = 0;
    pub(super) const RANGE: usize = 16;
    pub(super) const STATUS: usize = 32;
    pub(super) const TABLE: usize = 48;
    /// Bytes of one without a table, and of one with.
    pub(super) const DIRECT_BYTES: usize = 64;
    pub(super) const INDIRECT_BYTES: usize = 1024;
}

const _: () = assert!(slot::TABLE + (MAX_SEGMENTS as usize + 2) * DESCRIPTOR == slot::INDIRECT_BYTES);

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
    /// The queue's descriptors that it takes.
    descriptors: u16,
    /// Bytes that the device is to write, the status among them.
    writes: u32,
}

/// A virtio disk at work. Dropping it resets the device: it does not reach memory any more.
#[derive(Debug)]
pub struct Block<F: Function> {
    /// The first to be dropped.
    transport: Transport<F>,
    queue: Queue<F>,
    has_indirect: bool,
    slots: Slots<F::Memory>,
    geometry: Geometry,
    /// By head.
    requests: Box<[Option<Request>]>,
    outstanding: usize,
    /// For each descriptor the one after it, in its chain or in the list of the free.
    next: Box<[u16]>,
    first_free: u16,
    free: u16,
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
        let has_indirect = features.contains(Features::INDIRECT);
        let (size, slot) = if has_indirect {
            (INDIRECT_SIZE, slot::INDIRECT_BYTES)
        } else {
            (DIRECT_SIZE, slot::DIRECT_BYTES)
        };
        let queue = transport.queue(0, size, features.contains(Features::EVENT_INDEX))?;
        let size = queue.size();
        // In a queue without tables a request must find room.
        let (room, depth) = if has_indirect {
            (MAX_SEGMENTS, size)
        } else {
            (size.saturating_sub(2), size / 3)
        };
        geometry.max_segments = geometry.max_segments.min(room);
        geometry.max_sectors = u32::from(geometry.max_segments).saturating_mul(PAGE_SECTORS);
        geometry.depth = depth;
        if geometry.max_segments == 0 || depth == 0 {
            return Err(StartError::Queue);
        }
        let slots = Slots::new(&mut transport, size, slot)?;
        transport.finish_init();
        Ok(Self {
            transport,
            queue,
            has_indirect,
            slots,
            geometry,
            requests: (0..size).map(|_| None).collect(),
            outstanding: 0,
            next: (1..=size).collect(),
            first_free: 0,
            free: size,
            done: VecDeque::with_capacity(size.into()),
            is_broken: false,
            is_idle: false,
        })
    }

    /// Describes a request whose first descriptor is `head`, the first of the free: its data between header and status. Returns the descriptor after
    /// its last, the first that is free then.
    fn describe(&self, head: u16, data: &[Segment], flags: u16) -> Option<u16> {
        let slot = self.slots.at(head)?;
        let segment = |offset, bytes| slot.segment(offset, bytes);
        let mut id = if self.has_indirect { 0 } else { head };
        let mut put = |Segment { address, bytes }, flags| {
            let next = if self.has_indirect {
                id.wrapping_add(1)
            } else {
                self.after(id)
            };
            let descriptor = Descriptor {
                address,
                bytes,
                flags,
                next,
            };
            if self.has_indirect {
                let place = slot.offset.wrapping_add(slot::TABLE);
                let place = place.wrapping_add(usize::from(id).wrapping_mul(DESCRIPTOR));
                descriptor.store(slot.memory, place);
            } else {
                self.queue.describe(id, descriptor);
            }
            id = next;
        };
        put(segment(slot::HEADER, 16), NEXT);
        for segment in data {
            put(*segment, flags | NEXT);
        }
        put(segment(slot::STATUS, 1), WRITE);
        if !self.has_indirect {
            return Some(id);
        }
        let Segment { address, bytes } = segment(slot::TABLE, u32::from(id).wrapping_mul(16));
        let table = Descriptor {
            address,
            bytes,
            flags: INDIRECT,
            next: 0,
        };
        self.queue.describe(head, table);
        Some(self.after(head))
    }

    /// The descriptor after one, in its chain or among the free.
    fn after(&self, id: u16) -> u16 {
        self.next.get(usize::from(id)).copied().unwrap_or(id)
    }

    /// The device does not do what it should: it is stopped, and all that it had ends.
    #[cold]
    fn break_down(&mut self, why: &str) {
        log::error!("{}: {why}: it is stopped", self.transport.address());
        self.is_broken = true;
        self.transport.stop();
        for request in self.requests.iter_mut().filter_map(Option::take) {
            self.done.push_back(Completion {
                tag: request.tag,
                result: Err(Failed::Broken),
            });
        }
        self.outstanding = 0;
    }

    /// Ends a request that the device has used; `None` if it has none such, or it cannot have ended so.
    fn finish(&mut self, used: Used) -> Option<Completion> {
        let head = u16::try_from(used.head).ok()?;
        let request = self.requests.get_mut(usize::from(head))?.take()?;
        let slot = self.slots.at(head)?;
        let status = slot.memory.load8(slot.offset.wrapping_add(slot::STATUS));
        self.give_back(head, request.descriptors);
        self.outstanding = self.outstanding.saturating_sub(1);
        let result = match status {
            status::OK if used.bytes == request.writes => Ok(()),
            // What was to be read is not all there, though the device does not mind.
            status::OK | status::IO_ERROR if used.bytes <= request.writes => {
                Err(Failed::Device(status.into()))
            }
            status::UNSUPPORTED if used.bytes <= request.writes => Err(Failed::Unsupported),
            _ => {
                // It is among those that end broken.
                self.done.push_back(Completion {
                    tag: request.tag,
                    result: Err(Failed::Broken),
                });
                return None;
            }
        };
        Some(Completion {
            tag: request.tag,
            result,
        })
    }

    /// Puts a chain's descriptors back to the free.
    fn give_back(&mut self, head: u16, count: u16) {
        let mut last = head;
        for _ in 1..count {
            last = self.after(last);
        }
        if let Some(next) = self.next.get_mut(usize::from(last)) {
            *next = core::mem::replace(&mut self.first_free, head);
            self.free = self.free.saturating_add(count);
        }
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
        if self.outstanding.saturating_add(self.done.len()) >= self.requests.len() {
            return Err(Refused::Full);
        }
        let head = self.first_free;
        let slot = self.slots.at(head).ok_or(Refused::Full)?;
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
        let descriptors = if self.has_indirect {
            1
        } else {
            // The number is small: the request was admitted.
            u16::try_from(data.len()).unwrap_or(u16::MAX).saturating_add(2)
        };
        if self.free < descriptors {
            return Err(Refused::Full);
        }
        slot.store64(slot::HEADER, kind.into());
        slot.store64(slot::HEADER.wrapping_add(8), first);
        let status = slot.offset.wrapping_add(slot::STATUS);
        slot.memory.store8(status, status::NONE);
        let mut writes = 1_u32;
        if flags == WRITE {
            writes = data
                .iter()
                .fold(writes, |sum, segment| sum.saturating_add(segment.bytes));
        }
        self.first_free = self.describe(head, data, flags).ok_or(Refused::Full)?;
        self.free = self.free.saturating_sub(descriptors);
        if let Some(place) = self.requests.get_mut(usize::from(head)) {
            *place = Some(Request {
                tag,
                descriptors,
                writes,
            });
        }
        self.outstanding = self.outstanding.saturating_add(1);
        self.queue.offer(head);
        Ok(())
    }

    fn commit(&mut self) {
        if !self.is_broken {
            self.queue.commit();
        }
    }

    fn take(&mut self) -> Option<Completion> {
        if let Some(done) = self.done.pop_front() {
            return Some(done);
        }
        if self.is_broken {
            return None;
        }
        match self.queue.take() {
            Ok(Some(used)) => {
                self.is_idle = false;
                let completion = self.finish(used);
                if completion.is_none() {
                    self.break_down("the disk completed what was not asked of it, or in no way known");
                    return self.done.pop_front();
                }
                completion
            }
            Ok(None) => {
                // Somebody was woken, and nothing is done: perhaps the device has something else to say.
                let is_awaited = core::mem::take(&mut self.is_idle) && self.outstanding != 0;
                if is_awaited && self.transport.needs_reset() {
                    self.break_down("the disk says that it cannot go on");
                }
                self.done.pop_front()
            }
            Err(_) => {
                self.break_down("the disk completed more than was asked of it");
                self.done.pop_front()
            }
        }
    }

    fn may_sleep(&mut self) -> bool {
        self.is_idle = self.done.is_empty() && (self.is_broken || self.queue.may_sleep());
        self.is_idle
    }
}

/// Memory for each head's header, status and table: pieces of a page, as larger ones are rarer.
#[derive(Debug)]
struct Slots<M> {
    pieces: Vec<M>,
    /// Bytes of a slot, which divide a page.
    bytes: usize,
}

/// Where a slot is.
struct Slot<'a, M> {
    memory: &'a M,
    offset: usize,
}

impl<M: DmaMemory> Slot<'_, M> {
    /// Part of it, for the device.
    fn segment(&self, offset: usize, bytes: u32) -> Segment {
        let address = self.memory.address_of(self.offset.wrapping_add(offset));
        Segment { address, bytes }
    }

    fn store64(&self, offset: usize, value: u64) {
        self.memory.store64(self.offset.wrapping_add(offset), value);
    }
}

impl<M> Slots<M> {
    /// So many slots of so many bytes.
    fn new<F: Function<Memory = M>>(
        transport: &mut Transport<F>,
        count: u16,
        bytes: usize,
    ) -> Result<Self, Denied> {
        let pieces = usize::from(count).saturating_mul(bytes).div_ceil(PAGE);
        let pieces = (0..pieces)
            .map(|_| transport.memory(PAGE))
            .collect::<Result<_, _>>()?;
        Ok(Self { pieces, bytes })
    }

    fn at(&self, head: u16) -> Option<Slot<'_, M>> {
        let at = usize::from(head).wrapping_mul(self.bytes);
        Some(Slot {
            memory: self.pieces.get(at / PAGE)?,
            offset: at % PAGE,
        })
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
