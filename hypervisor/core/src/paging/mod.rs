//! Direct paging: guests own their page tables and read them freely; every change goes through here.
//!
//! The law: a frame that is a page table is never writable by any guest, and no guest entry reaches the hypervisor
//! or another domain's frame, unless a grant lent it, or the control domain asked for it. It follows from counting: a present entry in a validated table holds a reference
//! to its frame and a use of it as what the entry makes it, a writable page or a table of the level below; a
//! frame has one type at a time.
//!
//! Trees of tables are as large as guests make them, so nothing about them is done in one go: [`work`] measures portions. A table of any
//! level that is validated or unpicked in part is left so, holding what its first entries refer to and a reference to itself. Whoever
//! wants it as the same again goes on with validating; whoever wants it as something else, or nothing, with unpicking. Until then nobody
//! can write to it, and no CPU uses it.
//!
//! What a call lets go of (an old root, what was below an entry, a tree that is refused, an unpinned one) it takes down before it
//! answers, in as many goes as that needs: its guest may use every page in another way at once. Between two goes the vCPU knows the root
//! of what remains. A guest that gives such a call up leaves the tree to its next one; a tree that no vCPU goes on with stays as it
//! is until one of its frames is wanted, which are its domain's all the time.
//!
//! [`entry`] has the rules for single entries; [`validate`] takes and drops whole tables; [`update`] changes one entry
//! of a live table; [`lend`] does where an entry leads to another domain's frame, for grants. The control domain alone may have entries of
//! level 1 that lead to another domain's frames without a grant: it names their owner, and they hold their frames as all entries do.

mod device;
pub mod entry;
mod lend;
mod update;
mod validate;
mod work;

use crate::frames::{RefError, TypeError};
use crate::vcpu::descriptors::BadDescriptor;
use bulkhead_abi::Errno;
pub use entry::Level;
pub(crate) use update::{AccessedDirty, Owners};
pub(crate) use work::Work;

/// Why a change to page tables is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PagingError {
    /// An entry has bits that no guest may set; these.
    Flags(u64),
    /// A page of descriptors has one that no guest may have.
    Descriptor(BadDescriptor),
    /// An entry leads to a frame that is no RAM of this machine.
    NoFrame,
    /// An entry leads to a frame that is not the caller's.
    Foreign,
    /// The table to change is not a frame of the caller's.
    NotOwnTable,
    /// A frame is in use as something that excludes this.
    Type(TypeError),
    /// An entry above level 1 would lead to another domain's table.
    ForeignTable,
    /// The slot belongs to the hypervisor.
    HypervisorSlot,
    /// There is no table on the way to this address.
    NotMapped,
    /// Others change the same entry all the time.
    Contended,
    /// There is more to do than may be done in one go, or another CPU is at it: the same again will get further.
    Again,
}

impl PagingError {
    /// As an operation reports it that names a frame of its own and has one word for all that may be wrong with it.
    pub(crate) fn of_operand(self) -> Errno {
        if self == Self::Again {
            Errno::Restart
        } else {
            Errno::Inval
        }
    }
}

impl From<TypeError> for PagingError {
    fn from(error: TypeError) -> Self {
        match error {
            TypeError::NoFrame => Self::NoFrame,
            TypeError::Busy => Self::Again,
            TypeError::InUse(_) | TypeError::Partial(_) | TypeError::Overflow => Self::Type(error),
        }
    }
}

impl From<RefError> for PagingError {
    fn from(error: RefError) -> Self {
        match error {
            RefError::NoFrame => Self::NoFrame,
            RefError::NotOwner => Self::Foreign,
            RefError::Overflow => Self::Type(TypeError::Overflow),
        }
    }
}

impl From<PagingError> for Errno {
    fn from(error: PagingError) -> Self {
        match error {
            PagingError::Foreign | PagingError::Contended => Self::Busy,
            PagingError::Again => Self::Restart,
            PagingError::Flags(_)
            | PagingError::Descriptor(_)
            | PagingError::NoFrame
            | PagingError::NotOwnTable
            | PagingError::Type(_)
            | PagingError::ForeignTable
            | PagingError::HypervisorSlot
            | PagingError::NotMapped => Self::Inval,
        }
    }
}
