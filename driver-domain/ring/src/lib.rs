//! Rings in pages that two domains share.
//!
//! A ring has a producer and a consumer, each of which publishes an index that runs freely in 32 bits. The other end's index is a claim:
//! it is compared with one's own by wrapping subtraction, and one that claims more than the ring holds is an error, never believed.
//! One's own index is kept where the peer cannot write it.

#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

mod bytes;

pub use bytes::{BadIndex, CONSOLE_IN, CONSOLE_OUT, Reader, STORE_REPLIES, STORE_REQUESTS, Stream, Writer};

/// A page that a peer may write at any time. Offsets are in bytes; what leaves the page reads as zeros and is not written.
pub trait SharedPage {
    /// Reads the word at `offset`, a multiple of 4, with acquire ordering: what the peer wrote before it published this index is seen after.
    fn load(&self, offset: usize) -> u32;
    /// Writes the word at `offset` with release ordering: what was written before is seen by whoever sees this.
    fn store(&self, offset: usize, value: u32);
    /// Copies out the bytes from `offset` on.
    fn read(&self, offset: usize, to: &mut [u8]);
    /// Copies bytes in.
    fn write(&self, offset: usize, from: &[u8]);
}
