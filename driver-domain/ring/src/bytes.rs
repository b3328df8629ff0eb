//! Streams of bytes: those of the console and of xenstore.
//!
//! Source: the guest ABI's sections 12.1 and 12.2.

use bulkhead_abi::{console, xenstore};
use core::fmt;

use crate::SharedPage;

/// Where a stream lies in its page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stream {
    /// The first byte of its buffer.
    buffer: usize,
    /// The buffer's size, a power of two.
    size: usize,
    /// Where the consumer's index is.
    consumed: usize,
    /// Where the producer's index is.
    produced: usize,
}

/// What is typed on a guest's console.
pub const CONSOLE_IN: Stream = Stream {
    buffer: console::ring::IN,
    size: console::IN_SIZE,
    consumed: console::ring::IN_CONS,
    produced: console::ring::IN_PROD,
};

/// What a guest prints on its console.
pub const CONSOLE_OUT: Stream = Stream {
    buffer: console::ring::OUT,
    size: console::OUT_SIZE,
    consumed: console::ring::OUT_CONS,
    produced: console::ring::OUT_PROD,
};

/// What a guest asks of xenstore.
pub const STORE_REQUESTS: Stream = Stream {
    buffer: xenstore::ring::REQ,
    size: xenstore::RING_SIZE,
    consumed: xenstore::ring::REQ_CONS,
    produced: xenstore::ring::REQ_PROD,
};

/// What xenstore answers.
pub const STORE_REPLIES: Stream = Stream {
    buffer: xenstore::ring::RSP,
    size: xenstore::RING_SIZE,
    consumed: xenstore::ring::RSP_CONS,
    produced: xenstore::ring::RSP_PROD,
};

/// The peer's index claims more than the ring holds. Nothing was read or written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BadIndex {
    /// Whose own index is this.
    pub own: u32,
    /// What the peer claims.
    pub claimed: u32,
}

impl fmt::Display for BadIndex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { own, claimed } = self;
        write!(
            f,
            "the ring's other end claims to be at {claimed}, and this end is at {own}"
        )
    }
}

impl core::error::Error for BadIndex {}

impl Stream {
    /// The place in the page of the byte with this index, and how many follow to the end of the buffer.
    fn place(self, index: u32) -> (usize, usize) {
        let offset = index as usize & self.size.wrapping_sub(1);
        (self.buffer.saturating_add(offset), self.size.wrapping_sub(offset))
    }
}

/// The end that puts bytes in.
#[derive(Debug)]
pub struct Writer {
    stream: Stream,
    next: u32,
}

impl Writer {
    /// Goes on where the page says that the stream's producer is.
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
    /// [`BadIndex`] if the consumer claims to have read what was not written.
    pub fn room(&self, page: &impl SharedPage) -> Result<usize, BadIndex> {
        let claimed = page.load(self.stream.consumed);
        let unread = self.next.wrapping_sub(claimed) as usize;
        self.stream.size.checked_sub(unread).ok_or(BadIndex {
            own: self.next,
            claimed,
        })
    }

