//! Files of the boot archive, a ustar tar that the boot loader puts into memory.

use tar_no_std::{CorruptDataError, TarArchiveRef};

/// The boot archive, checked once.
#[derive(Clone, Debug)]
pub struct Archive<'a> {
    tar: TarArchiveRef<'a>,
}

impl<'a> Archive<'a> {
    /// Checks that `bytes` are a tar archive from its first header to its end.
    ///
    /// # Errors
    ///
    /// What is wrong with it, as the tar reader says.
    pub fn new(bytes: &'a [u8]) -> Result<Self, CorruptDataError> {
        Ok(Self {
            tar: TarArchiveRef::new(bytes)?,
        })
    }

    /// The content of the regular file `name`; a leading `./` in the archive's own names is ignored.
    #[must_use]
    pub fn file(&self, name: &str) -> Option<&'a [u8]> {
        self.files()
            .find_map(|(held, data)| (held == name).then_some(data))
    }

    /// Every regular file whose name is text, with its name.
    pub fn files(&self) -> impl Iterator<Item = (Name, &'a [u8])> {
        self.tar.entries().filter_map(|entry| {
            let name = entry.filename();
            let name = name.as_str().ok()?;
            Some((
                Name::try_from(name.strip_prefix("./").unwrap_or(name)).ok()?,
                entry.data(),
            ))
        })
    }
}

/// A file's name in the archive, folders included.
pub type Name = heapless::String<256>;

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;
    use std::format;
    use std::vec::Vec;

    /// A ustar header and its data, padded to whole blocks.
    fn entry(name: &str, data: &[u8]) -> Vec<u8> {
        let mut block = std::vec![0_u8; 512];
        block[..name.len()].copy_from_slice(name.as_bytes());
        block[100..108].copy_from_slice(b"0000644\0");
        block[108..116].copy_from_slice(b"0000000\0");
        block[116..124].copy_from_slice(b"0000000\0");
        block[124..136].copy_from_slice(format!("{:011o}\0", data.len()).as_bytes());
        block[136..148].copy_from_slice(b"00000000000\0");
        block[148..156].copy_from_slice(b"        ");
        block[156] = b'0';
        block[257..265].copy_from_slice(b"ustar\x0000");
        let sum: u32 = block.iter().map(|&byte| u32::from(byte)).sum();
        block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        block.extend_from_slice(data);
        block.resize(block.len().next_multiple_of(512), 0);
        block
    }

    fn archive(entries: &[(&str, &[u8])]) -> Vec<u8> {
        let mut bytes: Vec<u8> = entries
            .iter()
            .flat_map(|(name, data)| entry(name, data))
            .collect();
        bytes.extend([0; 1024]);
        bytes
    }

    #[test]
    fn a_file_is_found_by_its_name() {
        let bytes = archive(&[("control", b"first"), ("./guest/kernel", b"second")]);
        let archive = Archive::new(&bytes).unwrap();
        assert_eq!(archive.file("control"), Some(b"first".as_slice()));
        assert_eq!(archive.file("guest/kernel"), Some(b"second".as_slice()));
        assert_eq!(archive.file("contro"), None);
        assert_eq!(archive.files().count(), 2);
    }

    #[test]
    fn bytes_that_are_no_archive_are_refused() {
        assert!(Archive::new(&[]).is_err());
        assert!(Archive::new(&[7; 2048]).is_err());
        let mut cut = archive(&[("control", &[1; 1000])]);
        cut.truncate(1024);
        assert!(Archive::new(&cut).is_err());
    }
}
