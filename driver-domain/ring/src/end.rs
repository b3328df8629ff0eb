//! One end of a page that has a ring in each direction.

use bulkhead_abi::xenstore::{self, RingError};

use crate::{
    CONSOLE_IN, CONSOLE_OUT, IndexError, Reader, STORE_REPLIES, STORE_REQUESTS, SharedPage, Stream, Writer,
};

/// Whose end of a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// The guest of a console.
    ConsoleGuest,
    /// Who shows the console.
    ConsoleBackEnd,
    /// A guest of the store.
    StoreGuest,
    /// The store.
    StoreServer,
}

impl Role {
    /// What it consumes, and what it produces into.
    pub(crate) const fn streams(self) -> (Stream, Stream) {
        match self {
            Self::ConsoleGuest => (CONSOLE_IN, CONSOLE_OUT),
            Self::ConsoleBackEnd => (CONSOLE_OUT, CONSOLE_IN),
            Self::StoreGuest => (STORE_REPLIES, STORE_REQUESTS),
            Self::StoreServer => (STORE_REQUESTS, STORE_REPLIES),
        }
    }
}

/// One end of a page's two rings.
#[derive(Debug)]
pub struct End<P> {
    page: P,
    input: Reader,
    output: Writer,
}

impl<P: SharedPage> End<P> {
    /// The end of `page` for `role`. It goes on where this role's indices in the page stand: at zero when a domain starts, elsewhere for a
    /// guest after its boot loader, or a back-end after its predecessor.
    pub fn new(role: Role, page: P) -> Self {
        let (input, output) = role.streams();
        Self {
            input: Reader::new(input, &page),
            output: Writer::new(output, &page),
            page,
        }
    }

    /// How many bytes wait to be received.
    ///
    /// # Errors
    ///
    /// [`IndexError`] if the other side's index is impossible.
    pub fn available(&self) -> Result<usize, IndexError> {
        self.input.available(&self.page)
    }

    /// How many bytes can be sent.
    ///
    /// # Errors
    ///
    /// [`IndexError`] if the other side's index is impossible.
    pub fn room(&self) -> Result<usize, IndexError> {
        self.output.room(&self.page)
    }

    /// Receives into `buffer` what there is, and frees its room; tells how many bytes that were.
    ///
    /// # Errors
    ///
    /// [`IndexError`] if the other side's index is impossible. Nothing is received then.
    pub fn receive(&mut self, buffer: &mut [u8]) -> Result<usize, IndexError> {
        self.input.read(&self.page, buffer)
    }

    /// Sends of `bytes` what there is room for; tells how many bytes that were.
    ///
    /// # Errors
    ///
    /// [`IndexError`] if the other side's index is impossible. Nothing is sent then.
    pub fn send(&mut self, bytes: &[u8]) -> Result<usize, IndexError> {
        self.output.write(&self.page, bytes)
    }

    /// Tells a store's guest in the page why it is not served any more. Only the server may, and only on its own pages.
    pub fn mark_broken(&self, why: RingError) {
        self.page.store(xenstore::ring::ERROR, why.raw());
    }
}
