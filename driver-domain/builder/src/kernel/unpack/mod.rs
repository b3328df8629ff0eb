//! Unpacking, in steps.
//!
//! An [`Unpacker`] does so much at a time as it is told, so that whoever calls it can let others run in between. With gzip and xz a step ends within
//! a few hundred bytes of that. Zstandard comes in blocks of up to 128 KiB, LZ4 in blocks of 8 MiB, neither of which can be interrupted: a step does
//! at least one.
//!
//! The decoders are libraries; here are the frames that they leave to their users, the checksums that they do not check, and the bounds: a buffer is
//! asked for before a decoder needs it, because the decoders cannot do without, and the kernel may not be longer than it said.

mod gzip;
mod lz4;
mod xz;
mod zstd;

pub(super) use lz4::MAGIC as LZ4_MAGIC;

use super::{Compression, Packed};
use crate::memory::{self, NoMemory};
use alloc::boxed::Box;
use alloc::vec::Vec;
use core::fmt;

/// Why something cannot be unpacked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UnpackError {
    /// It needs a buffer of so many bytes, which is more than the limit.
    TooLarge {
        /// What it needs.
        needed: u64,
        /// The limit.
        limit: usize,
    },
    /// There is no memory.
    NoMemory(NoMemory),
    /// It is cut off, or a checksum is wrong, or it means nothing.
    Damaged(Compression),
    /// It is whole, but not as long as the file says, or followed by something.
    WrongSize(Compression),
    /// It uses something that this compression can do and kernels do not need.
    Unsupported(Compression, &'static str),
}

impl fmt::Display for UnpackError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooLarge { needed, limit } => write!(
                f,
                "to unpack it takes a buffer of {} KiB, and {} KiB are the limit",
                needed.div_ceil(1024),
                limit >> 10
            ),
            Self::NoMemory(error) => error.fmt(f),
            Self::Damaged(compression) => write!(f, "its {compression} data are damaged or cut off"),
            Self::WrongSize(compression) => {
                write!(f, "its {compression} data have not the size that it says")
            }
            Self::Unsupported(compression, what) => {
                write!(f, "its {compression} data use {what}, which is not supported")
            }
        }
    }
}

impl core::error::Error for UnpackError {}

/// What became of a step.
#[derive(Debug)]
#[must_use]
pub enum Step<'a> {
    /// There is more to do.
    More(Unpacker<'a>),
    /// It is unpacked, and its checksums, if it has any, are right.
    Done(Vec<u8>),
}

/// Something that is being unpacked.
#[derive(Debug)]
pub struct Unpacker<'a> {
    decoder: Decoder<'a>,
    output: Output,
}

enum Decoder<'a> {
    Gzip(gzip::Gzip<'a>),
    Xz(xz::Xz<'a>),
    Zstd(Box<zstd::Zstd<'a>>),
    Lz4(lz4::Lz4<'a>),
}

impl fmt::Debug for Decoder<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Gzip(_) => "Gzip",
            Self::Xz(_) => "Xz",
            Self::Zstd(_) => "Zstd",
            Self::Lz4(_) => "Lz4",
        })
    }
}

/// Whether a decoder has come to the end of its input, checksums and all.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Progress {
    More,
    Ended,
}

/// What has been unpacked. All its memory is there from the start, and is cleared as it comes into use.
struct Output {
    bytes: Vec<u8>,
    /// How many there will be.
    size: usize,
}

impl fmt::Debug for Output {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of {}", self.bytes.len(), self.size)
    }
}

impl Output {
    fn is_full(&self) -> bool {
        self.bytes.len() == self.size
    }

    /// Lets `decode` write behind what there is, up to `budget` bytes: it gets all bytes and where the new ones begin, and returns how many it wrote.
    fn append<T>(&mut self, budget: usize, decode: impl FnOnce(&mut [u8], usize) -> (usize, T)) -> T {
        let before = self.bytes.len();
        let end = before.saturating_add(budget).min(self.size);
        self.bytes.resize(end, 0);
        let (written, result) = decode(&mut self.bytes, before);
        self.bytes.truncate(before.saturating_add(written));
        result
    }
}

impl<'a> Unpacker<'a> {
    pub(super) fn new(packed: Packed<'a>, limit: usize) -> Result<Self, UnpackError> {
        let Packed {
            compression,
            data,
            size,
        } = packed;
        let size = within(u64::from(size), limit)?;
        let decoder = match compression {
            Compression::Gzip => Decoder::Gzip(gzip::Gzip::new(data)?),
            Compression::Xz => Decoder::Xz(xz::Xz::new(data, limit)?),
            Compression::Zstd => Decoder::Zstd(Box::new(zstd::Zstd::new(data, size)?)),
            Compression::Lz4 => Decoder::Lz4(lz4::Lz4::new(data)?),
        };
        let output = Output {
            bytes: memory::vector(size)?,
            size,
        };
        Ok(Self { decoder, output })
    }

    /// How many bytes are unpacked.
    #[must_use]
    pub fn unpacked(&self) -> usize {
        self.output.bytes.len()
    }

    /// How many there will be.
    #[must_use]
    pub fn size(&self) -> usize {
        self.output.size
    }

    /// Goes on for about `budget` bytes of what comes out.
    ///
    /// # Errors
    ///
    /// [`UnpackError`].
    pub fn step(mut self, budget: usize) -> Result<Step<'a>, UnpackError> {
        let budget = budget.max(1);
        let (compression, progress) = match &mut self.decoder {
            Decoder::Gzip(gzip) => (Compression::Gzip, gzip.step(&mut self.output, budget)?),
            Decoder::Xz(xz) => (Compression::Xz, xz.step(&mut self.output, budget)?),
            Decoder::Zstd(zstd) => (Compression::Zstd, zstd.step(&mut self.output, budget)?),
            Decoder::Lz4(lz4) => (Compression::Lz4, lz4.step(&mut self.output)?),
        };
        match progress {
            Progress::More => Ok(Step::More(self)),
            Progress::Ended if self.output.is_full() => Ok(Step::Done(self.output.bytes)),
            Progress::Ended => Err(UnpackError::WrongSize(compression)),
        }
    }
}

/// A size that was claimed, if the limit allows it.
fn within(needed: u64, limit: usize) -> Result<usize, UnpackError> {
    usize::try_from(needed)
        .ok()
        .filter(|&size| size <= limit)
        .ok_or(UnpackError::TooLarge { needed, limit })
}