    /// Writes as much of `bytes` as there is room for, and returns how much that is. If it is more than nothing, the consumer is to be told.
    ///
    /// # Errors
    ///
    /// As [`Writer::room`].
    pub fn write(&mut self, page: &impl SharedPage, bytes: &[u8]) -> Result<usize, BadIndex> {
        let room = self.room(page)?;
        let bytes = bytes.get(..room).unwrap_or(bytes);
        let (at, to_end) = self.stream.place(self.next);
        let (first, second) = bytes.split_at_checked(to_end).unwrap_or((bytes, &[]));
        page.write(at, first);
        page.write(self.stream.buffer, second);
        // No more than the ring's size.
        self.next = self.next.wrapping_add(u32::try_from(bytes.len()).unwrap_or(0));
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
    /// Goes on where the page says that the stream's consumer is.
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
    /// [`BadIndex`] if the producer claims to have written more than fits.
    pub fn waiting(&self, page: &impl SharedPage) -> Result<usize, BadIndex> {
        let claimed = page.load(self.stream.produced);
        let waiting = claimed.wrapping_sub(self.next) as usize;
        if waiting <= self.stream.size {
            Ok(waiting)
        } else {
            Err(BadIndex {
                own: self.next,
                claimed,
            })
        }
    }

    /// Reads as many bytes as wait and `to` has room for, and returns how many. If it is more than none, the producer is to be told.
    ///
    /// # Errors
    ///
    /// As [`Reader::waiting`].
    pub fn read(&mut self, page: &impl SharedPage, to: &mut [u8]) -> Result<usize, BadIndex> {
        let count = self.waiting(page)?.min(to.len());
        let to = to.get_mut(..count).unwrap_or_default();
        let (at, to_end) = self.stream.place(self.next);
        let (first, second) = to.split_at_mut(count.min(to_end));
        page.read(at, first);
        page.read(self.stream.buffer, second);
        // No more than the ring's size.
        self.next = self.next.wrapping_add(u32::try_from(count).unwrap_or(0));
        page.store(self.stream.consumed, self.next);
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::cell::RefCell;
    use std::collections::VecDeque;

    struct Page(RefCell<[u8; 4096]>);

    impl Page {
        fn new() -> Self {
            Self(RefCell::new([0; 4096]))
        }
    }

    impl SharedPage for Page {
        fn load(&self, offset: usize) -> u32 {
            let mut word = [0; 4];
            self.read(offset, &mut word);
            u32::from_le_bytes(word)
        }

        fn store(&self, offset: usize, value: u32) {
            self.write(offset, &value.to_le_bytes());
        }

        fn read(&self, offset: usize, to: &mut [u8]) {
            to.copy_from_slice(&self.0.borrow()[offset..offset + to.len()]);
        }

        fn write(&self, offset: usize, from: &[u8]) {
            self.0.borrow_mut()[offset..offset + from.len()].copy_from_slice(from);
        }
    }

    const STREAMS: [Stream; 4] = [CONSOLE_IN, CONSOLE_OUT, STORE_REQUESTS, STORE_REPLIES];

    #[test]
    fn streams_of_one_page_are_apart() {
        for pair in STREAMS.chunks(2) {
            let mut bytes = [0_u8; 4096];
            for stream in pair {
                let words = [stream.consumed, stream.produced].map(|at| at..at + 4);
                let buffer = stream.buffer..stream.buffer + stream.size;
                for at in words.into_iter().chain([buffer]).flatten() {
                    bytes[at] += 1;
                }
            }
            assert!(bytes.iter().all(|&uses| uses <= 1));
        }
    }

    #[test]
    fn a_full_ring_takes_no_more_until_something_is_read() {
        let page = Page::new();
        let (mut writer, mut reader) = (Writer::new(CONSOLE_IN, &page), Reader::new(CONSOLE_IN, &page));
        assert_eq!(writer.write(&page, &[7; 2000]), Ok(1024));
        assert_eq!(writer.write(&page, &[8; 1]), Ok(0));
        let mut some = [0; 24];
        assert_eq!(reader.read(&page, &mut some), Ok(24));
        assert_eq!(writer.room(&page), Ok(24));
        assert_eq!(reader.waiting(&page), Ok(1000));
    }

    #[test]
    fn an_index_that_claims_too_much_is_refused_and_changes_nothing() {
        for stream in STREAMS {
            let page = Page::new();
            let mut reader = Reader::new(stream, &page);
            let size = u32::try_from(stream.size).unwrap();
            for claimed in [size + 1, u32::MAX, 1 << 31] {
                page.store(stream.produced, claimed);
                let refused = Err(BadIndex { own: 0, claimed });
                assert_eq!(reader.read(&page, &mut [0; 16]), refused);
            }
            page.store(stream.produced, size);
            assert_eq!(reader.waiting(&page), Ok(stream.size));

            let page = Page::new();
            let mut writer = Writer::new(stream, &page);
            for claimed in [1, size, u32::MAX - size] {
                page.store(stream.consumed, claimed);
                assert_eq!(writer.write(&page, b"x"), Err(BadIndex { own: 0, claimed }));
            }
            assert_eq!(page.load(stream.produced), 0);
        }
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_in_its_order(
            start in prop_oneof![Just(0_u32), Just(u32::MAX - 100), any::<u32>()],
            steps in prop::collection::vec((any::<bool>(), 0..1500_usize), 1..60),
            which in 0..STREAMS.len(),
        ) {
            let stream = STREAMS[which];
            let page = Page::new();
            page.store(stream.produced, start);
            page.store(stream.consumed, start);
            let (mut writer, mut reader) = (Writer::new(stream, &page), Reader::new(stream, &page));
            let mut model = VecDeque::new();
            let mut next = 0_u8;
            for (writes, len) in steps {
                if writes {
                    let bytes: Vec<u8> = (0..len).map(|_| { next = next.wrapping_add(1); next }).collect();
                    let count = writer.write(&page, &bytes).unwrap();
                    prop_assert_eq!(count, len.min(stream.size - model.len()));
                    model.extend(&bytes[..count]);
                } else {
                    let mut bytes = vec![0; len];
                    let count = reader.read(&page, &mut bytes).unwrap();
                    prop_assert_eq!(count, len.min(model.len()));
                    let expected: Vec<u8> = model.drain(..count).collect();
                    prop_assert_eq!(&bytes[..count], expected);
                }
                prop_assert_eq!(reader.waiting(&page), Ok(model.len()));
            }
        }
    }
}
