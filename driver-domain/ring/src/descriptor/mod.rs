//! Rings of descriptors, as netif and blkif have them: requests one way, responses the other way, in the same slots.
//!
//! The front-end posts requests with [`Front`]; the back-end takes and answers them with [`Back`]. Four indices in the ring's first page count
//! without end, in 32 bits: requests and responses published (`req_prod`, `rsp_prod`), and from which request or response on the consumer wants
//! to be told (`req_event`, `rsp_event`). Slots begin at offset 64, are as large as the larger of the two records, and their number is the
//! largest power of two that fits. Response i overwrites request i, and with this back-end it is the response to request i. Source: the guest
//! ABI's sections 13.1 and 15.5.
//!
//! A back-end's round is: take what there is, complete what is done, publish, and ask whether it may sleep. A front-end's is: take the
//! responses, post, push, and ask whether it may sleep. Both notify the peer when [`Notify::Yes`] says so.
//!
//! # Laws
//!
//! 1. **What the peer wrote is a claim.** Records are copied out once and are values from then on. The peer's producer index is compared with
//!    one's own by wrapping subtraction; one that claims more than there can be, or less than was seen, is a [`ProducerError`]. One's own
//!    indices are not read back from the page, but by a successor. No bytes of the peer's make either half panic, loop or leave the ring.
//! 2. **Responses are published in the order of the ring**, whatever the order in which requests are completed. One that is completed early
//!    waits in private memory, of which there is as much as the ring has slots.
//! 3. **The ring is its own journal.** From `rsp_prod` to `req_prod` lie the requests that are not answered, as the front-end wrote them, at
//!    every instant: the back-end can die between any two accesses. [`Back::adopt`] has its successor start at `rsp_prod`. So every request is
//!    answered exactly once; each incarnation does a request at most once; and one that is answered is never done again, nor is one that
//!    was done but not answered redone after a later one was answered. A front-end that writes where it should not harms its own requests
//!    alone.
//! 4. **No wake-up is lost.** Who publishes stores the index, and looks at the peer's event index after a barrier; who wants to sleep stores
//!    its event index, and looks at the peer's producer index after a barrier. One of the two sees the other.
//!
//! Law 3 needs care at one point: a response overwrites the request that it answers before `rsp_prod` says so. So the back-end first saves
//! what it is about to overwrite. The header has 48 bytes that front-ends clear when they make a ring and do not use again, and there is room behind the
//! slots in the ring's last page, which they do not use either. So answers are published together: a front-end never sees a part of them.
//!
//! | offset | is | written by |
//! |---|---|---|
//! | 0 | `req_prod` | front-end |
//! | 4 | `req_event` | back-end |
//! | 8 | `rsp_prod` | back-end |
//! | 12 | `rsp_event` | front-end |
//! | 28 | mark, a u32: what `rsp_prod` will be when the responses that are being written are published | back-end |
//! | 32 | if that is one: the first bytes of its slot, as many as a response has | back-end |
//! | behind the slots | if they are several: the same of each, in the order of the ring | back-end |
//!
//! A successor that finds the mark ahead of `rsp_prod`, by no more than can be saved, puts the bytes back; any other mark says nothing. A
//! successor that is not ours, and knows no mark, can lose the requests whose responses were being written.

mod back;
mod front;
mod shared;
#[cfg(test)]
mod tests;

use core::fmt;

use bulkhead_abi::Buffered;

pub use back::{Back, Ticket};
pub use front::{Front, Full};

/// A kind of ring: which records go through it.
pub trait Protocol {
    /// What the front-end asks, at the beginning of a slot.
    type Request: Buffered;
    /// What the back-end answers, at the beginning of a slot. It has 32 bytes at most.
    type Response: Buffered;
}

/// Whether the peer has to be told, by its event channel, that there is something new.
#[must_use = "a peer that is not told may sleep for ever"]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Notify {
    /// It waits, or may.
    Yes,
    /// It did not ask to be told of this.
    No,
}

/// Why there is no ring in the pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RingError {
    /// This number of pages holds no slot, or exceeds [`MAX_PAGES`].
    Pages(usize),
    /// The front-end's index cannot be.
    Producer(ProducerError),
}

/// Most pages that one ring has.
pub const MAX_PAGES: usize = 16;

/// The peer published a producer index that cannot be: too large, or behind one that it had published before. The ring is not worth another
/// look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProducerError {
    /// The index that the peer published.
    pub theirs: u32,
    /// The index up to which it had been consumed.
    pub ours: u32,
    /// How far ahead of `ours` the peer may be.
    pub room: u32,
}

impl fmt::Display for ProducerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { theirs, ours, room } = self;
        write!(
            f,
            "the peer's index is {theirs}, but {ours} were consumed and there is room for {room} more"
        )
    }
}

impl core::error::Error for ProducerError {}

impl fmt::Display for RingError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pages(pages) => write!(f, "{pages} pages make no ring; 1 to {MAX_PAGES} do"),
            Self::Producer(error) => error.fmt(f),
        }
    }
}

impl core::error::Error for RingError {}

impl From<ProducerError> for RingError {
    fn from(error: ProducerError) -> Self {
        Self::Producer(error)
    }
}
