//! A split virtqueue over bus addresses (section 2.7): descriptors of memory, a ring of what is offered to the device, a ring of what it has
//! used.
//!
//! Memory is named by its bus address alone. What is offered is told to the device by [`Queue::commit`] at once, however much it is. What
//! the device writes is checked: it uses what it was told of, and each once.
//!
//! # Who wakes whom
//!
//! Both sides publish an index, then look whether the other wants to be told; and say that they want to be told, then look at the
//! other's index. Between the two of a pair stands a full fence, or both could miss each other.

use core::sync::atomic::{Ordering, fence};

use bulkhead_devices::BusAddress;
use bulkhead_devices::function::{DmaMemory, Function};

use crate::transport::Doorbell;

/// Flag of a descriptor: another follows.
pub(crate) const NEXT: u16 = 1;
/// Flag of a descriptor: the device writes the memory.
pub(crate) const WRITE: u16 = 2;
/// Flag of a descriptor: the memory is a table of descriptors.
pub(crate) const INDIRECT: u16 = 4;

/// Bytes of a descriptor.
pub(crate) const DESCRIPTOR: usize = 16;

/// Flag of the ring of offers: no interrupt is wanted.
const NO_INTERRUPT: u16 = 1;
/// Flag of the ring of what is used: the device need not be told.
const NO_NOTIFY: u16 = 1;

/// Memory for the device, and what it does with it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Descriptor {
    pub(crate) address: BusAddress,
    pub(crate) bytes: u32,
    pub(crate) flags: u16,
    /// The next one's number, if [`NEXT`] is set.
    pub(crate) next: u16,
}

impl Descriptor {
    /// Writes it to memory.
    pub(crate) fn store(self, memory: &impl DmaMemory, at: usize) {
        let rest = u64::from(self.bytes) | u64::from(self.flags) << 32 | u64::from(self.next) << 48;
        memory.store64(at, self.address.0);
        memory.store64(at.wrapping_add(8), rest);
    }
}

/// Something that the device has used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Used {
    /// What the device says was its first descriptor.
    pub(crate) head: u32,
    /// How many bytes it says to have written.
    pub(crate) bytes: u32,
}

/// The device says that it has used more than it was told of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Nonsense;

/// The driver's side of a queue. All indices count without end, in 16 bits.
#[derive(Debug)]
pub(crate) struct Queue<F: Function> {
    memory: F::Memory,
    doorbell: Doorbell<F::Registers>,
    size: u16,
    /// Each side says at which index it wants to be told, and not only whether.
    has_event_index: bool,
    /// What was offered.
    offered: u16,
    /// What the device was told of.
    committed: u16,
    /// What was taken of what the device has used.
    taken: u16,
    /// What the device was seen to have used.
    used: u16,
    /// Without event indices: whether the device was asked to interrupt.
    wants_interrupt: bool,
}

impl<F: Function> Queue<F> {
    /// Bytes of memory for a queue of `size` descriptors.
    pub(crate) fn bytes(size: u16) -> usize {
        let size = usize::from(size);
        Self::device_offset(size).saturating_add(size.saturating_mul(8).saturating_add(6))
    }

    /// A queue of `size` descriptors, a power of two, in memory of so many [bytes](Self::bytes).
    pub(crate) const fn new(
        memory: F::Memory,
        doorbell: Doorbell<F::Registers>,
        size: u16,
        has_event_index: bool,
    ) -> Self {
        Self {
            memory,
            doorbell,
            size,
            has_event_index,
            offered: 0,
            committed: 0,
            taken: 0,
            used: 0,
            wants_interrupt: true,
        }
    }

    /// Where the device finds descriptors, offers, and the ring that it writes.
    pub(crate) fn addresses(&self) -> [BusAddress; 3] {
        [0, self.offers(), self.uses()].map(|offset| self.memory.address_of(offset))
    }

    /// How many descriptors there are.
    pub(crate) const fn size(&self) -> u16 {
        self.size
    }

    /// Writes descriptor `id`. It is in nothing that was offered and not taken back.
    pub(crate) fn describe(&self, id: u16, descriptor: Descriptor) {
        descriptor.store(&self.memory, usize::from(id).wrapping_mul(DESCRIPTOR));
    }

