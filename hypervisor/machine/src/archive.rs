//! The boot archive: the files that the boot loader put into memory with us.

use bulkhead_machine::portable::archive::Archive;
use spin::Once;

static ARCHIVE: Once<Archive<'static>> = Once::new();

/// Checks the archive and keeps it; says in the log what is in it.
pub(crate) fn open(bytes: &'static [u8]) {
    if bytes.is_empty() {
        log::warn!("no boot archive: start the machine with one (-initrd)");
        return;
    }
    match Archive::new(bytes) {
        Ok(archive) => {
            log::info!(
                "boot archive: {} files, {} KiB",
                archive.files().count(),
                bytes.len() >> 10
            );
            for (name, data) in archive.files() {
                log::debug!("  {name}: {} bytes", data.len());
            }
            ARCHIVE.call_once(|| archive);
        }
        Err(error) => log::error!("the boot archive is not a tar archive: {error}"),
    }
}

/// The content of the file `name` of the boot archive.
pub(crate) fn file(name: &str) -> Option<&'static [u8]> {
    ARCHIVE.get()?.file(name)
}
