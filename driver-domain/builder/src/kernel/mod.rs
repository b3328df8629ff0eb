//! Kernels as files: an ELF file, a Linux boot image (bzImage) with a packed one inside, or either packed as a whole by gzip.
//!
//! [`open`] looks what a file is, without unpacking anything; [`load`] goes all the way to the ELF file. Nothing in a file is believed: a
//! size that it claims is held to the caller's limit before there is any memory for it. Source: the guest ABI's section 1.1.

mod boot_image;
mod unpack;

pub use boot_image::BootImageError;
pub use unpack::{Step, UnpackError, Unpacker};

use crate::memory::{self, NoMemory};
use alloc::borrow::Cow;
use alloc::vec::Vec;
use core::fmt;

/// How much [`load`] unpacks between two pauses, in bytes: a millisecond's work of the slowest compression, or little more.
pub const PORTION: usize = 64 << 10;

/// What a file is.
#[derive(Clone, Copy, Debug)]
pub enum Kernel<'a> {
    /// An ELF file, as a whole or as it lies in a boot image.
    Elf(&'a [u8]),
    /// Something packed.
    Packed(Packed<'a>),
}

/// A packed kernel, or a packed file with one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Packed<'a> {
    /// By what it is packed.
    pub compression: Compression,
    /// The packed bytes.
    pub data: &'a [u8],
    /// How many bytes it has unpacked, as the file says.
    pub size: u32,
}

/// What kernels are compressed by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compression {
    /// Deflate in gzip's frame, with a CRC.
    Gzip,
    /// LZMA2 in xz's frame, with filters for machine code, and a CRC.
    Xz,
    /// Zstandard.
    Zstd,
    /// LZ4 in its older frame, which has no checksum.
    Lz4,
}

impl Compression {
    /// By the first bytes of what is packed. Source: the guest ABI's section 1.1.
    fn of(data: &[u8]) -> Result<Self, KernelError> {
        const KNOWN: [(&[u8], Result<Compression, &str>); 7] = [
            (&[0x1f, 0x8b], Ok(Compression::Gzip)),
            (&[0xfd, b'7', b'z', b'X', b'Z', 0], Ok(Compression::Xz)),
            (&[0x28, 0xb5, 0x2f, 0xfd], Ok(Compression::Zstd)),
            (&unpack::LZ4_MAGIC, Ok(Compression::Lz4)),
            (b"BZh", Err("bzip2")),
            (&[0x5d, 0, 0], Err("lzma")),
            (&[0x89, b'L', b'Z'], Err("lzo")),
        ];
        let known = KNOWN.iter().find(|(magic, _)| data.starts_with(magic));
        match known {
            Some((_, Ok(compression))) => Ok(*compression),
            Some((_, Err(name))) => Err(KernelError::Compression(name)),
            None => Err(KernelError::UnknownCompression),
        }
    }
}

impl fmt::Display for Compression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Gzip => "gzip",
            Self::Xz => "xz",
            Self::Zstd => "zstd",
            Self::Lz4 => "lz4",
        })
    }
}

/// Why a file is no kernel that can be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KernelError {
    /// It is nothing that is known.
    Unknown,
    /// It is a damaged boot image, or too old a one.
    BootImage(BootImageError),
    /// It is compressed by something that is not supported.
    Compression(&'static str),
    /// Inside a boot image there is nothing that is known.
    UnknownCompression,
    /// It is packed, with something packed in it that has something packed in it.
    TooDeep,
    /// It cannot be unpacked.
    Unpack(UnpackError),
}

impl fmt::Display for KernelError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const SUPPORTED: &str = "supported are gzip, xz, zstd and lz4";
        match self {
            Self::Unknown => f.write_str(
                "it is neither an ELF file nor a Linux boot image (bzImage), nor either compressed by gzip",
            ),
            Self::BootImage(error) => error.fmt(f),
            Self::Compression(name) => write!(f, "it is compressed by {name}; {SUPPORTED}"),
            Self::UnknownCompression => write!(f, "it is compressed by something unknown; {SUPPORTED}"),
            Self::TooDeep => f.write_str("it is compressed more than twice over"),
            Self::Unpack(error) => error.fmt(f),
        }
    }
}

