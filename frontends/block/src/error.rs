//! What can go wrong.

use alloc::string::String;
use core::fmt;

use bulkhead_abi::xenstore::XenbusState;
use bulkhead_bus::client;
use bulkhead_ring::descriptor::{ProducerError, RingError};

/// Why an order was not done, or not all of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Error {
    /// It leaves the disk, which has so many sectors.
    OutOfDisk {
        /// The order's first sector.
        sector: u64,
        /// How many it is about.
        sectors: u64,
        /// How many the disk has.
        size: u64,
    },
    /// Its place or its length is no multiple of the disk's sectors of so many bytes, or it is about nothing.
    Unaligned(u32),
    /// The disk may only be read.
    ReadOnly,
    /// The disk does not do this.
    Unsupported,
    /// The back-end could not do it.
    Failed,
    /// There is no memory, or no grant, to be had.
    NoMemory,
    /// The disk does not work any more.
    Broken(Broken),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::OutOfDisk {
                sector,
                sectors,
                size,
            } => write!(
                f,
                "{sectors} sectors from {sector} on leave the disk, which has {size}"
            ),
            Self::Unaligned(size) => write!(
                f,
                "place and length must be multiples of the disk's sectors of {size} bytes"
            ),
            Self::ReadOnly => f.write_str("the disk may only be read"),
            Self::Unsupported => f.write_str("the disk does not do this"),
            Self::Failed => f.write_str("the back-end reports an error"),
            Self::NoMemory => f.write_str("there is no memory or no grant to be had"),
            Self::Broken(broken) => broken.fmt(f),
        }
    }
}

impl core::error::Error for Error {}

impl From<Broken> for Error {
    fn from(broken: Broken) -> Self {
        Self::Broken(broken)
    }
}

/// Why a disk does not work any more. All orders fail then.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Broken {
    /// The back-end claims responses that cannot be.
    Ring(ProducerError),
    /// It answered a request that was not made, or had been answered: here is the number.
    NotAsked(u64),
    /// It answered another operation than it was asked for.
    Operation {
        /// What was asked for.
        asked: u8,
        /// What was answered.
        answered: u8,
    },
    /// It answered, and keeps using the page of this grant.
    KeepsPage(u32),
    /// One of the two ends closed the connection.
    Closed,
}

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the disk is broken: ")?;
        match self {
            Self::Ring(error) => error.fmt(f),
            Self::NotAsked(id) => write!(f, "an answer to request {id:#x}, which does not wait for one"),
            Self::Operation { asked, answered } => {
                write!(f, "an answer about operation {answered} to one about {asked}")
            }
            Self::KeepsPage(grant) => write!(f, "the back-end answered and keeps using grant {grant}"),
            Self::Closed => f.write_str("the connection is closed"),
        }
    }
}

impl core::error::Error for Broken {}

impl From<ProducerError> for Broken {
    fn from(error: ProducerError) -> Self {
        Self::Ring(error)
    }
}

/// A node of the back-end's directory that is not as it must be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BadKey {
    /// Its name.
    pub key: &'static str,
    /// What it says, if it is there.
    pub value: Option<String>,
}

impl fmt::Display for BadKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { key, value } = self;
        match value {
            Some(value) => write!(f, "`{key}` says `{value}`, which cannot be"),
            None => write!(f, "`{key}` is missing"),
        }
    }
}

impl core::error::Error for BadKey {}

/// Why there is no connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ConnectError {
    /// xenstore did not answer as it should.
    Store(client::Error),
    /// The front-end's directory is not as the toolstack makes it.
    FrontEnd(BadKey),
    /// The back-end's directory is not as a back-end makes it.
    BackEnd(BadKey),
    /// The back-end went into this state instead.
    Refused(XenbusState),
    /// There is no memory, grant or port to be had.
    NoMemory,
    /// The pages make no ring.
    Ring(RingError),
}

impl fmt::Display for ConnectError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Store(error) => error.fmt(f),
            Self::FrontEnd(bad) => write!(f, "the front-end's directory: {bad}"),
            Self::BackEnd(bad) => write!(f, "the back-end's directory: {bad}"),
            Self::Refused(state) => write!(f, "the back-end is {state}"),
            Self::NoMemory => f.write_str("there is no memory, grant or port to be had"),
            Self::Ring(error) => error.fmt(f),
        }
    }
}

impl core::error::Error for ConnectError {}

impl From<client::Error> for ConnectError {
    fn from(error: client::Error) -> Self {
        Self::Store(error)
    }
}

impl From<RingError> for ConnectError {
    fn from(error: RingError) -> Self {
        Self::Ring(error)
    }
}
