//! `vmlinuz`: the compressed kernel inside of a boot image, by its header.
//!
//! Source: Linux' boot protocol (Documentation/arch/x86/boot.rst), fields `setup_sects`, `header`, `version`,
//! `payload_offset` and `payload_length`.

use std::io::Read;

use anyhow::{Context, Result, bail};
use lzma_rust2::XzReader;

/// How an ELF file begins: a kernel that was never compressed.
const ELF: [u8; 4] = *b"\x7fELF";

/// How an XZ stream begins.
const XZ: [u8; 6] = *b"\xfd7zXZ\0";

/// Compressors that distributions use besides, by how their streams begin.
const OTHERS: &[(&[u8], &str)] = &[
    (b"\x1f\x8b", "gzip"),
    (b"BZh", "bzip2"),
    (b"\x5d\0\0", "LZMA"),
    (b"\x89LZO", "LZO"),
    (b"\x02\x21\x4c\x18", "LZ4"),
    (b"\x28\xb5\x2f\xfd", "Zstandard"),
];

/// The first version of the protocol with a payload's place in its header.
const FIRST_WITH_PAYLOAD: u16 = 0x0208;

const SECTOR: usize = 512;

/// The `vmlinux` in a `vmlinuz`.
///
/// # Errors
///
/// If the file is no boot image, or compressed in another way than by XZ.
pub(crate) fn vmlinux(file: &[u8]) -> Result<Vec<u8>> {
    if file.starts_with(&ELF) {
        return Ok(file.to_vec());
    }
    let payload = payload(file)?;
    if let Some((_, name)) = OTHERS.iter().find(|(magic, _)| payload.starts_with(magic)) {
        bail!("the kernel is compressed by {name}, which is not read here");
    }
    if !payload.starts_with(&XZ) {
        bail!("the kernel is compressed in an unknown way");
    }
    // The size after the stream is that of what comes out: a check for free.
    let (stream, size) = payload.split_last_chunk::<4>().context("an empty payload")?;
    let size = usize::try_from(u32::from_le_bytes(*size))?;
    let mut vmlinux = Vec::with_capacity(size);
    XzReader::new(stream, false)
        .read_to_end(&mut vmlinux)
        .context("cannot decompress the kernel")?;
    if vmlinux.len() != size || !vmlinux.starts_with(&ELF) {
        bail!("what was decompressed is not the kernel that the boot image announces");
    }
    Ok(vmlinux)
}

/// The compressed kernel in a boot image.
fn payload(file: &[u8]) -> Result<&[u8]> {
    if field::<4>(file, 0x202)? != *b"HdrS" {
        bail!("not a boot image");
    }
    let version = u16::from_le_bytes(field(file, 0x206)?);
    if version < FIRST_WITH_PAYLOAD {
        bail!("a boot image of protocol {version:#x} does not say where its kernel is");
    }
    let setup_sectors = match field::<1>(file, 0x1f1)? {
        [0] => 4,
        [sectors] => usize::from(sectors),
    };
    let offset = usize::try_from(u32::from_le_bytes(field(file, 0x248)?))?;
    let length = usize::try_from(u32::from_le_bytes(field(file, 0x24c)?))?;
    // One sector more: the boot sector does not count among those of the set-up.
    let start = setup_sectors
        .saturating_add(1)
        .saturating_mul(SECTOR)
        .saturating_add(offset);
    file.get(start..start.saturating_add(length))
        .context("the boot image is cut off")
}

fn field<const N: usize>(file: &[u8], offset: usize) -> Result<[u8; N]> {
    file.get(offset..)
        .and_then(|rest| rest.first_chunk())
        .copied()
        .context("too short for a boot image")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A boot image with these bytes as its payload, 16 bytes after two sectors of set-up.
    fn image(payload: &[u8]) -> Vec<u8> {
        let mut file = vec![0; 3 * SECTOR + 16];
        file[0x1f1] = 2;
        file[0x202..0x206].copy_from_slice(b"HdrS");
        file[0x206..0x208].copy_from_slice(&0x020f_u16.to_le_bytes());
        file[0x248..0x24c].copy_from_slice(&16_u32.to_le_bytes());
        file[0x24c..0x250].copy_from_slice(&u32::try_from(payload.len()).unwrap().to_le_bytes());
        file.extend_from_slice(payload);
        file
    }

    /// The text `\x7fELF, or so` by `xz --x86 --lzma2 --check=crc32`, and its size.
    const COMPRESSED: &[u8] = include_bytes!("testdata/elf.xz");

    #[test]
    fn the_payload_lies_where_the_header_says() {
        assert_eq!(payload(&image(b"kernel")).unwrap(), b"kernel");
    }

    #[test]
    fn a_kernel_in_xz_is_decompressed_and_its_size_checked() {
        let mut good = COMPRESSED.to_vec();
        good.extend_from_slice(&12_u32.to_le_bytes());
        assert_eq!(vmlinux(&image(&good)).unwrap(), b"\x7fELF, or so\n");
        let mut bad = COMPRESSED.to_vec();
        bad.extend_from_slice(&13_u32.to_le_bytes());
        assert!(
            vmlinux(&image(&bad))
                .unwrap_err()
                .to_string()
                .contains("announces")
        );
    }

    #[test]
    fn a_bare_kernel_is_taken_as_it_is() {
        assert_eq!(vmlinux(b"\x7fELF...").unwrap(), b"\x7fELF...");
    }

    #[test]
    fn another_compressor_is_named() {
        let error = vmlinux(&image(b"\x28\xb5\x2f\xfd....")).unwrap_err().to_string();
        assert!(error.contains("Zstandard"), "{error}");
    }

    #[test]
    fn what_is_cut_off_or_no_boot_image_is_refused() {
        let whole = image(b"kernel");
        assert!(payload(&whole[..whole.len() - 1]).is_err());
        assert!(payload(b"MZ").is_err());
        assert!(payload(&vec![0; 4096]).is_err());
    }
}
