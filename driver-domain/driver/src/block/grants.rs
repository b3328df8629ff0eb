//! Guests' pages, as the disks' back-end wants them: pinned for the disk, and copied from where they are indirect.

use bulkhead_abi::DomId;
use bulkhead_abi::grant::GrantStatus;
use bulkhead_blkback::grants::{Grants, Map, Pin};
use bulkhead_runtime::grant::{CopyBatch, GrantRef, Remote};

use crate::pins::{GuestPins, status};

/// The grants of all guests.
#[derive(Debug, Default)]
pub(crate) struct GuestGrants(GuestPins);

impl Grants for GuestGrants {
    fn map(&mut self, maps: &mut [Map]) {
        self.0.map(maps);
    }

    fn unmap(&mut self, pins: &[Pin]) -> usize {
        GuestPins::unmap(pins)
    }

    fn read(&mut self, domain: DomId, gref: u32, to: &mut [u8]) -> Result<(), GrantStatus> {
        let mut batch = CopyBatch::new();
        let from = Remote {
            domain,
            reference: GrantRef::new(gref),
            offset: 0,
        };
        batch.copy_from(from, to).map_err(|_| GrantStatus::GeneralError)?;
        let mut result = Ok(());
        batch.run(|copied| result = copied.map_err(status));
        result
    }
}
