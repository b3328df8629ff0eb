//! What can go wrong.

use core::fmt;

use bulkhead_ring::descriptor::ProducerError;

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
