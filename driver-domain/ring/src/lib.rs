//! Rings in pages that two domains share: of bytes, here, and of requests and responses, in [`descriptor`].
//!
//! A ring of bytes has a producer and a consumer, each of which publishes an index that counts all bytes ever, in 32 bits, and wraps. The other end's
//! index is a claim: it is compared with one's own by wrapping subtraction, and one that claims more than the ring holds is an error, never
//! believed. One's own index is kept where the peer cannot write it.
//!
//! Tell the other side by its event channel after every call that moved bytes. Before waiting for it, call until nothing moves: what arrives
//! between the last look and the wait raises the event.

#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

extern crate alloc;

mod bytes;
pub mod descriptor;
mod end;
mod sync;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
#[cfg(test)]
mod tests;

use core::fmt;

pub use bytes::{CONSOLE_IN, CONSOLE_OUT, Reader, STORE_REPLIES, STORE_REQUESTS, Stream, Writer};
pub use end::{End, Role};

/// A page shared with another domain, which may change any byte of it at any instant: all access copies.
///
/// Offsets are below 4096, those of [`load`](Self::load) and [`store`](Self::store) are multiples of 4. Ranges that leave the page are
/// never asked for.
pub trait SharedPage {
    /// Reads a u32 with acquire ordering: what its writer wrote before it published it is seen by later reads.
    fn load(&self, offset: usize) -> u32;
    /// Writes a u32 with release ordering: who sees it sees what was written before.
    fn store(&self, offset: usize, value: u32);
    /// Copies bytes out.
    fn read(&self, offset: usize, to: &mut [u8]);
    /// Copies bytes in.
    fn write(&self, offset: usize, from: &[u8]);
}

impl<P: SharedPage + ?Sized> SharedPage for &P {
    fn load(&self, offset: usize) -> u32 {
        (**self).load(offset)
    }

    fn store(&self, offset: usize, value: u32) {
        (**self).store(offset, value);
    }

    fn read(&self, offset: usize, to: &mut [u8]) {
        (**self).read(offset, to);
    }

    fn write(&self, offset: usize, from: &[u8]) {
        (**self).write(offset, from);
    }
}

/// The other side published an index that cannot be. The ring is not worth another look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IndexError {
    /// Bytes in the ring, if the index were true.
    pub claimed: u32,
    /// Bytes that the ring has.
    pub size: u32,
}

impl fmt::Display for IndexError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { claimed, size } = self;
        write!(f, "an index claims {claimed} bytes in a ring of {size}")
    }
}

impl core::error::Error for IndexError {}
