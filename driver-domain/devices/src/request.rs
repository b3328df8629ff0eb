//! What requests to a device have in common, whatever the device is.

use core::fmt;

use crate::BusAddress;

/// Bytes of a page, which no segment crosses.
const PAGE: u64 = 4096;

/// Memory that is read or written, in one piece on the bus. It does not cross a page. Each kind of device says what else it has to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    /// Where.
    pub address: BusAddress,
    /// How many bytes, 1 at least.
    pub bytes: u32,
}

impl Segment {
    /// Whether it has bytes, all of them in one page.
    #[must_use]
    pub fn is_in_page(&self) -> bool {
        let end = (self.address.0 % PAGE).saturating_add(self.bytes.into());
        self.bytes != 0 && end <= PAGE
    }
}

/// What the caller knows a request by. No two outstanding requests of a kind have the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Tag(pub u32);

/// Why a request was not submitted. Nothing has changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// Something has to complete first.
    Full,
    /// It is not as [`Segment`] and what the device says of itself want it.
    Invalid,
    /// The device does not work any more.
    Broken,
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Full => "as many requests are outstanding as the device takes",
            Self::Invalid => "the device cannot take such a request",
            Self::Broken => "the device does not work any more",
        })
    }
}

impl core::error::Error for Refused {}

/// Why a request failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failed {
    /// The device could not do it, and says by this number why: a status of its own kind.
    Device(u16),
    /// The device knows no such operation.
    Unsupported,
    /// The device does not work any more. Whether this was done is unknown.
    Broken,
}

impl fmt::Display for Failed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Device(status) => write!(f, "the device failed with status {status:#x}"),
            Self::Unsupported => f.write_str("the device does not know the operation"),
            Self::Broken => f.write_str("the device does not work any more"),
        }
    }
}

impl core::error::Error for Failed {}
