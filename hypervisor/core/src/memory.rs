//! Machine memory: the frame table, the allocator, and what happens to a frame when its last reference goes.

use crate::frames::{Buddy, FrameList, FrameTable, Mfn, Pfn, RefError, table::Put};
use crate::lock::{Lock, Rank};
use crate::machine::{Flush, Machine};
use bulkhead_abi::DomId;

/// All the machine's frames, with the hardware that holds them.
#[derive(Debug)]
pub struct Memory<M> {
    pub(crate) machine: M,
    pub(crate) frames: FrameTable,
    buddy: Lock<Buddy, { Rank::Buddy as u32 }>,
}

/// The machine-to-pseudo-physical entry of a frame that has no page number in its owner's numbering.
pub const M2P_INVALID: u64 = u64::MAX;

impl<M: Machine> Memory<M> {
    /// Ties the machine to its frame table; `buddy` has the frames that are free.
    pub fn new(machine: M, frames: FrameTable, buddy: Buddy) -> Self {
        Self {
            machine,
            frames,
            buddy: Lock::new(buddy),
        }
    }

    /// The hardware.
    pub fn machine(&self) -> &M {
        &self.machine
    }

    /// The frame table.
    pub fn frames(&self) -> &FrameTable {
        &self.frames
    }

    /// How many frames are free.
    pub fn free_frames(&self) -> u64 {
        self.buddy.lock().free_frames()
    }

    /// Checks the allocator's own books: see [`Buddy::invariants`].
    ///
    /// # Panics
    ///
    /// If they are wrong. For tests.
    #[cfg(any(test, feature = "testing"))]
    pub fn check_allocator(&self) {
        self.buddy.lock().invariants();
    }

    /// Takes 2^`order` frames for `owner`, puts them on `list`, zeroed and with no page number.
    ///
    /// Returns the first frame, or `None` if there is no free block that large.
    pub fn allocate(&self, order: u8, owner: DomId, list: &mut FrameList) -> Option<Mfn> {
        let first = self.buddy.lock().alloc(order)?;
        for n in 0..1_u64 << order {
            let Some(mfn) = first.offset(n) else { break };
            self.prepare(mfn, owner, false);
            list.push(&self.frames, mfn);
        }
        Some(first)
    }

    /// Takes one frame that the hypervisor keeps for `owner`'s use: zeroed, and not counted as the domain's memory.
    pub fn allocate_shared(&self, owner: DomId) -> Option<Mfn> {
        let mfn = self.buddy.lock().alloc(0)?;
        self.prepare(mfn, owner, true);
        Some(mfn)
    }

    fn prepare(&self, mfn: Mfn, owner: DomId, is_hypervisors: bool) {
        self.machine.zero_frame(mfn);
        self.machine.set_m2p(mfn, M2P_INVALID);
        let assigned = self.frames.assign(mfn, owner, is_hypervisors);
        debug_assert_eq!(assigned, Ok(()), "{mfn:?} came from the allocator");
    }

    /// Records that `mfn` is page `pfn` of its owner.
    pub fn set_pfn(&self, mfn: Mfn, pfn: Pfn) {
        self.machine.set_m2p(mfn, pfn.raw());
    }

    /// Takes a reference to a frame of `owner`'s.
    ///
    /// # Errors
    ///
    /// As [`FrameTable::get`].
    pub(crate) fn get(&self, mfn: Mfn, owner: DomId) -> Result<(), RefError> {
        self.frames.get(mfn, owner)
    }

    /// Gives a reference back, and frees the frame if it was the last.
    pub(crate) fn put(&self, mfn: Mfn) {
        match self.frames.put(mfn) {
            Put::Held => {}
            Put::Last => {
                // Nobody refers to the frame any more, but a TLB may: forget it everywhere before it can be
                // anyone else's. It is scrubbed as it is freed, so that free memory never holds a secret.
                self.machine.flush(Flush::All);
                self.machine.zero_frame(mfn);
                self.machine.set_m2p(mfn, M2P_INVALID);
                self.buddy.lock().free(mfn, 0);
            }
        }
    }

    /// Gives back the base reference of a frame that has just been taken off its owner's list.
    pub(crate) fn release(&self, mfn: Mfn) {
        self.put(mfn);
    }
}

#[cfg(test)]
#[cfg(not(loom))]
mod tests;
