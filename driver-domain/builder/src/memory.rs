//! Large buffers, which may not be there.

use alloc::vec::Vec;
use core::fmt;

/// There is no memory for a buffer of so many bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoMemory(pub usize);

impl fmt::Display for NoMemory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "there is no memory for a buffer of {} KiB",
            self.0.div_ceil(1024)
        )
    }
}

impl core::error::Error for NoMemory {}

/// An empty vector with room for `count` elements.
pub(crate) fn vector<T>(count: usize) -> Result<Vec<T>, NoMemory> {
    let mut vector = Vec::new();
    match vector.try_reserve_exact(count) {
        Ok(()) => Ok(vector),
        Err(_) => Err(NoMemory(count.saturating_mul(size_of::<T>()))),
    }
}
