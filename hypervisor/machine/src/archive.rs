//! The boot archive: the files that the boot loader put into memory with us.

use alloc::vec::Vec;

use bulkhead_machine::portable::archive::{Archive, Name};
use spin::Once;

static FILES: Once<Vec<(Name, &'static [u8])>> = Once::new();

/// Checks the archive and keeps the list of its files; says in the log what is in it. Needs the heap.
pub(crate) fn open(bytes: &'static [u8]) {
    if bytes.is_empty() {
        log::warn!("no boot archive: start the machine with one (-initrd)");
        return;
    }
    match Archive::new(bytes) {
        Ok(archive) => {
            let files: Vec<_> = archive.files().collect();
            log::info!("boot archive: {} files, {} KiB", files.len(), bytes.len() >> 10);
            for (name, data) in &files {
                log::debug!("  {name}: {} bytes", data.len());
            }
            FILES.call_once(|| files);
        }
        Err(error) => log::error!("the boot archive is not a tar archive: {error}"),
    }
}

/// The content of the file `name` of the boot archive.
pub(crate) fn file(name: &str) -> Option<&'static [u8]> {
    let files = FILES.get()?.iter();
    files
        .filter(|(held, _)| held == name)
        .map(|&(_, data)| data)
        .next()
}

/// Name and content of the file with this number, from 0 on.
pub(crate) fn nth(index: u32) -> Option<(&'static str, &'static [u8])> {
    let (name, data) = FILES.get()?.get(usize::try_from(index).ok()?)?;
    Some((name, data))
}
