//! Grants: memory that domains share.
//!
//! A domain that shares a page ([`Grant`]) writes into its grant table who may use it; the other is told the number of the entry
//! ([`GrantRef`]), and
//!
//! - maps the page ([`Mapping`]), to read and write it at will;
//! - holds it for a device ([`DeviceMapping`]), which reads and writes it by its machine address;
//! - or copies to and from it ([`CopyBatch`]), which costs least for a few bytes, and nothing is left behind.
//!
//! Each of these can be done to many grants by one hypercall; a back-end does so for all requests that it finds in a ring.
//!
//! A page that is shared is written by others at any time: what is read from it is an allegation. It is copied out once, and checked then.
//!
//! The page is the grant's own for as long as that lasts, and a grant in use cannot be ended: so a page that the program has back is no
//! other domain's any more. The hypervisor sees to the other direction: a mapping lasts until it is given up, whatever its grantor does.
//!
//! Frames change hands, too: a domain [offers](Offer) a page, and gets another's in exchange for it, from a [pool](crate::device::FlipPool).

mod copy;
mod entry;
mod map;
mod offer;
mod share;
mod table;

use core::fmt;

use bulkhead_abi::errno::Failure;
pub use bulkhead_abi::grant::GrantStatus;

pub use self::{
    copy::{Copy, CopyBatch, CopyError, Place, Remote, copy_each},
    map::{DeviceMapping, MapRequest, Mapping},
    offer::{Offer, Withdrawn},
    share::Grant,
};

/// How many elements one hypercall has at most: those of a list are worked off in parts.
const BATCH: usize = 32;

/// The number of an entry in a domain's grant table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GrantRef(u32);

impl GrantRef {
    /// The entry with this number, of whatever domain: as a peer tells it.
    #[must_use]
    pub const fn new(raw: u32) -> Self {
        Self(raw)
    }

    /// The number, to be told to a peer.
    #[must_use]
    pub const fn raw(self) -> u32 {
        self.0
    }
}

/// What a domain may do with a page of another's, or does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Read it.
    ReadOnly,
    /// Read and write it.
    ReadWrite,
}

/// Why something could not be done with a grant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GrantError {
    /// The hypervisor refused it, for this reason. [`GrantStatus::GeneralError`] if the entry does not grant it.
    Refused(GrantStatus),
    /// The hypervisor answered with a status that the ABI does not have.
    Unknown(i16),
    /// The call failed as a whole.
    Call(Failure),
    /// All entries of this domain's table are in use, and it cannot grow.
    TableFull,
    /// There are no addresses left to map it at, or no memory for their page tables.
    NoAddress,
    /// The page has no frame that an entry could name: its number must fit 32 bits.
    NoFrame,
}

impl GrantError {
    /// What the status of an element says.
    pub(crate) fn check(status: i16) -> Result<(), Self> {
        match GrantStatus::from_raw(status) {
            Some(GrantStatus::Okay) => Ok(()),
            Some(other) => Err(Self::Refused(other)),
            None => Err(Self::Unknown(status)),
        }
    }
}

impl fmt::Display for GrantError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused(status) => status.fmt(f),
            Self::Unknown(status) => write!(f, "status {status}"),
            Self::Call(failure) => failure.fmt(f),
            Self::TableFull => f.write_str("the grant table is full"),
            Self::NoAddress => f.write_str("there are no addresses left"),
            Self::NoFrame => f.write_str("the page has no frame to name"),
        }
    }
}

impl core::error::Error for GrantError {}

impl From<Failure> for GrantError {
    fn from(failure: Failure) -> Self {
        Self::Call(failure)
    }
}
