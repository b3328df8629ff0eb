//! Page-table updates collected into few hypercalls.

use bulkhead_abi::{errno::Failure, mmu::MmuUpdate};

use crate::hypercall;

/// Updates that are not made yet.
pub(super) struct Batch {
    updates: [MmuUpdate; Self::CAPACITY],
    len: usize,
}

impl Batch {
    /// 2 KiB on the stack, and well under the time that the hypervisor spends in one call.
    const CAPACITY: usize = 128;

    pub(super) fn new() -> Self {
        Self {
            updates: [MmuUpdate::default(); Self::CAPACITY],
            len: 0,
        }
    }

    /// Adds the update of the entry at machine address `maddr` to `entry`; makes all collected updates if
    /// there is no room.
    ///
    /// # Safety
    ///
    /// As [`hypercall::mmu_update`] for this update, whenever it is made.
    pub(super) unsafe fn push(&mut self, maddr: u64, entry: u64) -> Result<(), Failure> {
        if self.len == Self::CAPACITY {
            self.flush()?;
        }
        if let Some(free) = self.updates.get_mut(self.len) {
            *free = MmuUpdate {
                ptr: maddr,
                val: entry,
            };
            self.len = self.len.saturating_add(1);
        }
        Ok(())
    }

    /// Makes the collected updates.
    pub(super) fn flush(&mut self) -> Result<(), Failure> {
        let updates = self.updates.get(..self.len).unwrap_or_default();
        self.len = 0;
        if updates.is_empty() {
            return Ok(());
        }
        // SAFETY: each update was pushed under the same promise.
        unsafe { hypercall::mmu_update(updates) }
    }
}
