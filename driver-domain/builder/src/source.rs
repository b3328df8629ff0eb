//! Where a ramdisk comes from.

use core::fmt;

/// Bytes that are read once, from the first to the last: of a file in memory, or of a disk.
pub trait Source {
    /// How many bytes there are.
    fn len(&self) -> u64;

    /// Whether there are none.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Fills `piece`, which is at most a page, with the next bytes. Never asked for more than there are.
    ///
    /// # Errors
    ///
    /// If they cannot be read. Why is for the source to tell.
    fn read(&mut self, piece: &mut [u8]) -> impl Future<Output = Result<(), SourceFailed>>;
}

/// A source cannot be read to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SourceFailed;

impl fmt::Display for SourceFailed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the ramdisk cannot be read")
    }
}

impl core::error::Error for SourceFailed {}

/// A source in memory.
#[derive(Clone, Copy, Debug)]
pub struct Bytes<'a>(pub &'a [u8]);

impl Source for Bytes<'_> {
    fn len(&self) -> u64 {
        self.0.len() as u64
    }

    async fn read(&mut self, piece: &mut [u8]) -> Result<(), SourceFailed> {
        let (now, later) = self.0.split_at_checked(piece.len()).ok_or(SourceFailed)?;
        piece.copy_from_slice(now);
        self.0 = later;
        Ok(())
    }
}