    /// Offers what begins with descriptor `head`, which is not offered already.
    pub(crate) fn offer(&mut self, head: u16) {
        let at = self
            .offers()
            .wrapping_add(4)
            .wrapping_add(self.place(self.offered, 2));
        self.memory.store16(at, head);
        self.offered = self.offered.wrapping_add(1);
    }

    /// Lets the device see what was offered, and tells it, if it wants to be told.
    pub(crate) fn commit(&mut self) {
        let before = core::mem::replace(&mut self.committed, self.offered);
        if before == self.committed {
            return;
        }
        self.memory.store16(self.offers().wrapping_add(2), self.committed);
        // With the device's fence between its event index and its look at ours.
        fence(Ordering::SeqCst);
        let is_wanted = if self.has_event_index {
            let event = self.memory.load16(self.avail_event());
            // Whether the index has passed what the device waits for.
            let since_event = self.committed.wrapping_sub(event).wrapping_sub(1);
            since_event < self.committed.wrapping_sub(before)
        } else {
            self.memory.load16(self.uses()) & NO_NOTIFY == 0
        };
        if is_wanted {
            self.doorbell.ring();
        }
    }

    /// Takes one of those that the device has used, if there is one.
    pub(crate) fn take(&mut self) -> Result<Option<Used>, Nonsense> {
        if self.taken == self.used && !self.look()? {
            return Ok(None);
        }
        if self.wants_interrupt && !self.has_event_index {
            self.wants_interrupt = false;
            self.memory.store16(self.offers(), NO_INTERRUPT);
        }
        let at = self
            .uses()
            .wrapping_add(4)
            .wrapping_add(self.place(self.taken, 8));
        let used = Used {
            head: self.memory.load32(at),
            bytes: self.memory.load32(at.wrapping_add(4)),
        };
        self.taken = self.taken.wrapping_add(1);
        Ok(Some(used))
    }

    /// Has the device interrupt when it uses something from now on. Says whether it has used nothing that is not taken.
    pub(crate) fn may_sleep(&mut self) -> bool {
        if self.has_event_index {
            self.memory.store16(self.used_event(), self.taken);
        } else if !self.wants_interrupt {
            self.wants_interrupt = true;
            self.memory.store16(self.offers(), 0);
        }
        // With the device's fence between its index and its look at what we want.
        fence(Ordering::SeqCst);
        self.memory.load16(self.uses().wrapping_add(2)) == self.taken
    }

    /// Looks what the device has used. Says whether there is something to take.
    fn look(&mut self) -> Result<bool, Nonsense> {
        let used = self.memory.load16(self.uses().wrapping_add(2));
        let fresh = used.wrapping_sub(self.taken);
        if fresh > self.committed.wrapping_sub(self.taken) {
            return Err(Nonsense);
        }
        self.used = used;
        Ok(fresh != 0)
    }

    /// Where in a ring of records of `bytes` bytes index `index` is.
    fn place(&self, index: u16, bytes: usize) -> usize {
        // The size is a power of two.
        usize::from(index & self.size.wrapping_sub(1)).wrapping_mul(bytes)
    }

    const fn driver_offset(size: usize) -> usize {
        size.saturating_mul(DESCRIPTOR)
    }

    const fn device_offset(size: usize) -> usize {
        let offers = size.saturating_mul(2).saturating_add(6);
        Self::driver_offset(size)
            .saturating_add(offers)
            .next_multiple_of(4)
    }

    const fn offers(&self) -> usize {
        Self::driver_offset(self.size as usize)
    }

    const fn uses(&self) -> usize {
        Self::device_offset(self.size as usize)
    }

    /// Where the driver says from which index on it wants to be told: behind the ring of offers.
    fn used_event(&self) -> usize {
        self.offers()
            .wrapping_add(4)
            .wrapping_add(usize::from(self.size).wrapping_mul(2))
    }

    /// Where the device does so: behind its own ring.
    fn avail_event(&self) -> usize {
        self.uses()
            .wrapping_add(4)
            .wrapping_add(usize::from(self.size).wrapping_mul(8))
    }
}
