//! Linux boot images: where the packed kernel lies in one. Source: Linux's boot protocol for x86, in the guest ABI's section 1.1.

use core::fmt;

/// What is wrong with a boot image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BootImageError {
    /// It speaks this version of the boot protocol, which does not tell where the kernel is.
    TooOld(u16),
    /// The packed kernel is not inside the file, or is nothing.
    Payload,
}

impl fmt::Display for BootImageError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooOld(version) => write!(
                f,
                "it is a boot image of protocol {}.{:02}; 2.08 or later is supported",
                version >> 8,
                version & 0xff
            ),
            Self::Payload => f.write_str("it is a boot image that is cut off, or damaged"),
        }
    }
}

/// Bytes in a sector, in which the part that runs in real mode is measured.
const SECTOR: usize = 512;

/// The first protocol that tells where the packed kernel is.
const FIRST_WITH_PAYLOAD: u16 = 0x208;

/// The packed kernel in a boot image; `None` if `file` is none.
pub(super) fn payload(file: &[u8]) -> Result<Option<&[u8]>, BootImageError> {
    if word::<4>(file, 0x202) != Some(*b"HdrS") {
        return Ok(None);
    }
    let fields = || {
        let [sectors] = word::<1>(file, 0x1f1)?;
        let version = u16::from_le_bytes(word(file, 0x206)?);
        Some((sectors, version))
    };
    let (sectors, version) = fields().ok_or(BootImageError::Payload)?;
    if version < FIRST_WITH_PAYLOAD {
        return Err(BootImageError::TooOld(version));
    }
    let find = || {
        let offset = usize::try_from(u32::from_le_bytes(word(file, 0x248)?)).ok()?;
        let len = usize::try_from(u32::from_le_bytes(word(file, 0x24c)?)).ok()?;
        // An old way to say four, and the boot sector itself.
        let real_mode = usize::from(if sectors == 0 { 4 } else { sectors }).checked_add(1)?;
        let start = real_mode.checked_mul(SECTOR)?.checked_add(offset)?;
        file.get(start..start.checked_add(len)?)
    };
    find().map(Some).ok_or(BootImageError::Payload)
}

fn word<const N: usize>(file: &[u8], at: usize) -> Option<[u8; N]> {
    file.get(at..)?.first_chunk().copied()
}
