//! Byte rings in a page that another domain writes at the same time: a console's page, and a store's.
//!
//! Such a page has two rings, one in each direction, and an [`End`] has both: it consumes one and produces into the other.
//! An index counts all bytes ever, in u32, and wraps; a byte's place is the index modulo the ring's size. Each
//! index has one writer. Its writer keeps it privately and only publishes it; the other side's index is a claim, and one
//! that claims more than a ring holds is an [`IndexError`], after which the ring is not worth another look.
//!
//! Tell the other side by its event channel after every call that moved bytes. Before waiting for it, call until nothing
//! moves: what arrives between the last look and the wait raises the event.

use bulkhead_abi::{console, xenstore};
use core::fmt;

/// A page shared with another domain, which may change any byte of it at any instant: all access copies.
///
/// Offsets are below 4096, those of [`load`](Self::load) and [`store`](Self::store) are multiples of 4. Ranges that
/// leave the page are never asked for.
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

/// The other side published an index that cannot be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IndexError {
    /// Bytes in the ring, if the index were true.
    pub claimed: u32,
    /// Bytes that the ring has.
    pub size: u32,
}

impl fmt::Display for IndexError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "an index claims {} bytes in a ring of {}",
            self.claimed, self.size
        )
    }
}

impl core::error::Error for IndexError {}

/// Where a ring lies in its page. Its size is a power of two, so that the place of a byte does not jump when the index
/// wraps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Layout {
    bytes: usize,
    size: u32,
    cons: usize,
    prod: usize,
}

impl Layout {
    const fn new(bytes: usize, size: usize, cons: usize, prod: usize) -> Self {
        assert!(size.is_power_of_two() && size <= 4096 && bytes <= 4096);
        #[expect(clippy::cast_possible_truncation, reason = "at most 4096")]
        let size = size as u32;
        Self {
            bytes,
            size,
            cons,
            prod,
        }
    }

    /// How many bytes are in the ring, if the indices are true.
    const fn used(&self, prod: u32, cons: u32) -> Result<u32, IndexError> {
        let used = prod.wrapping_sub(cons);
        if used > self.size {
            return Err(IndexError {
                claimed: used,
                size: self.size,
            });
        }
        Ok(used)
    }

    /// Where in the page the byte with this index is, and how many lie behind each other from there on.
    fn place(&self, index: u32) -> (usize, usize) {
        let at = index & self.size.wrapping_sub(1);
        let run = self.size.saturating_sub(at);
        (self.bytes.saturating_add(as_size(at)), as_size(run))
    }
}

const CONSOLE_IN: Layout = Layout::new(
    console::ring::IN,
    console::IN_SIZE,
    console::ring::IN_CONS,
    console::ring::IN_PROD,
);
const CONSOLE_OUT: Layout = Layout::new(
    console::ring::OUT,
    console::OUT_SIZE,
    console::ring::OUT_CONS,
    console::ring::OUT_PROD,
);
const STORE_REQ: Layout = Layout::new(
    xenstore::ring::REQ,
    xenstore::RING_SIZE,
    xenstore::ring::REQ_CONS,
    xenstore::ring::REQ_PROD,
);
const STORE_RSP: Layout = Layout::new(
    xenstore::ring::RSP,
    xenstore::RING_SIZE,
    xenstore::ring::RSP_CONS,
    xenstore::ring::RSP_PROD,
);

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
    const fn rings(self) -> (Layout, Layout) {
        match self {
            Self::ConsoleGuest => (CONSOLE_IN, CONSOLE_OUT),
            Self::ConsoleBackEnd => (CONSOLE_OUT, CONSOLE_IN),
            Self::StoreGuest => (STORE_RSP, STORE_REQ),
            Self::StoreServer => (STORE_REQ, STORE_RSP),
        }
    }
}

