//! gzip: a header, deflated data, and a trailer of CRC and length. Source: RFC 1952.

use super::{Output, Progress, UnpackError};
use crate::kernel::Compression;
use alloc::boxed::Box;
use miniz_oxide::inflate::TINFLStatus;
use miniz_oxide::inflate::core::inflate_flags::{
    TINFL_FLAG_HAS_MORE_INPUT, TINFL_FLAG_USING_NON_WRAPPING_OUTPUT_BUF,
};
use miniz_oxide::inflate::core::{DecompressorOxide, decompress};

const DAMAGED: UnpackError = UnpackError::Damaged(Compression::Gzip);

pub(super) struct Gzip<'a> {
    inflater: Box<DecompressorOxide>,
    rest: &'a [u8],
    crc: crc32fast::Hasher,
}

impl<'a> Gzip<'a> {
    pub(super) fn new(data: &'a [u8]) -> Result<Self, UnpackError> {
        Ok(Self {
            inflater: Box::default(),
            rest: behind_header(data).ok_or(DAMAGED)?,
            crc: crc32fast::Hasher::new(),
        })
    }

    pub(super) fn step(&mut self, output: &mut Output, budget: usize) -> Result<Progress, UnpackError> {
        let before = output.bytes.len();
        // What comes to nothing must not take long either: empty blocks, for one.
        let (input, flags) = match self.rest.get(..budget) {
            Some(input) => (input, TINFL_FLAG_HAS_MORE_INPUT),
            None => (self.rest, 0),
        };
        let flags = flags | TINFL_FLAG_USING_NON_WRAPPING_OUTPUT_BUF;
        let (status, read) = output.append(budget, |bytes, from| {
            let (status, read, written) = decompress(&mut self.inflater, input, bytes, from, flags);
            (written, (status, read))
        });
        self.rest = self.rest.get(read..).unwrap_or_default();
        self.crc.update(output.bytes.get(before..).unwrap_or_default());
        #[expect(
            clippy::wildcard_enum_match_arm,
            reason = "the kinds of failure, of which there may be more in later versions"
        )]
        match status {
            // Without any room it says so also when it only wants more input.
            TINFLStatus::HasMoreOutput if before == output.size && read == 0 => {
                Err(UnpackError::WrongSize(Compression::Gzip))
            }
            TINFLStatus::HasMoreOutput | TINFLStatus::NeedsMoreInput => Ok(Progress::More),
            TINFLStatus::Done => self.end(output),
            _ => Err(DAMAGED),
        }
    }

    /// Compares the trailer. Its second word is the size, which the buffer has.
    fn end(&self, output: &Output) -> Result<Progress, UnpackError> {
        let (crc, size) = self.rest.split_first_chunk().ok_or(DAMAGED)?;
        if u32::from_le_bytes(*crc) != self.crc.clone().finalize() {
            return Err(DAMAGED);
        }
        match size.first_chunk() {
            Some(word) if size.len() == 4 && output.size as u64 == u64::from(u32::from_le_bytes(*word)) => {
                Ok(Progress::Ended)
            }
            Some(_) => Err(UnpackError::WrongSize(Compression::Gzip)),
            None => Err(DAMAGED),
        }
    }
}

/// What follows the header, with the parts that its flags announce.
fn behind_header(data: &[u8]) -> Option<&[u8]> {
    const DEFLATE: u8 = 8;
    const HEADER_CRC: u8 = 1 << 1;
    const EXTRA: u8 = 1 << 2;
    const NAME: u8 = 1 << 3;
    const COMMENT: u8 = 1 << 4;
    const RESERVED: u8 = 7 << 5;
    let ([_, _, method, flags, ..], mut rest) = data.split_first_chunk::<10>()?;
    if *method != DEFLATE || flags & RESERVED != 0 {
        return None;
    }
    if flags & EXTRA != 0 {
        let (len, behind) = rest.split_first_chunk()?;
        rest = behind.get(usize::from(u16::from_le_bytes(*len))..)?;
    }
    for text in [NAME, COMMENT] {
        if flags & text != 0 {
            let end = rest.iter().position(|&byte| byte == 0)?;
            rest = rest.get(end.checked_add(1)?..)?;
        }
    }
    if flags & HEADER_CRC != 0 {
        rest = rest.get(2..)?;
    }
    Some(rest)
}
