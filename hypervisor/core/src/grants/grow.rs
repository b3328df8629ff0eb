//! The frames of a grant table: how a domain comes to have more of them, and loses them all at its end.

use super::{GrantError, GrantTable, table};
use crate::domains::Domain;
use crate::frames::Mfn;
use crate::machine::Machine;
use crate::memory::Memory;
use crate::paging::Work;
use bulkhead_abi::DomId;

/// What making a frame of the table is worth, in entries looked at.
const FRAME_WORTH: u32 = 32;

impl<M: Machine> Memory<M> {
    /// Lets the table of `domain` have `count` frames at least.
    ///
    /// # Errors
    ///
    /// [`GrantError::TooLarge`], [`GrantError::NoMemory`], [`GrantError::NoHeap`], [`GrantError::Again`]. Frames that were made stay.
    pub(crate) fn grow_table(&self, domain: &Domain, count: u32, work: &mut Work) -> Result<(), GrantError> {
        if count > domain.grants.lock().limit() {
            return Err(GrantError::TooLarge);
        }
        loop {
            let len = domain.grants.lock().frames().len();
            if len >= count as usize {
                return Ok(());
            }
            if work.is_over() {
                return Err(GrantError::Again);
            }
            work.spend(FRAME_WORTH);
            let (mfn, uses) = self.new_frame(domain.id)?;
            if !domain.grants.lock().push(len, mfn, uses) {
                self.unshare(mfn);
                // Another vCPU was faster, or there is no room for one more record.
                if domain.grants.lock().frames().len() == len {
                    return Err(GrantError::NoHeap);
                }
            }
        }
    }

    /// The table that a new domain begins with: of one frame, and `limit` at most.
    ///
    /// # Errors
    ///
    /// [`GrantError::NoMemory`], [`GrantError::NoHeap`].
    pub(crate) fn new_table(&self, owner: DomId, limit: u32) -> Result<GrantTable, GrantError> {
        let mut table = GrantTable::new(limit);
        let (mfn, uses) = self.new_frame(owner)?;
        if table.push(0, mfn, uses) {
            Ok(table)
        } else {
            self.unshare(mfn);
            Err(GrantError::NoHeap)
        }
    }

    /// Gives up the last frame of the table of `domain`, which ends. Says whether there was one.
    pub(crate) fn shrink_table(&self, domain: &Domain) -> bool {
        let last = domain.grants.lock().pop();
        let was_there = last.is_some();
        if let Some(mfn) = last {
            self.unshare(mfn);
        }
        was_there
    }

    /// A frame for the table of `owner`, and room for the uses of its entries.
    fn new_frame(&self, owner: DomId) -> Result<(Mfn, table::Uses), GrantError> {
        let uses = table::uses().ok_or(GrantError::NoHeap)?;
        let mfn = self.share(owner).ok_or(GrantError::NoMemory)?;
        Ok((mfn, uses))
    }
}
