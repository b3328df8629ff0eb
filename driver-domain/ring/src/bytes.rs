//! Streams of bytes: those of the console and of xenstore, each from one end.
//!
//! Source: the guest ABI's sections 12.1 and 12.2.

use bulkhead_abi::{console, xenstore};

use crate::{IndexError, SharedPage};

/// Where a stream lies in its page. Its size is a power of two, so that the place of a byte does not jump when the index wraps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stream {
    /// The first byte of its buffer.
    pub(crate) buffer: usize,
    /// The buffer's size.
    pub(crate) size: u32,
    /// Where the consumer's index is.
    pub(crate) consumed: usize,
    /// Where the producer's index is.
    pub(crate) produced: usize,
}

/// What is typed on a guest's console.
pub const CONSOLE_IN: Stream = Stream::new(
    console::ring::IN,
    console::IN_SIZE,
    console::ring::IN_CONS,
    console::ring::IN_PROD,
);

/// What a guest prints on its console.
pub const CONSOLE_OUT: Stream = Stream::new(
    console::ring::OUT,
    console::OUT_SIZE,
    console::ring::OUT_CONS,
    console::ring::OUT_PROD,
);

/// What a guest asks of xenstore.
pub const STORE_REQUESTS: Stream = Stream::new(
    xenstore::ring::REQ,
    xenstore::RING_SIZE,
    xenstore::ring::REQ_CONS,
    xenstore::ring::REQ_PROD,
);

/// What xenstore answers, and tells.
pub const STORE_REPLIES: Stream = Stream::new(
    xenstore::ring::RSP,
    xenstore::RING_SIZE,
    xenstore::ring::RSP_CONS,
    xenstore::ring::RSP_PROD,
);

impl Stream {
    const fn new(buffer: usize, size: usize, consumed: usize, produced: usize) -> Self {
        assert!(size.is_power_of_two() && size <= 4096 && buffer <= 4096);
        #[expect(clippy::cast_possible_truncation, reason = "at most 4096")]
        let size = size as u32;
        Self {
            buffer,
            size,
            consumed,
            produced,
        }
    }

    /// How many bytes are in the ring, if the indices are true.
    const fn used(self, produced: u32, consumed: u32) -> Result<u32, IndexError> {
        let claimed = produced.wrapping_sub(consumed);
        if claimed > self.size {
            return Err(IndexError {
                claimed,
                size: self.size,
            });
        }
        Ok(claimed)
    }

    /// Where in the page the byte with this index is, and how many lie behind each other from there on.
    const fn place(self, index: u32) -> (usize, usize) {
        let at = index & self.size.wrapping_sub(1);
        let run = self.size.wrapping_sub(at);
        (self.buffer.saturating_add(as_size(at)), as_size(run))
    }
}

/// The end that puts bytes in.
#[derive(Debug)]
pub struct Writer {
    stream: Stream,
    next: u32,
}

impl Writer {
    /// Goes on where the page says that the producer is: at the beginning, in a domain that starts.
    pub fn new(stream: Stream, page: &impl SharedPage) -> Self {
        Self {
            stream,
            next: page.load(stream.produced),
        }
    }

    /// How many bytes there is room for.
    ///
    /// # Errors
    ///
    /// [`IndexError`] if the consumer's index is impossible.
    pub fn room(&self, page: &impl SharedPage) -> Result<usize, IndexError> {
        let used = self.stream.used(self.next, page.load(self.stream.consumed))?;
        Ok(as_size(self.stream.size.wrapping_sub(used)))
    }

    /// Writes of `bytes` what there is room for; tells how many bytes that were.
    ///
    /// # Errors
    ///
    /// [`IndexError`] if the consumer's index is impossible. Nothing is written then.
    pub fn write(&mut self, page: &impl SharedPage, bytes: &[u8]) -> Result<usize, IndexError> {
        let room = self.room(page)?;
        let bytes = bytes.get(..room).unwrap_or(bytes);
        let (at, run) = self.stream.place(self.next);
        let (first, rest) = bytes.split_at_checked(run).unwrap_or((bytes, &[]));
        page.write(at, first);
        page.write(self.stream.buffer, rest);
        self.next = self.next.wrapping_add(as_index(bytes.len()));
        // Release: who sees the index sees the bytes.
        page.store(self.stream.produced, self.next);
        Ok(bytes.len())
    }
}

/// The end that takes bytes out.
#[derive(Debug)]
pub struct Reader {
    stream: Stream,
    next: u32,
}

impl Reader {
    /// Goes on where the page says that the consumer is: at the beginning, in a domain that starts.
    pub fn new(stream: Stream, page: &impl SharedPage) -> Self {
        Self {
            stream,
            next: page.load(stream.consumed),
        }
    }

    /// How many bytes wait.
    ///
    /// # Errors
    ///
    /// [`IndexError`] if the producer's index is impossible.
    pub fn available(&self, page: &impl SharedPage) -> Result<usize, IndexError> {
        let used = self.stream.used(page.load(self.stream.produced), self.next)?;
        Ok(as_size(used))
    }

    /// Reads as many bytes as wait and `to` has room for, and frees their room; tells how many.
    ///
    /// # Errors
    ///
    /// [`IndexError`] if the producer's index is impossible. Nothing is read then.
    pub fn read(&mut self, page: &impl SharedPage, to: &mut [u8]) -> Result<usize, IndexError> {
        let count = self.available(page)?.min(to.len());
        let to = to.get_mut(..count).unwrap_or_default();
        let (at, run) = self.stream.place(self.next);
        let (first, rest) = to.split_at_mut(count.min(run));
        page.read(at, first);
        page.read(self.stream.buffer, rest);
        self.next = self.next.wrapping_add(as_index(count));
        // Release: the other side overwrites these bytes once it sees the index, and they have been read before.
        page.store(self.stream.consumed, self.next);
        Ok(count)
    }
}

/// No index of a ring exceeds what a `usize` has.
const fn as_size(bytes: u32) -> usize {
    bytes as usize
}

/// No ring has more bytes than a u32 counts.
fn as_index(bytes: usize) -> u32 {
    u32::try_from(bytes).unwrap_or(u32::MAX)
}
