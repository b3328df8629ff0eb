//! Zstandard: one frame. Source: RFC 8878, sections 3.1.1 and 3.1.1.1.
//!
//! The decoder keeps the last bytes, as many as the frame's window has, and keeps them apart from what it has given out. Linux packs kernels with a
//! window of 128 MiB, of which only the kernel's size is ever used. So the decoder is given a header of our own, with the smallest window that
//! will do: its buffer is as large as the kernel, and a frame that claims little and unpacks to much finds no more.

use super::{Output, Progress, UnpackError};
use crate::kernel::Compression;
use crate::memory;
use ruzstd::decoding::{BlockDecodingStrategy, FrameDecoder};
use ruzstd::io::Read as _;

const DAMAGED: UnpackError = UnpackError::Damaged(Compression::Zstd);
const WRONG_SIZE: UnpackError = UnpackError::WrongSize(Compression::Zstd);

/// The largest block, unpacked.
const BLOCK: usize = 128 << 10;

/// What the decoder's buffer has beyond a power of two.
const SLACK: usize = 2 * BLOCK + 1;

/// Flag of the frame header's descriptor: a checksum follows the last block.
const CHECKSUM: u8 = 1 << 2;

pub(super) struct Zstd<'a> {
    decoder: FrameDecoder,
    rest: &'a [u8],
}

impl<'a> Zstd<'a> {
    pub(super) fn new(data: &'a [u8], size: usize) -> Result<Self, UnpackError> {
        let (header, rest) = Header::read(data).ok_or(DAMAGED)?;
        if header.has_dictionary {
            return Err(UnpackError::Unsupported(
                Compression::Zstd,
                "a dictionary of its own",
            ));
        }
        if header.content_size.is_some_and(|told| told != size as u64) {
            return Err(WRONG_SIZE);
        }
        let wanted = header.window.min(size.max(BLOCK) as u64);
        let descriptor = (0..=u8::MAX).find(|&descriptor| window(descriptor) >= wanted);
        let descriptor = descriptor.ok_or(DAMAGED)?;
        let window = usize::try_from(window(descriptor)).map_err(|_| DAMAGED)?;
        // The decoder panics if there is no memory for its buffer: it is asked for before.
        drop(memory::vector::<u8>(
            window.next_power_of_two().saturating_add(SLACK),
        )?);
        let mut decoder = FrameDecoder::new();
        decoder.set_max_window_size(window as u64);
        let [first, second, third, fourth] = MAGIC;
        let own = [
            first,
            second,
            third,
            fourth,
            header.descriptor & CHECKSUM,
            descriptor,
        ];
        // The first time makes the decoder, the second time its buffer in one piece; else it would grow, and be copied, again and again.
        for _ in 0..2 {
            decoder.init(&own[..]).map_err(|_| DAMAGED)?;
        }
        Ok(Self { decoder, rest })
    }

    pub(super) fn step(&mut self, output: &mut Output, budget: usize) -> Result<Progress, UnpackError> {
        if !self.decoder.is_finished() {
            let blocks = BlockDecodingStrategy::UptoBlocks((budget / BLOCK).max(1));
            self.decoder
                .decode_blocks(&mut self.rest, blocks)
                .map_err(|_| DAMAGED)?;
        }
        let read = output.append(budget.max(BLOCK), |bytes, from| {
            let room = bytes.get_mut(from..).unwrap_or_default();
            let read = self.decoder.read(room);
            (read.as_ref().map_or(0, |read| *read), read)
        });
        read.map_err(|_| DAMAGED)?;
        let waiting = self.decoder.can_collect();
        if waiting > 0 && output.is_full() {
            return Err(WRONG_SIZE);
        }
        if waiting > 0 || !self.decoder.is_finished() {
            return Ok(Progress::More);
        }
        let told = self.decoder.get_checksum_from_data();
        if told.is_some() && told != self.decoder.get_calculated_checksum() {
            return Err(DAMAGED);
        }
        if !self.rest.is_empty() {
            return Err(WRONG_SIZE);
        }
        Ok(Progress::Ended)
    }
}

const MAGIC: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];

struct Header {
    descriptor: u8,
    has_dictionary: bool,
    content_size: Option<u64>,
    /// In bytes.
    window: u64,
}

impl Header {
    /// The frame's header, and what follows it.
    fn read(data: &[u8]) -> Option<(Self, &[u8])> {
        let mut rest = data.strip_prefix(&MAGIC)?;
        let mut take = |count: usize| {
            let (bytes, behind) = rest.split_at_checked(count)?;
            rest = behind;
            let mut word = [0; 8];
            for (to, from) in word.iter_mut().zip(bytes) {
                *to = *from;
            }
            Some(u64::from_le_bytes(word))
        };
        let descriptor = u8::try_from(take(1)?).ok()?;
        let is_single_segment = descriptor & 1 << 5 != 0;
        let told_window = if is_single_segment {
            None
        } else {
            Some(u8::try_from(take(1)?).ok()?)
        };
        let dictionary = take(match descriptor & 3 {
            0 => 0,
            1 => 1,
            2 => 2,
            _ => 4,
        })?;
        let content_size = match descriptor >> 6 {
            0 if !is_single_segment => None,
            0 => Some(take(1)?),
            1 => Some(take(2)?.saturating_add(256)),
            2 => Some(take(4)?),
            _ => Some(take(8)?),
        };
        let header = Self {
            descriptor,
            has_dictionary: dictionary != 0,
            content_size,
            window: told_window.map(window).or(content_size)?,
        };
        Some((header, rest))
    }
}

/// The size of a window by the byte that describes it.
fn window(descriptor: u8) -> u64 {
    let base = 1_u64 << (u32::from(descriptor >> 3).saturating_add(10));
    base.saturating_add((base / 8).saturating_mul(u64::from(descriptor & 7)))
}
