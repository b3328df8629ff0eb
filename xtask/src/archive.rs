//! Packs the boot archive: everything that a machine boots with beside the hypervisor, as one ustar file.
//!
//! PVH hands the hypervisor one module only, so the boot list, the domains' images and the symbol files travel
//! together. The archive of one commit is the same byte for byte wherever it is packed: no times, no owners.

use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::Path;

use anyhow::{Context, Result, bail};
use tar::{Archive, Builder, EntryType, Header};

use crate::bootlist;
use crate::build::{BootFiles, Built};
use crate::scenario::Scenario;

/// The longest file name, in bytes, that ustar holds in one field; the hypervisor reads no other.
const NAME_LIMIT: usize = 100;

/// Writes the boot archive of a scenario to `path`.
///
/// `images` are the domains' images, `ramdisks` the names and contents of their ramdisks, each once. The ballast comes before them: who finds them has read past it.
///
/// # Errors
///
/// If the boot list cannot be written, or a file cannot be read or written.
pub(crate) fn write(
    path: &Path,
    scenario: &Scenario<'_>,
    hypervisor: &Built,
    images: &[Built],
    ramdisks: &[(String, Vec<u8>)],
) -> Result<()> {
    let mut files = vec![(
        "boot.list".to_owned(),
        bootlist::text(scenario.domains)?.into_bytes(),
    )];
    if !scenario.offer.config.is_empty() {
        files.push(("bulkhead.toml".to_owned(), scenario.offer.config.into()));
    }
    if scenario.ballast > 0 {
        files.push(("ballast".to_owned(), vec![0xb1; scenario.ballast]));
    }
    files.push((format!("{}.sym", hypervisor.name), read(&hypervisor.symbols)?));
    for image in images {
        files.push((image.name.clone(), read(&image.stripped)?));
        files.push((format!("{}.sym", image.name), read(&image.symbols)?));
    }
    files.extend_from_slice(ramdisks);
    pack(BufWriter::new(File::create(path)?), &files)
}

/// The hypervisor and the images of the boot archive, without symbols, and the bytes of each.
///
/// # Errors
///
/// If a file cannot be read.
pub(crate) fn images(files: &BootFiles) -> Result<Vec<(String, u64)>> {
    let hypervisor = read(&files.stripped_hypervisor)?.len() as u64;
    let mut found = vec![("hypervisor".to_owned(), hypervisor)];
    let mut archive = Archive::new(File::open(&files.archive)?);
    for entry in archive.entries()? {
        let entry = entry?;
        let path = entry.path()?;
        if path.extension().is_none() {
            found.push((path.display().to_string(), entry.size()));
        }
    }
    Ok(found)
}

fn read(path: &Path) -> Result<Vec<u8>> {
    fs::read(path).with_context(|| format!("cannot read {}", path.display()))
}

/// Writes `files`, in their order, as a ustar archive.
fn pack(sink: impl Write, files: &[(String, Vec<u8>)]) -> Result<()> {
    let mut archive = Builder::new(sink);
    let mut seen: Vec<&str> = Vec::new();
    for (name, content) in files {
        if name.len() > NAME_LIMIT {
            bail!("the file name `{name}` is longer than {NAME_LIMIT} bytes");
        }
        if seen.contains(&name.as_str()) {
            bail!("the file `{name}` would be there twice");
        }
        seen.push(name);
        let mut header = Header::new_ustar();
        header
            .set_path(name)
            .with_context(|| format!("`{name}` cannot be a file name"))?;
        header.set_entry_type(EntryType::Regular);
        header.set_mode(0o444);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(0);
        header.set_size(content.len().try_into()?);
        header.set_cksum();
        archive.append(&header, content.as_slice())?;
    }
    archive.into_inner()?.flush()?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use bulkhead_machine::portable::archive::Archive;

    use super::*;

    #[test]
    fn what_is_packed_can_be_unpacked() {
        let files = [
            ("boot.list".to_owned(), b"domain a".to_vec()),
            ("big".to_owned(), vec![7; 100_000]),
        ];
        let mut bytes = Vec::new();
        pack(&mut bytes, &files).unwrap();
        assert_eq!(&bytes[257..263], b"ustar\0");
        let mut unpacked = Vec::new();
        for entry in tar::Archive::new(bytes.as_slice()).entries().unwrap() {
            let mut entry = entry.unwrap();
            let mut content = Vec::new();
            entry.read_to_end(&mut content).unwrap();
            unpacked.push((entry.path().unwrap().to_str().unwrap().to_owned(), content));
        }
        assert_eq!(unpacked, files);
    }

    #[test]
    fn the_hypervisor_finds_what_is_packed() {
        let longest = "n".repeat(NAME_LIMIT);
        let files = [
            ("boot.list".to_owned(), b"domain a".to_vec()),
            (longest.clone(), vec![7; 1000]),
        ];
        let mut bytes = Vec::new();
        pack(&mut bytes, &files).unwrap();
        let archive = Archive::new(&bytes).unwrap();
        assert_eq!(archive.file("boot.list"), Some(b"domain a".as_slice()));
        assert_eq!(archive.file(&longest), Some([7; 1000].as_slice()));
        assert_eq!(archive.files().count(), 2);
    }

    #[test]
    fn an_archive_repeats_byte_for_byte() {
        let files = [("boot.list".to_owned(), b"domain a".to_vec())];
        let (mut first, mut second) = (Vec::new(), Vec::new());
        pack(&mut first, &files).unwrap();
        pack(&mut second, &files).unwrap();
        assert_eq!(first, second);
    }

    #[test]
    fn names_that_are_too_long_or_taken_are_refused() {
        let long = [("n".repeat(NAME_LIMIT + 1), Vec::new())];
        assert!(pack(Vec::new(), &long).is_err());
        let longest = [("n".repeat(NAME_LIMIT), Vec::new())];
        assert!(pack(Vec::new(), &longest).is_ok());
        let twice = [("a".to_owned(), Vec::new()), ("a".to_owned(), Vec::new())];
        assert!(pack(Vec::new(), &twice).is_err());
    }
}