impl core::error::Error for KernelError {}

impl From<UnpackError> for KernelError {
    fn from(error: UnpackError) -> Self {
        Self::Unpack(error)
    }
}

impl From<NoMemory> for UnpackError {
    fn from(error: NoMemory) -> Self {
        Self::NoMemory(error)
    }
}

/// Looks what `file` is.
///
/// # Errors
///
/// [`KernelError`], but none about unpacking.
pub fn open(file: &[u8]) -> Result<Kernel<'_>, KernelError> {
    const ELF_MAGIC: &[u8] = b"\x7fELF";
    if file.starts_with(ELF_MAGIC) {
        return Ok(Kernel::Elf(file));
    }
    if let Some(payload) = boot_image::payload(file).map_err(KernelError::BootImage)? {
        if payload.starts_with(ELF_MAGIC) {
            return Ok(Kernel::Elf(payload));
        }
        return Packed::new(Compression::of(payload)?, payload).map(Kernel::Packed);
    }
    match Compression::of(file) {
        Ok(Compression::Gzip) => Packed::new(Compression::Gzip, file).map(Kernel::Packed),
        Ok(Compression::Xz | Compression::Zstd | Compression::Lz4) | Err(_) => Err(KernelError::Unknown),
    }
}

impl<'a> Packed<'a> {
    /// The last word says how many bytes there are unpacked: gzip has it in its own frame, behind all else the kernel's build puts it.
    fn new(compression: Compression, data: &'a [u8]) -> Result<Self, KernelError> {
        let (before, size) = data
            .split_last_chunk()
            .ok_or(KernelError::BootImage(BootImageError::Payload))?;
        Ok(Self {
            compression,
            data: match compression {
                Compression::Gzip => data,
                Compression::Xz | Compression::Zstd | Compression::Lz4 => before,
            },
            size: u32::from_le_bytes(*size),
        })
    }

    /// Begins to unpack it, into a buffer of its [`size`](Self::size), which is at most `limit`, as is an xz dictionary. Zstandard takes a
    /// second buffer: of the size too, rounded up to a power of two. 256 MiB is enough for what distributions have.
    ///
    /// # Errors
    ///
    /// [`UnpackError::TooLarge`], [`UnpackError::NoMemory`]; [`UnpackError::Damaged`] if the first bytes show it.
    pub fn unpacker(self, limit: usize) -> Result<Unpacker<'a>, UnpackError> {
        Unpacker::new(self, limit)
    }
}

/// Unpacks `file` until there is an ELF file, pausing after each [`PORTION`]. The limit is that of [`Packed::unpacker`], for each of two layers.
///
/// # Errors
///
/// [`KernelError`].
pub async fn load<'a>(
    file: &'a [u8],
    limit: usize,
    mut pause: impl AsyncFnMut(),
) -> Result<Cow<'a, [u8]>, KernelError> {
    let packed = match open(file)? {
        Kernel::Elf(elf) => return Ok(Cow::Borrowed(elf)),
        Kernel::Packed(packed) => packed,
    };
    let inner = unpack(packed, limit, &mut pause).await?;
    let elf = match open(&inner)? {
        Kernel::Elf(elf) if elf.len() == inner.len() => return Ok(Cow::Owned(inner)),
        Kernel::Elf(elf) => {
            let mut copy = memory::vector(elf.len()).map_err(UnpackError::from)?;
            copy.extend_from_slice(elf);
            copy
        }
        Kernel::Packed(packed) => unpack(packed, limit, &mut pause).await?,
    };
    match open(&elf)? {
        Kernel::Elf(_) => Ok(Cow::Owned(elf)),
        Kernel::Packed(_) => Err(KernelError::TooDeep),
    }
}

async fn unpack(
    packed: Packed<'_>,
    limit: usize,
    pause: &mut impl AsyncFnMut(),
) -> Result<Vec<u8>, KernelError> {
    let mut unpacker = packed.unpacker(limit)?;
    loop {
        unpacker = match unpacker.step(PORTION)? {
            Step::More(more) => more,
            Step::Done(unpacked) => return Ok(unpacked),
        };
        pause().await;
    }
}

#[cfg(test)]
mod tests;
