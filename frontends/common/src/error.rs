//! Why there is no connection.

use alloc::string::String;
use core::fmt;

use bulkhead_abi::xenstore::XenbusState;
use bulkhead_bus::client;
use bulkhead_ring::descriptor::RingError;

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
