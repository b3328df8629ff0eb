//! Frames: one record for each 4 KiB frame of the machine, saying who owns it, how many reasons there are to
//! keep it, and what it may be used as.
//!
//! The law: counts equal real references, a frame has one type at a time, and a frame whose last reference
//! goes is given to nobody else before it is scrubbed and flushed from every TLB that may hold it.
//!
//! - [`Mfn`] names a frame, [`Pfn`] a page in one domain's own numbering.
//! - [`FrameTable`] holds the records; [`words`] has the rules, as pure functions on the decoded state.
//! - [`Extents`] are kept apart for domains that the control domain makes again and again.
//! - [`Buddy`] hands out free frames in powers of two; [`FrameList`] strings together a domain's frames.

mod buddy;
mod extents;
mod list;
mod mfn;
pub mod table;
pub mod words;

pub use buddy::{Buddy, MAX_ORDER};
pub use extents::{ExtentError, Extents, MAX_EXTENT_ORDER, MAX_EXTENTS, all_at_home};
pub use list::FrameList;
pub use mfn::{Mfn, Pfn};
pub use table::{FrameRecord, FrameTable};
pub use words::{Kind, RefError, TypeError, TypeGet, TypePut};
