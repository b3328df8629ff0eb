//! xz: one stream of LZMA2, filtered for x86 code as a rule, with a CRC.

use super::{Output, Progress, UnpackError, within};
use crate::kernel::Compression;
use crate::memory;
use alloc::boxed::Box;
use alloc::vec::Vec;
use xz4rust::{XzDecoder, XzError, XzNextBlockResult};

pub(super) struct Xz<'a> {
    stage: Stage,
    rest: &'a [u8],
}

enum Stage {
    /// The dictionary is being cleared. It is for so many bytes.
    Preparing(Vec<u8>, usize),
    Decoding(Box<XzDecoder<'static>>),
}

/// How many bytes of the dictionary are cleared in the time that one byte is unpacked, about.
const CLEARED_PER_BYTE: usize = 16;

impl<'a> Xz<'a> {
    pub(super) fn new(data: &'a [u8], limit: usize) -> Result<Self, UnpackError> {
        let size = dictionary_size(data)?;
        let dictionary = memory::vector(within(size, limit)?)?;
        let size = dictionary.capacity();
        Ok(Self {
            stage: Stage::Preparing(dictionary, size),
            rest: data,
        })
    }

    pub(super) fn step(&mut self, output: &mut Output, budget: usize) -> Result<Progress, UnpackError> {
        match &mut self.stage {
            Stage::Preparing(dictionary, size) => {
                let next = dictionary
                    .len()
                    .saturating_add(budget.saturating_mul(CLEARED_PER_BYTE));
                dictionary.resize(next.min(*size), 0);
                if dictionary.len() == *size {
                    let dictionary = core::mem::take(dictionary);
                    self.stage = Stage::Decoding(XzDecoder::in_heap_with_alloc_dict(dictionary, 0));
                }
                Ok(Progress::More)
            }
            Stage::Decoding(decoder) => {
                // What comes to nothing must not take long either: empty blocks, for one.
                let input = self.rest.get(..budget).unwrap_or(self.rest);
                let was_full = output.is_full();
                let decoded = output.append(budget, |bytes, from| {
                    let room = bytes.get_mut(from..).unwrap_or_default();
                    let decoded = decoder.decode(input, room);
                    (
                        decoded.as_ref().map_or(0, XzNextBlockResult::output_produced),
                        decoded,
                    )
                });
                let decoded = decoded.map_err(refuse)?;
                self.rest = self.rest.get(decoded.input_consumed()..).unwrap_or_default();
                match decoded {
                    XzNextBlockResult::EndOfStream(..) if self.rest.is_empty() => Ok(Progress::Ended),
                    XzNextBlockResult::EndOfStream(..) => Err(UnpackError::WrongSize(Compression::Xz)),
                    XzNextBlockResult::NeedMoreData(0, 0) if was_full => {
                        Err(UnpackError::WrongSize(Compression::Xz))
                    }
                    XzNextBlockResult::NeedMoreData(..) => Ok(Progress::More),
                }
            }
        }
    }
}

/// How large the first block's dictionary is, in bytes.
///
/// The decoder would allocate it when it gets there, and panic if it cannot. So one that may not have any is asked first: it says what it wants.
fn dictionary_size(data: &[u8]) -> Result<u64, UnpackError> {
    // Stream header and the longest block header.
    const HEADERS: usize = 12 + 1024;
    let mut decoder = XzDecoder::in_heap_with_alloc_dict(Vec::new(), 0);
    let headers = data.get(..HEADERS).unwrap_or(data);
    match decoder.decode(headers, &mut []) {
        Err(XzError::DictionaryTooLarge(size)) => Ok(size),
        Err(error) => Err(refuse(error)),
        // No block at all: no kernel either.
        Ok(_) => Err(UnpackError::Damaged(Compression::Xz)),
    }
}

fn refuse(error: XzError) -> UnpackError {
    let unsupported = |what| UnpackError::Unsupported(Compression::Xz, what);
    #[expect(
        clippy::wildcard_enum_match_arm,
        reason = "all else that may be wrong, of which there may be more in later versions"
    )]
    match error {
        XzError::Sha256NotSupported => unsupported("a SHA-256 checksum"),
        XzError::UnsupportedCheckType(_) => unsupported("an unknown checksum"),
        XzError::UnsupportedBcjFilter(_) | XzError::DeltaFilterUnsupported => {
            unsupported("a filter that is none for x86")
        }
        XzError::DictionaryTooLarge(_) => unsupported("a dictionary that grows"),
        _ => UnpackError::Damaged(Compression::Xz),
    }
}
