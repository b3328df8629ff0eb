//! What can go wrong.

use core::fmt;

use bulkhead_frontend::Domain;
use bulkhead_ring::descriptor::ProducerError;

use crate::frame::Frame;

/// Why a frame is not sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SendError {
    /// The ring has no room for it now.
    Full,
    /// No frame is so long, or lies in so many pages.
    Length(usize),
    /// It lies in several pages, and the back-end takes one.
    Scattered,
    /// The back-end does not do what is to be done with it.
    Unsupported,
    /// There is no grant to be had now.
    NoMemory,
    /// The interface does not work any more.
    Broken(Broken),
}

impl fmt::Display for SendError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Full => f.write_str("the ring is full"),
            Self::Length(bytes) => write!(
                f,
                "a frame of {bytes} bytes: it must have 14 to 65535, in 18 pages at most, 14 of them in the first"
            ),
            Self::Scattered => f.write_str("the back-end takes frames that lie in one page, and no others"),
            Self::Unsupported => {
                f.write_str("the back-end does not complete such checksums, or cut such segments")
            }
            Self::NoMemory => f.write_str("there is no grant to be had"),
            Self::Broken(broken) => broken.fmt(f),
        }
    }
}

impl core::error::Error for SendError {}

impl From<Broken> for SendError {
    fn from(broken: Broken) -> Self {
        Self::Broken(broken)
    }
}

/// A frame that is not sent, and why.
#[derive(Debug)]
pub struct Refused<D: Domain> {
    /// The frame.
    pub frame: Frame<D>,
    /// The reason.
    pub error: SendError,
}

impl<D: Domain> fmt::Display for Refused<D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.error.fmt(f)
    }
}

impl<D: Domain> core::error::Error for Refused<D> {}

/// Why an interface does not work any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Broken {
    /// The back-end claims responses that cannot be.
    Ring(ProducerError),
    /// It answered a request that was not made, or had been answered, or that is not the one whose turn it is: here is the number.
    NotAsked(u16),
    /// It answered more extras than were sent.
    NoExtra,
    /// It answered with a status that the protocol does not have there.
    Status(i16),
    /// It answered, and keeps using the page of this grant.
    KeepsPage(u32),
    /// It says that there are data in a page which was offered by this grant, and which it did not exchange.
    NotExchanged(u32),
    /// The data that it tells of leave their page.
    OutOfPage {
        /// Where in the page they begin.
        offset: u16,
        /// How many bytes they are.
        size: u16,
    },
    /// It sends a frame that is longer than 65535 bytes, or has more than 18 parts.
    TooLong,
    /// It sends an extra of this type, which has no business there.
    Extra(u8),
    /// It sends segments of this type and size.
    Segments {
        /// The type.
        gso_type: u8,
        /// The size.
        size: u16,
    },
    /// One of the two ends closed the connection.
    Closed,
}

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the interface is broken: ")?;
        match self {
            Self::Ring(error) => error.fmt(f),
            Self::NotAsked(id) => write!(f, "an answer to request {id:#x}, which does not wait for one now"),
            Self::NoExtra => f.write_str("an answer to an extra that was not sent"),
            Self::Status(status) => write!(f, "an answer with status {status}"),
            Self::KeepsPage(grant) => write!(f, "the back-end answered and keeps using grant {grant}"),
            Self::NotExchanged(grant) => {
                write!(f, "data in the page of grant {grant}, which was not exchanged")
            }
            Self::OutOfPage { offset, size } => {
                write!(f, "{size} bytes from {offset} on, which leave their page")
            }
            Self::TooLong => f.write_str("a frame of more than 65535 bytes, or 18 parts"),
            Self::Extra(extra) => write!(f, "an extra of type {extra} beside a frame"),
            Self::Segments { gso_type, size } => write!(f, "segments of type {gso_type} and {size} bytes"),
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
