//! Grants: how a domain lets another use its frames, version 1 of the ABI's tables.
//!
//! A domain has a *table*, frames that it shares with the hypervisor. In an entry of it, named by a reference, it says who may
//! use which frame and how. The other domain maps the frame into its address space, keeps it for a device, or copies to or from
//! it. Who uses a grant is the *grantee*; whose table it is, the *grantor*.
//!
//! The law: an access through a grant is never wider or longer than the grant, and revocation is exact: while the hypervisor shows an entry as
//! unused, nobody can reach the frame by it. It follows from three books:
//! - [`GrantTable`] has, for each entry, how many uses there are and of which frame: that which stood in the entry when the first
//!   began. The bits that tell the grantor of use are set before the first use begins, and cleared when the last has
//!   ended and every TLB has forgotten it.
//! - [`MapTrack`] has a grantee's mappings, by handle. A mapping counts as one use for the page-table entry and one for the device.
//! - The frame table: a page-table entry that was made by a grant holds its frame as any other does; so does a device's use. A
//!   frame that a device may write is no page table, and no frame is given away while it is held. What the grantee's devices reach by it
//!   stands in the grantee's [space](crate::dma).
//!
//! A guest may write another entry over one that was made by a grant. That one then holds nothing any more, while the mapping stays open,
//! and the grantor sees the grant in use, until the grantee ends.
//!
//! Locks: a domain's table and its mappings have a lock each, of which one at a time is held, and neither while
//! a page table is changed or a TLB flushed.

mod copy;
mod entry;
mod giving;
mod grow;
mod mapping;
mod maptrack;
mod table;

pub(crate) use copy::{Copy, End};
pub(crate) use giving::Giving;
pub(crate) use mapping::{HostMap, MapRequest, Place, UnmapRequest, Unmapping};
pub use maptrack::MapTrack;
#[cfg(any(test, feature = "testing"))]
pub(crate) use maptrack::{Mapping, Names};
pub use table::GrantTable;
#[cfg(any(test, feature = "testing"))]
pub(crate) use table::InUse;

use crate::frames::Kind;
use crate::paging::PagingError;
use bulkhead_abi::grant::GrantStatus;

/// How a grant is used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rights {
    /// Only to read.
    ReadOnly,
    /// To read and to write.
    ReadWrite,
}

impl Rights {
    /// What a frame must be for it to be used like this.
    const fn kind(self) -> Option<Kind> {
        match self {
            Self::ReadOnly => None,
            Self::ReadWrite => Some(Kind::Writable),
        }
    }
}

/// How much a domain may have the hypervisor keep for its grants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Frames of its table.
    pub frames: u32,
    /// Mappings of others' grants.
    pub maps: u32,
    /// Leaves of its [space](crate::dma), while it has no devices.
    pub leaves: u64,
}

impl Default for Limits {
    /// As many frames as Linux guests find on Xen; mappings for a few dozen devices' rings, requests in flight included; leaves for 1 GiB.
    fn default() -> Self {
        Self {
            frames: 64,
            maps: 8192,
            leaves: 512,
        }
    }
}

/// Why one element of a grant operation is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GrantError {
    /// There is no such domain.
    NoDomain,
    /// The caller has no power over that domain.
    Denied,
    /// The grantor's table has no such entry.
    NoEntry,
    /// The entry does not grant this to the caller: it is of another type or for another domain, or allows reading only.
    NotGranted,
    /// The entry accepts no frame from the caller, or offers none that can be had.
    NotOffered,
    /// The other domain has as many frames as it may.
    NoRoom,
    /// The entry changes all the time, or is used as often as can be counted.
    Contended,
    /// The entry is in use, and is to stay what it is until it is not.
    InUse,
    /// The operation does not exist in this form.
    BadFlags,
    /// No mapping has this handle.
    NoMapping,
    /// The caller has as many mappings as it may, or the hypervisor no memory for another.
    NoHandle,
    /// The address is none where an entry can stand.
    BadAddress,
    /// It is not the device address that the mapping has.
    BadDeviceAddress,
    /// There is no room for another frame in what the caller's devices may reach.
    NoDeviceSpace,
    /// Page tables stand in the way: the caller's have no such entry, or another, or the frame cannot be used like this.
    Paging(PagingError),
    /// A frame of the caller's own that it has not, or not for this.
    BadFrame,
    /// A copy crosses the end of a frame.
    BadRange,
    /// The table would be larger than it may.
    TooLarge,
    /// There is no memory for a larger table.
    NoMemory,
    /// The hypervisor has no memory left for its own records of one.
    NoHeap,
    /// The operation has done what may be done in one go: the same again will get further.
    Again,
}

impl From<PagingError> for GrantError {
    fn from(error: PagingError) -> Self {
        if error == PagingError::Again {
            Self::Again
        } else {
            Self::Paging(error)
        }
    }
}

impl GrantError {
    /// How the error is reported in its element; `None` if it is not, and the operation is to be started again.
    pub(crate) const fn status(self) -> Option<GrantStatus> {
        Some(match self {
            Self::NoDomain => GrantStatus::BadDomain,
            Self::Denied => GrantStatus::PermissionDenied,
            Self::NoEntry | Self::NotOffered | Self::BadFlags => GrantStatus::BadGntref,
            Self::NotGranted
            | Self::Contended
            | Self::Paging(_)
            | Self::TooLarge
            | Self::NoMemory
            | Self::NoHeap
            | Self::NoRoom => GrantStatus::GeneralError,
            Self::InUse => GrantStatus::Eagain,
            Self::NoMapping => GrantStatus::BadHandle,
            Self::NoHandle => GrantStatus::NoSpace,
            Self::BadAddress => GrantStatus::BadVirtAddr,
            Self::BadDeviceAddress => GrantStatus::BadDevAddr,
            Self::NoDeviceSpace => GrantStatus::NoDeviceSpace,
            Self::BadFrame => GrantStatus::BadPage,
            Self::BadRange => GrantStatus::BadCopyArg,
            Self::Again => return None,
        })
    }
}
