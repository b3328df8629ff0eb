//! Guests' pages, as the back-end wants them: pinned for the disk by device maps, and copied from where they are indirect.

use alloc::vec::Vec;

use bulkhead_abi::DomId;
use bulkhead_abi::grant::GrantStatus;
use bulkhead_blkback::grants::{Grants, Map, Pin, Rights};
use bulkhead_devices::BusAddress;
use bulkhead_runtime::grant::{Access, CopyBatch, DeviceMapping, GrantError, GrantRef, MapRequest, Remote};

/// The grants of all guests.
#[derive(Debug, Default)]
pub(crate) struct GuestGrants {
    /// What came of a batch, kept for its memory.
    mapped: Vec<Result<Pin, GrantStatus>>,
}

/// What the back-end is told of an error; what is none of the guest's is an error in general.
fn status(error: GrantError) -> GrantStatus {
    match error {
        GrantError::Refused(status) => status,
        GrantError::Unknown(_)
        | GrantError::Call(_)
        | GrantError::TableFull
        | GrantError::NoAddress
        | GrantError::NoFrame => GrantStatus::GeneralError,
    }
}

impl Grants for GuestGrants {
    fn map(&mut self, maps: &mut [Map]) {
        let requests = maps.iter().map(|map| MapRequest {
            domain: map.domain,
            reference: GrantRef::new(map.gref),
            access: match map.rights {
                Rights::Read => Access::ReadOnly,
                Rights::Write => Access::ReadWrite,
            },
        });
        let mapped = &mut self.mapped;
        mapped.clear();
        DeviceMapping::map_each(requests, |result| {
            mapped.push(result.map_err(status).map(|mapping| {
                let (handle, address) = mapping.into_parts();
                Pin {
                    handle,
                    address: BusAddress(address),
                }
            }));
        });
        for (map, result) in maps.iter_mut().zip(mapped) {
            map.result = *result;
        }
    }

    fn unmap(&mut self, pins: &[Pin]) -> usize {
        DeviceMapping::unmap_each(
            pins.iter()
                .map(|pin| DeviceMapping::from_parts(pin.handle, pin.address.0)),
        )
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
