//! What goes wrong on a network.

use core::fmt;

/// Why something could not be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trouble {
    /// The other end does not want a connection, or does not want it any more.
    Closed,
    /// Nothing came in time.
    TimedOut,
    /// It is not an address that can be sent to, or this end has none to send from.
    Unaddressable,
    /// More than a datagram, or a socket, holds.
    TooLong,
    /// Nobody knows the name.
    UnknownName,
    /// What came is not what the protocol says; this is wrong with it.
    Protocol(&'static str),
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Closed => f.write_str("the connection is closed by the other end, or refused"),
            Self::TimedOut => f.write_str("nothing came in time"),
            Self::Unaddressable => f.write_str("the address cannot be sent to"),
            Self::TooLong => f.write_str("it is too long"),
            Self::UnknownName => f.write_str("the name is not known"),
            Self::Protocol(why) => write!(f, "the other end breaks the protocol: {why}"),
        }
    }
}

impl core::error::Error for Trouble {}
