//! Requests in a queue: each is a chain of descriptors, with a slot of memory for what the device needs beside the caller's.
//!
//! Where the device takes indirect descriptors a chain is one descriptor of the queue that leads to a table: so the queue is as deep as it is
//! long, whatever the requests are. Without them it takes as many as it has parts. Each head has a slot, in which its table is, and the headers and
//! statuses that its request has.

use alloc::boxed::Box;
use alloc::vec::Vec;

use bulkhead_devices::disk::{Refused, Segment};
use bulkhead_devices::function::{Denied, DmaMemory, Function};

use crate::queue::{DESCRIPTOR, Descriptor, INDIRECT, NEXT, Nonsense, Queue};
use crate::transport::{StartError, Transport};

/// Bytes of a page, which is what pieces of memory with slots are.
const PAGE: usize = 4096;

/// What a queue is to be like.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Layout {
    /// The most descriptors of the queue, a power of two.
    pub(crate) size: u16,
    /// Bytes of a slot, which divide a page.
    pub(crate) slot: usize,
    /// Where in its slot a chain's table is, up to the slot's end, a multiple of 16. `None` without indirect descriptors.
    pub(crate) table: Option<usize>,
    /// Whether both sides say at which index they want to be told.
    pub(crate) has_event_index: bool,
}

/// A request that the device has.
#[derive(Clone, Copy, Debug)]
struct Chain<T> {
    request: T,
    /// The queue's descriptors that it takes.
    descriptors: u16,
}

/// What the device has done with.
#[derive(Debug)]
pub(crate) struct Done<'a, M, T> {
    pub(crate) request: T,
    pub(crate) slot: Slot<'a, M>,
    /// How many bytes the device says to have written.
    pub(crate) bytes: u32,
}

/// A queue, and the requests in it.
#[derive(Debug)]
pub(crate) struct Chains<F: Function, T> {
    queue: Queue<F>,
    slots: Slots<F::Memory>,
    table: Option<usize>,
    /// By head.
    chains: Box<[Option<Chain<T>>]>,
    outstanding: u16,
    /// For each descriptor the one after it, in its chain or in the list of the free.
    next: Box<[u16]>,
    first_free: u16,
    free: u16,
}

impl<F: Function, T> Chains<F, T> {
    /// Makes queue `number` of a device, and slots.
    pub(crate) fn new(transport: &mut Transport<F>, number: u16, layout: Layout) -> Result<Self, StartError> {
        let queue = transport.queue(number, layout.size, layout.has_event_index)?;
        let size = queue.size();
        Ok(Self {
            slots: Slots::new(transport, size, layout.slot)?,
            queue,
            table: layout.table,
            chains: (0..size).map(|_| None).collect(),
            outstanding: 0,
            next: (1..=size).collect(),
            first_free: 0,
            free: size,
        })
    }

    /// The most parts of a request.
    pub(crate) fn max_parts(&self) -> u16 {
        match self.table {
            None => self.queue.size(),
            Some(table) => {
                let parts = self.slots.bytes.saturating_sub(table) / DESCRIPTOR;
                u16::try_from(parts).unwrap_or(u16::MAX)
            }
        }
    }

    /// How many requests of so many parts, 1 at least, can be outstanding.
    pub(crate) fn depth(&self, parts: u16) -> u16 {
        match self.table {
            None => self.queue.size().checked_div(parts).unwrap_or(0),
            Some(_) => self.queue.size(),
        }
    }

    /// How many requests are outstanding.
    pub(crate) const fn outstanding(&self) -> u16 {
        self.outstanding
    }

