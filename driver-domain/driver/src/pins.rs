//! Guests' pages that devices use: pinned by device maps, a batch by one call.

use alloc::vec::Vec;

use bulkhead_abi::grant::GrantStatus;
use bulkhead_backend::pins::{Map, Pin, Rights};
use bulkhead_devices::BusAddress;
use bulkhead_runtime::grant::{Access, DeviceMapping, GrantError, GrantRef, MapRequest};

/// Pins guests' pages.
#[derive(Debug, Default)]
pub(crate) struct GuestPins {
    /// What came of a batch, kept for its memory.
    mapped: Vec<Result<Pin, GrantStatus>>,
}

/// What a back-end is told of an error; what is none of the guest's is an error in general.
pub(crate) fn status(error: GrantError) -> GrantStatus {
    match error {
        GrantError::Refused(status) => status,
        GrantError::Unknown(_)
        | GrantError::Call(_)
        | GrantError::TableFull
        | GrantError::NoAddress
        | GrantError::NoFrame => GrantStatus::GeneralError,
    }
}

impl GuestPins {
    /// Pins pages, and fills in what came of each.
    pub(crate) fn map(&mut self, maps: &mut [Map]) {
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

    /// Gives pins back. Says how many were refused.
    pub(crate) fn unmap(pins: &[Pin]) -> usize {
        DeviceMapping::unmap_each(
            pins.iter()
                .map(|pin| DeviceMapping::from_parts(pin.handle, pin.address.0)),
        )
    }
}
