//! LZ4 in its older frame: a magic number, then blocks, each with its packed size before it, all but the last of 8 MiB unpacked.

use super::{Output, Progress, UnpackError};
use crate::kernel::Compression;

pub(in crate::kernel) const MAGIC: [u8; 4] = [0x02, 0x21, 0x4c, 0x18];

/// How much a block has unpacked.
const BLOCK: usize = 8 << 20;

const DAMAGED: UnpackError = UnpackError::Damaged(Compression::Lz4);

pub(super) struct Lz4<'a> {
    rest: &'a [u8],
}

impl<'a> Lz4<'a> {
    pub(super) fn new(data: &'a [u8]) -> Result<Self, UnpackError> {
        let rest = data.strip_prefix(&MAGIC).ok_or(DAMAGED)?;
        Ok(Self { rest })
    }

    /// Unpacks one block.
    pub(super) fn step(&mut self, output: &mut Output) -> Result<Progress, UnpackError> {
        let Some((word, rest)) = self.rest.split_first_chunk() else {
            return if self.rest.is_empty() {
                Ok(Progress::Ended)
            } else {
                Err(DAMAGED)
            };
        };
        self.rest = rest;
        // Frames may follow each other.
        if *word == MAGIC {
            return Ok(Progress::More);
        }
        if output.is_full() {
            return Err(UnpackError::WrongSize(Compression::Lz4));
        }
        let len = usize::try_from(u32::from_le_bytes(*word)).map_err(|_| DAMAGED)?;
        let (block, rest) = rest.split_at_checked(len).ok_or(DAMAGED)?;
        self.rest = rest;
        output.append(BLOCK, |bytes, from| {
            let room = bytes.get_mut(from..).unwrap_or_default();
            match lz4_flex::block::decompress_into(block, room) {
                Ok(written) => (written, Ok(Progress::More)),
                Err(_) => (0, Err(DAMAGED)),
            }
        })
    }
}