/// One end of a page's two rings.
#[derive(Debug)]
pub struct End<P> {
    page: P,
    input: Layout,
    output: Layout,
    /// Bytes consumed of the input.
    cons: u32,
    /// Bytes produced into the output.
    prod: u32,
}

impl<P: SharedPage> End<P> {
    /// The end of a page whose indices are all zero, as they are when a domain starts.
    pub const fn new(role: Role, page: P) -> Self {
        let (input, output) = role.rings();
        Self {
            page,
            input,
            output,
            cons: 0,
            prod: 0,
        }
    }

    /// The end of a page that is in use: goes on where this role's indices in the page stand. For a guest after
    /// its boot loader, and for a back-end after its predecessor.
    pub fn resume(role: Role, page: P) -> Self {
        let mut end = Self::new(role, page);
        end.cons = end.page.load(end.input.cons);
        end.prod = end.page.load(end.output.prod);
        end
    }

    /// Sets all four indices to zero, the other side's too. For a back-end whose guest is at rest and starts anew.
    pub fn reset(&mut self) {
        for ring in [self.input, self.output] {
            self.page.store(ring.cons, 0);
            self.page.store(ring.prod, 0);
        }
        (self.cons, self.prod) = (0, 0);
    }

    /// The page.
    pub const fn page(&self) -> &P {
        &self.page
    }

    /// How many bytes wait to be received.
    ///
    /// # Errors
    ///
    /// [`IndexError`] if the other side's index is impossible.
    pub fn available(&self) -> Result<usize, IndexError> {
        self.input
            .used(self.page.load(self.input.prod), self.cons)
            .map(as_size)
    }

    /// How many bytes can be sent.
    ///
    /// # Errors
    ///
    /// [`IndexError`] if the other side's index is impossible.
    pub fn room(&self) -> Result<usize, IndexError> {
        let used = self.output.used(self.prod, self.page.load(self.output.cons))?;
        Ok(as_size(self.output.size.saturating_sub(used)))
    }

    /// Receives into `buffer` what there is, and frees its room; tells how many bytes that were.
    ///
    /// # Errors
    ///
    /// [`IndexError`] if the other side's index is impossible. Nothing is received then.
    pub fn receive(&mut self, buffer: &mut [u8]) -> Result<usize, IndexError> {
        let count = buffer.len().min(self.available()?);
        let (at, run) = self.input.place(self.cons);
        if let Some((first, rest)) = buffer.split_at_mut_checked(count.min(run)) {
            self.page.read(at, first);
            if let Some(rest) = rest.get_mut(..count.saturating_sub(run)) {
                self.page.read(self.input.bytes, rest);
            }
        }
        self.cons = self.cons.wrapping_add(as_index(count));
        // Release: the other side overwrites these bytes once it sees the index, and we have read them before.
        self.page.store(self.input.cons, self.cons);
        Ok(count)
    }

    /// Sends of `bytes` what there is room for; tells how many bytes that were.
    ///
    /// # Errors
    ///
    /// [`IndexError`] if the other side's index is impossible. Nothing is sent then.
    pub fn send(&mut self, bytes: &[u8]) -> Result<usize, IndexError> {
        let count = bytes.len().min(self.room()?);
        let (at, run) = self.output.place(self.prod);
        if let Some((first, rest)) = bytes
            .get(..count)
            .and_then(|sent| sent.split_at_checked(count.min(run)))
        {
            self.page.write(at, first);
            self.page.write(self.output.bytes, rest);
        }
        self.prod = self.prod.wrapping_add(as_index(count));
        // Release: who sees the index sees the bytes.
        self.page.store(self.output.prod, self.prod);
        Ok(count)
    }

    /// Tells a store's guest in the page why it is not served any more. Only the server may, and only on its own pages.
    pub fn mark_broken(&self, why: xenstore::RingError) {
        self.page.store(xenstore::ring::ERROR, why.raw());
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

#[cfg(test)]
pub(crate) mod tests;