    /// The slot of the next request.
    pub(crate) fn slot(&self) -> Result<Slot<'_, F::Memory>, Refused> {
        self.slots.at(self.first_free).ok_or(Refused::Full)
    }

    /// Puts a request to those that the device will be told of: its parts, [`max_parts`](Self::max_parts) at most, each with the flags of its
    /// descriptor. What the device reads comes before what it writes.
    pub(crate) fn offer(
        &mut self,
        request: T,
        parts: impl Iterator<Item = (Segment, u16)> + Clone,
    ) -> Result<(), Refused> {
        let count = u16::try_from(parts.clone().count()).unwrap_or(u16::MAX);
        let descriptors = if self.table.is_some() { 1 } else { count };
        if self.free < descriptors {
            return Err(Refused::Full);
        }
        let head = self.first_free;
        self.first_free = self.describe(head, count, parts).ok_or(Refused::Full)?;
        self.free = self.free.saturating_sub(descriptors);
        if let Some(place) = self.chains.get_mut(usize::from(head)) {
            *place = Some(Chain { request, descriptors });
        }
        self.outstanding = self.outstanding.saturating_add(1);
        self.queue.offer(head);
        Ok(())
    }

    /// Describes a request whose first descriptor is `head`, the first of the free. Returns the descriptor after its last, the first that
    /// is free then.
    fn describe(&self, head: u16, count: u16, parts: impl Iterator<Item = (Segment, u16)>) -> Option<u16> {
        let slot = self.slots.at(head)?;
        let mut id = if self.table.is_some() { 0 } else { head };
        for (n, (Segment { address, bytes }, flags)) in (1..=count).zip(parts) {
            let is_last = n == count;
            let next = if self.table.is_some() { n } else { self.after(id) };
            let descriptor = Descriptor {
                address,
                bytes,
                flags: if is_last { flags } else { flags | NEXT },
                next,
            };
            if let Some(table) = self.table {
                let place = table.wrapping_add(usize::from(id).wrapping_mul(DESCRIPTOR));
                descriptor.store(slot.memory, slot.offset.wrapping_add(place));
            } else {
                self.queue.describe(id, descriptor);
            }
            id = next;
        }
        let Some(table) = self.table else {
            return Some(id);
        };
        let Segment { address, bytes } = slot.segment(table, u32::from(count).wrapping_mul(16));
        let table = Descriptor {
            address,
            bytes,
            flags: INDIRECT,
            next: 0,
        };
        self.queue.describe(head, table);
        Some(self.after(head))
    }

    /// Tells the device of what was offered.
    pub(crate) fn commit(&mut self) {
        self.queue.commit();
    }

    /// Takes a request that the device has done with, if there is one.
    pub(crate) fn take(&mut self) -> Result<Option<Done<'_, F::Memory, T>>, Nonsense> {
        let Some(used) = self.queue.take()? else {
            return Ok(None);
        };
        let head = u16::try_from(used.head).map_err(|_| Nonsense)?;
        let place = self.chains.get_mut(usize::from(head)).ok_or(Nonsense)?;
        let chain = place.take().ok_or(Nonsense)?;
        self.give_back(head, chain.descriptors);
        self.outstanding = self.outstanding.saturating_sub(1);
        Ok(Some(Done {
            request: chain.request,
            slot: self.slots.at(head).ok_or(Nonsense)?,
            bytes: used.bytes,
        }))
    }

    /// Has the device interrupt when it has done with something from now on. Says whether there is nothing that is not taken.
    pub(crate) fn may_sleep(&mut self) -> bool {
        self.queue.may_sleep()
    }

    /// Takes back all requests of a device that is stopped.
    pub(crate) fn abandon(&mut self) -> impl Iterator<Item = T> {
        self.outstanding = 0;
        self.chains
            .iter_mut()
            .filter_map(|place| Some(place.take()?.request))
    }

    /// The descriptor after one, in its chain or among the free.
    fn after(&self, id: u16) -> u16 {
        self.next.get(usize::from(id)).copied().unwrap_or(id)
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

/// Memory for each head's slot: pieces of a page, as larger ones are rarer.
#[derive(Debug)]
struct Slots<M> {
    pieces: Vec<M>,
    /// Bytes of a slot, which divide a page.
    bytes: usize,
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

/// Where a slot is.
#[derive(Debug)]
pub(crate) struct Slot<'a, M> {
    memory: &'a M,
    offset: usize,
}

impl<M: DmaMemory> Slot<'_, M> {
    /// Part of it, for the device.
    pub(crate) fn segment(&self, offset: usize, bytes: u32) -> Segment {
        let address = self.memory.address_of(self.offset.wrapping_add(offset));
        Segment { address, bytes }
    }

    /// Copies bytes out.
    pub(crate) fn read(&self, offset: usize, to: &mut [u8]) {
        self.memory.read(self.offset.wrapping_add(offset), to);
    }

    pub(crate) fn load8(&self, offset: usize) -> u8 {
        self.memory.load8(self.offset.wrapping_add(offset))
    }

    pub(crate) fn store8(&self, offset: usize, value: u8) {
        self.memory.store8(self.offset.wrapping_add(offset), value);
    }

    pub(crate) fn store64(&self, offset: usize, value: u64) {
        self.memory.store64(self.offset.wrapping_add(offset), value);
    }
}
