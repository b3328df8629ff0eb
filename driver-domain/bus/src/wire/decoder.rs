//! Finds messages in bytes as they arrive.

use alloc::vec::Vec;
use core::fmt;

use bulkhead_abi::Record;
use bulkhead_abi::xenstore::{MessageHeader, PAYLOAD_MAX};

/// A whole message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// What came first; its `len` is the payload's.
    pub header: MessageHeader,
    /// What followed, at most 4096 bytes.
    pub payload: Vec<u8>,
}

/// A header claims more payload than a message may have. Where the next message starts cannot be known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooLong {
    /// The bytes that it claims.
    pub claimed: u32,
}

impl fmt::Display for TooLong {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "a message claims {} bytes of payload; {PAYLOAD_MAX} is the most",
            self.claimed
        )
    }
}

impl core::error::Error for TooLong {}

/// Collects one message at a time; holds at most 16 + 4096 bytes.
#[derive(Clone, Debug, Default)]
pub struct Decoder {
    /// What there is of the current message, header first.
    bytes: Vec<u8>,
    broken: Option<TooLong>,
}

impl Decoder {
    /// A decoder at the start of a message.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            bytes: Vec::new(),
            broken: None,
        }
    }

    /// Takes bytes up to the end of the current message, and tells how many it took: all of them unless it returns a
    /// message.
    ///
    /// # Errors
    ///
    /// [`TooLong`] if a header claims too much; then on every further call, as the stream makes no sense any more.
    pub fn feed(&mut self, bytes: &[u8]) -> Result<(usize, Option<Message>), TooLong> {
        if let Some(why) = self.broken {
            return Err(why);
        }
        let (head, rest) = self.take(bytes, MessageHeader::SIZE);
        let Some(header) = MessageHeader::read_from(&self.bytes) else {
            return Ok((head, None));
        };
        let payload = usize::try_from(header.len).unwrap_or(usize::MAX);
        if payload > PAYLOAD_MAX {
            let why = TooLong { claimed: header.len };
            self.broken = Some(why);
            return Err(why);
        }
        let whole = MessageHeader::SIZE.saturating_add(payload);
        let (body, _) = self.take(rest, whole);
        let message = (self.bytes.len() == whole).then(|| {
            let payload = self.bytes.split_off(MessageHeader::SIZE);
            self.bytes.clear();
            Message { header, payload }
        });
        Ok((head.saturating_add(body), message))
    }

    /// Takes from `bytes` what is missing until there are `wanted`. How many that were, and what is left.
    fn take<'a>(&mut self, bytes: &'a [u8], wanted: usize) -> (usize, &'a [u8]) {
        let missing = wanted.saturating_sub(self.bytes.len());
        let (taken, rest) = bytes.split_at_checked(missing).unwrap_or((bytes, &[]));
        self.bytes.extend_from_slice(taken);
        (taken.len(), rest)
    }
}
