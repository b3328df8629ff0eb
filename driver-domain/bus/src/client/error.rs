//! What can go wrong for who asks the store.

use core::fmt;

use bulkhead_abi::xenstore::StoreError;

use bulkhead_ring::IndexError;

use crate::wire::{PathError, TooLong};

/// Why a request has no result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Error {
    /// The store refused it, or would have: [`StoreError::TooBig`] if it is too long for a message. An error that
    /// the protocol does not know counts as [`StoreError::Io`].
    Refused(StoreError),
    /// The path is none; nothing was asked.
    Path(PathError),
    /// The store's answer makes no sense for the request.
    Answer,
    /// The connection does not work any more.
    Broken(Broken),
}

/// Why a connection does not work any more. Nothing that is asked of it has a result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Broken {
    /// The store published an impossible index.
    Index(IndexError),
    /// The store sent a message that is too long.
    TooLong(TooLong),
    /// The store answered what was not asked; here is the number of its answer.
    Unasked(u32),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused(error) => write!(f, "the store answers {error}"),
            Self::Path(error) => error.fmt(f),
            Self::Answer => f.write_str("the store's answer makes no sense"),
            Self::Broken(broken) => broken.fmt(f),
        }
    }
}

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the connection to the store is broken: ")?;
        match self {
            Self::Index(error) => error.fmt(f),
            Self::TooLong(error) => error.fmt(f),
            Self::Unasked(id) => write!(f, "an answer to request {id}, which was not made"),
        }
    }
}

impl core::error::Error for Error {}
impl core::error::Error for Broken {}

impl From<StoreError> for Error {
    fn from(error: StoreError) -> Self {
        Self::Refused(error)
    }
}

impl From<PathError> for Error {
    fn from(error: PathError) -> Self {
        Self::Path(error)
    }
}

impl From<Broken> for Error {
    fn from(broken: Broken) -> Self {
        Self::Broken(broken)
    }
}

impl From<IndexError> for Broken {
    fn from(error: IndexError) -> Self {
        Self::Index(error)
    }
}
