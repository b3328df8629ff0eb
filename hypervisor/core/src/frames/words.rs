//! The two words of a frame record, and every transition that they may make.
//!
//! These are pure functions: [`super::FrameTable`] runs them inside its compare-exchange loops. The rules are those of the guest
//! ABI's section 4.
//!
//! The words stay packed: taking one apart and putting it together again would be half of what it costs to validate a page-table
//! entry. Counts are in the low half, so that one more is a word that is larger by one.

mod refs;
mod types;

pub use refs::{RefError, RefWord};
pub use types::{Kind, TypeError, TypeGet, TypePut, TypeWord};

/// The largest count that ordinary references and uses reach. One more is there for [`RefWord::keep`].
const FULL: u32 = u32::MAX - 1;
